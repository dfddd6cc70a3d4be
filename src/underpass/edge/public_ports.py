"""The public ports of a running edge: their sockets, and what happens when others are wanted."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from underpass.edge.errors import EdgeError
from underpass.edge.listening import bound_address
from underpass.edge.options import Address
from underpass.edge.tcp_routes import TcpRoute, check_routes

__all__ = ["PublicPorts"]

log = logging.getLogger("underpass.edge.tcp")

Open: TypeAlias = Callable[[str, Address], socket.socket]
"""A listening socket by its name, and its address. Raises ListenError."""

Serve: TypeAlias = Callable[[Sequence[TcpRoute], Mapping[str, socket.socket]], Awaitable[None]]
"""`DataPath.apply_tcp`."""


class PublicPorts:
    """What listens for `routes`.

    Args:
        open_socket: takes one that somebody has kept, or listens.
        close_socket: ends one, by its name.
    """

    def __init__(
        self, open_socket: Open, close_socket: Callable[[str, socket.socket], None]
    ) -> None:
        self._open = open_socket
        self._close = close_socket
        self._routes: tuple[TcpRoute, ...] = ()
        self._sockets: dict[str, socket.socket] = {}

    @property
    def routes(self) -> tuple[TcpRoute, ...]:
        """With the addresses that they listen on."""
        return tuple(
            replace(route, address=bound_address(self._sockets[route.name]))
            for route in self._routes
        )

    @property
    def listeners(self) -> dict[str, socket.socket]:
        """By the names of `routes`: a port that the system has picked is known by then."""
        return {
            bound.name: self._sockets[route.name]
            for bound, route in zip(self.routes, self._routes, strict=True)
        }

    def listen(self, routes: tuple[TcpRoute, ...]) -> None:
        """Listen for these at first, for somebody to serve. Raises EdgeError."""
        self._listen(routes)
        self._routes = routes

    def close(self) -> None:
        """Close them all."""
        for name, listener in self._sockets.items():
            self._close(name, listener)

    async def change(self, routes: tuple[TcpRoute, ...], serve: Serve) -> None:
        """Have these and no others. Streams of those that go, or change, go on.

        Raises EdgeError, and then nothing has changed: a port is taken, there are too many.
        """
        check_routes(routes)
        before = self._routes
        wanted = {route.name: route.address for route in routes}
        # Two addresses with one port can be in each other's way, so the old one goes first.
        moved = {
            route.name for route in before if wanted.get(route.name, route.address) != route.address
        }
        if moved:
            await self._have([route for route in before if route.name not in moved], serve)
        kept = set(self._sockets)
        try:
            self._listen(routes)
        except EdgeError:
            for name in self._sockets.keys() - kept:
                self._close(name, self._sockets.pop(name))
            self._listen(before)
            await self._have(before, serve)
            raise
        await self._have(routes, serve)

    async def _have(self, routes: Sequence[TcpRoute], serve: Serve) -> None:
        """Serve these of what is listened on, and close the others."""
        self._routes = tuple(routes)
        await serve(self.routes, self.listeners)
        for name in self._sockets.keys() - {route.name for route in routes}:
            log.info("Public port %s is closed", name)
            self._close(name, self._sockets.pop(name))

    def _listen(self, routes: Iterable[TcpRoute]) -> None:
        for route in routes:
            if route.name not in self._sockets:
                listener = self._sockets[route.name] = self._open(route.name, route.address)
                log.info("Public port %s leads to %s", bound_address(listener), route.hostname)
