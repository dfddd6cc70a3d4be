"""Tunnels and the hostnames that lead to them. Whatever changes something is the API's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
from starlette.responses import Response

from underpass.edge.api.endpoint import refusing
from underpass.edge.api.hostnames import DnsRoute
from underpass.edge.api.requests import Refusal, parse_uuid
from underpass.edge.api.tunnels import Cleanup, Deletion, NewTunnel
from underpass.edge.dashboard.overview import recent_of
from underpass.edge.dashboard.visits import HOME, Visit
from underpass.edge.hostname_claims import is_owner
from underpass.edge.router import Link
from underpass.edge.store import Route, Tunnel
from underpass.wire.causes import CAUSES

__all__ = [
    "add_hostname",
    "close_connections",
    "create_tunnel",
    "delete_tunnel",
    "drain",
    "remove_hostname",
    "show_hostnames",
    "show_run_command",
    "show_tunnel",
    "show_tunnels",
]

_TUNNELS = "/accounts/{account_id}/cfd_tunnel"
_TUNNEL = _TUNNELS + "/{tunnel_id}"
_ROUTES = "/zones/{zone_id}/tunnels/{tunnel_id}/routes"
_POOLS = "/zones/{zone_id}/hostnames"

FAILURES_SHOWN = 20


@dataclass(slots=True)
class Connector:
    """A process at the other end, and its links."""

    id: UUID
    links: list[Link] = field(default_factory=list)
    aside: int = 0
    """How many of them get nothing new."""

    @property
    def workers(self) -> str:
        """How many links each process of the edge has, if it is several."""
        counts = Counter(getattr(link, "worker", None) for link in self.links)
        return ", ".join(
            f"{count} in worker {worker}"
            for worker, count in sorted(counts.items(), key=str)
            if worker is not None
        )


async def show_tunnels(visit: Visit) -> Response:
    """All of the account's."""
    registry = visit.dashboard.control.registry
    tunnels = sorted(
        registry.tunnels_of(visit.signed_in.account.id), key=lambda tunnel: tunnel.name
    )
    return visit.page(
        "tunnels.html",
        rows=[(tunnel, _connectors(visit, tunnel), _routes(visit, tunnel)) for tunnel in tunnels],
    )


async def create_tunnel(visit: Visit) -> Response:
    """Make one."""
    name = visit.field("name")
    if not name:
        raise Refusal(400, "a tunnel needs a name")
    made = await visit.do(
        "POST", _TUNNELS, body=_body({"name": name}, NewTunnel), account_id=_account(visit)
    )
    return visit.redirect(f"{HOME}/tunnels/{made.id}")


async def show_tunnel(visit: Visit) -> Response:
    """One: its connectors and links, what leads to it, what failed."""
    tunnel = _tunnel(visit)
    recent = await recent_of(visit, tunnel.id)
    configuration = None
    if visit.may("tunnels"):
        # (Origins and their addresses are nobody's business who may only look.)
        with refusing("read a configuration"):
            configuration = await visit.dashboard.control.registry.configuration(tunnel.id)
    return visit.page(
        "tunnel.html",
        tunnel=tunnel,
        connectors=_connectors(visit, tunnel),
        routes=_routes(visit, tunnel),
        configuration=configuration,
        document=None
        if configuration is None
        else msgspec.json.format(configuration.document, indent=2).decode("utf-8", "replace"),
        failures=None if recent is None else recent.failures[:FAILURES_SHOWN],
        names={tunnel.id: tunnel.name},
        causes=CAUSES,
    )


async def delete_tunnel(visit: Visit) -> Response:
    """End one; with connections only if that was asked for."""
    await visit.do(
        "DELETE",
        _TUNNEL,
        query=Deletion(cascade=visit.field("cascade") == "yes"),
        account_id=_account(visit),
        tunnel_id=visit.request.path_params["tunnel_id"],
    )
    return visit.redirect(f"{HOME}/tunnels")


async def close_connections(visit: Visit) -> Response:
    """Of all connectors, or of one."""
    query = Cleanup()
    if client_id := visit.field("client_id"):
        query = Cleanup(client_id=parse_uuid(client_id, "client_id"))
    tunnel_id = visit.request.path_params["tunnel_id"]
    await visit.do(
        "DELETE",
        _TUNNEL + "/connections",
        query=query,
        account_id=_account(visit),
        tunnel_id=tunnel_id,
    )
    return visit.redirect(f"{HOME}/tunnels/{tunnel_id}")


async def drain(visit: Visit) -> Response:
    """Send a connector nothing new, or send it requests again."""
    tunnel_id = visit.request.path_params["tunnel_id"]
    await visit.do(
        "DELETE" if visit.field("end") == "yes" else "POST",
        _TUNNEL + "/connections/{connection_id}/drain",
        account_id=_account(visit),
        tunnel_id=tunnel_id,
        connection_id=visit.field("client_id"),
    )
    return visit.redirect(f"{HOME}/tunnels/{tunnel_id}")


async def show_run_command(visit: Visit) -> Response:
    """What runs a connector of a tunnel, with its token. Asking for it is written down."""
    tunnel = _tunnel(visit)
    token = await visit.do(
        "GET", _TUNNEL + "/token", account_id=_account(visit), tunnel_id=str(tunnel.id)
    )
    return visit.page("run_command.html", tunnel=tunnel, token=token)


async def show_hostnames(visit: Visit) -> Response:
    """All names that lead to a tunnel of the account."""
    registry = visit.dashboard.control.registry
    account = visit.signed_in.account
    tunnels = {tunnel.id: tunnel for tunnel in registry.tunnels_of(account.id)}
    routes = [route for route in registry.routes if is_owner(registry, account, route)]
    routes.sort(key=lambda route: route.hostname)
    return visit.page(
        "hostnames.html",
        rows=[
            (
                route,
                [
                    (tunnels[target.tunnel_id], target.weight, registry.links_of(target.tunnel_id))
                    for target in route.targets
                    if target.tunnel_id in tunnels
                ],
            )
            for route in routes
        ],
        tunnels=sorted(tunnels.values(), key=lambda tunnel: tunnel.name),
    )


async def add_hostname(visit: Visit) -> Response:
    """Lead a name to a tunnel."""
    hostname = visit.field("hostname")
    if not hostname:
        raise Refusal(400, "say which hostname")
    await visit.do(
        "PUT",
        _ROUTES,
        body=_body(
            {
                "type": "dns",
                "user_hostname": hostname,
                "overwrite_existing": visit.field("overwrite") == "yes",
            },
            DnsRoute,
        ),
        zone_id=visit.signed_in.account.zone_id,
        tunnel_id=visit.field("tunnel_id"),
    )
    return visit.redirect(_back(visit))


async def remove_hostname(visit: Visit) -> Response:
    """Lead it nowhere, or not to one of its tunnels any more."""
    parts = {
        "zone_id": visit.signed_in.account.zone_id,
        "hostname": visit.field("hostname"),
    }
    if tunnel_id := visit.field("tunnel_id"):
        await visit.do("DELETE", _ROUTES + "/{hostname}", tunnel_id=tunnel_id, **parts)
    else:
        await visit.do("DELETE", _POOLS + "/{hostname}", **parts)
    return visit.redirect(_back(visit))


def _back(visit: Visit) -> str:
    """Where the form was: all hostnames, or the tunnel's page."""
    if visit.field("from") == "tunnel":
        tunnel_id = parse_uuid(visit.field("tunnel_id"), "tunnel_id")
        return f"{HOME}/tunnels/{tunnel_id}"
    return f"{HOME}/hostnames"


def _account(visit: Visit) -> str:
    return visit.signed_in.account.id


def _tunnel(visit: Visit) -> Tunnel:
    """The account's that the path names. Raises Refusal."""
    tunnel_id = parse_uuid(visit.request.path_params["tunnel_id"], "the tunnel's id")
    tunnel = visit.dashboard.control.registry.tunnel(tunnel_id)
    if tunnel is None or tunnel.account_tag != _account(visit):
        raise Refusal(404, f"there is no tunnel {tunnel_id}")
    return tunnel


def _connectors(visit: Visit, tunnel: Tunnel) -> list[Connector]:
    connectors: dict[UUID, Connector] = {}
    for link in visit.dashboard.control.registry.links_of(tunnel.id):
        connectors.setdefault(link.connector_id, Connector(link.connector_id)).links.append(link)
    aside = visit.dashboard.control.registry.aside(tunnel.id)
    for connector in connectors.values():
        connector.aside = sum(any(link is each for each in aside) for link in connector.links)
        connector.links.sort(key=lambda link: link.conn_index)
    return sorted(connectors.values(), key=lambda connector: connector.id)


def _routes(visit: Visit, tunnel: Tunnel) -> list[Route]:
    routes = visit.dashboard.control.registry.routes
    return sorted(
        (route for route in routes if route.leads_to(tunnel.id)),
        key=lambda route: route.hostname,
    )


def _body(given: dict[str, object], kind: type[msgspec.Struct]) -> msgspec.Struct:
    """What the API would make of it. Raises Refusal."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise Refusal(400, str(error)) from None
