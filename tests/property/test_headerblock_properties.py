"""Serialized response headers against a second reading of the rules, by the base64 module."""

from __future__ import annotations

import base64
import binascii
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from underpass.core.headerblock import HeaderBlockError, canonical, parse_block, serialize_pairs

Pair = tuple[bytes, bytes]

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
NAME = st.from_regex(TOKEN, fullmatch=True)
VALUE = st.binary(max_size=60).map(lambda value: re.sub(rb"[\r\n\0]", b"", value))


def model_decode(text: bytes) -> bytes | None:
    try:
        decoded = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None
    # Unused bits must be 0 and there is no padding in the text itself.
    return decoded if base64.b64encode(decoded).rstrip(b"=") == text else None


def model_parse(block: bytes) -> list[Pair] | None:
    pairs = []
    for piece in block.split(b";"):
        if not piece:
            continue
        parts = piece.split(b":")
        if len(parts) != 2:
            return None
        name, value = model_decode(parts[0]), model_decode(parts[1])
        if name is None or value is None:
            return None
        if not TOKEN.fullmatch(name) or re.search(rb"[\r\n\0]", value):
            return None
        pairs.append((name, value))
    return pairs


# Names the tunnel keeps for itself.
CONTROL = (b":", b"cf-int-", b"cf-cloudflared-", b"cf-proxy-")


def model_canonical(name: bytes) -> bytes:
    if not TOKEN.fullmatch(name):
        return name
    return b"-".join(part[:1].upper() + part[1:].lower() for part in name.split(b"-"))


def parsed(block: bytes) -> list[Pair] | None:
    try:
        return parse_block(block)
    except HeaderBlockError:
        return None


@settings(deadline=None)
@given(st.lists(st.tuples(NAME, VALUE), max_size=30))
def test_round_trip(pairs: list[Pair]) -> None:
    kept = [
        (model_canonical(name), value)
        for name, value in pairs
        if not name.lower().startswith(CONTROL)
    ]
    block = serialize_pairs(pairs)
    assert parse_block(block) == model_parse(block) == kept


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=10))
def test_any_pairs_are_serialized(pairs: list[Pair]) -> None:
    block = b";".join(
        base64.b64encode(model_canonical(name)).rstrip(b"=")
        + b":"
        + base64.b64encode(value).rstrip(b"=")
        for name, value in pairs
        if not name.lower().startswith(CONTROL)
    )
    assert serialize_pairs(pairs) == block


SIGN = st.sampled_from([b"A", b"Q", b"z", b"0", b"+", b"/", b":", b";", b"=", b"-", b"\n", b"\xff"])
ALMOST = st.one_of(
    st.binary(max_size=30),
    st.lists(SIGN, max_size=30).map(b"".join),
    st.lists(
        st.one_of(
            st.tuples(NAME, st.binary(max_size=12)).map(
                lambda pair: b":".join(base64.b64encode(text).rstrip(b"=") for text in pair)
            ),
            SIGN,
        ),
        max_size=6,
    ).map(b";".join),
)


@settings(deadline=None)
@given(ALMOST)
def test_any_block_is_what_the_model_makes_of_it(block: bytes) -> None:
    assert parsed(block) == model_parse(block)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_canonical_case(name: bytes) -> None:
    assert canonical(name) == model_canonical(name)


@settings(deadline=None)
@given(st.from_regex(rb"[A-Za-z_-]{0,60}", fullmatch=True))
def test_canonical_case_of_tokens_is_stable(name: bytes) -> None:
    once = canonical(name)
    assert once == model_canonical(name)
    assert canonical(once) == once
    assert once.lower() == name.lower()


@settings(deadline=None)
@given(st.lists(st.tuples(NAME, VALUE), min_size=1, max_size=5), st.data())
def test_a_damaged_block_is_what_the_model_makes_of_it(
    pairs: list[Pair], data: st.DataObject
) -> None:
    block = bytearray(b"YQ:YQ;" + serialize_pairs(pairs))
    block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    assert parsed(bytes(block)) == model_parse(bytes(block))
