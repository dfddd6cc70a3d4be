"""Which tunnel to run, and with which credentials (docs: command line §2, §5.1)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from underpass.connector.homes import HomeEntry
from underpass.connector.settings import Settings
from underpass.wire.credentials import (
    MAX_CREDENTIALS_BYTES,
    Credentials,
    CredentialsError,
    find_credentials_file,
    read_credentials_file,
)

__all__ = ["IdentityError", "credentials_of", "find_credentials", "find_home_credentials"]

# What old credentials files, which do not say whose they are, get until a name is looked up.
_UNKNOWN = uuid.UUID(int=0)


class IdentityError(ValueError):
    """No tunnel was named, or its credentials were not found; the text says what to give."""


def find_credentials(
    settings: Settings,
    reference: str,
    directories: Sequence[Path],
    look_up: Callable[[str], uuid.UUID],
) -> Credentials:
    """The credentials of the tunnel to run.

    A token wins over everything. Else `reference`, a UUID or a name, says which tunnel; it may be
    empty when a credentials file says it. A name is looked up by `look_up` unless the credentials
    given say whose they are; they are not asked for their tunnel's name, which they do not know.
    Raises IdentityError or CredentialsError, and what `look_up` does.
    """
    if token := _token(settings):
        return Credentials.from_token(token)
    tunnel_id = _uuid(reference)
    if tunnel_id is None:
        given = _given_credentials(settings, _UNKNOWN if reference else None)
        if given is not None and given.tunnel_id != _UNKNOWN:
            return given
        if not reference:
            raise IdentityError(
                "no tunnel is named: give --token, or --credentials-file, or the tunnel's name or "
                "UUID, or a configuration file with the key `tunnel`"
            )
        tunnel_id = look_up(reference)
    return credentials_of(tunnel_id, settings, directories)


def credentials_of(
    tunnel_id: uuid.UUID, settings: Settings, directories: Sequence[Path]
) -> Credentials:
    """The credentials of a tunnel that is known, whatever token may be given.

    Raises IdentityError or CredentialsError.
    """
    given = _given_credentials(settings, tunnel_id)
    if given is not None:
        return Credentials(given.account_tag, given.tunnel_secret, tunnel_id, given.endpoint)
    return _search(settings, tunnel_id, directories)


def find_home_credentials(
    home: HomeEntry,
    settings: Settings,
    find: Callable[[], Credentials],
    directories: Sequence[Path],
) -> Credentials:
    """The credentials a home names, else those that `find` finds, of the tunnel to run.

    Raises IdentityError or CredentialsError, and what `find` does.
    """
    if home.token_file:
        return Credentials.from_token(_read_token(Path(home.token_file).expanduser()))
    if home.credentials_file:
        path = Path(home.credentials_file).expanduser()
        return read_credentials_file(path, tunnel_id=home.tunnel)
    if home.tunnel is not None:
        return _search(settings, home.tunnel, directories)
    try:
        return find()
    except IdentityError as error:
        raise IdentityError(
            f"home {home.name!r} has no credentials of its own, and {error}"
        ) from None


def _token(settings: Settings) -> str:
    if token := settings.text("token"):
        return token
    name = settings.text("token-file")
    return _read_token(Path(name).expanduser()) if name else ""


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CREDENTIALS_BYTES + 1)
    except OSError as error:
        raise CredentialsError(f"cannot read the token file {path}: {error.strerror}") from None
    try:
        token = text.decode("ascii").strip()
    except UnicodeDecodeError:
        raise CredentialsError(f"the token file {path} does not hold a token") from None
    if not token:
        raise CredentialsError(f"the token file {path} is empty")
    return token


def _given_credentials(settings: Settings, tunnel_id: uuid.UUID | None) -> Credentials | None:
    if contents := settings.text("credentials-contents"):
        return Credentials.from_json(
            contents, tunnel_id=tunnel_id, what="the value of --credentials-contents"
        )
    if name := settings.text("credentials-file"):
        return read_credentials_file(Path(name).expanduser(), tunnel_id=tunnel_id)
    return None


def _search(settings: Settings, tunnel_id: uuid.UUID, directories: Sequence[Path]) -> Credentials:
    certificate = settings.text("origincert")
    places = [Path(certificate).expanduser().parent] if certificate else []
    places += directories
    path = find_credentials_file(tunnel_id, places)
    if path is None:
        looked = ", ".join(str(place) for place in places)
        raise IdentityError(
            f"the credentials file {tunnel_id}.json is in none of {looked}; give it with "
            "--credentials-file"
        )
    return read_credentials_file(path, tunnel_id=tunnel_id)


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
