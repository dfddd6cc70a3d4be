"""Raw streams to an address the edge names: private networks (docs: wire protocol §2.8)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
from typing import Final

from underpass.core.stream import StreamClient
from underpass.core.tunnel import OriginExchange
from underpass.wire.turns import LoopTurn

__all__ = ["PrivateNetwork"]

CONNECT_TIMEOUT: Final = 5.0
"""Seconds, as `warp-routing.connectTimeout` is by default."""

MAX_STREAMS: Final = 10000
"""Raw streams of one connector at once."""

WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 §1.3."""


class StreamConnection(StreamClient, asyncio.BufferedProtocol):
    """The core's byte stream on a transport; `on_end` is called once when it is gone."""

    def __init__(self, turn: LoopTurn, ended: asyncio.Future[None]) -> None:
        super().__init__(turn)
        self._ended = ended

    def connection_lost(self, reason: Exception | None) -> None:
        super().connection_lost(reason)
        if not self._ended.done():
            self._ended.set_result(None)


class PrivateNetwork:
    """Connects streams to IP addresses; names are not resolved, as the edge has done that."""

    def __init__(self, turn: LoopTurn) -> None:
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.total = 0

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
        if len(self._tasks) >= MAX_STREAMS:
            exchange.context = f"there are {MAX_STREAMS} streams already"
            exchange.fail(502, "too_many_streams")
            return
        self.total += 1
        handshake = _handshake(exchange.request.get(b"sec-websocket-key"))
        task = self._loop.create_task(self._serve(exchange, host, port, handshake))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Give up every stream."""
        for task in self._tasks:
            task.cancel()

    async def _serve(
        self,
        exchange: OriginExchange,
        host: str,
        port: int,
        handshake: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        ended: asyncio.Future[None] = self._loop.create_future()
        try:
            _, connection = await asyncio.wait_for(
                self._loop.create_connection(
                    lambda: StreamConnection(self._turn, ended), host, port
                ),
                CONNECT_TIMEOUT,
            )
        except asyncio.TimeoutError:
            exchange.context = f"{host}:{port} did not answer within {CONNECT_TIMEOUT:g} s"
            exchange.fail(502, "dial_timeout")
            return
        except OSError as error:
            exchange.context = f"cannot connect to {host}:{port}: {error}"
            exchange.fail(502, "dial")
            return
        connection.attach(exchange, handshake)
        try:
            await ended
        finally:
            connection.abort()


def _handshake(key: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
    """The fields that a visitor's WebSocket client waits for (RFC 6455 §4.2.2)."""
    if not key:
        return ()
    accept = hashlib.sha1(key + WEBSOCKET_GUID, usedforsecurity=False).digest()
    return (
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-Websocket-Accept", base64.b64encode(accept)),
    )


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
