"""The credentials of one tunnel, as a token and as a credentials file.

Docs: wire protocol §1.10; API §1. Both forms are those of cloudflared, and hold the same four
values. Whoever has them can run the tunnel, so no error message quotes what it complains about.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from underpass.wire.registration_messages import TunnelAuth
from underpass.wire.secret import Secret

MAX_CREDENTIALS_BYTES: Final = 64 * 1024
"""Largest token or credentials file read; real ones are below 300 bytes. A path given by mistake
may lead to anything."""

CREDENTIALS_FILE_MODE: Final = 0o400
"""Mode of a credentials file written: readable to its owner only, to be replaced but not edited."""


class CredentialsError(ValueError):
    """Credentials that can't be read or written. The text says what to do."""


class Credentials(Struct, frozen=True):
    """What a connector needs to run a tunnel.

    `account_tag` names the account, `tunnel_secret` is raw bytes and never printed, `endpoint` is
    empty or the name of a separate region (``fed``).
    """

    account_tag: str
    tunnel_secret: bytes
    tunnel_id: uuid.UUID
    endpoint: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "tunnel_secret", Secret(self.tunnel_secret))

    @property
    def auth(self) -> TunnelAuth:
        """The part that is sent when a connection is registered."""
        return TunnelAuth(self.account_tag, self.tunnel_secret)

    @classmethod
    def from_token(cls, token: str) -> Credentials:
        """The credentials in a tunnel token. White space is ignored: tokens get pasted.

        Raises CredentialsError.
        """
        what = "the tunnel token"
        if len(token) > MAX_CREDENTIALS_BYTES:
            raise CredentialsError(f"{what} is far too long; copy it again, by itself")
        try:
            document = base64.b64decode("".join(token.split()), validate=True)
        except ValueError as error:
            raise CredentialsError(
                f"{what} is not base64; copy it again, from its first to its last character"
            ) from error
        fields = _decode_object(
            what, document, "copy it again, from its first to its last character"
        )
        return cls(
            account_tag=_text(what, fields, "a"),
            tunnel_secret=_secret(what, fields, "s"),
            tunnel_id=_tunnel_id(what, fields, "t"),
            endpoint=_optional_text(what, fields, "e"),
        )

    def to_token(self) -> str:
        """The tunnel token of these credentials. It is as secret as they are."""
        fields = {"a": self.account_tag, "s": self._secret_text(), "t": str(self.tunnel_id)}
        if self.endpoint:
            fields["e"] = self.endpoint
        return base64.b64encode(msgspec.json.encode(fields)).decode()

    @classmethod
    def from_json(
        cls,
        document: bytes | str,
        *,
        tunnel_id: uuid.UUID | None = None,
        what: str = "the credentials document",
    ) -> Credentials:
        """The credentials in the content of a credentials file.

        Keys are matched whatever their case; unknown ones are ignored. Old files have no
        TunnelID: `tunnel_id` is then taken instead. `what` names the document in errors.

        Raises CredentialsError.
        """
        if len(document) > MAX_CREDENTIALS_BYTES:
            raise CredentialsError(f"{what} is far too long to be tunnel credentials")
        if isinstance(document, str):
            document = document.encode(errors="surrogatepass")
        if document.lstrip().startswith(b"-----BEGIN"):
            raise CredentialsError(
                f"{what} is a certificate (PEM), not tunnel credentials; "
                "the credentials file is the one named <tunnel id>.json"
            )
        decoded = _decode_object(
            what, document, "give the JSON file that was written when the tunnel was created"
        )
        fields = {key.lower(): value for key, value in decoded.items()}
        if fields.get("tunnelid") is not None or tunnel_id is None:
            tunnel_id = _tunnel_id(what, fields, "TunnelID")
        return cls(
            account_tag=_text(what, fields, "AccountTag"),
            tunnel_secret=_secret(what, fields, "TunnelSecret"),
            tunnel_id=tunnel_id,
            endpoint=_optional_text(what, fields, "Endpoint"),
        )

    def to_json(self) -> bytes:
        """The content of a credentials file."""
        return msgspec.json.encode(
            {
                "AccountTag": self.account_tag,
                "TunnelSecret": self._secret_text(),
                "TunnelID": str(self.tunnel_id),
                "Endpoint": self.endpoint,
            }
        )

    def _secret_text(self) -> str:
        return base64.b64encode(self.tunnel_secret).decode()


def read_credentials_file(
    path: str | os.PathLike[str], *, tunnel_id: uuid.UUID | None = None
) -> Credentials:
    """The credentials in the file at `path`; `tunnel_id` is for files that have none.

    Raises CredentialsError.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            document = file.read(MAX_CREDENTIALS_BYTES + 1)
    except FileNotFoundError as error:
        raise CredentialsError(
            f"there is no credentials file {path}; create the tunnel with `underpass tunnel "
            "create`, copy the file from where it was created, or run the tunnel with its token"
        ) from error
    except IsADirectoryError as error:
        raise CredentialsError(
            f"{path} is a directory; give the path of the credentials file in it"
        ) from error
    except OSError as error:
        raise CredentialsError(
            f"can't read the credentials file {path}: {error.strerror}; "
            "it has to be readable to the user that runs the tunnel"
        ) from error
    return Credentials.from_json(document, tunnel_id=tunnel_id, what=f"the credentials file {path}")


def find_credentials_file(tunnel_id: uuid.UUID, places: Sequence[Path]) -> Path | None:
    """The first `<tunnel id>.json` in `places`, which are directories."""
    paths = (place / f"{tunnel_id}.json" for place in places)
    return next((path for path in paths if path.is_file()), None)


def write_credentials_file(path: str | os.PathLike[str], credentials: Credentials) -> None:
    """Write a new credentials file, readable to its owner only.

    Leaves nothing behind if it fails. Raises CredentialsError, also if the file exists.
    """
    path = Path(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(path, flags, CREDENTIALS_FILE_MODE)
    except FileExistsError as error:
        raise CredentialsError(
            f"{path} exists already and may hold the only key to a tunnel; "
            "move it away or give another path"
        ) from error
    except OSError as error:
        raise _not_written(path, error) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(credentials.to_json())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> CredentialsError:
    return CredentialsError(
        f"can't write the credentials file {path}: {error.strerror}; "
        "give a path in a directory that exists and can be written to"
    )


def _decode_object(what: str, document: bytes, remedy: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(document, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise CredentialsError(f"{what} is not a JSON object; {remedy}") from error


def _optional_text(what: str, fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key if key in fields else key.lower())
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CredentialsError(f"{what} is damaged: {key!r} is not a string; get it again")
    return value


def _text(what: str, fields: Mapping[str, Any], key: str) -> str:
    value = _optional_text(what, fields, key)
    if not value:
        raise CredentialsError(f"{what} is incomplete: {key!r} is missing or empty; get it again")
    return value


def _secret(what: str, fields: Mapping[str, Any], key: str) -> bytes:
    text = _text(what, fields, key)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise CredentialsError(f"{what} is damaged: {key!r} is not base64; get it again") from error


def _tunnel_id(what: str, fields: Mapping[str, Any], key: str) -> uuid.UUID:
    text = _text(what, fields, key)
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise CredentialsError(f"{what} is damaged: {key!r} is not a UUID; get it again") from error
