"""Micro benchmarks of the compiled core: no sockets, no event loop, a transport that forgets.

    pytest bench/micro --benchmark-columns=min,median,ops

"through the connector" is the whole of what the connector's compiled part does for a request: HPACK
and stream in, origin head out, origin head and body in, serialized response head and DATA out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from underpass.core.endpoint import Turn
from underpass.core.fields import Fields
from underpass.core.frames import FrameReader
from underpass.core.h2 import H2Connection, Limits
from underpass.core.hpack import Encoder
from underpass.core.http1 import read_head, write_request
from underpass.core.http1client import Http1Client, OriginPool
from underpass.core.tunnel import OriginAcceptor

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [
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
RESPONSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 01 Jun 2026 10:00:00 GMT\r\n"
    b"Content-Type: application/javascript\r\nContent-Length: 1024\r\n"
    b"Last-Modified: Mon, 01 Jun 2026 09:00:00 GMT\r\nConnection: keep-alive\r\n"
    b'ETag: "683c1b90-400"\r\nCache-Control: max-age=3600\r\nAccept-Ranges: bytes\r\n\r\n'
)
RESPONSE = RESPONSE_HEAD + bytes(1024)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


class Forgetful:
    """A transport that counts what it is given and forgets it."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Connector:
    """A link's server end joined to one origin connection, both on forgetful transports."""

    def __init__(self) -> None:
        self.turn = Turn(lambda run: None, lambda: 0.0)
        self.pool = OriginPool(self._dial)
        self.origin = Http1Client(self.turn, self.pool)
        self.origin.connection_made(Forgetful())
        self.link = H2Connection(self.turn, OriginAcceptor(self.pool.forward, tag=b"tag"), Limits())
        self.link.connection_made(Forgetful())
        self.link.data_received(PREFACE + frame(4, 0, 0) + frame(4, 1, 0))
        self.encoder = Encoder()
        self.stream = -1

    def _dial(self) -> None:
        self.pool.arrived(self.origin)

    def open(self, method: bytes, flags: int) -> bytes:
        self.stream += 2
        block = self.encoder.encode_block([(b":method", method), *REQUEST[1:]])
        return frame(1, flags, self.stream, block)

    def request(self) -> None:
        self.link.data_received(self.open(b"GET", 0x5))
        self.turn.run()
        self.origin.data_received(RESPONSE)
        self.turn.run()


def test_request_through_the_connector(benchmark: Callable[..., Any]) -> None:
    connector = Connector()
    benchmark(connector.request)
    assert connector.pool.reused > 0


def test_request_head_in(benchmark: Callable[..., Any]) -> None:
    head = write_request(Fields(REQUEST))
    pairs, _, rest = benchmark(read_head, head, True)
    assert len(pairs) == len(REQUEST)
    assert rest == 0


def test_response_head_in(benchmark: Callable[..., Any]) -> None:
    _, facts, rest = benchmark(read_head, RESPONSE, False)
    assert facts["length"] == rest == 1024


def test_request_head_out(benchmark: Callable[..., Any]) -> None:
    fields = Fields(REQUEST)
    assert benchmark(write_request, fields).endswith(b"\r\n\r\n")


def test_frames_in(benchmark: Callable[..., Any]) -> None:
    """64 WINDOW_UPDATE frames. Most of the time goes into the events the test face makes."""
    reader = FrameReader()
    data = frame(8, 0, 1, b"\0\0\1\0") * 64
    assert len(benchmark(reader.feed, data)) == 64


def test_upload_demultiplexing(benchmark: Callable[..., Any]) -> None:
    """1 MiB in 64 DATA frames, 256 KiB a turn, taken apart, credited and passed to one origin."""
    connector = Connector()
    connector.link.data_received(connector.open(b"POST", 0x4))
    data = frame(0, 0, connector.stream, bytes(16384)) * 16

    def upload() -> None:
        for _ in range(4):
            connector.link.data_received(data)
            connector.turn.run()

    benchmark(upload)
    assert connector.origin.transport.written > 1 << 20


def test_download_multiplexing(benchmark: Callable[..., Any]) -> None:
    """1 MiB from one origin, framed and windowed onto the link."""
    connector = Connector()
    connector.link.data_received(connector.open(b"GET", 0x5))
    connector.origin.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999\r\n\r\n")
    data = bytes(262144)
    credit = frame(8, 0, 0, struct.pack(">I", 1 << 20)) + frame(
        8, 0, connector.stream, struct.pack(">I", 1 << 20)
    )

    def download() -> None:
        connector.link.data_received(credit)
        for _ in range(4):
            connector.origin.data_received(data)
            connector.turn.run()

    benchmark(download)
    assert connector.link.transport.written > 1 << 20
