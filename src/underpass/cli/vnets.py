"""`underpass tunnel vnet`: virtual networks, for private networks whose addresses overlap."""

from __future__ import annotations

from typing import Any

import click

from underpass.account.names import find_virtual_network, parse_id
from underpass.cli.account import (
    AccountGroup,
    account_of,
    account_settings,
    echo_document,
    output_format,
    output_option,
)
from underpass.cli.flags import GoOption
from underpass.cli.table import echo_table
from underpass.wire.printable import printable

__all__ = ["vnet"]


@click.group(cls=AccountGroup)
def vnet() -> None:
    """Manage virtual networks, for private networks whose addresses overlap."""


def _default(text: str) -> GoOption:
    return GoOption("default", "d", text=text, boolean=True)


@vnet.command("add", params=[*account_settings(), _default("Make it the account's default.")])
@click.argument("name")
@click.argument("comment", required=False, default="")
@click.pass_context
def add(ctx: click.Context, /, name: str, comment: str, default: bool | None, **_: object) -> None:
    """Add a virtual network."""
    account, _settings = account_of(ctx)
    added = account.client.add_virtual_network(name, comment, default=bool(default))
    new_default = " (as the new default for this account) " if added.is_default_network else ""
    click.echo(
        f"Successfully added virtual 'network' {name} with ID: {added.id}{new_default}\n"
        "You can now add IP routes attached to this virtual network. See `underpass tunnel route "
        "ip add -help`"
    )


@vnet.command(
    "list",
    params=[
        *account_settings(),
        GoOption("id", text="Only the one with this id.", metavar="ID", parameter="uuid"),
        GoOption("name", text="Only the one of this name.", metavar="NAME"),
        GoOption(
            "is-default",
            text="Only the account's default; with =false only the others.",
            boolean=True,
        ),
        GoOption("show-deleted", text="Only deleted ones, instead of only others.", boolean=True),
        output_option(),
    ],
)
@click.pass_context
def list_(
    ctx: click.Context,
    /,
    output: str | None,
    uuid: str | None,
    name: str | None,
    is_default: bool | None,
    show_deleted: bool | None,
    **_: object,
) -> None:
    """List the virtual networks."""
    chosen = output_format(ctx, output)
    filters = {"is_deleted": "true" if show_deleted else "false"}
    if uuid:
        parsed = parse_id(uuid)
        if parsed is None:
            raise click.UsageError(f"{uuid!r} is not an id, which is a UUID", ctx)
        filters["id"] = str(parsed)
    if name:
        filters["name"] = name
    if is_default is not None:
        filters["is_default"] = "true" if is_default else "false"
    account, _settings = account_of(ctx)
    networks = account.client.virtual_networks(filters)
    if chosen:
        echo_document(networks, chosen)
    elif not networks:
        click.echo(
            "No virtual networks were found for the given filter flags. You can use 'underpass "
            "tunnel vnet add' to add a virtual network."
        )
    else:
        echo_table(
            ["ID", "NAME", "IS DEFAULT", "COMMENT", "CREATED", "DELETED"],
            [
                [
                    str(each.id),
                    each.name,
                    "true" if each.is_default_network else "false",
                    each.comment,
                    each.created_at.whole,
                    each.deleted_at.whole if each.deleted_at else "-",
                ]
                for each in networks
            ],
        )


@vnet.command(
    "delete",
    params=[
        *account_settings(),
        GoOption(
            "force",
            "f",
            text="Delete it although something depends on it.",
            boolean=True,
        ),
    ],
)
@click.argument("reference", metavar="ID|NAME")
@click.pass_context
def delete(ctx: click.Context, /, reference: str, force: bool | None, **_: object) -> None:
    """Delete a virtual network."""
    account, _settings = account_of(ctx)
    network_id = find_virtual_network(account.client, reference)
    account.client.delete_virtual_network(network_id, force=bool(force))
    click.echo(f"Successfully deleted virtual network '{printable(reference)}'")


@vnet.command(
    "update",
    params=[
        *account_settings(),
        GoOption("name", "n", text="Its new name.", metavar="NAME"),
        GoOption("comment", "c", text="Its new comment."),
        _default("Make it the account's default."),
    ],
)
@click.argument("reference", metavar="ID|NAME")
@click.pass_context
def update(
    ctx: click.Context,
    /,
    reference: str,
    name: str | None,
    comment: str | None,
    default: bool | None,
    **_: object,
) -> None:
    """Change a virtual network. Only what is given changes."""
    given = {"name": name, "comment": comment, "is_default_network": default}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    account, _settings = account_of(ctx)
    network_id = find_virtual_network(account.client, reference)
    account.client.update_virtual_network(network_id, changes)
    click.echo(f"Successfully updated virtual network '{printable(reference)}'")
