"""Access tokens between two commands: files of the user's own (docs: access §3.2).

Beside cloudflared's, under the same names, so that a login with either program counts for both.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from underpass.ops.directories import config_directories
from underpass.visitor.access_application import AccessApplication
from underpass.visitor.errors import AccessError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["TokenFiles", "new_private_file"]

LOCK_SECONDS: Final = 600.0
"""For another process to finish its login."""

LOCK_PAUSE: Final = 0.5
"""Seconds between two tries."""

MAX_TOKEN_FILE: Final = 64 * 1024


class _Payload(Struct, frozen=True):
    exp: float = 0.0
    aud: str | list[str] = ""
    iss: str = ""


class TokenFiles:
    """Tokens in a directory, made when the first is written."""

    def __init__(
        self, directory: Path | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.directory = directory or _directory()
        self._clock = clock

    def application_token(self, application: AccessApplication) -> str | None:
        """The stored token for an application, if it is still good for it."""
        path = self.application_path(application)
        token = _read(path)
        payload = payload_of(token)
        if payload is None:
            return None
        audiences = [payload.aud] if isinstance(payload.aud, str) else payload.aud
        if self._clock() > payload.exp or application.audience not in audiences:
            path.unlink(missing_ok=True)
            return None
        return token

    def organization_token(self, auth_domain: str) -> str | None:
        """The stored token of a team, if it is still good."""
        path = self.organization_path(auth_domain)
        token = _read(path)
        payload = payload_of(token)
        if payload is None:
            return None
        if self._clock() > payload.exp:
            path.unlink(missing_ok=True)
            return None
        return token

    def application_path(self, application: AccessApplication) -> Path:
        name = f"{application.hostname}-{application.audience}-token"
        return self.directory / name.replace("/", "-").replace("*", "-").replace("\\", "-")

    def organization_path(self, auth_domain: str) -> Path:
        return self.directory / f"{auth_domain}-org-token"

    def write(self, path: Path, token: str) -> None:
        """Store a token. Raises AccessError."""
        new_private_file(path, token.encode("ascii"))

    def forget(self, application: AccessApplication) -> None:
        """The stored token is not good any more."""
        self.application_path(application).unlink(missing_ok=True)

    @contextmanager
    def locked(self, path: Path, waiting: Callable[[], None]) -> Iterator[None]:
        """While this holds, no other process gets the same token. Raises AccessError.

        `waiting` is called once if another one does now. The system releases the lock of a process
        that has ended.
        """
        _make_directory(self.directory)
        lock = path.with_name(f"{path.name}.in-progress")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise AccessError(f"cannot lock {lock}: {error.strerror}") from None
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            told = False
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise AccessError(f"another process has been logging in for too long ({lock})")
                if not told:
                    waiting()
                    told = True
                time.sleep(LOCK_PAUSE)
            yield
        finally:
            os.close(descriptor)


def payload_of(token: str | None) -> _Payload | None:
    """What a token says of itself; nobody vouches for it. None if it is none."""
    import base64

    parts = (token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        text = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(text, type=_Payload)
    except (ValueError, RecursionError):
        return None


def new_private_file(path: Path, content: bytes) -> None:
    """Write a file that is the user's alone, whole or not at all. Raises AccessError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        _make_directory(path.parent)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise AccessError(f"cannot write {path}: {error.strerror or error}") from None


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AccessError(f"cannot make {path}: {error.strerror or error}") from None


def _directory() -> Path:
    """The first of the user's own directories that is there, or the first."""
    own = config_directories()[:2]
    return next((path for path in own if path.is_dir()), own[0])


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TOKEN_FILE).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        # Not there, or no token: the next login writes it anew.
        return None


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
