"""What a store keeps: one class a kind of row.

Every record has `created_at`, `deleted_at` (a tombstone when set) and `revision`: that of the row
as it was read, ABSENT for one that is not there yet. Times are aware, UTC, whole microseconds.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

ABSENT = 0
"""The revision of a row that does not exist, for compare-and-set; real revisions start at 1."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel: who may run it and what it is called."""

    id: UUID
    account_tag: str
    name: str
    secret: bytes = field(repr=False)
    """Kept itself, not as a hash: tokens that carry it are issued again on demand. Empty in a
    tombstone: nothing may ever authenticate by it."""
    created_at: datetime
    deleted_at: datetime | None = None
    quick: bool = False
    """Made by a quick-tunnel request, owned by nobody, removed once unused."""
    revision: int = ABSENT


class Sticky(enum.Enum):
    """By what a visitor is led where it was led before."""

    NONE = "none"
    COOKIE = "cookie"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Target:
    """One of the tunnels that a hostname leads to."""

    tunnel_id: UUID
    weight: int = 1
    """Its share, in proportion to those of the others. 0: only while no other can be reached."""


@dataclass(frozen=True, slots=True)
class Route:
    """A hostname (or `*.suffix`) that leads to a tunnel, or to a pool of several."""

    hostname: str
    tunnel_id: UUID
    """The first target."""
    created_at: datetime
    deleted_at: datetime | None = None
    revision: int = ABSENT
    pool: str = ""
    """The pool's name when the route was made as a load balancer's."""
    weight: int = 1
    """Of the first target."""
    others: tuple[Target, ...] = ()
    """The targets beside the first, each another tunnel."""
    sticky: Sticky = Sticky.NONE

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets; at least one."""
        return (Target(self.tunnel_id, self.weight), *self.others)

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to choose."""
        return not self.others and self.sticky is Sticky.NONE

    def leads_to(self, tunnel_id: UUID) -> bool:
        """Whether the tunnel is a target."""
        return any(target.tunnel_id == tunnel_id for target in self.targets)

    def with_targets(self, targets: Sequence[Target]) -> Route:
        """The same leading to others; one or more, no tunnel twice."""
        first, *others = targets
        return replace(self, tunnel_id=first.tunnel_id, weight=first.weight, others=tuple(others))

    def without(self, tunnel_id: UUID) -> Route | None:
        """The same without a target; None when no other is left."""
        left = [target for target in self.targets if target.tunnel_id != tunnel_id]
        return self.with_targets(left) if left else None


@dataclass(frozen=True, slots=True)
class Account:
    """Owns tunnels. `id` and `zone_id` are 32 hexadecimal digits, as clients know them."""

    id: str
    zone_id: str
    name: str
    domain: str
    """The account's own, normalized: its hostnames are this or below it, and nobody else's are.
    Empty: any name that is in nobody's domain."""
    created_at: datetime
    deleted_at: datetime | None = None
    revision: int = ABSENT


@dataclass(frozen=True, slots=True)
class ApiToken:
    """What a client of the API shows. Of the secret only a digest is kept."""

    id: str
    account_id: str
    name: str
    scopes: tuple[str, ...]
    hostnames: tuple[str, ...]
    """Names, or `*.suffix`, that it may lead somewhere; none given: all of the account's."""
    digest: bytes = field(repr=False)
    """SHA-256 of the secret, which is 256 random bits. Empty in a tombstone."""
    created_at: datetime
    expires_at: datetime | None = None
    previous_digest: bytes = field(default=b"", repr=False)
    """Of the secret before a rotation, good until `previous_expires_at`."""
    previous_expires_at: datetime | None = None
    deleted_at: datetime | None = None
    revision: int = ABSENT


@dataclass(frozen=True, slots=True)
class VirtualNetwork:
    """A name for a space of addresses: the same network may be in several. One is the default."""

    id: UUID
    account_id: str
    name: str
    comment: str
    is_default: bool
    created_at: datetime
    deleted_at: datetime | None = None
    revision: int = ABSENT


@dataclass(frozen=True, slots=True)
class NetworkRoute:
    """A network (CIDR, no host bits) of a virtual network that is reached through a tunnel."""

    id: UUID
    account_id: str
    virtual_network_id: UUID
    network: str
    tunnel_id: UUID
    comment: str
    created_at: datetime
    deleted_at: datetime | None = None
    revision: int = ABSENT


@dataclass(frozen=True, slots=True)
class Configuration:
    """A tunnel's configuration as it is kept here for its connectors."""

    tunnel_id: UUID
    version: int
    """Counts up from 1 with every change."""
    document: bytes = field(repr=False)
    """JSON. Empty in snapshots and changes: ask `Store.configuration`."""
    created_at: datetime
    deleted_at: datetime | None = None
    revision: int = ABSENT


Record: TypeAlias = (
    Tunnel | Route | Account | ApiToken | VirtualNetwork | NetworkRoute | Configuration
)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what. Never a secret."""

    actor: str
    """`token ID`, `command line`, `edge` (by itself), `anyone`."""
    source: str
    """The address it came from; empty when it came from none."""
    action: str
    """Such as `tunnel.create`."""
    target: str
    account_id: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An entry as it stands in the log, by which time it has a number, a time and a revision."""

    number: int
    at: datetime
    revision: int
    entry: AuditEntry
