"""The hot path in small pieces: what `bench/micro` times and `ci/bench-guard` counts.

A workload makes its surroundings once and returns a function without arguments that does the work
once. That function looks at its own result where it costs nothing, so that a workload cannot get
faster by failing; `tests/unit/test_bench_guard.py` runs every one of them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final
from uuid import UUID

from bench.ends import (
    CONTENT,
    MIB,
    READ,
    REQUEST,
    RESPONSE_FIELDS,
    RESPONSE_HEAD,
    Bulk,
    Connector,
    ConnectorBeforeHttp2,
    Edge,
    data_frames,
    feed,
    frame,
    head,
    request_head,
)
from underpass.connector.access_log import AccessLog
from underpass.connector.ingress import Ingress, Rule
from underpass.connector.options import AccessLogOptions
from underpass.connector.origins import parse_service
from underpass.connector.path_pattern import PathPattern
from underpass.core.chunked import ChunkedReader, encode_chunks
from underpass.core.fields import Fields
from underpass.core.frames import FrameReader
from underpass.core.headerblock import parse_block, serialize_pairs
from underpass.core.hpack import Decoder, Encoder
from underpass.core.http1 import read_head, write_request, write_response
from underpass.core.websocket import WebSocketReader, WebSocketStream
from underpass.edge.router import UNKNOWN_HOST
from underpass.edge.store import Target

__all__ = ["REFERENCE", "WORKLOADS", "Workload"]

Work = Callable[[], object]

ORIGIN_FIELDS: Final = [
    (b"X-Request-Id", b"3f2b8c1e-7a1d-4a57-9a53-0f3c3f2b8c1e"),
    (b"Server", b"nginx"),
    (b"Date", b"Mon, 01 Jun 2026 10:00:00 GMT"),
    (b"Content-Type", b"application/javascript"),
    (b"Content-Length", b"1024"),
    (b"Last-Modified", b"Mon, 01 Jun 2026 09:00:00 GMT"),
    (b"Etag", b'"683c1b90-400"'),
    (b"Cache-Control", b"max-age=3600"),
    (b"Accept-Ranges", b"bytes"),
    (b"Strict-Transport-Security", b"max-age=63072000; includeSubDomains"),
    (b"Vary", b"Accept-Encoding, Origin"),
    (b"X-Content-Type-Options", b"nosniff"),
]


@dataclass(frozen=True, slots=True)
class Workload:
    """`make()` returns the work; `repetitions` of it give a figure that is even to a per mille."""

    name: str
    make: Callable[[], Work]
    repetitions: int


WORKLOADS: Final[dict[str, Workload]] = {}
"""By name, in the order they are shown in."""

REFERENCE: Final = "reference"
"""The workload with nothing of ours in it: if it moves, Python or libc have."""


def workload(name: str, repetitions: int) -> Callable[[Callable[[], Work]], Callable[[], Work]]:
    def add(make: Callable[[], Work]) -> Callable[[], Work]:
        WORKLOADS[name] = Workload(name, make, repetitions)
        return make

    return add


def check(what: bool) -> None:
    """Like assert, but never left out."""
    if not what:
        raise AssertionError("the workload did not do its work")


@workload(REFERENCE, 100)
def _reference() -> Work:
    text = RESPONSE_HEAD

    def work() -> None:
        pairs = [line.split(b": ", 1) for line in text.split(b"\r\n")[1:-2]]
        found = {name.lower(): value for name, value in pairs}
        joined = b"\r\n".join(name + b": " + value for name, value in found.items())
        check(struct.unpack_from(">H", joined)[0] == 0x7365)

    return work


# Through a whole end.


@workload("connector GET 1 KiB", 200)
def _connector_get() -> Work:
    return _get(Connector())


def _get(connector: Connector) -> Work:
    """A GET that a waiting origin connection answers, on a link whose other streams stay."""
    block = connector.block(REQUEST)
    response = RESPONSE_HEAD + CONTENT
    link, loop, others = connector.link, connector.loop, connector.link.active

    def work() -> None:
        connector.open(block, 1)
        loop.run()
        connector.respond(response)
        check(link.active == others)

    work()
    return work


@workload("connector GET 1 KiB, access log", 200)
def _connector_get_logged() -> Work:
    return _get(Connector(AccessLog(AccessLogOptions(os.devnull)).observe))


@workload("connector POST 1 KiB", 200)
def _connector_post() -> Work:
    connector = Connector()
    block = connector.block([(b":method", b"POST"), *REQUEST[1:], (b"content-length", b"1024")])
    response = head(b"HTTP/1.1 204 No Content", RESPONSE_FIELDS[:3])

    def work() -> None:
        connector.open(block)
        feed(connector.link, frame(0, 1, connector.stream, CONTENT))
        connector.loop.run()
        connector.respond(response)
        check(connector.link.active == 0)

    return work


@workload("connector download 1 MiB", 6)
def _connector_download() -> Work:
    connector = Connector()
    block = connector.block(REQUEST)
    fields = [*RESPONSE_FIELDS[:3], (b"Content-Length", b"%d" % MIB)]
    response = head(b"HTTP/1.1 200 OK", fields)
    connector.open(block, 1)
    connector.loop.run()
    content = Bulk(connector.origin, bytes(READ))

    def work() -> None:
        connector.respond(response)
        for _ in range(MIB // READ):
            content.feed()
            connector.loop.run()
        connector.credit(MIB)
        check(connector.link.active == 0)
        connector.open(block, 1)
        connector.loop.run()

    return work


@workload("connector upload 1 MiB", 6)
def _connector_upload() -> Work:
    """One stream goes on: its number is in every frame, and the frames are made once."""
    connector = Connector()
    length = (b"content-length", b"%d" % (1 << 50))
    connector.open(connector.block([(b":method", b"POST"), *REQUEST[1:], length]))
    frames = data_frames(connector.stream, bytes(READ - 16 * 9))
    content = Bulk(connector.link, frames)
    (counters,) = connector.routes.by_rule.values()

    def work() -> None:
        before = counters.request_bytes
        for _ in range(MIB // READ):
            content.feed()
            connector.loop.run()
        check(counters.request_bytes - before > MIB - 1024)

    return work


@workload("connector GET 1 KiB, HTTP/2 origin", 200)
def _connector_get_http2() -> Work:
    connector = ConnectorBeforeHttp2()
    block = connector.block(REQUEST)
    encoder = Encoder()
    fields = [(name.lower(), value) for name, value in RESPONSE_FIELDS if name != b"Connection"]
    response = [(b":status", b"200"), *fields]
    # The second time around the tables know it.
    answers = iter((encoder.encode_block(response),))
    known = encoder.encode_block(response)

    def work() -> None:
        connector.open(block, 1)
        connector.loop.run()
        connector.answer(next(answers, known), CONTENT)
        check(connector.link.active == 0)

    work()
    return work


@workload("connector WebSocket echo 100 B", 200)
def _connector_websocket() -> Work:
    """A message to a stream origin, and what it answers."""
    connector = Connector()
    message = bytes(range(100))
    mask = b"\x11\x22\x33\x44"
    masked = bytes(octet ^ mask[i & 3] for i, octet in enumerate(message))
    origin = WebSocketStream(connector.loop.turn)
    on_origin = connector.loop.connect(origin)
    connector.forwards = (origin.attach,)
    upgrade = (b"cf-cloudflared-proxy-connection-upgrade", b"websocket")
    connector.open(Encoder().encode_block([*REQUEST, upgrade]))
    connector.loop.run()
    data = frame(0, 0, connector.stream, b"\x82" + bytes([0x80 | 100]) + mask + masked)

    def work() -> None:
        feed(connector.link, data)
        connector.loop.run()
        feed(origin, message)
        connector.loop.run()

    work()
    check(on_origin.last[0] == message)
    check(connector.on_link.last[0].endswith(message))
    return work


@workload("edge GET 1 KiB, HTTP/1.1", 200)
def _edge_get_http1() -> Work:
    edge = Edge()
    visitor, on_visitor = edge.http1()
    request = request_head(b"GET")
    block = edge.block(RESPONSE_FIELDS)

    def work() -> None:
        feed(visitor, request)
        edge.loop.run()
        edge.respond(block, CONTENT)
        check(visitor.active == 0)

    work()
    block = edge.block(RESPONSE_FIELDS)
    work()
    check(on_visitor.last[0].endswith(b"\r\n\r\n" + CONTENT))
    return work


@workload("edge GET 1 KiB, HTTP/2", 200)
def _edge_get_http2() -> Work:
    edge = Edge()
    visitor, on_visitor = edge.http2()
    encoder = Encoder()
    request = encoder.encode_block(REQUEST[:10])
    block = edge.block(RESPONSE_FIELDS)
    streams = count(1, 2)

    def work() -> None:
        feed(visitor, frame(1, 5, next(streams), request))
        edge.loop.run()
        edge.respond(block, CONTENT)
        check(visitor.active == 0)

    work()
    request, block = encoder.encode_block(REQUEST[:10]), edge.block(RESPONSE_FIELDS)
    work()
    check(on_visitor.last[0].endswith(CONTENT))
    return work


@workload("edge POST 1 KiB, HTTP/1.1", 200)
def _edge_post() -> Work:
    edge = Edge()
    visitor, on_visitor = edge.http1()
    request = request_head(b"POST", [(b"Content-Length", b"1024")]) + CONTENT
    block = edge.block(RESPONSE_FIELDS)

    def work() -> None:
        feed(visitor, request)
        edge.loop.run()
        edge.respond(block, CONTENT)
        check(visitor.active == 0)

    work()
    block = edge.block(RESPONSE_FIELDS)
    work()
    check(edge.counters.request_bytes == 2 * len(CONTENT))
    check(on_visitor.last[0].endswith(b"\r\n\r\n" + CONTENT))
    return work


@workload("edge download 1 MiB, HTTP/1.1", 6)
def _edge_download() -> Work:
    """One response goes on, as the upload does."""
    edge = Edge()
    visitor, _ = edge.http1()
    feed(visitor, request_head(b"GET"))
    edge.loop.run()
    edge.respond(edge.block([*RESPONSE_FIELDS[:3], (b"Content-Length", b"%d" % (1 << 50))]))
    content = Bulk(edge.link, data_frames(edge.stream, bytes(READ - 16 * 9)))
    counters = edge.counters

    def work() -> None:
        before = counters.response_bytes
        for _ in range(MIB // READ):
            content.feed()
            edge.loop.run()
        check(counters.response_bytes - before > MIB - 1024)

    return work


# How the cost of one request grows with what else there is.


def _get_among(others: int) -> Work:
    connector = Connector()
    block = connector.block(REQUEST)
    for _ in range(others):
        connector.open(block, 1)
        connector.loop.run()
    return _get(connector)


@workload("connector GET among 100 streams", 200)
def _get_among_few() -> Work:
    return _get_among(100)


@workload("connector GET among 10,000 streams", 200)
def _get_among_many() -> Work:
    return _get_among(10_000)


def _ingress(rules: int) -> Work:
    """A host with a path in its rule, one without, one that a wildcard matches."""
    service = parse_service("http://127.0.0.1:8000")
    ingress = Ingress(
        [
            *(Rule(service, f"app{number}.example.com") for number in range(rules - 3)),
            Rule(service, "api.example.com", PathPattern("^/v[12]/")),
            Rule(service, "*.example.org"),
            Rule(service),
        ]
    )
    match = ingress.match

    def work() -> None:
        check(match(b"app5.example.com", b"/assets/index.js?v=12") == 5)
        check(match(b"api.example.com", b"/v1/items?page=2") == rules - 3)
        check(match(b"shop.example.org", b"/") == rules - 2)

    work()
    return work


@workload("ingress match, 10 rules", 200)
def _ingress_few() -> Work:
    return _ingress(10)


@workload("ingress match, 10,000 rules", 200)
def _ingress_many() -> Work:
    return _ingress(10_000)


def _router(routes: int) -> Work:
    edge = Edge()
    router = edge.router
    for number in range(routes):
        router.put_route(f"app{number}.example.com", UUID(int=1000 + number))
    router.put_route("*.example.org", edge.link.tunnel_id)

    def work() -> None:
        check(router.route(b"app.example.com") is edge.link)
        check(router.route(b"shop.example.org:443") is edge.link)
        check(router.route(b"unknown.example.net") is UNKNOWN_HOST)

    work()
    return work


@workload("router lookup, 10 routes", 200)
def _router_few() -> Work:
    return _router(10)


@workload("router lookup, 10,000 routes", 200)
def _router_many() -> Work:
    return _router(10_000)


@workload("router choice, 4 tunnels by weight", 200)
def _router_pool() -> Work:
    edge = Edge()
    router = edge.router
    others = [Target(UUID(int=100 + number)) for number in range(3)]
    for other in others:
        router.add_link(other.tunnel_id, edge.link)
    router.put_pool("app.example.com", [Target(edge.link.tunnel_id, 3), *others])

    def work() -> None:
        check(router.route(b"app.example.com") is edge.link)

    work()
    return work


# Part by part.


@workload("fields, 12 added", 300)
def _fields() -> Work:
    check(list(Fields(REQUEST)) == REQUEST)
    return lambda: Fields(REQUEST)


@workload("HPACK decode 12 fields", 300)
def _hpack_decode() -> Work:
    encoder, decoder = Encoder(), Decoder()
    decoder.decode_block(encoder.encode_block(REQUEST))
    block = encoder.encode_block(REQUEST)
    check(list(decoder.decode_block(block)) == REQUEST)
    return lambda: decoder.decode_block(block)


@workload("HPACK decode 12 fields, no table", 300)
def _hpack_decode_literal() -> Work:
    encoder, decoder = Encoder(), Decoder()
    encoder.max_table_size = 0
    block = encoder.encode_block(REQUEST)
    check(list(decoder.decode_block(block)) == REQUEST)
    return lambda: decoder.decode_block(block)


@workload("HPACK encode 12 fields", 300)
def _hpack_encode() -> Work:
    encoder, fields = Encoder(), Fields(REQUEST)
    check(len(encoder.encode_block(fields)) > len(encoder.encode_block(fields)))
    return lambda: encoder.encode_block(fields)


@workload("HPACK encode 12 fields, no table", 300)
def _hpack_encode_literal() -> Work:
    encoder, fields = Encoder(), Fields(REQUEST)
    encoder.max_table_size = 0
    check(list(Decoder().decode_block(encoder.encode_block(fields))) == REQUEST)
    return lambda: encoder.encode_block(fields)


@workload("header block serialize 12 fields", 300)
def _block_serialize() -> Work:
    fields = Fields(ORIGIN_FIELDS)
    check(parse_block(serialize_pairs(fields)) == ORIGIN_FIELDS)
    return lambda: serialize_pairs(fields)


@workload("header block parse 12 fields", 300)
def _block_parse() -> Work:
    block = serialize_pairs(ORIGIN_FIELDS)
    check(parse_block(block) == ORIGIN_FIELDS)
    return lambda: parse_block(block)


@workload("HTTP/1.1 request head in", 300)
def _request_head_in() -> Work:
    text = request_head(b"GET")
    check(read_head(text, True) is not None)
    return lambda: read_head(text, True)


@workload("HTTP/1.1 response head in", 300)
def _response_head_in() -> Work:
    check(read_head(RESPONSE_HEAD, False) is not None)
    return lambda: read_head(RESPONSE_HEAD, False)


@workload("HTTP/1.1 request head out", 300)
def _request_head_out() -> Work:
    fields = Fields(REQUEST)
    check(write_request(fields).endswith(b"\r\n\r\n"))
    return lambda: write_request(fields)


@workload("HTTP/1.1 response head out", 300)
def _response_head_out() -> Work:
    fields = Fields(RESPONSE_FIELDS)
    check(write_response(fields, 200).endswith(b"\r\n\r\n"))
    return lambda: write_response(fields, 200)


@workload("chunked coding in, 64 chunks", 100)
def _chunked() -> Work:
    body = encode_chunks([CONTENT] * 64)

    def work() -> None:
        check(ChunkedReader().feed(body)[1] == "end")

    return work


@workload("HTTP/2 frames in, 64", 100)
def _frames() -> Work:
    """WINDOW_UPDATE. Most of the work is the events that the test face makes."""
    reader = FrameReader()
    data = frame(8, 0, 1, b"\0\0\1\0") * 64

    def work() -> None:
        check(len(reader.feed(data)) == 64)

    return work


@workload("WebSocket frames in, 64", 100)
def _websocket_frames() -> Work:
    """Messages of 125 bytes."""
    reader = WebSocketReader()
    data = (b"\x82\xfd" + b"\x11\x22\x33\x44" + bytes(125)) * 64

    def work() -> None:
        check(len(reader.feed(data)) == 64)

    return work
