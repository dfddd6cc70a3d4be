"""What the API is for: the parts of an edge that it shows and changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final
from uuid import UUID

from underpass.edge.accounts import Accounts
from underpass.edge.api.token_bucket import TokenBucket
from underpass.edge.management_token import ManagementKey
from underpass.edge.networks import Networks
from underpass.edge.options import DEFAULT_LOCATION
from underpass.edge.origin_health import ConnectorHealth
from underpass.edge.registry import Registry

__all__ = ["QUICK_TUNNELS_PER_SECOND", "QUICK_TUNNEL_BURST", "Control"]

QUICK_TUNNEL_BURST: Final = 20
"""Quick tunnels that may be made at once: a classroom starting together."""

QUICK_TUNNELS_PER_SECOND: Final = 1.0
"""Quick tunnels that may be made in the long run; nobody types faster, and only a flood would."""

_HTTPS_PORT: Final = 443


async def _close_nothing(tunnel_id: UUID, connector_id: UUID | None) -> None:
    """Without a data path there are no links."""


async def _set_nothing_aside(tunnel_id: UUID, key: UUID, aside: bool) -> int:
    """The same."""
    return 0


async def _no_trouble(hostname: str) -> list[ConnectorHealth]:
    """The same."""
    return []


@dataclass
class Control:
    """One edge, seen from its API."""

    registry: Registry
    domain: str
    """Quick tunnels get names below it."""
    public_port: int = _HTTPS_PORT
    """Of the public TLS listener as visitors reach it. It is told with a quick tunnel's hostname
    unless it is 443, since connectors print `https://` and the hostname."""
    management_hostname: str = ""
    """The edge answers for it itself; empty: for none."""
    location: str = DEFAULT_LOCATION
    """Where links end, as connectors are told it."""
    management_key_path: Path = Path("management-key.pem")
    close_links: Callable[[UUID, UUID | None], Awaitable[None]] = _close_nothing
    """See data_path.DataPath.close_links."""
    dashboard_hostname: str = ""
    """Where the edge answers for itself with pages and API; empty: nowhere."""
    set_aside: Callable[[UUID, UUID, bool], Awaitable[int]] = _set_nothing_aside
    """See data_path.DataPath.set_aside."""
    health: Callable[[str], Awaitable[list[ConnectorHealth]]] = _no_trouble
    """See data_path.DataPath.health."""
    quick_tunnel_rate: TokenBucket = field(
        default_factory=lambda: TokenBucket(QUICK_TUNNEL_BURST, QUICK_TUNNELS_PER_SECOND)
    )

    @property
    def tells_port(self) -> bool:
        """Whether a hostname alone does not lead to the public listener."""
        return self.public_port != _HTTPS_PORT

    @cached_property
    def accounts(self) -> Accounts:
        """The registry's accounts."""
        return Accounts(self.registry)

    @cached_property
    def networks(self) -> Networks:
        """The registry's networks."""
        return Networks(self.registry)

    @cached_property
    def management_key(self) -> ManagementKey:
        """The key of management tokens, made when the first one is asked for."""
        return ManagementKey.open(self.management_key_path)
