"""The chunked transfer coding (RFC 9112 §7.1), both directions."""

from __future__ import annotations

import pytest
from rig.cuts import every_cut

from underpass.core.chunked import ChunkedReader, encode_chunks

MAX_OVERHEAD = 16384
"""Bytes of extensions and trailers in one body."""


def read(pieces: list[bytes]) -> tuple[bytes, str, bytes, list[tuple[bytes, bytes]]]:
    """(content, state, what follows the body, trailers)."""
    reader = ChunkedReader()
    content, state, rest = b"", "more", b""
    for piece in pieces:
        if state != "more":
            rest += piece
            continue
        part, state, left = reader.feed(piece)
        content += part
        rest = piece[len(piece) - left :] if left else b""
    return content, state, rest, reader.trailer_pairs


class TestReading:
    @pytest.mark.parametrize(
        ("text", "content", "trailers"),
        [
            (b"0\r\n\r\n", b"", []),
            (b"000\r\n\r\n", b"", []),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
            (b"05\r\nhello\r\n0\r\n\r\n", b"hello", []),
            (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world", []),
            (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", []),
            (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", []),
            (b"2;x\r\nhi\r\n0;y=z\r\n\r\n", b"hi", []),
            (b'2;x="a;b\xff"\r\nhi\r\n0\r\n\r\n', b"hi", []),
            (b"2 ;x\r\nhi\r\n0\r\n\r\n", b"hi", []),
            (b"2 \t\r\nhi\r\n0\r\n\r\n", b"hi", []),
            (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", []),
            (b"0\r\nX-T: v\r\n\r\n", b"", [(b"X-T", b"v")]),
            (b"1\r\na\r\n0\r\nX-T:  v \t\r\nY:\r\n\r\n", b"a", [(b"X-T", b"v"), (b"Y", b"")]),
        ],
    )
    def test_sound(self, text: bytes, content: bytes, trailers: list[tuple[bytes, bytes]]) -> None:
        for pieces in every_cut(text):
            assert read(pieces) == (content, "end", b"", trailers)
        for pieces in every_cut(text + b"GET /"):
            assert read(pieces) == (content, "end", b"GET /", trailers)
        for cut in range(len(text)):
            assert read([text[:cut]])[1] == "more"

    @pytest.mark.parametrize(
        "text",
        [
            b"\r\n",
            b"g\r\n",
            b"+5\r\nhello\r\n",
            b"-5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b";x\r\n",
            b"5\nhello\r\n",
            b"5\r\rhello\r\n",
            b"5\rhello\r\n",
            b"5 x\r\nhello\r\n",
            b"5\t5\r\nhello\r\n",
            b"5,5\r\nhello\r\n",
            b"5_0\r\nhello\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello!\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r0\r\n\r\n",
            b"5\r\nhello\r\n\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"5;a\rb\r\nhello\r\n",
            b"5;a\x00b\r\nhello\r\n",
            b"5;a\x7fb\r\nhello\r\n",
            b"1234567890abcdef\r\n",
            b"0000000000000005\r\nhello\r\n",
            b"ffffffffffffffffff\r\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\n: v\r\n\r\n",
            b"0\r\nX : v\r\n\r\n",
            b"0\r\n X: v\r\n\r\n",
            b"0\r\nX: v\r\n y\r\n\r\n",
            b"0\r\nX: v\n\r\n\r\n",
            b"0\r\nX: v\rY: w\r\n\r\n",
            b"0\r\nX: \x00\r\n\r\n",
            b"0\r\n\n",
            b"0\r\n\rX",
            b"0\n\r\n",
        ],
    )
    def test_unsound(self, text: bytes) -> None:
        for pieces in every_cut(text):
            assert read(pieces)[1] == "broken"

    def test_stays_broken(self) -> None:
        reader = ChunkedReader()
        assert reader.feed(b"g")[1] == "broken"
        assert reader.feed(b"0\r\n\r\n")[1] == "broken"

    def test_content_is_handed_on_as_it_comes(self) -> None:
        reader = ChunkedReader()
        assert reader.feed(b"a\r\n012") == (b"012", "more", 0)
        assert reader.feed(b"345") == (b"345", "more", 0)
        assert reader.feed(b"6789\r\n0\r\n\r\nrest") == (b"6789", "end", 4)

    def test_the_longest_size(self) -> None:
        assert ChunkedReader().feed(b"fffffffffffffff\r\nx") == (b"x", "more", 0)

    @pytest.mark.parametrize(
        "name",
        [
            b"Transfer-Encoding", b"Content-Length", b"Host", b"Connection", b"Trailer", b"TE",
            b"Upgrade", b"Keep-Alive", b"Proxy-Connection", b"HTTP2-Settings", b"Expect",
            b"Authorization", b"Proxy-Authorization", b"Cookie", b"Set-Cookie", b"Content-Type",
            b"Content-Encoding", b"Range", b"Cache-Control", b"content-LENGTH",
        ],
    )  # fmt: skip
    def test_trailers_that_come_too_late_are_dropped(self, name: bytes) -> None:
        """RFC 9110 §6.5.1: what frames, routes, authenticates or decodes a message."""
        assert read([b"0\r\n" + name + b": x\r\nX-T: v\r\n\r\n"])[3] == [(b"X-T", b"v")]

    def test_extensions_and_trailers_are_bounded_for_the_whole_body(self) -> None:
        for over, state in ((-1, "end"), (0, "end"), (1, "broken")):
            size = MAX_OVERHEAD + over
            # What counts is between a chunk's size and its CR LF, and a trailer line without it.
            assert read([b"1;" + b"x" * (size - 1) + b"\r\na\r\n0\r\n\r\n"])[1] == state
            assert read([b"1" + b" " * size + b"\r\na\r\n0\r\n\r\n"])[1] == state
            assert read([b"0\r\nX:" + b"x" * (size - 2) + b"\r\n\r\n"])[1] == state
            many = b"1;xxxxxxxx\r\na\r\n" * (size // 9) + b"1" + b";" * (size % 9) + b"\r\na\r\n"
            assert read([many + b"0\r\n\r\n"])[1] == state

    def test_the_number_of_trailers_is_bounded(self) -> None:
        for count, state in ((100, "end"), (101, "broken")):
            assert read([b"0\r\n" + b"a:\r\n" * count + b"\r\n"])[1] == state


class TestWriting:
    def test_pieces(self) -> None:
        assert encode_chunks([b"hello", b"", b"x" * 16]) == (
            b"5\r\nhello\r\n10\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"
        )

    def test_trailers_in_canonical_case(self) -> None:
        """As every field name that leaves for an origin."""
        assert encode_chunks([], [(b"x-req-trail", b"tv")]) == b"0\r\nX-Req-Trail: tv\r\n\r\n"

    @pytest.mark.parametrize("size", [1, 15, 16, 255, 256, 65535, 65536])
    def test_what_is_written_is_read(self, size: int) -> None:
        content = bytes(range(256)) * (size // 256 + 1)
        text = encode_chunks([content[:size]], [(b"t", b"v")])
        assert read([text]) == (content[:size], "end", b"", [(b"T", b"v")])
