# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""How an exchange crosses a link (docs: wire protocol §2.2 to §2.10), both ends of it."""

from collections.abc import Callable, Iterable
from enum import IntEnum

from underpass.core.recent import RecentRequests
from underpass.core.relay import Acceptor, Counters, Exchange

class Kind(IntEnum):
    """What a stream of a link is for (docs: wire protocol §2.2)."""

    HTTP = 0
    WEBSOCKET = 1
    STREAM = 2
    """Raw bytes to an address (private networks)."""
    CONTROL = 3
    """The registration RPC."""
    CONFIGURATION = 4

class OriginExchange(Exchange):
    """An exchange on the connector.

    Handlers answer with `respond` (as an origin would: `http_status:N`), `fail` (502 of our own) or
    carry it to an origin.
    """

    host: bytes | None
    """Goes to the origin instead of the visitor's, which goes into X-Forwarded-Host."""

    @property
    def kind(self) -> int:
        """A `Kind`."""
    @property
    def acceptor(self) -> OriginAcceptor: ...

class OriginAcceptor(Acceptor):
    """Makes an `OriginExchange` of every request on a link.

    tag: the connector's UUID as text. tags: more (name, value) pairs for every origin request.
    on_failure(exchange, status, cause): told of every failure; status 0 is one that could not be
    answered any more, because the visitor has gone or the response had begun.
    """

    conn_index: int
    """Of the link; -1: it has none."""
    passes_hints: bool
    """The edge stands interim responses: early hints are passed on (RFC 8297)."""

    def __init__(
        self,
        handler: Callable[[OriginExchange], object] | None,
        counters: Counters | None = None,
        on_error: Callable[[OriginExchange, Exception], object] | None = None,
        tag: bytes | None = None,
        tags: Iterable[tuple[bytes, bytes]] = (),
        on_failure: Callable[[OriginExchange, int, str], object] | None = None,
        conn_index: int = -1,
    ) -> None: ...

class VisitorExchange(Exchange):
    """An exchange on the edge: a visitor's request, carried to a connector."""

    via_tunnel: bytes | None
    """The id of the tunnel, as text, while another process of this edge is to carry the request;
    behind it, after a space, that of the connector, if it has to be that."""
    refusal: str | None
    """Why it is sent again though a connector has answered: see VisitorAcceptor.refusals."""
    @property
    def refusal_status(self) -> int:
        """What the visitor gets if nobody else carries it on."""
    set_cookie: bytes | None
    """The value of a Set-Cookie that is added to the application's response."""
    hsts: bytes | None
    """Strict-Transport-Security if the response has none; at first the acceptor's."""

    compresses: bool
    """The response may be coded, as the acceptor's may."""

    def limit_body(self, size: int) -> bool:
        """Allow the request `size` bytes of content, -1 for any number. False when it has said that
        it has more: then it has been answered with 413."""
    @property
    def acceptor(self) -> VisitorAcceptor: ...
    @property
    def ray(self) -> bytes:
        """Names it in logs, in the request to the origin (cf-ray) and in the response."""
    @property
    def told(self) -> bool:
        """Whether the cause of its failure is the connector's word."""
    @property
    def visitor(self) -> bytes:
        """The visitor's address as text."""

class VisitorAcceptor(Acceptor):
    """Makes a `VisitorExchange` of every request of one visitor's connection."""

    client_address: bytes
    """The connection's peer, as text."""
    max_body: int
    """Octets of content a request may have, more is answered with 413; -1: any number."""
    scheme: bytes
    """b"http" or b"https"."""
    hsts: bytes | None
    """Strict-Transport-Security for responses that have none; None: they stay without."""
    recent: RecentRequests | None
    """Remembers the requests."""
    again: Callable[[VisitorExchange], object] | None
    """Routes a request that is sent again; None: the handler does. With a `refusal` it may find
    nobody else, and then has to `fail` with that."""
    refusals: dict[str, bool] | None
    """Causes by which a request is sent again though a connector has answered: whether, then, an
    application may have seen it."""
    compresses: bool
    """Responses are coded for who accepts that, where it is of use: see `contentcoding`."""

    def __init__(
        self,
        handler: Callable[[VisitorExchange], object] | None,
        counters: Counters | None,
        on_error: Callable[[VisitorExchange, Exception], object] | None,
        on_failure: Callable[[VisitorExchange, int, str], object] | None,
        client_address: bytes,
        scheme: bytes,
        location: bytes = b"LOCAL",
    ) -> None:
        """handler: route it. on_failure(exchange, status, cause): answer when no origin did.

        location: the edge's own short name, which ends every ray.
        """

class EdgeExchange(Exchange):
    """A request the edge itself makes of a connector; a `PythonSide` is its inbound side.

    Nobody is answered when it fails: the asking side learns by `on_abandoned`.
    """

    def __init__(self, counters: Counters) -> None: ...

class PeerExchange(Exchange):
    """An exchange on the edge: another process of it has the visitor, a link here carries it on."""

    @property
    def acceptor(self) -> PeerAcceptor: ...
    @property
    def tunnel(self) -> bytes:
        """The id of the tunnel, as text, and perhaps of a connector: see `VisitorExchange`. Empty
        if there was none."""
    def pass_on(self, again: bool) -> None:
        """Whether the next side it is joined to is another process again, which has to be told the
        tunnel too."""

class PeerAcceptor(Acceptor):
    """Makes a `PeerExchange` of every request from another process of this edge."""

    def __init__(
        self,
        handler: Callable[[PeerExchange], object] | None,
        counters: Counters | None = None,
        on_error: Callable[[PeerExchange, Exception], object] | None = None,
    ) -> None: ...
