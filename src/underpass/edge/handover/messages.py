"""What an edge's process and the one that takes its place say to each other (see
`ops.workers.channel`).

They may be two versions of the program, so PROTOCOL is raised with every change that an older one
would not understand.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from msgspec import Struct

from underpass.edge.worker_messages import LinkCame, LinkWent, PeerIsUp

__all__ = [
    "PROTOCOL",
    "CloseLinks",
    "Enter",
    "Estate",
    "Failed",
    "GivenSocket",
    "Moved",
    "NewNotice",
    "NewRequest",
    "OldNotice",
    "Ready",
    "Taken",
]

PROTOCOL: Final = 1


class GivenSocket(Struct, frozen=True):
    """A socket that listens: what it is for, the address that was asked for (empty: whatever a
    service manager has given), and its descriptor in the new process."""

    name: str
    asked: str
    descriptor: int


class Estate(Struct, frozen=True):
    """What the new process gets, or `error`: why it gets nothing."""

    error: str = ""
    sockets: tuple[GivenSocket, ...] = ()
    lock: int = -1
    """The descriptor that holds the lock of the data directory."""
    standard_error: int = -1
    """Where the old one writes; until now the new one's goes through its hands."""
    numbers: tuple[int, int] = (0, 0)
    """What its processes are called: the first, and how many."""
    aside: tuple[tuple[UUID, UUID], ...] = ()
    """What is kept aside: see Router.kept_aside."""


# Asked by the new process.


class Enter(Struct, frozen=True, tag=True):
    """The first thing it says; what the old one has is told before it is answered. -> Estate"""

    protocol: int
    version: str


class Ready(Struct, frozen=True, tag=True):
    """It serves visitors and connectors. -> None, when the old one changes nothing any more"""


class CloseLinks(Struct, frozen=True, tag=True):
    """See worker_messages.CloseLinks. -> None"""

    tunnel_id: UUID
    connector_id: UUID | None = None


class Failed(Struct, frozen=True, tag=True):
    """It cannot serve, and ends. -> None"""

    error: str


NewRequest = Enter | Ready | CloseLinks | Failed


# Told by the new process.


class Taken(Struct, array_like=True, frozen=True, tag=True):
    """It has everything; there is no way back."""


NewNotice = Taken | LinkCame | LinkWent | PeerIsUp


# Told by the old process.


class Moved(Struct, array_like=True, frozen=True, tag=True):
    """None of its links takes requests any more."""


OldNotice = Moved | LinkCame | LinkWent | PeerIsUp
