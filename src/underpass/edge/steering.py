"""The way of a request where there is a choice: pools that have to see it, links that do not take
it, connectors that could not carry it on. What has none never comes here (`Gateway.route`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from underpass.core.fields import Fields
from underpass.core.relay import Exchange
from underpass.core.tunnel import VisitorExchange
from underpass.edge.link_details import CarriedBy
from underpass.edge.links import EdgeLink
from underpass.edge.origin_health import UNREACHABLE
from underpass.edge.pools import COOKIE, Pool, cookie_in
from underpass.edge.remote import RemoteLink
from underpass.edge.router import Link, NoLink, Router, UnknownHost
from underpass.edge.store.records import Sticky
from underpass.edge.waiting import WaitingRoom

__all__ = ["Steering"]


class Steering:
    """Of one gateway.

    Args:
        route: routes a request anew, as any other.
        room: where requests wait for a link that is about to come; None: nowhere.
    """

    def __init__(
        self,
        router: Router,
        route: Callable[[VisitorExchange], None],
        room: WaitingRoom | None = None,
    ) -> None:
        self._router = router
        self._route = route
        self._room = room

    def by_pool(self, pool: Pool, exchange: VisitorExchange) -> None:
        """Route a request that the pool has to see."""
        cookie = None
        if pool.sticky is Sticky.COOKIE and exchange.request is not None:
            cookie = cookie_in(exchange.request.get_all(b"cookie"))
        chosen = pool.choose_for(exchange.visitor, cookie)
        if isinstance(chosen, NoLink):
            tunnels = [destination.no_link.tunnel_id for destination in pool.destinations]
            self.wait(exchange, tunnels, "no_link")
            return
        links = [chosen]
        for link in links:
            _prepare(exchange, link, pool, cookie)
            if _forward_exactly(link, exchange):
                return
            if len(links) == 1:
                links += pool.alternatives(chosen)
        self.wait(exchange, [link.tunnel_id for link in links], "link_full")

    def wait(self, exchange: VisitorExchange, tunnels: Sequence[UUID], cause: str) -> None:
        """Until one of these tunnels has a link that is about to come; else it fails."""
        if exchange.context is None:
            # Whose failure it is, if it is one.
            exchange.context = CarriedBy(tunnels[0])
        room = self._room
        if room is None or not any(room.hold(each, exchange, self._route) for each in tunnels):
            exchange.fail(503, cause)

    def by_another(self, refused: EdgeLink | RemoteLink, exchange: VisitorExchange) -> None:
        """The link that was chosen takes no more: it is full, or about to close."""
        for link in self._router.alternatives(exchange.authority, refused):
            if isinstance(link, EdgeLink | RemoteLink):
                exchange.context = link
                if link.forward(exchange):
                    return
        self.wait(exchange, [refused.tunnel_id], "link_full")

    def again(self, exchange: VisitorExchange) -> None:
        """Route a request whose link was lost, or whose connector could not carry it on."""
        refused, cause = exchange.context, exchange.refusal
        exchange.refusal = None
        outcome = self._router.route(exchange.authority)
        if isinstance(outcome, UnknownHost) or refused is None:
            # Of the management host, whose requests are for one connector.
            if cause is None:
                self._route(exchange)
            else:
                exchange.fail(exchange.refusal_status, cause)
            return
        pool = outcome if isinstance(outcome, Pool) else None
        is_certain, on_answer = _is_certain(exchange), exchange.on_answer
        others = [
            link
            for link in self._router.alternatives(exchange.authority, refused)
            if not _shares_fate(link, refused, by_connector=cause in UNREACHABLE)
        ]
        # A connector's links are often lost together, and heard of one after the other.
        others.sort(key=lambda link: link.connector_id == refused.connector_id)
        for link in others:
            _prepare(exchange, link, pool, None)
            if _forward_exactly(link, exchange):
                if cause in UNREACHABLE:
                    self._router.unreachable(exchange.authority, refused, is_certain=is_certain)
                return
        exchange.context, exchange.on_answer = refused, on_answer
        if cause is not None:
            exchange.fail(exchange.refusal_status, cause)
        else:
            self.wait(exchange, [refused.tunnel_id], "link_full" if others else "no_link")

    def note_failure(self, exchange: VisitorExchange, cause: str) -> None:
        """A connector has said why it could not carry a request on, and that is the answer."""
        link = exchange.context
        if cause in UNREACHABLE and isinstance(link, EdgeLink | RemoteLink):
            is_certain = _is_certain(exchange)
            self._router.unreachable(exchange.authority, link, is_certain=is_certain)


def _prepare(
    exchange: VisitorExchange, link: Link, pool: Pool | None, cookie: bytes | None
) -> None:
    """Before a request that came with `cookie` goes down a link."""
    exchange.context = link
    exchange.set_cookie = exchange.on_answer = None
    if pool is None:
        return
    if pool.sticky is Sticky.COOKIE:
        wanted = pool.cookie_for(link)
        if wanted != cookie:
            exchange.set_cookie = _set_cookie(wanted, exchange.acceptor.scheme)
    if pool.health.is_watching:
        exchange.on_answer = _noting(pool, link)


def _forward_exactly(link: Link, exchange: VisitorExchange) -> bool:
    """Send a request down this link; where another process has it, down one of its connector."""
    if isinstance(link, RemoteLink):
        return link.forward_exactly(exchange)
    return isinstance(link, EdgeLink) and link.forward(exchange)


def _is_certain(exchange: VisitorExchange) -> bool:
    """Whether a request has gone by the connector of its link, and not by another one that the same
    process has: whoever is looked at goes by exactly that."""
    return isinstance(exchange.context, EdgeLink) or exchange.on_answer is not None


def _shares_fate(link: Link, refused: Link, *, by_connector: bool) -> bool:
    """Whether what one link could not do is of no use to ask of another: if its connector said so,
    of that one; if its process did, of those that have this tunnel there."""
    if by_connector:
        return link.connector_id == refused.connector_id
    return link is refused or (
        isinstance(link, RemoteLink)
        and isinstance(refused, RemoteLink)
        and (link.worker, link.tunnel_id) == (refused.worker, refused.tunnel_id)
    )


def _set_cookie(value: bytes, scheme: bytes) -> bytes:
    secure = b"; Secure" if scheme == b"https" else b""
    return b"%s=%s; Path=/; HttpOnly; SameSite=Lax%s" % (COOKIE, value, secure)


def _noting(pool: Pool, link: Link) -> Callable[[Exchange, int, Fields], None]:
    """What is called when an application has answered by `link`."""

    def answered(exchange: Exchange, status: int, fields: Fields) -> None:
        pool.health.answered(link.connector_id)

    return answered
