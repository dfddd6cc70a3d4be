"""From the authority of a request to a link that can carry it. Asked once per request.

A hostname leads to a tunnel, a tunnel has the links that its connectors hold. Exact names come
before wildcards, a longer wildcard before a shorter one; `*.suffix` matches any depth below
`suffix`, not `suffix` itself. Among a tunnel's links the least loaded is taken, turn by turn when
several are.

The router belongs to one event loop and does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias
from uuid import UUID

from underpass.edge.errors import EdgeError
from underpass.edge.hostnames import MAX_AUTHORITY_LENGTH, hostname_of
from underpass.edge.link_details import LinkDetails

MAX_LINKS_PER_TUNNEL: Final = 128
"""Links one tunnel may hold: 32 connectors with the usual four. Bounds the search of `route`."""

MAX_CACHED_AUTHORITIES: Final = 4096
"""Spellings of served hosts whose tunnel is remembered (port, case, names under a wildcard): about
1 MB at the longest. When full it is emptied, which costs each spelling one look-up."""

MANAGEMENT_HOST: Final = "management.argotunnel.com"

MANAGEMENT_HOSTS: Final = frozenset({MANAGEMENT_HOST, "management.fed.argotunnel.com"})
"""Connectors answer these themselves and trust the edge to have verified the token (docs: wire
protocol §6.5), so no route, wildcard or not, may ever lead there."""


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
class UnknownHost:
    """No route for the host. There is only `UNKNOWN_HOST`."""


@dataclass(frozen=True, slots=True)
class NoLink:
    """There is a route, but no connector that takes requests."""

    tunnel_id: UUID


UNKNOWN_HOST: Final = UnknownHost()

RouteOutcome: TypeAlias = Link | NoLink | UnknownHost


class DuplicateLink(EdgeError):  # noqa: N818 - what connectors know as EDUPCONN
    """The connector holds a live link with this index."""

    def __init__(self, holder: Link) -> None:
        super().__init__(
            f"connector {holder.connector_id} holds a link with index {holder.conn_index} already"
        )
        self.holder = holder


class TooManyLinks(EdgeError):  # noqa: N818 - a limit, not a fault
    """The tunnel holds MAX_LINKS_PER_TUNNEL links."""


class _Destination:
    """A tunnel as the router sees it."""

    __slots__ = (
        *("beyond", "draining", "elsewhere", "hostnames", "links", "no_link", "numbered", "turn"),
    )

    def __init__(self, tunnel_id: UUID) -> None:
        self.links: list[Link] = []
        self.turn = 0
        """Where in `links` the next search begins."""
        self.no_link = NoLink(tunnel_id)
        self.numbered: dict[tuple[UUID, int], Link] = {}
        """The links again, by connector and index."""
        self.draining: list[Link] = []
        self.elsewhere: list[Link] = []
        """Links that another process holds: they count, and serve while there are no others."""
        self.beyond: list[Link] = []
        """Links of another edge's process, which this one follows or is followed by: they hold no
        index here, and serve while there are no others at all."""
        self.hostnames: set[str] = set()

    @property
    def count(self) -> int:
        return len(self.links) + len(self.draining) + len(self.elsewhere)

    def is_idle(self) -> bool:
        return not (self.links or self.draining or self.elsewhere or self.beyond or self.hostnames)


class Router:
    """Routes, links, and the way from one to the other.

    Args:
        on_link_added: called with a link that takes requests from now on.
        on_link_removed: called with it when it takes no more, draining or gone.
    """

    def __init__(
        self,
        on_link_added: Callable[[Link], None] | None = None,
        on_link_removed: Callable[[Link], None] | None = None,
    ) -> None:
        self._reserved = MANAGEMENT_HOSTS
        self.on_link_added = on_link_added
        self.on_link_removed = on_link_removed
        self._destinations: dict[UUID, _Destination] = {}
        self._exact: dict[str, _Destination] = {}
        self._wildcards: dict[str, _Destination] = {}
        """By suffix, without the `*.`."""
        self._cache: dict[bytes, _Destination] = {}
        """By authority as spelt. Known hosts only: strangers' names must not fill it."""

    def route(self, authority: bytes) -> RouteOutcome:
        """The link to send a request for `authority` (host, optional port) down.

        Never raises, whatever the bytes are.
        """
        destination = self._cache.get(authority)
        if destination is None:
            destination = self._resolve(authority)
            if destination is None:
                return UNKNOWN_HOST
        links = destination.links
        count = len(links)
        if count == 1:
            return links[0]
        if count == 0:
            others = destination.elsewhere or destination.beyond
            if others:
                return self._next_elsewhere(destination, others)
            return destination.no_link
        position = destination.turn
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
        destination.turn = best + 1
        return links[best]

    def knows(self, hostname: str) -> bool:
        """Whether a route matches `hostname` (a name without port, in any case)."""
        name = hostname_of(hostname)
        return name is not None and self._lookup(name) is not None

    def reserve(self, hostname: str) -> None:
        """Let no route lead from a normalized hostname: the edge answers for it."""
        self._reserved |= {hostname}
        self._cache.clear()

    def put_route(self, hostname: str, tunnel_id: UUID) -> None:
        """Lead `hostname` (normalized; `*.suffix` for a wildcard) to a tunnel."""
        table, key = self._place(hostname)
        destination = self._destination(tunnel_id)
        previous = table.get(key)
        if previous is not None and previous is not destination:
            self._forget_route(hostname, previous)
        table[key] = destination
        destination.hostnames.add(hostname)
        self._cache.clear()

    def delete_route(self, hostname: str) -> None:
        """Take a route away. One that does not exist is no error: deletions may be replayed."""
        table, key = self._place(hostname)
        destination = table.pop(key, None)
        if destination is not None:
            self._forget_route(hostname, destination)
            self._cache.clear()

    def add_link(self, tunnel_id: UUID, link: Link) -> None:
        """Let a registered link take requests.

        Raises:
            DuplicateLink: the same connector's link with the same index is live. One that drains
                has given its index up.
            TooManyLinks: the tunnel has as many as it may.
        """
        destination = self._destinations.get(tunnel_id)
        if destination is not None:
            holder = destination.numbered.get((link.connector_id, link.conn_index))
            if holder is not None:
                raise DuplicateLink(holder)
            if destination.count >= MAX_LINKS_PER_TUNNEL:
                raise TooManyLinks(
                    f"tunnel {tunnel_id} has {MAX_LINKS_PER_TUNNEL} connections, as many as it may"
                )
        else:
            destination = self._destination(tunnel_id)
        destination.numbered[(link.connector_id, link.conn_index)] = link
        destination.links.append(link)
        if self.on_link_added is not None:
            self.on_link_added(link)

    def add_remote(self, link: Link) -> None:
        """Let a link that another process holds take requests while there is none here."""
        destination = self._destination(link.tunnel_id)
        # If one here has the index too, the process that has all of them in its table decides.
        destination.numbered.setdefault((link.connector_id, link.conn_index), link)
        destination.elsewhere.append(link)

    def add_beyond(self, link: Link) -> None:
        """Let a link serve that a process holds whose place this one takes, or which takes this
        one's, while there is no other. Its connector may have another with the same index here."""
        self._destination(link.tunnel_id).beyond.append(link)

    def drain(self, link: Link) -> None:
        """Send a link no new requests; it stays counted until `remove_link`."""
        link.draining = True
        destination = self._destinations.get(link.tunnel_id)
        if destination is not None and link in destination.links:
            self._take_out(link, destination)
            destination.draining.append(link)

    def remove_link(self, link: Link) -> None:
        """Forget a link that is gone. One that was never added, or is forgotten, is no error."""
        destination = self._destinations.get(link.tunnel_id)
        if destination is None:
            return
        if link in destination.links:
            self._take_out(link, destination)
        elif link in destination.draining:
            destination.draining.remove(link)
        elif link in destination.elsewhere:
            destination.elsewhere.remove(link)
            self._free_index(link, destination)
        elif link in destination.beyond:
            destination.beyond.remove(link)
        self._drop_if_idle(destination)

    def links_of(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """All links of a tunnel, those that drain and those of other processes last."""
        destination = self._destinations.get(tunnel_id)
        if destination is None:
            return ()
        return (
            *destination.links,
            *destination.draining,
            *destination.elsewhere,
            *destination.beyond,
        )

    def own_links(self) -> tuple[Link, ...]:
        """The links here that take requests, of all tunnels."""
        return tuple(
            link for destination in self._destinations.values() for link in destination.links
        )

    def own_links_of(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """The tunnel's links here that take requests."""
        destination = self._destinations.get(tunnel_id)
        return () if destination is None else tuple(destination.links)

    def links_beyond(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """The tunnel's links that were added by `add_beyond`."""
        destination = self._destinations.get(tunnel_id)
        return () if destination is None else tuple(destination.beyond)

    def tunnels_with_links(self) -> set[UUID]:
        """Those that have links here that take requests."""
        return {key for key, destination in self._destinations.items() if destination.links}

    def count_links(self) -> tuple[int, int]:
        """How many links there are, and how many tunnels that have some."""
        counts = [
            destination.count + len(destination.beyond)
            for destination in self._destinations.values()
        ]
        return sum(counts), sum(map(bool, counts))

    def _take_out(self, link: Link, destination: _Destination) -> None:
        destination.links.remove(link)
        self._free_index(link, destination)
        if self.on_link_removed is not None:
            self.on_link_removed(link)

    def _free_index(self, link: Link, destination: _Destination) -> None:
        key = (link.connector_id, link.conn_index)
        if destination.numbered.get(key) is link:
            del destination.numbered[key]

    def _next_elsewhere(self, destination: _Destination, others: list[Link]) -> Link:
        """Turn by turn: how loaded they are is known to those who hold them."""
        destination.turn = (destination.turn + 1) % len(others)
        return others[destination.turn]

    def _resolve(self, authority: bytes) -> _Destination | None:
        if len(authority) > MAX_AUTHORITY_LENGTH:
            return None
        name = hostname_of(authority)
        destination = None if name is None else self._lookup(name)
        if destination is not None:
            if len(self._cache) >= MAX_CACHED_AUTHORITIES:
                self._cache.clear()
            self._cache[bytes(authority)] = destination
        return destination

    def _lookup(self, name: str) -> _Destination | None:
        if name in self._reserved:
            return None
        destination = self._exact.get(name)
        if destination is not None or not self._wildcards:
            return destination
        # Label by label; a name has at most 127.
        start = name.find(".")
        while start >= 0:
            destination = self._wildcards.get(name[start + 1 :])
            if destination is not None:
                return destination
            start = name.find(".", start + 1)
        return None

    def _place(self, hostname: str) -> tuple[dict[str, _Destination], str]:
        if hostname.startswith("*."):
            return self._wildcards, hostname[2:]
        return self._exact, hostname

    def _destination(self, tunnel_id: UUID) -> _Destination:
        destination = self._destinations.get(tunnel_id)
        if destination is None:
            destination = self._destinations[tunnel_id] = _Destination(tunnel_id)
        return destination

    def _forget_route(self, hostname: str, destination: _Destination) -> None:
        destination.hostnames.discard(hostname)
        self._drop_if_idle(destination)

    def _drop_if_idle(self, destination: _Destination) -> None:
        if destination.is_idle():
            self._destinations.pop(destination.no_link.tunnel_id, None)
