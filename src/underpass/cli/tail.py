"""`underpass tail`: follow the log of a connector through its tunnel."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import click

from underpass.cli.flags import GoGroup, given_levels, setting_options
from underpass.connector.settings import SettingError, Settings, resolve
from underpass.ops.logging import LoggingError, LoggingOptions, configure_logging

__all__ = ["fetch_management_token", "tail"]

FED_HOSTNAME = "management.fed.argotunnel.com"

_SETTINGS = ("loglevel", "output", "origincert", "management-hostname")


class _TailGroup(GoGroup):
    """A word after `tail` that is no subcommand is the tunnel's id."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and super().get_command(ctx, args[0]) is not None:
            return super().resolve_command(ctx, args)
        return "of", _of, args


@click.group(
    cls=_TailGroup,
    lazy={"token": "underpass.cli.management:tail_token"},
    invoke_without_command=True,
    params=setting_options(_SETTINGS),
)
@click.option("--connector-id", default="", help="Only this connector of the tunnel.")
@click.option("--event", multiple=True, help="cloudflared, http, tcp or udp; repeatable.")
@click.option("--level", default=None, help="The least level: debug, info, warn or error.")
@click.option("--sample", default=None, help="The share of records to show, 0.0 to 1.0.")
@click.option("--token", default="", help="A management token; without it one is asked for.")
@click.option("--trace", default="", hidden=True, help="A cf-trace-id for the request.")
@click.pass_context
def tail(ctx: click.Context, /, **_: object) -> None:
    """Follow the log of a connector that runs.

    \b
        underpass tail [--level info] [--event http] TUNNEL-UUID

    Exit code 0 after Ctrl-C or when the connector closes the session, else 1.
    """
    if ctx.invoked_subcommand is None:
        ctx.exit(_run(ctx, ""))


@click.command("of", hidden=True)
@click.argument("tunnel_id", metavar="TUNNEL-UUID")
@click.pass_context
def _of(ctx: click.Context, tunnel_id: str) -> None:
    assert ctx.parent is not None
    ctx.exit(_run(ctx.parent, tunnel_id))


def fetch_management_token(ctx: click.Context, tunnel_id: uuid.UUID) -> str:
    """Ask the account's API for a token that allows to read the log of a tunnel's connectors."""
    from underpass.account.client import ManagementResource
    from underpass.account.errors import AccountError
    from underpass.cli.account import account_of

    try:
        account, _ = account_of(ctx)
        return account.client.management_token(tunnel_id, ManagementResource.LOGS)
    except AccountError as error:
        raise click.ClickException(f"{error} (or give a management token with --token)") from None


def _run(ctx: click.Context, tunnel_id: str) -> int:
    from underpass.operations import tail as following
    from underpass.wire.log_streaming import ManagementTokenError, parse_management_token

    settings = _settings(ctx)
    filters = _filters(ctx)
    connector_id = _given(ctx, "connector_id", "TUNNEL_MANAGEMENT_CONNECTOR")
    if connector_id:
        connector_id = str(_uuid(connector_id, "--connector-id"))
    token = _given(ctx, "token", "TUNNEL_MANAGEMENT_TOKEN")
    if not token:
        if not tunnel_id:
            raise click.UsageError("give the tunnel's id, or a --token", ctx)
        token = fetch_management_token(ctx, _uuid(tunnel_id, "the tunnel's id"))
    try:
        claims = parse_management_token(token)
    except ManagementTokenError as error:
        raise click.ClickException(str(error)) from None
    host = FED_HOSTNAME if claims.is_fed else settings.text("management-hostname")
    options = following.TailOptions(host, token, filters, connector_id, str(ctx.params["trace"]))
    formats = {"default": following.format_default, "json": following.format_json}
    return _follow(options, formats[settings.text("output") or "default"])


def _follow(options: Any, form: Any) -> int:
    import logging

    from underpass.connector.origin_request import OriginRequest
    from underpass.connector.trust import origin_context
    from underpass.operations.tail import TailError, follow
    from underpass.ops import event_loop
    from underpass.ops.signals import ShutdownSignals

    def show(log: Any) -> None:
        sys.stdout.write(form(log) + "\n")
        sys.stdout.flush()

    async def main() -> None:
        with ShutdownSignals(quiet=True) as signals:
            await follow(options, show, signals.stopping, origin_context(OriginRequest()))

    try:
        event_loop.run(main())
    except TailError as error:
        logging.getLogger("underpass.tail").error("%s", error)
        return 1
    except BrokenPipeError:
        # Whoever read the output has had enough of it; nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _settings(ctx: click.Context) -> Settings:
    try:
        settings = resolve(given_levels(ctx), os.environ, {})
        configure_logging(
            LoggingOptions(
                level=settings.text("loglevel"), format=settings.text("output") or "default"
            )
        )
    except (SettingError, LoggingError) as error:
        raise click.ClickException(str(error)) from None
    return settings


def _filters(ctx: click.Context) -> Any:
    from underpass.wire.log_streaming import LogEvent, LogFilters, LogLevel

    level = _given(ctx, "level", "TUNNEL_MANAGEMENT_FILTER_LEVEL") or "debug"
    events: Sequence[str] = ctx.params["event"] or [
        part.strip()
        for part in os.environ.get("TUNNEL_MANAGEMENT_FILTER_EVENTS", "").split(",")
        if part.strip()
    ]
    text = _given(ctx, "sample", "TUNNEL_MANAGEMENT_FILTER_SAMPLE") or "1.0"
    if level not in LogLevel.__members__:
        raise click.ClickException(f"--level {level!r} is not debug, info, warn or error")
    for event in events:
        if event not in LogEvent.__members__:
            raise click.ClickException(f"--event {event!r} is not cloudflared, http, tcp or udp")
    try:
        sample = float(text)
    except ValueError:
        sample = 0.0
    if not 0.0 < sample <= 1.0:
        raise click.ClickException(f"--sample {text} is not a number above 0 and up to 1")
    return LogFilters(LogLevel[level], tuple(LogEvent[event] for event in events), sample)


def _given(ctx: click.Context, name: str, variable: str) -> str:
    return str(ctx.params[name] or os.environ.get(variable, ""))


def _uuid(text: str, what: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise click.ClickException(f"{what}: {text!r} is not a UUID") from None
