"""Upgraded connections: an exchange whose answer turns it into a pipe, as the edge's does."""

from __future__ import annotations

from rig.exchanges import Call
from rig.http1 import Visitor
from underpass.core.headerblock import serialize_pairs
from underpass.core.relay import Counters
from underpass.core.tunnel import VisitorAcceptor, VisitorExchange

__all__ = ["upgraded"]


def upgraded(text: bytes, *, end_first: bool = False) -> tuple[Visitor, Call]:
    """A visitor who sent `text`, beginning with a request to upgrade, and whom a connector answered
    as one answers an upgrade; `end_first`: it had ended its direction by then."""
    calls: list[Call] = []

    def handle(exchange: VisitorExchange) -> None:
        call = Call(exchange)
        call.join()
        calls.append(call)

    acceptor = VisitorAcceptor(handle, Counters(), None, None, b"192.0.2.1", b"http")
    visitor = Visitor(acceptor=acceptor)
    visitor.send(text)
    if end_first:
        visitor.transport.end()
    block = serialize_pairs([(b"upgrade", b"websocket")])
    calls[0].side.send_response(200, [(b"cf-cloudflared-response-headers", block)])
    visitor.loop.run()
    return visitor, calls[0]
