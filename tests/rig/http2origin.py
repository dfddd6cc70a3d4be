"""HTTP/2 origins behind a pool of ours: raw servers, one for each connection it makes."""

from __future__ import annotations

from collections.abc import Iterable

from rig.http1 import Connection as Http1Connection
from rig.http1 import Outgoing
from rig.http2 import RawServer, settings
from rig.peer import Peer
from rig.peer import connect as connect_http1
from rig.transport import ManualLoop
from underpass.core.fields import Fields
from underpass.core.h2 import Limits
from underpass.core.http1client import OriginPool
from underpass.core.http2client import Http2Client, Http2Pool
from underpass.core.relay import Counters, PythonSide

__all__ = ["Ask", "OriginServer", "Origins"]

Pairs = Iterable[tuple[bytes, bytes]]


class Session(Http2Client):
    """Can be referred to weakly."""


class OriginServer(RawServer):
    """The origin's end of one connection of the pool."""

    def __init__(self, loop: ManualLoop, client: Http2Client) -> None:
        self.counters = Counters()
        self._attach(loop, client)

    def streams(self) -> dict[int, list[tuple[bytes, bytes]]]:
        """Request heads since the last call, by stream."""
        return {each.stream: list(each.fields) for each in self.sent() if each.fields is not None}


class Ask:
    """A request, and what came of it."""

    def __init__(self, counters: Counters, fields: Pairs) -> None:
        self.exchange = Outgoing(counters)
        self.statuses: list[int] = []
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.ended = False
        self.abandoned: int | None = None
        self.side = PythonSide()
        self.side.on_head = self._head
        self.side.on_data = self.body.extend
        self.side.on_end = self._end
        self.side.on_abandoned = self._abandon
        self.side.request(self.exchange, Fields(list(fields)))

    def _head(self, status: int, fields: Pairs) -> None:
        self.statuses.append(status)
        self.fields = list(fields)

    def _end(self) -> None:
        assert not self.ended, "ended twice"
        self.ended = True

    def _abandon(self, code: int) -> None:
        assert self.abandoned is None, "abandoned twice"
        self.abandoned = code

    @property
    def cause(self) -> str | None:
        """Why it failed, if it did."""
        return self.exchange.cause


class Origins:
    """A pool whose dials are answered by the test: `connect`, `connect_http1` or `refuse`."""

    def __init__(
        self, *, limits: Limits | None = None, max_idle: int = 100, max_sessions: int = 64
    ) -> None:
        self.loop = ManualLoop()
        self.asked = 0
        self.upgrades_asked = 0
        self.limits = limits
        self.upgrades = OriginPool(self._dial_upgrade)
        self.pool = Http2Pool(
            self._dial, self.upgrades, max_idle, idle_timeout=90.0, max_sessions=max_sessions
        )
        self.counters = Counters()
        self.servers: list[OriginServer] = []

    def _dial(self) -> None:
        self.asked += 1

    def _dial_upgrade(self) -> None:
        self.upgrades_asked += 1

    def connect(self, *pairs: tuple[int, int]) -> OriginServer:
        """Answer a dial with an HTTP/2 connection whose SETTINGS are `pairs`."""
        assert self.asked, "nothing was dialled"
        self.asked -= 1
        client = Session(self.loop.turn, self.pool, b"https", self.limits)
        server = OriginServer(self.loop, client)
        server.feed(settings(*pairs))
        self.servers.append(server)
        self.pool.arrived(client)
        return server

    def connect_http1(self) -> Peer:
        """Answer a dial with an HTTP/1.1 connection."""
        assert self.asked, "nothing was dialled"
        self.asked -= 1
        connection = Http1Connection(self.loop.turn, self.pool)
        transport = connect_http1(self.loop, connection)
        self.pool.arrived(connection)
        self.loop.run()
        return transport

    def refuse(self, cause: str = "dial", waited_since: int | None = None) -> None:
        """Answer a dial with a failure."""
        assert self.asked, "nothing was dialled"
        self.asked -= 1
        self.pool.dial_failed(502, cause, None, waited_since)

    def request(
        self,
        method: bytes = b"GET",
        pairs: Pairs = (),
        *,
        body: bytes | None = None,
        end: bool = True,
        authority: bytes = b"origin.test",
    ) -> Ask:
        """Send a request: with `end` whole, else its head (and `body`, if any) alone."""
        ask = Ask(
            self.counters,
            [
                (b":method", method),
                (b":scheme", b"http"),
                (b":authority", authority),
                (b":path", b"/p?q"),
                *pairs,
            ],
        )
        if end and body is None:
            ask.side.end()
        self.pool.forward(ask.exchange)
        if body is not None:
            ask.side.write(body)
            if end:
                ask.side.end()
        self.loop.run()
        return ask

    def tick(self, seconds: float = 1.0) -> None:
        """Time passes, and the pool is swept once."""
        self.loop.now += seconds
        self.loop.turn.tick()
        self.pool.sweep(self.loop.turn.coarse)
        self.loop.run()
