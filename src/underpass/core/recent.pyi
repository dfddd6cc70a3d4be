# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""The last requests that an edge has carried, and the last that failed, in rings of records."""

from typing import Any, TypeAlias

KEPT: tuple[int, int, int]
"""Bytes that are kept of a request's method, host and path."""

_Record: TypeAlias = tuple[
    float, bytes, bytes, bytes, int, float | None, int, int, bytes, int, str | None, bool, Any
]

class Ring:
    """The last `size` records of one kind."""

    def __init__(self, size: int) -> None: ...
    @property
    def size(self) -> int: ...
    def read(self) -> list[_Record]:
        """Its records, the newest first."""

class RecentRequests:
    """Keeps the last `size` requests, and the last `failures` of those that failed and had
    somewhere to go: their exchange's `context` is not None."""

    def __init__(self, size: int = 512, failures: int = 256) -> None: ...
    def requests(self) -> list[_Record]:
        """The last requests, the newest first, also those that are under way: (unix time, method,
        host, path, status, seconds or None, request bytes, response bytes, ray, attempts, cause or
        None, told, context)."""
    def forget(self, context: object, place: object) -> None:
        """Keep `place` wherever `context` is kept, which then goes: what stands for it, and is
        small."""
    def failures(self) -> list[_Record]:
        """Likewise those that failed, or were answered with 500 or more."""
