"""What an edge must remember, and the small interface to whatever remembers it.

Tunnels and routes are few, read-mostly and must be consistent. An edge loads a `Snapshot`, serves
from memory, and pulls `Changes` since the revision it has; no request ever waits for the store.

Rules for every implementation:

- One monotonic revision. Every change stamps the rows it touches with the next one, in the same
  transaction, so `revision > seen` is exactly what a reader has missed.
- A mutation is compare-and-set: the caller names the revision of the row it decided upon (`ABSENT`
  when it decided that there is none) and gets `Conflict` when that has changed meanwhile.
- Deleted rows stay as tombstones, so that readers learn of them, until `purge`.

Several edges on one database will also need presence: a lease is one row per edge node,
`(node: UUID, generation: int, address: str, expires_at: datetime)`, taken by compare-and-set on
`generation`, renewed well before `expires_at`, and fencing its own node once past it; a link is a
row `(tunnel_id, connector_id, conn_index, node, generation)` that counts only while that lease
stands. One edge on one machine needs neither: its data directory's lock says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from underpass.edge.errors import StoreError

ABSENT = 0
"""The revision of a row that does not exist, for compare-and-set; real revisions start at 1."""


class StoreCorrupt(StoreError):  # noqa: N818 - says the state, as its siblings do
    """What is stored is damaged, or is no store of ours."""


class StoreTooNew(StoreError):  # noqa: N818
    """The store was written by a later version of Underpass."""


class StoreUnavailable(StoreError):  # noqa: N818
    """The store cannot be reached or written now; what is in memory keeps being served."""


class Conflict(StoreError):  # noqa: N818
    """A row is not as the caller believed. Nothing was changed."""

    def __init__(self, what: str, expected: int, found: int) -> None:
        super().__init__(f"{what} is at revision {found}, not {expected}: it was changed meanwhile")
        self.expected = expected
        self.found = found


class NameTaken(StoreError):  # noqa: N818
    """An account's tunnel names are unique among tunnels that are not deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a tunnel named {name!r} exists already in this account")
        self.name = name


class NoSuchTunnel(StoreError):  # noqa: N818
    """A route was to lead to a tunnel that does not exist or is deleted."""

    def __init__(self, tunnel_id: UUID) -> None:
        super().__init__(f"there is no tunnel {tunnel_id}")
        self.tunnel_id = tunnel_id


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel: who may run it and what it is called."""

    id: UUID
    account_tag: str
    name: str
    secret: bytes = field(repr=False)
    """Kept itself, not as a hash: tokens that carry it are issued again on demand."""
    created_at: datetime
    """Aware, UTC, whole microseconds; as all times here."""
    deleted_at: datetime | None = None
    quick: bool = False
    """Made by a quick-tunnel request, owned by nobody, removed once unused."""
    revision: int = ABSENT
    """Set by the store; what a caller puts here is not looked at."""


@dataclass(frozen=True, slots=True)
class Route:
    """A hostname (or `*.suffix`) that leads to a tunnel."""

    hostname: str
    tunnel_id: UUID
    created_at: datetime
    deleted_at: datetime | None = None
    revision: int = ABSENT


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is not deleted, at one revision."""

    revision: int
    tunnels: tuple[Tunnel, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows changed after the asked revision and up to `revision`, tombstones included."""

    revision: int
    tunnels: tuple[Tunnel, ...]
    routes: tuple[Route, ...]


class Store(Protocol):
    """Where tunnels and routes are kept.

    Every method may raise StoreUnavailable or StoreCorrupt; StoreError is the base of all.
    Mutations return the revision at which the change stands.
    """

    async def snapshot(self) -> Snapshot:
        """All live rows, consistent with each other."""
        ...

    async def changes_since(self, revision: int) -> Changes | None:
        """What changed after `revision`; None when that is so long ago that tombstones are gone
        (load a snapshot instead)."""
        ...

    async def create_tunnel(self, tunnel: Tunnel, hostnames: Sequence[str] = ()) -> int:
        """Add a tunnel and, in the same change, routes to it.

        Raises:
            Conflict: the id or one of the hostnames exists.
            NameTaken: the account has a live tunnel of that name.
        """
        ...

    async def delete_tunnel(self, tunnel_id: UUID, expected: int) -> int:
        """Delete a tunnel and, in the same change, all routes to it.

        Raises:
            Conflict: the tunnel is not at revision `expected`.
        """
        ...

    async def put_route(self, hostname: str, tunnel_id: UUID, expected: int) -> int:
        """Lead `hostname` (normalized) to a tunnel.

        Raises:
            Conflict: the route is not at revision `expected` (ABSENT: there must be none).
            NoSuchTunnel: the tunnel does not exist or is deleted.
        """
        ...

    async def delete_route(self, hostname: str, expected: int) -> int:
        """Delete a route.

        Raises:
            Conflict: the route is not at revision `expected`.
        """
        ...

    async def purge(self, deleted_before: datetime) -> int:
        """Forget tombstones from before that time; the number of rows forgotten."""
        ...

    async def close(self) -> None:
        """Finish what is under way and let go. The store is not usable afterwards."""
        ...
