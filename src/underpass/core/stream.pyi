# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""A raw byte stream to an origin: request content goes out as it is, as what comes back does."""

from collections.abc import Iterable
from typing import final

from underpass.core.endpoint import Endpoint
from underpass.core.relay import Exchange, Side

@final
class StreamSide(Side):
    """The outbound side of a tunnelled stream."""

class StreamClient(Endpoint):
    """One connection to a stream origin, for one exchange.

    The origin is not read any further while 262,144 octets of its are unreleased. Either end ends
    the whole: there is no half-close in a tunnel (docs: wire protocol §2.7 and §2.8).
    """

    def attach(
        self,
        exchange: Exchange,
        pairs: Iterable[tuple[bytes, bytes]] = (),
        status: int = 200,
    ) -> None:
        """Acknowledge the exchange with `status` (200 or 101) and `pairs`, and join the two.

        If the exchange is over meanwhile the connection is closed; if the connection is lost, the
        exchange fails with 502.
        """
