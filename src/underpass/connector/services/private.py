"""Raw streams to an address the edge names: private networks (docs: wire protocol §2.8)."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Final

from underpass.connector.origin_request import OriginRequest
from underpass.connector.services.dial import SHUTDOWN, Dialer, OriginDialError, host_and_port
from underpass.connector.services.handshake import MALFORMED_KEY, Acknowledgement, acknowledge
from underpass.connector.warp_routing import DEFAULT_ROUTING, WarpRouting
from underpass.core.fields import Token
from underpass.core.stream import StreamClient
from underpass.core.tunnel import OriginExchange
from underpass.wire.turns import LoopTurn

__all__ = ["PrivateNetwork"]

MAX_STREAMS: Final = 10000
"""Raw streams of one connector at once."""


class StreamConnection(StreamClient, asyncio.BufferedProtocol):
    """The core's byte stream on a transport, for one exchange; `ended` is done when it is gone."""

    def __init__(
        self,
        turn: LoopTurn,
        exchange: OriginExchange,
        acknowledgement: Acknowledgement,
        ended: asyncio.Future[None],
    ) -> None:
        super().__init__(turn)
        self._exchange = exchange
        self._acknowledgement = acknowledgement
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # At once: what the server says first must find the exchange in place.
        self.attach(self._exchange, self._acknowledgement.fields, self._acknowledgement.status)

    def connection_lost(self, reason: Exception | None) -> None:
        super().connection_lost(reason)
        if not self._ended.done():
            self._ended.set_result(None)


class PrivateNetwork:
    """Connects streams to IP addresses; names are not resolved, as the edge has done that."""

    def __init__(
        self, turn: LoopTurn, routing: WarpRouting = DEFAULT_ROUTING, processes: int = 1
    ) -> None:
        """`processes` of this connector share the streams that it may have at once."""
        self._turn = turn
        self._processes = processes
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.routing = routing
        self.total = 0

    @property
    def routing(self) -> WarpRouting:
        """What is in force for streams that begin from now on."""
        return self._routing

    @routing.setter
    def routing(self, routing: WarpRouting) -> None:
        self._routing = routing
        self._most = -(-routing.max_active_flows // self._processes)
        self._dialer = Dialer(
            OriginRequest(
                connect_timeout=routing.connect_timeout, tcp_keep_alive=routing.tcp_keep_alive
            )
        )

    @property
    def active(self) -> int:
        """Streams open now, those being connected included."""
        return len(self._tasks)

    def forward(self, exchange: OriginExchange) -> None:
        """Connect `exchange` to its authority."""
        try:
            host, port = _address(exchange.authority)
        except ValueError as error:
            exchange.context = str(error)
            exchange.fail(502, "bad_destination")
            return
        if self._most and len(self._tasks) >= self._most:
            exchange.context = (
                f"there are {self._most} streams already: warp-routing.maxActiveFlows"
            )
            exchange.fail(502, "flow_rate_limited")
            return
        if len(self._tasks) >= MAX_STREAMS:
            exchange.context = f"there are {MAX_STREAMS} streams already"
            exchange.fail(502, "too_many_streams")
            return
        try:
            acknowledgement = acknowledge(exchange.header(Token.T_SEC_WEBSOCKET_KEY))
        except ValueError:
            exchange.respond(*MALFORMED_KEY)
            return
        self.total += 1
        task = self._loop.create_task(self._serve(exchange, host, port, acknowledgement))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Give up every stream."""
        for task in self._tasks:
            task.cancel()

    async def _serve(
        self, exchange: OriginExchange, host: str, port: int, acknowledgement: Acknowledgement
    ) -> None:
        ended: asyncio.Future[None] = self._loop.create_future()
        try:
            connection = await self._dialer.open_tcp(
                host_and_port(host, port),
                host,
                port,
                lambda: StreamConnection(self._turn, exchange, acknowledgement, ended),
            )
        except OriginDialError as error:
            exchange.context = str(error)
            exchange.fail(502, error.cause)
            return
        except asyncio.CancelledError:
            exchange.fail(502, SHUTDOWN)
            raise
        try:
            await ended
        finally:
            connection.abort()


def _address(authority: bytes) -> tuple[str, int]:
    """`IP:port` or `[IPv6]:port`. Raises ValueError."""
    text = authority.decode("ascii", "replace")
    host, colon, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"the destination {text!r} is not IP:port") from None
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) <= 65535:
        raise ValueError(f"the destination {text!r} has no port")
    return str(address), int(port)
