"""Tunnels as the edge serves them: loaded from the store, asked in memory, changed through it.

Every change goes the same way: the store accepts it, then what changed is read back and applied to
memory and to the router, in the order of revisions. So a change made by another edge on the same
store comes in by the same door.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from underpass.edge.errors import QuickTunnelLimit, StoreError, Unauthorized
from underpass.edge.router import Link, Router
from underpass.edge.store import (
    ABSENT,
    Account,
    ApiToken,
    AuditEntry,
    Changes,
    Configuration,
    Conflict,
    NetworkRoute,
    Record,
    Route,
    Snapshot,
    Sticky,
    Store,
    Target,
    Tunnel,
    VirtualNetwork,
)
from underpass.edge.words import ANIMALS, MATERIALS, MOODS, THINGS
from underpass.wire.credentials import Credentials
from underpass.wire.quick_tunnel import QuickTunnel

log = logging.getLogger("underpass.edge.registry")

MAX_QUICK_TUNNELS: Final = 1000
"""Quick tunnels at one time. Anybody who reaches the API may ask for one."""

QUICK_TUNNEL_UNUSED_SECONDS: Final = 10 * 60.0
"""A quick tunnel that never had a link is removed after this; connectors dial within seconds."""

QUICK_TUNNEL_ABANDONED_SECONDS: Final = 24 * 3600.0
"""A quick tunnel whose last link is gone is removed after this: a laptop may sleep overnight."""

HOUSEKEEPING_SECONDS: Final = 60.0
"""Between two looks for quick tunnels to remove."""

TOMBSTONE_DAYS: Final = 7
"""How long the store remembers deletions; an edge that was away longer loads a snapshot."""

TUNNEL_SECRET_BYTES: Final = 32
"""As the command-line tool makes them (docs: wire protocol §1.10)."""

FOLLOW_SECONDS: Final = 1.0
"""Between two looks for what others have changed in the store: a command on this machine."""

_NAME_ATTEMPTS: Final = 16
"""Names tried before giving up; with 1,000 of 30 million taken a second is hardly ever needed."""


Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, and from which address (see store.AuditEntry)."""

    actor: str
    source: str = ""

    def did(
        self, action: str, target: object, account_id: str = "", detail: str = ""
    ) -> AuditEntry:
        """What is written down about it."""
        return AuditEntry(self.actor, self.source, action, str(target), account_id, detail)


THE_EDGE: Final = Author("edge")
"""By itself: nobody asked."""


@dataclass(slots=True)
class _Served:
    """A live tunnel, the digest its credentials must have, and when it was last in use."""

    tunnel: Tunnel
    digest: bytes = field(repr=False)
    linked: bool
    """Whether it ever had a link, as far as is known."""
    idle_since: float
    """Seconds on the registry's clock."""


class Registry:
    """The tunnels of one edge. Belongs to one event loop; make it with `load`."""

    def __init__(
        self,
        store: Store,
        router: Router,
        *,
        on_tunnel_deleted: Callable[[UUID], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_changed: Callable[[], Awaitable[None]] | None = None
        """Called after a change was taken over; `refresh` waits for it."""
        self.on_configuration: Callable[[UUID], None] | None = None
        """Called with the tunnel's id when another configuration was taken over."""
        self._store = store
        self._router = router
        self._on_tunnel_deleted = on_tunnel_deleted
        self._clock = clock
        self._revision: int | None = None
        """None until the first snapshot."""
        self._served: dict[UUID, _Served] = {}
        self._routes: dict[str, Route] = {}
        # Read by whoever asks, changed by what comes from the store alone.
        self.accounts: dict[str, Account] = {}
        self.tokens: dict[str, ApiToken] = {}
        self.virtual_networks: dict[UUID, VirtualNetwork] = {}
        self.network_routes: dict[UUID, NetworkRoute] = {}
        self.configurations: dict[UUID, Configuration] = {}
        """By tunnel; without the document: ask `configuration`."""
        self._refreshing = asyncio.Lock()
        self._quick_tunnels = 0
        self._being_made = 0
        # What credentials for an unknown tunnel are compared with: nobody's.
        self._nobody = secrets.token_bytes(hashlib.sha256().digest_size)

    @classmethod
    async def load(
        cls,
        store: Store,
        router: Router,
        *,
        on_tunnel_deleted: Callable[[UUID], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Registry:
        """A registry of what the store holds, its routes put into `router`.

        Args:
            on_tunnel_deleted: called with the id after a tunnel was deleted, so that links it
                still has can be closed.
            clock: seconds, monotonic.

        Raises:
            StoreError: the store cannot be read.
        """
        registry = cls(store, router, on_tunnel_deleted=on_tunnel_deleted, clock=clock)
        await registry.refresh()
        return registry

    @property
    def revision(self) -> int:
        """The store's revision that is served."""
        return self._revision or 0

    def tunnel(self, tunnel_id: UUID) -> Tunnel | None:
        """The live tunnel with this id."""
        served = self._served.get(tunnel_id)
        return None if served is None else served.tunnel

    @property
    def hostnames(self) -> tuple[str, ...]:
        """What routes lead from, wildcards included."""
        return tuple(self._routes)

    @property
    def tunnel_ids(self) -> tuple[UUID, ...]:
        """The live tunnels, of all accounts."""
        return tuple(self._served)

    def tunnels_of(self, account_tag: str) -> Iterator[Tunnel]:
        """The account's live tunnels."""
        return (
            served.tunnel
            for served in self._served.values()
            if served.tunnel.account_tag == account_tag
        )

    def links_of(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """The tunnel's links that are not about to end."""
        return tuple(link for link in self._router.links_of(tunnel_id) if not link.draining)

    def aside(self, tunnel_id: UUID) -> tuple[Link, ...]:
        """Those of them that get nothing new until somebody says otherwise."""
        return self._router.aside(tunnel_id)

    @property
    def tunnel_count(self) -> int:
        """Live tunnels of all accounts, quick ones not counted."""
        return len(self._served) - self._quick_tunnels

    @property
    def quick_tunnel_count(self) -> int:
        """Live quick tunnels."""
        return self._quick_tunnels

    @property
    def routes(self) -> Collection[Route]:
        """All hostnames that lead somewhere."""
        return self._routes.values()

    def route(self, hostname: str) -> Route | None:
        """The route of a normalized hostname (or `*.suffix`)."""
        return self._routes.get(hostname)

    async def configuration(self, tunnel_id: UUID) -> Configuration | None:
        """A tunnel's configuration with its document, from the store.

        Raises:
            StoreError: the store cannot be read.
        """
        return await self._store.configuration(tunnel_id)

    async def deleted(self, account_id: str) -> Snapshot:
        """See Store.deleted."""
        return await self._store.deleted(account_id)

    def authenticate(self, account_tag: str, secret: bytes, tunnel_id: UUID) -> Tunnel:
        """The tunnel that these credentials may run.

        Takes the same time whichever part is wrong, and says the same.

        Raises:
            Unauthorized: no live tunnel has these credentials.
        """
        served = self._served.get(tunnel_id)
        expected = self._nobody if served is None else served.digest
        if not hmac.compare_digest(_credentials_digest(account_tag, secret), expected):
            raise Unauthorized
        if served is None:
            # 2**-256 likely; nobody's credentials are still nobody's.
            raise Unauthorized
        return served.tunnel

    async def create_quick_tunnel(self, domain: str, by: Author = THE_EDGE) -> QuickTunnel:
        """Make a tunnel with a memorable hostname below `domain` (normalized) and a route to it.

        Raises:
            QuickTunnelLimit: there are MAX_QUICK_TUNNELS, or no free name was found.
            StoreError: the store refuses changes now.
        """
        if self._quick_tunnels + self._being_made >= MAX_QUICK_TUNNELS:
            raise QuickTunnelLimit(
                f"this edge has {MAX_QUICK_TUNNELS} quick tunnels, as many as it may; "
                f"unused ones are removed after {QUICK_TUNNEL_UNUSED_SECONDS / 60:.0f} minutes"
            )
        self._being_made += 1
        try:
            for _ in range(_NAME_ATTEMPTS):
                name = "-".join(map(secrets.choice, (MOODS, ANIMALS, MATERIALS, THINGS)))
                hostname = f"{name}.{domain}"
                if hostname in self._routes:
                    continue
                tunnel = Tunnel(
                    id=uuid4(),
                    account_tag=secrets.token_hex(16),
                    name=name,
                    secret=secrets.token_bytes(TUNNEL_SECRET_BYTES),
                    created_at=datetime.now(timezone.utc),
                    quick=True,
                )
                route = Route(hostname, tunnel.id, tunnel.created_at)
                entry = by.did("quick_tunnel.create", tunnel.id, detail=hostname)
                try:
                    await self.commit((tunnel, route), entry)
                except Conflict:
                    # Another edge on this store took the name meanwhile.
                    continue
                return QuickTunnel(
                    Credentials(tunnel.account_tag, tunnel.secret, tunnel.id), hostname, name
                )
        finally:
            self._being_made -= 1
        raise QuickTunnelLimit(f"no free name below {domain} was found; try again")

    async def create_tunnel(
        self, tunnel: Tunnel, hostnames: tuple[str, ...] = (), by: Author = THE_EDGE
    ) -> None:
        """Add a tunnel with routes to it; hostnames normalized.

        Raises:
            StoreError: as `Store.commit`.
        """
        routes = [Route(hostname, tunnel.id, tunnel.created_at) for hostname in hostnames]
        entry = by.did("tunnel.create", tunnel.id, tunnel.account_tag, tunnel.name)
        await self.commit((tunnel, *routes), entry)

    async def delete_tunnel(self, tunnel_id: UUID, by: Author = THE_EDGE) -> Tunnel | None:
        """Delete a tunnel and its routes; the tombstone. One that does not exist is no error.

        Raises:
            StoreError: as `Store.commit`.
        """
        served = self._served.get(tunnel_id)
        if served is None:
            return None
        tunnel = served.tunnel
        deleted = replace(tunnel, deleted_at=datetime.now(timezone.utc), secret=b"")
        kind = "quick_tunnel" if tunnel.quick else "tunnel"
        await self.commit(
            (deleted,), by.did(f"{kind}.delete", tunnel_id, tunnel.account_tag, tunnel.name)
        )
        return deleted

    async def put_route(
        self, hostname: str, tunnel_id: UUID, by: Author = THE_EDGE, *, pool: str = ""
    ) -> None:
        """Lead a normalized hostname (or `*.suffix`) to one tunnel, wherever it led before.

        Raises:
            StoreError: as `Store.commit`.
        """
        await self.lead(hostname, (Target(tunnel_id),), by, pool=pool)

    async def lead(
        self,
        hostname: str,
        targets: Sequence[Target],
        by: Author = THE_EDGE,
        *,
        pool: str | None = None,
        sticky: Sticky | None = None,
        expected: int | None = None,
    ) -> None:
        """Lead a normalized hostname (or `*.suffix`) to tunnels of one account, wherever it led
        before. None leaves what it is.

        Args:
            targets: one or more, no tunnel twice.
            expected: the revision that its route has; ABSENT for none.

        Raises:
            Conflict: it has not.
            StoreError: as `Store.commit`.
        """
        route = self._routes.get(hostname)
        found = ABSENT if route is None else route.revision
        if expected is not None and expected != found:
            raise Conflict(f"hostname {hostname}", expected, found)
        if route is None:
            route = Route(hostname, targets[0].tunnel_id, datetime.now(timezone.utc))
        route = replace(
            route.with_targets(targets),
            pool=route.pool if pool is None else pool,
            sticky=route.sticky if sticky is None else sticky,
        )
        served = self._served.get(route.tunnel_id)
        account = "" if served is None else served.tunnel.account_tag
        await self.commit((route,), by.did("hostname.put", hostname, account, _where_to(route)))

    async def delete_route(self, hostname: str, by: Author = THE_EDGE) -> None:
        """Lead a hostname nowhere any more. One that led nowhere is no error.

        Raises:
            StoreError: as `Store.commit`.
        """
        route = self._routes.get(hostname)
        if route is None:
            return
        served = self._served.get(route.tunnel_id)
        account = "" if served is None else served.tunnel.account_tag
        deleted = replace(route, deleted_at=datetime.now(timezone.utc))
        await self.commit((deleted,), by.did("hostname.delete", hostname, account))

    async def commit(self, records: Sequence[Record], entry: AuditEntry) -> None:
        """Change the store and take the change over.

        Raises:
            StoreError: as `Store.commit`.
        """
        await self._store.commit(records, entry)
        if records:
            await self.refresh()

    async def refresh(self) -> None:
        """Take over what changed in the store.

        Raises:
            StoreError: the store cannot be read; what is in memory stays.
        """
        async with self._refreshing:
            before = self._revision
            changes = None
            if self._revision is not None:
                changes = await self._store.changes_since(self._revision)
            if changes is None:
                self._replace(await self._store.snapshot())
            else:
                self._apply(changes)
            changed = self._revision != before
        if changed and self.on_changed is not None:
            await self.on_changed()

    async def remove_unused_quick_tunnels(self) -> tuple[UUID, ...]:
        """Remove quick tunnels without links for too long; their ids.

        Raises:
            StoreError: the store refuses changes now.
        """
        now = self._clock()
        unused = []
        for served in self._served.values():
            if self._router.links_of(served.tunnel.id):
                served.linked = True
                served.idle_since = now
            elif served.tunnel.quick:
                limit = (
                    QUICK_TUNNEL_ABANDONED_SECONDS if served.linked else QUICK_TUNNEL_UNUSED_SECONDS
                )
                if now - served.idle_since >= limit:
                    unused.append(served.tunnel)
        removed = []
        for tunnel in unused:
            if self._router.links_of(tunnel.id):
                # It was linked while an earlier one was being deleted.
                continue
            try:
                await self.delete_tunnel(tunnel.id)
            except Conflict:
                # Changed or deleted by someone else: not ours to judge by what we knew.
                continue
            removed.append(tunnel.id)
        return tuple(removed)

    async def keep_house(self) -> None:
        """Remove unused quick tunnels and old tombstones, now and then, until cancelled."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            try:
                for tunnel_id in await self.remove_unused_quick_tunnels():
                    log.info("removed quick tunnel %s: unused", tunnel_id)
                await self._store.purge(datetime.now(timezone.utc) - timedelta(days=TOMBSTONE_DAYS))
            except StoreError as error:
                # Serving goes on from memory; the next round tries again.
                log.warning("cannot remove unused quick tunnels: %s", error)

    async def follow(self) -> None:
        """Take over what others change in the store, until cancelled."""
        reachable = True
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self.refresh()
                reachable = True
            except StoreError as error:
                if reachable:
                    log.warning("cannot look for changes: %s", error)
                reachable = False

    def _replace(self, snapshot: Snapshot) -> None:
        """Make memory equal to a snapshot, deletions included."""
        live_routes = {route.hostname for route in snapshot.routes}
        live_tunnels = {tunnel.id for tunnel in snapshot.tunnels}
        gone_routes = [name for name in self._routes if name not in live_routes]
        gone_tunnels = [key for key in self._served if key not in live_tunnels]
        for hostname in gone_routes:
            self._forget_route(hostname)
        for table in self._tables():
            table.clear()
        self._take(snapshot)
        first = self._revision is None
        for tunnel in snapshot.tunnels:
            # At start-up nobody knows whether a quick tunnel was in use before: be patient.
            self._put_tunnel(tunnel, linked=first)
        for route in snapshot.routes:
            self._put_route(route)
        self._revision = snapshot.revision
        for key in gone_tunnels:
            self._forget_tunnel(key)

    def _tables(self) -> tuple[dict[Any, Any], ...]:
        return (
            self.accounts,
            self.tokens,
            self.virtual_networks,
            self.network_routes,
            self.configurations,
        )

    def _take(self, rows: Snapshot) -> None:
        """What has no consequences beyond its table."""
        _fill(self.accounts, ((row.id, row) for row in rows.accounts))
        _fill(self.tokens, ((row.id, row) for row in rows.tokens))
        _fill(self.virtual_networks, ((row.id, row) for row in rows.virtual_networks))
        _fill(self.network_routes, ((row.id, row) for row in rows.network_routes))
        _fill(self.configurations, ((row.tunnel_id, row) for row in rows.configurations))
        if self.on_configuration is not None:
            for row in rows.configurations:
                self.on_configuration(row.tunnel_id)

    def _apply(self, changes: Changes) -> None:
        self._take(changes)
        for route in changes.routes:
            if route.deleted_at is not None:
                self._forget_route(route.hostname)
        for tunnel in changes.tunnels:
            if tunnel.deleted_at is None:
                self._put_tunnel(tunnel, linked=False)
        for route in changes.routes:
            if route.deleted_at is None:
                self._put_route(route)
        self._revision = changes.revision
        for tunnel in changes.tunnels:
            if tunnel.deleted_at is not None:
                self._forget_tunnel(tunnel.id)

    def _put_tunnel(self, tunnel: Tunnel, *, linked: bool) -> None:
        known = self._served.get(tunnel.id)
        digest = _credentials_digest(tunnel.account_tag, tunnel.secret)
        if known is not None:
            known.tunnel, known.digest = tunnel, digest
            return
        self._served[tunnel.id] = _Served(tunnel, digest, linked, self._clock())
        self._quick_tunnels += tunnel.quick

    def _forget_tunnel(self, tunnel_id: UUID) -> None:
        served = self._served.pop(tunnel_id, None)
        if served is not None:
            self._quick_tunnels -= served.tunnel.quick
            if self._on_tunnel_deleted is not None:
                self._on_tunnel_deleted(tunnel_id)

    def _put_route(self, route: Route) -> None:
        self._routes[route.hostname] = route
        if route.is_plain:
            self._router.put_route(route.hostname, route.tunnel_id)
        else:
            self._router.put_pool(route.hostname, route.targets, route.sticky)

    def _forget_route(self, hostname: str) -> None:
        self._routes.pop(hostname, None)
        self._router.delete_route(hostname)


def _fill(table: dict[Key, Any], rows: Iterable[tuple[Key, Any]]) -> None:
    for key, row in rows:
        if row.deleted_at is None:
            table[key] = row
        else:
            table.pop(key, None)


def _where_to(route: Route) -> str:
    """In words, for the audit log."""
    if route.is_plain:
        return f"to tunnel {route.tunnel_id}"
    targets = ", ".join(f"{target.tunnel_id} ({target.weight})" for target in route.targets)
    sticky = "" if route.sticky is Sticky.NONE else f", sticky by {route.sticky.value}"
    return f"to tunnels {targets}{sticky}"


def _credentials_digest(account_tag: str, secret: bytes) -> bytes:
    """One value for both, of one length, so that comparing it tells nothing of either."""
    tag = account_tag.encode("utf-8", "surrogatepass")
    return hashlib.sha256(len(tag).to_bytes(8, "big") + tag + secret).digest()
