"""`socks-proxy`, and `proxyType: socks` in front of a stream's origin: the visitor's stream begins
with SOCKS5 (docs: visitors' side §8). The handshake is Python's; what follows never comes here."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import Bastion, SocksProxy, StreamService
from underpass.connector.services.dial import SHUTDOWN, OriginDialError, host_and_port
from underpass.connector.services.ip_rules import IpRules
from underpass.connector.services.socks5 import (
    Reply,
    Socks5Error,
    SocksTarget,
    encode_address,
    read_request,
    reply,
    reply_to_failure,
)
from underpass.connector.services.stream import StreamConnection, StreamOrigin, Visit, address_of
from underpass.core.tunnel import OriginExchange
from underpass.wire.turns import LoopTurn

__all__ = ["SocksOrigin"]

log = logging.getLogger("underpass.connector.socks")

HANDSHAKE_SECONDS: Final = 10.0
"""From the answer to the visitor to the end of its request."""


class SocksConnection(StreamConnection):
    """A stream whose visitor first says what it wants: `begin` comes before the transport."""

    def __init__(self, turn: LoopTurn, visit: Visit, open_streams: set[StreamConnection]) -> None:
        super().__init__(turn, visit, open_streams)
        self._first = bytearray()
        self._wanted = 0
        self._enough: asyncio.Future[None] | None = None

    def hear(self, data: bytes) -> None:
        """Bytes of the visitor's; no more than its window holds, as none are given back."""
        self._first += data
        if self._enough is not None and len(self._first) >= self._wanted:
            if not self._enough.done():
                self._enough.set_result(None)
            self._enough = None

    async def read(self, size: int) -> bytes:
        """The next `size` bytes of what is for us."""
        if len(self._first) < size:
            self._wanted = size
            self._enough = asyncio.get_running_loop().create_future()
            await self._enough
        taken = bytes(self._first[:size])
        del self._first[:size]
        return taken

    def connected(self, transport: asyncio.BaseTransport) -> None:
        # At once: the origin's first bytes must come after the reply.
        self.say(reply(Reply.SUCCEEDED, encode_address(*address_of(transport, "sockname"))))
        rest, self._first = bytes(self._first), bytearray()
        self.go_on(rest)


class SocksOrigin(StreamOrigin):
    """What the visitor asks for, or the one address there is, whatever it asks for."""

    def __init__(
        self, turn: LoopTurn, service: StreamService | Bastion | SocksProxy, settings: OriginRequest
    ) -> None:
        super().__init__(turn, service, settings)
        self._is_proxy = isinstance(service, SocksProxy)
        if isinstance(service, SocksProxy):
            self._permit = IpRules(service.rules)

    def _destination(self, exchange: OriginExchange) -> tuple[str, int, str]:
        if self._is_proxy:
            return "", 0, str(self._service)
        return super()._destination(exchange)

    async def _serve(self, visit: Visit) -> None:
        sock: socket.socket | None = None
        try:
            if not self._is_proxy:
                sock = await self._connect(visit.name, visit.host, visit.port)
        except OriginDialError as error:
            visit.exchange.context = str(error)
            visit.exchange.fail(502, error.cause)
            return
        except asyncio.CancelledError:
            visit.exchange.fail(502, SHUTDOWN)
            raise
        connection = SocksConnection(self._turn, visit, self._open_streams)
        task = asyncio.current_task()
        assert task is not None
        connection.listen(connection.hear, task.cancel)
        try:
            connection.begin()
            if not connection.is_closed:
                await self._converse(visit, connection, sock)
        finally:
            if connection.transport is None:
                connection.hang_up()
                if sock is not None:
                    sock.close()

    async def _converse(
        self, visit: Visit, connection: SocksConnection, sock: socket.socket | None
    ) -> None:
        target: SocksTarget | None = None
        name = visit.name
        try:
            target = await asyncio.wait_for(
                read_request(connection.read, connection.say), HANDSHAKE_SECONDS
            )
            if sock is None:
                name = host_and_port(target.host, target.port)
                sock = await self._connect(name, target.host, target.port)
            await self._dialer.open_socket(name, sock, lambda: connection)
        except asyncio.TimeoutError:
            _refused(visit, f"no whole request came within {HANDSHAKE_SECONDS:g} s")
        except Socks5Error as error:
            _refused(visit, str(error))
            connection.say(error.answer)
        except OriginDialError as error:
            assert target is not None
            _refused(visit, str(error), error.cause)
            connection.say(reply_to_failure(error.cause, error.errno, target))

    async def _connect(self, name: str, host: str, port: int) -> socket.socket:
        return await self._dialer.connect_tcp(name, host, port, self._permit)


def _refused(visit: Visit, why: str, cause: str = "bad_destination") -> None:
    from underpass.wire.causes import Speaker, hop_of  # most are not refused

    fields: dict[str, object] = {
        "error": why,
        "cause": cause,
        "hop": hop_of(cause, Speaker.CONNECTOR).value,
        "connIndex": visit.exchange.acceptor.conn_index,
        "service": visit.name,
    }
    log.info("SOCKS request refused", extra=fields)
