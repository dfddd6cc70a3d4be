"""What the dashboard shows of an edge beside what the API does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from underpass.edge.dashboard.transfers import Transfers
from underpass.edge.recent import Recent
from underpass.edge.store import AuditRecord
from underpass.ops.metrics import Snapshot

__all__ = ["Parts", "ReadAudit"]


class ReadAudit(Protocol):
    """`Store.audit`."""

    async def __call__(
        self, *, limit: int, before: int | None = None, account_id: str | None = None
    ) -> Sequence[AuditRecord]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Of one edge. The functions are asked whenever somebody looks."""

    sessions: Path
    """Directories: see sessions.Sessions and SignInLinks."""
    sign_in_links: Path
    transfers: Transfers
    audit: ReadAudit
    recent: Callable[[], Awaitable[Recent | None]]
    """None: requests are not remembered."""
    figures: Callable[[], Awaitable[Snapshot]]
    """See figures.traffic_figures."""
    certificates: Callable[[], Mapping[str, datetime]]
    """When the certificates end that are there, by name."""
    addresses: Callable[[], Mapping[str, str]]
    """Where it listens: `https`, `http`, `tunnel`, `api`."""
    ca_certificate: Path
    hostname: str
    """Its public name; "": it has none."""
    version: str
    started_at: datetime
    workers: int
