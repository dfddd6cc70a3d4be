# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""One HTTP/2 connection (RFC 9113), client or server."""

from underpass.core.endpoint import Endpoint, Turn
from underpass.core.relay import Acceptor, Exchange, Side

class Limits:
    """What we let a peer do; every field has a default that suits a tunnel connection.

    ValueError for a window outside 65,535 to 2^31-1.
    """

    max_concurrent_streams: int
    """Streams the peer may have open; more are refused."""
    stream_window: int
    """Bytes of content a stream may hold at first."""
    largest_stream_window: int
    """Bytes it may hold when its window has grown (`Turn.spare_window`)."""
    connection_window: int
    """Bytes of content that all open streams together may hold."""
    max_frame_size: int
    """Bytes, 16,384 to 16,777,215, as advertised."""
    max_header_list: int
    """Bytes of a field section as RFC 9113 §6.5.2 counts them, advertised and enforced."""
    allowance: int
    """How many frames that carry nothing useful may come in a burst."""
    allowance_per_second: int
    """How fast that is earned back."""
    linger: int
    """Bytes of a request read on and thrown away after its response; 0: the stream is reset."""
    extended_connect: bool
    """Whether it may ask for another protocol on a stream (RFC 8441)."""

    def __init__(
        self,
        *,
        max_concurrent_streams: int = 20000,
        stream_window: int = 1048576,
        largest_stream_window: int = 16777216,
        connection_window: int = 16777216,
        max_frame_size: int = 65536,
        max_header_list: int = 262144,
        allowance: int = 20000,
        allowance_per_second: int = 10000,
        linger: int = 0,
        extended_connect: bool = False,
    ) -> None: ...

class H2Stream(Side):
    """One stream, as a side of its exchange."""

    @property
    def id(self) -> int: ...

class H2Connection(Endpoint):
    """One HTTP/2 connection. `acceptor` makes it a server; without one it is a client.

    What breaks the protocol is answered with RST_STREAM or GOAWAY (RFC 9113 §5.4), never raised.
    """

    idle_at: int
    """Streams left at which `idle` is called."""
    drops_trailers: bool
    """Client role: requests go without their trailers, because the peer may not stand them."""

    def __init__(
        self, turn: Turn, acceptor: Acceptor | None = None, limits: Limits | None = None
    ) -> None:
        """ValueError for a `limits.max_frame_size` that RFC 9113 §6.5.2 does not allow."""
    @property
    def client(self) -> bool: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def bytes_received(self) -> int:
        """Of everything, frame headers included."""
    @property
    def peer_max_streams(self) -> int:
        """Its SETTINGS_MAX_CONCURRENT_STREAMS; 100 before its SETTINGS have come."""
    @property
    def peer_max_header_list(self) -> int:
        """Its SETTINGS_MAX_HEADER_LIST_SIZE, bytes; 2^32-1 if it sent none."""
    @property
    def settings_unacknowledged(self) -> int:
        """SETTINGS frames of ours that the peer has not acknowledged."""
    @property
    def round_trip(self) -> float:
        """Seconds between here and the peer, as last measured; 0 before."""
    @property
    def active(self) -> int:
        """Streams open now."""
    @property
    def accepts_requests(self) -> bool:
        """Client role: whether `forward` would open a stream."""
    def forward(self, exchange: Exchange) -> bool:
        """Client role: carry `exchange` on a new stream. False if there is no room for it."""
    def sweep(
        self, first_byte_timeout: float, idle_timeout: float = 0, total_timeout: float = 0
    ) -> int:
        """Client role: give up streams that take too long, in seconds; for the last two 0 is for
        ever.

        first_byte_timeout: until the response head, from the request's last progress.
        idle_timeout: without content in either direction, after it. total_timeout: from the
        request head; tunnels do not count. Measured by `Turn.tick`, so within a tick. Returns how
        many were given up.
        """
    def sweep_streams(self, linger_seconds: float, stall_seconds: float) -> None:
        """Server role: reset streams whose response has been complete for `linger_seconds` while
        the request goes on, and those of whose waiting content the peer has taken nothing for
        `stall_seconds`."""
    def ping(self) -> None:
        """Send a PING; the answer counts in `bytes_received`."""
    def shut_down(self, code: int = 0) -> None:
        """Send GOAWAY: open streams may end, new ones are not taken; closes after the last."""
    def announce_end(self, debug: bytes = b"") -> None:
        """Send GOAWAY that names no last stream: the peer had better go elsewhere. Until it does,
        all is as ever. `debug` is for it to read."""
    def connected(self) -> None:
        """Hook: the peer's first SETTINGS have come."""
    def going_away(self, code: int, debug: bytes) -> None:
        """Hook: the peer sent GOAWAY with this `ErrorCode`."""
    def disconnected(self, reason: Exception | None) -> None:
        """Hook, once: the connection has ended; None after a close of ours or a clean end."""
    def idle(self) -> None:
        """Hook: a stream has ended and no more than `idle_at` are left."""
    def protocol_failure(self, code: int, why: str) -> None:
        """Hook: the peer broke the protocol and is being told so. `code` is an `ErrorCode`."""
