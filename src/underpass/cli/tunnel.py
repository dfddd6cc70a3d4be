"""`underpass tunnel`: publish an origin, run a named tunnel, ask a running one for its health."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
from msgspec.structs import replace

from underpass.cli.flags import GoGroup, given_levels, setting_options
from underpass.connector.config import Config, load_config
from underpass.connector.configuration import Configuration
from underpass.connector.identity import IdentityError, find_credentials, find_home_credentials
from underpass.connector.options import ORIGINS, ConnectorOptions, build_homes, build_options
from underpass.connector.settings import SettingError, Settings, Source, resolve
from underpass.ops.directories import config_directories
from underpass.ops.document import ConfigError
from underpass.ops.logging import LoggingError, LoggingOptions, configure_logging
from underpass.wire.credentials import Credentials, CredentialsError

__all__ = [
    "fail",
    "is_any_given",
    "load",
    "run_named_tunnel",
    "run_tunnel",
    "run_with_credentials",
    "tunnel",
]

_IDENTITY = ("token", "token-file", "credentials-contents", "credentials-file")
# Seconds for a running tunnel to answer `tunnel ready`.
_READY_TIMEOUT = 10.0
# Packages of the edge; a connector is installed without them.
EDGE_PACKAGES = frozenset({"idna", "jinja2", "starlette", "uvicorn"})

_log = logging.getLogger("underpass.cli")


@click.group(
    cls=GoGroup,
    lazy={
        "ingress": "underpass.cli.ingress:ingress",
        "login": "underpass.cli.login:login",
        "create": "underpass.cli.tunnels:create",
        "list": "underpass.cli.tunnels:list_",
        "info": "underpass.cli.tunnels:info",
        "delete": "underpass.cli.tunnels:delete",
        "cleanup": "underpass.cli.tunnels:cleanup",
        "drain": "underpass.cli.tunnels:drain",
        "token": "underpass.cli.tunnels:token",
        "route": "underpass.cli.routes:route",
        "vnet": "underpass.cli.vnets:vnet",
        "diag": "underpass.cli.diagnosis:diag",
        "proxy-dns": "underpass.cli.removed:proxy_dns",
        "db-connect": "underpass.cli.removed:db_connect",
    },
    invoke_without_command=True,
    params=setting_options(),
)
@click.pass_context
def tunnel(ctx: click.Context, /, **_: object) -> None:
    """Publish an application.

    \b
    With an origin and nothing else, make a quick tunnel to it:
        underpass tunnel --url http://localhost:8000
    With a token or credentials, run that tunnel:
        underpass tunnel run --token TOKEN
    With an account certificate, make a tunnel of your own:
        underpass tunnel login
        underpass tunnel create NAME
    """
    if ctx.invoked_subcommand is None:
        ctx.exit(run_tunnel(ctx))


@tunnel.command("run", params=setting_options())
@click.argument("tunnel_reference", metavar="[NAME|UUID]", required=False, default="")
@click.pass_context
def run(ctx: click.Context, /, tunnel_reference: str, **_: object) -> None:
    """Run a tunnel that exists, with its token or credentials.

    A name is looked up with the account certificate, unless a credentials file is given.
    """
    ctx.exit(run_named_tunnel(load(ctx), tunnel_reference))


@tunnel.command("ready", params=setting_options(["metrics", "config"]))
@click.pass_context
def ready(ctx: click.Context, /, **_: object) -> None:
    """Ask a running tunnel whether it is connected; exit code 0 if so.

    Needs the address its metrics are served at.
    """
    import http.client  # here, because only this command needs it

    settings = load(ctx).settings
    if not settings.is_set("metrics"):
        fail("the address of the running tunnel is missing; give it with --metrics host:port")
    address = settings.text("metrics")
    connection = http.client.HTTPConnection(address, timeout=_READY_TIMEOUT)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        body = response.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        fail(f"nothing answers at http://{address}/ready: {error}")
    finally:
        connection.close()
    if response.status != http.client.OK:
        fail(f"http://{address}/ready answers {response.status}: {body}")


@tunnel.command("precheck", params=setting_options())
@click.pass_context
def precheck(ctx: click.Context, /, **_: object) -> None:
    """Look which ways to the edge are open; exit code 0 if a link can be made.

    Takes the settings of a tunnel; credentials are not needed.
    """
    import asyncio  # here, because most commands need no event loop

    from underpass.connector import prechecks

    configuration = load(ctx)
    settings, config = configuration.settings, configuration.config
    try:
        options = build_options(settings, config)
        anybody = Credentials("", b"", uuid.UUID(int=0))
        homes = options.all_homes
        if config.homes:
            homes = build_homes(config.homes, options, lambda _: anybody)
    except (ConfigError, SettingError) as error:
        fail(str(error))
    report = asyncio.run(prechecks.check(homes))
    click.echo(prechecks.table(report))
    if report.is_hard_failure:
        ctx.exit(1)


def is_any_given(ctx: click.Context) -> bool:
    """Whether any setting stands on the command line of `ctx`."""
    return any(given_levels(ctx))


def load(ctx: click.Context) -> Configuration:
    """Gather settings and configuration, and set up logging. Errors end the command."""
    levels = given_levels(ctx)
    given = next((str(level["config"]) for level in levels if "config" in level), None)

    def read(path: Path | None) -> Configuration:
        config = load_config(path, config_directories())
        settings = resolve(levels, os.environ, config.settings)
        # The same file from now on: that it is gone must not lead to another one.
        return Configuration(settings, config, partial(read, config.path))

    try:
        configuration = read(Path(given) if given is not None else None)
        settings = configuration.settings
        configure_logging(
            LoggingOptions(
                level=settings.text("loglevel"),
                format=settings.text("output"),
                logfile=settings.text("logfile"),
                directory=settings.text("log-directory"),
            )
        )
    except (ConfigError, SettingError, LoggingError) as error:
        fail(str(error))
    return configuration


def run_tunnel(ctx: click.Context) -> int:
    """What `underpass tunnel` does without a subcommand: see its help."""
    configuration = load(ctx)
    settings, config = configuration.settings, configuration.config
    if settings.text("name"):
        from underpass.cli.adhoc import run_adhoc_tunnel

        return run_adhoc_tunnel(configuration)
    if any(settings.source(name) is Source.COMMAND_LINE for name in _IDENTITY):
        return run_named_tunnel(configuration, "")
    if any(settings.is_set(name) for name in ORIGINS):
        return run_quick_tunnel(configuration)
    if any(settings.source(name) is Source.ENVIRONMENT for name in _IDENTITY):
        return run_named_tunnel(configuration, "")
    if config.tunnel:
        raise click.ClickException(
            f"{config.path} names the tunnel {config.tunnel}; start it with `underpass tunnel run`"
        )
    if settings.text("hostname"):
        raise click.ClickException(
            "--hostname needs --name NAME: the tunnel that the hostname is to lead to"
        )
    raise click.ClickException(
        "there is nothing to do: give --url ORIGIN or --hello-world for a quick tunnel, or use "
        "`underpass tunnel run` for a tunnel that exists"
    )


def run_named_tunnel(configuration: Configuration, reference: str) -> int:
    """Run the tunnel that flags, configuration or `reference` name; return the exit code."""
    settings, config = configuration.settings, configuration.config
    if settings.text("hostname"):
        _log.warning(
            "--hostname is ignored: a tunnel that exists gets its hostnames from `underpass tunnel "
            "route dns`"
        )

    def find() -> Credentials:
        named = reference or config.tunnel
        return find_credentials(settings, named, config_directories(), partial(_look_up, settings))

    return run_with_credentials(configuration, find)


def run_with_credentials(configuration: Configuration, find: Callable[[], Credentials]) -> int:
    """Run the tunnel whose credentials `find` finds; return the exit code."""
    settings, config = configuration.settings, configuration.config
    _remark(settings, config)
    try:
        options = _with_credentials(configuration, find)
    except (IdentityError, CredentialsError, ConfigError, SettingError) as error:
        fail(str(error))
    if config.ingress is None and not any(settings.is_set(name) for name in ORIGINS):
        # Whoever has a token mostly has rules at the edge, too.
        _log.log(
            logging.INFO if settings.is_set("token") else logging.WARNING,
            "No ingress rules and no origin are given; requests are answered with 503 "
            "until the edge sends rules",
        )
    return _run_connector(options, configuration)


def _with_credentials(
    configuration: Configuration, find: Callable[[], Credentials]
) -> ConnectorOptions:
    """The options, and the credentials of the one home or of all. Raises what
    `run_with_credentials` catches."""
    settings, config = configuration.settings, configuration.config
    options = build_options(settings, config)
    if config.homes:
        homes = build_homes(
            config.homes,
            options,
            lambda home: find_home_credentials(home, settings, find, config_directories()),
        )
        return replace(options, homes=homes)
    credentials = find()
    if options.region and credentials.endpoint:
        raise SettingError("--region cannot be used with credentials that name their own endpoint")
    return replace(options, credentials=credentials)


def run_quick_tunnel(configuration: Configuration) -> int:
    """Get a tunnel with a name of its own, from a service or an edge in this process; run it."""
    settings, config = configuration.settings, configuration.config
    _remark(settings, config)
    try:
        options = replace(build_options(settings, config), ha_connections=1)
    except SettingError as error:
        fail(str(error))
    if config.homes:
        _log.warning("A quick tunnel has a home of its own; `homes` is left alone")
    service = settings.text("quick-service")
    if not service:
        return _run_embedded(options, configuration)
    from underpass.connector.quick import request_quick_tunnel_blocking
    from underpass.wire.quick_tunnel import QuickTunnelError

    _log.info("Requesting a new quick tunnel from %s", service)
    try:
        quick = request_quick_tunnel_blocking(service, options.cacert)
    except QuickTunnelError as error:
        fail(str(error))
    _show_url(quick.url)
    return _run_connector(
        replace(options, credentials=quick.credentials, quick_hostname=quick.hostname),
        configuration,
    )


def fail(message: str) -> NoReturn:
    """End the command with exit code 1."""
    raise click.ClickException(message)


def _look_up(settings: Settings, name: str) -> uuid.UUID:
    """The id of the account's tunnel of that name."""
    from underpass.account.errors import AccountError
    from underpass.account.names import find_tunnel
    from underpass.cli.account import open_account_with

    try:
        return find_tunnel(open_account_with(settings).client, name)
    except AccountError as error:
        fail(f"cannot look up the tunnel {name!r}: {error}")


def _run_connector(options: ConnectorOptions, configuration: Configuration) -> int:
    from underpass.connector.runner import run_connector

    return run_connector(options, configuration)


def _run_embedded(options: ConnectorOptions, configuration: Configuration) -> int:
    try:
        from underpass.cli.embedded import run_embedded
    except ModuleNotFoundError as error:
        if error.name not in EDGE_PACKAGES:
            raise
        fail(
            "a quick tunnel without --quick-service runs an edge in this process, which needs "
            "more packages: pip install 'underpass[edge]'"
        )
    return run_embedded(options, configuration)


def _remark(settings: Settings, config: Config) -> None:
    if config.path is not None:
        _log.info("Using configuration from %s", config.path)
    for remark in config.remarks:
        _log.warning(remark)
    _log.info("Settings", extra={"settings": settings.shown()})
    if settings.text("trace-output"):
        _log.warning(
            "--trace-output has no effect: there is no trace of Go's runtime to write; the metrics "
            "server's /debug/stacks and /debug/memory tell what the program does"
        )
    if settings.text("protocol") == "h2mux":
        _log.warning("The protocol h2mux is gone; using http2")


def _show_url(url: str) -> None:
    lines = ["Your quick tunnel has been created. Visit it at:", url]
    width = max(len(line) for line in lines) + 4
    border = f"+{'-' * width}+"
    for line in (border, *(f"|  {line.ljust(width - 2)}|" for line in lines), border):
        _log.info(line)
