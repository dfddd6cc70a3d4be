"""`underpass edge`: run the public side."""

from __future__ import annotations

import os
from typing import Any

import click

from underpass.cli.flags import GoGroup, given_levels, setting_options
from underpass.cli.tunnel import EDGE_PACKAGES, fail
from underpass.connector.settings import SettingError, resolve
from underpass.ops.logging import LoggingError, LoggingOptions, configure_logging

__all__ = ["edge"]

_SETTINGS = ("loglevel", "output", "logfile", "log-directory")


@click.group(cls=GoGroup)
def edge() -> None:
    """Run the edge: the side that visitors and connectors come to."""


@edge.command("run", params=setting_options(_SETTINGS))
@click.option("--data-dir", metavar="DIR", help="Where keys, certificates and the store are kept.")
@click.option("--https", metavar="ADDR", help="Public listener with TLS.")
@click.option("--http", metavar="ADDR", help="Public listener without TLS.")
@click.option(
    "--tunnel",
    "tunnels",
    metavar="ADDR",
    multiple=True,
    help="Where connectors dial in; repeatable.",
)
@click.option("--api", metavar="ADDR", help="The control API.")
@click.option("--domain", metavar="NAME", help="Quick tunnels get names below it.")
@click.option(
    "--max-body",
    metavar="BYTES",
    type=int,
    help="The largest request body to let through. Without it, any size.",
)
@click.option(
    "--workers",
    metavar="N",
    help="Processes that serve: a number, or auto for one per processor. Without it, one.",
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    tunnels: tuple[str, ...],
    max_body: int | None,
    **given: str | None,
) -> None:
    """Serve visitors and connectors on this machine. Without options, on loopback only."""
    try:
        settings = resolve(given_levels(ctx), os.environ, {})
        configure_logging(
            LoggingOptions(
                level=settings.text("loglevel"),
                format=settings.text("output"),
                logfile=settings.text("logfile"),
                directory=settings.text("log-directory"),
            )
        )
    except (SettingError, LoggingError) as error:
        fail(str(error))
    from underpass.edge.errors import EdgeError
    from underpass.edge.options import EdgeOptions

    names = ("data_dir", "https", "http", "api", "domain", "workers")
    chosen: dict[str, Any] = {name: given[name] for name in names if given.get(name) is not None}
    if tunnels:
        chosen["tunnels"] = tunnels
    try:
        options = EdgeOptions.parse(**chosen, max_body=max_body)
    except EdgeError as error:
        raise click.UsageError(str(error), ctx) from None
    try:
        from underpass.edge.runner import run_edge
    except ModuleNotFoundError as error:
        if error.name not in EDGE_PACKAGES:
            raise
        fail("the edge needs more packages: pip install 'underpass[edge]'")
    ctx.exit(run_edge(options))
