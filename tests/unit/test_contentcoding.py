"""Responses coded with gzip: which, for whom, and that nothing is lost or held back by it."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.oracle import read_response
from rig.tunnel import Tunnel

from underpass.core import contentcoding
from underpass.core.contentcoding import accepts_gzip

TEXT = b"To be, or not to be, that is the question. " * 100


def tunnel_asked(*fields: bytes, method: bytes = b"GET", compresses: bool = True) -> Tunnel:
    """A visitor who accepts gzip has asked."""
    tunnel = Tunnel()
    tunnel.at_edge.compresses = compresses
    lines = fields or (b"Accept-Encoding: gzip, deflate, br",)
    head = method + b" / HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines)
    assert tunnel.request(head + b"\r\n")
    return tunnel


def answer(tunnel: Tunnel, *fields: bytes, body: bytes = TEXT, status: bytes = b"200 OK") -> bytes:
    lines = fields or (b"Content-Type: text/html; charset=utf-8",)
    length = b"Content-Length: %d" % len(body)
    head = b"".join(line + b"\r\n" for line in (*lines, length))
    return tunnel.respond(b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n" + body)


def read(text: bytes, method: bytes = b"GET") -> tuple[dict[bytes, bytes], bytes]:
    """Fields, lower-case, and content."""
    message = read_response(text, method)
    assert message is not None
    return {name.lower(): value for name, value in message.fields}, message.body


def test_text_is_coded_for_who_accepts_it() -> None:
    fields, body = read(answer(tunnel_asked()))
    assert gzip.decompress(body) == TEXT
    assert len(body) < len(TEXT) / 10
    assert fields[b"content-encoding"] == b"gzip"
    assert fields[b"vary"] == b"Accept-Encoding"
    assert b"content-length" not in fields


def test_nothing_is_unless_asked_for() -> None:
    fields, body = read(answer(tunnel_asked(compresses=False)))
    assert body == TEXT
    assert not fields.keys() & {b"content-encoding", b"vary"}


def test_who_does_not_accept_it_is_told_that_it_depends() -> None:
    fields, body = read(answer(tunnel_asked(b"Accept-Encoding: br")))
    assert body == TEXT
    assert fields[b"vary"] == b"Accept-Encoding"
    assert b"content-encoding" not in fields


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Type: image/png",),
        (b"X-No: type",),
        (b"Content-Type: text/html", b"Content-Encoding: br"),
        (b"Content-Type: text/html", b"Cache-Control: public, No-Transform"),
        (b"Content-Type: text/html", b"Content-Digest: sha-256=:AA==:"),
    ],
)
def test_what_is_left_alone(fields: tuple[bytes, ...]) -> None:
    got, body = read(answer(tunnel_asked(), *fields))
    assert body == TEXT
    assert got[b"content-length"] == b"%d" % len(TEXT)
    assert b"vary" not in got


@pytest.mark.parametrize("kind", [b"application/json", b"image/svg+xml", b"a/b+json", b"TEXT/CSS"])
def test_what_is_text_by_another_name(kind: bytes) -> None:
    _, body = read(answer(tunnel_asked(), b"Content-Type: " + kind))
    assert gzip.decompress(body) == TEXT


def test_little_and_other_statuses_are_left_alone() -> None:
    assert read(answer(tunnel_asked(), body=b"x" * 999))[1] == b"x" * 999
    assert read(answer(tunnel_asked(), body=b"x" * 1000))[0][b"content-encoding"] == b"gzip"
    for status in (b"206 Partial Content", b"404 Not Found"):
        assert read(answer(tunnel_asked(), status=status))[1] == TEXT


def test_a_head_says_nothing_of_a_coding() -> None:
    tunnel = tunnel_asked(method=b"HEAD")
    text = tunnel.respond(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5000\r\n\r\n"
    )
    assert b"gzip" not in text


def test_tags_become_weak_and_ranges_are_not_offered() -> None:
    kind = b"Content-Type: text/html"
    fields, _ = read(answer(tunnel_asked(), kind, b'ETag: "abc"', b"Accept-Ranges: bytes"))
    assert fields[b"etag"] == b'W/"abc"'
    assert b"accept-ranges" not in fields
    fields, _ = read(answer(tunnel_asked(), kind, b'ETag: W/"abc"'))
    assert fields[b"etag"] == b'W/"abc"'


def test_each_piece_goes_out_as_it_is_written() -> None:
    tunnel = tunnel_asked(b"Accept-Encoding: gzip")
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    text = tunnel.respond(head)
    decoder = zlib.decompressobj(31)
    for number in range(5):
        piece = b"data: %d\n\n" % number
        text = tunnel.respond(b"%x\r\n%b\r\n" % (len(piece), piece))
        chunks = text.split(b"\r\n", 1)[1].removesuffix(b"\r\n")
        assert decoder.decompress(chunks) == piece
    tunnel.respond(b"0\r\n\r\n")


def test_content_that_cannot_be_made_smaller_keeps_its_credit() -> None:
    """What is coded is of another size than what was delivered: more than every window of it."""
    noise = random.Random(1).randbytes(3_000_000)
    for body in (noise, bytes(20_000_000)):
        assert gzip.decompress(read(answer(tunnel_asked(), body=body))[1]) == body


@given(st.lists(st.binary(max_size=3000), max_size=12))
def test_content_is_what_it_was_however_it_is_cut(pieces: list[bytes]) -> None:
    tunnel = tunnel_asked()
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
    text = tunnel.respond(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
        *chunks,
        b"0\r\n\r\n",
    )
    assert gzip.decompress(read(text)[1]) == b"".join(pieces)
    assert tunnel.streams == 0


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        (b"gzip", True),
        (b"GZIP", True),
        (b"br, gzip;q=0.5", True),
        (b"x-gzip", True),
        (b"*", True),
        (b"*;q=0.1", True),
        (b"gzip;q=0.001", True),
        (b"gzip ; q=1.000", True),
        (b"", False),
        (b"br", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000", False),
        (b"gzip; Q = 0", False),
        (b"*, gzip;q=0", False),
        (b"gzip;q=0, *", False),
        (b"*;q=0", False),
        (b"gzipped", False),
        (b"identity;q=0", False),
        (b"br," * 500 + b"gzip", False),
    ],
)
def test_who_accepts_gzip(field: bytes, accepted: bool) -> None:
    assert accepts_gzip(field) == accepted


def test_no_more_is_looked_at_than_is_said() -> None:
    room = contentcoding.MAX_ACCEPT_LENGTH
    assert accepts_gzip(b" " * (room - 4) + b"gzip")
    assert not accepts_gzip(b" " * (room - 3) + b"gzip")
