"""Network routes and virtual networks (docs: API §5 and §6)."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from underpass.edge.accounts import MAX_NAME
from underpass.edge.api.endpoint import MAX_PER_PAGE, Call, Endpoint, Page, Paging
from underpass.edge.api.requests import Refusal, require_printable
from underpass.edge.networks import MAX_COMMENT, IPNetwork, parse_address, parse_network
from underpass.edge.store import NetworkRoute, VirtualNetwork

__all__ = ["ENDPOINTS"]

_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Comment = Annotated[str, Meta(max_length=MAX_COMMENT)]
_Network = Annotated[str, Meta(max_length=64)]


class NewRoute(Struct, frozen=True):
    """Without a virtual network it is the account's default one."""

    network: _Network
    tunnel_id: UUID
    comment: _Comment = ""
    virtual_network_id: UUID | None = None


class RouteFilter(Paging, kw_only=True):
    """Which routes to list. `network_subset`: those within that network; `network_superset`: those
    that have it in them."""

    is_deleted: bool | UnsetType = UNSET
    network_subset: _Network | UnsetType = UNSET
    network_superset: _Network | UnsetType = UNSET
    comment: _Comment | UnsetType = UNSET
    tunnel_id: UUID | UnsetType = UNSET
    virtual_network_id: UUID | UnsetType = UNSET


class LookUp(Struct, frozen=True):
    """In the default virtual network unless another one is given."""

    virtual_network_id: UUID | UnsetType = UNSET


class RouteResult(Struct, frozen=True):
    """A network that is reached through a tunnel."""

    id: UUID
    network: str
    tunnel_id: UUID
    tunnel_name: str
    virtual_network_id: UUID
    comment: str
    created_at: datetime
    deleted_at: datetime | None
    tun_type: str = "cfd_tunnel"


class NewVirtualNetwork(Struct, frozen=True):
    """As the default it takes the place of the one there is."""

    name: _Name
    comment: _Comment = ""
    is_default_network: bool = False


class VirtualNetworkChange(Struct, frozen=True):
    """What is given is changed."""

    name: _Name | UnsetType = UNSET
    comment: _Comment | UnsetType = UNSET
    is_default_network: bool | UnsetType = UNSET


class VirtualNetworkFilter(Paging, kw_only=True):
    """Which virtual networks to list; all that fit in one answer unless `per_page` is given."""

    per_page: Annotated[int, Meta(ge=1)] = MAX_PER_PAGE
    is_deleted: bool | UnsetType = UNSET
    id: UUID | UnsetType = UNSET
    name: Annotated[str, Meta(max_length=MAX_NAME)] | UnsetType = UNSET
    is_default: bool | UnsetType = UNSET


class VirtualNetworkDeletion(Struct, frozen=True):
    """With `force` also one that has routes, and those with it."""

    force: bool = False


class VirtualNetworkResult(Struct, frozen=True):
    """A virtual network."""

    id: UUID
    name: str
    comment: str
    is_default_network: bool
    created_at: datetime
    deleted_at: datetime | None


async def _list_routes(call: Call) -> Page:
    query: RouteFilter = call.query
    within = None if query.network_subset is UNSET else parse_network(query.network_subset)
    around = None if query.network_superset is UNSET else parse_network(query.network_superset)
    found: list[NetworkRoute] = []
    if query.is_deleted is not True:
        found += call.control.networks.routes_of(call.account.id)
    if query.is_deleted is not False:
        found += (await call.control.registry.deleted(call.account.id)).network_routes
    matching = [
        route
        for route in found
        if _matches(route, query)
        and (within is None or _is_within(ipaddress.ip_network(route.network), within))
        and (around is None or _is_within(around, ipaddress.ip_network(route.network)))
    ]
    matching.sort(key=lambda route: (route.created_at, route.id))
    return call.page(matching, lambda route: _shown(call, route))


def _matches(route: NetworkRoute, query: RouteFilter) -> bool:
    return (
        query.comment in (UNSET, route.comment)
        and query.tunnel_id in (UNSET, route.tunnel_id)
        and query.virtual_network_id in (UNSET, route.virtual_network_id)
    )


def _is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


async def _add_route(call: Call) -> RouteResult:
    body: NewRoute = call.body
    tunnel = call.control.registry.tunnel(body.tunnel_id)
    if tunnel is None or tunnel.account_tag != call.account.id:
        raise Refusal(404, f"there is no tunnel {body.tunnel_id}")
    route = await call.control.networks.add_route(
        tunnel,
        parse_network(body.network),
        _virtual_network(call, body.virtual_network_id),
        require_printable(body.comment, "the comment"),
        call.author,
    )
    return _shown(call, route)


async def _delete_route(call: Call) -> RouteResult:
    route_id = call.uuid("route_id")
    route = call.control.registry.network_routes.get(route_id)
    if route is None or route.account_id != call.account.id:
        raise Refusal(404, f"there is no network route {route_id}")
    return _shown(call, await call.control.networks.delete_route(route, call.author))


async def _route_of_address(call: Call) -> RouteResult | None:
    address = parse_address(call.path["ip"])
    network = _virtual_network(call, call.query.virtual_network_id or None)
    route = call.control.networks.find(call.account.id, address, network.id)
    return None if route is None else _shown(call, route)


def _virtual_network(call: Call, network_id: UUID | None) -> VirtualNetwork:
    """The account's virtual network with this id, or its default one. Raises Refusal."""
    if network_id is None:
        network = call.control.networks.default_of(call.account.id)
    else:
        network = call.control.registry.virtual_networks.get(network_id)
    if network is None or network.account_id != call.account.id:
        raise Refusal(404, f"there is no virtual network {network_id or 'that is the default'}")
    return network


def _shown(call: Call, route: NetworkRoute) -> RouteResult:
    tunnel = call.control.registry.tunnel(route.tunnel_id)
    return RouteResult(
        route.id,
        route.network,
        route.tunnel_id,
        "" if tunnel is None else tunnel.name,
        route.virtual_network_id,
        route.comment,
        route.created_at,
        route.deleted_at,
    )


async def _list_networks(call: Call) -> Page:
    query: VirtualNetworkFilter = call.query
    found: list[VirtualNetwork] = []
    if query.is_deleted is not True:
        found += call.control.networks.networks_of(call.account.id)
    if query.is_deleted is not False:
        found += (await call.control.registry.deleted(call.account.id)).virtual_networks
    matching = [
        network
        for network in found
        if query.id in (UNSET, network.id)
        and query.name in (UNSET, network.name)
        and query.is_default in (UNSET, network.is_default)
    ]
    matching.sort(key=lambda network: (network.created_at, network.id))
    return call.page(matching, _shown_network)


async def _add_network(call: Call) -> VirtualNetworkResult:
    body: NewVirtualNetwork = call.body
    comment = require_printable(body.comment, "the comment")
    return _shown_network(
        await call.control.networks.create(
            call.account.id, body.name, comment, body.is_default_network, call.author
        )
    )


async def _change_network(call: Call) -> VirtualNetworkResult:
    body: VirtualNetworkChange = call.body
    network = _virtual_network(call, call.uuid("network_id"))
    comment = _given(body.comment)
    if comment is not None:
        require_printable(comment, "the comment")
    return _shown_network(
        await call.control.networks.change(
            network,
            call.author,
            name=_given(body.name),
            comment=comment,
            is_default=None if body.is_default_network is UNSET else body.is_default_network,
        )
    )


def _given(value: str | UnsetType) -> str | None:
    return None if value is UNSET else value


async def _delete_network(call: Call) -> VirtualNetworkResult:
    network = _virtual_network(call, call.uuid("network_id"))
    return _shown_network(
        await call.control.networks.delete(network, call.query.force, call.author)
    )


def _shown_network(network: VirtualNetwork) -> VirtualNetworkResult:
    return VirtualNetworkResult(
        network.id,
        network.name,
        network.comment,
        network.is_default,
        network.created_at,
        network.deleted_at,
    )


_ROUTES: Final = "/accounts/{account_id}/teamnet/routes"
_NETWORKS: Final = "/accounts/{account_id}/teamnet/virtual_networks"

ENDPOINTS: Final = (
    Endpoint(
        "GET",
        _ROUTES,
        "read",
        "list network routes",
        _list_routes,
        list[RouteResult],
        query=RouteFilter,
    ),
    Endpoint(
        "POST", _ROUTES, "routes", "add a network route", _add_route, RouteResult, body=NewRoute
    ),
    Endpoint(
        "DELETE",
        _ROUTES + "/{route_id}",
        "routes",
        "delete a network route",
        _delete_route,
        RouteResult,
    ),
    Endpoint(
        "GET",
        _ROUTES + "/ip/{ip}",
        "read",
        "find the route of an address",
        _route_of_address,
        RouteResult | None,
        query=LookUp,
    ),
    Endpoint(
        "GET",
        _NETWORKS,
        "read",
        "list virtual networks",
        _list_networks,
        list[VirtualNetworkResult],
        query=VirtualNetworkFilter,
    ),
    Endpoint(
        "POST",
        _NETWORKS,
        "routes",
        "add a virtual network",
        _add_network,
        VirtualNetworkResult,
        body=NewVirtualNetwork,
    ),
    Endpoint(
        "PATCH",
        _NETWORKS + "/{network_id}",
        "routes",
        "change a virtual network",
        _change_network,
        VirtualNetworkResult,
        body=VirtualNetworkChange,
    ),
    Endpoint(
        "DELETE",
        _NETWORKS + "/{network_id}",
        "routes",
        "delete a virtual network",
        _delete_network,
        VirtualNetworkResult,
        query=VirtualNetworkDeletion,
    ),
)
