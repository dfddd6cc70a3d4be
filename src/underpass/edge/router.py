"""From the authority of a request to a link that can carry it. Asked once per request.

A hostname leads to a tunnel, or to a pool of several (`pools.py`); a tunnel has the links that its
connectors hold. Exact names come before wildcards, a longer wildcard before a shorter one;
`*.suffix` matches any depth below `suffix`, not `suffix` itself. Among a tunnel's links the least
loaded is taken, turn by turn when several are.

The router belongs to one event loop and does no I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from underpass.edge.destinations import Destination, Link, NoLink, ids_of
from underpass.edge.errors import EdgeError
from underpass.edge.hostnames import MAX_AUTHORITY_LENGTH, hostname_of
from underpass.edge.origin_health import ConnectorHealth
from underpass.edge.pools import Pool
from underpass.edge.store.records import Sticky, Target

__all__ = [
    "MANAGEMENT_HOST",
    "MANAGEMENT_HOSTS",
    "MAX_ASIDE",
    "MAX_CACHED_AUTHORITIES",
    "MAX_LINKS_PER_TUNNEL",
    "MAX_WATCHED",
    "UNKNOWN_HOST",
    "DuplicateLink",
    "Link",
    "NoLink",
    "RouteOutcome",
    "Router",
    "TooManyLinks",
    "UnknownHost",
]

MAX_LINKS_PER_TUNNEL: Final = 128
"""Links one tunnel may hold: 32 connectors with the usual four. Bounds the search of `route`."""

MAX_CACHED_AUTHORITIES: Final = 4096
"""Spellings of served hosts whose tunnel is remembered (port, case, names under a wildcard): about
1 MB at the longest. When full it is emptied, which costs each spelling one look-up."""

MAX_ASIDE: Final = 2 * MAX_LINKS_PER_TUNNEL
"""Connectors and connections of one tunnel that are kept aside."""

MAX_WATCHED: Final = 1024
"""Hostnames at once that have connectors in trouble; others' troubles are not noted meanwhile."""

MANAGEMENT_HOST: Final = "management.argotunnel.com"

MANAGEMENT_HOSTS: Final = frozenset({MANAGEMENT_HOST, "management.fed.argotunnel.com"})
"""Connectors answer these themselves and trust the edge to have verified the token (docs: wire
protocol §6.5), so no route, wildcard or not, may ever lead there."""


@dataclass(frozen=True, slots=True)
class UnknownHost:
    """No route for the host. There is only `UNKNOWN_HOST`."""


UNKNOWN_HOST: Final = UnknownHost()

RouteOutcome: TypeAlias = Link | NoLink | UnknownHost | Pool
"""A pool has to see the request: ask it with `choose_for`."""


class DuplicateLink(EdgeError):  # noqa: N818 - what connectors know as EDUPCONN
    """The connector holds a live link with this index."""

    def __init__(self, holder: Link) -> None:
        super().__init__(
            f"connector {holder.connector_id} holds a link with index {holder.conn_index} already"
        )
        self.holder = holder


class TooManyLinks(EdgeError):  # noqa: N818 - a limit, not a fault
    """The tunnel holds MAX_LINKS_PER_TUNNEL links."""


class Router:
    """Routes, links, and the way from one to the other.

    Args:
        on_link_added: called with a link that takes requests from now on.
        on_link_removed: called with it when it takes no more, draining or gone.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        on_link_added: Callable[[Link], None] | None = None,
        on_link_removed: Callable[[Link], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reserved = MANAGEMENT_HOSTS
        self.on_link_added = on_link_added
        self.on_link_removed = on_link_removed
        self._destinations: dict[UUID, Destination] = {}
        self._watched: dict[str, Pool] = {}
        """Pools with a connector in trouble. Some are there for that time only, in the place of
        the one tunnel that the route leads to."""
        self._spells = 0
        self._clock = clock
        self._exact: dict[str, Destination | Pool] = {}
        self._wildcards: dict[str, Destination | Pool] = {}
        """By suffix, without the `*.`."""
        self._cache: dict[bytes, Destination | Pool] = {}
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
        return links[0] if len(links) == 1 else destination.choose()

    def knows(self, hostname: str) -> bool:
        """Whether a route matches `hostname` (a name without port, in any case)."""
        name = hostname_of(hostname)
        return name is not None and self._find(name) is not None

    def reserve(self, hostname: str) -> None:
        """Let no route lead from a normalized hostname: the edge answers for it."""
        self._reserved |= {hostname}
        self._cache.clear()

    def put_route(self, hostname: str, tunnel_id: UUID) -> None:
        """Lead `hostname` (normalized; `*.suffix` for a wildcard) to a tunnel."""
        self._put(hostname, self._destination(tunnel_id))

    def put_pool(
        self, hostname: str, targets: Sequence[Target], sticky: Sticky = Sticky.NONE
    ) -> None:
        """Lead it to several tunnels, or to one whose visitors stick."""
        led = [(self._destination(target.tunnel_id), target.weight) for target in targets]
        self._put(hostname, Pool(hostname, led, sticky, self._clock))

    def _put(self, hostname: str, entry: Destination | Pool) -> None:
        previous = self._put_in_place(hostname, entry)
        if isinstance(entry, Pool) and hostname in self._watched:
            entry.health = self._watched[hostname].health
            entry.sees_requests = True
            self._watched[hostname] = entry
        else:
            self._watched.pop(hostname, None)
        for destination in _destinations_of(entry):
            destination.hostnames.add(hostname)
        if previous is not None:
            kept = _destinations_of(entry)
            for destination in _destinations_of(previous):
                if destination not in kept:
                    self._forget_route(hostname, destination)

    def _put_in_place(self, hostname: str, entry: Destination | Pool) -> Destination | Pool | None:
        table, key = self._place(hostname)
        previous = table.get(key)
        table[key] = entry
        self._cache.clear()
        return previous

    def delete_route(self, hostname: str) -> None:
        """Take a route away. One that does not exist is no error: deletions may be replayed."""
        table, key = self._place(hostname)
        entry = table.pop(key, None)
        self._watched.pop(hostname, None)
        if entry is not None:
            for destination in _destinations_of(entry):
                self._forget_route(hostname, destination)
            self._cache.clear()

    def alternatives(self, authority: bytes, refused: Link) -> Sequence[Link]:
        """The links that may carry a request for `authority` which `refused` did not take."""
        entry = self._cache.get(authority)
        if isinstance(entry, Pool):
            return entry.alternatives(refused)
        destination = self._destinations.get(refused.tunnel_id)
        return [] if destination is None else destination.alternatives(refused)

    def unreachable(self, authority: bytes, link: Link, *, is_certain: bool) -> None:
        """A connector has said that it could not reach the application: `link` is its, or, where
        that is not certain, one of the same tunnel. Of no consequence where there is no other."""
        name = hostname_of(authority)
        found = None if name is None else self._find(name)
        if found is None:
            return
        hostname, entry = found
        pool = entry if isinstance(entry, Pool) else Pool(hostname, [(entry, 1)], clock=self._clock)
        if not pool.has_choice():
            return
        if hostname not in self._watched:
            if len(self._watched) >= MAX_WATCHED:
                return
            self._watched[hostname] = pool
            if pool is not entry:
                self._put_in_place(hostname, pool)
        pool.sees_requests = True
        spells = pool.health.spells
        pool.health.failed(link.connector_id if is_certain else None)
        self._spells += pool.health.spells - spells

    def tick(self) -> None:
        """Once a second: forget troubles that are over."""
        for hostname, pool in tuple(self._watched.items()):
            if not pool.health.is_watching:
                del self._watched[hostname]
                pool.sees_requests = pool.sticky is not Sticky.NONE
                if pool.is_plain:
                    self._put_in_place(hostname, pool.destinations[0])

    def health(self, hostname: str) -> list[ConnectorHealth]:
        """What is known of the connectors of a route, if any of them is in trouble."""
        pool = self._watched.get(hostname)
        return [] if pool is None else pool.health.known()

    def count_spared(self) -> tuple[int, int]:
        """How many connectors are spared now, each once for each hostname, and how often one began
        to be spared so far."""
        spared = sum(len(pool.health.spared()) for pool in self._watched.values())
        return spared, self._spells

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
        aside = destination.keeps_aside(link)
        (destination.aside_here if aside else destination.links).append(link)
        if self.on_link_added is not None:
            self.on_link_added(link)

    def add_remote(self, link: Link) -> None:
        """Let a link that another process holds take requests while there is none here."""
        destination = self._destination(link.tunnel_id)
        # If one here has the index too, the process that has all of them in its table decides.
        destination.numbered.setdefault((link.connector_id, link.conn_index), link)
        aside = destination.keeps_aside(link)
        (destination.aside_elsewhere if aside else destination.elsewhere).append(link)

    def add_beyond(self, link: Link) -> None:
        """Let a link serve that a process holds whose place this one takes, or which takes this
        one's, while there is no other. Its connector may have another with the same index here."""
        destination = self._destination(link.tunnel_id)
        aside = destination.keeps_aside(link)
        (destination.aside_beyond if aside else destination.beyond).append(link)

    def drain(self, link: Link) -> None:
        """Send a link no new requests; it stays counted until `remove_link`."""
        link.draining = True
        destination = self._destinations.get(link.tunnel_id)
        if destination is not None and self._take_out(link, destination):
            destination.draining.append(link)

    def remove_link(self, link: Link) -> None:
        """Forget a link that is gone. One that was never added, or is forgotten, is no error."""
        destination = self._destinations.get(link.tunnel_id)
        if destination is None:
            return
        if not self._take_out(link, destination):
            for links in (
                destination.draining,
                destination.elsewhere,
                destination.aside_elsewhere,
                destination.beyond,
                destination.aside_beyond,
            ):
                if link in links:
                    links.remove(link)
                    if links is not destination.draining:
                        self._free_index(link, destination)
                    break
        self._drop_if_idle(destination)

    def links_of(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """All links of a tunnel, those that drain and those of other processes last."""
        destination = self._destinations.get(tunnel_id)
        if destination is None:
            return ()
        return destination.all_links

    def serving(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """Those of a tunnel's links that take requests, those of other processes last."""
        destination = self._destinations.get(tunnel_id)
        if destination is None:
            return ()
        return (*destination.links, *destination.elsewhere, *destination.beyond)

    def own_links(self) -> tuple[Link, ...]:
        """The links here that have not been drained, of all tunnels."""
        return tuple(
            link
            for destination in self._destinations.values()
            for link in (*destination.links, *destination.aside_here)
        )

    def own_links_of(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """Those of a tunnel."""
        destination = self._destinations.get(tunnel_id)
        if destination is None:
            return ()
        return (*destination.links, *destination.aside_here)

    def links_beyond(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """The tunnel's links that were added by `add_beyond`."""
        destination = self._destinations.get(tunnel_id)
        return () if destination is None else (*destination.beyond, *destination.aside_beyond)

    def tunnels_with_links(self) -> set[UUID]:
        """Those that have links here that have not been drained."""
        return {
            key
            for key, destination in self._destinations.items()
            if destination.links or destination.aside_here
        }

    def aside(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """Those of a tunnel's links that are kept aside."""
        destination = self._destinations.get(tunnel_id)
        if destination is None:
            return ()
        return (*destination.aside_here, *destination.aside_elsewhere)

    def kept_aside(self) -> Iterator[tuple[UUID, UUID]]:
        """All that `set_aside` was told: tunnels, and ids of connectors or connections."""
        for tunnel_id, destination in self._destinations.items():
            for key in destination.aside_ids:
                yield tunnel_id, key

    def count_aside(self) -> int:
        """How many links of all tunnels are kept aside."""
        return sum(
            len(each.aside_here) + len(each.aside_elsewhere) for each in self._destinations.values()
        )

    def set_aside(self, tunnel_id: UUID, key: UUID, *, aside: bool) -> int:
        """Send the links of a connector, or one connection, nothing new, or again as others; what
        comes later of that connector too. `key` is the id of either. How many links those are now.

        Raises:
            TooManyLinks: MAX_ASIDE are kept aside already.
        """
        destination = self._destinations.get(tunnel_id)
        if destination is None:
            return 0
        if aside and key not in destination.aside_ids:
            if len(destination.aside_ids) >= MAX_ASIDE:
                # Some have gone, and never come back under the same id.
                present = {each for link in destination.all_links for each in ids_of(link)}
                destination.aside_ids &= present
            if len(destination.aside_ids) >= MAX_ASIDE:
                raise TooManyLinks(f"tunnel {tunnel_id} keeps {MAX_ASIDE} aside, as many as it may")
            destination.aside_ids.add(key)
        elif not aside:
            destination.aside_ids.discard(key)
        for serving, resting in (
            (destination.links, destination.aside_here),
            (destination.elsewhere, destination.aside_elsewhere),
            (destination.beyond, destination.aside_beyond),
        ):
            every = [*serving, *resting]
            resting[:] = [link for link in every if destination.keeps_aside(link)]
            serving[:] = [link for link in every if not destination.keeps_aside(link)]
        return sum(key in ids_of(link) for link in destination.all_links)

    def count_links(self) -> tuple[int, int]:
        """How many links there are, and how many tunnels that have some."""
        counts = [
            destination.count + len(destination.beyond)
            for destination in self._destinations.values()
        ]
        return sum(counts), sum(map(bool, counts))

    def _take_out(self, link: Link, destination: Destination) -> bool:
        """From those of here that have not been drained; whether it was among them."""
        for links in (destination.links, destination.aside_here):
            if link in links:
                links.remove(link)
                self._free_index(link, destination)
                if self.on_link_removed is not None:
                    self.on_link_removed(link)
                return True
        return False

    def _free_index(self, link: Link, destination: Destination) -> None:
        key = (link.connector_id, link.conn_index)
        if destination.numbered.get(key) is link:
            del destination.numbered[key]

    def _resolve(self, authority: bytes) -> Destination | Pool | None:
        if len(authority) > MAX_AUTHORITY_LENGTH:
            return None
        name = hostname_of(authority)
        found = None if name is None else self._find(name)
        if found is None:
            return None
        if len(self._cache) >= MAX_CACHED_AUTHORITIES:
            self._cache.clear()
        self._cache[bytes(authority)] = found[1]
        return found[1]

    def _find(self, name: str) -> tuple[str, Destination | Pool] | None:
        """The route for a name: what it leads from, and to."""
        if name in self._reserved:
            return None
        entry = self._exact.get(name)
        if entry is not None:
            return name, entry
        if not self._wildcards:
            return None
        # Label by label; a name has at most 127.
        start = name.find(".")
        while start >= 0:
            suffix = name[start + 1 :]
            entry = self._wildcards.get(suffix)
            if entry is not None:
                return f"*.{suffix}", entry
            start = name.find(".", start + 1)
        return None

    def _place(self, hostname: str) -> tuple[dict[str, Destination | Pool], str]:
        if hostname.startswith("*."):
            return self._wildcards, hostname[2:]
        return self._exact, hostname

    def _destination(self, tunnel_id: UUID) -> Destination:
        destination = self._destinations.get(tunnel_id)
        if destination is None:
            destination = self._destinations[tunnel_id] = Destination(tunnel_id)
        return destination

    def _forget_route(self, hostname: str, destination: Destination) -> None:
        destination.hostnames.discard(hostname)
        self._drop_if_idle(destination)

    def _drop_if_idle(self, destination: Destination) -> None:
        if destination.is_idle():
            self._destinations.pop(destination.no_link.tunnel_id, None)


def _destinations_of(entry: Destination | Pool) -> list[Destination]:
    return entry.destinations if isinstance(entry, Pool) else [entry]
