"""Content that shows when a byte of it is lost, doubled or out of place: numbered random blocks."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

BLOCK: Final = 65536
"""Bytes of a block, its number included."""

_FILLING: Final = random.Random(7541).randbytes(BLOCK - 8)


def blocks(size: int) -> Iterator[bytes]:
    """`size` bytes, block by block."""
    number = 0
    while size > 0:
        block = number.to_bytes(8, "big") + _FILLING
        yield block[:size]
        size -= BLOCK
        number += 1


@lru_cache
def digest(size: int) -> str:
    """SHA-256 of `blocks(size)`, hexadecimal."""
    digester = hashlib.sha256()
    for block in blocks(size):
        digester.update(block)
    return digester.hexdigest()
