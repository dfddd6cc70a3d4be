# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""Exchanges: the relay between the side that received a request and the side that carries it on.

Handlers get an `Exchange` and join it to an outbound side, or answer it. Names and values are bytes
throughout; statuses and HTTP/2 error codes (RFC 9113 §7) are integers.
"""

from collections.abc import Callable, Iterable
from typing import Any

from underpass.core.fields import Fields
from underpass.core.histogram import Histogram

FIRST_BYTE_BOUNDS: tuple[float, ...]
"""Seconds."""
DURATION_BOUNDS: tuple[float, ...]
"""Seconds."""

class Counters:
    """What exchanges have done, for metrics; plain numbers, read whenever somebody asks."""

    opened: int
    """Exchanges begun."""
    active: int
    """Begun and not ended."""
    failed: int
    """Ended by `fail`, a reset or a lost peer."""
    request_bytes: int
    """Request content."""
    response_bytes: int
    """Response content."""

    @property
    def first_byte(self) -> Histogram:
        """Seconds until the response began."""
    @property
    def duration(self) -> Histogram:
        """Seconds until all was over; tunnels (WebSocket, streams) do not count."""
    def statuses(self) -> dict[int, int]:
        """{status: how many final response heads}."""
    def classes(self) -> list[int]:
        """How many final response heads there were with 1xx, 2xx, 3xx, 4xx, 5xx."""
    def causes(self) -> dict[str, int]:
        """{cause: how many failed for it}, no more than 129; "other" are those beyond."""
    def absorb(self, other: Counters) -> None:
        """Add all that another has counted."""

class Route:
    """Where requests of one kind go, and where they are counted."""

    observe: Callable[[Any], object] | None
    """Called with each exchange before it is carried on."""

    def __init__(
        self,
        forward: Callable[[Any], object],
        make_counters: Callable[[], Counters],
        info: Any = None,
        observe: Callable[[Any], object] | None = None,
        trace: Callable[[Any], object] | None = None,
    ) -> None:
        """make_counters is asked at the first request: most of a thousand rules never see one.
        trace is called with requests that the edge wants a trace of (`cf-trace-id`)."""
    @property
    def forward(self) -> Callable[[Any], object]: ...
    @property
    def info(self) -> Any:
        """What the owner knows it by."""
    def take(self, exchange: Exchange) -> None:
        """Count the exchange here from now on, and carry it on."""

class Side:
    """One end of an exchange; subclasses are codecs."""

class Patience:
    """How long an exchange may take, in seconds: until its response begins, without content in
    either direction after that, and in all; for the last two 0 is for ever."""

    def __init__(self, first_byte: float, idle: float = 0, total: float = 0) -> None: ...
    @property
    def first_byte(self) -> float: ...
    @property
    def idle(self) -> float: ...
    @property
    def total(self) -> float: ...

class Exchange:
    """One request and its response.

    Handlers must call exactly one of `respond`, `fail`, `open_python_side` or a codec's
    `forward(exchange)`, now or later.
    """

    times_out: bool
    """The carrier's `sweep` gives it up when it takes too long."""
    patience: Patience | None
    """What is too long; None: the carrier knows."""
    context: Any
    """Whatever the owner wants to keep with it."""
    on_answer: Callable[[Any, int, Fields], object] | None
    """Called with the exchange, the status, and the response head on its way to the edge, which may
    be added to; once, on a connector."""
    on_over: Callable[[Any], object] | None
    """Called once, when all is over. What it or `on_answer` raise goes to `sys.unraisablehook`."""

    @property
    def counters(self) -> Counters: ...
    @property
    def request(self) -> Fields | None:
        """The request head, pseudo fields included; None once the response head has come."""
    @property
    def status(self) -> int:
        """Of the final response head passed on; 0 before."""
    @property
    def route(self) -> Route | None:
        """That it was sent on by."""
    @property
    def cause(self) -> str | None:
        """Why it failed, in one word; None: it did not, or not yet."""
    @property
    def request_bytes(self) -> int:
        """Request content, so far."""
    @property
    def response_bytes(self) -> int:
        """Response content, so far."""
    @property
    def seconds(self) -> float:
        """From the request head until now, or until all was over."""
    @property
    def first_byte_seconds(self) -> float | None:
        """From the request head to the final response head; None before."""
    @property
    def attempts(self) -> int:
        """Outbound sides tried."""
    @property
    def wants_upgrade(self) -> bool:
        """The request asks for another protocol (Upgrade, or CONNECT by RFC 8441)."""
    @property
    def extended(self) -> bool:
        """It does so by CONNECT: 200 says yes, and there is no handshake."""
    @property
    def method(self) -> bytes:
        """b"" once the response head has come, as the next three."""
    @property
    def scheme(self) -> bytes: ...
    @property
    def authority(self) -> bytes: ...
    @property
    def path(self) -> bytes:
        """The request target as it came, query included."""
    @property
    def is_over(self) -> bool:
        """True once nothing can be sent any more."""
    @property
    def has_body(self) -> bool:
        """True if request content has come or may still come."""
    def header(self, token: int) -> bytes | None:
        """The value of the first request field with this `Token`, or None."""
    def when_whole(self, most: int, then: Callable[[Any], object]) -> None:
        """Call `then(self)` when the length of the request's content is known: now, if the head
        says it or there is none, or when all has come; the head says it then.

        More than `most` octets are answered with 411. `most` must be less than the sender may send
        before any of it is taken.
        """
    def wait_in(self, queue: dict[Any, None]) -> None:
        """Be a key of `queue` until all is over, or `waits_no_more`."""
    def waits_no_more(self) -> None:
        """Be no key of a queue any more."""
    def headers(self, tokens: tuple[int, ...]) -> list[bytes | None]:
        """`header` of each `Token`, pseudo fields included, in one go."""
    def respond(self, status: int, pairs: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """Answer with a complete response of our own. Ignored if already over or answered.

        An outbound side it was joined to is given up. ValueError for a status outside 200 to 999.
        """
    def fail(self, status: int, cause: str) -> None:
        """Answer for an exchange that cannot be carried on. `cause` is a machine-readable word.

        Ignored if already over or answered.
        """
    def reset(self, code: int = 2) -> None:
        """Break the exchange off."""
    def open_python_side(self) -> PythonSide:
        """Join the exchange to Python callbacks. The side is detached if it is over."""
    def deliver_waiting(self) -> None:
        """Hand content that came before the outbound side to it (for `open_python_side`)."""

class PythonSide(Side):
    """A side whose codec is Python: for streams that are few and small.

    As the outbound side of an exchange (`Exchange.open_python_side`) it gets the request by
    `on_data`, `on_end` and `on_abandoned`, and answers with `send_response`, `write`, `end`. As the
    inbound side (`request`) it is the origin of the request, and gets the response by `on_head` and
    the same. After the exchange has ended, what it sends is ignored.
    """

    on_head: Callable[[int, Fields], object] | None
    """Called with status and head of the response."""
    on_data: Callable[[bytes], object] | None
    on_end: Callable[[], object] | None
    on_abandoned: Callable[[int], object] | None
    """Called with an `ErrorCode` when nothing more will come or is wanted."""
    on_released: Callable[[], object] | None
    """Something written here has left by the other side."""
    keeps_credit: bool
    """What `on_data` got stays charged to its sender until `take`."""

    @property
    def unreleased(self) -> int:
        """Bytes written here that have not left yet."""
    @property
    def is_attached(self) -> bool:
        """False once the exchange has ended."""
    def take(self, size: int) -> None:
        """`size` bytes that `on_data` got are done with (for `keeps_credit`)."""
    def request(self, exchange: Exchange, head: Fields) -> None:
        """Become the inbound side of `exchange`, whose request head is `head`."""
    def send_response(
        self, status: int, pairs: Iterable[tuple[bytes, bytes]] = (), end: bool = False
    ) -> None:
        """Outbound role: the response head."""
    def write(self, data: bytes) -> None:
        """Content in this side's direction. ValueError before `send_response` (outbound role)."""
    def end(self) -> None:
        """No more content in this side's direction. ValueError before `send_response`."""
    def reset(self, code: int = 8) -> None:
        """Break the exchange off."""

class Acceptor:
    """Makes the exchanges of a server-role codec and hands each to `handler` once its head is read.

    handler(exchange): None answers 503. on_error(exchange, exception): told what a handler raised,
    which is then answered with 500; without it the exception ends the connection.
    """

    def __init__(
        self,
        handler: Callable[[Any], object] | None = None,
        counters: Counters | None = None,
        on_error: Callable[[Any, Exception], object] | None = None,
    ) -> None: ...
    @property
    def counters(self) -> Counters: ...
