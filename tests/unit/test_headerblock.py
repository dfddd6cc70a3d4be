"""The tunnel's serialized response headers (docs: wire protocol §2.5)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from underpass.core.fields import Fields
from underpass.core.headerblock import HeaderBlockError, canonical, parse_block, serialize_pairs

Pair = tuple[bytes, bytes]

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "serialized_headers.json").read_text("utf-8")
)["vectors"]
SERIALIZED = [vector for vector in VECTORS if "serialized" in vector]
PARSED = [vector for vector in VECTORS if "deserialize_input" in vector]

PAIR_LIMIT = 1024
BLOCK_LIMIT = 1024 * 1024


def b64(text: bytes) -> bytes:
    return base64.b64encode(text).rstrip(b"=")


def block_of(*pairs: Pair) -> bytes:
    return b";".join(b64(name) + b":" + b64(value) for name, value in pairs)


# Where we refuse what cloudflared's parser takes: what is parsed here becomes the head of an
# HTTP/1.1 response. The empty name is even in the recorded vectors; it can't be written in one.
STRICTER = [
    (b":", "an empty name"),
    (b":YQ", "an empty name with a value"),
    (b64(b"a b") + b":YQ", "a space in a name"),
    (b64(b"a:b") + b":YQ", "a colon in a name"),
    (b64(b"a\r\nb") + b":YQ", "a line end in a name"),
    (b64(b"a\0") + b":YQ", "NUL in a name"),
    (b64("é".encode()) + b":YQ", "a name that isn't ASCII"),
    (b"YQ:" + b64(b"v\r\nSet-Cookie: x"), "CR LF in a value"),
    (b"YQ:" + b64(b"v\rw"), "CR in a value"),
    (b"YQ:" + b64(b"v\nw"), "LF in a value"),
    (b"YQ:" + b64(b"v\0w"), "NUL in a value"),
    (b"YR:YQ", "unused bits that aren't 0 (Go: 'a')"),
    (b"YQ:YWF", "unused bits that aren't 0, in two octets (Go: 'aa')"),
    (b"Y\nQ:YQ", "LF inside base64 (Go skips it)"),
    (b"YQ:Y\rQ", "CR inside base64 (Go skips it)"),
]


def test_the_vectors_are_all_of_a_kind_we_know() -> None:
    assert len(SERIALIZED) == 8
    assert len(PARSED) == 9


@pytest.mark.parametrize("vector", SERIALIZED, ids=lambda vector: vector["serialized"][:30])
def test_recorded_blocks(vector: dict[str, Any]) -> None:
    block = vector["serialized"].encode()
    if "raw bytes" in json.dumps(vector["pairs"]):
        pairs = [(b"X-Plus-Slash", bytes.fromhex("fbfffeff"))]
    else:
        pairs = [(name.encode(), value.encode()) for name, value in vector["pairs"]]
    assert serialize_pairs(pairs) == block
    assert parse_block(block) == pairs


@pytest.mark.parametrize("vector", PARSED, ids=lambda vector: vector["deserialize_input"])
def test_recorded_parser_verdicts(vector: dict[str, Any]) -> None:
    block = vector["deserialize_input"].encode()
    if not vector["ok"] or block in [stricter for stricter, _ in STRICTER]:
        with pytest.raises(HeaderBlockError):
            parse_block(block)
    else:
        wanted = [(pair["Name"].encode(), pair["Value"].encode()) for pair in vector["result"]]
        assert parse_block(block) == wanted


@pytest.mark.parametrize(("block", "what"), STRICTER, ids=[what for _, what in STRICTER])
def test_where_we_are_stricter(block: bytes, what: str) -> None:
    with pytest.raises(HeaderBlockError, match="malformed response header block"):
        parse_block(block)
    # Nor does it matter what else there is.
    with pytest.raises(HeaderBlockError):
        parse_block(b"YQ:YQ;" + block + b";Yg:Yg")
    assert what


@pytest.mark.parametrize("block", [b"Y:YQ", b"YQ:Y", b"YWFhY:YQ", b"YQ:YWFhY"])
def test_a_single_left_over_sign_is_refused(block: bytes) -> None:
    with pytest.raises(HeaderBlockError):
        parse_block(block)


@pytest.mark.parametrize("octet", range(256))
def test_only_the_standard_alphabet_is_read(octet: int) -> None:
    sign = bytes([octet])
    sound = sign.isalnum() or sign in b"+/"
    for block in (b"YQ:" + sign + b"AAA", b"YQ:A" + sign + b"AA", b"YQ:AA" + sign + b"A"):
        text = block[3:]
        if sound and not {0, 10, 13} & set(base64.b64decode(text)):
            assert parse_block(block) == [(b"a", base64.b64decode(text))]
        elif sign not in b":;":
            with pytest.raises(HeaderBlockError):
                parse_block(block)


@pytest.mark.parametrize("octet", range(256))
def test_a_name_is_a_token(octet: int) -> None:
    token = octet < 128 and (chr(octet).isalnum() or chr(octet) in "!#$%&'*+-.^_`|~")
    for name in (bytes([octet]), b"ab" + bytes([octet]) + b"c"):
        if token:
            assert parse_block(block_of((name, b"v"))) == [(name, b"v")]
        else:
            with pytest.raises(HeaderBlockError, match="token"):
                parse_block(block_of((name, b"v")))


@pytest.mark.parametrize("octet", range(256))
@pytest.mark.parametrize("before", [0, 3, 7, 8, 12])
def test_a_value_may_hold_any_octet_that_does_not_end_its_line(octet: int, before: int) -> None:
    value = b"v" * before + bytes([octet]) + b"\x80w\xff"
    if octet in (0, 10, 13):
        with pytest.raises(HeaderBlockError, match="CR, LF or NUL"):
            parse_block(block_of((b"a", value)))
    else:
        assert parse_block(block_of((b"a", value))) == [(b"a", value)]


@pytest.mark.parametrize("block", [b"", b";", b";;;"])
def test_no_pairs(block: bytes) -> None:
    assert parse_block(block) == []


@pytest.mark.parametrize("block", [b";YQ:Yg", b"YQ:Yg;", b";;YQ:Yg;;"])
def test_empty_pieces_are_skipped(block: bytes) -> None:
    assert parse_block(block) == [(b"a", b"b")]


def test_a_block_cut_anywhere_is_a_shorter_one_or_malformed() -> None:
    pairs = [(b"Content-Type", b"text/html"), (b"X-A", b""), (b"X-Bc", b"1")]
    block = block_of(*pairs)
    whole = {len(block_of(*pairs[:count])) for count in range(4)}
    for end in whole:
        assert parse_block(block[:end]) == [
            pair for count, pair in enumerate(pairs, 1) if len(block_of(*pairs[:count])) <= end
        ]
    for start in (1, 2, 3):
        with pytest.raises(HeaderBlockError):
            parse_block(block[: start * 4 + 1])


@pytest.mark.parametrize(("count", "fits"), [(1023, True), (1024, True), (1025, False)])
def test_pair_bound(count: int, fits: bool) -> None:
    block = block_of(*[(b"a", b"")] * count)
    if fits:
        assert len(parse_block(block)) == count
    else:
        with pytest.raises(HeaderBlockError, match=f"more than {PAIR_LIMIT} pairs"):
            parse_block(block)


@pytest.mark.parametrize(("excess", "fits"), [(-1, True), (0, True), (1, False)])
def test_block_size_bound(excess: int, fits: bool) -> None:
    block = b"YQ:YQ".rjust(BLOCK_LIMIT + excess, b";")
    if fits:
        assert parse_block(block) == [(b"a", b"a")]
    else:
        with pytest.raises(HeaderBlockError, match=f"more than {BLOCK_LIMIT} octets"):
            parse_block(block)


def test_pairs_are_added_behind_what_is_there() -> None:
    fields = Fields([(b"server", b"x")])
    parse_block(b"YQ:Yg;Yw:ZA", fields)
    assert list(fields) == [(b"server", b"x"), (b"a", b"b"), (b"c", b"d")]


def test_a_malformed_block_adds_nothing() -> None:
    fields = Fields([(b"server", b"x")])
    for block in (b"YQ:Yg;Yw", b"YQ:Yg;Yw:Z", b"YQ:Yg;:ZA"):
        with pytest.raises(HeaderBlockError):
            parse_block(block, fields)
        assert list(fields) == [(b"server", b"x")]
    fields.append(b"via", b"y")
    assert list(fields) == [(b"server", b"x"), (b"via", b"y")]


# --- Serializing.


@pytest.mark.parametrize(
    "name",
    [
        b"cf-int-x",
        b"Cf-Int-X",
        b"CF-INT-",
        b"cf-cloudflared-response-meta",
        b"CF-Cloudflared-Foo",
        b"Cf-Proxy-X",
        b"cf-proxy-",
        b":status",
        b":",
        b":anything",
    ],
)
def test_fields_of_the_tunnel_itself_are_left_out(name: bytes) -> None:
    assert serialize_pairs([(name, b"s")]) == b""
    assert serialize_pairs([(b"A", b"1"), (name, b"s"), (b"B", b"2")]) == b"QQ:MQ;Qg:Mg"


@pytest.mark.parametrize(
    "name",
    [b"Cf-Ray", b"Cf-Int", b"Cf-Internal", b"Cf-Cloudflared", b"Cf-Proxy", b"Cf", b"X-Cf-Int-X"],
)
def test_names_that_only_look_like_those_are_kept(name: bytes) -> None:
    assert parse_block(serialize_pairs([(name, b"r")])) == [(name, b"r")]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (b"content-type", b"Content-Type"),
        (b"CONTENT-TYPE", b"Content-Type"),
        (b"Content-Type", b"Content-Type"),
        (b"te", b"Te"),
        (b"dNT", b"Dnt"),
        (b"www-authenticate", b"Www-Authenticate"),
        (b"sec-websocket-key", b"Sec-Websocket-Key"),
        (b"x_under_score", b"X_under_score"),
        (b"x.dot", b"X.dot"),
        (b"-x--y-", b"-X--Y-"),
        (b"1a-2b", b"1a-2b"),
        (b"~tilde-|bar", b"~tilde-|bar"),
        (b"", b""),
        (b"not a-token", b"not a-token"),
        (b"nOT:a-token", b"nOT:a-token"),
        (b"x-\xc3\xa9", b"x-\xc3\xa9"),
    ],
)
def test_names_are_in_go_canonical_case(name: bytes, wanted: bytes) -> None:
    assert canonical(name) == wanted
    # Twice: what is remembered of a well-known name the first time must serve the second.
    for _ in range(2):
        assert serialize_pairs([(name, b"v")]) == block_of((wanted, b"v"))


@pytest.mark.parametrize("size", [*range(40), 255, 256, 1000, 70_000])
def test_names_and_values_of_every_length(size: int) -> None:
    name, value = b"N" + b"n" * size, bytes(32 + i % 95 for i in range(size))
    block = serialize_pairs([(name, value), (b"Z", b"z")])
    assert block == block_of((name, value), (b"Z", b"z"))
    assert parse_block(block) == [(name, value), (b"Z", b"z")]


def test_arrival_order_is_kept() -> None:
    pairs = [(b"B", b"1"), (b"A", b"2"), (b"B", b"3")]
    assert parse_block(serialize_pairs(pairs)) == pairs
