"""`tcp://`, `ssh://`, `rdp://`, `smb://` and their like: bytes over the WebSocket framing that
visitors' clients speak (docs: wire protocol §2.7)."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import StreamService
from underpass.connector.services.handshake import MALFORMED_KEY, Acknowledgement, acknowledge
from underpass.core.fields import Token
from underpass.core.tunnel import OriginExchange
from underpass.core.websocket import WebSocketStream
from underpass.wire.turns import LoopTurn

__all__ = ["StreamOrigin"]

PING_TICKS: Final = 54
"""Ticks between pings to idle visitors; cloudflared's own interval, below the usual minute after
which proxies forget a connection."""

MAX_STREAMS: Final = 10000
"""Streams of one rule at once."""


class StreamConnection(WebSocketStream, asyncio.BufferedProtocol):
    """The core's framed byte stream on a transport, for one exchange."""

    def __init__(
        self,
        turn: LoopTurn,
        exchange: OriginExchange,
        acknowledgement: Acknowledgement,
        open_streams: set[StreamConnection],
    ) -> None:
        super().__init__(turn)
        self._exchange = exchange
        self._acknowledgement = acknowledgement
        self._open_streams = open_streams
        open_streams.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # At once: what the origin says first must find the exchange in place.
        self.attach(self._exchange, self._acknowledgement.fields, self._acknowledgement.status)

    def connection_lost(self, reason: Exception | None) -> None:
        self._open_streams.discard(self)
        super().connection_lost(reason)


class StreamOrigin:
    """One address that speaks no HTTP."""

    def __init__(self, turn: LoopTurn, service: StreamService, settings: OriginRequest) -> None:
        self._turn = turn
        self._service = service
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._dials: set[asyncio.Task[None]] = set()
        self._open_streams: set[StreamConnection] = set()
        self._ticks = 0
        turn.on_tick.add(self._tick)

    def forward(self, exchange: OriginExchange) -> None:
        """Connect; the visitor is answered once that has worked."""
        if len(self._dials) + len(self._open_streams) >= MAX_STREAMS:
            exchange.context = f"there are {MAX_STREAMS} streams to {self._service} already"
            exchange.fail(502, "too_many_streams")
            return
        try:
            acknowledgement = acknowledge(exchange.header(Token.T_SEC_WEBSOCKET_KEY))
        except ValueError:
            exchange.respond(*MALFORMED_KEY)
            return
        task = self._loop.create_task(self._connect(exchange, acknowledgement))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    @property
    def is_busy(self) -> bool:
        """Whether there are streams, those being connected included."""
        return bool(self._dials or self._open_streams)

    def close(self) -> None:
        """Give up every stream."""
        self._turn.on_tick.discard(self._tick)
        for dial in self._dials:
            dial.cancel()
        for stream in tuple(self._open_streams):
            stream.abort()

    def _tick(self) -> None:
        self._ticks += 1
        if self._ticks % PING_TICKS == 0:
            for stream in tuple(self._open_streams):
                stream.ping()

    async def _connect(self, exchange: OriginExchange, acknowledgement: Acknowledgement) -> None:
        service = self._service
        timeout = self._settings.connect_timeout or None
        if not service.port:
            exchange.context = f"{service} has no port, and its scheme has none of its own"
            exchange.fail(502, "dial")
            return
        try:
            await asyncio.wait_for(
                self._loop.create_connection(
                    lambda: StreamConnection(
                        self._turn, exchange, acknowledgement, self._open_streams
                    ),
                    service.host,
                    service.port,
                ),
                timeout,
            )
        except asyncio.TimeoutError:
            exchange.context = f"{service} did not answer within {timeout:g} s"
            exchange.fail(502, "dial_timeout")
        except socket.gaierror as error:
            exchange.context = f"cannot resolve the name of {service}: {error}"
            exchange.fail(502, "dns")
        except OSError as error:
            exchange.context = f"cannot connect to {service}: {error}"
            exchange.fail(502, "dial")
        except asyncio.CancelledError:
            exchange.fail(502, "shutdown")
            raise
