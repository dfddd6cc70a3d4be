"""HTTP/2 as a raw peer speaks it: frames by hand, HPACK by the `hpack` package (RFC 9113 §6)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import hpack

from rig.transport import ManualLoop, connect
from underpass.core.fields import Fields
from underpass.core.h2 import H2Connection, Limits
from underpass.core.relay import Acceptor, Counters, Exchange, PythonSide
from underpass.core.tunnel import EdgeExchange

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "GET",
    "GOAWAY",
    "HEADERS",
    "OK",
    "PADDED",
    "PING",
    "POST",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_FLAG",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "Frame",
    "Heard",
    "RawClient",
    "RawServer",
    "Sender",
    "frame",
    "frames_of",
    "goaway",
    "ping",
    "rst_stream",
    "settings",
    "window_update",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

Pairs = Iterable[tuple[bytes, bytes]]

GET: list[tuple[bytes, bytes]] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"app.example"),
    (b":path", b"/"),
]
POST: list[tuple[bytes, bytes]] = [(b":method", b"POST"), *GET[1:]]
OK: list[tuple[bytes, bytes]] = [(b":status", b"200")]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame. The length is that of `payload`."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """SETTINGS with (identifier, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def ping(opaque: bytes = b"abcdefgh", *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, opaque)


def goaway(last: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + debug)


@dataclass(frozen=True)
class Frame:
    """A frame as it was on the wire; `fields` of a header block once it is complete."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    fields: tuple[tuple[bytes, bytes], ...] | None = None

    @property
    def ends(self) -> bool:
        """END_STREAM, where it has a meaning."""
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    @property
    def number(self) -> int:
        """The first 32 bits: an error code, an increment, GOAWAY's last stream."""
        return int(struct.unpack_from(">I", self.payload)[0])

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return int(struct.unpack_from(">I", self.payload, 4 if self.kind == GOAWAY else 0)[0])


def frames_of(data: bytes) -> list[Frame]:
    """The frames in `data`, which must hold whole ones."""
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", data, 3)
        assert len(data) >= 9 + length, "a frame cut short"
        found.append(Frame(kind, flags, stream, data[9 : 9 + length]))
        data = data[9 + length :]
    return found


class Sender:
    """A header encoder and the frames that need one."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()

    def block(self, fields: Pairs) -> bytes:
        """A header block. Blocks must be sent in the order they were made in."""
        return bytes(self._encoder.encode(list(fields)))

    def headers(self, stream: int, fields: Pairs, *, end: bool = False, flags: int = 0) -> bytes:
        """One HEADERS frame with the whole block."""
        return frame(
            HEADERS, END_HEADERS | flags | (END_STREAM if end else 0), stream, self.block(fields)
        )

    @staticmethod
    def data(
        stream: int, content: bytes, *, end: bool = False, padding: int | None = None
    ) -> bytes:
        """One DATA frame; `padding` octets of padding if it is not None."""
        flags = END_STREAM if end else 0
        if padding is not None:
            return frame(DATA, flags | PADDED, stream, bytes([padding]) + content + bytes(padding))
        return frame(DATA, flags, stream, content)


class Heard:
    """What a Python handler got of one exchange, and its means to answer."""

    def __init__(self, exchange: Exchange, *, keeps_credit: bool = False) -> None:
        self.exchange = exchange
        assert exchange.request is not None
        self.head = list(exchange.request)
        self.body = bytearray()
        self.ended = False
        self.abandoned: int | None = None
        self.side = exchange.open_python_side()
        self.side.keeps_credit = keeps_credit
        self.side.on_data = self.body.extend
        self.side.on_end = self._end
        self.side.on_abandoned = self._abandon
        exchange.deliver_waiting()

    def _end(self) -> None:
        assert not self.ended, "ended twice"
        self.ended = True

    def _abandon(self, code: int) -> None:
        assert self.abandoned is None, "abandoned twice"
        self.abandoned = code

    def answer(
        self, fields: Pairs = (), body: bytes = b"", *, status: int = 200, end: bool = True
    ) -> None:
        """A whole response, or its beginning."""
        self.side.send_response(status, fields, end and not body)
        if body:
            self.side.write(body)
            if end:
                self.side.end()


class _Raw:
    """One of ours, spoken to by hand."""

    loop: ManualLoop
    connection: H2Connection

    def __init__(self, loop: ManualLoop | None, connection: H2Connection) -> None:
        self._attach(loop, connection)

    def _attach(self, loop: ManualLoop | None, connection: H2Connection) -> None:
        self.loop = loop if loop is not None else ManualLoop()
        self.connection = connection
        self.transport = connect(self.loop, connection)
        self.peer = Sender()
        self._decoder = hpack.Decoder()
        self._decoder.max_header_list_size = 1 << 24
        self._decoder.max_allowed_table_size = 65536

    def feed(self, *pieces: bytes) -> None:
        """Hand `pieces` over, each in a read and a turn of its own."""
        for piece in pieces:
            self.connection.data_received(piece)
            self.loop.run()

    def sent(self) -> list[Frame]:
        """The frames written since the last call, header blocks decoded."""
        self.loop.run()
        data = self.transport.collect()
        data = data.removeprefix(PREFACE)
        found = []
        block: list[Frame] = []
        for each in frames_of(data):
            if each.kind in (HEADERS, CONTINUATION):
                block.append(each)
                if each.flags & END_HEADERS:
                    joined = b"".join(part.payload for part in block)
                    fields = tuple(
                        (bytes(name), bytes(value))
                        for name, value in self._decoder.decode(joined, raw=True)
                    )
                    first = block[0]
                    found.append(Frame(HEADERS, first.flags, first.stream, joined, fields))
                    block = []
            else:
                assert not block, "header block interrupted"
                found.append(each)
        assert not block
        return found

    def goaway_code(self) -> int | None:
        """The error code of the GOAWAY sent, if the connection was given up with one."""
        codes = [each.code for each in self.sent() if each.kind == GOAWAY]
        return codes[-1] if codes else None


class RawClient(_Raw):
    """A server of ours and a raw client. Requests are in `exchanges`, unless `handler` has them."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        handler: Callable[[Exchange], object] | None = None,
        loop: ManualLoop | None = None,
        connection: type[H2Connection] = H2Connection,
        greet: bool = True,
        keeps_credit: bool = False,
    ) -> None:
        self.counters = Counters()
        self.exchanges: list[Heard] = []

        def remember(exchange: Exchange) -> None:
            self.exchanges.append(Heard(exchange, keeps_credit=keeps_credit))

        loop = loop if loop is not None else ManualLoop()
        acceptor = Acceptor(handler if handler is not None else remember, self.counters)
        super().__init__(loop, connection(loop.turn, acceptor, limits))
        if greet:
            self.greet()

    @classmethod
    def over(cls, loop: ManualLoop, acceptor: Acceptor, limits: Limits | None = None) -> RawClient:
        """For an acceptor of the test's own."""
        self = cls.__new__(cls)
        self.counters = acceptor.counters
        self.exchanges = []
        _Raw.__init__(self, loop, H2Connection(loop.turn, acceptor, limits))
        self.greet()
        return self

    def greet(self) -> None:
        """Preface and SETTINGS; forgets what is answered."""
        self.feed(PREFACE + settings())
        self.sent()


class RawServer(_Raw):
    """A client of ours and a raw server."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        loop: ManualLoop | None = None,
        connection: type[H2Connection] = H2Connection,
        greet: bool = True,
    ) -> None:
        self.counters = Counters()
        loop = loop if loop is not None else ManualLoop()
        super().__init__(loop, connection(loop.turn, None, limits))
        if greet:
            self.feed(settings())
            self.sent()

    def request(self, fields: Pairs = GET, *, end: bool = True, times_out: bool = False) -> Asked:
        """Forward a request of our own making; `end` if it has no content."""
        return Asked(self, fields, end=end, times_out=times_out)


class Asked:
    """A request made by Python through a client connection of ours, and what came of it."""

    def __init__(self, server: RawServer, fields: Pairs, *, end: bool, times_out: bool) -> None:
        self.exchange = EdgeExchange(server.counters)
        self.exchange.times_out = times_out
        self.status: int | None = None
        self.head: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.ended = False
        self.abandoned: int | None = None
        self.side = PythonSide()
        self.side.on_head = self._head
        self.side.on_data = self.body.extend
        self.side.on_end = self._end
        self.side.on_abandoned = self._abandon
        self.side.request(self.exchange, Fields(list(fields)))
        if end:
            self.side.end()
        self.accepted = server.connection.forward(self.exchange)

    def _head(self, status: int, fields: Pairs) -> None:
        assert self.status is None, "two heads"
        self.status = status
        self.head = list(fields)

    def _end(self) -> None:
        assert not self.ended, "ended twice"
        self.ended = True

    def _abandon(self, code: int) -> None:
        assert self.abandoned is None, "abandoned twice"
        self.abandoned = code
