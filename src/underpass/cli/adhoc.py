"""`underpass tunnel --name N`: a tunnel that is made, led to and run in one command."""

from __future__ import annotations

import logging
import uuid
from functools import partial
from pathlib import Path

from underpass.account.client import AccountClient
from underpass.account.errors import AccountError
from underpass.account.hostname_routes import lead_by_load_balancer, lead_hostname
from underpass.account.names import active_tunnels
from underpass.account.session import Account
from underpass.account.tunnels import create_tunnel
from underpass.cli.account import open_account_with
from underpass.cli.tunnel import fail, run_with_credentials
from underpass.cli.tunnels import show_created
from underpass.connector.configuration import Configuration
from underpass.connector.identity import credentials_of
from underpass.connector.settings import Settings
from underpass.ops.directories import config_directories

__all__ = ["run_adhoc_tunnel"]

_log = logging.getLogger("underpass.cli")


def run_adhoc_tunnel(configuration: Configuration) -> int:
    """Make the tunnel that --name says unless there is one, lead --hostname to it, run it; return
    the exit code. A hostname that cannot be led to it is only logged."""
    settings = configuration.settings
    hostname = settings.text("hostname")
    if hostname and hostname == settings.text("url"):
        fail("--hostname and --url are the same: one is public, the other the origin")
    try:
        account = open_account_with(settings)
        tunnel_id = _existing(account, settings) or _new(account, settings)
    except AccountError as error:
        fail(str(error))
    if hostname:
        _lead(account.client, tunnel_id, hostname, settings)
    places = config_directories()
    return run_with_credentials(configuration, partial(credentials_of, tunnel_id, settings, places))


def _existing(account: Account, settings: Settings) -> uuid.UUID | None:
    found = active_tunnels(account.client, settings.text("name"))
    if not found:
        return None
    _log.info("Reusing existing tunnel with this name", extra={"tunnelID": str(found[0].id)})
    return found[0].id


def _new(account: Account, settings: Settings) -> uuid.UUID:
    given = settings.text("credentials-file")
    chosen = Path(given).expanduser() if given else None
    tunnel, path = create_tunnel(account, settings.text("name"), path=chosen)
    show_created(tunnel, str(path), beside_certificate=chosen is None)
    return tunnel.id


def _lead(client: AccountClient, tunnel_id: uuid.UUID, hostname: str, settings: Settings) -> None:
    pool = settings.text("lb-pool")
    overwrite = settings.boolean("overwrite-dns")
    try:
        if pool:
            summary = lead_by_load_balancer(client, tunnel_id, hostname, pool)
        else:
            summary = lead_hostname(client, tunnel_id, hostname, overwrite=overwrite)
    except AccountError as error:
        _log.error("No traffic of %s is led to the tunnel: %s", hostname, error)
    else:
        _log.info(summary)
