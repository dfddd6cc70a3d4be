# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""HTTP/1.1 toward an origin (RFC 9112): one exchange at a time, connections kept for the next."""

from collections.abc import Callable
from typing import final

from underpass.core.endpoint import Endpoint, Turn
from underpass.core.relay import Exchange, Side

@final
class Http1Request(Side):
    """One request on an origin connection."""

class Http1Client(Endpoint):
    """One connection to an origin; it goes back to `pool` when it can carry another exchange.

    Response content is held back by not reading the transport once 262,144 octets are unreleased. A
    response head may have 131,072 octets and follow 16 interim responses.
    """

    def __init__(self, turn: Turn, pool: OriginPool | None = None) -> None: ...
    @property
    def uses(self) -> int:
        """Exchanges carried, the one under way included."""
    @property
    def idle_since(self) -> float:
        """When it last became idle, by the turn's coarse clock, seconds; 0 before."""

class OriginPool:
    """Connections to one origin.

    `dial()` is called when one more connection is wanted, for `max_dials` at once at most; it
    answers, now or later, with `arrived` or `dial_failed`. A request that finds no idle connection
    waits for the first that comes free, be it new or one that another request is done with.
    """

    max_idle: int
    """Idle connections kept for longer than a second; 0: none is ever kept."""
    idle_timeout: float
    """Seconds after which `sweep` closes an idle one; 0: never."""

    def __init__(
        self,
        dial: Callable[[], object],
        max_idle: int = 100,
        idle_timeout: float = 90.0,
        max_dials: int = 512,
        *,
        absolute: bytes | None = None,
        proxy_authorization: bytes | None = None,
    ) -> None:
        """absolute: scheme and authority to write before every path, for an origin behind a proxy.

        proxy_authorization: the credentials for that proxy.
        """
    def forward(self, exchange: Exchange) -> None:
        """Carry `exchange` on an idle connection, or the first that comes.

        CONNECT is answered with 501. GET, HEAD and OPTIONS without content are sent once more, on a
        fresh connection, when an idle one turns out to be dead before a byte of the response has
        come (RFC 9110 §9.2.2).
        """
    def forward_afresh(self, exchange: Exchange) -> None:
        """Carry `exchange` on a connection that has never been used."""
    def arrived(self, connection: Endpoint) -> None:
        """A connection asked for by `dial` has been made."""
    def dial_failed(
        self, status: int, cause: str, context: str | None = None, waited_since: int | None = None
    ) -> None:
        """A connection asked for by `dial` could not be made: who has waited longest is told.

        With `waited_since`, what `arrivals` was when that attempt began, everybody is told who was
        waiting then: for attempts that took all the time there was.
        """
    def remove(self, connection: Http1Client) -> None:
        """Forget an idle connection that has closed."""
    def sweep(self, now: float) -> None:
        """Close what has been idle for `idle_timeout`, and for a second in excess of `max_idle`.

        `now` is the loop's time, seconds.
        """
    def close(self) -> None:
        """Close idle connections at once and fail what waits for one.

        Connections in use close when their exchange ends.
        """
    @property
    def max_dials(self) -> int:
        """Connections that may be in the making at once."""
    @property
    def dialling(self) -> int:
        """Connections in the making."""
    @property
    def arrivals(self) -> int:
        """Exchanges that found no idle connection, so far."""
    @property
    def reused(self) -> int:
        """Exchanges that found an idle connection."""
    @property
    def dialled(self) -> int:
        """Times `dial` was called."""
    def __len__(self) -> int:
        """Idle connections."""
