"""The edge's access log: one line for each visitor's request that has ended.

Python runs twice for a request that is logged, and not at all without a log: once to keep what will
be gone when the response has begun, once to write the line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from underpass.core.fields import Token
from underpass.core.tunnel import VisitorExchange
from underpass.edge.errors import AccessLogError
from underpass.ops.access_log import AccessLogFile, clock, seconds, text
from underpass.ops.access_log_options import AccessLogOptions
from underpass.wire.causes import Speaker, hop_of

__all__ = ["AccessLog"]

_KEPT: Final = tuple(
    int(token)
    for token in (
        *(Token.T_METHOD, Token.T_AUTHORITY, Token.T_HOST, Token.T_PATH),
        *(Token.T_REFERER, Token.T_USER_AGENT),
    )
)


class _Line(Struct, omit_defaults=True):
    """What there is to say of a request. Names are the connector's where it says the same."""

    time: str
    client: str
    scheme: str
    protocol: str
    method: str
    host: str
    path: str
    status: int | None
    requestBytes: int  # noqa: N815 - as the log spells its fields
    responseBytes: int  # noqa: N815
    seconds: float
    firstByteSeconds: float | None  # noqa: N815
    cfRay: str  # noqa: N815
    referer: str = ""
    userAgent: str = ""  # noqa: N815
    tunnel: str = ""
    connector: str = ""
    connIndex: int | None = None  # noqa: N815
    attempts: int = 1
    cause: str = ""
    hop: str = ""


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

    def observing(self, scheme: str, protocol: str, then: Callable[..., None]) -> Any:
        """`then`, with every exchange that it is called with observed: those of one connection."""

        def observe(exchange: VisitorExchange, *more: Any) -> None:
            # One that is sent again, or fails after it was routed, is the same request.
            if exchange.on_over is None:
                kept = exchange.headers(_KEPT)
                exchange.on_over = lambda ended: self._over(ended, scheme, protocol, kept)
            then(exchange, *more)

        return observe

    def note_stream(self, exchange: VisitorExchange, hostname: str) -> None:
        """A visitor's TCP connection has ended, which was carried as it is to `hostname`."""
        host = hostname.encode("ascii")
        self._over(exchange, "tcp", "tcp", [b"", host, None, b"", None, None])

    def _over(
        self, exchange: VisitorExchange, scheme: str, protocol: str, kept: list[bytes | None]
    ) -> None:
        method, authority, host, path, referer, user_agent = kept
        shown = self._file.shown
        first = exchange.first_byte_seconds
        # By position: it is made for every request.
        line = _Line(
            clock(),
            text(exchange.visitor),
            scheme,
            protocol,
            text(method),
            text(authority or host),
            text(shown(path)),
            exchange.status or None,
            exchange.request_bytes,
            exchange.response_bytes,
            seconds(exchange.seconds),
            None if first is None else seconds(first),
            text(exchange.ray),
            text(shown(referer)),
            text(user_agent),
        )
        link = exchange.context
        if link is not None:
            line.tunnel = str(link.tunnel_id)
        if link is not None and link.connector_id is not None:
            line.connector = str(link.connector_id)
            line.connIndex = link.conn_index
            line.attempts = exchange.attempts
        if exchange.cause is not None:
            line.cause = exchange.cause
            speaker = Speaker.CONNECTOR if exchange.told else Speaker.EDGE
            line.hop = hop_of(exchange.cause, speaker).value
        self._file.write(line)
