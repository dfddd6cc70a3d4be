"""Hostnames that are dealt with in their own way, and which of them a request is for.

As with routes, exact names come before wildcards and a longer wildcard before a shorter one;
`*.suffix` matches any depth below `suffix`, not `suffix` itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from underpass.edge.hostnames import MAX_AUTHORITY_LENGTH, hostname_of
from underpass.edge.timeouts import DEFAULT_TIMEOUTS, Timeouts

__all__ = ["COMMON", "HostnameTable", "Site"]

MAX_CACHED: Final = 4096
"""Spellings of hosts whose entry is remembered; when full it is emptied."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Site:
    """How requests for `hostname`, or for all below a `*.suffix`, are dealt with.

    The settings are those of `EdgeOptions` with the same names, paths as text: workers are told.
    """

    hostname: str
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    max_body: int | None = None
    redirect: bool = False
    hsts_seconds: int | None = None
    error_pages: str | None = None
    compress: bool = False


COMMON: Final = Site("")
"""What is not said otherwise."""


class HostnameTable(Generic[T]):
    """What is kept for hostnames and wildcards (normalized), found by a request's authority."""

    def __init__(self, entries: Iterable[tuple[str, T]], default: T) -> None:
        self._exact = dict(entries)
        self._default = default
        self._cache: dict[bytes, T] = {}

    def find(self, authority: bytes) -> T:
        """The entry for a host with or without port, however it is spelt; else the default."""
        entry = self._cache.get(authority)
        if entry is not None:
            return entry
        entry = self._default
        name = hostname_of(authority) if len(authority) <= MAX_AUTHORITY_LENGTH else None
        if name is not None:
            entry = self._lookup(name)
            # Strangers' names must not fill it.
            if entry is not self._default:
                if len(self._cache) >= MAX_CACHED:
                    self._cache.clear()
                self._cache[bytes(authority)] = entry
        return entry

    def _lookup(self, name: str) -> T:
        entry = self._exact.get(name)
        # Label by label; a name has at most 127.
        start = name.find(".")
        while entry is None and start >= 0:
            entry = self._exact.get(f"*{name[start:]}")
            start = name.find(".", start + 1)
        return self._default if entry is None else entry
