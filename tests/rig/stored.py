"""Changes to a store one at a time, as tests make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from uuid import UUID

from underpass.edge.store import ABSENT, AuditEntry, Route, Store, Tunnel

ENTRY = AuditEntry("test", "", "test", "")


def now() -> datetime:
    """As a store keeps times."""
    return datetime.now(timezone.utc)


async def create_tunnel(store: Store, tunnel: Tunnel, hostnames: Sequence[str] = ()) -> int:
    """Add a tunnel and routes to it."""
    routes = [Route(hostname, tunnel.id, now()) for hostname in hostnames]
    return await store.commit((replace(tunnel, revision=ABSENT), *routes), ENTRY)


async def delete_tunnel(store: Store, tunnel_id: UUID, expected: int) -> int:
    """Delete a tunnel that is believed to be at revision `expected`."""
    tunnels = (await store.snapshot()).tunnels
    unknown = Tunnel(tunnel_id, "", "", b"", now())
    tunnel = next((tunnel for tunnel in tunnels if tunnel.id == tunnel_id), unknown)
    return await store.commit((replace(tunnel, deleted_at=now(), revision=expected),), ENTRY)


async def put_route(store: Store, hostname: str, tunnel_id: UUID, expected: int) -> int:
    """Lead a hostname to a tunnel."""
    return await store.commit((Route(hostname, tunnel_id, now(), revision=expected),), ENTRY)


async def delete_route(store: Store, hostname: str, expected: int) -> int:
    """Lead a hostname nowhere."""
    routes = {route.hostname: route for route in (await store.snapshot()).routes}
    route = routes.get(hostname, Route(hostname, UUID(int=0), now()))
    return await store.commit((replace(route, deleted_at=now(), revision=expected),), ENTRY)
