# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""A raw byte stream to an origin: request content goes out as it is, as what comes back does."""

from collections.abc import Callable, Iterable
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

    Both may first have something to agree on in Python (SOCKS): the exchange can be attached
    before there is a transport, and between `listen` and `go_on` the visitor's bytes go to a
    callback. They stay charged to the visitor: no more can come than its window holds.
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
    def listen(self, feed: Callable[[bytes], object], gone: Callable[[], object]) -> None:
        """Until `go_on`, have the visitor's bytes by `feed`, and learn by `gone` that it has left.

        Both are called while the link is read; `gone` once at most, and never after `hang_up`.
        """
    def say(self, data: bytes) -> None:
        """Something to the visitor, besides what the origin sends."""
    def introduce(self, data: bytes) -> None:
        """Something to the origin, before whatever the visitor sends from now on."""
    def go_on(self, rest: bytes = b"") -> None:
        """The visitor's bytes are the origin's from now on, `rest` first: what came already."""
    def hang_up(self) -> None:
        """End the exchange, after what was said, and the connection."""
