"""`underpass tunnel route pool`: hostnames that lead to several tunnels. For edges of our own."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import click
from msgspec.structs import replace

from underpass.account.errors import AccountError
from underpass.account.hostname_routes import check_hostname
from underpass.account.models import Pool, PoolTarget
from underpass.account.names import find_tunnel
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
from underpass.cli.table import echo_table
from underpass.wire.printable import printable

__all__ = ["pool"]

_STICKY = ("none", "cookie", "address")


@click.group("pool", cls=AccountGroup)
def pool() -> None:
    """Lead a hostname to several tunnels, by weight (at an edge of your own)."""


@pool.command("show", params=[*account_settings(), output_option()])
@click.argument("hostname")
@click.pass_context
def show(ctx: click.Context, /, hostname: str, output: str | None, **_: object) -> None:
    """Show the tunnels that a hostname leads to."""
    chosen = output_format(ctx, output)
    check_hostname(hostname)
    account, _settings = account_of(ctx)
    found = _found(account, hostname)
    if chosen:
        echo_document(found, chosen)
    else:
        _show(found)


@pool.command(
    "add",
    params=[
        *account_settings(),
        GoOption(
            "weight",
            "w",
            text="The tunnel's share in proportion to the others'; 0: while no other has a "
            "connection (default 1).",
            metavar="0..1000",
        ),
        GoOption(
            "sticky",
            text=f"How visitors are led where they were led before: {', '.join(_STICKY)}.",
            metavar="|".join(_STICKY),
        ),
    ],
)
@click.argument("tunnel_reference", metavar="TUNNEL")
@click.argument("hostname")
@click.pass_context
def add(
    ctx: click.Context,
    /,
    tunnel_reference: str,
    hostname: str,
    weight: str | None,
    sticky: str | None,
    **_: object,
) -> None:
    """Lead a hostname to a tunnel too, or give the tunnel another weight."""
    if weight is not None and not (weight.isascii() and weight.isdecimal()):
        raise click.UsageError(f"--weight {weight!r} is not a whole number of 0 or more", ctx)
    if sticky is not None and sticky not in _STICKY:
        raise click.UsageError(f"--sticky {sticky!r} is none of {', '.join(_STICKY)}", ctx)
    check_hostname(hostname)
    account, _settings = account_of(ctx)
    tunnel_id = find_tunnel(account.client, tunnel_reference)

    def added(targets: list[PoolTarget]) -> list[PoolTarget]:
        known = [target for target in targets if target.tunnel_id == tunnel_id]
        target = known[0] if known else PoolTarget(tunnel_id)
        if weight is not None:
            target = replace(target, weight=int(weight))
        if not known:
            return [*targets, target]
        return [target if each.tunnel_id == tunnel_id else each for each in targets]

    current = account.client.pool(hostname) or Pool(hostname)
    _show(_changed(account, current, added, sticky))


@pool.command("remove", params=account_settings())
@click.argument("tunnel_reference", metavar="TUNNEL")
@click.argument("hostname")
@click.pass_context
def remove(ctx: click.Context, /, tunnel_reference: str, hostname: str, **_: object) -> None:
    """Lead a hostname to a tunnel no more; with the last one the hostname goes."""
    check_hostname(hostname)
    account, _settings = account_of(ctx)
    tunnel_id = find_tunnel(account.client, tunnel_reference)
    current = _found(account, hostname)
    if all(target.tunnel_id != tunnel_id for target in current.targets):
        raise AccountError(f"{hostname} does not lead to the tunnel {tunnel_id}")
    if len(current.targets) == 1:
        account.client.delete_hostname(hostname)
        click.echo(f"{hostname} leads nowhere any more")
        return
    _show(_changed(account, current, lambda targets: _without(targets, tunnel_id), None))


def _without(targets: list[PoolTarget], tunnel_id: uuid.UUID) -> list[PoolTarget]:
    return [target for target in targets if target.tunnel_id != tunnel_id]


def _found(account: Account, hostname: str) -> Pool:
    found = account.client.pool(hostname)
    if found is None:
        raise AccountError(
            f"{hostname} leads to no tunnel of this account, or --api-url is no edge of your own"
        )
    return found


def _changed(
    account: Account,
    current: Pool,
    change: Callable[[list[PoolTarget]], list[PoolTarget]],
    sticky: str | None,
) -> Pool:
    return account.client.put_pool(
        replace(current, targets=change(current.targets), sticky=sticky or current.sticky)
    )


def _show(shown: Pool) -> None:
    click.echo(f"HOSTNAME: {printable(shown.hostname)}")
    click.echo(f"STICKY:   {printable(shown.sticky)}\n")
    echo_table(
        ["TUNNEL ID", "NAME", "WEIGHT", "CONNECTIONS", "DRAINING"],
        [
            [
                str(target.tunnel_id),
                target.tunnel_name,
                str(target.weight),
                str(target.connections),
                str(target.draining),
            ]
            for target in shown.targets
        ],
    )
    for each in shown.trouble:
        spared = ", and is spared" if each.is_spared else ""
        click.echo(
            f"Connector {each.client_id} could not reach its application {each.failures} times in "
            f"a row{spared}"
        )
