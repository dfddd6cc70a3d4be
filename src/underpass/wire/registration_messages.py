"""What a connector and an edge tell each other when a connection is registered.

The values, and their layouts in the RegistrationServer interface of tunnelrpc.capnp. Docs: wire
protocol §3.3 to §3.6. The calls that carry them are in :mod:`underpass.wire.registration`.

Decoders raise MalformedMessage for bytes that are no Cap'n Proto, and InvalidField for a field
whose content is out of its bounds.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr

from underpass.wire.capnp import StructReader
from underpass.wire.capnp_builder import StructBuilder
from underpass.wire.rpc_messages import Content
from underpass.wire.secret import Secret

REGISTRATION_SERVER: Final = 0xF71695EC7FE85497
"""Interface id of RegistrationServer."""
REGISTER_CONNECTION: Final = 0
UNREGISTER_CONNECTION: Final = 1
UPDATE_LOCAL_CONFIGURATION: Final = 2

DUPLICATE_CONNECTION: Final = "EDUPCONN"
"""The cause of refusing a connection whose index the same connector has registered already."""
UNAUTHORIZED: Final = "Unauthorized"
"""What a cause contains if the credentials are not accepted."""

MAX_FEATURES: Final = 64
"""Most features in a registration; a connector sends five to eight. The edge keeps them."""
MAX_NAME_CHARACTERS: Final = 256
"""Longest account tag, feature, version, architecture or location. All are short identifiers that
are kept, logged and used as metric labels."""
MAX_SECRET_BYTES: Final = 1024
"""Longest tunnel secret; the usual one has 32 bytes."""
MAX_CAUSE_CHARACTERS: Final = 1024
"""Longest cause kept of a refusal: it ends in a log line."""

_MAX_UINT8: Final = 255
_UUID_BYTES: Final = 16
_RESULT_ERROR: Final = 0
_RESULT_DETAILS: Final = 1

IPAddress: TypeAlias = IPv4Address | IPv6Address


class InvalidField(ValueError):  # noqa: N818  (names what is wrong)
    """A field of a well-formed message has content that it may not have."""


class RegistrationRefused(Exception):  # noqa: N818  (an answer of the edge, not a malfunction)
    """The edge does not register the connection; `cause` is its reason in words.

    `retry_after_ns` (nanoseconds) and `should_retry` are the edge's advice.
    """

    def __init__(self, cause: str, retry_after_ns: int = 0, should_retry: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.retry_after_ns = retry_after_ns
        self.should_retry = should_retry

    @property
    def is_duplicate(self) -> bool:
        """Whether the edge holds a connection with this index already."""
        return self.cause == DUPLICATE_CONNECTION

    @property
    def is_unauthorized(self) -> bool:
        """Whether the edge does not accept the credentials."""
        return UNAUTHORIZED in self.cause


class TunnelAuth(Struct, frozen=True):
    """What proves the right to run a tunnel. The secret is never printed."""

    account_tag: str
    tunnel_secret: bytes

    def __post_init__(self) -> None:
        force_setattr(self, "tunnel_secret", Secret(self.tunnel_secret))


class ClientInfo(Struct, frozen=True):
    """The connector process: `client_id` is its random id, `arch` is like ``linux_amd64``."""

    client_id: uuid.UUID
    features: tuple[str, ...]
    version: str
    arch: str


class ConnectionOptions(Struct, frozen=True):
    """About this attempt to connect.

    `origin_local_ip` is the local address of the connector's socket, `num_previous_attempts` its
    count of failures in a row: above 255 it is sent as 255, the most that the field holds.
    """

    client: ClientInfo
    origin_local_ip: IPAddress | None = None
    replace_existing: bool = False
    compression_quality: int = 0
    num_previous_attempts: int = 0


class RegistrationRequest(Struct, frozen=True):
    """The parameters of registerConnection. `conn_index` (0 to 255) numbers the connections of
    one connector process."""

    auth: TunnelAuth
    tunnel_id: uuid.UUID
    conn_index: int
    options: ConnectionOptions


class ConnectionDetails(Struct, frozen=True):
    """The edge's answer: its id for the connection, and the name of the place where it ends."""

    connection_id: uuid.UUID
    location_name: str
    tunnel_is_remotely_managed: bool


def registration_params(request: RegistrationRequest) -> Content:
    """`request` as the parameters of registerConnection."""

    def fill(params: StructBuilder) -> None:
        params.set_u8(0, request.conn_index)
        auth = params.init_struct(0, 0, 2)
        auth.set_text(0, request.auth.account_tag)
        auth.set_data(1, request.auth.tunnel_secret)
        params.set_data(1, request.tunnel_id.bytes)
        _fill_options(params.init_struct(2, 1, 2), request.options)

    return Content(1, 3, fill)


def _fill_options(options: StructBuilder, value: ConnectionOptions) -> None:
    options.set_bit(0, value.replace_existing)
    options.set_u8(1, value.compression_quality)
    options.set_u8(2, min(value.num_previous_attempts, _MAX_UINT8))
    client = options.init_struct(0, 0, 4)
    client.set_data(0, value.client.client_id.bytes)
    client.set_text_list(1, value.client.features)
    client.set_text(2, value.client.version)
    client.set_text(3, value.client.arch)
    options.set_data(1, _address_bytes(value.origin_local_ip))


def decode_registration_params(params: StructReader) -> RegistrationRequest:
    """The parameters of a received registerConnection."""
    auth = params.struct(0)
    options = params.struct(2)
    return RegistrationRequest(
        auth=TunnelAuth(
            account_tag=_name("auth.accountTag", auth.text(0)),
            tunnel_secret=_secret(auth.data(1)),
        ),
        tunnel_id=_uuid("tunnelId", params.data(1)),
        conn_index=params.u8(0),
        options=ConnectionOptions(
            client=_decode_client(options.struct(0)),
            origin_local_ip=_address("options.originLocalIp", options.data(1)),
            replace_existing=options.bit(0),
            compression_quality=options.u8(1),
            num_previous_attempts=options.u8(2),
        ),
    )


def _decode_client(client: StructReader) -> ClientInfo:
    features = client.text_list(1)
    if len(features) > MAX_FEATURES:
        raise InvalidField(f"client.features has {len(features)} entries, more than {MAX_FEATURES}")
    return ClientInfo(
        client_id=_uuid("client.clientId", client.data(0)),
        features=tuple(_name("client.features", feature) for feature in features),
        version=_name("client.version", client.text(2)),
        arch=_name("client.arch", client.text(3)),
    )


def registration_results(details: ConnectionDetails) -> Content:
    """`details` as the results of registerConnection."""

    def fill(response: StructBuilder) -> None:
        response.set_u16(0, _RESULT_DETAILS)
        result = response.init_struct(0, 1, 2)
        result.set_bit(0, details.tunnel_is_remotely_managed)
        result.set_data(0, details.connection_id.bytes)
        result.set_text(1, details.location_name)

    return _response(fill)


def refusal_results(refused: RegistrationRefused) -> Content:
    """`refused` as the results of registerConnection."""

    def fill(response: StructBuilder) -> None:
        response.set_u16(0, _RESULT_ERROR)
        error = response.init_struct(0, 2, 1)
        error.set_i64(0, refused.retry_after_ns)
        error.set_bit(64, refused.should_retry)
        error.set_text(0, refused.cause)

    return _response(fill)


def _response(fill_response: Callable[[StructBuilder], None]) -> Content:
    return Content(0, 1, lambda results: fill_response(results.init_struct(0, 1, 1)))


def decode_registration_results(results: StructReader) -> ConnectionDetails:
    """The results of a registerConnection. Raises RegistrationRefused if they are a refusal."""
    response = results.struct(0)
    which = response.u16(0)
    result = response.struct(0)
    if which == _RESULT_ERROR:
        raise RegistrationRefused(
            result.text(0)[:MAX_CAUSE_CHARACTERS],
            retry_after_ns=result.i64(0),
            should_retry=result.bit(64),
        )
    if which != _RESULT_DETAILS:
        raise InvalidField(f"the answer to a registration is of the unknown kind {which}")
    return ConnectionDetails(
        connection_id=_uuid("connectionDetails.uuid", result.data(0)),
        location_name=_name("connectionDetails.locationName", result.text(1)),
        tunnel_is_remotely_managed=result.bit(0),
    )


def local_configuration_params(config: bytes) -> Content:
    """`config`, a JSON document, as the parameters of updateLocalConfiguration."""
    return Content(0, 1, lambda params: params.set_data(0, config))


def decode_local_configuration_params(params: StructReader) -> bytes:
    """The JSON document of a received updateLocalConfiguration, not parsed."""
    return params.data(0)


def _name(field: str, text: str) -> str:
    if len(text) > MAX_NAME_CHARACTERS:
        raise InvalidField(f"{field} has {len(text)} characters, more than {MAX_NAME_CHARACTERS}")
    return text


def _secret(secret: bytes) -> bytes:
    if len(secret) > MAX_SECRET_BYTES:
        raise InvalidField(
            f"auth.tunnelSecret has {len(secret)} bytes, more than {MAX_SECRET_BYTES}"
        )
    return secret


def _uuid(field: str, data: bytes) -> uuid.UUID:
    if len(data) != _UUID_BYTES:
        raise InvalidField(f"{field} has {len(data)} bytes; a UUID has {_UUID_BYTES}")
    return uuid.UUID(bytes=data)


def _address_bytes(address: IPAddress | None) -> bytes:
    """16 bytes, with IPv4 in its IPv6-mapped form, which is what Go calls an IP address."""
    if isinstance(address, IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed if address is not None else b""


def _address(field: str, data: bytes) -> IPAddress | None:
    if not data:
        return None
    if len(data) == 4:
        return IPv4Address(data)
    if len(data) != 16:
        raise InvalidField(f"{field} has {len(data)} bytes; an address has 4 or 16")
    address = IPv6Address(data)
    return address.ipv4_mapped or address
