# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""HTTP/1.1 toward an origin (RFC 9112): one exchange at a time, connections kept for the next."""

from collections.abc import Callable
from typing import Any, final

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
    def attach(self, exchange: Exchange) -> None:
        """Carry `exchange`, whose pool this connection was dialled for.

        If that is over meanwhile the connection goes to its pool; if the connection is lost, the
        exchange fails with 502.
        """
    @property
    def uses(self) -> int:
        """Exchanges carried, the one under way included."""
    @property
    def idle_since(self) -> float:
        """When it was last put in its pool, seconds of the loop; 0 before."""

class OriginPool:
    """Connections to one origin.

    `dial(exchange)` is called when a request finds none waiting: it makes a connection and calls
    its `attach`, or `exchange.fail`.
    """

    max_idle: int
    """Connections kept."""
    idle_timeout: float
    """Seconds after which `sweep` closes a waiting one; 0: never."""

    def __init__(
        self,
        dial: Callable[[Any], object],
        max_idle: int = 100,
        idle_timeout: float = 90.0,
    ) -> None: ...
    def forward(self, exchange: Exchange) -> None:
        """Carry `exchange` on a waiting connection, or have one dialled.

        CONNECT is answered with 501. GET, HEAD and OPTIONS without content are sent once more, on a
        fresh connection, when a waiting one turns out to be dead before a byte of the response has
        come (RFC 9110 §9.2.2).
        """
    def forward_afresh(self, exchange: Exchange) -> None:
        """Carry `exchange` on a connection that has never been used."""
    def remove(self, connection: Http1Client) -> None:
        """Forget a waiting connection that has closed."""
    def sweep(self, now: float) -> None:
        """Close what has waited longer than `idle_timeout`; `now` is the loop's time, seconds."""
    def close(self) -> None:
        """Close waiting connections at once; those in use close when their exchange ends."""
    @property
    def reused(self) -> int:
        """Exchanges that found a connection waiting."""
    @property
    def dialled(self) -> int:
        """Times `dial` was called."""
    def __len__(self) -> int:
        """Connections waiting."""
