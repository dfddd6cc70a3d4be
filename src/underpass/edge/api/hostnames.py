"""Hostnames that lead to tunnels (docs: API §4). Listing and deleting them is ours."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from underpass.edge.accounts import MAX_NAME
from underpass.edge.api.endpoint import Call, Endpoint, Page, Paging
from underpass.edge.api.requests import Refusal, require_printable
from underpass.edge.errors import HostnameError, HostnameTaken
from underpass.edge.hostname_claims import (
    check_claim,
    check_confinement,
    full_hostname,
    is_owner,
)
from underpass.edge.hostnames import MAX_HOSTNAME_LENGTH
from underpass.edge.pools import MAX_TARGETS, MAX_WEIGHT
from underpass.edge.store import Route, Sticky, Target, Tunnel

__all__ = ["ENDPOINTS"]

MAX_REVISION: Final = 2**53 - 1
"""What every reader of JSON can count to."""

_Hostname = Annotated[str, Meta(min_length=1, max_length=MAX_HOSTNAME_LENGTH + 1)]


class DnsRoute(Struct, frozen=True, tag_field="type", tag="dns"):
    """Lead a hostname to the tunnel; a single word is put before the account's domain."""

    user_hostname: _Hostname
    overwrite_existing: bool = False


class LoadBalancerRoute(Struct, frozen=True, tag_field="type", tag="lb"):
    """Add the tunnel to the pool of a hostname, with weight 1; make both if they are not there."""

    lb_name: _Hostname
    lb_pool: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class PoolTarget(Struct, frozen=True):
    """A tunnel and its share. With weight 0 it gets requests while no other has a link."""

    tunnel_id: UUID
    weight: Annotated[int, Meta(ge=0, le=MAX_WEIGHT)] = 1


class NewPool(Struct, frozen=True):
    """All tunnels that a hostname is to lead to. With `revision`, 0 for a hostname that is not
    there yet, only if it is as it was then."""

    targets: Annotated[list[PoolTarget], Meta(min_length=1, max_length=MAX_TARGETS)]
    sticky: Sticky = Sticky.NONE
    pool: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    revision: Annotated[int, Meta(ge=0, le=MAX_REVISION)] | UnsetType = UNSET


class HostnameChange(Struct, frozen=True):
    """What became of a hostname: `new`, `updated` or `unchanged`."""

    cname: str
    name: str


class LoadBalancerChange(Struct, frozen=True):
    """What became of a load balancer and its pool: `new`, `updated` or `unchanged`."""

    load_balancer: str
    pool: str


class HostnameResult(Struct, frozen=True):
    """A hostname that leads to a tunnel, with the weight that this has among others."""

    hostname: str
    tunnel_id: UUID
    created_at: datetime
    pool: str
    weight: int


class TargetResult(Struct, frozen=True):
    """A tunnel that a hostname leads to. `connections` are its links, `draining` those of them
    that get nothing new."""

    tunnel_id: UUID
    tunnel_name: str
    weight: int
    connections: int
    draining: int


class PoolResult(Struct, frozen=True):
    """A hostname, and all tunnels that it leads to."""

    hostname: str
    created_at: datetime
    revision: int
    pool: str
    sticky: Sticky
    targets: list[TargetResult]


class TroubleResult(Struct, frozen=True):
    """A connector that could not reach its application: how often in a row, and whether it gets
    nothing but a trial therefore, and when the next one is due."""

    client_id: UUID
    failures: int
    is_spared: bool
    next_trial_seconds: float


class PoolDetails(PoolResult, frozen=True):
    """The same, with the connectors that are in trouble."""

    trouble: list[TroubleResult]


async def _put(call: Call) -> HostnameChange | LoadBalancerChange:
    body: DnsRoute | LoadBalancerRoute = call.body
    tunnel = call.tunnel()
    if isinstance(body, LoadBalancerRoute):
        return await _balance(call, tunnel, body)
    hostname = full_hostname(body.user_hostname, call.account)
    route = _claim(call, hostname, [tunnel.id], body.overwrite_existing)
    if route is None:
        change = "new"
    elif (route.tunnel_id, route.others, route.pool) == (tunnel.id, (), ""):
        return HostnameChange("unchanged", hostname)
    else:
        change = "updated"
    await call.control.registry.put_route(hostname, tunnel.id, call.author)
    return HostnameChange(change, hostname)


async def _balance(call: Call, tunnel: Tunnel, body: LoadBalancerRoute) -> LoadBalancerChange:
    hostname = full_hostname(body.lb_name, call.account)
    pool = require_printable(body.lb_pool, "lb_pool")
    route = _claim(call, hostname, [tunnel.id], True)
    registry = call.control.registry
    if route is None:
        await registry.put_route(hostname, tunnel.id, call.author, pool=pool)
        return LoadBalancerChange("new", "new")
    if route.pool != pool:
        if not route.leads_to(tunnel.id) or route.others:
            what = f"the pool {route.pool}" if route.pool else "a route that is no load balancer's"
            raise HostnameTaken(
                f"{hostname} leads to other tunnels by {what}: a hostname has one pool here. Name "
                "that one, or delete the hostname first"
            )
        await registry.lead(hostname, route.targets, call.author, pool=pool)
        return LoadBalancerChange("updated", "new")
    if route.leads_to(tunnel.id):
        return LoadBalancerChange("unchanged", "unchanged")
    if len(route.targets) >= MAX_TARGETS:
        raise HostnameError(f"{hostname} leads to {MAX_TARGETS} tunnels, as many as it may")
    await registry.lead(
        hostname, (*route.targets, Target(tunnel.id)), call.author, expected=route.revision
    )
    return LoadBalancerChange("unchanged", "updated")


async def _put_pool(call: Call) -> PoolDetails:
    body: NewPool = call.body
    registry = call.control.registry
    hostname = full_hostname(call.path["hostname"], call.account)
    pool = require_printable(body.pool, "pool")
    targets = tuple(Target(target.tunnel_id, target.weight) for target in body.targets)
    tunnels = [target.tunnel_id for target in targets]
    for tunnel_id in tunnels:
        tunnel = registry.tunnel(tunnel_id)
        if tunnel is None or tunnel.account_tag != call.account.id:
            raise Refusal(404, f"there is no tunnel {tunnel_id}")
        if tunnels.count(tunnel_id) > 1:
            raise Refusal(400, f"the targets have the tunnel {tunnel_id} twice")
    route = _claim(call, hostname, tunnels, True)
    wanted = (targets, pool, body.sticky)
    if route is None or (route.targets, route.pool, route.sticky) != wanted:
        expected = None if body.revision is UNSET else body.revision
        await registry.lead(
            hostname, targets, call.author, pool=pool, sticky=body.sticky, expected=expected
        )
    return await _details(call, _owned(call))


async def _get_pool(call: Call) -> PoolDetails:
    return await _details(call, _owned(call))


async def _list_pools(call: Call) -> Page:
    registry = call.control.registry
    routes = [route for route in registry.routes if is_owner(registry, call.account, route)]
    routes.sort(key=lambda route: route.hostname)
    return call.page(routes, lambda route: PoolResult(**_shared(call, route)))


async def _delete_pool(call: Call) -> PoolResult:
    route = _owned(call)
    check_confinement(call.token, route.hostname)
    shown = PoolResult(**_shared(call, route))
    await call.control.registry.delete_route(route.hostname, call.author)
    return shown


def _owned(call: Call) -> Route:
    """The account's hostname that the path names. Raises Refusal."""
    hostname = full_hostname(call.path["hostname"], call.account)
    registry = call.control.registry
    route = registry.route(hostname)
    if route is None or not is_owner(registry, call.account, route):
        raise Refusal(404, f"there is no hostname {hostname}")
    return route


async def _details(call: Call, route: Route) -> PoolDetails:
    known = await call.control.health(route.hostname)
    trouble = [
        TroubleResult(each.connector_id, each.failures, each.is_spared, round(each.seconds, 1))
        for each in known
    ]
    return PoolDetails(**_shared(call, route), trouble=trouble)


def _shared(call: Call, route: Route) -> dict[str, Any]:
    """The fields of a PoolResult."""
    return {
        "hostname": route.hostname,
        "created_at": route.created_at,
        "revision": route.revision,
        "pool": route.pool,
        "sticky": route.sticky,
        "targets": [_target(call, target) for target in route.targets],
    }


def _target(call: Call, target: Target) -> TargetResult:
    registry = call.control.registry
    tunnel = registry.tunnel(target.tunnel_id)
    return TargetResult(
        target.tunnel_id,
        "" if tunnel is None else tunnel.name,
        target.weight,
        len(registry.links_of(target.tunnel_id)),
        len(registry.aside(target.tunnel_id)),
    )


def _claim(call: Call, hostname: str, tunnels: list[UUID], overwrite: bool) -> Route | None:
    return check_claim(
        call.control.registry,
        call.account,
        call.token,
        hostname,
        tunnels,
        overwrite=overwrite,
        quick_domain=call.control.domain,
        management_hostname=call.control.management_hostname,
        dashboard_hostname=call.control.dashboard_hostname,
    )


async def _list(call: Call) -> Page:
    tunnel = call.tunnel()
    routes = [route for route in call.control.registry.routes if route.leads_to(tunnel.id)]
    routes.sort(key=lambda route: route.hostname)
    return call.page(routes, lambda route: _shown(route, tunnel.id))


async def _delete(call: Call) -> HostnameResult:
    tunnel = call.tunnel()
    hostname = full_hostname(call.path["hostname"], call.account)
    registry = call.control.registry
    route = registry.route(hostname)
    if route is None or not route.leads_to(tunnel.id):
        raise Refusal(404, f"{hostname} does not lead to tunnel {tunnel.id}")
    check_confinement(call.token, hostname)
    left = route.without(tunnel.id)
    if left is None:
        await registry.delete_route(hostname, call.author)
    else:
        await registry.lead(hostname, left.targets, call.author, expected=route.revision)
    return _shown(route, tunnel.id)


def _shown(route: Route, tunnel_id: UUID) -> HostnameResult:
    (weight,) = (each.weight for each in route.targets if each.tunnel_id == tunnel_id)
    return HostnameResult(route.hostname, tunnel_id, route.created_at, route.pool, weight)


_BASE: Final = "/zones/{zone_id}/tunnels/{tunnel_id}/routes"
_POOLS: Final = "/zones/{zone_id}/hostnames"

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
    Endpoint(
        "GET",
        _POOLS,
        "read",
        "list hostnames",
        _list_pools,
        list[PoolResult],
        query=Paging,
    ),
    Endpoint(
        "GET",
        _POOLS + "/{hostname}",
        "read",
        "get a hostname",
        _get_pool,
        PoolDetails,
    ),
    Endpoint(
        "PUT",
        _POOLS + "/{hostname}",
        "routes",
        "lead a hostname to tunnels",
        _put_pool,
        PoolDetails,
        body=NewPool,
    ),
    Endpoint(
        "DELETE",
        _POOLS + "/{hostname}",
        "routes",
        "delete a hostname",
        _delete_pool,
        PoolResult,
    ),
)
