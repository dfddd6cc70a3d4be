"""The access log: one line for each request that has ended, as JSON or in the combined format.

Python runs twice for a request that is logged, and not at all without a log: once to keep what will
be gone when the response has begun, once to write the line.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec
from msgspec import Struct

from underpass.connector.observers import ObserverError, chained
from underpass.connector.options import AccessLogOptions
from underpass.connector.routes import PRIVATE_NETWORK, RouteInfo
from underpass.core.fields import Token
from underpass.core.tunnel import OriginExchange
from underpass.ops.line_writer import LineWriter
from underpass.wire.causes import Speaker, hop_of

__all__ = ["MAX_TEXT", "AccessLog", "AccessLogError"]

MAX_TEXT: Final = 2048
"""Characters of a path, a host or a user agent that are logged."""

CLIENT_CLOSED: Final = 499
"""The status, in the combined format, of a request whose visitor left before it was answered, as
nginx has it. JSON has none then."""

_log = logging.getLogger(__name__)

_KINDS: Final = ("http", "websocket", "stream")  # in the order of `Kind`

_KEPT: Final = tuple(
    int(token)
    for token in (
        *(Token.T_CF_CONNECTING_IP, Token.T_METHOD, Token.T_AUTHORITY, Token.T_HOST, Token.T_PATH),
        *(Token.T_CF_RAY, Token.T_REFERER, Token.T_USER_AGENT),
    )
)


class AccessLogError(ObserverError):
    """The access log cannot be written; the text says why."""


class _Line(Struct, omit_defaults=True):
    """What there is to say of a request. Names are those of the log where it has the same."""

    time: str
    client: str
    kind: str
    method: str
    host: str
    path: str
    status: int | None
    requestBytes: int  # noqa: N815 - as the log spells its fields
    responseBytes: int  # noqa: N815
    seconds: float
    connIndex: int  # noqa: N815
    firstByteSeconds: float | None = None  # noqa: N815
    cfRay: str = ""  # noqa: N815
    referer: str = ""
    userAgent: str = ""  # noqa: N815
    originService: str = ""  # noqa: N815
    ingressRule: int | None = None  # noqa: N815
    cause: str = ""
    hop: str = ""


class AccessLog:
    """Observes requests and writes their lines. Raises AccessLogError if it cannot be opened."""

    def __init__(self, options: AccessLogOptions) -> None:
        self._query = options.query
        self._render = _json if options.format == "json" else _combined
        self._target = options.target
        try:
            self._writer = LineWriter(options.target)
        except OSError as error:
            raise AccessLogError(
                f"cannot write the access log {options.target}: {error.strerror or error}"
            ) from None

    def observe(self, exchange: OriginExchange) -> None:
        """Called with each request before it is carried on."""
        kept = exchange.headers(_KEPT)
        exchange.on_over = chained(exchange.on_over, lambda ended: self._over(ended, kept))

    def flush(self) -> None:
        """Once a second."""
        self._writer.flush()
        lost, error = self._writer.take_losses()
        if lost:
            _log.warning(
                "Lines of the access log were lost",
                extra={"count": lost, "error": str(error) if error else "they could not be kept"},
            )

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _over(self, exchange: OriginExchange, kept: list[bytes | None]) -> None:
        client, method, authority, host, path, ray, referer, user_agent = kept
        first = exchange.first_byte_seconds
        # By position: it is made for every request.
        line = _Line(
            _clock.text(),
            _text(client),
            _KINDS[exchange.kind],
            _text(method),
            _text(authority or host),
            _text(self._shown(path)),
            exchange.status or None,
            exchange.request_bytes,
            exchange.response_bytes,
            int(exchange.seconds * 1e6) / 1e6,
            exchange.acceptor.conn_index,
            None if first is None else int(first * 1e6) / 1e6,
            _text(ray),
            _text(self._shown(referer)),
            _text(user_agent),
        )
        if exchange.route is not None:
            info: RouteInfo = exchange.route.info
            line.originService = info.service
            if info is not PRIVATE_NETWORK:
                line.ingressRule = info.rule
        if exchange.cause is not None:
            line.cause = exchange.cause
            line.hop = hop_of(exchange.cause, Speaker.CONNECTOR).value
        self._writer.write(self._render(line))

    def _shown(self, path: bytes | None) -> bytes | None:
        """A path, or a whole address, with as much of its query as is wanted."""
        if path is None or b"?" not in path or self._query == "keep":
            return path
        before, _, query = path.partition(b"?")
        if self._query == "omit":
            return before
        return before + b"?" + b"&".join(map(_masked, query[:MAX_TEXT].split(b"&")))


def _masked(pair: bytes) -> bytes:
    """A parameter of a query without its value."""
    name, equals, _ = pair.partition(b"=")
    return name + b"=*" if equals else name


def _text(value: bytes | None) -> str:
    """As text, bounded; what is not ASCII as escapes, because a terminal may obey it."""
    if value is None:
        return ""
    if len(value) <= MAX_TEXT and value.isascii():
        return value.decode()
    return value[:MAX_TEXT].decode("ascii", "backslashreplace")


class _Clock:
    """RFC 3339 with milliseconds. Each second is put into words once."""

    def __init__(self) -> None:
        self._second = -1.0
        self._words = ""

    def text(self) -> str:
        """The time now."""
        now = time.time()
        past = now - self._second
        if not 0 <= past < 1:
            self._second = now // 1
            self._words = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(now))
            past = now - self._second
        return self._words + _MILLISECONDS[int(past * 1000)]


_MILLISECONDS: Final = tuple(f"{number:03d}Z" for number in range(1000))
_clock = _Clock()
_encoder = msgspec.json.Encoder()


def _json(line: _Line) -> bytes:
    return _encoder.encode(line) + b"\n"


_MONTHS: Final = ("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec").split()  # noqa: SIM905


def _combined(line: _Line) -> bytes:
    """The format that log analysers know from Apache and nginx."""
    year, month, day, clock = line.time[:4], line.time[5:7], line.time[8:10], line.time[11:19]
    stamp = f"{day}/{_MONTHS[int(month) - 1]}/{year}:{clock} +0000"
    status = line.status or (CLIENT_CLOSED if line.cause == "reset_by_client" else 0)
    client, method, path, referer, user_agent = (
        _quoted(text) or "-"
        for text in (line.client, line.method, line.path, line.referer, line.userAgent)
    )
    return (
        f'{client} - - [{stamp}] "{method} {path} HTTP/2.0" {status:03d} {line.responseBytes} '
        f'"{referer}" "{user_agent}"\n'
    ).encode("ascii")


def _quoted(text: str) -> str:
    """For inside quotation marks: those, and all that is not printable, as Apache escapes them."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(
        char if " " <= char <= "~" and char not in '"\\' else f"\\x{ord(char):02x}" for char in text
    )
