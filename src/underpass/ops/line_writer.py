"""Writes lines to a file or to standard output, from an event loop that must not wait for a disk.

Lines are gathered and handed to a thread, once a second or when there are many. What the disk, or
whoever reads the pipe, cannot take is dropped and counted, so memory stays bounded.

The file is opened to be appended to, and only whole lines are written: several processes may share
it. Before each write its name is looked up, so that rotating it is renaming it: the next lines go
into a new one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import threading
from collections import deque
from pathlib import Path
from typing import Final

__all__ = ["FLUSH_AT", "MAX_WAITING", "STANDARD_OUTPUT", "LineWriter"]

STANDARD_OUTPUT: Final = "-"

FLUSH_AT: Final = 65536
"""Bytes that are handed over at once, without waiting for the next second."""

MAX_WAITING: Final = 4 * 1024 * 1024
"""Bytes gathered and not written yet; lines beyond are dropped."""

CLOSE_SECONDS: Final = 2.0
"""For the last lines to be written, before the program ends without them."""

PIPE_ATOMIC: Final = 4096
"""Bytes that a write to a pipe does not mix with those of other processes (Linux' PIPE_BUF)."""

_MODE: Final = 0o640


class LineWriter:
    """Gathers lines for `target`, a path or `-`. Raises OSError if that cannot be opened.

    Belongs to one thread but for what its own does. `flush` is to be called about once a second.
    """

    def __init__(self, target: str) -> None:
        self._path = None if target == STANDARD_OUTPUT else Path(target).expanduser()
        self._descriptor = self._open()
        self._lines: list[bytes] = []
        self._size = 0
        self._handed = 0
        self._written = 0  # by the thread
        self._lost = 0
        # What the thread could not write: how many lines, and why.
        self._failures: deque[tuple[int, OSError]] = deque()
        self._handed_over: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Bytes gathered and not written yet."""
        return self._size + self._handed - self._written

    def write(self, line: bytes) -> None:
        """Gather one line, which ends in a line end."""
        if self.waiting + len(line) > MAX_WAITING:
            self._lost += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Have what has been gathered written soon."""
        if not self._lines:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
            self._thread.start()
        self._handed += self._size
        self._handed_over.put(self._lines)
        self._lines, self._size = [], 0

    def take_losses(self) -> tuple[int, OSError | None]:
        """Lines lost since this was last asked, and the last error if there was one."""
        lost, self._lost = self._lost, 0
        error: OSError | None = None
        while self._failures:
            count, error = self._failures.popleft()
            lost += count
        return lost, error

    def close(self) -> None:
        """Write what is left, for at most CLOSE_SECONDS."""
        self.flush()
        if self._thread is not None:
            self._handed_over.put(None)
            self._thread.join(CLOSE_SECONDS)
            if self._thread.is_alive():
                return  # it is stuck in a write, and its descriptor is in use
        if self._path is not None:
            os.close(self._descriptor)

    def _run(self) -> None:
        while (lines := self._handed_over.get()) is not None:
            self._write(lines)
            self._written += sum(map(len, lines))

    def _write(self, lines: list[bytes]) -> None:
        try:
            self._follow_renaming()
            for piece in self._pieces(lines):
                _write_all(self._descriptor, piece)
        except OSError as error:
            self._failures.append((len(lines), error))

    def _pieces(self, lines: list[bytes]) -> list[bytes]:
        """What to write at once: all, but to a pipe only as much as stays together."""
        if self._path is not None or not _is_pipe(self._descriptor):
            return [b"".join(lines)]
        pieces = [b""]
        for line in lines:
            if len(pieces[-1]) + len(line) <= PIPE_ATOMIC:
                pieces[-1] += line
            else:
                pieces.append(line)
        return pieces

    def _follow_renaming(self) -> None:
        """Open the file anew if its name leads to another one, or to none."""
        if self._path is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                return
        new = self._open()
        os.close(self._descriptor)
        self._descriptor = new

    def _open(self) -> int:
        if self._path is None:
            return 1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        return os.open(self._path, flags, _MODE)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _is_pipe(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
