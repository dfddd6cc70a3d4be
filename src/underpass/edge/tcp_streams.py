"""Visitors' TCP connections, carried down links as they are, with nothing of ours on their side.

Whoever has accepted a connection, and knows for which hostname it is, hands it to
`TcpStreams.carry`; what has come of it already goes with it. From there on it is compiled
(`core.streamserver`): on the link it is the WebSocket that a client for TCP would have opened, so
every connector serves it by the hostname's ingress rule (`ssh://`, `tcp://`, `rdp://` and so on).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from underpass.core.relay import Counters, Exchange
from underpass.core.streamserver import StreamServer
from underpass.core.tunnel import VisitorAcceptor, VisitorExchange
from underpass.edge.figures import TellingWho
from underpass.edge.gateway import SendWatch
from underpass.edge.origin_health import REFUSALS
from underpass.edge.tcp_routes import DEFAULT_LIMITS, StreamLimits
from underpass.edge.visitor_address import plain_address
from underpass.ops.keep_alive import keep_alive
from underpass.wire.causes import Speaker, hop_of

if TYPE_CHECKING:
    from underpass.edge.gateway import Gateway
    from underpass.wire.turns import LoopTurn

__all__ = ["Accepting", "StreamGroup", "TcpStreams", "TcpVisitor", "make_reset"]

log = logging.getLogger("underpass.edge.tcp")

KEEPALIVE_SECONDS: Final = 30
"""Without a segment of the visitor's until the system asks whether it is still there, and between
two such questions. It is given up when it has not answered as many as the system has set."""

_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER that makes closing a reset."""


class StreamGroup:
    """Streams with limits and counters in common: those of one public port, or whatever else.

    `name` is what logs and metrics call it. Names are an operator's choice, never a visitor's: each
    is a label in metrics. `limits` may be changed, and hold for what comes then; timeouts for all.
    """

    def __init__(self, name: str, limits: StreamLimits = DEFAULT_LIMITS) -> None:
        self.name = name
        self.limits = limits
        self.counters = Counters()
        self.streams: set[TcpVisitor] = set()
        self.refused = 0
        """Connections turned away because of the limits, so far."""
        self._untold = 0
        self._by_client: Counter[str] = Counter()

    def admits(self, client: str) -> bool:
        """Whether a further stream from an address is within the limits."""
        return (
            len(self.streams) < self.limits.connections
            and self._by_client[_client_key(client)] < self.limits.per_client
        )

    def refuse(self) -> None:
        """One was not."""
        self.refused += 1
        self._untold += 1

    def add(self, stream: TcpVisitor) -> None:
        """A stream has begun."""
        self.streams.add(stream)
        self._by_client[_client_key(stream.client)] += 1

    def discard(self, stream: TcpVisitor) -> None:
        """A connection has ended."""
        if stream in self.streams:
            self.streams.discard(stream)
            key = _client_key(stream.client)
            self._by_client[key] -= 1
            if not self._by_client[key]:
                del self._by_client[key]

    def look(self) -> None:
        """Once a tick."""
        for stream in tuple(self.streams):
            stream.look()
        if self._untold:
            # A line for each would be the attacker's to write.
            log.warning(
                "connections were turned away: the limits of a public port are reached",
                extra={"route": self.name, "count": self._untold, "open": len(self.streams)},
            )
            self._untold = 0


class TcpVisitor(StreamServer, asyncio.BufferedProtocol):
    """One visitor's connection, of a group. Made by `TcpStreams`."""

    def __init__(self, turn: LoopTurn, group: StreamGroup, client: str) -> None:
        super().__init__(turn)
        self.client = client
        self._group = group
        self._sending = SendWatch()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._group.add(self)
        super().connection_made(transport)

    def connection_lost(self, reason: Exception | None) -> None:
        self._group.discard(self)
        super().connection_lost(reason)

    def break_off(self) -> None:
        """With a reset: an end (FIN) would make what has come look complete."""
        if self.transport is not None:
            make_reset(self.transport)
        super().break_off()

    def look(self) -> None:
        """Once a tick: time out what waits too long."""
        limits = self._group.limits
        self.sweep(limits.connect_seconds, limits.idle_seconds)
        if self._sending.is_stuck(self):
            self.break_off()


class Accepting(asyncio.Protocol):
    """A connection until it is there."""

    def __init__(self, accept: Callable[[asyncio.Transport], object]) -> None:
        self._accept = accept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as asyncio's.
        self._accept(cast("asyncio.Transport", transport))


class TcpStreams:
    """Carries accepted TCP connections down links. One for each data path.

    How to use it, with a transport whose bytes nobody else reads from now on::

        group = streams.group("sni:db.example.com", StreamLimits(connections=200))
        streams.carry(transport, "db.example.com", group, first=what_has_been_read)

    or with a socket of which nothing has been read::

        await loop.connect_accepted_socket(
            lambda: streams.accepting("db.example.com", group, client=address), sock
        )

    Limits, timeouts, both ends, logs and metrics are then seen to here.
    """

    def __init__(self, turn: LoopTurn, gateway: Gateway, *, location: str) -> None:
        self._turn = turn
        self._gateway = gateway
        self._location = location.upper().encode("ascii")
        self._groups: dict[str, StreamGroup] = {}
        self._former = Counters()
        """What groups have counted that are no more."""
        self._former_refused = 0
        self._leaving: set[str] = set()
        self.telling = TellingWho()
        self._stopping = False
        self._emptied = asyncio.Event()

    def group(self, name: str, limits: StreamLimits = DEFAULT_LIMITS) -> StreamGroup:
        """The group of that name, with these limits from now on."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = StreamGroup(name, limits)
            if len(self._groups) == 1:
                self._turn.on_tick.add(self._look)
        self._leaving.discard(name)
        group.limits = limits
        return group

    def drop_group(self, name: str) -> None:
        """Nothing new comes to a group; what runs goes on. One that is not there is no error."""
        if name in self._groups:
            self._leaving.add(name)
            self._forget_left()

    def carry(
        self,
        transport: asyncio.Transport,
        hostname: str,
        group: StreamGroup,
        *,
        first: bytes = b"",
        client: str | None = None,
    ) -> TcpVisitor | None:
        """Carry an accepted connection to whoever serves `hostname`, as bytes. None: it has been
        closed, because of the group's limits.

        Args:
            transport: gets a new protocol; nothing but `first` may have been read from it.
            hostname: normalized. One that no route leads from ends the stream with a reset.
            first: what has been read already; sent before anything else.
            client: the visitor's address, where somebody trusted knows better than the socket.
        """
        if client is None:
            peer = transport.get_extra_info("peername")
            client = str(peer[0]) if peer else "0.0.0.0"  # noqa: S104
        client = plain_address(client)
        if self._stopping or not group.admits(client):
            if not self._stopping:
                group.refuse()
            make_reset(transport)
            transport.abort()
            return None
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):  # it is gone already, which will be told
                keep_alive(sock, KEEPALIVE_SECONDS)
        visitor = TcpVisitor(self._turn, group, client)
        transport.set_protocol(visitor)
        visitor.connection_made(transport)
        acceptor = VisitorAcceptor(
            lambda exchange: self._route(exchange, hostname, group),
            group.counters,
            self._unexpected,
            self._refused,
            client.encode("ascii"),
            b"http",
            self._location,
        )
        acceptor.again = self._gateway.steering.again
        acceptor.refusals = REFUSALS
        visitor.open(acceptor, hostname.encode("ascii"), first)
        return visitor

    def accepting(
        self, hostname: str, group: StreamGroup, *, client: str | None = None
    ) -> asyncio.Protocol:
        """A protocol for a connection that is about to be made, and is then carried."""
        return Accepting(lambda transport: self.carry(transport, hostname, group, client=client))

    def _route(self, exchange: VisitorExchange, hostname: str, group: StreamGroup) -> None:
        # One that is sent again is the same stream.
        if exchange.on_over is None:
            exchange.on_over = lambda ended: self._over(ended, hostname, group)
        self._gateway.route(exchange)
        # Limits of content are about requests.
        exchange.limit_body(-1)

    def _refused(self, exchange: VisitorExchange, status: int, cause: str) -> None:
        if exchange.told:
            self._gateway.steering.note_failure(exchange, cause)
        exchange.respond(status, ())

    def _over(self, exchange: VisitorExchange, hostname: str, group: StreamGroup) -> None:
        cause = exchange.cause
        if cause is not None:
            if exchange.told:
                self.telling.note(cause)
            hop = hop_of(cause, Speaker.CONNECTOR if exchange.told else Speaker.EDGE)
            # What visitors do by themselves is theirs.
            log.log(
                logging.DEBUG if cause == "reset_by_client" else logging.INFO,
                "a stream was broken off",
                extra={
                    "cause": cause,
                    "hop": hop.value,
                    "host": hostname,
                    "route": group.name,
                    "client": exchange.visitor.decode("ascii"),
                    "cfRay": exchange.ray.decode("ascii"),
                },
            )
        if self._gateway.access_log is not None:
            self._gateway.access_log.note_stream(exchange, hostname)

    def _unexpected(self, exchange: Exchange, error: Exception) -> None:
        log.error("unexpected error while routing a stream", exc_info=error)

    @property
    def groups(self) -> tuple[StreamGroup, ...]:
        """All there are, for metrics."""
        return tuple(self._groups.values())

    def counters(self) -> Counters:
        """Of all groups together, those included that are no more."""
        total = Counters()
        total.absorb(self._former)
        for group in self._groups.values():
            total.absorb(group.counters)
        return total

    @property
    def refused(self) -> int:
        """Connections turned away because of limits, so far."""
        return self._former_refused + sum(group.refused for group in self._groups.values())

    @property
    def count(self) -> int:
        """Connections open now."""
        return sum(len(group.streams) for group in self._groups.values())

    def _look(self) -> None:
        for group in tuple(self._groups.values()):
            group.look()
        self._forget_left()
        if not self.count:
            self._emptied.set()

    def _forget_left(self) -> None:
        for name in tuple(self._leaving):
            group = self._groups[name]
            if not group.streams:
                self._leaving.discard(name)
                del self._groups[name]
                self._former.absorb(group.counters)
                self._former_refused += group.refused
        if not self._groups:
            self._turn.on_tick.discard(self._look)

    async def drain(self, seconds: float) -> None:
        """Return when there are no streams any more, or after `seconds`."""
        self._emptied.clear()
        if self.count:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)

    async def stop(self, seconds: float) -> None:
        """Carry no more; let streams go on for so long; break off what is left."""
        self._stopping = True
        self._emptied.clear()
        if self.count and seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)
        for group in self._groups.values():
            for stream in tuple(group.streams):
                stream.break_off()
        self._turn.on_tick.discard(self._look)


def make_reset(transport: asyncio.Transport) -> None:
    """Have the close of a connection be a reset (RST)."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # it is gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _client_key(client: str) -> str:
    """What counts as one client: who has an IPv6 address mostly has 2^64 of them."""
    if ":" not in client:
        return client
    address = ipaddress.IPv6Address(client)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
