"""`underpass service`: have the operating system run a tunnel."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from underpass.cli.flags import GoGroup, given_levels, setting_options
from underpass.connector.config import load_config
from underpass.connector.settings import SettingError, Settings, Source, resolve
from underpass.connector.settings_table import SETTINGS
from underpass.operations.service import (
    Machine,
    ServiceError,
    ServiceRequest,
    find_manager,
    install,
    uninstall,
)
from underpass.ops.directories import config_directories
from underpass.ops.document import ConfigError
from underpass.ops.logging import LoggingError, LoggingOptions, configure_logging
from underpass.wire.credentials import Credentials, CredentialsError

__all__ = ["service"]

# Not handed on: they say which tunnel, and that goes into files.
_IDENTITY = frozenset({"token", "token-file", "config"})

_PATHS = frozenset(
    {
        *("cacert", "credentials-file", "log-directory", "logfile", "origin-ca-pool", "origincert"),
        *("pidfile", "unix-socket"),
    }
)


@click.group(cls=GoGroup)
def service() -> None:
    """Have the operating system start a tunnel, and start it again."""


@service.command("install", params=setting_options(hidden=True))
@click.option("--no-update-service", is_flag=True, hidden=True)
@click.argument("token", required=False, default="")
@click.pass_context
def install_command(ctx: click.Context, /, token: str, **_: object) -> None:
    """Install and start the service.

    \b
        underpass service install TOKEN
        underpass service install - < FILE     with the token in FILE, off the command line
        underpass service install              with a configuration file that names the tunnel
                                               and its credentials-file

    Other flags of `underpass tunnel`, like --edge and --cacert, are kept for the service.
    """
    settings = _settings(ctx)
    try:
        request = _request(settings, _token(token, settings))
        machine = Machine()
        manager = find_manager(machine)
        remarks = manager.remarks(machine)
        install(machine, manager, request)
    except (ServiceError, ConfigError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"The service is installed and runs ({manager.name}).", err=True)
    for remark in remarks:
        click.echo(f"Note: {remark}.", err=True)


@service.command("uninstall")
def uninstall_command() -> None:
    """Stop and remove the service and its token."""
    try:
        machine = Machine()
        uninstall(machine, find_manager(machine))
    except ServiceError as error:
        raise click.ClickException(str(error)) from None
    click.echo("The service is removed; a configuration file is left where it is.", err=True)


def _settings(ctx: click.Context) -> Settings:
    try:
        settings = resolve(given_levels(ctx), os.environ, {})
        configure_logging(LoggingOptions(level=settings.text("loglevel")))
    except (SettingError, LoggingError) as error:
        raise click.ClickException(str(error)) from None
    return settings


def _token(given: str, settings: Settings) -> str:
    """The token, from wherever it is given, checked; "" if it is not given."""
    path = settings.text("token-file")
    try:
        if given == "-":
            given = sys.stdin.read(64 * 1024)
        elif not given and path and not settings.text("token"):
            given = Path(path).expanduser().read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"cannot read the token from {path}: {error}") from None
    token = (given or settings.text("token")).strip()
    try:
        return Credentials.from_token(token).to_token() if token else ""
    except CredentialsError as error:
        raise click.ClickException(str(error)) from None


def _request(settings: Settings, token: str) -> ServiceRequest:
    """What the service runs. Raises ServiceError or ConfigError."""
    kept: list[str] = []
    for name, setting in SETTINGS.items():
        if settings.source(name) is not Source.COMMAND_LINE or name in _IDENTITY:
            continue
        if setting.secret:
            raise ServiceError(
                f"--{name} would be in the service's command line, where every user can read it"
            )
        kept += [f"--{name}={value}" for value in _spelt(settings, name)]
    if token:
        return ServiceRequest(_program(), tuple(kept), token)
    given = settings.text("config")
    config = load_config(Path(given) if given else None, config_directories())
    if config.path is None:
        raise ServiceError(
            "give a token, or write a configuration file with `tunnel` and `credentials-file`"
        )
    credentials = str(config.settings.get("credentials-file", ""))
    if not config.tunnel or not credentials:
        raise ServiceError(f"{config.path} has to name a `tunnel` and a `credentials-file`")
    if not Path(credentials).is_absolute() or not Path(credentials).is_file():
        raise ServiceError(
            f"{config.path}: credentials-file is {credentials}; a service needs the absolute path "
            "of a file that exists"
        )
    return ServiceRequest(_program(), tuple(kept), config=config.path.absolute())


def _spelt(settings: Settings, name: str) -> list[str]:
    kind = SETTINGS[name].kind
    if kind == "list":
        return list(settings.list(name))
    text = settings.shown()[name] if kind != "text" else settings.text(name)
    if name in _PATHS and text:
        text = str(Path(text).expanduser().absolute())
    return [text]


def _program() -> tuple[str, ...]:
    """This program, as a service manager can start it."""
    script = shutil.which("underpass", path=str(Path(sys.executable).parent))
    return (script,) if script else (sys.executable, "-m", "underpass")
