"""Log streaming through the tunnel: what the two ends say to each other on the WebSocket of `/logs`
(docs: observability §4), and the token that opens it (docs: API §1).

Every message is one JSON object in a text frame.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

__all__ = [
    "MAX_CLIENT_MESSAGE",
    "MAX_TOKEN",
    "Close",
    "Command",
    "InvalidCommandError",
    "InvalidFiltersError",
    "LogEvent",
    "LogFilters",
    "LogLevel",
    "ManagementClaims",
    "ManagementTokenError",
    "StreamedLog",
    "decode_logs",
    "encode_log",
    "encode_start",
    "parse_management_token",
    "read_command",
]

MAX_CLIENT_MESSAGE: Final = 32 * 1024
"""Bytes of a message from a client; its filters are a hundred."""

MAX_TOKEN: Final = 8 * 1024
"""Characters of a token."""

FED_ISSUER: Final = "fed-tunnelstore"


class Close(enum.IntEnum):
    """Codes that `/logs` is closed with, beside those of RFC 6455."""

    INVALID_COMMAND = 4001
    SESSION_LIMIT = 4002
    IDLE = 4003


class LogLevel(enum.IntEnum):
    """The smallest level a client wants, in order. The number is never on the wire."""

    debug = 0
    info = 1
    warn = 2
    error = 3


class LogEvent(enum.IntEnum):
    """What a record is about: the number is the field `event` of log files."""

    cloudflared = 0
    http = 1
    tcp = 2
    udp = 3


class LogFilters(Struct, frozen=True):
    """Which records a client wants.

    `events` empty means all kinds. `sampling` is the share of them, with 0 and 1 both meaning all.
    """

    level: LogLevel = LogLevel.debug
    events: tuple[LogEvent, ...] = ()
    sampling: float = 1.0


class Command(enum.Enum):
    """What a client asks for."""

    START = "start_streaming"
    STOP = "stop_streaming"


class InvalidCommandError(ValueError):
    """A client's message is none."""


class InvalidFiltersError(ValueError):
    """A client asks for streaming with filters that make no sense."""


class StreamedLog(Struct, frozen=True):
    """A record as a client gets it."""

    time: str
    level: LogLevel
    event: LogEvent
    message: str
    fields: Mapping[str, Any]


class _Filters(Struct):
    events: list[str] | None = None
    level: str | None = None
    sampling: float | None = None


class _Start(Struct):
    filters: _Filters | None = None


class _Typed(Struct):
    type: str = ""


def read_command(message: bytes) -> tuple[Command, LogFilters | None]:
    """What a client's message asks for; filters come with `START` only.

    Raises InvalidCommandError, or InvalidFiltersError.
    """
    try:
        kind = msgspec.json.decode(message, type=_Typed).type
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidCommandError("a message is not a JSON object") from None
    if not kind:
        raise InvalidCommandError("invalid message type was provided")
    if kind == Command.STOP.value:
        return Command.STOP, None
    if kind != Command.START.value:
        raise InvalidCommandError(f"invalid client message type was provided: {kind}")
    try:
        return Command.START, _filters(msgspec.json.decode(message, type=_Start).filters)
    except (msgspec.MsgspecError, KeyError) as error:
        raise InvalidFiltersError(str(error)) from None


def _filters(given: _Filters | None) -> LogFilters:
    if given is None:
        return LogFilters()
    return LogFilters(
        LogLevel[given.level] if given.level is not None else LogLevel.debug,
        tuple(dict.fromkeys(LogEvent[event] for event in given.events or ())),
        min(max(1.0 if given.sampling is None else given.sampling, 0.0), 1.0),
    )


def encode_start(filters: LogFilters) -> bytes:
    """The message that asks for streaming; level and sampling are always in it."""
    wanted: dict[str, Any] = {"level": filters.level.name, "sampling": filters.sampling}
    if filters.events:
        wanted["events"] = [event.name for event in filters.events]
    return msgspec.json.encode({"type": Command.START.value, "filters": wanted})


def encode_log(log: StreamedLog) -> bytes:
    """The message that carries one record; what is the default is left out."""
    return msgspec.json.encode({"type": "logs", "logs": [log_document(log)]}, enc_hook=str)


def log_document(log: StreamedLog) -> dict[str, Any]:
    """A record as a JSON object."""
    document: dict[str, Any] = {"time": log.time}
    if log.level:
        document["level"] = log.level.name
    if log.message:
        document["message"] = log.message
    if log.event:
        document["event"] = log.event.name
    if log.fields:
        document["fields"] = dict(log.fields)
    return document


class _Log(Struct):
    time: str = ""
    level: str = "debug"
    message: str = ""
    event: str = "cloudflared"
    fields: dict[str, Any] = {}


class _Logs(Struct):
    type: str = ""
    logs: list[_Log] = []


def decode_logs(message: bytes) -> Sequence[StreamedLog]:
    """The records in a server's message; none for a message about something else.

    Raises ValueError for what is no message of a server.
    """
    try:
        found = msgspec.json.decode(message, type=_Logs)
        if not found.type:
            raise ValueError("invalid message type was provided")
        if found.type != "logs":
            return ()
        return [
            StreamedLog(log.time, LogLevel[log.level], LogEvent[log.event], log.message, log.fields)
            for log in found.logs
        ]
    except (msgspec.MsgspecError, KeyError, RecursionError) as error:
        raise ValueError(f"a message cannot be understood: {error}") from None


class ManagementTokenError(ValueError):
    """A word is no management token."""


class ManagementClaims(Struct, frozen=True):
    """What a management token says; nobody has verified it."""

    tunnel_id: str
    account_tag: str
    actor_id: str
    issuer: str

    @property
    def is_fed(self) -> bool:
        return self.issuer == FED_ISSUER


class _Header(Struct):
    alg: str


class _Tunnel(Struct):
    id: str
    account_tag: str


class _Actor(Struct):
    id: str
    support: bool = False


class _Claims(Struct):
    tun: _Tunnel
    actor: _Actor
    iss: str = ""


def parse_management_token(token: str) -> ManagementClaims:
    """Read a token **without verifying its signature**, which only its issuer's key could.

    Raises ManagementTokenError.
    """
    parts = token.split(".")
    if len(token) > MAX_TOKEN or len(parts) != 3 or not parts[2]:
        raise ManagementTokenError("the management token is not a signed JSON Web Token")
    try:
        header = msgspec.json.decode(_base64url(parts[0]), type=_Header)
        claims = msgspec.json.decode(_base64url(parts[1]), type=_Claims)
        _base64url(parts[2])
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise ManagementTokenError(f"the management token is malformed: {error}") from None
    if header.alg != "ES256":
        raise ManagementTokenError("the management token is not signed with ES256")
    if not (claims.tun.id and claims.tun.account_tag and claims.actor.id):
        raise ManagementTokenError("the management token names no tunnel, account or actor")
    return ManagementClaims(claims.tun.id, claims.tun.account_tag, claims.actor.id, claims.iss)


def _base64url(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
