# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""The tunnel's serialized response headers (docs: wire protocol §2.5)."""

from collections.abc import Iterable

from underpass.core.fields import Fields

class HeaderBlockError(ValueError):
    """A serialized header block is malformed, or would not be a sound HTTP/1.1 head."""

def serialize_pairs(pairs: Fields | Iterable[tuple[bytes, bytes]]) -> bytes:
    """The block for Fields or pairs of bytes, without those that belong to the tunnel."""

def parse_block(block: bytes, fields: Fields | None = None) -> list[tuple[bytes, bytes]]:
    """The pairs of bytes in a block, behind those in `fields`, which they are added to.

    HeaderBlockError if it is malformed; then nothing was added.
    """

def canonical(name: bytes) -> bytes:
    """The name in Go's canonical case."""
