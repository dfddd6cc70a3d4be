"""What an edge is told about its dashboard. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from underpass.edge.errors import HostnameError, OptionsError
from underpass.edge.hostnames import normalize_hostname

__all__ = ["DEFAULT_DASHBOARD", "DashboardOptions"]


@dataclass(frozen=True, slots=True)
class DashboardOptions:
    """Where it is served beside the API's listener, and what it shows."""

    hostname: str = ""
    """A public name at which dashboard, login and API are served over TLS. Empty: at none."""
    recent_requests: bool = True
    """Remember the last requests, without their queries, to show them."""

    def __post_init__(self) -> None:
        if not self.hostname:
            return
        try:
            normal = normalize_hostname(self.hostname)
        except HostnameError as error:
            raise OptionsError(f"the dashboard's hostname: {error}") from error
        object.__setattr__(self, "hostname", normal)


DEFAULT_DASHBOARD: Final = DashboardOptions()
