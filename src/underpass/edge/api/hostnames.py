"""Hostnames that lead to tunnels (docs: API §4). Listing and deleting them is ours."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta, Struct

from underpass.edge.accounts import MAX_NAME
from underpass.edge.api.endpoint import Call, Endpoint, Page, Paging
from underpass.edge.api.requests import Refusal, require_printable
from underpass.edge.errors import HostnameTaken
from underpass.edge.hostname_claims import check_claim, full_hostname
from underpass.edge.hostnames import MAX_HOSTNAME_LENGTH
from underpass.edge.store import Route, Tunnel

__all__ = ["ENDPOINTS"]

_Hostname = Annotated[str, Meta(min_length=1, max_length=MAX_HOSTNAME_LENGTH + 1)]


class DnsRoute(Struct, frozen=True, tag_field="type", tag="dns"):
    """Lead a hostname to the tunnel; a single word is put before the account's domain."""

    user_hostname: _Hostname
    overwrite_existing: bool = False


class LoadBalancerRoute(Struct, frozen=True, tag_field="type", tag="lb"):
    """The same under another name. The edge balances between all connectors of the one tunnel."""

    lb_name: _Hostname
    lb_pool: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class HostnameChange(Struct, frozen=True):
    """What became of a hostname: `new`, `updated` or `unchanged`."""

    cname: str
    name: str


class LoadBalancerChange(Struct, frozen=True):
    """What became of a load balancer and its pool: `new`, `updated` or `unchanged`."""

    load_balancer: str
    pool: str


class HostnameResult(Struct, frozen=True):
    """A hostname that leads to a tunnel."""

    hostname: str
    tunnel_id: UUID
    created_at: datetime
    pool: str


async def _put(call: Call) -> HostnameChange | LoadBalancerChange:
    body: DnsRoute | LoadBalancerRoute = call.body
    tunnel = call.tunnel()
    if isinstance(body, DnsRoute):
        hostname, pool = full_hostname(body.user_hostname, call.account), ""
        overwrite = body.overwrite_existing
    else:
        hostname, overwrite = full_hostname(body.lb_name, call.account), False
        pool = require_printable(body.lb_pool, "lb_pool")
    registry = call.control.registry
    try:
        route = _claim(call, hostname, tunnel, overwrite)
    except HostnameTaken as error:
        if pool:
            raise HostnameTaken(
                f"{error}. A load balancer of this edge has one tunnel: run more connectors of it"
            ) from None
        raise
    if route is None:
        change = "new"
    elif (route.tunnel_id, route.pool) == (tunnel.id, pool):
        change = "unchanged"
    else:
        change = "updated"
    if change != "unchanged":
        await registry.put_route(hostname, tunnel.id, call.author, pool=pool)
    if isinstance(body, DnsRoute):
        return HostnameChange(change, hostname)
    # Clients have no words for an old balancer with a new pool.
    return LoadBalancerChange(change, change)


def _claim(call: Call, hostname: str, tunnel: Tunnel, overwrite: bool) -> Route | None:
    return check_claim(
        call.control.registry,
        call.account,
        call.token,
        hostname,
        tunnel,
        overwrite=overwrite,
        quick_domain=call.control.domain,
        reserved=call.control.reserved,
    )


async def _list(call: Call) -> Page:
    tunnel = call.tunnel()
    routes = [route for route in call.control.registry.routes if route.tunnel_id == tunnel.id]
    routes.sort(key=lambda route: route.hostname)
    return call.page(routes, _shown)


async def _delete(call: Call) -> HostnameResult:
    tunnel = call.tunnel()
    hostname = full_hostname(call.path["hostname"], call.account)
    registry = call.control.registry
    route = registry.route(hostname)
    if route is None or route.tunnel_id != tunnel.id:
        raise Refusal(404, f"{hostname} does not lead to tunnel {tunnel.id}")
    _claim(call, hostname, tunnel, True)
    await registry.delete_route(hostname, call.author)
    return _shown(route)


def _shown(route: Route) -> HostnameResult:
    return HostnameResult(route.hostname, route.tunnel_id, route.created_at, route.pool)


_BASE: Final = "/zones/{zone_id}/tunnels/{tunnel_id}/routes"

ENDPOINTS: Final = (
    Endpoint(
        "PUT",
        _BASE,
        "routes",
        "lead a hostname to a tunnel",
        _put,
        HostnameChange | LoadBalancerChange,
        body=DnsRoute | LoadBalancerRoute,
    ),
    Endpoint(
        "GET",
        _BASE,
        "read",
        "list the hostnames of a tunnel",
        _list,
        list[HostnameResult],
        query=Paging,
    ),
    Endpoint(
        "DELETE",
        _BASE + "/{hostname}",
        "routes",
        "take a hostname from a tunnel",
        _delete,
        HostnameResult,
    ),
)
