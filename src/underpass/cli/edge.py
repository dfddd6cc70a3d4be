"""`underpass edge`: run the public side."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from underpass.cli.flags import GoGroup, given_levels, setting_options
from underpass.cli.tunnel import EDGE_PACKAGES, fail
from underpass.connector.settings import SettingError, resolve
from underpass.ops.logging import LoggingError, LoggingOptions, configure_logging

if TYPE_CHECKING:
    from underpass.edge.options import AcmeOptions

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
@click.option(
    "--certificate",
    "certificates",
    metavar="CHAIN[,KEY]",
    multiple=True,
    help="PEM files to serve the names in them with; repeatable. Read again when they change.",
)
@click.option(
    "--acme",
    is_flag=True,
    help="Have Let's Encrypt, or --acme-directory, certify the public names; accepts its terms.",
)
@click.option("--acme-email", metavar="ADDRESS", help="Whom the authority may write to.")
@click.option("--acme-directory", metavar="URL", help="Another ACME authority.")
@click.option(
    "--acme-roots", metavar="FILE", help="What that authority's own certificate is checked with."
)
@click.option(
    "--acme-dns-hook",
    metavar="COMMAND",
    help="Prove names by DNS, wildcards too: run with present|cleanup, record, value.",
)
@click.option(
    "--redirect", is_flag=True, help="Send visitors of the plain listener to the one with TLS."
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    tunnels: tuple[str, ...],
    max_body: int | None,
    certificates: tuple[str, ...],
    acme: bool,
    redirect: bool,
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
        options = EdgeOptions.parse(
            **chosen,
            max_body=max_body,
            certificates=certificates,
            acme=_acme(acme, given),
            redirect=redirect,
        )
    except EdgeError as error:
        raise click.UsageError(str(error), ctx) from None
    try:
        from underpass.edge.runner import run_edge
    except ModuleNotFoundError as error:
        if error.name not in EDGE_PACKAGES:
            raise
        fail("the edge needs more packages: pip install 'underpass[edge]'")
    ctx.exit(run_edge(options))


def _acme(wanted: bool, given: Mapping[str, str | None]) -> AcmeOptions | None:
    """Whom to ask for certificates. Raises OptionsError."""
    from underpass.edge.errors import OptionsError
    from underpass.edge.options import LETS_ENCRYPT, AcmeOptions

    names = ("acme_email", "acme_directory", "acme_roots", "acme_dns_hook")
    email, directory, roots, hook = (given.get(name) or "" for name in names)
    if not wanted:
        if email or directory or roots or hook:
            raise OptionsError("--acme-… options need --acme")
        return None
    if directory and not directory.startswith("https://"):
        raise OptionsError(f"--acme-directory {directory!r} is not an https address")
    return AcmeOptions(
        directory or LETS_ENCRYPT, email, Path(roots).expanduser() if roots else None, hook
    )
