"""The tunnel listeners: where connectors dial in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID

from underpass.edge.configurations import ConfigurationPusher
from underpass.edge.handshakes import Handshakes
from underpass.edge.links import EdgeLink
from underpass.edge.listening import BACKLOG
from underpass.edge.registry import Registry
from underpass.edge.router import Router
from underpass.edge.timeouts import Timeouts
from underpass.wire.turns import LoopTurn

__all__ = ["TunnelListeners"]

log = logging.getLogger("underpass.edge.tunnels")

HANDSHAKE_SECONDS: Final = 10.0
"""For TLS; connectors allow 15."""

MAX_UNREGISTERED: Final = 1024
"""Connections that are not (yet) registered connectors. Refusing is cheap; keeping is not."""


class TunnelListeners:
    """Accepts links on one or more listening sockets."""

    def __init__(
        self,
        turn: LoopTurn,
        context: ssl.SSLContext,
        registry: Registry,
        router: Router,
        *,
        location: str,
        timeouts: Timeouts,
    ) -> None:
        self._turn = turn
        self._context = context
        self._registry = registry
        self._router = router
        self._location = location
        self._timeouts = timeouts
        self._servers: list[asyncio.AbstractServer] = []
        self.links: set[EdgeLink] = set()
        """Every connection that is open, registered or not."""
        self.on_link_gone: Callable[[EdgeLink], None] | None = None
        """Called with one that is not any more."""
        self.handshakes = Handshakes(HANDSHAKE_SECONDS)
        turn.on_tick.add(self.handshakes.tick)
        self._pusher = ConfigurationPusher(registry, self.links)
        registry.on_configuration = self._pusher.changed

    async def start(self, listeners: list[socket.socket]) -> None:
        """Begin to accept on bound sockets."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            self._servers.append(
                await loop.create_server(
                    self._new_link,
                    sock=listener,
                    backlog=BACKLOG,
                    ssl=self._context,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS,
                )
            )

    def _new_link(self) -> EdgeLink:
        began = self.handshakes.begin()
        return EdgeLink(
            self._turn,
            self._registry,
            self._router,
            location=self._location,
            timeouts=self._timeouts,
            on_connected=partial(self._connected, began),
            on_registered=self._pusher.registered,
            on_gone=self._gone,
        )

    def _connected(self, began: int, link: EdgeLink) -> None:
        # Not before: nobody tells of a connection whose handshake fails.
        self.handshakes.completed(began)
        self.links.add(link)
        if len(self.links) > MAX_UNREGISTERED:
            self._make_room(link)

    def _gone(self, link: EdgeLink) -> None:
        self.links.discard(link)
        if self.on_link_gone is not None:
            self.on_link_gone(link)

    def _make_room(self, newest: EdgeLink) -> None:
        """Drop the newcomer if too many of the open connections have not registered."""
        unregistered = sum(not link.registered for link in self.links)
        if unregistered > MAX_UNREGISTERED:
            log.warning("%d connections have not registered: dropping one more", unregistered)
            newest.abort()

    def allow(self, timeouts: Timeouts) -> None:
        """Let requests take so long from now on, those under way too."""
        self._timeouts = timeouts
        for link in self.links:
            link.timeouts = timeouts

    def close_links_of(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        """Close the links that a tunnel holds, or one of its connectors: at once to new requests,
        and for good when those under way have ended."""
        for link in tuple(self.links):
            if link.tunnel_id == tunnel_id and connector_id in (None, link.connector_id):
                link.prepare_stop()

    def give_way(self) -> None:
        """Accept no more: another process does. Those that are accepted may still register."""
        for server in self._servers:
            server.close()

    async def stop(self, seconds: float) -> None:
        """Accept no more, let links drain for so long, then close them."""
        self._pusher.close()
        self._turn.on_tick.discard(self.handshakes.tick)
        for server in self._servers:
            server.close()
        for link in tuple(self.links):
            link.prepare_stop()
        waiting = [link.ended for link in self.links if link.transport is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
        for link in tuple(self.links):
            link.abort()
        if waiting:
            await asyncio.wait(waiting, timeout=1.0)
        for server in self._servers:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(server.wait_closed(), 1.0)
