"""Which hostnames' TLS is not the edge's to end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from underpass.edge.errors import HostnameError, OptionsError
from underpass.edge.hostnames import normalize_hostname
from underpass.edge.sites import HostnameTable

__all__ = ["NO_PASSTHROUGH", "Passthrough"]

MAX_HOSTNAMES: Final = 1024
"""A list that people write."""


@dataclass(frozen=True)
class Passthrough:
    """Hostnames, or `*.suffix` for all below one: what visitors send for them goes down the tunnel
    as it is.

    Raises:
        OptionsError: one is no hostname, or there are too many.
    """

    hostnames: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.hostnames) > MAX_HOSTNAMES:
            raise OptionsError(f"{len(self.hostnames)} hostnames, at most {MAX_HOSTNAMES} may be")
        for hostname in self.hostnames:
            try:
                normal = normalize_hostname(hostname, wildcard=True)
            except HostnameError as error:
                raise OptionsError(str(error)) from None
            if normal != hostname:
                raise OptionsError(f"write {normal}, not {hostname}")

    def __bool__(self) -> bool:
        return bool(self.hostnames)

    def covers(self, name: str) -> bool:
        """Whether a lower-case name without trailing dot is one of them, or below one."""
        return self._table.find(name.encode("ascii"))

    @cached_property
    def _table(self) -> HostnameTable[bool]:
        return HostnameTable(((hostname, True) for hostname in self.hostnames), default=False)


NO_PASSTHROUGH: Final = Passthrough()
