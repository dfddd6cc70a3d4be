"""What makes a head acceptable (RFC 9110 §5, RFC 9113 §8)."""

from __future__ import annotations

import pytest
from rig.http2 import GET, OK

from underpass.core.fields import Fields
from underpass.core.heads import request_fault, response_fault, trailers_fault

Pairs = list[tuple[bytes, bytes]]


def without(name: bytes) -> Pairs:
    return [pair for pair in GET if pair[0] != name]


def replaced(name: bytes, value: bytes) -> Pairs:
    return [(each, value if each == name else text) for each, text in GET]


def visible(fields: Fields) -> Pairs:
    return list(fields)


REQUESTS: list[Pairs] = [
    GET,
    [*GET[::-1]],
    [*GET, (b"accept", b"*/*"), (b"x-dup", b"1"), (b"x-dup", b"2"), (b"cookie", b"a=1")],
    [*GET, (b"x-empty", b"")],
    [*GET, (b"x-high", b"caf\xe9 \x80\xff")],
    [*GET, (b"x-tab", b"a\tb")],
    [*GET, (b"te", b"trailers")],
    [*GET, (b"content-length", b"0")],
    [*GET, (b"content-length", b"999999999999999999")],
    without(b":authority"),
    [*without(b":authority"), (b"host", b"app.example")],
    replaced(b":authority", b"app.example:8443"),
    replaced(b":authority", b"[2001:db8::1]:443"),
    replaced(b":path", b"*"),
    replaced(b":path", b"/a%2Fb?x=1&y=%zz#f\xc3\xa9"),
    replaced(b":method", b"PROPFIND"),
    replaced(b":method", b"connect"),
    [(b":method", b"CONNECT"), (b":authority", b"192.0.2.1:22")],
    replaced(b":method", b"CONNECT"),
    [*replaced(b":method", b"CONNECT"), (b":protocol", b"websocket")],
]


@pytest.mark.parametrize("pairs", REQUESTS)
def test_well_formed_requests(pairs: Pairs) -> None:
    assert request_fault(Fields(pairs)) is None


BAD_REQUESTS: list[tuple[str, Pairs]] = [
    ("missing pseudo field", []),
    ("missing pseudo field", without(b":method")),
    ("missing pseudo field", without(b":scheme")),
    ("missing pseudo field", without(b":path")),
    ("missing pseudo field", [(b":method", b"CONNECT")]),
    ("missing pseudo field", [(b":method", b"CONNECT"), (b":protocol", b"websocket")]),
    ("missing pseudo field", [(b":method", b"connect"), (b":authority", b"192.0.2.1:22")]),
    ("misplaced", [*GET, (b":path", b"/other")]),
    ("misplaced", [*GET, (b":status", b"200")]),
    ("misplaced", [*GET, (b":unknown", b"x")]),
    ("misplaced", [*GET, (b":protocol", b"websocket")]),
    (
        "invalid Content-Length",
        [
            *replaced(b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b"content-length", b"0"),
        ],
    ),
    ("misplaced", [*GET[:3], (b"accept", b"*/*"), GET[3]]),
    ("misplaced", [(b":METHOD", b"GET"), *GET[1:]]),
    ("misplaced", [*GET, (b":", b"x")]),
    ("invalid field name", [*GET, (b"", b"x")]),
    ("invalid field name", [*GET, (b"Accept", b"x")]),
    ("invalid field name", [*GET, (b"a b", b"x")]),
    ("invalid field name", [*GET, (b"a:b", b"x")]),
    ("invalid field name", [*GET, (b"a\r", b"x")]),
    ("invalid field name", [*GET, (b"caf\xe9", b"x")]),
    ("invalid field value", [*GET, (b"x", b"a\nb")]),
    ("invalid field value", [*GET, (b"x", b"a\rb")]),
    ("invalid field value", [*GET, (b"x", b"a\0b")]),
    ("invalid field value", [*GET, (b"x", b"\x7f")]),
    ("invalid field value", [*GET, (b"x", b"\x01")]),
    ("invalid field value", [*GET, (b"x", b" a")]),
    ("invalid field value", [*GET, (b"x", b"a\t")]),
    ("invalid field value", [*GET, (b"x", b" ")]),
    ("invalid field value", replaced(b":method", b"")),
    ("invalid field value", replaced(b":method", b"GET /")),
    ("invalid field value", replaced(b":scheme", b"ht tp")),
    ("invalid request target", replaced(b":path", b"")),
    ("invalid request target", replaced(b":path", b"index")),
    ("invalid request target", replaced(b":path", b"**")),
    ("invalid request target", replaced(b":path", b"/a b")),
    ("invalid request target", replaced(b":path", b"/a\r\nHost: other")),
    ("invalid request target", replaced(b":path", b"https://other.example/")),
    ("invalid authority", replaced(b":authority", b"app.example/")),
    ("invalid authority", replaced(b":authority", b"user@app.example")),
    ("invalid authority", replaced(b":authority", b"app example")),
    ("invalid authority", [*GET, (b"host", b"other.example")]),
    ("invalid authority", [*GET, (b"host", b"app.example:80")]),
    (
        "invalid authority",
        [*without(b":authority"), (b"host", b"one.example"), (b"host", b"two.example")],
    ),
    ("invalid authority", [*without(b":authority"), (b"host", b"a/b")]),
    ("connection-specific field", [*GET, (b"connection", b"close")]),
    ("connection-specific field", [*GET, (b"proxy-connection", b"keep-alive")]),
    ("connection-specific field", [*GET, (b"keep-alive", b"timeout=5")]),
    ("connection-specific field", [*GET, (b"transfer-encoding", b"chunked")]),
    ("connection-specific field", [*GET, (b"upgrade", b"websocket")]),
    ("connection-specific field", [*GET, (b"te", b"gzip")]),
    ("connection-specific field", [*GET, (b"te", b"trailers, gzip")]),
    ("invalid Content-Length", [*GET, (b"content-length", b"")]),
    ("invalid Content-Length", [*GET, (b"content-length", b"-1")]),
    ("invalid Content-Length", [*GET, (b"content-length", b"+1")]),
    ("invalid Content-Length", [*GET, (b"content-length", b"1, 1")]),
    ("invalid Content-Length", [*GET, (b"content-length", b"0x10")]),
    ("invalid Content-Length", [*GET, (b"content-length", b"1000000000000000000")]),
    ("invalid Content-Length", [*GET, (b"content-length", b"5"), (b"content-length", b"6")]),
]


@pytest.mark.parametrize(("fault", "pairs"), BAD_REQUESTS)
def test_malformed_requests(fault: str, pairs: Pairs) -> None:
    found = request_fault(Fields(pairs))
    assert found is not None
    assert fault in found


def test_a_host_that_repeats_the_authority_is_left_out() -> None:
    fields = Fields([*GET, (b"host", b"APP.example")])
    assert request_fault(fields) is None
    assert visible(fields) == GET


def test_a_host_without_an_authority_is_kept() -> None:
    pairs = [*without(b":authority"), (b"host", b"app.example")]
    fields = Fields(pairs)
    assert request_fault(fields) is None
    assert visible(fields) == pairs


def test_a_repeated_content_length_that_agrees_is_left_out() -> None:
    fields = Fields([*GET, (b"content-length", b"5"), (b"content-length", b"5")])
    assert request_fault(fields) is None
    assert visible(fields) == [*GET, (b"content-length", b"5")]


@pytest.mark.parametrize(
    "pairs",
    [
        OK,
        [(b":status", b"999")],
        [(b":status", b"100")],
        [*OK, (b"content-length", b"5"), (b"set-cookie", b"a"), (b"set-cookie", b"b")],
    ],
)
def test_well_formed_responses(pairs: Pairs) -> None:
    assert response_fault(Fields(pairs)) is None


@pytest.mark.parametrize(
    ("fault", "pairs"),
    [
        ("missing pseudo field", []),
        ("missing pseudo field", [(b"server", b"x"), *OK]),
        ("missing pseudo field", [(b":path", b"/")]),
        ("invalid status", [(b":status", b"")]),
        ("invalid status", [(b":status", b"20")]),
        ("invalid status", [(b":status", b"2000")]),
        ("invalid status", [(b":status", b"099")]),
        ("invalid status", [(b":status", b"2x0")]),
        ("invalid status", [(b":status", b"+20")]),
        ("invalid status", [(b":Status", b"200")]),
        ("misplaced", [*OK, *OK]),
        ("misplaced", [*OK, (b":path", b"/")]),
        ("invalid field name", [*OK, (b"Server", b"x")]),
        ("invalid field value", [*OK, (b"server", b"x\r\ny")]),
        ("connection-specific field", [*OK, (b"transfer-encoding", b"chunked")]),
        ("invalid Content-Length", [*OK, (b"content-length", b"x")]),
    ],
)
def test_malformed_responses(fault: str, pairs: Pairs) -> None:
    found = response_fault(Fields(pairs))
    assert found is not None
    assert fault in found


def test_trailers_carry_what_neither_frames_nor_routes() -> None:
    fields = Fields([(b"x-sum", b"1"), (b"content-length", b"5"), (b"host", b"other")])
    assert trailers_fault(fields) is None
    assert visible(fields) == [(b"x-sum", b"1")]


@pytest.mark.parametrize(
    "pairs",
    [[(b":path", b"/")], [(b"X-Sum", b"1")], [(b"x", b"\n")], [(b"transfer-encoding", b"chunked")]],
)
def test_malformed_trailers(pairs: Pairs) -> None:
    assert trailers_fault(Fields(pairs)) is not None
