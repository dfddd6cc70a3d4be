"""`underpass tunnel route`: which hostnames and which private networks lead to a tunnel."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence

import click

from underpass.account.errors import AccountError
from underpass.account.hostname_routes import (
    lead_by_load_balancer,
    lead_hostname,
)
from underpass.account.models import IpRoute, Network, parse_address, parse_network
from underpass.account.names import find_tunnel, find_virtual_network, parse_id
from underpass.account.session import Account
from underpass.cli.account import (
    AccountGroup,
    account_of,
    account_settings,
    echo_document,
    output_format,
    output_option,
)
from underpass.cli.flags import GoOption
from underpass.cli.pools import pool
from underpass.cli.table import echo_table

__all__ = ["route"]

_log = logging.getLogger("underpass.cli")


@click.group(cls=AccountGroup)
def route() -> None:
    """Define what leads to a tunnel: hostnames, load balancers, private networks."""


@route.command(
    "dns",
    params=[
        *account_settings(),
        GoOption(
            "overwrite-dns",
            "f",
            text="Replace a DNS record that exists.",
            env="TUNNEL_FORCE_PROVISIONING_DNS",
            boolean=True,
            parameter="overwrite",
        ),
    ],
)
@click.argument("tunnel_reference", metavar="TUNNEL")
@click.argument("hostname")
@click.pass_context
def dns(
    ctx: click.Context, /, tunnel_reference: str, hostname: str, overwrite: bool | None, **_: object
) -> None:
    """Lead a hostname to a tunnel, by a DNS record."""
    account, settings = account_of(ctx)
    if overwrite is None:
        overwrite = settings.boolean("overwrite-dns")
    tunnel_id = find_tunnel(account.client, tunnel_reference)
    summary = lead_hostname(account.client, tunnel_id, hostname, overwrite=overwrite)
    _log.info(summary, extra={"tunnelID": str(tunnel_id)})


@route.command("lb", params=account_settings())
@click.argument("tunnel_reference", metavar="TUNNEL")
@click.argument("hostname")
@click.argument("pool_name", metavar="POOL")
@click.pass_context
def lb(
    ctx: click.Context, /, tunnel_reference: str, hostname: str, pool_name: str, **_: object
) -> None:
    """Lead a hostname to a tunnel, by a load balancer and its pool of origins."""
    account, _settings = account_of(ctx)
    tunnel_id = find_tunnel(account.client, tunnel_reference)
    summary = lead_by_load_balancer(account.client, tunnel_id, hostname, pool_name)
    _log.info(summary, extra={"tunnelID": str(tunnel_id)})


route.add_command(pool)


@route.group("ip", cls=AccountGroup, aliases={"list": "show"})
def ip() -> None:
    """Lead private networks to a tunnel."""


def _vnet() -> GoOption:
    return GoOption("vnet", "vn", text="The virtual network: its id or name.", metavar="ID|NAME")


@ip.command("add", params=[*account_settings(), _vnet()])
@click.argument("cidr")
@click.argument("tunnel_reference", metavar="TUNNEL")
@click.argument("comment", required=False, default="")
@click.pass_context
def add(
    ctx: click.Context,
    /,
    cidr: str,
    tunnel_reference: str,
    comment: str,
    vnet: str | None,
    **_: object,
) -> None:
    """Lead a network, like 10.0.0.0/8, to a tunnel."""
    network = _network(ctx, cidr)
    account, _settings = account_of(ctx)
    tunnel_id = find_tunnel(account.client, tunnel_reference)
    account.client.add_ip_route(
        network, tunnel_id, comment=comment, virtual_network_id=_vnet_id(account, vnet)
    )
    click.echo(f"Successfully added route for {network} over tunnel {tunnel_id}")


@ip.command(
    "show",
    params=[
        *account_settings(),
        GoOption(
            "filter-is-deleted",
            text="Only deleted routes, instead of only others.",
            boolean=True,
            parameter="deleted",
        ),
        GoOption(
            "filter-tunnel-id",
            text="Only routes to the tunnel with this id.",
            metavar="UUID",
            parameter="tunnel_id",
        ),
        GoOption(
            "filter-network-is-subset-of",
            "nsub",
            text="Only networks within this one.",
            metavar="CIDR",
            parameter="within",
        ),
        GoOption(
            "filter-network-is-superset-of",
            "nsup",
            text="Only networks around this one.",
            metavar="CIDR",
            parameter="around",
        ),
        GoOption("filter-comment-is", text="Only routes with this comment.", parameter="comment"),
        GoOption(
            "filter-vnet-id",
            text="Only routes in the virtual network with this id.",
            metavar="UUID",
            parameter="vnet_id",
        ),
        output_option(),
    ],
)
@click.pass_context
def show(
    ctx: click.Context,
    /,
    output: str | None,
    deleted: bool | None,
    tunnel_id: str | None,
    within: str | None,
    around: str | None,
    comment: str | None,
    vnet_id: str | None,
    **_: object,
) -> None:
    """List the private networks that lead to tunnels."""
    chosen = output_format(ctx, output)
    filters = {"is_deleted": "true" if deleted else "false"}
    if within is not None:
        filters["network_subset"] = str(_network(ctx, within))
    if around is not None:
        filters["network_superset"] = str(_network(ctx, around))
    if comment:
        filters["comment"] = comment
    for name, given in (("tunnel_id", tunnel_id), ("virtual_network_id", vnet_id)):
        if given:
            parsed = parse_id(given)
            if parsed is None:
                raise click.UsageError(f"{given!r} is not an id, which is a UUID", ctx)
            filters[name] = str(parsed)
    account, _settings = account_of(ctx)
    routes = account.client.ip_routes(filters)
    if chosen:
        echo_document(routes or None, chosen)
    elif routes:
        _show(routes)
    else:
        click.echo(
            "No routes were found for the given filter flags. You can use 'underpass tunnel route "
            "ip add' to add a route."
        )


@ip.command("delete", params=[*account_settings(), _vnet()])
@click.argument("reference", metavar="ID|CIDR")
@click.pass_context
def delete(ctx: click.Context, /, reference: str, vnet: str | None, **_: object) -> None:
    """Delete a route: the one with this id, or the one for this network."""
    route_id = parse_id(reference)
    network = _network(ctx, reference) if route_id is None else None
    account, _settings = account_of(ctx)
    if network is not None:
        route_id = _find_route(account, network, _vnet_id(account, vnet))
    assert route_id is not None
    account.client.delete_ip_route(route_id)
    click.echo(f"Successfully deleted route with ID {route_id}")


@ip.command("get", params=[*account_settings(), _vnet()])
@click.argument("address", metavar="IP")
@click.pass_context
def get(ctx: click.Context, /, address: str, vnet: str | None, **_: object) -> None:
    """Show the route that an address takes."""
    try:
        parsed = parse_address(address)
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None
    account, _settings = account_of(ctx)
    found = account.client.ip_route_of(parsed, _vnet_id(account, vnet))
    if found is None:
        click.echo(f"No route matches the IP {parsed}")
    else:
        _show([found])


def _network(ctx: click.Context, text: str) -> Network:
    try:
        return parse_network(text)
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None


def _vnet_id(account: Account, given: str | None) -> uuid.UUID | None:
    return None if given is None else find_virtual_network(account.client, given)


def _find_route(account: Account, network: Network, vnet_id: uuid.UUID | None) -> uuid.UUID:
    """The route for exactly this network: the only one both within it and around it."""
    filters = {
        "is_deleted": "false",
        "network_subset": str(network),
        "network_superset": str(network),
    }
    if vnet_id is not None:
        filters["virtual_network_id"] = str(vnet_id)
    found = account.client.ip_routes(filters)
    if len(found) != 1:
        where = "in this virtual network" if vnet_id else "; --vnet says in which virtual network"
        raise AccountError(f"there are {len(found)} routes for {network}, not one{where}")
    return found[0].id


def _show(routes: Sequence[IpRoute]) -> None:
    echo_table(
        [
            *("ID", "NETWORK", "VIRTUAL NET ID", "COMMENT", "TUNNEL ID", "TUNNEL NAME"),
            *("CREATED", "DELETED"),
        ],
        [
            [
                str(each.id),
                each.network,
                str(each.virtual_network_id or "default"),
                each.comment,
                str(each.tunnel_id),
                each.tunnel_name,
                each.created_at.whole,
                each.deleted_at.whole if each.deleted_at else "-",
            ]
            for each in routes
        ],
    )
