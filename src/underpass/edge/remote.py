"""Links that other processes of this edge hold, and a table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

from underpass.core.tunnel import PeerExchange, VisitorExchange
from underpass.edge.link_details import UNKNOWN_DETAILS, LinkDetails

__all__ = ["Presence", "RemoteLink"]


class RemoteLink:
    """A link in another process: `router.Link`, as far as this process needs it.

    Args:
        worker: the process that holds it.
        number: names it there.
        carry: hands an exchange to that process; False when that cannot be done now.
        ask: has that process find out whether the link is alive.
        beyond: the process is no worker beside this one, but belongs to another edge's process,
            which this one follows or is followed by.
    """

    load = 0
    """Not known here; the process that holds it knows."""

    def __init__(
        self,
        worker: int,
        number: int,
        tunnel_id: UUID,
        connector_id: UUID,
        conn_index: int,
        *,
        details: LinkDetails = UNKNOWN_DETAILS,
        carry: Callable[[VisitorExchange | PeerExchange], bool] | None = None,
        ask: Callable[[RemoteLink], None] | None = None,
        beyond: bool = False,
    ) -> None:
        self.beyond = beyond
        self.draining = False
        self.worker = worker
        self.number = number
        self.tunnel_id = tunnel_id
        self.connector_id = connector_id
        self.conn_index = conn_index
        self.details = details
        self._text = str(tunnel_id).encode("ascii")
        self._exact_text = b"%s %s" % (self._text, str(connector_id).encode("ascii"))
        self._carry = carry
        self._ask = ask

    def forward(self, exchange: VisitorExchange) -> bool:
        """Have that process carry `exchange` on, by any link of the tunnel. False if it cannot."""
        return self._forward(exchange, self._text)

    def forward_exactly(self, exchange: VisitorExchange) -> bool:
        """The same by a link of this connector, if there is one left."""
        return self._forward(exchange, self._exact_text)

    def _forward(self, exchange: VisitorExchange, whose: bytes) -> bool:
        if self._carry is None:
            return False
        exchange.via_tunnel = whose
        try:
            return self._carry(exchange)
        finally:
            # Should it be sent again, a link of our own may carry it.
            exchange.via_tunnel = None

    def pass_on(self, exchange: PeerExchange) -> bool:
        """The same with a request that another process has sent here."""
        if self._carry is None:
            return False
        exchange.pass_on(True)
        if self._carry(exchange):
            return True
        exchange.pass_on(False)
        return False

    def probe(self) -> None:
        """Have that process ask it for a sign of life."""
        if self._ask is not None:
            self._ask(self)


class Presence:
    """The links of other processes, by who holds them. Bounded by what those may hold."""

    def __init__(self) -> None:
        self._links: dict[tuple[int, int], RemoteLink] = {}

    def __iter__(self) -> Iterator[RemoteLink]:
        return iter(tuple(self._links.values()))

    def add(self, link: RemoteLink) -> None:
        """A link is there."""
        self._links[link.worker, link.number] = link

    def pop(self, worker: int, number: int) -> RemoteLink | None:
        """A link is gone; the link, if it was there."""
        return self._links.pop((worker, number), None)

    def pop_all(self, worker: int) -> list[RemoteLink]:
        """A process is gone; the links it had."""
        gone = [link for link in self._links.values() if link.worker == worker]
        for link in gone:
            del self._links[link.worker, link.number]
        return gone
