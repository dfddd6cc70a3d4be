"""`underpass access`: reach applications that a tunnel publishes, from the visitor's side."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from underpass.cli.flags import GoGroup, GoOption
from underpass.cli.tunnel import fail
from underpass.ops.logging import LoggingError, LoggingOptions, configure_logging

if TYPE_CHECKING:
    from underpass.visitor.access import AccessSession
    from underpass.visitor.application import Application
    from underpass.visitor.forward import GetToken

__all__ = ["access"]

T = TypeVar("T")


@click.group(
    cls=GoGroup,
    aliases={"rdp": "tcp", "ssh": "tcp", "smb": "tcp"},
    params=[
        GoOption("fedramp", text="Log in at Cloudflare's FedRAMP environment.", boolean=True),
    ],
)
def access(**_: object) -> None:
    """Reach applications behind a tunnel: SSH, RDP, SMB, any TCP."""


@access.command(
    "tcp",
    params=[
        GoOption(
            "hostname",
            "tunnel-host T",
            text="The application's host name or address.",
            env="TUNNEL_SERVICE_HOSTNAME",
        ),
        GoOption(
            "destination",
            text="What a bastion is to connect to, HOST:PORT.",
            env="TUNNEL_SERVICE_DESTINATION",
        ),
        GoOption(
            "url",
            "listener L",
            text="Listen on HOST:PORT; without it, use standard input and output.",
            env="TUNNEL_SERVICE_URL",
            metavar="HOST:PORT",
        ),
        GoOption("header", "H", text="A field for the request, `Name: value`.", multiple=True),
        GoOption(
            "service-token-id",
            "id",
            text="A service token's id, for those who cannot log in.",
            env="TUNNEL_SERVICE_TOKEN_ID",
        ),
        GoOption(
            "service-token-secret",
            "secret",
            text="A service token's secret.",
            env="TUNNEL_SERVICE_TOKEN_SECRET",
        ),
        GoOption("cacert", text="More roots for the edge's certificate, PEM.", metavar="FILE"),
        GoOption("logfile", text="Write the log to this file.", metavar="FILE"),
        GoOption("log-directory", text="Write the log to files here.", metavar="DIR"),
        GoOption("log-level", "loglevel", text="debug, info, warn, error or fatal."),
        GoOption("connect-to", text="Connect to HOST, HOST:PORT or SNI:PORT:HOST instead."),
    ],
)
@click.argument("listener", metavar="[HOST:PORT]", required=False)
@click.pass_context
def tcp(ctx: click.Context, /, listener: str | None, header: tuple[str, ...], **given: Any) -> None:
    """Carry a stream of bytes to an application, for ssh, rdp, smb and any other client.

    \b
    As a proxy command of ssh:
        ssh -o ProxyCommand='underpass access ssh --hostname %h' user@app.example.com
    With a local address:
        underpass access tcp --hostname db.example.com --url 127.0.0.1:5432
    """
    url = given["url"] or listener
    if not given["hostname"]:
        raise click.UsageError("the application is missing; give it with --hostname", ctx)
    _log_to(given, terminal=url is not None)
    from underpass.visitor.application import parse_application, parse_connect_to
    from underpass.visitor.errors import VisitorError
    from underpass.visitor.forward import forward_connections, forward_standard_streams
    from underpass.visitor.stream import StreamOptions, parse_headers

    headers = list(parse_headers(header))
    for name, value in (
        ("Cf-Access-Client-Id", given["service_token_id"]),
        ("Cf-Access-Client-Secret", given["service_token_secret"]),
        ("Cf-Access-Jump-Destination", given["destination"]),
    ):
        if value:
            headers.append((name, value))
    try:
        options = StreamOptions(
            parse_application(given["hostname"]),
            tuple(headers),
            parse_connect_to(given["connect_to"]) if given["connect_to"] else None,
            Path(given["cacert"]).expanduser() if given["cacert"] else None,
        )
        get_token = _token_getter(ctx, options.application)
        if url is None:
            _run(forward_standard_streams(options, get_token))
        else:
            _run(forward_connections(options, *_listener(url), get_token, listening=_say_listening))
    except VisitorError as error:
        fail(str(error))
    except BrokenPipeError:
        # Whoever read our output has gone: nobody is left to tell.
        ctx.exit(0)


@access.command(
    "login",
    params=[
        GoOption("quiet", "q", text="Print nothing.", boolean=True),
        GoOption("no-verbose", text="Print the token and nothing else.", boolean=True),
        GoOption("auto-close", text="Close the browser's page when done.", boolean=True),
        GoOption("app", text="The application's address.", metavar="URL"),
    ],
)
@click.argument("url", required=False)
@click.pass_context
def login(ctx: click.Context, /, url: str | None, app: str | None, **given: Any) -> None:
    """Log in to an application that Access protects, and print its token."""
    session = _session(ctx, app or url, auto_close=bool(given["auto_close"]))
    token = _blocking(session.verified_token)
    if given["quiet"]:
        return
    if given["no_verbose"] or app:
        click.echo(token, nl=False)
    else:
        click.echo(f"Successfully fetched your token:\n\n{token}\n\n", nl=False)


@access.command("token", params=[GoOption("app", text="The application's address.", metavar="URL")])
@click.argument("url", required=False)
@click.pass_context
def token(ctx: click.Context, /, url: str | None, app: str | None) -> None:
    """Print the stored token of an application; never log in."""
    session = _session(ctx, app or url)
    found = _blocking(session.stored_token)
    if found is None:
        fail(
            f"there is no token for {session.application.authority}; run `underpass access login "
            f"{session.application.url}`"
        )
    click.echo(found, nl=False)


@access.command(
    "curl",
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["--help"],
    },
    cls=click.Command,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="URL [CURL ARGUMENTS]")
@click.pass_context
def curl(ctx: click.Context, /, arguments: tuple[str, ...]) -> None:
    """Run curl with the token of an application.

    With -ar or --allow-request as the first argument nothing is asked of the user: without a token
    the request is made all the same.
    """
    import shutil
    import subprocess

    unattended = bool(arguments) and arguments[0] in ("-ar", "--allow-request")
    arguments = arguments[1:] if unattended else arguments
    address = next((text for text in arguments if not text.startswith("-")), None)
    session = _session(ctx, address, whole_address=False)
    found = _blocking(session.stored_token if unattended else session.verified_token)
    program = shutil.which("curl")
    if program is None:
        fail("there is no curl; install it, or use `underpass access token` with another program")
    header = ["-H", f"Cf-Access-Token: {found}"] if found else []
    ctx.exit(subprocess.run([program, *arguments, *header], check=False).returncode)  # noqa: S603


@access.command(
    "ssh-config",
    params=[
        GoOption("hostname", text="The application's host name.", metavar="NAME"),
        GoOption("short-lived-cert", text="With certificates that Access signs.", boolean=True),
    ],
)
def ssh_config_command(hostname: str | None, short_lived_cert: bool | None) -> None:
    """Print what ~/.ssh/config needs for `ssh HOSTNAME` to go through the tunnel."""
    import shutil

    from underpass.visitor.ssh import ssh_config
    from underpass.visitor.token_files import TokenFiles

    program = shutil.which(sys.argv[0]) or shutil.which("underpass") or "underpass"
    click.echo(f"\nAdd to your {Path.home()}/.ssh/config:\n")
    click.echo(
        ssh_config(
            hostname or "[your hostname]",
            str(Path(program).absolute()),
            TokenFiles().directory,
            short_lived=bool(short_lived_cert),
        )
    )


@access.command(
    "ssh-gen", params=[GoOption("hostname", text="The application's host name.", metavar="NAME")]
)
@click.pass_context
def ssh_gen(ctx: click.Context, /, hostname: str | None) -> None:
    """Have Access sign a key for ssh that is good for a few minutes."""
    if not hostname:
        raise click.UsageError("the application is missing; give it with --hostname", ctx)
    session = _session(ctx, hostname)

    def generate() -> Path:
        from underpass.visitor.ssh import write_certificate
        from underpass.visitor.token_files import TokenFiles

        return write_certificate(session.application, session.token(), TokenFiles().directory)

    click.echo(f"The certificate is in {_blocking(generate)}", err=True)


def _session(
    ctx: click.Context,
    address: str | None,
    *,
    auto_close: bool = False,
    whole_address: bool = True,
) -> AccessSession:
    """Tokens for the application at an address."""
    configure_logging(LoggingOptions(level="warn"), sys.stderr)
    if not address:
        raise click.UsageError("the application's address is missing", ctx)
    from underpass.visitor.access import AccessSession
    from underpass.visitor.application import parse_application
    from underpass.visitor.errors import VisitorError
    from underpass.visitor.transfer import SERVICE, SERVICE_FEDRAMP

    try:
        application = parse_application(address)
    except VisitorError as error:
        fail(str(error))
    return AccessSession(
        application,
        _show_login,
        service=SERVICE_FEDRAMP if _is_fedramp(ctx) else SERVICE,
        auto_close=auto_close,
        whole_address=whole_address,
    )


def _token_getter(ctx: click.Context, application: Application) -> GetToken:
    """For streams, which ask for a token only when they need one."""
    session: AccessSession | None = None
    lock = asyncio.Lock()

    async def get_token(is_refused: bool) -> str:
        nonlocal session
        from underpass.visitor.access import AccessSession
        from underpass.visitor.transfer import SERVICE, SERVICE_FEDRAMP

        # One login for all that wait.
        async with lock:
            if session is None:
                session = AccessSession(
                    application,
                    _show_login,
                    service=SERVICE_FEDRAMP if _is_fedramp(ctx) else SERVICE,
                )
            work = session.token_after_refusal if is_refused else session.token
            return await asyncio.to_thread(work)

    return get_token


def _show_login(url: str) -> None:
    """On standard error: standard output is for tokens, and for streams."""
    from underpass.ops.browser import open_browser

    if open_browser(url):
        text = "A browser window should have opened at the following URL:"
        more = "If the browser failed to open, please visit the URL above directly in your browser."
    else:
        text = "Please open the following URL and log in:"
        more = "Leave this command running: it goes on when you have logged in."
    click.echo(f"{text}\n\n{url}\n\n{more}", err=True)


def _is_fedramp(ctx: click.Context) -> bool:
    parent = ctx.parent
    return bool(parent is not None and parent.params.get("fedramp"))


def _blocking(work: Callable[[], T]) -> T:
    from underpass.visitor.errors import VisitorError

    try:
        return work()
    except VisitorError as error:
        fail(str(error))


def _run(work: Coroutine[Any, Any, None]) -> None:
    from underpass.ops import event_loop

    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        event_loop.run(work)


def _say_listening(host: str, port: int) -> None:
    import logging

    logging.getLogger("underpass.visitor").info(
        "Start Websocket listener", extra={"host": f"{host}:{port}"}
    )


def _listener(text: str) -> tuple[str, int]:
    from urllib.parse import urlsplit

    try:
        url = urlsplit(text if "://" in text else f"tcp://{text}")
        host, port = url.hostname, url.port
    except ValueError as error:
        fail(f"--url {text!r} is not HOST:PORT: {error}")
    if port is None:
        fail(f"--url {text!r} has no port; write HOST:PORT")
    return host or "", port


def _log_to(given: dict[str, Any], *, terminal: bool) -> None:
    """With standard streams only what goes wrong is told."""
    level = given["log_level"] or ("info" if terminal else "error")
    try:
        configure_logging(
            LoggingOptions(
                level=level,
                logfile=given["logfile"] or "",
                directory=given["log_directory"] or "",
            ),
            sys.stderr,
        )
    except LoggingError as error:
        fail(str(error))
