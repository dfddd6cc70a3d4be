"""HPACK: the examples of RFC 7541 Appendix C, its errors, our bounds and our indexing policy."""

from __future__ import annotations

from random import Random

import hpack
import pytest

from underpass.core import huffman
from underpass.core.fields import Fields
from underpass.core.hpack import CompressionError, Decoder, Encoder, HeaderListTooLarge

Pair = tuple[bytes, bytes]

# Bounds, from hpack.pyx and hpacktable.pxd.
BLOCK_LIMIT = 1024 * 1024
LIST_SIZE_LIMIT = 1024 * 1024
FIELD_LIMIT = 1024
TABLE_SIZE_LIMIT = 64 * 1024
INDEXED_VALUE_LIMIT = 512
HUFFMAN_VALUE_LIMIT = 512
SHORT_COOKIE = 20
NAME_LIMIT = 255
DEFAULT_TABLE_SIZE = 4096
OVERHEAD = 32


def integer(number: int, prefix: int, pattern: int = 0) -> bytes:
    """RFC 7541 §5.1, written independently of the code under test."""
    full = (1 << prefix) - 1
    if number < full:
        return bytes([pattern | number])
    octets = [pattern | full]
    number -= full
    while number >= 128:
        octets.append(number % 128 + 128)
        number //= 128
    return bytes([*octets, number])


def plain(text: bytes) -> bytes:
    return integer(len(text), 7) + text


def literal(name: bytes, value: bytes, pattern: int = 0x40) -> bytes:
    """A literal with a new name: 0x40 to be indexed, 0x00 not, 0x10 never."""
    return bytes([pattern]) + plain(name) + plain(value)


def decoded(block: bytes) -> list[Pair]:
    return list(Decoder().decode_block(block))


def oracle_decoded(block: bytes) -> list[Pair]:
    decoder = hpack.Decoder(max_header_list_size=1 << 30)
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


def ours(block: bytes) -> list[Pair] | None:
    """What we decode the block to; None if it is malformed."""
    try:
        return decoded(block)
    except CompressionError:
        return None


def oracles(block: bytes) -> list[Pair] | None:
    try:
        return oracle_decoded(block)
    except hpack.HPACKError:
        return None


# --- RFC 7541 Appendix C.1: integers. An update of the table size has a prefix of five bits.


@pytest.mark.parametrize(("block", "size"), [("2a", 10), ("3f9a0a", 1337)])
def test_c1_integers(block: str, size: int) -> None:
    encoder, decoder = Encoder(), Decoder()
    encoder.max_table_size = size
    assert encoder.encode_block([]).hex() == block
    # The decoder has taken the size over: of two entries, only what fits is left.
    decoder.decode_block(
        bytes.fromhex(block) + literal(b"n", b"v" * (size - 33 if size > 33 else 0))
    )
    assert decoder.table_size == (size if size > 33 else 0)


def test_c1_integer_42() -> None:
    assert decoded(integer(42, 7, 0x80)) == [(b"if-range", b"")]


# --- Appendix C.2: representations.


@pytest.mark.parametrize(
    ("block", "pair", "table"),
    [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            (b"custom-key", b"custom-header"),
            [(b"custom-key", b"custom-header")],
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", (b":path", b"/sample/path"), []),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", (b"password", b"secret"), []),
        ("82", (b":method", b"GET"), []),
    ],
    ids=["C.2.1 indexed", "C.2.2 not indexed", "C.2.3 never indexed", "C.2.4 index"],
)
def test_c2_representations(block: str, pair: Pair, table: list[Pair]) -> None:
    decoder = Decoder()
    assert list(decoder.decode_block(bytes.fromhex(block))) == [pair]
    assert decoder.table_entries() == table


# --- Appendix C.3 to C.6: sequences of blocks, with the table after each.

REQUESTS: list[tuple[list[Pair], list[Pair], int]] = [
    (
        [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", b"www.example.com"),
        ],
        [(b":authority", b"www.example.com")],
        57,
    ),
    (
        [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", b"www.example.com"),
            (b"cache-control", b"no-cache"),
        ],
        [(b"cache-control", b"no-cache"), (b":authority", b"www.example.com")],
        110,
    ),
    (
        [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":path", b"/index.html"),
            (b":authority", b"www.example.com"),
            (b"custom-key", b"custom-value"),
        ],
        [
            (b"custom-key", b"custom-value"),
            (b"cache-control", b"no-cache"),
            (b":authority", b"www.example.com"),
        ],
        164,
    ),
]
C3 = [
    "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    "8286 84be 5808 6e6f 2d63 6163 6865",
    "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
]
C4 = [
    "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
    "8286 84be 5886 a8eb 1064 9cbf",
    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
]
DATE_21 = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")
DATE_22 = (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT")
LOCATION = (b"location", b"https://www.example.com")
PRIVATE = (b"cache-control", b"private")
COOKIE = (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")
GZIP = (b"content-encoding", b"gzip")
RESPONSES: list[tuple[list[Pair], list[Pair], int]] = [
    (
        [(b":status", b"302"), PRIVATE, DATE_21, LOCATION],
        [LOCATION, DATE_21, PRIVATE, (b":status", b"302")],
        222,
    ),
    (
        [(b":status", b"307"), PRIVATE, DATE_21, LOCATION],
        [(b":status", b"307"), LOCATION, DATE_21, PRIVATE],
        222,
    ),
    (
        [(b":status", b"200"), PRIVATE, DATE_22, LOCATION, GZIP, COOKIE],
        [COOKIE, GZIP, DATE_22],
        215,
    ),
]
C5 = [
    "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a"
    "3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    "4803 3330 37c1 c0bf",
    "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04"
    "677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49"
    "553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
]
C6 = [
    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e"
    "919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
    "4883 640e ffc1 c0bf",
    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7"
    "821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed"
    "4ee5 b106 3d50 07",
]


@pytest.mark.parametrize("blocks", [C3, C4], ids=["C.3 plain", "C.4 Huffman"])
def test_c3_c4_requests(blocks: list[str]) -> None:
    decoder = Decoder()
    for block, (pairs, table, size) in zip(blocks, REQUESTS, strict=True):
        assert list(decoder.decode_block(bytes.fromhex(block))) == pairs
        assert decoder.table_entries() == table
        assert decoder.table_size == size


@pytest.mark.parametrize("blocks", [C5, C6], ids=["C.5 plain", "C.6 Huffman"])
def test_c5_c6_responses_in_a_table_of_256_octets(blocks: list[str]) -> None:
    decoder = Decoder(max_table_size=256)
    update = integer(256, 5, 0x20)
    for block, (pairs, table, size) in zip(blocks, RESPONSES, strict=True):
        assert list(decoder.decode_block(update + bytes.fromhex(block))) == pairs
        assert decoder.table_entries() == table
        assert decoder.table_size == size


def test_our_encoder_writes_the_requests_of_c4() -> None:
    encoder = Encoder()
    for block, (pairs, table, size) in zip(C4, REQUESTS, strict=True):
        assert encoder.encode_block(pairs) == bytes.fromhex(block)
        assert encoder.table_entries() == table
        assert encoder.table_size == size


@pytest.mark.parametrize("block", [*C3, *C4, *C5, *C6])
def test_a_block_cut_anywhere_is_what_the_oracle_makes_of_it(block: str) -> None:
    whole = bytes.fromhex(block)
    for end in range(len(whole) + 1):
        assert ours(whole[:end]) == oracles(whole[:end])


# --- The static table (Appendix A) and Huffman code (Appendix B).


def test_the_static_table_is_the_oracles() -> None:
    block = b"".join(integer(index, 7, 0x80) for index in range(1, 62))
    assert decoded(block) == oracle_decoded(block)


def test_every_static_entry_with_a_value_is_sent_as_one_octet() -> None:
    pairs = [pair for pair in decoded(bytes(range(0x81, 0x81 + 61))) if pair[1]]
    assert len(Encoder().encode_block(pairs)) == len(pairs)


@pytest.mark.parametrize("octet", range(256))
def test_every_octet_has_its_huffman_code(octet: int) -> None:
    text = bytes([octet]) * 9
    code = huffman.encode(text)
    coder = hpack.huffman.HuffmanEncoder(
        hpack.huffman_constants.REQUEST_CODES, hpack.huffman_constants.REQUEST_CODES_LENGTH
    )
    assert code == coder.encode(text)
    assert huffman.decode(code) == text


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("ff", "eight bits of padding"),
        ("ffff", "sixteen bits of padding"),
        ("f8ff", "'&' and eight bits of padding"),
        ("00", "'0', then padding of zeros"),
        ("1e", "'a' is 00011, the padding 110"),
        ("ffffffff", "EOS"),
        ("1fffffffff", "'a' and EOS"),
        ("fffffffc", "EOS and zeros"),
        ("fffffffffffffffffff0", "EOS at length"),
    ],
)
def test_wrong_huffman_strings_are_refused(code: str, why: str) -> None:
    octets = bytes.fromhex(code)
    with pytest.raises(ValueError, match="Huffman"):
        huffman.decode(octets)
    for name, value in ((b"\x01n", integer(len(octets), 7, 0x80) + octets), (None, b"\x01v")):
        start = name or integer(len(octets), 7, 0x80) + octets
        with pytest.raises(CompressionError):
            decoded(b"\x40" + start + value)
    assert why


def test_padding_of_up_to_seven_ones_is_accepted() -> None:
    # Codes of 5, 6, 7 and 8 bits, alone and together, give every length of padding.
    for text in (b"0", b"00", b"000", b"0000", b"00000", b"000000", b"0000000", b"00000000"):
        assert huffman.decode(huffman.encode(text)) == text
    assert huffman.decode(b"") == b""


# --- What is malformed.


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "index 0"),
        (b"\xbe", "index 62 in an empty table"),
        (b"\x7e\x01v", "name index 62 in an empty table"),
        (b"\xff\xff\xff\xff\xff\x0f", "index near 2**32"),
        (b"\xff\x80\x80\x80\x80\x10", "index over 2**32"),
        (b"\xff\xff\xff\xff\xff\x7f", "index of 35 bits"),
        (b"\xff", "integer without its end"),
        (b"\xff\x80", "integer without its end"),
        (b"\xff\x80\x80\x80\x80\x80\x00", "integer of more than five octets"),
        (b"\x40", "literal without a name"),
        (b"\x40\x01", "name without its octets"),
        (b"\x40\x01n", "literal without a value"),
        (b"\x40\x01n\x02v", "value without all its octets"),
        (b"\x41", "indexed name without a value"),
        (b"\x40\x01n\x7f\xff\xff\xff\xff\x0f", "value of 2**32 octets"),
        (b"\x82\x20", "size update after a field"),
        (b"\x20\x82\x20", "size update after a field, after one in its place"),
        (b"\x3f\xe2\x1f", "size update to 4,097"),
        (b"\x3f", "size update without its end"),
    ],
)
def test_malformed_blocks(block: bytes, why: str) -> None:
    with pytest.raises(CompressionError, match="malformed header block"):
        decoded(block)
    with pytest.raises(hpack.HPACKError):
        oracle_decoded(block)
    assert why


@pytest.mark.parametrize("octets", [0, 1, 2, 3, 4])
def test_an_integer_may_be_padded_up_to_five_octets(octets: int) -> None:
    # Index 127 is past the tables, so the number itself is told by a literal's length.
    padded = b"\x7f" + b"\x80" * octets + b"\x00"
    assert decoded(b"\x00\x01n" + padded + b"v" * 127) == [(b"n", b"v" * 127)]


def test_an_empty_block_is_no_fields() -> None:
    assert decoded(b"") == []


# --- Sizes of the decoder's table (RFC 7541 §4).


@pytest.mark.parametrize("size", [0, 31, 32, 33, 100, 4095, 4096])
def test_a_size_update_up_to_our_setting_is_accepted(size: int) -> None:
    assert decoded(integer(size, 5, 0x20) + b"\x82") == [(b":method", b"GET")]


@pytest.mark.parametrize(("value", "kept"), [(4063, True), (4064, False)])
def test_an_entry_larger_than_the_table_empties_it(value: int, kept: bool) -> None:
    decoder = Decoder()
    decoder.decode_block(literal(b"a", b"b"))
    decoder.decode_block(literal(b"n", b"v" * value))
    assert decoder.table_entries() == ([(b"n", b"v" * value)] if kept else [])


def test_shrinking_evicts_the_oldest_and_growing_brings_nothing_back() -> None:
    decoder = Decoder()
    decoder.decode_block(literal(b"a", b"1") + literal(b"b", b"2") + literal(b"c", b"3"))
    decoder.decode_block(integer(2 * 34, 5, 0x20))
    assert decoder.table_entries() == [(b"c", b"3"), (b"b", b"2")]
    decoder.decode_block(integer(67, 5, 0x20) + integer(4096, 5, 0x20))
    assert decoder.table_entries() == [(b"c", b"3")]


def test_a_name_may_come_from_the_entry_that_its_own_insertion_evicts() -> None:
    decoder = Decoder(max_table_size=64)
    block = integer(64, 5, 0x20) + literal(b"name", b"v" * 28) + b"\x7e" + plain(b"w" * 28)
    assert list(decoder.decode_block(block)) == [(b"name", b"v" * 28), (b"name", b"w" * 28)]
    assert decoder.table_entries() == [(b"name", b"w" * 28)]


@pytest.mark.parametrize("limit", [500, 4096, TABLE_SIZE_LIMIT])
def test_entries_of_all_sizes_lie_apart(limit: int) -> None:
    # The arena of the table is a ring: whatever the sizes, no entry may run into another.
    decoder = Decoder(max_table_size=TABLE_SIZE_LIMIT)
    decoder.decode_block(integer(limit, 5, 0x20))
    model: list[Pair] = []
    numbers = Random(7541)
    for step in range(3000):
        size = numbers.choice([0, 10, numbers.randrange(limit // 4), numbers.randrange(limit)])
        pair = (b"%d" % step, bytes([step & 0xFF]) * size)
        decoder.decode_block(literal(*pair))
        model.insert(0, pair)
        while sum(len(name) + len(value) + OVERHEAD for name, value in model) > limit:
            model.pop()
        assert decoder.table_entries() == model


def test_a_lowered_setting_must_be_answered_first_thing() -> None:
    for block in (b"", b"\x82", integer(1001, 5, 0x20) + b"\x82"):
        decoder = Decoder()
        decoder.max_table_size = 1000
        with pytest.raises(CompressionError):
            decoder.decode_block(block)
    decoder = Decoder()
    decoder.max_table_size = 1000
    assert len(decoder.decode_block(integer(1000, 5, 0x20) + b"\x82")) == 1
    assert len(decoder.decode_block(b"\x82")) == 1


def test_a_raised_setting_is_used_once_the_peer_says_so() -> None:
    decoder = Decoder(max_table_size=TABLE_SIZE_LIMIT)
    decoder.decode_block(literal(b"a", b"x" * 4096))
    assert decoder.table_entries() == []
    update = integer(TABLE_SIZE_LIMIT, 5, 0x20)
    decoder.decode_block(update + literal(b"a", b"x" * (TABLE_SIZE_LIMIT - 33)))
    assert decoder.table_size == TABLE_SIZE_LIMIT


def test_the_decoders_bounds_are_checked() -> None:
    Decoder(max_table_size=TABLE_SIZE_LIMIT, max_list_size=LIST_SIZE_LIMIT)
    with pytest.raises(ValueError, match="max_table_size"):
        Decoder(max_table_size=TABLE_SIZE_LIMIT + 1)
    with pytest.raises(ValueError, match="max_list_size"):
        Decoder(max_list_size=LIST_SIZE_LIMIT + 1)


def test_a_setting_over_our_bound_does_not_lift_it() -> None:
    decoder = Decoder()
    decoder.max_table_size = TABLE_SIZE_LIMIT + 1
    with pytest.raises(CompressionError):
        decoder.decode_block(integer(TABLE_SIZE_LIMIT + 1, 5, 0x20))


# --- Bombs: bounds at limit - 1, limit and limit + 1, with the tables in step afterwards.

BIG = (b"n", b"v" * 3000)
BIG_COST = 3001 + OVERHEAD


@pytest.mark.parametrize("references", [0, 1, 20])
@pytest.mark.parametrize("slack", [-1, 0, 1])
def test_list_size_bound(references: int, slack: int) -> None:
    decoder = Decoder(max_list_size=(references + 1) * BIG_COST + slack)
    block = literal(*BIG) + b"\xbe" * references
    if slack < 0:
        with pytest.raises(HeaderListTooLarge):
            decoder.decode_block(block)
    else:
        assert list(decoder.decode_block(block)) == [BIG] * (references + 1)
    assert decoder.table_entries() == [BIG]


@pytest.mark.parametrize(("count", "fits"), [(1023, True), (1024, True), (1025, False)])
def test_field_count_bound(count: int, fits: bool) -> None:
    decoder = Decoder(max_list_size=LIST_SIZE_LIMIT)
    if fits:
        assert len(decoder.decode_block(b"\x82" * count)) == count
    else:
        with pytest.raises(HeaderListTooLarge):
            decoder.decode_block(b"\x82" * count)


@pytest.mark.parametrize("pattern", [0x00, 0x10, 0x40])
def test_field_count_bound_for_literals(pattern: int) -> None:
    field = literal(b"n", b"", pattern)
    assert len(Decoder().decode_block(field * FIELD_LIMIT)) == FIELD_LIMIT
    with pytest.raises(HeaderListTooLarge):
        Decoder().decode_block(field * (FIELD_LIMIT + 1))


@pytest.mark.parametrize(("excess", "fits"), [(-1, True), (0, True), (1, False)])
def test_block_size_bound(excess: int, fits: bool) -> None:
    head = b"\x00\x01n"
    value = BLOCK_LIMIT + excess - len(head) - len(integer(BLOCK_LIMIT, 7))
    block = head + integer(value, 7) + b"v" * value
    assert len(block) == BLOCK_LIMIT + excess
    with pytest.raises(HeaderListTooLarge if fits else CompressionError):
        Decoder().decode_block(block)


def test_a_bomb_of_references_is_counted_and_not_stored() -> None:
    # 65 KiB of block stand for 196 MB of fields.
    decoder = Decoder()
    with pytest.raises(HeaderListTooLarge):
        decoder.decode_block(literal(*BIG) + b"\xbe" * 65536)
    assert list(decoder.decode_block(b"\xbe")) == [BIG]


def test_a_huffman_bomb_is_bounded() -> None:
    # Five bits an octet is the best there is: the block's size bounds the text.
    code = huffman.encode(b"0" * 1_600_000)
    assert len(code) == 1_000_000
    with pytest.raises(HeaderListTooLarge):
        Decoder().decode_block(b"\x00\x01n" + integer(len(code), 7, 0x80) + code)


def test_what_comes_after_the_limit_is_still_put_in_the_table() -> None:
    decoder = Decoder(max_list_size=100)
    block = (
        literal(b"a", b"1")
        + literal(b"too-long", b"x" * 100)
        + literal(b"small", b"2")
        + b"\x7e"
        + plain(b"3")
        + literal(b"not-indexed", b"4", 0x00)
    )
    with pytest.raises(HeaderListTooLarge):
        decoder.decode_block(block)
    assert decoder.table_entries() == [
        (b"small", b"3"),
        (b"small", b"2"),
        (b"too-long", b"x" * 100),
        (b"a", b"1"),
    ]
    assert list(decoder.decode_block(b"\xbe\xc1")) == [(b"small", b"3"), (b"a", b"1")]


def test_what_comes_after_the_limit_must_be_well_formed_all_the_same() -> None:
    with pytest.raises(CompressionError):
        Decoder(max_list_size=0).decode_block(b"\x82\xff")
    with pytest.raises(CompressionError):
        Decoder(max_list_size=0).decode_block(b"\x82\x00\x01n\x81\xff")


@pytest.mark.parametrize("limit", [10, 1000], ids=["first seen over the limit", "first seen in it"])
def test_a_name_from_the_table_keeps_its_token(limit: int) -> None:
    # What a field is, is decided by token: a lost one would get transfer-encoding past those who
    # look for it. It shows in the encoder, which leaves the base64 of this name as it is.
    name, value = b"cf-cloudflared-response-headers", b"aaaaaaaaaaaaaaaa"
    decoder = Decoder(max_list_size=limit)
    block = b"\x82" + literal(name, value)
    if limit < 42:
        with pytest.raises(HeaderListTooLarge):
            decoder.decode_block(block)
    else:
        assert value in Encoder().encode_block(decoder.decode_block(block))
    decoder.max_list_size = 1000
    for again in (b"\x82\xbe", b"\x82\x7e" + plain(value), b"\x82\x0f\x2f" + plain(value)):
        fields = decoder.decode_block(again)
        assert list(fields) == [(b":method", b"GET"), (name, value)]
        assert value in Encoder().encode_block(fields)


# --- The encoder: what goes into the table.


def assert_decodes(block: bytes, pairs: list[Pair]) -> None:
    wanted = [(name.lower(), value) for name, value in pairs]
    assert decoded(block) == wanted
    assert oracle_decoded(block) == wanted


@pytest.mark.parametrize(
    "name", [b":authority", b"user-agent", b"accept", b"x-custom", b"x-forwarded-for"]
)
def test_an_ordinary_field_costs_one_octet_the_second_time(name: bytes) -> None:
    encoder = Encoder()
    first = encoder.encode_block([(name, b"some value")])
    assert_decodes(first, [(name, b"some value")])
    assert encoder.table_entries() == [(name, b"some value")]
    assert encoder.encode_block([(name, b"some value")]) == b"\xbe"


LITERALS = [
    b":path",
    b"content-length",
    b"date",
    b"etag",
    b"last-modified",
    b"location",
    b"set-cookie",
    b"cf-ray",
    b"cf-cloudflared-response-headers",
    b"range",
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    b"age",
    b"expires",
    b"content-range",
    b"cf-trace-id",
    b"sec-websocket-key",
    b"sec-websocket-accept",
    b"traceparent",
    b"x-request-id",
]
NEVER = [
    b"authorization",
    b"proxy-authorization",
    b"cf-access-jwt-assertion",
    b"cf-access-token",
    b"cf-access-client-secret",
]


@pytest.mark.parametrize("name", [*LITERALS, *(name.title() for name in LITERALS)])
def test_various_values_are_not_indexed(name: bytes) -> None:
    encoder = Encoder()
    block = encoder.encode_block([(name, b"various")])
    assert block[0] & 0xF0 == 0x00
    assert encoder.table_entries() == []
    assert_decodes(block, [(name, b"various")])


@pytest.mark.parametrize("name", [*NEVER, *(name.upper() for name in NEVER)])
@pytest.mark.parametrize("value", [b"", b"secret", b"s" * 600])
def test_credentials_are_never_indexed(name: bytes, value: bytes) -> None:
    encoder = Encoder()
    block = encoder.encode_block([(name, value)])
    assert block[0] & 0xF0 == 0x10
    assert encoder.table_entries() == []
    assert_decodes(block, [(name, value)])


@pytest.mark.parametrize("size", [0, SHORT_COOKIE - 1, SHORT_COOKIE, SHORT_COOKIE + 1])
def test_short_cookies_are_never_indexed(size: int) -> None:
    encoder = Encoder()
    block = encoder.encode_block([(b"cookie", b"c" * size)])
    assert block[0] & 0xF0 == (0x10 if size < SHORT_COOKIE else 0x60)
    assert len(encoder.table_entries()) == (size >= SHORT_COOKIE)


def test_never_indexed_travels_through() -> None:
    # RFC 7541 §6.2.3: an intermediary must write it the same way.
    for name in (b"x-secret", b"accept", b":path", b"n" * 300):
        fields = Decoder().decode_block(literal(name, b"value", 0x10))
        encoder = Encoder()
        block = encoder.encode_block(fields)
        assert block[0] & 0xF0 == 0x10
        assert encoder.table_entries() == []
        assert_decodes(block, [(name, b"value")])


def test_a_never_indexed_field_may_take_its_name_from_the_table() -> None:
    encoder = Encoder()
    encoder.encode_block([(b"x-secret", b"public")])
    fields = Decoder().decode_block(literal(b"x-secret", b"private", 0x10))
    assert encoder.encode_block(fields)[:2] == integer(62, 4, 0x10)


@pytest.mark.parametrize(
    "size", [INDEXED_VALUE_LIMIT - 1, INDEXED_VALUE_LIMIT, INDEXED_VALUE_LIMIT + 1]
)
def test_long_values_are_not_indexed(size: int) -> None:
    encoder = Encoder()
    block = encoder.encode_block([(b"x-long", b"v" * size)])
    assert len(encoder.table_entries()) == (size <= INDEXED_VALUE_LIMIT)
    assert_decodes(block, [(b"x-long", b"v" * size)])


@pytest.mark.parametrize(
    "size", [HUFFMAN_VALUE_LIMIT - 1, HUFFMAN_VALUE_LIMIT, HUFFMAN_VALUE_LIMIT + 1]
)
def test_long_values_are_not_huffman_coded(size: int) -> None:
    block = Encoder().encode_block([(b"x-long", b"e" * size)])
    assert (len(block) > size) == (size > HUFFMAN_VALUE_LIMIT)


def test_huffman_is_used_only_where_it_is_shorter() -> None:
    assert b"\x03\xff\xfe\xfd" in Encoder().encode_block([(b"x", b"\xff\xfe\xfd")])
    assert b"\x83" + huffman.encode(b"aeio") in Encoder().encode_block([(b"x", b"aeio")])


def test_the_serialized_headers_are_not_huffman_coded() -> None:
    value = b"WC1B:MQ;WC1B:Mg" * 5
    assert value in Encoder().encode_block([(b"cf-cloudflared-response-headers", value)])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 254, NAME_LIMIT, NAME_LIMIT + 1, 1000])
def test_names_are_written_in_lower_case(size: int) -> None:
    name = (b"X-NaMe_[@`{Z" * 100)[:size]
    encoder = Encoder()
    block = encoder.encode_block([(name, b"v")])
    assert_decodes(block, [(name, b"v")])
    # A long name is not looked up, so not remembered either.
    assert len(encoder.table_entries()) == (size <= NAME_LIMIT)


def test_lower_casing_changes_letters_only() -> None:
    every = bytes(range(256))
    assert_decodes(Encoder().encode_block([(every[:128], b""), (every[128:], b"")]), [
        (every[:128], b""), (every[128:], b"")
    ])  # fmt: skip


def test_a_name_is_found_whatever_case_it_comes_in() -> None:
    encoder = Encoder()
    encoder.encode_block([(b"X-Custom", b"1"), (b"USER-AGENT", b"2")])
    assert encoder.encode_block([(b"x-custom", b"1"), (b"User-Agent", b"2")]) == b"\xbf\xbe"


def test_removed_fields_are_not_sent() -> None:
    fields = Fields([(b"a", b"1"), (b"connection", b"close"), (b"b", b"2")])
    fields.remove(b"connection")
    assert decoded(Encoder().encode_block(fields)) == [(b"a", b"1"), (b"b", b"2")]


def test_eviction_keeps_both_sides_in_step() -> None:
    encoder, decoder, oracle = Encoder(), Decoder(), hpack.Decoder()
    for i in range(3000):
        pairs = [(b"x-%d" % (i % 7), b"value %d" % (i * i % 301)), (b"x-fixed", b"f")]
        block = encoder.encode_block(pairs)
        assert list(decoder.decode_block(block)) == pairs
        assert [tuple(pair) for pair in oracle.decode(block, raw=True)] == pairs
    assert encoder.table_entries() == decoder.table_entries()
    assert encoder.table_size <= DEFAULT_TABLE_SIZE
    assert len(encoder.table_entries()) > 50


def test_the_smallest_entries_fill_the_table() -> None:
    # 128 entries without an octet: as many as there can be.
    encoder, decoder = Encoder(), Decoder()
    for i in range(200):
        name = b"%d" % i if i % 2 else b""
        decoder.decode_block(literal(b"", b""))
        encoder.encode_block([(name, b"")])
    assert decoder.table_entries() == [(b"", b"")] * 128
    assert decoder.table_size == DEFAULT_TABLE_SIZE
    assert encoder.table_size <= DEFAULT_TABLE_SIZE


# --- The encoder: sizes (RFC 7541 §4.2).


def test_nothing_is_announced_while_nothing_changes() -> None:
    encoder = Encoder()
    encoder.max_table_size = DEFAULT_TABLE_SIZE
    assert encoder.encode_block([(b":method", b"GET")]) == b"\x82"


@pytest.mark.parametrize("size", [4096, 4097, 65536, 0xFFFFFFFF])
def test_our_own_bound_is_4096(size: int) -> None:
    encoder = Encoder()
    encoder.max_table_size = size
    assert encoder.max_table_size == DEFAULT_TABLE_SIZE
    assert encoder.encode_block([(b":method", b"GET")]) == b"\x82"


def test_a_change_is_announced_once() -> None:
    encoder = Encoder()
    encoder.max_table_size = 100
    assert encoder.encode_block([(b":method", b"GET")]) == integer(100, 5, 0x20) + b"\x82"
    assert encoder.encode_block([(b":method", b"GET")]) == b"\x82"


@pytest.mark.parametrize(
    ("sizes", "announced"),
    [
        ([0], [0]),
        ([0, 4096], [0, 4096]),
        ([100, 4096], [100, 4096]),
        ([100, 50, 200, 70], [50, 70]),
        ([200, 100], [100]),
        ([100, 200, 100], [100]),
        ([0, 65536], [0, 4096]),
    ],
)
def test_the_smallest_size_and_then_the_last_are_announced(
    sizes: list[int], announced: list[int]
) -> None:
    encoder = Encoder()
    for size in sizes:
        encoder.max_table_size = size
    assert encoder.encode_block([]) == b"".join(integer(size, 5, 0x20) for size in announced)


def test_shrinking_to_zero_and_back_forgets_the_entries_on_both_sides() -> None:
    encoder, decoder = Encoder(), Decoder()
    pairs = [(b"x-a", b"1"), (b"x-b", b"2")]
    decoder.decode_block(encoder.encode_block(pairs))
    encoder.max_table_size = 0
    encoder.max_table_size = 4096
    assert encoder.table_entries() == []
    assert list(decoder.decode_block(encoder.encode_block(pairs))) == pairs
    assert encoder.table_entries() == decoder.table_entries() == pairs[::-1]


@pytest.mark.parametrize("limit", [0, 33, 34, 35])
def test_an_entry_that_does_not_fit_is_sent_without_indexing(limit: int) -> None:
    encoder = Encoder()
    encoder.max_table_size = limit
    block = encoder.encode_block([(b"x", b"v")])
    assert len(encoder.table_entries()) == (limit >= 34)
    assert_decodes(block, [(b"x", b"v")])
