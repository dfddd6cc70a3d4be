"""The two ends of a tunnel without sockets, and the bytes their peers would send.

A `Connector` is a link's server end before pooled origin connections, an `Edge` is a visitor's
connection before a link's client end. Bytes go in by the buffered protocol, as on a real transport;
what comes out is forgotten, but for the last write.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import UUID

from underpass.connector.ingress import single_rule
from underpass.connector.observers import Observe
from underpass.connector.origins import parse_service
from underpass.connector.routes import RouteTable
from underpass.core.endpoint import Endpoint, Turn
from underpass.core.h2 import H2Connection, Limits
from underpass.core.headerblock import serialize_pairs
from underpass.core.hpack import Encoder
from underpass.core.http1client import Http1Client, OriginPool
from underpass.core.http1server import Http1Server
from underpass.core.http2client import Http2Client, Http2Pool
from underpass.core.recent import RecentRequests
from underpass.core.relay import Counters
from underpass.core.tunnel import OriginAcceptor, OriginExchange, VisitorAcceptor, VisitorExchange
from underpass.edge.router import Router

__all__ = [
    "CONTENT",
    "MIB",
    "READ",
    "REQUEST",
    "RESPONSE_FIELDS",
    "RESPONSE_HEAD",
    "Bulk",
    "Connector",
    "ConnectorBeforeHttp2",
    "Edge",
    "data_frames",
    "feed",
    "frame",
]

Pairs = list[tuple[bytes, bytes]]

MIB = 1 << 20
READ = 262144
"""Bytes of one large read, and of the buffer that endpoints share."""
CONTENT = bytes(1024)
"""Of a small response or request."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE = 0, 1, 3, 4, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW = struct.pack(">HI", 4, 0x7FFFFFFF)
CREDIT = struct.pack(">I", 0x7FFFFFFF - 65535)

REQUEST: Pairs = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"app.example.com"),
    (b":path", b"/assets/index.js?v=12"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"*/*"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"referer", b"https://app.example.com/"),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef"),
    (b"cf-connecting-ip", b"192.0.2.7"),
    (b"cf-ray", b"0123456789abcdef-LOCAL01"),
]
RESPONSE_FIELDS: Pairs = [
    (b"Server", b"nginx"),
    (b"Date", b"Mon, 01 Jun 2026 10:00:00 GMT"),
    (b"Content-Type", b"application/javascript"),
    (b"Content-Length", b"1024"),
    (b"Last-Modified", b"Mon, 01 Jun 2026 09:00:00 GMT"),
    (b"Connection", b"keep-alive"),
    (b"ETag", b'"683c1b90-400"'),
    (b"Cache-Control", b"max-age=3600"),
    (b"Accept-Ranges", b"bytes"),
]


def head(start: bytes, fields: Pairs) -> bytes:
    """An HTTP/1.1 head."""
    return b"\r\n".join([start, *(name + b": " + value for name, value in fields), b"", b""])


RESPONSE_HEAD = head(b"HTTP/1.1 200 OK", RESPONSE_FIELDS)


def request_head(method: bytes, fields: Pairs = []) -> bytes:  # noqa: B006 - never changed
    """The head of `REQUEST` as a visitor sends it in HTTP/1.1, with `fields` behind."""
    host = (b"Host", dict(REQUEST)[b":authority"])
    path = dict(REQUEST)[b":path"]
    return head(b"%b %b HTTP/1.1" % (method, path), [host, *REQUEST[4:10], *fields])


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def data_frames(stream: int, content: bytes, *, size: int = 16384) -> bytes:
    """Content that goes on, in DATA frames of `size` bytes."""
    return b"".join(
        frame(DATA, 0, stream, content[at : at + size]) for at in range(0, len(content), size)
    )


def feed(endpoint: Endpoint, data: bytes) -> None:
    """`data` is read from the endpoint's transport."""
    buffer: Any = endpoint.get_buffer(-1)
    buffer[: len(data)] = data
    endpoint.buffer_updated(len(data))


class Bulk:
    """One large read again and again, without putting all its bytes into the buffer each time.

    The copy is the kernel's or the TLS library's work, and would drown what is to be measured. The
    buffer is the loop's and keeps what is in it; small reads in between only spoil its beginning.
    """

    SPOILT = 1024

    def __init__(self, endpoint: Endpoint, data: bytes) -> None:
        self._endpoint = endpoint
        self._size = len(data)
        self._start = data[: self.SPOILT]
        buffer: Any = endpoint.get_buffer(-1)
        buffer[: len(data)] = data

    def feed(self) -> None:
        """Read it once more."""
        buffer: Any = self._endpoint.get_buffer(-1)
        buffer[: len(self._start)] = self._start
        self._endpoint.buffer_updated(self._size)


class Transport:
    """Forgets what it is given, but for the last write."""

    def __init__(self) -> None:
        self.last: deque[bytes] = deque(maxlen=1)
        self.write = self.last.append

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Loop:
    """A loop's turns, by hand."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], object]] = deque()
        self.turn = Turn(self._due.append, lambda: 0.0)

    def run(self) -> None:
        """Turn until nothing is due."""
        due = self._due
        while due:
            due.popleft()()

    def connect(self, endpoint: Any) -> Transport:
        """Give `endpoint` a transport."""
        transport = Transport()
        endpoint.connection_made(transport)
        return transport


class Connector:
    """A connector's link and its origin, as many connections as are wanted at once.

    `observe` is called with each request before it is carried on.
    """

    def __init__(self, observe: Observe | None = None) -> None:
        self.loop = Loop()
        self.routes = RouteTable(observe)
        self.pool = OriginPool(self._dial)
        self.origin: Http1Client
        """The connection made last."""
        ingress = single_rule(parse_service("http://127.0.0.1:8000"))
        self.match = ingress.match
        self.forwards = self.routes.handlers(ingress, (self.pool.forward,))
        acceptor = OriginAcceptor(self._handle, self.routes.unrouted, tag=b"0" * 36)
        self.link = H2Connection(self.loop.turn, acceptor)
        self.on_link = self.loop.connect(self.link)
        self._encoder = Encoder()
        self._streams = count(1, 2)
        self.stream = -1
        feed(
            self.link,
            PREFACE
            + frame(SETTINGS, 0, 0, INITIAL_WINDOW)
            + frame(SETTINGS, ACK, 0)
            + frame(WINDOW_UPDATE, 0, 0, CREDIT),
        )
        self.loop.run()

    def _handle(self, exchange: OriginExchange) -> None:
        # As `connector.dispatch` does it.
        if exchange.kind <= 1:
            self.forwards[self.match(exchange.authority, exchange.path)](exchange)

    def _dial(self) -> None:
        self.origin = Http1Client(self.loop.turn, self.pool)
        self.on_origin = self.loop.connect(self.origin)
        self.pool.arrived(self.origin)

    def block(self, fields: Pairs) -> bytes:
        """Header block of a request, the same for all that follow it: the tables know it now."""
        self.open(self._encoder.encode_block(fields))
        feed(self.link, frame(RST_STREAM, 0, self.stream, bytes(4)))
        self.loop.run()
        return self._encoder.encode_block(fields)

    def open(self, block: bytes, flags: int = 0) -> None:
        """The edge opens a stream; its number is `stream`."""
        self.stream = next(self._streams)
        feed(self.link, frame(HEADERS, END_HEADERS | flags, self.stream, block))

    def credit(self, size: int) -> None:
        """The edge has taken `size` bytes."""
        feed(self.link, frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", size)))

    def respond(self, data: bytes) -> None:
        """The origin writes."""
        feed(self.origin, data)
        self.loop.run()


class ConnectorBeforeHttp2(Connector):
    """The same, and the origin speaks HTTP/2 on one connection."""

    def __init__(self) -> None:
        super().__init__()
        pool = Http2Pool(self._dial_http2, self.pool)
        self.forwards = (pool.forward,)
        self.session = Http2Client(self.loop.turn, pool, b"http")
        self.on_session = self.loop.connect(self.session)
        feed(self.session, frame(SETTINGS, 0, 0, INITIAL_WINDOW) + frame(SETTINGS, ACK, 0))
        feed(self.session, frame(WINDOW_UPDATE, 0, 0, CREDIT))
        self.loop.run()
        self._http2 = pool
        self._asked = count(3, 2)  # the first is `block`'s

    def _dial_http2(self) -> None:
        self._http2.arrived(self.session)

    def answer(self, block: bytes, content: bytes) -> None:
        """The origin answers the request that has waited longest."""
        stream = next(self._asked)
        feed(
            self.session,
            frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, content),
        )
        self.loop.run()


class _Link(H2Connection):
    """What the router has to know of a link."""

    draining = False
    tunnel_id = UUID(int=1)
    connector_id = UUID(int=2)
    conn_index = 0

    @property
    def load(self) -> int:
        return self.active


class Edge:
    """An edge's link, and visitors before it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.counters = Counters()
        self.router = Router()
        self.router.put_route("app.example.com", _Link.tunnel_id)
        self.link = _Link(self.loop.turn, limits=Limits(connection_window=128 * MIB))
        self.on_link = self.loop.connect(self.link)
        self._encoder = Encoder()
        self.stream = -1
        feed(
            self.link,
            frame(SETTINGS, 0, 0, INITIAL_WINDOW)
            + frame(SETTINGS, ACK, 0)
            + frame(WINDOW_UPDATE, 0, 0, CREDIT),
        )
        self.loop.run()
        self.router.add_link(_Link.tunnel_id, self.link)
        self._acceptor = VisitorAcceptor(
            self._route, self.counters, None, None, b"192.0.2.7", b"https"
        )
        self._acceptor.recent = RecentRequests()

    def _route(self, exchange: VisitorExchange) -> None:
        # As `edge.gateway` does it.
        link = self.router.route(exchange.authority)
        if link.__class__ is _Link:
            exchange.context = link
            link.forward(exchange)

    def http1(self) -> tuple[Http1Server, Transport]:
        """A visitor who speaks HTTP/1.1."""
        visitor = Http1Server(self.loop.turn, self._acceptor, b"https")
        return visitor, self.loop.connect(visitor)

    def http2(self) -> tuple[H2Connection, Transport]:
        """A visitor who speaks HTTP/2."""
        visitor = H2Connection(self.loop.turn, self._acceptor)
        transport = self.loop.connect(visitor)
        feed(
            visitor,
            PREFACE
            + frame(SETTINGS, 0, 0, INITIAL_WINDOW)
            + frame(SETTINGS, ACK, 0)
            + frame(WINDOW_UPDATE, 0, 0, CREDIT),
        )
        self.loop.run()
        return visitor, transport

    def block(self, fields: Pairs) -> bytes:
        """Header block of a response with the origin's `fields`, to be sent before any other."""
        return self._encoder.encode_block(
            [
                (b":status", b"200"),
                (b"content-length", dict(fields)[b"Content-Length"]),
                (b"cf-cloudflared-response-headers", serialize_pairs(fields)),
                (b"cf-cloudflared-response-meta", b'{"src":"origin"}'),
            ]
        )

    def respond(self, block: bytes, content: bytes = b"") -> None:
        """The connector answers the stream opened last; with `content`, completely."""
        self.stream += 2
        data = frame(HEADERS, END_HEADERS, self.stream, block)
        if content:
            data += frame(DATA, END_STREAM, self.stream, content)
        feed(self.link, data)
        self.loop.run()
