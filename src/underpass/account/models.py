"""What the API answers (docs: API §3 to §6): fields are the API's, unknown ones are passed over.

`null` and an absent field are the same, as they are to cloudflared; a list that was absent is None,
because it is printed differently from an empty one.
"""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import force_setattr

from underpass.account.moment import NEVER, Moment

__all__ = [
    "NO_ID",
    "Address",
    "Connection",
    "Connector",
    "CreatedTunnel",
    "DnsRoute",
    "IpRoute",
    "LoadBalancerRoute",
    "Network",
    "Pool",
    "PoolTarget",
    "Trouble",
    "Tunnel",
    "VirtualNetwork",
    "convert",
    "parse_address",
    "parse_network",
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NO_ID: Final = uuid.UUID(int=0)

T = TypeVar("T")


class Connection(Struct, frozen=True):
    """A link of a connector, as the account sees it. `colo_name` is the edge's place, `origin_ip`
    the connector's address or empty."""

    colo_name: str = ""
    id: uuid.UUID = NO_ID
    is_pending_reconnect: bool = False
    origin_ip: str = ""
    opened_at: Moment = NEVER
    is_draining: bool = False
    """It gets no new requests. Said by edges of our own."""

    def __post_init__(self) -> None:
        if self.origin_ip:
            force_setattr(self, "origin_ip", str(parse_address(self.origin_ip)))


class Tunnel(Struct, frozen=True):
    """A tunnel of the account."""

    id: uuid.UUID = NO_ID
    name: str = ""
    created_at: Moment = NEVER
    deleted_at: Moment = NEVER
    connections: list[Connection] | None = None


class CreatedTunnel(Tunnel, frozen=True):
    """A tunnel just made, with the token to run it."""

    token: str = ""


class Connector(Struct, frozen=True):
    """A process that runs a tunnel: the API calls it a client."""

    id: uuid.UUID = NO_ID
    features: list[str] | None = None
    version: str = ""
    arch: str = ""
    run_at: Moment = NEVER
    connections: list[Connection] | None = field(default=None, name="conns")


class DnsRoute(Struct, frozen=True):
    """What became of a DNS route: `cname` is new, updated or unchanged."""

    cname: str = ""
    name: str = ""


class LoadBalancerRoute(Struct, frozen=True):
    """What became of a load balancer and its pool: new, updated or unchanged, each."""

    load_balancer: str = ""
    pool: str = ""


class PoolTarget(Struct, frozen=True):
    """A tunnel that a hostname leads to, and its share. `connections` are its links, `draining`
    those of them that get nothing new."""

    tunnel_id: uuid.UUID = NO_ID
    weight: int = 1
    tunnel_name: str = ""
    connections: int = 0
    draining: int = 0


class Trouble(Struct, frozen=True):
    """A connector that could not reach its application."""

    client_id: uuid.UUID = NO_ID
    failures: int = 0
    is_spared: bool = False


class Pool(Struct, frozen=True):
    """A hostname and all tunnels that it leads to, at an edge of our own. `sticky`: none, cookie or
    address."""

    hostname: str = ""
    revision: int = 0
    pool: str = ""
    sticky: str = "none"
    targets: list[PoolTarget] = []
    trouble: list[Trouble] = []


class IpRoute(Struct, frozen=True):
    """A private network, in CIDR form, that is reached through a tunnel."""

    network: str
    id: uuid.UUID = NO_ID
    tunnel_id: uuid.UUID = NO_ID
    virtual_network_id: uuid.UUID | None = None
    comment: str = ""
    created_at: Moment = NEVER
    deleted_at: Moment = NEVER
    tunnel_name: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "network", str(parse_network(self.network)))


class VirtualNetwork(Struct, frozen=True):
    """A space of private addresses of its own."""

    id: uuid.UUID = NO_ID
    comment: str = ""
    name: str = ""
    is_default_network: bool = False
    created_at: Moment = NEVER
    deleted_at: Moment = NEVER


def convert(value: Any, kind: type[T]) -> T:
    """JSON that was decoded already, as a model. Raises msgspec.ValidationError."""
    return msgspec.convert(_without_nulls(value), kind, dec_hook=_decode)


def parse_network(text: str) -> Network:
    """Read a network in CIDR form, whatever its host bits say. Raises ValueError."""
    _, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or "%" in text:
        raise ValueError(f"{text!r} is not a network like 10.0.0.0/8 or 2001:db8::/32")
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network like 10.0.0.0/8 or 2001:db8::/32") from None


def parse_address(text: str) -> Address:
    """Read an IP address. Raises ValueError."""
    try:
        if "%" in text:
            raise ValueError
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address like 10.0.0.1 or 2001:db8::1") from None
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def _decode(kind: Any, value: Any) -> Moment:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where a time is expected")
    return Moment.parse(value)
