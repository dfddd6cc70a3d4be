"""Tunnels from beginning to end: make one with its credentials file, delete both."""

from __future__ import annotations

import base64
import logging
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from underpass.account.errors import AccountError
from underpass.account.models import CreatedTunnel
from underpass.account.names import parse_id
from underpass.account.session import Account
from underpass.wire.credentials import (
    Credentials,
    CredentialsError,
    find_credentials_file,
    read_credentials_file,
    write_credentials_file,
)

__all__ = ["MIN_SECRET_BYTES", "create_tunnel", "delete_tunnel", "read_secret"]

MIN_SECRET_BYTES: Final = 32

_log = logging.getLogger(__name__)


def read_secret(text: str) -> bytes:
    """A tunnel secret given as base64. Raises AccountError, which does not quote it."""
    try:
        secret = base64.b64decode(text, validate=True)
    except ValueError:
        raise AccountError("the tunnel secret is not base64") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise AccountError(
            f"the tunnel secret has {len(secret)} bytes when decoded; it needs at least "
            f"{MIN_SECRET_BYTES}"
        )
    return secret


def create_tunnel(
    account: Account, name: str, *, secret: bytes | None = None, path: Path | None = None
) -> tuple[CreatedTunnel, Path]:
    """Make a tunnel and write its credentials to `path`, or beside the account certificate.

    A tunnel whose credentials cannot be written could never be run: it is deleted again. Raises
    AccountError.
    """
    if not name:
        raise AccountError("the tunnel needs a name")
    if parse_id(name) is not None:
        raise AccountError(f"{name} is a UUID, which a tunnel cannot be named; choose another name")
    if secret is None:
        secret = os.urandom(MIN_SECRET_BYTES)
    tunnel = account.client.create_tunnel(name, secret)
    certificate = account.certificate
    credentials = Credentials(certificate.account_id, secret, tunnel.id, certificate.endpoint)
    chosen = path or account.path.parent / f"{tunnel.id}.json"
    try:
        write_credentials_file(chosen, credentials)
    except CredentialsError as error:
        raise AccountError(f"{error}. {_undo(account, tunnel.id)}") from error
    return tunnel, chosen


def _undo(account: Account, tunnel_id: uuid.UUID) -> str:
    try:
        account.client.delete_tunnel(tunnel_id, cascade=True)
    except AccountError as error:
        return (
            f"The tunnel {tunnel_id} exists now but cannot be run, and could not be deleted again "
            f"({error}); delete it with `underpass tunnel delete {tunnel_id}`"
        )
    return f"The tunnel {tunnel_id} was deleted again, because it cannot be run without that file"


def delete_tunnel(
    account: Account,
    tunnel_id: uuid.UUID,
    *,
    force: bool,
    given: Path | None,
    places: Sequence[Path],
) -> None:
    """Delete a tunnel, and its credentials file if one is found: `given`, or in one of `places`.

    `force` deletes a tunnel that is connected, and what depends on it. Raises AccountError.
    """
    tunnel = account.client.tunnel(tunnel_id)
    if tunnel.deleted_at:
        raise AccountError(f"the tunnel {tunnel_id} was deleted already, at {tunnel.deleted_at}")
    account.client.delete_tunnel(tunnel_id, cascade=force)
    path = given if given is not None and given.is_file() else None
    if path is not None and not _belongs(path, tunnel_id):
        _log.info("%s is left alone: it is not the credentials file of tunnel %s", path, tunnel_id)
        return
    path = path or find_credentials_file(tunnel_id, places)
    if path is None:
        return
    try:
        path.unlink()
    except OSError as error:
        _log.info(
            "The tunnel %s was deleted, but not its credentials file %s; delete that yourself",
            tunnel_id,
            path,
            extra={"error": error.strerror},
        )


def _belongs(path: Path, tunnel_id: uuid.UUID) -> bool:
    """Whether a file holds the credentials of this tunnel. Old ones only say so in their name."""
    try:
        own = read_credentials_file(path, tunnel_id=parse_id(path.stem)).tunnel_id
    except CredentialsError:
        return False
    return own == tunnel_id
