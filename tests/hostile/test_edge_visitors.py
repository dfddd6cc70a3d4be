"""Visitors who send what no visitor should: each gets its answer, and others are served."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
from h2.errors import ErrorCodes
from peers.bad_visitor import get, raw_visitor
from peers.http2_client import Http2Client, head, visitor_context
from peers.patience import PATIENCE, soon
from peers.stage import Stage
from rig.hellos import hello_for

from underpass.edge import gateway

Scenario = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def _the_edge_survives(scene: Stage) -> Iterator[None]:
    """After every attack, a request of the better kind."""
    yield
    answer = scene.curl("/hello")
    assert (answer.status, answer.body) == (200, b"hello\n")


def answered(scene: Stage, *pieces: bytes, tls: bool = False) -> tuple[int, bytes]:
    """The status of the answer to these bytes, and everything said until the edge closes."""

    async def scenario() -> tuple[int, bytes]:
        port = scene.edge.https_port if tls else scene.edge.http_port
        async with raw_visitor(port, tls=tls) as visitor:
            await visitor.send(*pieces)
            said = await visitor.rest()
            return int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/1.1 ") else 0, said

    return asyncio.run(scenario())


def request(host: str, *lines: str, first: str = "GET /hello HTTP/1.1", body: bytes = b"") -> bytes:
    head = "\r\n".join([first, f"Host: {host}", *lines])
    return head.encode("latin-1") + b"\r\n\r\n" + body


MALFORMED = {
    "garbage": lambda host: os.urandom(200) + b"\r\n\r\n",
    "a TLS handshake": lambda host: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "no version": lambda host: b"GET /hello\r\n\r\n",
    "two spaces": lambda host: request(host, first="GET  /hello HTTP/1.1"),
    "a tab": lambda host: request(host, first="GET\t/hello HTTP/1.1"),
    "a target with a space": lambda host: request(host, first="GET /a b HTTP/1.1"),
    "no target": lambda host: request(host, first="GET HTTP/1.1"),
    "a control character in the target": lambda host: request(host, first="GET /\x01 HTTP/1.1"),
    "a broken escape in the path": lambda host: request(
        host, "Connection: close", first="GET /% HTTP/1.1"
    ),
    "half an escape, and trailers": lambda host: request(
        host,
        "Connection: close",
        "Transfer-Encoding: chunked",
        first="POST /%4 HTTP/1.1",
        body=b"1\r\na\r\n0\r\nX-Trailer: t\r\n\r\n",
    ),
    "an empty method": lambda host: request(host, first=" /hello HTTP/1.1"),
    "no Host": lambda host: b"GET /hello HTTP/1.1\r\n\r\n",
    "two Hosts": lambda host: request(host, "Host: other.example"),
    "a Host with a space": lambda host: b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a name with a space": lambda host: request(host, "X Bad: 1"),
    "a space before the colon": lambda host: request(host, "X-Bad : 1"),
    "an empty name": lambda host: request(host, ": 1"),
    "no colon": lambda host: request(host, "nonsense"),
    "a folded line": lambda host: request(host, "X-Bad: 1", " 2"),
    "a NUL in a value": lambda host: request(host, "X-Bad: a\x00b"),
    "a bare CR in a value": lambda host: request(host, "X-Bad: a\rb"),
    "two lengths": lambda host: request(
        host, "Content-Length: 3", "Content-Length: 5", first="POST /sink HTTP/1.1", body=b"abcde"
    ),
    "a negative length": lambda host: request(
        host, "Content-Length: -1", first="POST /sink HTTP/1.1"
    ),
    "a length with a sign": lambda host: request(
        host, "Content-Length: +3", first="POST /sink HTTP/1.1", body=b"abc"
    ),
    "a length that is no number": lambda host: request(
        host, "Content-Length: three", first="POST /sink HTTP/1.1", body=b"abc"
    ),
    "a length beyond all numbers": lambda host: request(
        host, "Content-Length: 99999999999999999999999", first="POST /sink HTTP/1.1"
    ),
    "a length and chunks": lambda host: request(
        host,
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        first="POST /sink HTTP/1.1",
        body=b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    "chunks twice": lambda host: request(
        host,
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked",
        first="POST /sink HTTP/1.1",
        body=b"0\r\n\r\n",
    ),
    "chunks in HTTP/1.0": lambda host: request(
        host, "Transfer-Encoding: chunked", first="POST /sink HTTP/1.0", body=b"0\r\n\r\n"
    ),
    "a chunk size that is no number": lambda host: request(
        host, "Transfer-Encoding: chunked", first="POST /sink HTTP/1.1", body=b"xyz\r\n"
    ),
    "a chunk longer than it says": lambda host: request(
        host, "Transfer-Encoding: chunked", first="POST /sink HTTP/1.1", body=b"3\r\nabcdef\r\n"
    ),
    "a chunk size beyond all numbers": lambda host: request(
        host, "Transfer-Encoding: chunked", first="POST /sink HTTP/1.1", body=b"f" * 20 + b"\r\n"
    ),
}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_request_is_answered_with_400(scene: Stage, what: str, tls: bool) -> None:
    status, said = answered(scene, MALFORMED[what](scene.hostname), tls=tls)
    assert status == 400
    # One answer, and the connection is closed: nothing after it is taken for a request.
    assert said.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in said.lower()
    assert not scene.origin.requests("/smuggled")


def test_a_coding_nobody_knows_is_not_implemented(scene: Stage) -> None:
    said = request(scene.hostname, "Transfer-Encoding: sorcery", first="POST /sink HTTP/1.1")
    assert answered(scene, said)[0] == 501


@pytest.mark.parametrize("version", ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9"])
def test_a_version_nobody_speaks(scene: Stage, version: str) -> None:
    assert answered(scene, request(scene.hostname, first=f"GET / {version}"))[0] in (400, 505)


def test_an_http2_preface_without_tls(scene: Stage) -> None:
    status, said = answered(scene, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    assert status in (0, 400, 505)
    assert said.count(b"HTTP/1.1 ") <= 1


def test_a_head_that_is_too_large(scene: Stage) -> None:
    status, _ = answered(scene, request(scene.hostname, f"X-Large: {'x' * (gateway.MAX_HEAD + 1)}"))
    assert status == 431


def test_a_head_that_never_ends_is_cut_off_at_its_limit(scene: Stage) -> None:
    async def scenario() -> None:
        async with raw_visitor(scene.edge.http_port) as visitor:
            sent = 0
            await visitor.send(f"GET / HTTP/1.1\r\nHost: {scene.hostname}\r\n".encode())
            try:
                while sent < 16 * gateway.MAX_HEAD:
                    await visitor.send(b"X-More: 0123456789\r\n" * 50)
                    sent += 1000
            except ConnectionError:
                pass
            said = await visitor.rest()
            assert said.startswith(b"HTTP/1.1 431 ") or (not said and sent > gateway.MAX_HEAD)

    asyncio.run(scenario())


def test_a_long_target_is_a_large_head_too(scene: Stage) -> None:
    first = f"GET /{'a' * (gateway.MAX_HEAD + 1)} HTTP/1.1"
    assert answered(scene, request(scene.hostname, first=first))[0] == 431


def test_a_head_in_single_bytes_is_a_request(scene: Stage) -> None:
    async def scenario() -> None:
        async with raw_visitor(scene.edge.http_port) as visitor:
            visitor.writer.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
            await visitor.send(*(bytes([byte]) for byte in get(scene.hostname)))
            assert await visitor.status() == 200

    asyncio.run(scenario())


def test_a_deep_pipeline_is_answered_in_order(scene: Stage) -> None:
    async def scenario() -> None:
        async with raw_visitor(scene.edge.http_port) as visitor:
            many = 500
            await visitor.send(
                b"".join(get(scene.hostname, f"/bytes/{number}") for number in range(many))
            )
            for number in range(many):
                said = await visitor.head()
                assert f"Content-Length: {number}\r\n".lower() in said.decode().lower()
                await soon(visitor.reader.readexactly(number))

    asyncio.run(scenario())


def test_a_pipeline_of_which_nothing_is_read_is_not_read_either(scene: Stage) -> None:
    """Somebody who asks for more and more and takes nothing is made to wait."""

    async def scenario() -> None:
        async with raw_visitor(scene.edge.http_port) as visitor:
            visitor.writer.transport.pause_reading()  # type: ignore[attr-defined]
            visitor.writer.transport.set_write_buffer_limits(high=0)
            asking = get(scene.hostname, "/bytes/1000000") * 100
            sending = asyncio.create_task(send_until_blocked(visitor.writer, asking))
            sent = await sending
            # What the sockets on the way hold, and one request's worth; not all of it.
            assert sent < 1 << 26

    asyncio.run(scenario())


async def send_until_blocked(writer: asyncio.StreamWriter, data: bytes) -> int:
    """Bytes sent until the peer takes no more."""
    sock = writer.get_extra_info("socket")
    sent = 0
    while sent < 1 << 26:
        try:
            sent += os.write(sock.fileno(), data)
        except BlockingIOError:
            return sent
        # Let the peer read what it wants to.
        await asyncio.sleep(0)
    return sent


def test_connections_that_say_nothing_do_not_hinder(scene: Stage) -> None:
    async def scenario() -> None:
        async def nothing(port: int) -> None:
            async with raw_visitor(port):
                await all_there.wait()

        all_there = asyncio.Event()
        visitors = [
            asyncio.create_task(nothing(port))
            for port in (scene.edge.http_port, scene.edge.https_port)
            for _ in range(200)
        ]
        answer = await asyncio.to_thread(scene.curl, "/hello")
        assert answer.status == 200
        all_there.set()
        await asyncio.gather(*visitors)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"\x16",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x80\x2e\x01\x00\x02\x00\x15",
        os.urandom(500),
    ],
    ids=["nothing", "one byte", "half a hello", "plain HTTP", "SSL 2", "garbage"],
)
def test_broken_handshakes(scene: Stage, beginning: bytes) -> None:
    with socket.create_connection(("127.0.0.1", scene.edge.https_port), PATIENCE) as visitor:
        visitor.sendall(beginning)
        visitor.shutdown(socket.SHUT_WR)
        said = b""
        while data := visitor.recv(4096):
            said += data
    # At most a TLS alert.
    assert not said or said[0] == 0x15


# HTTP/2.


def http2(scene: Stage, scenario: Callable[[Http2Client, bytes], Awaitable[None]]) -> None:
    async def main() -> None:
        visitor = await Http2Client.connect(
            "127.0.0.1",
            scene.edge.https_port,
            server_name=scene.hostname,
            context=visitor_context(),
        )
        try:
            await scenario(visitor, scene.hostname.encode())
        finally:
            await visitor.close()

    asyncio.run(main())


BAD_HEADS = {
    "an upper-case name": [(b"X-Upper", b"1")],
    "a connection field": [(b"connection", b"close")],
    "an upgrade field": [(b"upgrade", b"websocket")],
    "a transfer-encoding field": [(b"transfer-encoding", b"chunked")],
    "te that is not trailers": [(b"te", b"gzip")],
    "a line end in a value": [(b"x-bad", b"a\r\nX-Smuggled: 1")],
    "a NUL in a value": [(b"x-bad", b"a\x00b")],
    "a colon in a name": [(b"x:bad", b"1")],
    "a space in a name": [(b"x bad", b"1")],
    "an empty name": [(b"", b"1")],
    "an unknown pseudo field": [(b":admin", b"1")],
    "a pseudo field after others": [(b"x-good", b"1"), (b":path", b"/other")],
    "two lengths": [(b"content-length", b"1"), (b"content-length", b"2")],
    "a length that is no number": [(b"content-length", b"many")],
}


@pytest.mark.parametrize("what", BAD_HEADS)
def test_a_malformed_http2_head_costs_its_stream_only(scene: Stage, what: str) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        stream = await visitor.request(head(b"GET", host, b"/shown", *BAD_HEADS[what]))
        await stream.finished()
        assert stream.reset is not None or stream.status == 400
        good = await visitor.get(host, b"/hello")
        assert bytes((await good.finished()).data) == b"hello\n"

    http2(scene, scenario)


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"HOST")],
        [(b":scheme", b"https"), (b":authority", b"HOST"), (b":path", b"/")],
        [(b":method", b"GET"), (b":authority", b"HOST"), (b":path", b"/")],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"HOST"), (b":path", b"")],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"HOST"), (b":path", b"x")],
        [(b":method", b"G T"), (b":scheme", b"https"), (b":authority", b"HOST"), (b":path", b"/")],
        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"H ST"), (b":path", b"/")],
        [(b":method", b"GET"), (b":method", b"PUT"), (b":scheme", b"https"), (b":path", b"/")],
    ],
)
def test_pseudo_fields_that_lack_or_lie(scene: Stage, fields: list[tuple[bytes, bytes]]) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        told = [(name, host if value == b"HOST" else value) for name, value in fields]
        stream = await visitor.request(told)
        await stream.finished()
        assert stream.reset is not None or stream.status in (400, 404)
        good = await visitor.get(host, b"/hello")
        assert (await good.finished()).status == 200

    http2(scene, scenario)


WEBSOCKET = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":authority", b"HOST"),
    (b":path", b"/ws"),
]


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ([(b":method", b"GET"), *WEBSOCKET[1:]], False),
        ([*WEBSOCKET[:2], *WEBSOCKET[1:]], False),
        ([*WEBSOCKET[:2], *WEBSOCKET[3:]], False),
        (WEBSOCKET[:4], False),
        ([*WEBSOCKET, (b"content-length", b"5")], False),
        ([*WEBSOCKET, (b"upgrade", b"websocket")], False),
        ([*WEBSOCKET, (b"connection", b"upgrade")], False),
        ([*WEBSOCKET, (b":protocol", b"websocket")], False),
        ([WEBSOCKET[0], (b":protocol", b"web socket"), *WEBSOCKET[2:]], False),
        ([WEBSOCKET[0], (b":protocol", b""), *WEBSOCKET[2:]], False),
        (WEBSOCKET, True),
    ],
)
def test_a_websocket_that_is_asked_for_wrongly(
    scene: Stage, fields: list[tuple[bytes, bytes]], end: bool
) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        told = [(name, host if value == b"HOST" else value) for name, value in fields]
        stream = await visitor.request(told, end=end)
        assert (await stream.finished()).reset == ErrorCodes.PROTOCOL_ERROR
        good = await visitor.get(host, b"/hello")
        assert (await good.finished()).status == 200

    before = len(scene.origin.requests("/ws"))
    http2(scene, scenario)
    assert len(scene.origin.requests("/ws")) == before


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"CONNECT"), (b":authority", b"HOST")],
        [(b":method", b"CONNECT"), (b":authority", b"127.0.0.1:22")],
        [WEBSOCKET[0], *WEBSOCKET[2:]],
        [WEBSOCKET[0], (b":protocol", b"connect-udp"), *WEBSOCKET[2:]],
        [WEBSOCKET[0], (b":protocol", b"a" * 8000), *WEBSOCKET[2:]],
    ],
)
def test_other_tunnels_are_not_implemented(scene: Stage, fields: list[tuple[bytes, bytes]]) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        told = [(name, host if value == b"HOST" else value) for name, value in fields]
        stream = await visitor.request(told, end=False)
        await stream.finished()
        assert (stream.status, stream.header(b"underpass-cause")) == (501, b"unsupported_connect")

    http2(scene, scenario)


def test_a_request_that_goes_in_circles_is_stopped(scene: Stage) -> None:
    fields = [f"CDN-Loop: other, {', '.join(['underpass'] * count)}" for count in (7, 8, 400)]
    for field, status in zip(fields, (200, 508, 508), strict=True):
        assert answered(scene, request(scene.authority, field, "Connection: close"))[0] == status


def test_an_http2_head_that_is_too_large(scene: Stage) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        limit = gateway.visitor_limits().max_header_list
        stream = await visitor.request(
            head(b"GET", host, b"/hello", *((b"x-large-%d" % n, b"x" * 8000) for n in range(12)))
        )
        assert limit < 12 * 8000
        assert (await stream.finished()).status == 431
        good = await visitor.get(host, b"/hello")
        assert (await good.finished()).status == 200

    http2(scene, scenario)


@pytest.mark.parametrize(("declared", "sent"), [(5, 3), (3, 5)])
def test_content_that_is_not_as_long_as_it_says(scene: Stage, declared: int, sent: int) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        fields = head(b"POST", host, b"/sink", (b"content-length", b"%d" % declared))
        stream = await visitor.request(fields, end=False)
        # Past h2's own check of what it sends.
        from hyperframe.frame import DataFrame

        frame = DataFrame(stream.id, data=b"x" * sent, flags=["END_STREAM"])
        visitor.writer.write(frame.serialize())
        await stream.finished()
        assert stream.reset is not None
        good = await visitor.get(host, b"/hello")
        assert (await good.finished()).status == 200

    http2(scene, scenario)


def test_opening_and_resetting_without_end_is_stopped(scene: Stage) -> None:
    """CVE-2023-44487: rapid reset."""

    async def scenario(visitor: Http2Client, host: bytes) -> None:
        fields = head(b"GET", host, b"/hang")
        for _ in range(20_000):
            if visitor.closed or visitor.gone_away is not None:
                break
            stream_id = visitor.connection.get_next_available_stream_id()
            visitor.connection.send_headers(stream_id, fields)
            visitor.connection.reset_stream(stream_id)
            visitor.flush()
            await visitor.writer.drain()
            await asyncio.sleep(0)  # to hear what the edge has to say
        await visitor.ended()
        assert visitor.gone_away == 11  # ENHANCE_YOUR_CALM

    http2(scene, scenario)


def test_more_streams_than_allowed_are_refused(scene: Stage) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        limit = gateway.visitor_limits().max_concurrent_streams
        assert limit <= 1000
        fields = head(b"GET", host, b"/hang")
        await visitor.until(
            lambda: visitor.connection.remote_settings.max_concurrent_streams == limit, "SETTINGS"
        )
        visitor.connection.remote_settings.acknowledge()
        # A visitor that does not keep to it.
        visitor.connection.remote_settings._settings[3].clear()
        visitor.connection.remote_settings._settings[3].append(1 << 20)
        streams = [await visitor.request(fields) for _ in range(limit + 10)]
        for stream in streams[limit:]:
            await stream.finished()
            assert stream.reset == 7  # REFUSED_STREAM
        for stream in streams[:limit]:
            stream.cancel()

    http2(scene, scenario)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x",
        b"\x00\x00\x08\x06\x00\x00\x00\x00\x01" + bytes(8),
        b"\x00\x00\x07\x06\x00\x00\x00\x00\x00" + bytes(7),
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + bytes(4),
        b"\x00\x00\x05\x04\x00\x00\x00\x00\x00" + bytes(5),
        b"\x00\x00\x04\x01\x05\x00\x00\x00\x00" + bytes(4),
        b"\x00\x00\x04\x01\x05\x00\x00\x00\x02" + bytes(4),
        b"\x00\x00\x04\x01\x05\x00\x00\x00\x05\xff\xff\xff\xff",
        b"\x00\x00\x04\x05\x04\x00\x00\x00\x01" + bytes(4),
        b"\x00\x00\x04\x09\x04\x00\x00\x00\x01" + bytes(4),
        b"\x00\x00\x04\x03\x00\x00\x00\x00\x09" + bytes(4),
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    ],
    ids=[
        "DATA on stream 0",
        "PING on a stream",
        "PING of seven bytes",
        "WINDOW_UPDATE by nothing",
        "SETTINGS of five bytes",
        "HEADERS on stream 0",
        "HEADERS on an even stream",
        "HPACK index out of range",
        "PUSH_PROMISE",
        "CONTINUATION of nothing",
        "RST_STREAM of an idle stream",
        "a frame larger than allowed",
    ],
)
def test_a_broken_frame_ends_its_connection(scene: Stage, frame: bytes) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        good = await visitor.get(host, b"/hello")
        await good.finished()
        visitor.writer.write(frame)
        await visitor.ended()
        assert visitor.gone_away not in (None, 0)

    http2(scene, scenario)


def test_a_server_name_that_is_none(scene: Stage) -> None:
    """It is refused, and nothing is written for it: it may come a million times."""
    hello = hello_for("aaaaaaaa.example.test")

    async def scenario() -> None:
        tunnel_port = int(scene.edge.tunnels[0].rpartition(":")[2])
        for port in (scene.edge.https_port, tunnel_port):
            for label in (b"\xff\xfeaaaaaa", b"aaa\0aaaa"):
                async with raw_visitor(port) as visitor:
                    await visitor.send(hello.replace(b"aaaaaaaa", label))
                    await visitor.rest()

    asyncio.run(scenario())
    assert "UnicodeDecodeError" not in scene.edge.log


def test_garbage_after_the_preface(scene: Stage) -> None:
    async def scenario() -> None:
        async with raw_visitor(scene.edge.https_port, tls=True, alpn="h2") as visitor:
            await visitor.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(4096))
            await visitor.rest()

    asyncio.run(scenario())


def test_http1_where_http2_was_agreed(scene: Stage) -> None:
    async def scenario() -> None:
        async with raw_visitor(scene.edge.https_port, tls=True, alpn="h2") as visitor:
            await visitor.send(get(scene.hostname))
            await visitor.rest()

    asyncio.run(scenario())
