"""A tunnel as requests see it: the links that can carry one, and which of them is next."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from underpass.edge.link_details import LinkDetails

__all__ = ["Destination", "Link", "NoLink", "ids_of"]


class Link(Protocol):
    """What the router needs of a live connection to a connector."""

    draining: bool
    """Set by `Router.drain`: no new requests."""

    @property
    def tunnel_id(self) -> UUID: ...

    @property
    def connector_id(self) -> UUID:
        """The connector process (its `client_id`)."""
        ...

    @property
    def conn_index(self) -> int:
        """Numbers the links of one connector."""
        ...

    @property
    def load(self) -> int:
        """Requests in flight, or whatever else grows with work."""
        ...

    @property
    def details(self) -> LinkDetails:
        """What is told about it."""
        ...


@dataclass(frozen=True, slots=True)
class NoLink:
    """There is a route, but no connector that takes requests."""

    tunnel_id: UUID


class Destination:
    """The links of one tunnel. Changed by the router alone."""

    __slots__ = (
        "aside_beyond",
        "aside_elsewhere",
        "aside_here",
        "aside_ids",
        "beyond",
        "draining",
        "elsewhere",
        "hostnames",
        "links",
        "no_link",
        "numbered",
        "turn",
    )

    def __init__(self, tunnel_id: UUID) -> None:
        self.links: list[Link] = []
        self.turn = 0
        """Where in `links`, or `elsewhere`, the next search begins."""
        self.no_link = NoLink(tunnel_id)
        self.numbered: dict[tuple[UUID, int], Link] = {}
        """The links again, by connector and index."""
        self.draining: list[Link] = []
        self.elsewhere: list[Link] = []
        """Links that another process holds: they count, and serve while there are no others."""
        self.beyond: list[Link] = []
        """Links of another edge's process, which this one follows or is followed by: they hold no
        index here, and serve while there are no others at all."""
        self.aside_here: list[Link] = []
        self.aside_elsewhere: list[Link] = []
        self.aside_beyond: list[Link] = []
        """Links that are to get nothing new until somebody says otherwise."""
        self.aside_ids: set[UUID] = set()
        """The connectors, or connections, whose links those are."""
        self.hostnames: set[str] = set()

    @property
    def all_links(self) -> tuple[Link, ...]:
        """Every link, those that take requests first, then those of here."""
        return (
            *self.links,
            *self.aside_here,
            *self.draining,
            *self.elsewhere,
            *self.aside_elsewhere,
            *self.beyond,
            *self.aside_beyond,
        )

    @property
    def count(self) -> int:
        """How many there are in this edge's own processes."""
        return len(self.all_links) - len(self.beyond) - len(self.aside_beyond)

    @property
    def is_reachable(self) -> bool:
        """Whether a link takes requests."""
        return bool(self.links or self.elsewhere or self.beyond)

    @property
    def away(self) -> list[Link]:
        """Those that take requests in other processes, where there is none here."""
        return self.elsewhere or self.beyond

    def is_idle(self) -> bool:
        return not (self.hostnames or self.all_links)

    def keeps_aside(self, link: Link) -> bool:
        """Whether a link is to get nothing new."""
        return bool(self.aside_ids) and not self.aside_ids.isdisjoint(ids_of(link))

    def choose(self) -> Link | NoLink:
        """The link for the next request: the least loaded, turn by turn when several are."""
        links = self.links
        count = len(links)
        if count == 0:
            away = self.away
            return self._next_of(away) if away else self.no_link
        position = self.turn
        if position >= count:
            position = 0
        best = position
        least = links[best].load
        for _ in range(count - 1):
            if not least:
                break
            position += 1
            if position == count:
                position = 0
            load = links[position].load
            if load < least:
                best, least = position, load
        self.turn = best + 1
        return links[best]

    def choose_among(self, links: Sequence[Link]) -> Link:
        """The same among some of the links, one or more."""
        self.turn += 1
        count = len(links)
        return min((links[(self.turn + step) % count] for step in range(count)), key=_load)

    def serving(self, avoided: Collection[UUID] = ()) -> list[Link]:
        """The links that take requests, those of some connectors left out: of here if there are
        any, else those of other processes."""
        links = [link for link in self.links if link.connector_id not in avoided]
        return links or [link for link in self.away if link.connector_id not in avoided]

    def alternatives(self, refused: Link) -> list[Link]:
        """All that take requests but one, the best first."""
        links = [*sorted(self.links, key=_load), *self.elsewhere, *self.beyond]
        return [link for link in links if link is not refused]

    def connectors(self) -> Iterator[UUID]:
        """The connectors with a link that takes requests, some of them several times."""
        for links in (self.links, self.away):
            for link in links:
                yield link.connector_id

    def _next_of(self, links: Sequence[Link]) -> Link:
        """Turn by turn: how loaded they are is known to those who hold them."""
        self.turn = (self.turn + 1) % len(links)
        return links[self.turn]


def ids_of(link: Link) -> tuple[UUID, UUID]:
    """By which a link can be named: its connector, and itself."""
    return link.connector_id, link.details.connection_id


def _load(link: Link) -> int:
    return link.load
