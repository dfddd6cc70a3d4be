"""The listeners of public ports, which come and go while the edge runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from functools import partial

from underpass.edge.entrance import Beginnings, Entrance
from underpass.edge.tcp_routes import TcpRoute
from underpass.edge.tcp_streams import Accepting, StreamGroup, TcpStreams
from underpass.wire.proxy_protocol import proxy_header, visitor_address
from underpass.wire.turns import LoopTurn

__all__ = ["TcpListeners"]


class _Port:
    """One public port; `route` may be another one later."""

    def __init__(self, route: TcpRoute, group: StreamGroup, streams: TcpStreams) -> None:
        self.route = route
        self.group = group
        self.entrance: Entrance | None = None
        self._streams = streams

    def doorman(self, address: str | None, _: int | None) -> asyncio.BaseProtocol:
        """For a connection from `address`, if its socket does not know better."""
        return Accepting(partial(self._accept, address))

    def _accept(self, address: str | None, transport: asyncio.Transport) -> None:
        first = b""
        if self.route.proxy_protocol:
            source, port = address_of(transport, "peername")
            if address not in (None, source):
                source, port = address, 0  # of whom a trusted hop speaks
            first = proxy_header(
                self.route.proxy_protocol,
                visitor_address(source.encode("ascii")),
                *address_of(transport, "sockname"),
                source_port=port,
            )
        self._streams.carry(
            transport,
            self.route.hostname,
            self.group,
            first=first,
            client=address,
        )


class TcpListeners:
    """Accepts visitors on public ports.

    Args:
        seconds: for a trusted hop's PROXY header.
    """

    def __init__(
        self, turn: LoopTurn, streams: TcpStreams, beginnings: Beginnings, *, seconds: float
    ) -> None:
        self._streams = streams
        self._beginnings = beginnings
        self._seconds = seconds
        turn.on_tick.add(self._look)
        self._ports: dict[str, _Port] = {}

    async def apply(self, routes: Sequence[TcpRoute], sockets: Mapping[str, socket.socket]) -> None:
        """Have these routes and no others. Streams of those that go, or change, go on.

        Args:
            sockets: listening ones, by `TcpRoute.name`, at least for routes that are new. Each is
                closed with its route.
        """
        wanted = {route.name: route for route in routes}
        for name in [name for name in self._ports if name not in wanted]:
            self._close(self._ports.pop(name))
            self._streams.drop_group(name)
        for name, route in wanted.items():
            group = self._streams.group(name, route.limits)
            port = self._ports.get(name)
            if port is not None:
                port.route = route
                continue
            port = self._ports[name] = _Port(route, group, self._streams)
            port.entrance = Entrance(
                sockets[name],
                port.doorman,
                context=None,
                handshakes=None,
                seconds=self._seconds,
                beginnings=self._beginnings,
            )
            await port.entrance.open()

    async def begin_with(self, beginnings: Beginnings) -> None:
        """Look at connections that come from now on in this way."""
        self._beginnings = beginnings
        for port in self._ports.values():
            if port.entrance is not None:
                await port.entrance.change(beginnings)

    def _look(self) -> None:
        for port in self._ports.values():
            if port.entrance is not None:
                port.entrance.look()

    def leave(self) -> None:
        """Accept no more: another process does. Who has come is still looked at."""
        for port in self._ports.values():
            if port.entrance is not None:
                port.entrance.close()

    def close(self) -> None:
        """Accept no more."""
        for port in self._ports.values():
            self._close(port)

    def _close(self, port: _Port) -> None:
        if port.entrance is not None:
            port.entrance.close()
            port.entrance.abort()


def address_of(transport: asyncio.Transport, end: str) -> tuple[str, int]:
    """Address and port of one end of a connection; nothing is known of one that broke at once."""
    host, port = (transport.get_extra_info(end) or ("::", 0))[:2]
    return str(host), int(port)
