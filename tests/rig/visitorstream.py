"""A visitor who speaks TCP, the edge and a link, in memory; the connector is played by the test."""

from __future__ import annotations

import base64
import hashlib

from rig.peer import Peer, connect
from rig.transport import ManualLoop
from underpass.core.h2 import H2Connection, Limits
from underpass.core.relay import Counters, PythonSide
from underpass.core.streamserver import StreamServer
from underpass.core.tunnel import (
    OriginAcceptor,
    OriginExchange,
    VisitorAcceptor,
    VisitorExchange,
)
from underpass.core.websocket import WebSocketStream

__all__ = ["ORIGIN_CLOSE", "VisitorStream", "accept_key", "server_frame"]

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HALF_CLOSE = b"half-close.underpass"


def accept_key(key: bytes) -> bytes:
    """RFC 6455 §4.2.2."""
    return base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())


def server_frame(payload: bytes, opcode: int = 2, *, final: bool = True) -> bytes:
    """A frame as a server sends it: not masked (RFC 6455 §5.1)."""
    size = len(payload)
    head = bytes(((0x80 if final else 0) | opcode,))
    if size < 126:
        return head + bytes((size,)) + payload
    if size < 65536:
        return head + b"\x7e" + size.to_bytes(2, "big") + payload
    return head + b"\x7f" + size.to_bytes(8, "big") + payload


ORIGIN_CLOSE = server_frame(b"\x03\xe8", 8)
"""Normal closure."""


class Server(StreamServer):
    """Can be referred to weakly."""

    def break_off(self) -> None:
        self.broken_off = True
        super().break_off()

    broken_off = False


class VisitorStream:
    """One visitor; `visitor` is what its connection got, `received` the frames on the link.

    Args:
        answers: the connector accepts the stream as soon as it is asked.
        agrees: it agrees to half-close.
        relays: a connector as ours is carries it on to `origin`; else the test is the connector.
        links: how many times the edge finds a link.
    """

    def __init__(
        self,
        *,
        answers: bool = True,
        agrees: bool = False,
        relays: bool = False,
        first: bytes = b"",
        links: int = 1,
        limits: Limits | None = None,
    ) -> None:
        self.loop = ManualLoop()
        self.counters = Counters()
        self.answers = answers
        self.agrees = agrees
        self.relays = relays
        self.links = links
        self.asked: list[OriginExchange] = []
        self.head: list[tuple[bytes, bytes]] = []
        self.origin: Peer
        self.side = PythonSide()
        self.side.keeps_credit = True
        self.received = b""
        self.said_end = False
        self.abandoned: int | None = None
        self._limits = limits or Limits()
        self._open_link()
        self.acceptor = VisitorAcceptor(
            self._to_link, self.counters, None, None, b"192.0.2.1", b"http", b"HERE"
        )
        self.server = Server(self.loop.turn)
        self.visitor = connect(self.loop, self.server)
        self.exchange: VisitorExchange = self.server.open(self.acceptor, b"ssh.example", first)
        self.run()

    def _open_link(self) -> None:
        self.edge = H2Connection(self.loop.turn)
        self.connector = H2Connection(self.loop.turn, OriginAcceptor(self._asked), self._limits)
        self.near = connect(self.loop, self.edge)
        self.far = connect(self.loop, self.connector)
        self.run()

    def _to_link(self, exchange: VisitorExchange) -> None:
        self.links -= 1
        if self.links < 0:
            exchange.fail(503, "no_link")
        elif not self.edge.forward(exchange):
            self._open_link()
            assert self.edge.forward(exchange)

    def _asked(self, exchange: OriginExchange) -> None:
        self.asked.append(exchange)
        assert exchange.request is not None
        self.head = list(exchange.request)
        if self.relays:
            connection = WebSocketStream(self.loop.turn)
            connection.half_closes = self.agrees
            self.origin = connect(self.loop, connection)
            connection.attach(exchange, self.handshake(), 101)
        elif self.answers:
            self.answer()

    def handshake(self) -> list[tuple[bytes, bytes]]:
        """What accepts the stream."""
        key = dict(self.head)[b"sec-websocket-key"]
        fields = [(b"upgrade", b"websocket"), (b"sec-websocket-accept", accept_key(key))]
        return [*fields, (b"sec-websocket-protocol", HALF_CLOSE)] if self.agrees else fields

    def answer(self) -> None:
        """The connector has reached the origin."""
        side = self.asked[-1].open_python_side()
        side.keeps_credit = True
        side.on_data = self._got
        side.on_end = self._ended
        side.on_abandoned = self._abandoned
        self.side = side
        side.send_response(101, self.handshake())
        self.asked[-1].deliver_waiting()

    def _got(self, data: bytes) -> None:
        self.received += data

    def _ended(self) -> None:
        self.said_end = True

    def _abandoned(self, code: int) -> None:
        self.abandoned = code

    def run(self) -> None:
        """Carry the link's bytes both ways until all is quiet."""
        while True:
            self.loop.run()
            down, up = self.near.take(), self.far.take()
            if not down and not up:
                return
            if not self.far.closed:
                self.far.feed(down)
            if not self.near.closed:
                self.near.feed(up)

    def say(self, data: bytes) -> None:
        """The visitor sends."""
        self.visitor.feed(data)
        self.run()

    def write(self, data: bytes) -> None:
        """The connector sends these bytes of frames."""
        self.side.write(data)
        self.run()

    def tick(self, seconds: float, *, connect: float = 40.0, idle: float = 0.0) -> None:
        """Let time pass, a tick a second."""
        for _ in range(int(seconds)):
            self.loop.now += 1.0
            self.loop.turn.tick()
            self.server.sweep(connect, idle)
            self.run()

    def take(self) -> bytes:
        """All that came is done with; returns it."""
        taken, self.received = self.received, b""
        self.side.take(len(taken))
        self.run()
        return taken
