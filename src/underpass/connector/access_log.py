"""The access log: one line for each request that has ended, as JSON or in the combined format.

Python runs twice for a request that is logged, and not at all without a log: once to keep what will
be gone when the response has begun, once to write the line.
"""

from __future__ import annotations

from typing import ClassVar, Final

from msgspec import Struct

from underpass.connector.observers import ObserverError, chained
from underpass.connector.routes import PRIVATE_NETWORK, RouteInfo
from underpass.core.fields import Token
from underpass.core.tunnel import OriginExchange
from underpass.ops.access_log import AccessLogFile, clock, seconds, text
from underpass.ops.access_log_options import AccessLogOptions
from underpass.wire.causes import Speaker, hop_of

__all__ = ["AccessLog", "AccessLogError"]

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

    protocol: ClassVar[str] = "HTTP/2.0"
    """Of the link: what the visitor spoke is the edge's to say."""


class AccessLog:
    """Observes requests and writes their lines. Raises AccessLogError if it cannot be opened."""

    def __init__(self, options: AccessLogOptions) -> None:
        try:
            self._file = AccessLogFile(options)
        except ValueError as error:
            raise AccessLogError(str(error)) from None
        self.flush = self._file.flush
        """Once a second."""
        self.close = self._file.close
        """Write what is left."""

    def observe(self, exchange: OriginExchange) -> None:
        """Called with each request before it is carried on."""
        kept = exchange.headers(_KEPT)
        exchange.on_over = chained(exchange.on_over, lambda ended: self._over(ended, kept))

    def _over(self, exchange: OriginExchange, kept: list[bytes | None]) -> None:
        client, method, authority, host, path, ray, referer, user_agent = kept
        shown = self._file.shown
        first = exchange.first_byte_seconds
        # By position: it is made for every request.
        line = _Line(
            clock(),
            text(client),
            _KINDS[exchange.kind],
            text(method),
            text(authority or host),
            text(shown(path)),
            exchange.status or None,
            exchange.request_bytes,
            exchange.response_bytes,
            seconds(exchange.seconds),
            exchange.acceptor.conn_index,
            None if first is None else seconds(first),
            text(ray),
            text(shown(referer)),
            text(user_agent),
        )
        if exchange.route is not None:
            info: RouteInfo = exchange.route.info
            line.originService = info.service
            if info is not PRIVATE_NETWORK:
                line.ingressRule = info.rule
        if exchange.cause is not None:
            line.cause = exchange.cause
            line.hop = hop_of(exchange.cause, Speaker.CONNECTOR).value
        self._file.write(line)
