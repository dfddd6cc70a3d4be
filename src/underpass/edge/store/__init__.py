"""What an edge must remember, and the small interface to whatever remembers it.

Tunnels, routes and their like are few, read-mostly and must be consistent. An edge loads a
`Snapshot`, serves from memory, and pulls `Changes` since the revision it has; no request ever waits
for the store.

Rules for every implementation:

- One monotonic revision. Every change stamps the rows it touches with the next one, in the same
  transaction, so `revision > seen` is exactly what a reader has missed.
- A mutation is compare-and-set: each record that is committed has the revision of the row that was
  decided upon (`ABSENT` when it was decided that there is none), and `Conflict` says that one has
  changed meanwhile.
- Deleted rows stay as tombstones, so that readers learn of them, until `purge`.
- What was done, and by whom, is written down in the same transaction.

Several edges on one database will also need presence: a lease is one row per edge node,
`(node: UUID, generation: int, address: str, expires_at: datetime)`, taken by compare-and-set on
`generation`, renewed well before `expires_at`, and fencing its own node once past it; a link is a
row `(tunnel_id, connector_id, conn_index, node, generation)` that counts only while that lease
stands. One edge on one machine needs neither: its data directory's lock says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from underpass.edge.errors import StoreError
from underpass.edge.store.records import (
    ABSENT,
    Account,
    ApiToken,
    AuditEntry,
    AuditRecord,
    Configuration,
    NetworkRoute,
    Record,
    Route,
    Sticky,
    Target,
    Tunnel,
    VirtualNetwork,
)

__all__ = [
    "ABSENT",
    "Account",
    "ApiToken",
    "AuditEntry",
    "AuditRecord",
    "Changes",
    "Configuration",
    "Conflict",
    "Missing",
    "NameTaken",
    "NetworkRoute",
    "Record",
    "Route",
    "Snapshot",
    "Sticky",
    "Store",
    "StoreCorrupt",
    "StoreError",
    "StoreTooNew",
    "StoreUnavailable",
    "Target",
    "Tunnel",
    "VirtualNetwork",
]


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
    """What has to be unique among rows that are not deleted would not be: a tunnel's name in its
    account, for one. Nothing was changed."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"{what} {name!r} exists already")
        self.name = name


class Missing(StoreError):  # noqa: N818
    """A row was to hang on one that does not exist or is deleted. Nothing was changed."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(f"there is no {what} {key}")
        self.what = what
        self.key = key


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is not deleted, at one revision."""

    revision: int
    tunnels: tuple[Tunnel, ...] = ()
    routes: tuple[Route, ...] = ()
    accounts: tuple[Account, ...] = ()
    tokens: tuple[ApiToken, ...] = ()
    virtual_networks: tuple[VirtualNetwork, ...] = ()
    network_routes: tuple[NetworkRoute, ...] = ()
    configurations: tuple[Configuration, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes(Snapshot):
    """Rows changed after the asked revision and up to `revision`, tombstones included."""


class Store(Protocol):
    """Where all of it is kept.

    Every method may raise StoreUnavailable or StoreCorrupt; StoreError is the base of all.
    """

    async def snapshot(self) -> Snapshot:
        """All live rows, consistent with each other."""
        ...

    async def changes_since(self, revision: int) -> Changes | None:
        """What changed after `revision`; None when that is so long ago that tombstones are gone
        (load a snapshot instead)."""
        ...

    async def configuration(self, tunnel_id: UUID) -> Configuration | None:
        """A tunnel's configuration with its document."""
        ...

    async def deleted(self, account_id: str) -> Snapshot:
        """The account's tunnels, virtual networks and network routes that are tombstones; the
        latest ones when there are many."""
        ...

    async def commit(self, records: Sequence[Record], entry: AuditEntry) -> int:
        """Put all `records` in one change, write down `entry` with it; the revision of the change.

        A record with `deleted_at` is deleted, and with it all that hangs on it: a tunnel's routes,
        network routes and configuration; a virtual network's routes. A route that leads to other
        tunnels too goes on without the one. Without records only the entry is written.

        Raises:
            Conflict: a row is not at the revision that its record has; or the id of a tunnel was
                used before.
            NameTaken: a name would not be unique any more.
            Missing: a record hangs on another, such as a route on its tunnel, that does not exist
                or is deleted.
        """
        ...

    async def audit(
        self, *, limit: int, before: int | None = None, account_id: str | None = None
    ) -> tuple[AuditRecord, ...]:
        """The newest `limit` records of the audit log, newest first; those numbered below `before`,
        of one account, if asked."""
        ...

    async def purge(self, deleted_before: datetime) -> int:
        """Forget tombstones from before that time, and what the audit log need not keep any longer;
        the number of tombstones forgotten."""
        ...

    async def close(self) -> None:
        """Finish what is under way and let go. The store is not usable afterwards."""
        ...
