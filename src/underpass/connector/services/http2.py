"""Connections to origins that may speak HTTP/2: `http2Origin` (docs: configuration §5).

Over TLS the handshake tells. In cleartext the first bytes do: an HTTP/2 origin begins with its
SETTINGS, and nothing is asked of one that does not (RFC 9113 §3.3, prior knowledge).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

from underpass.core.h2 import Limits
from underpass.core.http1client import Http1Client
from underpass.core.http2client import Http2Client, Http2Pool
from underpass.wire.turns import LoopTurn

__all__ = ["Http2Connection", "Negotiation", "NotHttp2Error"]

log = logging.getLogger("underpass.connector.origin")

H = TypeVar("H", bound=Http1Client)

STREAM_WINDOW: Final = 262144
"""Bytes of one response that its visitor has not taken, as for HTTP/1.1; grows with its pace."""

CONNECTION_WINDOW: Final = 64 * 1048576
"""The same, all responses on one connection: visitors that take nothing must not stop the
others."""

MAX_FRAME: Final = 16384
"""Bytes of an origin's frames: what every implementation sends by default."""


class NotHttp2Error(Exception):
    """The origin did not begin with SETTINGS. `answered`: it sent something else."""

    def __init__(self, answered: bool) -> None:
        super().__init__(answered)
        self.answered = answered


class Http2Connection(Http2Client, asyncio.BufferedProtocol):
    """The core's HTTP/2 client on a transport; among `connections` while it is open.

    `ready` is done once the origin's SETTINGS have come; it raises NotHttp2Error if none do.
    """

    def __init__(
        self, turn: LoopTurn, pool: Http2Pool, scheme: bytes, connections: set[asyncio.BaseProtocol]
    ) -> None:
        super().__init__(
            turn,
            pool,
            scheme,
            Limits(
                stream_window=STREAM_WINDOW,
                connection_window=CONNECTION_WINDOW,
                max_frame_size=MAX_FRAME,
            ),
        )
        self._connections = connections
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        super().connection_made(transport)

    def connected(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def disconnected(self, reason: Exception | None) -> None:
        self._connections.discard(self)
        if not self.ready.done():
            self.ready.set_exception(NotHttp2Error(self.bytes_received > 0))
            # Whoever gave up waiting does not want to hear of it.
            self.ready.exception()

    def going_away(self, code: int, debug: bytes) -> None:
        if code:
            text = debug[:200].decode("ascii", "replace")
            log.warning("an origin gave up its connection with HTTP/2 error %d: %r", code, text)

    def protocol_failure(self, code: int, why: str) -> None:
        if self.ready.done():
            log.warning("connection to an origin dropped: it broke the HTTP/2 protocol: %s", why)


class Negotiation(asyncio.BufferedProtocol, Generic[H]):
    """Waits for the handshake to say which protocol is spoken, and hands over to its codec."""

    def __init__(
        self,
        http2: Callable[[], Http2Connection],
        http1: Callable[[], H],
    ) -> None:
        self._http2 = http2
        self._http1 = http1
        self.codec: Http2Connection | H | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        session = transport.get_extra_info("ssl_object")
        is_http2 = session is not None and session.selected_alpn_protocol() == "h2"
        self.codec = self._http2() if is_http2 else self._http1()
        # uvloop's transports are not registered as asyncio's.
        cast("asyncio.Transport", transport).set_protocol(cast("asyncio.BaseProtocol", self.codec))
        self.codec.connection_made(cast("asyncio.Transport", transport))

    def get_buffer(self, sizehint: int) -> bytearray:
        raise RuntimeError("the negotiation is over")

    def buffer_updated(self, nbytes: int) -> None:
        raise RuntimeError("the negotiation is over")
