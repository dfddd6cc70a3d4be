"""What the commands on an account have in common: settings, the account, errors, documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from underpass.account.errors import AccountError
from underpass.account.session import Account, open_account
from underpass.cli.flags import GoCommand, GoGroup, GoOption, given_levels, setting_options
from underpass.cli.tunnel import fail, load
from underpass.connector.settings import Settings, Source
from underpass.ops import directories
from underpass.wire.credentials import CredentialsError

__all__ = [
    "AccountCommand",
    "AccountGroup",
    "account_of",
    "account_settings",
    "credentials_places",
    "echo_document",
    "given_path",
    "open_account_with",
    "output_format",
    "output_option",
]

_SETTINGS = (
    "config",
    "origincert",
    "api-url",
    "max-fetch-size",
    "cacert",
    "loglevel",
    "logfile",
    "log-directory",
)


class AccountCommand(GoCommand):
    """A command that ends with exit code 1 and the text when something about the account fails."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (AccountError, CredentialsError) as error:
            fail(str(error))


class AccountGroup(GoGroup):
    """A group of such commands."""

    command_class = AccountCommand


def account_settings(*more: str) -> list[click.Parameter]:
    """The settings that every such command takes, and `more`."""
    return setting_options([*_SETTINGS, *more])


def account_of(ctx: click.Context) -> tuple[Account, Settings]:
    """The account that the settings name. Sets up logging. Raises AccountError."""
    settings = load(ctx).settings
    return open_account_with(settings), settings


def open_account_with(settings: Settings) -> Account:
    """The same with settings read before. Raises AccountError."""
    cacert = settings.text("cacert")
    return open_account(
        settings.text("origincert"),
        settings.text("api-url"),
        directories.config_directories(),
        page_size=settings.integer("max-fetch-size"),
        cacert=Path(cacert).expanduser() if cacert else None,
    )


def given_path(settings: Settings) -> Path | None:
    """The credentials file that a command is given. One that the configuration file names is that
    of the tunnel it configures, and not for what is done with others."""
    if settings.source("credentials-file") is Source.CONFIG:
        return None
    name = settings.text("credentials-file")
    return Path(name).expanduser() if name else None


def credentials_places(account: Account) -> Sequence[Path]:
    """Where a tunnel's credentials file is looked for."""
    return [account.path.parent, *directories.config_directories()]


def output_option() -> GoOption:
    """`--output`; its value is for `output_format`."""
    return GoOption("output", "o", text="Print a document instead of a table.", metavar="json|yaml")


def output_format(ctx: click.Context, given: str | None) -> str:
    """The format asked for, json or yaml, or "". Anything else is a usage error.

    `tunnel --output json list` means the list too, not only the log.
    """
    if given:
        if given not in ("json", "yaml"):
            raise click.UsageError(f"--output {given!r} is neither json nor yaml", ctx)
        return given
    levels = (level["output"] for level in given_levels(ctx) if "output" in level)
    return "json" if next(levels, "") == "json" else ""


def echo_document(value: Any, chosen: str) -> None:
    """Print a model, or a list of them, as a JSON or YAML document."""
    from underpass.cli import account_documents, documents  # YAML is slow to import

    if chosen == "json":
        shaped = account_documents.document(value, account_documents.JSON)
        click.echo(documents.to_json(shaped), nl=False)
    else:
        shaped = account_documents.document(value, account_documents.YAML)
        click.echo(documents.to_yaml(shaped), nl=False)
