"""Asking a running edge to have a new process take its place, and hearing what came of it.

It is asked by a signal, SIGUSR2, and writes down what came of it in its data directory, so that a
command line and a service manager can both ask.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, Literal

import msgspec

from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import DataDirectoryError, HandoverError
from underpass.version import VERSION

__all__ = ["PATIENCE_SECONDS", "Upgrade", "upgrade"]

PATIENCE_SECONDS: Final = 300.0
"""For an attempt to come to something: longer than all its parts may take together."""

LOOK_SECONDS: Final = 0.05
"""Between two looks at what the edge has written."""


class Upgrade(msgspec.Struct, frozen=True):
    """One attempt: `number` counts them, `pid` is the old process, `successor` the new one."""

    number: int
    pid: int
    version: str
    began_at: datetime
    state: Literal["under way", "done", "failed"] = "under way"
    successor: int = 0
    error: str = ""

    @classmethod
    def begin(cls, directory: DataDirectory) -> Upgrade:
        """The next attempt, of this process, written down. Raises DataDirectoryError."""
        last = cls.read(directory)
        number = 1 if last is None else last.number + 1
        now = datetime.now(timezone.utc).replace(microsecond=0)
        begun = cls(number, os.getpid(), VERSION, now)
        begun.write(directory)
        return begun

    def done(self, directory: DataDirectory, successor: int) -> None:
        """A new process serves. Raises DataDirectoryError."""
        msgspec.structs.replace(self, state="done", successor=successor).write(directory)

    def failed(self, directory: DataDirectory, error: str) -> None:
        """None does. Raises DataDirectoryError."""
        msgspec.structs.replace(self, state="failed", error=error).write(directory)

    def write(self, directory: DataDirectory) -> None:
        """Keep it in a data directory. Raises DataDirectoryError."""
        unfinished = directory.upgrade.with_suffix(".new")
        try:
            unfinished.write_bytes(msgspec.json.encode(self))
            unfinished.replace(directory.upgrade)
        except OSError as error:
            raise DataDirectoryError(
                f"cannot write {directory.upgrade}: {error.strerror or error}"
            ) from error

    @classmethod
    def read(cls, directory: DataDirectory) -> Upgrade | None:
        """The last attempt; None if there was none, or what is there is not to be read."""
        try:
            return msgspec.json.decode(directory.upgrade.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None


def upgrade(data_dir: Path) -> Upgrade:
    """Have a new process take the place of the edge that runs on a data directory.

    Raises:
        DataDirectoryError: there is no such directory.
        HandoverError: there is no edge to ask, or the new process does not serve; the old one goes
            on as before.
    """
    number = getattr(signal, "SIGUSR2", None)
    if number is None:
        raise HandoverError("this system has no signal to ask an edge by: restart it instead")
    directory = DataDirectory.of_any_edge(data_dir)
    # Not by what it has written down: another process may have that id by now.
    pid = directory.holder()
    if pid is None:
        raise HandoverError(f"no edge is running on {data_dir}")
    last = Upgrade.read(directory)
    if last is not None and last.state == "under way" and last.pid == pid:
        raise HandoverError(f"process {pid} is being replaced already")
    try:
        os.kill(pid, number)
    except PermissionError as error:
        raise HandoverError(
            f"process {pid} belongs to another user: ask as that one, or as root"
        ) from error
    except ProcessLookupError as error:
        raise HandoverError(f"process {pid} has just ended") from error
    return _outcome(directory, pid, 0 if last is None else last.number)


def _outcome(directory: DataDirectory, pid: int, before: int) -> Upgrade:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        now = Upgrade.read(directory)
        if now is not None and now.number > before and now.state != "under way":
            if now.state == "failed":
                raise HandoverError(f"{now.error}. Process {now.pid} goes on as before")
            return now
        if directory.holder() is None:
            raise HandoverError(f"process {pid} has ended, and no other one has come")
        time.sleep(LOOK_SECONDS)
    raise HandoverError(f"process {pid} has not said within {PATIENCE_SECONDS:.0f} s what it does")
