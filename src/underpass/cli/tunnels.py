"""`underpass tunnel create`, `list`, `info`, `delete`, `cleanup` and `token`."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from underpass.account.errors import AccountError
from underpass.account.models import Connection, Connector, Tunnel
from underpass.account.moment import Moment
from underpass.account.names import find_tunnel, parse_id
from underpass.account.tunnels import create_tunnel, delete_tunnel, read_secret
from underpass.cli.account import (
    AccountCommand,
    account_of,
    account_settings,
    credentials_places,
    echo_document,
    given_path,
    output_format,
    output_option,
)
from underpass.cli.flags import GoOption
from underpass.cli.table import echo_table
from underpass.wire.credentials import Credentials, write_credentials_file
from underpass.wire.printable import printable

__all__ = ["cleanup", "create", "delete", "drain", "info", "list_", "show_created", "token"]

_log = logging.getLogger("underpass.cli")

T = TypeVar("T")

_RECENTLY = GoOption(
    "show-recently-disconnected",
    "rd",
    text="Include connections that are about to come back.",
    boolean=True,
    parameter="recent",
)
_TUNNEL_ORDERS: dict[str, Callable[[Tunnel], Any]] = {
    "name": lambda tunnel: tunnel.name,
    "id": lambda tunnel: str(tunnel.id),
    "createdAt": lambda tunnel: tunnel.created_at.order,
    "deletedAt": lambda tunnel: tunnel.deleted_at.order,
    "numConnections": lambda tunnel: len(tunnel.connections or ()),
}
_CONNECTOR_ORDERS: dict[str, Callable[[Connector], Any]] = {
    "id": lambda connector: str(connector.id),
    "createdAt": lambda connector: connector.run_at.order,
    "numConnections": lambda connector: len(connector.connections or ()),
    "version": lambda connector: connector.version,
}


def _order_options(command: str, orders: Sequence[str], default: str) -> list[click.Parameter]:
    return [
        GoOption(
            "sort-by",
            text=f"Order: {', '.join(orders)} (default {default}).",
            env=f"TUNNEL_{command}_SORT_BY",
            metavar="FIELD",
        ),
        GoOption(
            "invert-sort",
            text="The other way round.",
            env=f"TUNNEL_{command}_INVERT_SORT",
            boolean=True,
        ),
    ]


@click.command(
    "create",
    cls=AccountCommand,
    params=[
        *account_settings("credentials-file"),
        output_option(),
        GoOption(
            "secret",
            "s",
            text="The tunnel's secret, as base64 of 32 bytes or more; by default a random one.",
            env="TUNNEL_CREATE_SECRET",
            metavar="BASE64",
        ),
    ],
)
@click.argument("name")
@click.pass_context
def create(
    ctx: click.Context, /, name: str, output: str | None, secret: str | None, **_: object
) -> None:
    """Make a tunnel, and write the credentials to run it to a file."""
    chosen = output_format(ctx, output)
    account, settings = account_of(ctx)
    given = given_path(settings)
    tunnel, path = create_tunnel(
        account, name, secret=read_secret(secret) if secret else None, path=given
    )
    if chosen:
        echo_document(tunnel, chosen)
    else:
        show_created(tunnel, str(path), beside_certificate=given is None)


def show_created(tunnel: Tunnel, path: str, *, beside_certificate: bool) -> None:
    """Say what was made."""
    beside = " underpass chose this file based on where your origin certificate was found."
    click.echo(
        f"Tunnel credentials written to {path}.{beside if beside_certificate else ''} "
        "Keep this file secret. To revoke these credentials, delete the tunnel."
    )
    click.echo(f"\nCreated tunnel {printable(tunnel.name)} with id {tunnel.id}")


@click.command(
    "list",
    cls=AccountCommand,
    params=[
        *account_settings(),
        output_option(),
        GoOption("show-deleted", "d", text="Include deleted tunnels.", boolean=True),
        GoOption("name", "n", text="Only the tunnel of this name.", metavar="NAME"),
        GoOption("name-prefix", "np", text="Only names that begin so.", metavar="PREFIX"),
        GoOption(
            "exclude-name-prefix", "enp", text="Only names that do not begin so.", metavar="PREFIX"
        ),
        GoOption("when", "w", text="Only tunnels that existed then (RFC 3339).", metavar="TIME"),
        GoOption("id", "i", text="Only the tunnel with this id.", metavar="ID", parameter="uuid"),
        _RECENTLY,
        *_order_options("LIST", list(_TUNNEL_ORDERS), "name"),
    ],
)
@click.pass_context
def list_(
    ctx: click.Context,
    /,
    output: str | None,
    recent: bool | None,
    sort_by: str | None,
    invert_sort: bool | None,
    **given: Any,
) -> None:
    """List the tunnels of the account."""
    chosen = output_format(ctx, output)
    filters = _filters(ctx, **given)
    account, _ = account_of(ctx)
    tunnels = _in_order(
        account.client.tunnels(filters), _TUNNEL_ORDERS, sort_by or "name", bool(invert_sort)
    )
    if chosen:
        # A Go program that found nothing has no list at all.
        echo_document(tunnels or None, chosen)
        return
    if not tunnels:
        click.echo(
            "No tunnels were found for the given filter flags. You can use 'underpass tunnel "
            "create' to create a tunnel."
        )
        return
    click.echo(
        "You can obtain more detailed information for each tunnel with "
        "`underpass tunnel info <name/uuid>`"
    )
    echo_table(
        ["ID", "NAME", "CREATED", "CONNECTIONS"],
        [
            [
                str(tunnel.id),
                tunnel.name,
                tunnel.created_at.whole,
                _places(tunnel.connections, bool(recent)),
            ]
            for tunnel in tunnels
        ],
    )


def _filters(
    ctx: click.Context,
    *,
    show_deleted: bool | None,
    name: str | None,
    name_prefix: str | None,
    exclude_name_prefix: str | None,
    when: str | None,
    uuid: str | None,
    **_: object,
) -> dict[str, str]:
    filters = {
        "name": name,
        "name_prefix": name_prefix,
        "exclude_prefix": exclude_name_prefix,
        "is_deleted": None if show_deleted else "false",
    }
    if uuid:
        filters["uuid"] = str(_id(ctx, uuid, "tunnel"))
    if when:
        try:
            filters["existed_at"] = Moment.parse(when).whole
        except ValueError as error:
            raise click.UsageError(f"--when {error}", ctx) from None
    return {key: value for key, value in filters.items() if value}


@click.command(
    "info",
    cls=AccountCommand,
    params=[
        *account_settings(),
        output_option(),
        _RECENTLY,
        *_order_options("INFO", list(_CONNECTOR_ORDERS), "createdAt"),
    ],
)
@click.argument("tunnel_reference", metavar="NAME|UUID")
@click.pass_context
def info(
    ctx: click.Context,
    /,
    tunnel_reference: str,
    output: str | None,
    recent: bool | None,
    sort_by: str | None,
    invert_sort: bool | None,
    **_: object,
) -> None:
    """Show a tunnel and the connectors that run it."""
    chosen = output_format(ctx, output)
    account, _settings = account_of(ctx)
    tunnel_id = find_tunnel(account.client, tunnel_reference)
    connectors = _in_order(
        account.client.connectors(tunnel_id),
        _CONNECTOR_ORDERS,
        sort_by or "createdAt",
        bool(invert_sort),
    )
    found = account.client.tunnels({"uuid": str(tunnel_id)})
    if len(found) != 1:
        raise AccountError(f"there are {len(found)} tunnels with the id {tunnel_id}, not one")
    (tunnel,) = found
    if chosen:
        from underpass.cli.account_documents import TunnelInfo

        echo_document(TunnelInfo(tunnel, connectors), chosen)
    elif not connectors:
        click.echo(f"Your tunnel {tunnel_id} does not have any active connection.")
    else:
        _show_info(tunnel, connectors, bool(recent))


def _show_info(tunnel: Tunnel, connectors: Sequence[Connector], recent: bool) -> None:
    click.echo(f"NAME:     {printable(tunnel.name)}")
    click.echo(f"ID:       {tunnel.id}")
    click.echo(f"CREATED:  {tunnel.created_at.spoken}\n")
    rows = [
        [
            str(connector.id),
            connector.run_at.whole,
            connector.arch,
            connector.version,
            connector.connections[0].origin_ip,
            places,
        ]
        for connector in connectors
        if connector.connections and (places := _places(connector.connections, recent))
    ]
    if not rows:
        click.echo("This tunnel has no active connectors.")
        return
    header = ["CONNECTOR ID", "CREATED", "ARCHITECTURE", "VERSION", "ORIGIN IP", "EDGE"]
    echo_table(header, rows)


@click.command(
    "delete",
    cls=AccountCommand,
    params=[
        *account_settings("credentials-file"),
        GoOption(
            "force",
            "f",
            text="Delete it although it is connected, and what depends on it.",
            env="TUNNEL_RUN_FORCE_OVERWRITE",
            boolean=True,
        ),
    ],
)
@click.argument("references", metavar="NAME|UUID...", nargs=-1, required=True)
@click.pass_context
def delete(
    ctx: click.Context, /, references: tuple[str, ...], force: bool | None, **_: object
) -> None:
    """Delete tunnels, and their credentials files."""
    account, settings = account_of(ctx)
    for tunnel_id in [find_tunnel(account.client, each) for each in references]:
        delete_tunnel(
            account,
            tunnel_id,
            force=bool(force),
            given=given_path(settings),
            places=credentials_places(account),
        )


@click.command(
    "cleanup",
    cls=AccountCommand,
    params=[
        *account_settings(),
        GoOption(
            "connector-id",
            "c",
            text="Only the connections of this connector.",
            env="TUNNEL_CLEANUP_CONNECTOR",
            metavar="UUID",
        ),
    ],
)
@click.argument("references", metavar="NAME|UUID...", nargs=-1, required=True)
@click.pass_context
def cleanup(
    ctx: click.Context, /, references: tuple[str, ...], connector_id: str | None, **_: object
) -> None:
    """Forget the connections of tunnels, such as those of connectors that died."""
    connector = _id(ctx, connector_id, "connector") if connector_id else None
    account, _settings = account_of(ctx)
    only = f" for connector-id {connector}" if connector else ""
    failed = 0
    tunnel_ids = [find_tunnel(account.client, each) for each in references]
    for tunnel_id in tunnel_ids:
        _log.info("Cleanup connection for tunnel %s%s", tunnel_id, only)
        try:
            account.client.clean_up(tunnel_id, connector)
        except AccountError as error:
            _log.error("%s", error)
            failed += 1
    if failed:
        raise AccountError(f"{failed} of {len(tunnel_ids)} tunnels could not be cleaned up")


@click.command(
    "drain",
    cls=AccountCommand,
    params=[
        *account_settings(),
        GoOption("undo", text="Let it have requests again.", boolean=True),
    ],
)
@click.argument("tunnel_reference", metavar="NAME|UUID")
@click.argument("which", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def drain(
    ctx: click.Context,
    /,
    tunnel_reference: str,
    which: tuple[str, ...],
    undo: bool | None,
    **_: object,
) -> None:
    """Send connectors, or single connections, no new requests (at an edge of your own).

    What they have under way they finish, and stay connected. IDs are those of `tunnel info`.
    """
    ids = [_id(ctx, each, "connector or a connection") for each in which]
    account, _settings = account_of(ctx)
    tunnel_id = find_tunnel(account.client, tunnel_reference)
    for each in ids:
        account.client.drain(tunnel_id, each, undo=bool(undo))
        done = "gets requests again" if undo else "gets no new requests"
        _log.info("%s %s", each, done, extra={"tunnelID": str(tunnel_id)})


@click.command("token", cls=AccountCommand, params=account_settings("credentials-file"))
@click.argument("tunnel_reference", metavar="NAME|UUID")
@click.pass_context
def token(ctx: click.Context, /, tunnel_reference: str, **_: object) -> None:
    """Print the token that runs a tunnel, or write it to --credentials-file."""
    account, settings = account_of(ctx)
    tunnel_id = find_tunnel(account.client, tunnel_reference)
    credentials = Credentials.from_token(account.client.tunnel_token(tunnel_id))
    path = given_path(settings)
    if path is None:
        click.echo(credentials.to_token())
    else:
        write_credentials_file(path, credentials)


def _id(ctx: click.Context, text: str, kind: str) -> uuid.UUID:
    parsed = parse_id(text)
    if parsed is None:
        raise click.UsageError(f"{text!r} is not the id of a {kind}, which is a UUID", ctx)
    return parsed


def _in_order(
    values: Sequence[T], orders: dict[str, Callable[[T], Any]], wanted: str, invert: bool
) -> list[T]:
    order = orders.get(wanted)
    if order is None:
        default = "name" if "name" in orders else "createdAt"
        _log.error(
            "%s is not a field to sort by; those are %s. Sorting by %s",
            wanted,
            ", ".join(orders),
            default,
        )
        order = orders[default]
    return sorted(values, key=order, reverse=invert)


def _places(connections: Sequence[Connection] | None, recent: bool) -> str:
    """How many connections there are to which place: `1xLIS01, 2xMAD02`."""
    counts = Counter(
        connection.colo_name
        for connection in connections or ()
        if recent or not connection.is_pending_reconnect
    )
    draining = Counter(
        connection.colo_name for connection in connections or () if connection.is_draining
    )
    return ", ".join(
        f"{count}x{place}" + (f" ({draining[place]} draining)" if draining[place] else "")
        for place, count in sorted(counts.items())
    )
