"""Commands that cloudflared once had, and that neither program has any more."""

from __future__ import annotations

import click

__all__ = ["db_connect", "proxy_dns"]

_ANYTHING = {"ignore_unknown_options": True, "help_option_names": []}


@click.command("proxy-dns", hidden=True, context_settings=_ANYTHING)
@click.argument("anything", nargs=-1, type=click.UNPROCESSED)
def proxy_dns(anything: tuple[str, ...]) -> None:
    """Removed: a DNS proxy."""
    raise click.ClickException(
        "the DNS proxy is gone, from cloudflared too since 2026.2.0; use another program for DNS "
        "over HTTPS, like dnscrypt-proxy"
    )


@click.command("db-connect", hidden=True, context_settings=_ANYTHING)
@click.argument("anything", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def db_connect(ctx: click.Context, anything: tuple[str, ...]) -> None:
    """Removed: access to databases over HTTP."""
    click.echo(
        "Error: db-connect is gone; publish the database as a TCP service and use "
        "`underpass access tcp`",
        err=True,
    )
    ctx.exit(255)
