"""HTTP/1.1 connections in memory: a visitor before our server, our client before an origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rig.exchanges import Application, Call, Client
from rig.peer import Peer, connect
from rig.transport import ManualLoop
from underpass.core.fields import Fields
from underpass.core.http1client import Http1Client, OriginPool
from underpass.core.http1server import Http1Server
from underpass.core.relay import Acceptor, Counters, Exchange
from underpass.core.tunnel import EdgeExchange

__all__ = ["Dials", "Server", "Visit", "Visitor", "respond", "visit"]


class Server(Http1Server):
    """Can be referred to weakly, and remembers that it has ended."""

    gone: bool = False

    def disconnected(self, reason: Exception | None) -> None:
        assert not self.gone, "disconnected twice"
        self.gone = True


class Visitor:
    """A visitor's connection to our server, behind which an `Application` stands."""

    def __init__(
        self,
        on_call: Callable[[Call], None] | None = None,
        *,
        max_head: int = 32768,
        scheme: bytes = b"http",
        loop: ManualLoop | None = None,
        acceptor: Acceptor | None = None,
    ) -> None:
        self.loop = loop if loop is not None else ManualLoop()
        self.app = Application(on_call)
        acceptor = acceptor if acceptor is not None else self.app.acceptor
        self.server = Server(self.loop.turn, acceptor, scheme, max_head)
        self.transport = connect(self.loop, self.server)

    def send(self, *pieces: bytes) -> None:
        """Send pieces, each in a turn of its own."""
        for piece in pieces:
            self.transport.feed(piece)
            self.loop.run()

    def read(self) -> bytes:
        """What has come back since the last time."""
        self.loop.run()
        return self.transport.take()

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        self.loop.run()
        return self.transport.closed


@dataclass(frozen=True)
class Visit:
    """What became of bytes a visitor sent: the requests read, and how the connection stands."""

    heads: tuple[tuple[tuple[bytes, bytes], ...], ...]
    bodies: tuple[bytes, ...]
    ended: tuple[bool, ...]
    refused: int
    closed: bool


def visit(pieces: Iterable[bytes], *, max_head: int = 32768) -> Visit:
    """Send `pieces` to a server that answers every complete request with 204."""

    def answer(call: Call) -> None:
        call.join()
        if call.exchange.has_body or call.exchange.wants_upgrade:
            ended = call.side.on_end

            def at_end() -> None:
                ended()
                call.side.send_response(204, (), True)

            call.side.on_end = at_end
        else:
            call.side.send_response(204, (), True)

    visitor = Visitor(answer, max_head=max_head)
    visitor.send(*pieces)
    visitor.loop.run()
    calls = visitor.app.calls
    answers = visitor.transport.written.split(b"HTTP/1.1 ")[1:]
    refused = next((int(text[:3]) for text in answers if text[:3] >= b"400"), 0)
    return Visit(
        tuple(tuple(call.head) for call in calls),
        tuple(call.body for call in calls),
        tuple(call.ended or not call.exchange.has_body for call in calls),
        refused,
        visitor.closed,
    )


class Outgoing(EdgeExchange):
    """An exchange whose failures are answered, as a connector answers them; keeps the cause."""

    cause: str | None = None

    def fail(self, status: int, cause: str) -> None:
        self.cause = cause
        Exchange.fail(self, status, cause)


class Connection(Http1Client):
    """Can be referred to weakly."""


class Dials:
    """A pool whose connections are made when the test says so, unless `at_once`."""

    def __init__(
        self,
        loop: ManualLoop | None = None,
        *,
        at_once: bool = True,
        max_idle: int = 100,
        max_dials: int = 512,
    ) -> None:
        self.loop = loop if loop is not None else ManualLoop()
        self.at_once = at_once
        self.pool = OriginPool(self._dial, max_idle, max_dials=max_dials)
        self.counters = Counters()
        self.asked = 0
        self.transports: list[Peer] = []
        self.connections: list[Connection] = []

    def _dial(self) -> None:
        self.asked += 1
        if self.at_once:
            self.connect()

    def connect(self) -> Peer:
        """Make a connection asked for."""
        self.asked -= 1
        connection = Connection(self.loop.turn, self.pool)
        transport = connect(self.loop, connection)
        self.connections.append(connection)
        self.transports.append(transport)
        self.pool.arrived(connection)
        return transport

    def request(
        self,
        method: bytes = b"GET",
        path: bytes = b"/",
        pairs: Iterable[tuple[bytes, bytes]] = (),
        *,
        body: bytes | None = None,
        end: bool = True,
    ) -> Client:
        """Send a request: with `end` whole, else its head (and `body`, if any) alone."""
        head = Fields(
            [
                (b":method", method),
                (b":scheme", b"http"),
                (b":authority", b"origin.test"),
                (b":path", path),
                *pairs,
            ]
        )
        exchange = Outgoing(self.counters)
        client = Client(exchange)
        client.side.request(exchange, head)
        if end and body is None:
            client.side.end()
        self.pool.forward(exchange)
        if body is not None:
            client.side.write(body)
            if end:
                client.side.end()
        self.loop.run()
        return client

    @property
    def origin(self) -> Peer:
        """The origin's end of the last connection."""
        return self.transports[-1]


def respond(pieces: Iterable[bytes], method: bytes = b"GET") -> tuple[Client, Dials]:
    """Send a request of `method` to an origin that answers with `pieces`."""
    dials = Dials()
    client = dials.request(method)
    for piece in pieces:
        if dials.origin.lost:
            break
        dials.origin.feed(piece)
        dials.loop.run()
    return client, dials
