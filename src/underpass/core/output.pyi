# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""Byte holders: `Output` (gather, then hand over without a copy) and `Backlog` (wait in order),
and `Octets` (what Python brings)."""

from typing_extensions import Buffer

class Octets:
    """A Python object's contiguous bytes, for compiled callers."""

    def __init__(self, data: Buffer) -> None:
        """BufferError, ValueError or TypeError if it has no contiguous octets."""

class Output:
    """Bytes gathered for one write."""

    def __len__(self) -> int: ...
    def add(self, data: Buffer) -> None:
        """Append a contiguous buffer."""
    def collect(self) -> bytes:
        """Return and forget everything gathered so far."""

class Backlog:
    """Bytes waiting in order; its owner bounds how many."""

    def __len__(self) -> int: ...
    def add(self, data: Buffer) -> None:
        """Append a contiguous buffer."""
    def remove(self, size: int) -> bytes:
        """Return up to `size` of the oldest bytes and forget them. ValueError if it is negative."""
