"""`tcp://`, `ssh://`, `rdp://`, `smb://` and their like, and `bastion`: bytes over the WebSocket
framing that visitors' clients speak (docs: wire protocol §2.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import Struct

from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import Bastion, SocksProxy, StreamService
from underpass.connector.services.dial import (
    SHUTDOWN,
    Dialer,
    OriginDialError,
    Permit,
    host_and_port,
)
from underpass.connector.services.handshake import MALFORMED_KEY, Acknowledgement, acknowledge
from underpass.core.fields import Token
from underpass.core.tunnel import OriginExchange
from underpass.core.websocket import HALF_CLOSE, WebSocketStream
from underpass.wire.turns import LoopTurn

__all__ = ["StreamConnection", "StreamOrigin", "Visit", "address_of"]

PING_TICKS: Final = 54
"""Ticks between pings to idle visitors; cloudflared's own interval, below the usual minute after
which proxies forget a connection."""

MAX_STREAMS: Final = 10000
"""Streams of one rule at once."""

MAX_LOOKUPS: Final = 2
"""Names of visitors' choice that one rule looks up at once: a resolver is slow when asked for
nonsense, and everybody waits for the same few threads (uvloop has four)."""

Introduction: TypeAlias = Callable[[str, int], bytes]
"""What an origin is told first, from its address and port."""


class Visit(Struct, frozen=True):
    """A visitor who wants a stream: all that is known before there is one."""

    exchange: OriginExchange
    acknowledgement: Acknowledgement
    host: str
    port: int
    name: str
    """What the log calls the destination."""
    introduction: Introduction | None
    half_closes: bool = False
    """Its close frame ends its own direction alone."""


class StreamConnection(WebSocketStream, asyncio.BufferedProtocol):
    """The core's framed byte stream on a transport, for one exchange."""

    def __init__(self, turn: LoopTurn, visit: Visit, open_streams: set[StreamConnection]) -> None:
        super().__init__(turn)
        self._visit = visit
        self.half_closes = visit.half_closes
        self._open_streams = open_streams

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open_streams.add(self)
        super().connection_made(transport)
        if not self.is_closed:
            if self._visit.introduction is not None:
                self.introduce(self._visit.introduction(*address_of(transport, "peername")))
            self.connected(transport)

    def connection_lost(self, reason: Exception | None) -> None:
        self._open_streams.discard(self)
        super().connection_lost(reason)

    def connected(self, transport: asyncio.BaseTransport) -> None:
        """Begin at once: what the origin says first must find the exchange in place."""
        self.begin()

    def begin(self) -> None:
        """Answer the visitor, and take its bytes."""
        answer = self._visit.acknowledgement
        self.attach(self._visit.exchange, answer.fields, answer.status)


class StreamOrigin:
    """One address that speaks no HTTP, or with `bastion` the one that the visitor names."""

    def __init__(
        self, turn: LoopTurn, service: StreamService | Bastion | SocksProxy, settings: OriginRequest
    ) -> None:
        self._turn = turn
        self._service = service
        self._proxy_protocol = settings.proxy_protocol
        chosen = not isinstance(service, StreamService)
        self._dialer = Dialer(settings, lookups=MAX_LOOKUPS if chosen else 0)
        self._loop = asyncio.get_running_loop()
        self._serving: set[asyncio.Task[None]] = set()
        self._open_streams: set[StreamConnection] = set()
        self._ticks = 0
        self._permit: Permit | None = None
        if isinstance(service, Bastion) and settings.ip_rules:
            from underpass.connector.services.ip_rules import IpRules

            self._permit = IpRules(settings.ip_rules)
        turn.on_tick.add(self._tick)

    def forward(self, exchange: OriginExchange) -> None:
        """Connect; the visitor is answered once that has worked."""
        if len(self._serving) + len(self._open_streams) >= MAX_STREAMS:
            exchange.context = f"there are {MAX_STREAMS} streams to {self._service} already"
            exchange.fail(502, "too_many_streams")
            return
        try:
            acknowledgement = acknowledge(exchange.header(Token.T_SEC_WEBSOCKET_KEY))
        except ValueError:
            exchange.respond(*MALFORMED_KEY)
            return
        try:
            host, port, name = self._destination(exchange)
        except ValueError as error:
            exchange.context = str(error)
            exchange.fail(502, "bad_destination")
            return
        half_closes = exchange.header(Token.T_SEC_WEBSOCKET_PROTOCOL) == HALF_CLOSE
        if half_closes:
            acknowledgement = acknowledgement.agreeing(HALF_CLOSE)
        visit = Visit(
            exchange, acknowledgement, host, port, name, self._introduction(exchange), half_closes
        )
        task = self._loop.create_task(self._serve(visit))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    @property
    def is_busy(self) -> bool:
        """Whether there are streams, those being connected included."""
        return bool(self._serving or self._open_streams)

    def close(self) -> None:
        """Give up every stream."""
        self._turn.on_tick.discard(self._tick)
        for task in self._serving:
            task.cancel()
        for stream in tuple(self._open_streams):
            stream.abort()

    def _tick(self) -> None:
        self._ticks += 1
        if self._ticks % PING_TICKS == 0:
            for stream in tuple(self._open_streams):
                stream.ping()

    def _destination(self, exchange: OriginExchange) -> tuple[str, int, str]:
        """Host, port, and what the log calls it. Raises ValueError."""
        service = self._service
        if isinstance(service, StreamService):
            if not service.port:
                raise ValueError(f"{service} has no port, and its scheme has none of its own")
            return service.host, service.port, str(service)
        from underpass.connector.services.jump import jump_destination

        asked = exchange.header(Token.T_CF_ACCESS_JUMP_DESTINATION)
        if not asked:
            raise ValueError(
                "the visitor names no destination in Cf-Access-Jump-Destination; its client needs "
                "the option --destination host:port"
            )
        host, port = jump_destination(asked)
        return host, port, host_and_port(host, port)

    def _introduction(self, exchange: OriginExchange) -> Introduction | None:
        version = self._proxy_protocol
        if not version:
            return None
        from underpass.wire.proxy_protocol import proxy_header, visitor_address

        source = visitor_address(exchange.header(Token.T_CF_CONNECTING_IP))
        return lambda host, port: proxy_header(version, source, host, port)

    async def _serve(self, visit: Visit) -> None:
        try:
            await self._dialer.open_tcp(
                visit.name,
                visit.host,
                visit.port,
                lambda: StreamConnection(self._turn, visit, self._open_streams),
                permit=self._permit,
            )
        except OriginDialError as error:
            visit.exchange.context = str(error)
            visit.exchange.fail(502, error.cause)
        except asyncio.CancelledError:
            visit.exchange.fail(502, SHUTDOWN)
            raise


def address_of(transport: asyncio.BaseTransport, end: str) -> tuple[str, int]:
    """Address and port of one end of a connection; nothing is known of one that broke at once."""
    host, port = (transport.get_extra_info(end) or ("::", 0))[:2]
    return host, port
