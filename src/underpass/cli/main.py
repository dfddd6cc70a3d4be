"""The `underpass` command: its top level."""

from __future__ import annotations

import sys

import click

from underpass.cli.flags import GoGroup, setting_options
from underpass.version import VERSION

__all__ = ["underpass"]

_CONTEXT = {"help_option_names": ["--help", "-h"], "max_content_width": 100}


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(_long_version())
        ctx.exit()


def _long_version() -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    return f"underpass version {VERSION} (Python {python}, {sys.platform})"


@click.group(
    cls=GoGroup,
    lazy={
        "tunnel": "underpass.cli.tunnel:tunnel",
        "access": "underpass.cli.access:access",
        "edge": "underpass.cli.edge:edge",
        "explain": "underpass.cli.explain:explain",
        "service": "underpass.cli.service:service",
        "tail": "underpass.cli.tail:tail",
        "update": "underpass.cli.update:update",
        "login": "underpass.cli.login:hidden_login",
        "management": "underpass.cli.management:management",
        "proxy-dns": "underpass.cli.removed:proxy_dns",
        "db-connect": "underpass.cli.removed:db_connect",
    },
    aliases={"forward": "access"},
    invoke_without_command=True,
    params=setting_options(hidden=True),
    context_settings=_CONTEXT,
    epilog="`underpass help COMMAND` and `underpass COMMAND --help` say more.",
)
@click.option(
    "--version",
    "-v",
    "-V",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@click.pass_context
def underpass(ctx: click.Context, /, **_: object) -> None:
    """Publish private applications through a tunnel, or run the edge that tunnels lead to."""
    if ctx.invoked_subcommand is not None:
        return
    from underpass.cli.tunnel import is_any_given, run_tunnel

    if is_any_given(ctx):
        ctx.exit(run_tunnel(ctx))
    click.echo(ctx.get_help())


@underpass.command()
@click.option("--short", "-s", is_flag=True, help="Only the number.")
def version(short: bool) -> None:
    """Show the version."""
    click.echo(VERSION if short else _long_version())


@underpass.command("help")
@click.argument("command", nargs=-1)
@click.pass_context
def show_help(ctx: click.Context, /, command: tuple[str, ...]) -> None:
    """Explain a command."""
    assert ctx.parent is not None
    found, shown = ctx.parent.command, ctx.parent
    for name in command:
        inner = found.get_command(shown, name) if isinstance(found, click.Group) else None
        if inner is None:
            raise click.UsageError(f"there is no command {' '.join(command)!r}", ctx)
        shown = click.Context(inner, info_name=name, parent=shown)
        found = inner
    click.echo(found.get_help(shown))
