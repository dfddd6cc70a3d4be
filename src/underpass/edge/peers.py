"""Requests between the worker processes of one edge: HTTP/2 over a Unix socket, one hop at most.

A visitor's connection is accepted by any worker, a connector's by any other. A request whose tunnel
has no link here goes to a worker that has one, which carries it on by a link of its own and never
by a third worker. Heads pass as they are on a link, so to the visitor's end the other worker looks
like one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from underpass.core.h2 import H2Connection, Limits
from underpass.core.relay import Counters, Exchange
from underpass.core.tunnel import PeerAcceptor, PeerExchange, VisitorExchange
from underpass.edge.links import LINK_WINDOW, EdgeLink
from underpass.edge.listening import BACKLOG
from underpass.edge.management import wanted_connector
from underpass.edge.remote import RemoteLink
from underpass.edge.router import MANAGEMENT_HOST, Router
from underpass.edge.timeouts import Timeouts
from underpass.edge.waiting import WaitingRoom
from underpass.wire.turns import LoopTurn

__all__ = ["Peer", "PeerListener", "path_from_beyond", "socket_path"]

REDIAL_SECONDS: Final = 1.0
"""Between two attempts to reach another worker, unless it says sooner that it is up."""

_log = logging.getLogger(__name__)

_MANAGEMENT: Final = MANAGEMENT_HOST.encode("ascii")


def socket_path(directory: Path, worker: int) -> Path:
    """Where a worker takes requests of others."""
    return directory / f"{worker}.sock"


def path_from_beyond(path: str) -> str:
    """Where the same worker takes those of another edge's processes."""
    return f"{path}.beyond"


class PeerServer(H2Connection, asyncio.BufferedProtocol):
    """Another worker that has connected here."""

    def __init__(self, listener: PeerListener, from_beyond: bool) -> None:
        super().__init__(listener.turn, listener.acceptor, Limits(connection_window=LINK_WINDOW))
        self._listener = listener
        self.from_beyond = from_beyond

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.connections.add(self)

    def idle(self) -> None:
        self._listener.look_whether_idle()

    def disconnected(self, reason: Exception | None) -> None:
        self._listener.connections.discard(self)
        self._listener.look_whether_idle()

    def protocol_failure(self, code: int, why: str) -> None:
        _log.error("a worker broke the HTTP/2 protocol: %s (error code %d)", why, code)


class PeerListener:
    """Takes requests of other workers and sends them down links of this one.

    What comes for a tunnel whose links have moved to the process that follows this one goes there;
    never the other way, so nothing goes round in circles.
    """

    def __init__(
        self, turn: LoopTurn, router: Router, room: WaitingRoom | None = None, number: int = 0
    ) -> None:
        self.turn = turn
        self._room = room
        self._number = number
        self.counters = Counters()
        self.acceptor = PeerAcceptor(self._carry, self.counters, self._unexpected)
        self.connections: set[PeerServer] = set()
        self._router = router
        self._path: Path | None = None
        self._idle = asyncio.Event()
        self._is_over: Callable[[], bool] = self._is_idle
        self._servers: list[asyncio.AbstractServer] = []

    async def start(self, path: Path) -> None:
        """Listen; in the place of a worker that was there before."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._path = path
        for place, from_beyond in ((str(path), False), (path_from_beyond(str(path)), True)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
            self._servers.append(
                await asyncio.get_running_loop().create_unix_server(
                    partial(PeerServer, self, from_beyond), place, backlog=BACKLOG
                )
            )

    async def drain(self, seconds: float, *, until_gone: bool = False) -> None:
        """Return when what the others have sent here is answered, or after `seconds`; if
        `until_gone`, not before those beyond have closed their connections: they may send more
        until they have heard that they should not."""
        self._is_over = self._is_gone if until_gone else self._is_idle
        self._idle.clear()
        self.look_whether_idle()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        # What was answered last is written at the end of this turn.
        await asyncio.sleep(0)

    def look_whether_idle(self) -> None:
        """A request has been answered, or a connection has gone."""
        if self._is_over():
            self._idle.set()

    def _is_idle(self) -> bool:
        return not any(connection.active for connection in self.connections)

    def _is_gone(self) -> bool:
        return self._is_idle() and not any(each.from_beyond for each in self.connections)

    def close(self) -> None:
        """Take no more, and take the sockets' names away: the directory with the last one."""
        for server in self._servers:
            server.close()
        for connection in tuple(self.connections):
            connection.abort()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
                os.unlink(path_from_beyond(str(self._path)))
                self._path.parent.rmdir()

    def _carry(self, exchange: PeerExchange) -> None:
        tunnel, _, connector = exchange.tunnel.decode("ascii").partition(" ")
        tunnel_id = UUID(tunnel)
        if exchange.authority == _MANAGEMENT:
            wanted = wanted_connector(exchange.path)
            links = [
                link
                for link in self._router.links_of(tunnel_id)
                if isinstance(link, EdgeLink)
                and not link.draining
                and wanted in (None, link.connector_id)
            ]
        else:
            links = [link for link in self._router.serving(tunnel_id) if isinstance(link, EdgeLink)]
        preferred = UUID(connector) if connector else None
        lost = exchange.context
        links.sort(
            key=lambda link: (
                # A connector's links are often lost together, and heard of one after the other.
                link.connector_id == lost,
                preferred not in (None, link.connector_id),
                link.load,
            )
        )
        for link in links:
            exchange.context = link.connector_id
            if link.forward(exchange):
                return
        if self._pass_on(tunnel_id, exchange):
            return
        if self._room is None or not self._room.hold(tunnel_id, exchange, self._carry):
            exchange.fail(503, "link_full" if links else "no_link")

    def _pass_on(self, tunnel_id: UUID, exchange: PeerExchange) -> bool:
        return any(
            link.pass_on(exchange)
            for link in self._router.links_of(tunnel_id)
            if isinstance(link, RemoteLink) and link.beyond and link.worker > self._number
        )

    def _unexpected(self, exchange: Exchange, error: Exception) -> None:
        _log.error("unexpected error while taking a request of a worker", exc_info=error)


class PeerClient(H2Connection, asyncio.BufferedProtocol):
    """The connection to another worker. `ended` is done when it is gone."""

    def __init__(self, turn: LoopTurn, timeouts: Timeouts) -> None:
        super().__init__(turn, None, Limits(connection_window=LINK_WINDOW))
        self.ended = asyncio.Event()
        self._turn = turn
        self.timeouts = timeouts
        turn.on_tick.add(self._sweep)

    def _sweep(self) -> None:
        patience = self.timeouts
        self.sweep(patience.first_byte, patience.idle, patience.total)

    def disconnected(self, reason: Exception | None) -> None:
        self._turn.on_tick.discard(self._sweep)
        self.ended.set()

    def protocol_failure(self, code: int, why: str) -> None:
        _log.error("a worker broke the HTTP/2 protocol: %s (error code %d)", why, code)


class Peer:
    """Another worker, connected to whenever it is there."""

    def __init__(self, turn: LoopTurn, path: Path, timeouts: Timeouts) -> None:
        self._turn = turn
        self._path = path
        self._timeouts = timeouts
        self._client: PeerClient | None = None
        self._up = asyncio.Event()
        self._reached = asyncio.Event()
        self._is_leaving = False
        self._keeping = asyncio.create_task(self._keep())

    def is_up(self) -> None:
        """It has said that it listens."""
        self._up.set()

    async def reached(self) -> None:
        """Return when there is a connection."""
        await self._reached.wait()

    def carry(self, exchange: VisitorExchange | PeerExchange) -> bool:
        """Send a request there. False if it cannot be taken now."""
        return self._client is not None and self._client.forward(exchange)

    def leave(self) -> None:
        """Send nothing new there, and let go of the connection when all is answered."""
        self._is_leaving = True
        if self._client is not None:
            self._client.shut_down()
        else:
            self._keeping.cancel()

    def end(self) -> None:
        """Let go of it at once."""
        self._keeping.cancel()

    def allow(self, timeouts: Timeouts) -> None:
        """Let requests take so long from now on, those under way too."""
        self._timeouts = timeouts
        if self._client is not None:
            self._client.timeouts = timeouts

    async def close(self) -> None:
        """Connect no more, and end what there is."""
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_leaving:
            self._up.clear()
            client = PeerClient(self._turn, self._timeouts)
            try:
                await loop.create_unix_connection(lambda c=client: c, str(self._path))  # type: ignore[misc]
                self._client = client
                self._reached.set()
                await client.ended.wait()
            except OSError as error:
                _log.debug("another worker is not there: %s", error)
            finally:
                self._client = None
                self._reached.clear()
                client.abort()
                client.disconnected(None)
            if not self._is_leaving:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._up.wait(), REDIAL_SECONDS)
