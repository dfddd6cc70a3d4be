"""`underpass edge`: run the public side, and say who may use it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from underpass.cli.edge_run import config, run
from underpass.cli.flags import GoGroup
from underpass.cli.tunnel import fail

if TYPE_CHECKING:
    from underpass.edge.administration import Administration
    from underpass.edge.status import Status

__all__ = ["edge"]


@click.group(cls=GoGroup)
def edge() -> None:
    """Run the edge: the side that visitors and connectors come to."""


edge.add_command(run)
edge.add_command(config)


_DATA_DIR = click.option(
    "--data-dir", metavar="DIR", help="Where keys, certificates and the store are kept."
)
_CERT = click.option(
    "--cert", metavar="FILE", help="Write a cert.pem with the token, for command lines."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@edge.command()
@_DATA_DIR
@click.option("--account", default="main", metavar="NAME", help="The account's name (main).")
@click.option(
    "--domain",
    default="",
    metavar="NAME",
    help="Confine the account to this hostname and those below it; nobody else gets any of them.",
)
@click.option(
    "--cert", metavar="FILE", help="Where to write cert.pem. Without it, into the data directory."
)
def init(data_dir: str | None, account: str, domain: str, cert: str | None) -> None:
    """Set an edge up: certificate authority, first account, a token for its administrator."""
    from underpass.edge.administration import initialize, write_secret_file

    directory = _directory(data_dir)
    path = Path(cert).expanduser() if cert else directory / "cert.pem"
    with _failing():
        if path.exists():
            fail(f"{path} exists already: move it away, or name another with --cert")
        made, certificate = initialize(directory, account, domain)
        write_secret_file(path, certificate)
    click.echo(f"Data directory  {directory}")
    click.echo(f"Authority       {directory / 'ca.pem'}")
    click.echo(f"Account         {made.name} ({made.id})")
    click.echo(f"Hostnames       {f'{domain} and below' if domain else 'any'}")
    click.echo(f"Certificate     {path}  (secret: it manages the account's tunnels)")
    click.echo()
    click.echo("Start the edge with `underpass edge run`. Whoever manages tunnels gets the")
    click.echo(
        "certificate as ~/.underpass/cert.pem (cloudflared: ~/.cloudflared/cert.pem), and says"
    )
    click.echo()
    click.echo("  export TUNNEL_API_URL=http://127.0.0.1:8081")
    click.echo("  underpass tunnel create NAME")


@edge.command()
@_DATA_DIR
@_JSON
@click.option(
    "--metrics", metavar="ADDR", help="Ask this listener of an edge's operators, wherever it is."
)
def status(data_dir: str | None, as_json: bool, metrics: str | None) -> None:
    """Show how the edge on this machine is; exit code 0 when it serves, else 1."""
    from underpass.edge.status import ask_metrics, read_status

    with _failing():
        found = read_status(_directory(data_dir)) if metrics is None else ask_metrics(metrics)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(found)))
    else:
        for name, text in _status_rows(found):
            click.echo(f"{name:<14}{text}")
    click.get_current_context().exit(0 if found.is_well else 1)


def _status_rows(status: Status) -> Iterator[tuple[str, str]]:
    yield "State", status.state + (f" ({status.problem})" if status.problem else "")
    if status.edge is not None:
        edge = status.edge
        workers = f", {edge.workers} workers" if edge.workers > 1 else ""
        since = _time(edge.started_at)
        yield "Process", f"{edge.pid}, version {edge.version}, since {since}{workers}"
        yield "Visitors", f"https://{edge.https}  http://{edge.http}"
        yield "Connectors", ", ".join(edge.tunnels)
        yield "API", f"http://{edge.api}"
        if edge.dashboard is not None:
            yield "Dashboard", edge.dashboard
        if edge.metrics is not None:
            yield "Operators", f"http://{edge.metrics}"
    if status.figures is not None:
        figures = status.figures
        yield "Tunnels", f"{figures.tunnels}, {figures.tunnels_with_links} with connectors"
        yield "Links", str(figures.links)
        yield "Hostnames", str(figures.routes)
        yield "Store", f"revision {figures.revision}"
        yield (
            "Requests",
            f"{figures.requests}, {figures.active_requests} in flight, {figures.failures} failed",
        )
        yield (
            "Connections",
            f"{figures.visitor_connections}; {figures.handshake_failures} TLS handshakes failed",
        )
        if figures.first_certificate_ends is not None:
            ends = _time(figures.first_certificate_ends)
            yield "Certificates", f"the first to end is {figures.first_certificate} at {ends}"


@edge.command()
@_DATA_DIR
@_JSON
def upgrade(data_dir: str | None, as_json: bool) -> None:
    """Have the running edge replaced by the program as it is installed now; no request fails.

    The new process gets the same options. If it does not serve, the running one goes on.
    """
    from underpass.edge.upgrades import upgrade as replace_process

    with _failing():
        done = replace_process(_directory(data_dir))
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(done)))
        return
    click.echo(f"Process {done.successor} has taken over from process {done.pid}, which ends")
    click.echo("when what it has under way has ended.")


@edge.command()
@_DATA_DIR
@click.argument("file", type=click.Path(path_type=Path))
def backup(data_dir: str | None, file: Path) -> None:
    """Write store, authority, keys and certificates to FILE; the edge may be running."""
    from underpass.edge.backup import back_up

    with _failing():
        manifest = back_up(_directory(data_dir), file)
    click.echo(f"Wrote {len(manifest.files)} files to {file}  (secret: it can be this edge)")


@edge.command()
@_DATA_DIR
@click.option("--force", is_flag=True, help="Replace the edge that is there; it is kept beside.")
@click.argument("file", type=click.Path(path_type=Path))
def restore(data_dir: str | None, force: bool, file: Path) -> None:
    """Make the data directory of a backup. The edge must not be running."""
    from underpass.edge.backup import restore as restore_backup

    directory = _directory(data_dir)
    with _failing():
        manifest, kept = restore_backup(file, directory, force=force)
    made = _time(manifest.created_at)
    click.echo(f"Restored {len(manifest.files)} files to {directory}, as of {made}")
    if kept is not None:
        click.echo(f"What was there is in {kept}")


@edge.command("sign-in")
@_DATA_DIR
@click.option("--account", default="", metavar="NAME", help="Whose; needless when there is one.")
def sign_in(data_dir: str | None, account: str) -> None:
    """Print a link that signs a browser in to the dashboard, once, within ten minutes.

    Whoever opens it manages everything of the account: give it to nobody else.
    """
    from underpass.edge.administration import make_sign_in_link

    with _failing():
        click.echo(make_sign_in_link(_directory(data_dir), account))


@edge.group()
def account() -> None:
    """Accounts: who may have tunnels here."""


@account.command("create")
@_DATA_DIR
@click.option("--domain", default="", metavar="NAME", help="The account's own, for it alone.")
@click.argument("name")
def create_account(data_dir: str | None, domain: str, name: str) -> None:
    """Make an account."""

    async def work(edge: Administration) -> str:
        return (await edge.accounts.create_account(name, domain, edge.author)).id

    click.echo(f"Created account {name} with id {_administer(data_dir, work)}")


@account.command("list")
@_DATA_DIR
@_JSON
def list_accounts(data_dir: str | None, as_json: bool) -> None:
    """Show the accounts."""

    async def work(edge: Administration) -> list[dict[str, str]]:
        return [
            {
                "id": account.id,
                "name": account.name,
                "domain": account.domain,
                "zone_id": account.zone_id,
                "created_at": _time(account.created_at),
            }
            for account in edge.registry.accounts.values()
        ]

    _show(_administer(data_dir, work), as_json)


@edge.group()
def token() -> None:
    """API tokens: what manages an account's tunnels."""


@token.command("create")
@_DATA_DIR
@_CERT
@click.option("--account", default="", metavar="NAME", help="Whose; needless when there is one.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="SCOPE",
    help="What it allows: read, tunnels, routes, tokens; repeatable. Without it, all but tokens.",
)
@click.option(
    "--hostname",
    "hostnames",
    multiple=True,
    metavar="NAME",
    help="Confine it to this hostname, or *.SUFFIX; repeatable.",
)
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True, max=36500),
    metavar="N",
    help="It ends after so long. Without it, never.",
)
@click.argument("name")
def create_token(
    data_dir: str | None,
    cert: str | None,
    account: str,
    scopes: tuple[str, ...],
    hostnames: tuple[str, ...],
    days: float | None,
    name: str,
) -> None:
    """Make an API token, and show it this once."""

    async def work(edge: Administration) -> tuple[str, str, bytes]:
        from underpass.edge.accounts import DEFAULT_SCOPES

        expires_at = None if days is None else datetime.now(timezone.utc) + timedelta(days=days)
        made, text = await edge.accounts.create_token(
            edge.accounts.account(account),
            name,
            edge.author,
            scopes=scopes or DEFAULT_SCOPES,
            hostnames=hostnames,
            expires_at=expires_at,
        )
        return made.id, text, edge.certificate(made, text)

    _give_out(_administer(data_dir, work), cert)


@token.command("list")
@_DATA_DIR
@_JSON
def list_tokens(data_dir: str | None, as_json: bool) -> None:
    """Show the API tokens, not their secrets."""

    async def work(edge: Administration) -> list[dict[str, str]]:
        return [
            {
                "id": token.id,
                "name": token.name,
                "account": edge.registry.accounts[token.account_id].name,
                "scopes": " ".join(token.scopes),
                "hostnames": " ".join(token.hostnames) or "any",
                "created_at": _time(token.created_at),
                "expires_at": _time(token.expires_at),
                "old_secret_until": _time(token.previous_expires_at),
            }
            for token in edge.registry.tokens.values()
        ]

    _show(_administer(data_dir, work), as_json)


@token.command("rotate")
@_DATA_DIR
@_CERT
@click.option(
    "--hours",
    type=click.FloatRange(min=0, max=8760),
    default=24.0,
    metavar="N",
    help="How long the old secret stays good (24).",
)
@click.argument("token_id", metavar="ID")
def rotate_token(data_dir: str | None, cert: str | None, hours: float, token_id: str) -> None:
    """Give a token a new secret; the old one stays good for a while."""

    async def work(edge: Administration) -> tuple[str, str, bytes]:
        made, text = await edge.accounts.rotate_token(token_id, edge.author, hours=hours)
        return made.id, text, edge.certificate(made, text)

    _give_out(_administer(data_dir, work), cert)


@token.command("revoke")
@_DATA_DIR
@click.argument("token_id", metavar="ID")
def revoke_token(data_dir: str | None, token_id: str) -> None:
    """End a token for good. A running edge refuses it within a second."""

    async def work(edge: Administration) -> str:
        return (await edge.accounts.revoke_token(token_id, edge.author)).name

    click.echo(f"Revoked API token {token_id} ({_administer(data_dir, work)})")


@edge.command()
@_DATA_DIR
@_JSON
@click.option("--account", default="", metavar="NAME", help="Of this account only.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    metavar="N",
    help="The newest so many (50).",
)
def audit(data_dir: str | None, as_json: bool, account: str, limit: int) -> None:
    """Show who changed what, the newest first."""

    async def work(edge: Administration) -> list[dict[str, str]]:
        account_id = edge.accounts.account(account).id if account else None
        return [
            {
                "number": str(record.number),
                "at": _time(record.at),
                "actor": record.entry.actor,
                "source": record.entry.source,
                "action": record.entry.action,
                "target": record.entry.target,
                "detail": record.entry.detail,
            }
            for record in await edge.store.audit(limit=limit, account_id=account_id)
        ]

    _show(_administer(data_dir, work), as_json)


T = TypeVar("T")


def _directory(data_dir: str | None) -> Path:
    if data_dir:
        return Path(data_dir).expanduser().absolute()
    from underpass.edge.options import default_data_dir
    from underpass.edge.options_file import find_edge_file, load_edge_file
    from underpass.ops.document import ConfigError

    found = find_edge_file()
    try:
        configured = None if found is None else load_edge_file(found).options.get("data_dir")
    except ConfigError as error:
        fail(f"{error} (or say --data-dir)")
    return configured or default_data_dir()


def _administer(data_dir: str | None, work: Callable[[Administration], Awaitable[T]]) -> T:
    from underpass.edge.administration import administer

    with _failing():
        return administer(_directory(data_dir), work)


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """What keeps an edge from something is told in one line."""
    from underpass.edge.errors import EdgeError

    try:
        yield
    except EdgeError as error:
        fail(str(error))


def _give_out(made: tuple[str, str, bytes], cert: str | None) -> None:
    """Show a token, or put it into a file."""
    token_id, text, certificate = made
    if cert is None:
        click.echo(text)
        return
    from underpass.edge.administration import write_secret_file

    path = Path(cert).expanduser()
    with _failing():
        write_secret_file(path, certificate)
    click.echo(f"Wrote API token {token_id} to {path}")


def _show(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("There are none.")
        return
    names = list(rows[0])
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in names]
    for line in (dict(zip(names, (name.upper() for name in names), strict=True)), *rows):
        cells = (line[name].ljust(width) for name, width in zip(names, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _time(time: datetime | None) -> str:
    return "" if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")
