"""Header compression and header blocks, per call: `python -m pytest bench/micro --benchmark-only`.

Each figure has one Python call and the making of its result in it: the `floor` case, an empty
section, says how much. Unless named otherwise, the tables are those of a link in use.
"""

from __future__ import annotations

from typing import Any

import pytest

from underpass.core.fields import Fields
from underpass.core.headerblock import parse_block, serialize_pairs
from underpass.core.hpack import Decoder, Encoder

REQUEST = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"app.example.com"),
    (b":path", b"/api/v1/items?page=2&sort=name"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"cf-connecting-ip", b"203.0.113.77"),
    (b"cf-ray", b"8f0c1d2e3f4a5b6c-AMS"),
    (b"x-forwarded-proto", b"https"),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef; theme=dark"),
]
ORIGIN_HEAD = [
    (b"Content-Type", b"application/json; charset=utf-8"),
    (b"Content-Length", b"1024"),
    (b"Date", b"Tue, 03 Mar 2026 10:11:12 GMT"),
    (b"Server", b"nginx/1.27.4"),
    (b"Cache-Control", b"max-age=0, private, must-revalidate"),
    (b"Etag", b'W/"4f1c7f0f3a1b2c3d4e5f60718293a4b5"'),
    (b"Vary", b"Accept-Encoding, Origin"),
    (b"X-Request-Id", b"3f2b8c1e-7a1d-4a57-9a53-0f3c3f2b8c1e"),
    (b"X-Runtime", b"0.012345"),
    (b"Strict-Transport-Security", b"max-age=63072000; includeSubDomains"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Connection", b"keep-alive"),
]
BLOCK = serialize_pairs(ORIGIN_HEAD)
RESPONSE = [
    (b":status", b"200"),
    (b"cf-cloudflared-response-headers", BLOCK),
    (b"cf-cloudflared-response-meta", b'{"src":"origin"}'),
    (b"content-length", b"1024"),
]
SECTIONS = {"floor": [], "request": REQUEST, "origin head": ORIGIN_HEAD, "response": RESPONSE}


@pytest.mark.parametrize("name", SECTIONS)
def test_encode(benchmark: Any, name: str) -> None:
    encoder = Encoder()
    fields = Fields(SECTIONS[name])
    encoder.encode_block(fields)
    benchmark(encoder.encode_block, fields)


@pytest.mark.parametrize("name", SECTIONS)
def test_decode(benchmark: Any, name: str) -> None:
    encoder, decoder = Encoder(), Decoder()
    decoder.decode_block(encoder.encode_block(SECTIONS[name]))
    benchmark(decoder.decode_block, encoder.encode_block(SECTIONS[name]))


def test_encode_without_a_table(benchmark: Any) -> None:
    encoder = Encoder()
    encoder.max_table_size = 0
    benchmark(encoder.encode_block, Fields(REQUEST))


def test_decode_without_a_table(benchmark: Any) -> None:
    encoder = Encoder()
    encoder.max_table_size = 0
    benchmark(Decoder().decode_block, encoder.encode_block(REQUEST))


@pytest.mark.parametrize("count", [0, 12])
def test_serialize(benchmark: Any, count: int) -> None:
    benchmark(serialize_pairs, Fields(ORIGIN_HEAD[:count]))


@pytest.mark.parametrize("count", [0, 12])
def test_parse(benchmark: Any, count: int) -> None:
    benchmark(parse_block, serialize_pairs(ORIGIN_HEAD[:count]))
