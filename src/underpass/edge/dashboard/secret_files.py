"""Small records that whoever has a secret may use: one file each, named by the secret's digest.

Files, because those who read and write them are several processes: a command on this machine, the
edge that runs, the one that takes over from it. Removing a file is what only one of them can do, so
a record can be used once. Of a secret nothing but the digest is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from underpass.edge.errors import DataDirectoryError

__all__ = ["SecretFiles"]

log = logging.getLogger("underpass.edge.dashboard")

_SECRET: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_RECORD: Final = 4096


class _Ends(Protocol):
    @property
    def expires_at(self) -> datetime: ...


RecordT = TypeVar("RecordT", bound=_Ends)


class SecretFiles(Generic[RecordT]):
    """Records of one kind in one directory, which is made when the first one is kept.

    Args:
        most: how many there may be; the oldest ones give way.
        clock: the time, aware.
    """

    def __init__(
        self,
        directory: Path,
        kind: type[RecordT],
        *,
        most: int,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._directory = directory
        self._kind = kind
        self._most = most
        self._clock = clock

    def put(self, record: RecordT) -> str:
        """Keep a record; the secret it is found by, 64 hexadecimal digits.

        Raises:
            DataDirectoryError: it cannot be written.
        """
        secret = secrets.token_hex(32)
        path = self._path(secret)
        unfinished = path.with_suffix(".new")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room()
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(record))
            unfinished.replace(path)
        except OSError as error:
            raise DataDirectoryError(f"cannot write {path}: {error.strerror or error}") from error
        return secret

    def find(self, secret: str) -> RecordT | None:
        """The record of a secret, if there is one that has not expired."""
        if _SECRET.fullmatch(secret) is None:
            return None
        record = self._read(self._path(secret))
        return None if record is None or record.expires_at <= self._clock() else record

    def take(self, secret: str) -> RecordT | None:
        """The same, for whoever is first: it is found no more."""
        record = self.find(secret)
        if record is None:
            return None
        try:
            self._path(secret).unlink()
        except OSError:
            # Somebody else was first; or it could be used for ever.
            return None
        return record

    def remove(self, secret: str) -> None:
        """Forget a record. One that is not there is no error."""
        if _SECRET.fullmatch(secret) is not None:
            self._path(secret).unlink(missing_ok=True)

    def _path(self, secret: str) -> Path:
        return self._directory / f"{hashlib.sha256(secret.encode('ascii')).hexdigest()}.json"

    def _read(self, path: Path) -> RecordT | None:
        try:
            with path.open("rb") as file:
                return msgspec.json.decode(file.read(_MAX_RECORD), type=self._kind)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("cannot read %s: %s", path, error)
            return None

    def _make_room(self) -> None:
        """Remove what has expired, and the oldest when there are too many."""
        now = self._clock()
        kept: list[tuple[int, Path]] = []
        for path, made in self._files():
            record = self._read(path) if path.suffix == ".json" else None
            if record is None or record.expires_at <= now:
                path.unlink(missing_ok=True)
            else:
                kept.append((made, path))
        kept.sort()
        for _, path in kept[: max(0, len(kept) + 1 - self._most)]:
            path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[Path, int]]:
        for path in tuple(self._directory.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat().st_mtime_ns
