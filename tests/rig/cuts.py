"""Every way of cutting a byte stream that a parser must not notice."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["every_cut"]


def every_cut(data: bytes) -> Iterator[list[bytes]]:
    """`data` whole, byte by byte, and in two pieces cut at every offset."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(1, len(data)):
        yield [data[:i], data[i:]]
