"""A whole tunnel in memory: visitor, edge, link, connector, origin."""

from __future__ import annotations

from rig.http1 import Dials, Visitor
from rig.peer import connect
from rig.transport import ManualLoop
from underpass.core.h2 import H2Connection
from underpass.core.relay import Counters
from underpass.core.tunnel import (
    OriginAcceptor,
    OriginExchange,
    VisitorAcceptor,
    VisitorExchange,
)

__all__ = ["Tunnel"]


class Tunnel:
    """`visitor` sends and reads; `dials.origin` is the origin's last connection."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.dials = Dials(self.loop)
        self.at_connector = OriginAcceptor(self._to_origin, Counters(), None, b"connector")
        self.at_edge = VisitorAcceptor(
            self._to_link, Counters(), None, None, b"192.0.2.1", b"https"
        )
        self._edge = H2Connection(self.loop.turn)
        self._connector = H2Connection(self.loop.turn, self.at_connector)
        self._near = connect(self.loop, self._edge)
        self._far = connect(self.loop, self._connector)
        self.visitor = Visitor(loop=self.loop, acceptor=self.at_edge, scheme=b"https")
        self.run()

    @property
    def streams(self) -> int:
        """Streams open on the link, both ends counted."""
        return self._edge.active + self._connector.active

    def _to_link(self, exchange: VisitorExchange) -> None:
        assert self._edge.forward(exchange)

    def _to_origin(self, exchange: OriginExchange) -> None:
        self.dials.pool.forward(exchange)

    def run(self) -> None:
        """Carry the link's bytes both ways until all is quiet."""
        while True:
            self.loop.run()
            down, up = self._near.take(), self._far.take()
            if not down and not up:
                return
            self._far.feed(down)
            self._near.feed(up)

    def request(self, *pieces: bytes) -> bytes:
        """What the origin gets when the visitor sends `pieces`."""
        for piece in pieces:
            self.visitor.send(piece)
        self.run()
        return b"".join(transport.take() for transport in self.dials.transports)

    def respond(self, *pieces: bytes, end: bool = False) -> bytes:
        """What the visitor gets when the origin sends `pieces`, and perhaps ends."""
        for piece in pieces:
            self.dials.origin.feed(piece)
            self.run()
        if end:
            self.dials.origin.end()
            self.run()
        return self.visitor.transport.take()
