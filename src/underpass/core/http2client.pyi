# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""HTTP/2 toward an origin (RFC 9113): exchanges share connections."""

from collections.abc import Callable

from underpass.core.endpoint import Turn
from underpass.core.h2 import H2Connection, Limits
from underpass.core.http1client import OriginPool

class Http2Client(H2Connection):
    """One HTTP/2 connection to an origin; serves those who wait in `pool` when it has a stream.

    An origin that is asked for something and sends no byte for 15 s is pinged, at most twice until
    something else than the answers has come, and given up 15 s later.
    """

    def __init__(
        self, turn: Turn, pool: Http2Pool, scheme: bytes, limits: Limits | None = None
    ) -> None:
        """scheme: b"http" or b"https", as the origin is told."""
    @property
    def uses(self) -> int:
        """Exchanges carried."""
    @property
    def idle_since(self) -> float:
        """When its last stream ended, by the turn's coarse clock, seconds."""

class Http2Pool(OriginPool):
    """Connections to one origin that speaks HTTP/2, or is asked whether it does.

    `dial()` answers with `arrived(Http2Client)`, whose `connected` has been called, or
    `arrived(Http1Client)`. A request takes a stream on the first HTTP/2 connection that has one to
    give; where none has, it waits for a stream that ends, or a further connection.
    """

    def __init__(
        self,
        dial: Callable[[], object],
        upgrades: OriginPool,
        max_idle: int = 100,
        idle_timeout: float = 90.0,
        max_dials: int = 512,
        max_sessions: int = 64,
    ) -> None:
        """upgrades: for requests that only HTTP/1.1 can make; closed together with this pool."""
    @property
    def max_sessions(self) -> int:
        """HTTP/2 connections there may be at once."""
    @property
    def session_count(self) -> int:
        """HTTP/2 connections that take requests."""
