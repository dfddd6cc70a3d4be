"""`underpass management token` and `underpass tail token`: let somebody look into a connector."""

from __future__ import annotations

import json

import click

from underpass.account.client import ManagementResource
from underpass.account.names import parse_id
from underpass.cli.account import AccountGroup, account_of, account_settings
from underpass.cli.flags import GoOption

__all__ = ["management", "tail", "tail_token"]


@click.group(cls=AccountGroup, hidden=True)
def management() -> None:
    """Look into connectors that run."""


@management.command(
    "token",
    hidden=True,
    params=[
        *account_settings("output"),
        GoOption(
            "resource",
            text="What the token allows to see: logs, admin or host_details.",
            metavar="RESOURCE",
            required=True,
        ),
    ],
)
@click.argument("tunnel_id", metavar="UUID")
@click.pass_context
def token(ctx: click.Context, /, resource: str, tunnel_id: str, **_: object) -> None:
    """Print a token that lets somebody look into the connectors of a tunnel."""
    try:
        chosen = ManagementResource(resource)
    except ValueError:
        raise click.UsageError(
            f"--resource {resource!r} is none of logs, admin and host_details", ctx
        ) from None
    _print_token(ctx, tunnel_id, chosen)


@click.group(cls=AccountGroup, hidden=True)
def tail() -> None:
    """Follow the log of connectors that run."""


@tail.command("token", hidden=True, params=account_settings("output"))
@click.argument("tunnel_id", metavar="UUID")
@click.pass_context
def tail_token(ctx: click.Context, /, tunnel_id: str, **_: object) -> None:
    """Print a token that lets somebody follow the log of a tunnel's connectors."""
    _print_token(ctx, tunnel_id, ManagementResource.LOGS)


def _print_token(ctx: click.Context, text: str, resource: ManagementResource) -> None:
    tunnel_id = parse_id(text)
    if tunnel_id is None:
        raise click.UsageError(f"{text!r} is not the id of a tunnel, which is a UUID", ctx)
    account, _settings = account_of(ctx)
    token = account.client.management_token(tunnel_id, resource)
    click.echo(json.dumps({"token": token}, separators=(",", ":")))
