# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""A visitor who sends and reads raw bytes, in WebSocket messages on the link."""

from typing import final

from underpass.core.endpoint import Endpoint
from underpass.core.relay import Side
from underpass.core.tunnel import VisitorAcceptor, VisitorExchange

@final
class StreamVisitor(Side):
    """The inbound side of the stream's exchange."""

class StreamServer(Endpoint):
    """One visitor's connection (TCP). `open` asks for the stream, `sweep` is to be called once a
    tick.

    The visitor is not read any further while the link owes 262,144 octets of its. The origin's end
    is passed on as one (FIN) when all has been written; what else ends a stream is `break_off`.
    """

    def open(
        self, acceptor: VisitorAcceptor, hostname: bytes, first: bytes = b""
    ) -> VisitorExchange:
        """Ask for a stream to whoever serves `hostname`; returns its exchange, which may be over.

        `first` has come from the visitor already. Once, after `connection_made`.
        """
    def break_off(self) -> None:
        """Close so that nobody takes it for a good end. Subclasses know how."""
    def sweep(self, connect_seconds: float, idle_seconds: float) -> None:
        """Give up what takes too long; for idle_seconds 0 is for ever. Measured by `Turn.tick`.

        connect_seconds: until the origin is there. idle_seconds: without a byte in either
        direction, after it.
        """
    @property
    def waits_for_visitor(self) -> bool:
        """True while the origin has said all, and the visitor has not yet."""
