"""The edge's data directory: one edge's alone, readable by its user alone.

It holds tunnel secrets and the key of the certificate authority, so a directory that others can
enter is refused rather than mended: whoever could enter may already have read it.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from underpass.edge.errors import DataDirectoryError, DataDirectoryInUseError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAX_PID_LENGTH = 20
"""Bytes read from a lock file; a decimal process id is shorter."""


class DataDirectory:
    """An open data directory. It stays locked against other edges until `close`."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: Path) -> DataDirectory:
        """Make the directory if it is missing (0700), check it, and lock it.

        Raises:
            DataDirectoryError: it cannot be made or written, is not a directory, belongs to
                another user, can be entered by others, or is in use by a running edge.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            _check_owner_and_mode(path)
            lock = _lock(path / "edge.lock")
            directory = cls(path, lock)
        except FileExistsError as error:
            raise DataDirectoryError(f"{path} is not a directory; choose another") from error
        except OSError as error:
            raise DataDirectoryError(
                f"cannot use {path} as data directory: {error.strerror or error} "
                f"({error.filename or path})"
            ) from error
        try:
            directory.scratch.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            directory.certificates.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            for left_over in directory.scratch.iterdir():
                left_over.unlink()
        except OSError as error:
            directory.close()
            raise DataDirectoryError(
                f"cannot prepare {directory.scratch}: {error.strerror or error}"
            ) from error
        return directory

    @classmethod
    def handed_over(cls, path: Path, lock: int) -> DataDirectory:
        """One whose lock the process before this one holds too, by the same descriptor: it is never
        free. `sign` when it is ours alone to change.

        Raises:
            DataDirectoryError: it is not as `open` wants it.
        """
        return cls(cls.of_any_edge(path).path, lock)

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock; -1 when it is not ours."""
        return -1 if self._lock is None else self._lock

    def sign(self) -> None:
        """Say in the lock that this process has it."""
        if self._lock is not None:
            _sign(self._lock)

    def holder(self) -> int | None:
        """The process that has it locked; None when nobody has, or it cannot be told."""
        if sys.platform == "win32":
            return None
        try:
            descriptor = os.open(self.path / "edge.lock", os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, _MAX_PID_LENGTH, 0).strip()
            return int(pid) if pid.isdigit() else None
        finally:
            os.close(descriptor)
        return None

    @classmethod
    def of_running_edge(cls, path: Path) -> DataDirectory:
        """The same for another process of the edge that holds the lock."""
        return cls(path, None)

    @classmethod
    def of_any_edge(cls, path: Path) -> DataDirectory:
        """One that exists, for a command that changes something in its store; an edge may be
        running on it.

        Raises:
            DataDirectoryError: there is none, or it is not as `open` wants it.
        """
        path = path.absolute()
        try:
            if not path.is_dir():
                raise DataDirectoryError(
                    f"there is no data directory {path}: run `underpass edge init`, or say where "
                    "it is with --data-dir"
                )
            _check_owner_and_mode(path)
        except OSError as error:
            raise DataDirectoryError(
                f"cannot use {path} as data directory: {error.strerror or error}"
            ) from error
        return cls(path, None)

    @property
    def ca_certificate(self) -> Path:
        """The authority's certificate, PEM: what visitors and connectors are told to trust."""
        return self.path / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's private key, PEM."""
        return self.path / "ca-key.pem"

    @property
    def management_key(self) -> Path:
        """The private key that management tokens are signed with, PEM."""
        return self.path / "management-key.pem"

    @property
    def scratch(self) -> Path:
        """Directory for files that live a moment; what a stopped edge left there is removed."""
        return self.path / "scratch"

    @property
    def certificates(self) -> Path:
        """Directory of the certificates that a public authority has signed."""
        return self.path / "certificates"

    @property
    def challenges(self) -> Path:
        """Directory of the proofs that such an authority asks for."""
        return self.path / "challenges"

    @property
    def acme_account_key(self) -> Path:
        """The key of the account there, PEM."""
        return self.path / "acme-account-key.pem"

    @property
    def database(self) -> Path:
        """The SQLite store."""
        return self.path / "edge.db"

    @property
    def sessions(self) -> Path:
        """Directory of who is signed in to the dashboard."""
        return self.path / "sessions"

    @property
    def sign_in_links(self) -> Path:
        """Directory of the links that let somebody sign in, while they wait to be used."""
        return self.path / "sign-in-links"

    @property
    def running(self) -> Path:
        """What the edge that runs on it says of itself: see `status.RunningEdge`."""
        return self.path / "running.json"

    @property
    def upgrade(self) -> Path:
        """What became of the last attempt to replace its process: see `upgrades.Upgrade`."""
        return self.path / "upgrade.json"

    def close(self) -> None:
        """Release the lock. The lock file stays: removing it would let two edges lock two files."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _check_owner_and_mode(path: Path) -> None:
    if sys.platform == "win32":
        # Profile directories are private by their inherited access lists; mode bits say nothing.
        return
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise DataDirectoryError(
            f"data directory {path} belongs to user id {status.st_uid}, the edge runs as "
            f"{os.geteuid()}: choose another directory or change its owner"
        )
    if status.st_mode & _OTHERS:
        raise DataDirectoryError(
            f"data directory {path} is open to other users (mode "
            f"{stat.S_IMODE(status.st_mode):04o}) and will hold secrets: "
            f"run 'chmod 700 {path}' if nobody else has used it"
        )


def _lock(path: Path) -> int:
    """The descriptor that holds the lock; the system releases it when the process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE)
    try:
        try:
            if sys.platform == "win32":
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = _holder(descriptor)
            raise DataDirectoryInUseError(
                f"data directory {path.parent} is in use by another edge{holder}: "
                "stop it or choose another --data-dir"
            ) from error
        if sys.platform != "win32":
            _sign(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _holder(descriptor: int) -> str:
    if sys.platform == "win32":
        # The locked byte cannot be read there.
        return ""
    pid = os.pread(descriptor, _MAX_PID_LENGTH, 0).strip()
    return f" (process {int(pid)})" if pid.isdigit() else ""
