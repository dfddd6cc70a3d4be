"""Hostnames with a choice: several tunnels, visitors that stick, connectors to spare.

A request goes to one of the tunnels by weight, and there to the least loaded link. Weights are
smooth: of 5 and 1, the one comes in the middle of the five. A target of weight 0 is a standby: it
gets requests while no tunnel with a weight has a link. What sticks, sticks to a connector as long
as that can be reached, and to its tunnel after that.

The router asks a pool with a request's host alone. One that has to see the request, because
visitors stick or a connector is in trouble, says so by giving itself for an answer.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeAlias
from uuid import UUID

from underpass.edge.destinations import Destination, Link, NoLink
from underpass.edge.origin_health import OriginHealth
from underpass.edge.store.records import Sticky

__all__ = ["COOKIE", "MAX_TARGETS", "MAX_WEIGHT", "Pool", "Targets", "cookie_in"]

MAX_TARGETS: Final = 16
"""Tunnels of one hostname. Bounds the search of every request."""

MAX_WEIGHT: Final = 1000
"""So a target may have one request of a thousand."""

COOKIE: Final = b"__underpass_sticky"
"""What a visitor that sticks is known by. Its value names tunnel and connector to this edge, and
nothing to anybody else."""

MAX_COOKIE: Final = 16384
"""Bytes of a Cookie field that are looked at: half of the largest request head."""

MAX_TAGS: Final = 4096
"""What stands for tunnels and connectors in cookies, of all hostnames, that is remembered."""

_TAG_BYTES: Final = 8

Targets: TypeAlias = Sequence[tuple[Destination, int]]
"""Tunnels and their weights."""


class _Target:
    __slots__ = ("credit", "destination", "weight")

    def __init__(self, destination: Destination, weight: int) -> None:
        self.destination = destination
        self.weight = weight
        self.credit = 0
        """What it is owed. The sum over all targets stays 0."""


class Pool:
    """Where requests for one hostname may go."""

    __slots__ = ("_targets", "_turn", "health", "hostname", "sees_requests", "sticky")

    links: Final[Sequence[Link]] = ()
    """None of its own: whoever looks for one has to `choose`."""

    def __init__(
        self,
        hostname: str,
        targets: Targets,
        sticky: Sticky = Sticky.NONE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hostname = hostname
        self.sticky = sticky
        self.health = OriginHealth(clock)
        self.sees_requests = sticky is not Sticky.NONE
        """Whether it has to. The router sets it while a connector is in trouble."""
        self._targets = [_Target(destination, weight) for destination, weight in targets]
        self._turn = 0

    @property
    def destinations(self) -> list[Destination]:
        """Its tunnels."""
        return [target.destination for target in self._targets]

    @property
    def is_plain(self) -> bool:
        """Whether it is one tunnel, and nobody has to be known again."""
        return len(self._targets) == 1 and self.sticky is Sticky.NONE

    def has_choice(self) -> bool:
        """Whether more than one connector takes requests."""
        found: set[UUID] = set()
        for target in self._targets:
            found.update(target.destination.connectors())
        return len(found) > 1

    def choose(self) -> Link | NoLink | Pool:
        """The link for the next request; the pool itself if it has to see the request."""
        if self.sees_requests:
            return self
        return self._next(self._targets).destination.choose()

    def choose_for(self, address: bytes, cookie: bytes | None) -> Link | NoLink:
        """The same for a request of a visitor with an address and, if it has one, a cookie."""
        spared, due = self._spared()
        if self.sticky is Sticky.COOKIE and cookie is not None:
            kept = self._kept(cookie, spared)
            if kept is not None:
                return kept
        if due:
            spared = spared - due
        usable = [target for target in self._targets if target.destination.serving(spared)]
        if not usable:
            return self._targets[0].destination.no_link
        if self.sticky is Sticky.ADDRESS:
            link = self._by_address(address, usable, spared)
        else:
            link = self._trial(usable, due) or self._by_weight(usable, spared)
        if link.connector_id in due:
            self.health.tries(link.connector_id)
        return link

    def alternatives(self, refused: Link) -> list[Link]:
        """The links that may carry a request which `refused` did not take, the best first."""
        spared, _ = self._spared()
        links = [
            (
                link.connector_id in spared,
                link.tunnel_id != refused.tunnel_id,
                not target.weight,
                link,
            )
            for target in self._targets
            for link in target.destination.alternatives(refused)
        ]
        return [link for *_, link in sorted(links, key=lambda each: each[:3])]

    def cookie_for(self, link: Link) -> bytes:
        """By which a visitor that was led to `link` is led there again."""
        return _tag(self.hostname, link.tunnel_id) + _tag(self.hostname, link.connector_id)

    def _spared(self) -> tuple[set[UUID], set[UUID]]:
        """The connectors to spare, and which of them are due for a trial. If there are no others,
        nobody is spared."""
        spared = self.health.spared()
        if spared and any(target.destination.serving(spared) for target in self._targets):
            return spared, self.health.due()
        return set(), set()

    def _next(self, targets: Sequence[_Target]) -> _Target:
        """The next one that can be reached, by weight (as nginx's smooth weighted round robin)."""
        best: _Target | None = None
        total = 0
        for target in targets:
            weight, destination = target.weight, target.destination
            if weight and (destination.links or destination.is_reachable):
                total += weight
                target.credit += weight
                if best is None or target.credit > best.credit:
                    best = target
        if best is not None:
            best.credit -= total
            return best
        reachable = [target for target in targets if target.destination.is_reachable]
        if not reachable:
            return targets[0]
        self._turn += 1
        return reachable[self._turn % len(reachable)]

    def _by_weight(self, usable: Sequence[_Target], spared: Collection[UUID]) -> Link:
        destination = self._next(usable).destination
        return destination.choose_among(destination.serving(spared))

    def _trial(self, usable: Sequence[_Target], due: Collection[UUID]) -> Link | None:
        if due:
            for target in usable:
                for link in target.destination.serving():
                    if link.connector_id in due:
                        return link
        return None

    def _kept(self, cookie: bytes, spared: Collection[UUID]) -> Link | None:
        """The connector that the cookie names, or another one of its tunnel."""
        tunnel, connector = cookie[: 2 * _TAG_BYTES], cookie[2 * _TAG_BYTES :]
        for target in self._targets:
            destination = target.destination
            if _tag(self.hostname, destination.no_link.tunnel_id) == tunnel:
                for links in (destination.links, destination.away):
                    same = [
                        link
                        for link in links
                        if _tag(self.hostname, link.connector_id) == connector
                        and link.connector_id not in spared
                    ]
                    if same:
                        return destination.choose_among(same)
                left = destination.serving(spared)
                return destination.choose_among(left) if left else None
        return None

    def _by_address(
        self, address: bytes, usable: Sequence[_Target], spared: Collection[UUID]
    ) -> Link:
        """By the highest of the random numbers that the address makes with each choice, so that
        one that comes or goes moves its own visitors alone (rendezvous hashing)."""
        network = _network(address)
        weighty = [target for target in usable if target.weight] or usable
        destination = max(
            weighty,
            key=lambda target: _score(
                network, target.destination.no_link.tunnel_id, target.weight or 1
            ),
        ).destination
        links = [
            link
            for link in (*destination.links, *destination.away)
            if link.connector_id not in spared
        ]
        connector = max(
            {link.connector_id for link in links}, key=lambda key: _score(network, key, 1)
        )
        own = [link for link in destination.links if link.connector_id == connector]
        return destination.choose_among(
            own or [link for link in destination.away if link.connector_id == connector]
        )


def cookie_in(fields: Sequence[bytes]) -> bytes | None:
    """The value of our cookie in the Cookie fields of a request; None if there is none, or
    several, one of which somebody else has made."""
    found: list[bytes] = []
    for field in fields:
        if len(field) <= MAX_COOKIE and COOKIE in field:
            for pair in field.split(b";"):
                name, _, value = pair.strip(b" \t").partition(b"=")
                if name == COOKIE:
                    found.append(value)
    return found[0] if len(found) == 1 else None


@functools.lru_cache(MAX_TAGS)
def _tag(hostname: str, key: UUID) -> bytes:
    """What stands for a tunnel or a connector in cookies of a hostname: hexadecimal digits.

    Ids of connectors are random, so nobody learns one from it, or makes one up.
    """
    text = hostname.encode("ascii") + key.bytes
    digest = hashlib.blake2b(text, digest_size=_TAG_BYTES, person=b"underpass sticky")
    return digest.hexdigest().encode("ascii")


def _network(address: bytes) -> bytes:
    """What of an address stays: of IPv6 the first 64 bits, as the others change by the day."""
    if b":" not in address:
        return address
    try:
        return ipaddress.IPv6Address(address.decode("ascii")).packed[:8]
    except ValueError:
        return address


def _score(network: bytes, key: UUID, weight: int) -> float:
    """Weighted rendezvous hashing: who has twice the weight is the highest twice as often."""
    digest = hashlib.blake2b(network + key.bytes, digest_size=8).digest()
    # Strictly between 0 and 1: 52 bits and a half are exact.
    return -weight / math.log(((int.from_bytes(digest, "big") >> 12) + 0.5) / 2.0**52)
