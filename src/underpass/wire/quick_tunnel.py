"""Quick tunnels: what the service is asked and answers, without the HTTP around it.

A POST without a body to ``<service>/tunnel`` creates a tunnel with a hostname of the service's
choice. Docs: API §8.
"""

from __future__ import annotations

import base64
import re
import uuid
from typing import Final

import msgspec
from msgspec import Struct

from underpass.wire.credentials import Credentials
from underpass.wire.printable import printable

QUICK_TUNNEL_PATH: Final = "/tunnel"
"""What is appended to the service's address."""
DEFAULT_QUICK_SERVICE: Final = "https://api.trycloudflare.com"
CONTENT_TYPE: Final = "application/json"
"""Content type of the request, though it has no body, and of the answer."""
REQUEST_TIMEOUT: Final = 15.0
"""Seconds for the whole request: cloudflared's."""
MAX_RESPONSE_BYTES: Final = 64 * 1024
"""Largest answer taken in; real ones are below 1 KiB."""

_MAX_ERRORS_SHOWN: Final = 3
_HOSTNAME: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)
_PORT: Final = re.compile(r":[0-9]{1,5}\Z")


class QuickTunnelError(ValueError):
    """The service created no quick tunnel, or its answer can't be understood."""


class QuickTunnel(Struct, frozen=True):
    """A quick tunnel just created. `hostname` may have a port, but no scheme."""

    credentials: Credentials
    hostname: str
    name: str = ""

    @property
    def url(self) -> str:
        """Where visitors find it."""
        return f"https://{self.hostname}"


class _Error(Struct, frozen=True):
    code: int | str = 0
    message: str = ""


class _Result(Struct, frozen=True):
    id: str
    name: str = ""
    hostname: str = ""
    account_tag: str = ""
    secret: str = ""


class _Response(Struct, frozen=True):
    success: bool = False
    result: _Result | None = None
    errors: list[_Error] | None = None


def encode_quick_tunnel(tunnel: QuickTunnel) -> bytes:
    """The service's answer when it has created `tunnel`."""
    credentials = tunnel.credentials
    result = _Result(
        id=str(credentials.tunnel_id),
        name=tunnel.name,
        hostname=tunnel.hostname,
        account_tag=credentials.account_tag,
        secret=base64.b64encode(credentials.tunnel_secret).decode(),
    )
    return msgspec.json.encode(_Response(success=True, result=result, errors=[]))


def encode_quick_tunnel_refusal(code: int, message: str) -> bytes:
    """The service's answer when it creates none. `message` is shown to the user."""
    return msgspec.json.encode(_Response(errors=[_Error(code, message)]))


def decode_quick_tunnel(status: int, body: bytes) -> QuickTunnel:
    """The quick tunnel in a service's answer, given its HTTP status and its body.

    Neither the status nor `success` decides, as with cloudflared: there is a tunnel or there is
    none. Raises QuickTunnelError.
    """
    if len(body) > MAX_RESPONSE_BYTES:
        raise _not_understood(status, f"it is longer than {MAX_RESPONSE_BYTES} bytes")
    try:
        response = msgspec.json.decode(body, type=_Response)
    except (ValueError, RecursionError) as error:
        raise _not_understood(status, str(error)) from error
    if response.errors or response.result is None:
        raise QuickTunnelError(_refusal(status, response.errors or []))
    result = response.result
    return QuickTunnel(
        credentials=Credentials(
            account_tag=_present(status, "account_tag", result.account_tag),
            tunnel_secret=_secret(status, result.secret),
            tunnel_id=_tunnel_id(status, result.id),
        ),
        hostname=_hostname(status, result.hostname),
        name=result.name,
    )


def _refusal(status: int, errors: list[_Error]) -> str:
    reasons = "; ".join(
        f"{printable(error.message) or 'no reason given'} (code {printable(str(error.code))})"
        for error in errors[:_MAX_ERRORS_SHOWN]
    )
    return (
        f"the quick tunnel service created no tunnel (HTTP status {status}): "
        f"{reasons or 'no reason given'}; try again later, or create a named tunnel"
    )


def _not_understood(status: int, reason: str) -> QuickTunnelError:
    return QuickTunnelError(
        f"the answer of the quick tunnel service (HTTP status {status}) can't be understood: "
        f"{reason}; check the address given with --quick-service"
    )


def _present(status: int, key: str, value: str) -> str:
    if not value:
        raise _not_understood(status, f"`result.{key}` is missing or empty")
    return value


def _secret(status: int, text: str) -> bytes:
    _present(status, "secret", text)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _not_understood(status, "`result.secret` is not base64") from error


def _tunnel_id(status: int, text: str) -> uuid.UUID:
    _present(status, "id", text)
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise _not_understood(status, "`result.id` is not a UUID") from error


def _hostname(status: int, text: str) -> str:
    hostname = _present(status, "hostname", text).removeprefix("https://")
    if _HOSTNAME.fullmatch(_PORT.sub("", hostname)) is None:
        raise _not_understood(status, "`result.hostname` is not a hostname")
    return hostname
