"""What the control plane knows of a link: how one is dialled, watched and ended.

The supervisor is written against these protocols; `connector.link` implements them over HTTP/2.
The events are what the supervisor tells the rest of the connector.
"""

from __future__ import annotations

import enum
from typing import Protocol

from msgspec import Struct

from underpass.connector.edges import EdgeSlot
from underpass.wire.registration import ConnectionDetails

__all__ = [
    "AddressesFound",
    "AddressesNotFound",
    "DialError",
    "DialErrorKind",
    "HomeEvent",
    "HomeRefused",
    "Link",
    "LinkConnected",
    "LinkConnecting",
    "LinkDialer",
    "LinkDisconnected",
    "LinkEvent",
    "LinkFailed",
    "LinkReconnecting",
    "LinkReplacing",
    "LinkUnregistered",
]


class DialErrorKind(enum.Enum):
    """The step at which dialling failed."""

    RESOLVE = "resolve"
    PROXY = "proxy"
    CONNECT = "connect"
    TLS = "tls"
    HANDSHAKE = "handshake"
    REGISTER = "register"
    WORKER = "worker"  # the process that was to dial has ended; the address is not at fault


class DialError(Exception):
    """A link could not be made; another address may do better.

    `is_lasting` when the same address will say the same until somebody changes something.
    """

    def __init__(self, kind: DialErrorKind, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_lasting = is_lasting


class Link(Protocol):
    """One registered connection to the edge."""

    @property
    def details(self) -> ConnectionDetails:
        """What the edge answered to the registration."""

    async def wait_closed(self) -> Exception | None:
        """Return when the connection is gone, with the reason if it was not a clean end."""

    async def wait_going_away(self) -> None:
        """Return when the edge has said that it wants the connection to end."""

    @property
    def drain_seconds(self) -> float:
        """How long the edge then gives it to finish what it has; 0 if it does not say."""

    def probe(self) -> None:
        """Find out now whether the edge is still there; if not, the link closes soon."""

    async def unregister(self, timeout: float) -> None:
        """Ask the edge to send no new requests, for at most `timeout` seconds.

        Raises OSError (TimeoutError included on Python 3.11) or asyncio.TimeoutError or RpcError.
        """

    async def drained(self) -> None:
        """Return when no exchange is in flight and all that was answered has been written."""

    async def in_flight(self) -> int:
        """How many exchanges are in flight."""

    def abort(self) -> None:
        """Close at once; what is in flight is lost. Harmless when closed already."""


class LinkDialer(Protocol):
    """Makes links."""

    async def dial(
        self,
        slot: EdgeSlot,
        conn_index: int,
        previous_attempts: int,
        replacing: Link | None = None,
    ) -> Link:
        """Connect to `slot` and register. Cleans up after itself when cancelled.

        An edge lets nobody have an index twice. So a link that is being replaced is unregistered
        when all is ready for the registration of the new one: what is between the two is one
        round trip.

        Raises DialError, or wire.registration.RegistrationRefused when the edge says no. When
        that is raised, or a DialError of kind REGISTER, `replacing` has been unregistered.
        """


class LinkConnecting(Struct, frozen=True):
    """An attempt begins."""

    conn_index: int
    slot: EdgeSlot


class LinkConnected(Struct, frozen=True):
    """The edge accepted the registration."""

    conn_index: int
    slot: EdgeSlot
    details: ConnectionDetails


class LinkFailed(Struct, frozen=True):
    """An attempt did not lead to a registered link: DialError or RegistrationRefused."""

    conn_index: int
    slot: EdgeSlot
    error: Exception


class LinkUnregistered(Struct, frozen=True):
    """The edge has been asked to send nothing new; `error` says why that may not have worked."""

    conn_index: int
    slot: EdgeSlot
    error: Exception | None


class LinkReplacing(Struct, frozen=True):
    """A link is to be replaced; `by_edge` when the edge wants it, and sends nothing new."""

    conn_index: int
    slot: EdgeSlot
    by_edge: bool


class LinkDisconnected(Struct, frozen=True):
    """A registered link is gone; `expected` when it was being shut down.

    `replaced` when another link had its index by then.
    """

    conn_index: int
    slot: EdgeSlot
    error: Exception | None
    expected: bool
    replaced: bool = False


class LinkReconnecting(Struct, frozen=True):
    """The next attempt follows within `longest_wait` seconds."""

    conn_index: int
    slot: EdgeSlot
    longest_wait: float


class AddressesFound(Struct, frozen=True):
    """Where the edge is, is known. There will be `links`, of `wanted`."""

    home: int
    links: int
    wanted: int


class AddressesNotFound(Struct, frozen=True):
    """The edge could not be looked up; the next attempt follows within `longest_wait` seconds.
    Without one (None) the addresses known so far are used on."""

    home: int
    error: Exception
    longest_wait: float | None


class HomeRefused(Struct, frozen=True):
    """A home is given up for good, and others are left."""

    home: int
    error: Exception


HomeEvent = AddressesFound | AddressesNotFound | HomeRefused

LinkEvent = (
    LinkConnecting
    | LinkConnected
    | LinkFailed
    | LinkReplacing
    | LinkUnregistered
    | LinkDisconnected
    | LinkReconnecting
)
