"""The machine a service is installed on: its files and its commands, each with a way back."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, final

__all__ = ["CommandRunner", "Machine", "ServiceError", "run_command"]

COMMAND_SECONDS: Final = 120.0
"""For a command of the system; starting a service waits for its first link."""

_log = logging.getLogger("underpass.service")

CommandRunner = Callable[[Sequence[str]], "tuple[int, str]"]
"""Runs a command; its exit code, and what it said."""


class ServiceError(Exception):
    """A service cannot be installed or removed; the text says why, and what to do."""


def run_command(command: Sequence[str]) -> tuple[int, str]:
    """Run a command of the system. 127 for one that is not there, 124 for one that hangs."""
    try:
        done = subprocess.run(  # noqa: S603 - the program's own words, and no shell
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except OSError as error:
        return 127, str(error)
    except subprocess.TimeoutExpired:
        return 124, f"no end after {COMMAND_SECONDS:.0f} s"
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


@final
class Machine:
    """Files under `root` and commands, for as long as something is changed.

    Used as a context manager, an exception takes back what was done, the last thing first.
    """

    def __init__(self, root: Path = Path("/"), run: CommandRunner = run_command) -> None:
        self._root = root
        self._run = run
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Machine:
        self._undo.clear()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        while self._undo:
            undo = self._undo.pop()
            if error is not None:
                try:
                    undo()
                except (OSError, ServiceError) as trouble:
                    _log.warning("Something is left behind", extra={"error": str(trouble)})

    def path(self, place: str | Path) -> Path:
        """Where an absolute path of the machine is."""
        return self._root / Path(place).relative_to(Path(place).anchor)

    def exists(self, place: str | Path) -> bool:
        return self.path(place).exists()

    def write(
        self, place: str | Path, content: bytes, mode: int, *, directory: int = 0o755
    ) -> None:
        """Make a file that is not there yet. Raises ServiceError."""
        path = self.path(place)
        try:
            self._make_directory(path.parent, directory)
            # Never readable for others, not even for a moment.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._undo.append(lambda: path.unlink(missing_ok=True))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            path.chmod(mode)
        except FileExistsError:
            raise ServiceError(f"{place} exists already; remove it first") from None
        except OSError as error:
            raise ServiceError(f"cannot write {place}: {error.strerror}") from error

    def link(self, place: str, target: str) -> None:
        """Make a symbolic link. Raises ServiceError."""
        path = self.path(place)
        try:
            self._make_directory(path.parent, 0o755)
            path.symlink_to(target)
        except OSError as error:
            raise ServiceError(f"cannot make the link {place}: {error.strerror}") from error
        self._undo.append(lambda: path.unlink(missing_ok=True))

    def remove(self, place: str | Path) -> bool:
        """Remove a file; whether there was one. Raises ServiceError."""
        path = self.path(place)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ServiceError(f"cannot remove {place}: {error.strerror}") from error
        return True

    def on_failure(self, *command: str) -> None:
        """Run a command if a later step fails, after what comes later has been taken back."""
        self._undo.append(lambda: self._run(command))

    def do(self, *command: str) -> None:
        """Run a command that has to succeed. Raises ServiceError."""
        code, output = self._run(command)
        if code:
            said = f": {output}" if output else ""
            raise ServiceError(f"`{shlex.join(command)}` failed with exit code {code}{said}")

    def try_to(self, *command: str) -> bool:
        """Run a command that may fail; whether it succeeded."""
        code, output = self._run(command)
        if code:
            _log.debug("a command failed", extra={"command": shlex.join(command), "said": output})
        return code == 0

    def _make_directory(self, path: Path, mode: int) -> None:
        if not path.is_dir():
            self._make_directory(path.parent, 0o755)
            path.mkdir(mode)

            def undo() -> None:
                with contextlib.suppress(OSError):  # something else has been put there meanwhile
                    path.rmdir()

            self._undo.append(undo)
