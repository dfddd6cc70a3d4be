"""`underpass edge run` and `edge config`: an edge as flags and a file say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from underpass.cli.flags import GoCommand, GoGroup, given_levels, setting_options
from underpass.cli.tunnel import EDGE_PACKAGES, fail
from underpass.connector.settings import SettingError, Settings, resolve
from underpass.ops.access_log_options import AccessLogOptions
from underpass.ops.logging import LoggingError, LoggingOptions, configure_logging

if TYPE_CHECKING:
    from underpass.edge.options import AcmeOptions, EdgeOptions
    from underpass.edge.options_file import EdgeFile
    from underpass.edge.timeouts import Timeouts

__all__ = ["config", "run"]

_LOGGING = ("loglevel", "output", "logfile", "log-directory")
_ACCESS_LOG = ("access-log", "access-log-format", "access-log-query")
_CONFIG = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="The configuration file. Without it, ~/.underpass/edge.yml or /etc/underpass/edge.yml.",
)


class _Sources:
    """Where options come from: a command line and the environment, and a file if there is one."""

    def __init__(
        self, levels: list[Mapping[str, Any]], path: Path | None, given: Mapping[str, Any]
    ) -> None:
        self._levels = levels
        self._given = given
        self.path = path

    def load(self) -> EdgeFile | None:
        """The file as it is now. Raises ConfigError."""
        if self.path is None:
            return None
        from underpass.edge.options_file import load_edge_file

        return load_edge_file(self.path)

    def settings(self, file: EdgeFile | None) -> Settings:
        """What is about logs. Raises SettingError."""
        return resolve(self._levels, os.environ, {} if file is None else dict(file.logging))

    def options(self, file: EdgeFile | None) -> EdgeOptions:
        """Raises SettingError, ValueError (which OptionsError is)."""
        from underpass.edge.options import EdgeOptions

        given = dict(self._given)
        base = dict({} if file is None else file.options)
        access_log = AccessLogOptions.parse(*map(self.settings(file).text, _ACCESS_LOG))
        timeouts = _timeouts(base.get("timeouts"), given)
        return EdgeOptions.parse(
            base,
            acme=_acme(given.pop("acme"), given),
            timeouts=timeouts,
            access_log=access_log,
            **{name: value for name, value in given.items() if name not in _OWN_WAY},
        )


_OWN_WAY = frozenset(
    {
        *("first_byte", "idle", "total"),
        *("acme_email", "acme_directory", "acme_roots", "acme_dns_hook"),
    }
)


@click.command("run", cls=GoCommand, params=setting_options((*_LOGGING, *_ACCESS_LOG)))
@_CONFIG
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
@click.option(
    "--metrics",
    metavar="ADDR",
    help="For operators: /metrics, /healthz, /readyz. Without it, none.",
)
@click.option("--domain", metavar="NAME", help="Quick tunnels get names below it.")
@click.option(
    "--management-hostname",
    metavar="NAME",
    help="Where `tail` asks for connectors' logs. Without it, management.DOMAIN.",
)
@click.option(
    "--max-body",
    metavar="SIZE",
    help="The largest request body to let through, like 100MB. Without it, any size.",
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
@click.option(
    "--hsts",
    "hsts_seconds",
    metavar="SECONDS",
    type=int,
    help="Have browsers come with TLS only for so long (Strict-Transport-Security).",
)
@click.option(
    "--first-byte-timeout",
    "first_byte",
    metavar="SECONDS",
    type=float,
    help="How long an application may take to begin its response. Without it, 100.",
)
@click.option(
    "--idle-timeout",
    "idle",
    metavar="SECONDS",
    type=float,
    help="How long nothing may move in a response that has begun. Without it, for ever.",
)
@click.option(
    "--request-timeout",
    "total",
    metavar="SECONDS",
    type=float,
    help="How long a request may take in all, WebSockets excepted. Without it, for ever.",
)
@click.option(
    "--compress",
    is_flag=True,
    help="Code text in responses with gzip, for visitors who accept that.",
)
@click.option(
    "--error-pages",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Pages of your own: 503.html, 5xx.html, error.html.",
)
@click.pass_context
def run(ctx: click.Context, /, config_path: str | None, **given: Any) -> None:
    """Serve visitors and connectors on this machine. Without options, on loopback only."""
    from underpass.edge.errors import OptionsError

    sources = _sources(ctx, config_path, given)
    file = _load(sources)
    try:
        settings = sources.settings(file)
        configure_logging(
            LoggingOptions(
                level=settings.text("loglevel"),
                format=settings.text("output"),
                logfile=settings.text("logfile"),
                directory=settings.text("log-directory"),
            )
        )
        options = sources.options(file)
    except OptionsError as error:
        raise click.UsageError(str(error), ctx) from None
    except (SettingError, LoggingError, ValueError) as error:
        fail(str(error))
    try:
        from underpass.edge.reload import ConfiguredBy
        from underpass.edge.runner import run_edge
    except ModuleNotFoundError as error:
        if error.name not in EDGE_PACKAGES:
            raise
        fail("the edge needs more packages: pip install 'underpass[edge]'")
    source = ConfiguredBy(
        lambda: sources.options(sources.load()),
        sources.path,
        None if file is None else file.state,
    )
    ctx.exit(run_edge(options, source))


def _sources(ctx: click.Context, config_path: str | None, given: dict[str, Any]) -> _Sources:
    from underpass.edge.options_file import find_edge_file

    path = Path(config_path).expanduser() if config_path else find_edge_file()
    # What is not given is the file's to say.
    flags = {
        name: value if name in _NUMBERS else value or None
        for name, value in given.items()
        if not name.startswith("setting_")
    }
    if flags["error_pages"] is not None:
        flags["error_pages"] = flags["error_pages"].absolute()
    return _Sources(given_levels(ctx), path and path.absolute(), flags)


_NUMBERS = frozenset({"first_byte", "idle", "total", "hsts_seconds"})


def _load(sources: _Sources) -> EdgeFile | None:
    from underpass.ops.document import ConfigError

    try:
        return sources.load()
    except ConfigError as error:
        fail(str(error))


def _timeouts(base: Timeouts | None, given: Mapping[str, Any]) -> Timeouts:
    """How long requests may take. Raises OptionsError."""
    from dataclasses import replace

    from underpass.edge.timeouts import DEFAULT_TIMEOUTS

    names = ("first_byte", "idle", "total")
    changes = {name: given[name] for name in names if given[name] is not None}
    return replace(base or DEFAULT_TIMEOUTS, **changes)


def _acme(wanted: bool | None, given: Mapping[str, Any]) -> AcmeOptions | None:
    """Whom to ask for certificates; None: the command line does not say. Raises OptionsError."""
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


@click.group(cls=GoGroup)
def config() -> None:
    """The configuration file, edge.yml."""


@config.command("validate")
@_CONFIG
def validate(config_path: str | None) -> None:
    """Check the configuration file as `edge run` would; exit code 0 when it can be used, else 1."""
    from underpass.edge.certificate_files import read_certificate
    from underpass.edge.errors import EdgeError
    from underpass.edge.options_file import find_edge_file, load_edge_file
    from underpass.ops.document import ConfigError

    path = Path(config_path).expanduser() if config_path else find_edge_file()
    if path is None:
        fail("there is no ~/.underpass/edge.yml or /etc/underpass/edge.yml: say --config FILE")
    try:
        file = load_edge_file(path)
        for chain, key in file.options.get("certificates", ()):
            read_certificate(chain, key)
    except (ConfigError, EdgeError) as error:
        fail(str(error))
    click.echo(f"{path} is good")
