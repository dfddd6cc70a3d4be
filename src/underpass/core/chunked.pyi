# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""The chunked transfer coding (RFC 9112 §7.1)."""

from typing import Literal

from typing_extensions import Buffer

class ChunkedReader:
    """Takes one chunked body apart; what follows its end it leaves alone.

    Extensions and trailers may have 16,384 octets in a body, trailers may be 100; a size has at
    most 15 digits.
    """

    def feed(self, data: Buffer) -> tuple[bytes, Literal["more", "end", "broken"], int]:
        """(content, state, octets of `data` left over) (for tests)."""
    @property
    def trailer_pairs(self) -> list[tuple[bytes, bytes]]:
        """The trailers read so far, without those that come too late there (RFC 9110 §6.5.1)."""

def encode_chunks(pieces: list[bytes], trailers: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """`pieces` of content as one chunked body (for tests)."""
