"""`underpass tunnel login`: get an account certificate."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from underpass.account.certificate import CERTIFICATE_FILE, write_certificate
from underpass.account.login import CLOUDFLARE, Login, login_site
from underpass.cli.account import AccountCommand, account_settings
from underpass.cli.flags import GoOption
from underpass.cli.tunnel import load
from underpass.connector.settings import Settings, Source
from underpass.ops import directories
from underpass.ops.browser import open_browser

__all__ = ["hidden_login", "login"]

_log = logging.getLogger("underpass.cli")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a program that the signal ends."""


def _login(
    ctx: click.Context,
    /,
    page: str | None,
    callback: str | None,
    fedramp: bool | None,
    **_: object,
) -> None:
    """Log in with a browser, and keep the account certificate that comes of it."""
    settings = load(ctx).settings
    path = _path(settings)
    if path.exists() and path.stat().st_size:
        _log.error(
            "You have an existing certificate at %s which login would overwrite. If this is "
            "intentional, move it away, then run this command again",
            path,
        )
        return
    api_is_given = settings.source("api-url") is not Source.DEFAULT
    site = login_site(
        page,
        callback,
        fedramp=bool(fedramp),
        api_url=settings.text("api-url") if api_is_given else None,
    )
    cacert = settings.text("cacert")
    session = Login(site, cacert=Path(cacert).expanduser() if cacert else None)
    if open_browser(session.url):
        before = "A browser window should have opened at the following URL:"
        after = "If it did not, visit the URL above."
    else:
        before = "Please open the following URL and log in:"
        after = "Leave underpass running: it gets the certificate when you have logged in."
    click.echo(f"{before}\n\n{session.url}\n\n{after}", err=True)
    if site.shows_code:
        click.echo(f"The page has to show this code: {session.code}", err=True)
    try:
        certificate = session.wait()
    except KeyboardInterrupt:
        click.echo("\nThe login was broken off; nothing was written.", err=True)
        ctx.exit(INTERRUPTED)
    write_certificate(path, certificate)
    _log.info(
        "You have successfully logged in. To use your credentials on a server, copy them from %s",
        path,
    )


def _options() -> list[click.Parameter]:
    return [
        *account_settings(),
        GoOption(
            "loginURL",
            text=f"Page to log in at (default: that of --api-url, or {CLOUDFLARE.page}).",
            metavar="URL",
            parameter="page",
        ),
        GoOption(
            "callbackURL",
            text="Service that hands over the certificate (default: the one beside the page).",
            metavar="URL",
            parameter="callback",
        ),
        GoOption("fedramp", "f", text="Log in to the FedRAMP environment.", boolean=True),
    ]


def _command(*, hidden: bool) -> click.Command:
    return AccountCommand(
        "login",
        callback=click.pass_context(_login),
        params=_options(),
        help=_login.__doc__,
        hidden=hidden,
    )


login = _command(hidden=False)
hidden_login = _command(hidden=True)


def _path(settings: Settings) -> Path:
    """Where the other commands will look: what --origincert says, else in our own directory."""
    given = settings.text("origincert")
    if given:
        return Path(given).expanduser()
    return directories.config_directories()[0] / CERTIFICATE_FILE
