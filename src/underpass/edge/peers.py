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
from pathlib import Path
from typing import Final
from uuid import UUID

from underpass.core.h2 import H2Connection, Limits
from underpass.core.relay import Counters, Exchange
from underpass.core.tunnel import PeerAcceptor, PeerExchange, VisitorExchange
from underpass.edge.links import LINK_WINDOW, EdgeLink
from underpass.edge.listening import BACKLOG
from underpass.edge.management import wanted_connector
from underpass.edge.router import MANAGEMENT_HOST, Router
from underpass.edge.timeouts import Timeouts
from underpass.wire.turns import LoopTurn

__all__ = ["Peer", "PeerListener", "socket_path"]

REDIAL_SECONDS: Final = 1.0
"""Between two attempts to reach another worker, unless it says sooner that it is up."""

_log = logging.getLogger(__name__)

_MANAGEMENT: Final = MANAGEMENT_HOST.encode("ascii")


def socket_path(directory: Path, worker: int) -> Path:
    """Where a worker takes requests of others."""
    return directory / f"{worker}.sock"


class PeerServer(H2Connection, asyncio.BufferedProtocol):
    """Another worker that has connected here."""

    def __init__(self, listener: PeerListener) -> None:
        super().__init__(listener.turn, listener.acceptor, Limits(connection_window=LINK_WINDOW))
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.connections.add(self)

    def disconnected(self, reason: Exception | None) -> None:
        self._listener.connections.discard(self)

    def protocol_failure(self, code: int, why: str) -> None:
        _log.error("a worker broke the HTTP/2 protocol: %s (error code %d)", why, code)


class PeerListener:
    """Takes requests of other workers and sends them down links of this one."""

    def __init__(self, turn: LoopTurn, router: Router) -> None:
        self.turn = turn
        self.counters = Counters()
        self.acceptor = PeerAcceptor(self._carry, self.counters, self._unexpected)
        self.connections: set[PeerServer] = set()
        self._router = router
        self._path: Path | None = None
        self._server: asyncio.AbstractServer | None = None

    async def start(self, path: Path) -> None:
        """Listen; in the place of a worker that was there before."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._path = path
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: PeerServer(self), str(path), backlog=BACKLOG
        )

    def close(self) -> None:
        """Take no more, and take the socket's name away: the directory with the last one."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
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
        exchange.fail(503, "link_full" if links else "no_link")

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
        self._keeping = asyncio.create_task(self._keep())

    def is_up(self) -> None:
        """It has said that it listens."""
        self._up.set()

    def carry(self, exchange: VisitorExchange) -> bool:
        """Send a request there. False if it cannot be taken now."""
        return self._client is not None and self._client.forward(exchange)

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
        while True:
            self._up.clear()
            client = PeerClient(self._turn, self._timeouts)
            try:
                await loop.create_unix_connection(lambda c=client: c, str(self._path))  # type: ignore[misc]
                self._client = client
                await client.ended.wait()
            except OSError as error:
                _log.debug("another worker is not there: %s", error)
            finally:
                self._client = None
                client.abort()
                client.disconnected(None)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._up.wait(), REDIAL_SECONDS)
