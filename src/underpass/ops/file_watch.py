"""Notice that the configuration file, or a file it names, has another content.

The files are asked for their state once a second, which works on every system and file system and
costs a few microseconds. An editor that replaces the file, one that writes into it, and the swapped
symbolic link of a Kubernetes ConfigMap all change what is at the end of the path: its inode, size
or time of change. A change counts once it has been the same for two looks, so that a file is not
read while it is being written; a file that is gone is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from underpass.ops.document import MAX_DOCUMENT, FileState, file_state

__all__ = ["LOOK_EVERY", "MAX_WATCHED", "FileWatch"]

LOOK_EVERY: Final = 1.0
"""Seconds between two looks; a change is noticed after one to two of them."""

MAX_WATCHED: Final = 256
"""Files. Those beyond are read again with the others, when one of these has changed."""

_log = logging.getLogger(__name__)


class FileWatch:
    """Calls `changed` when one of the files has another content than at the last call.

    Args:
        files: the files that count now; asked for at each look.
        known: the state of files when they were read.
    """

    def __init__(
        self,
        files: Callable[[], Iterable[Path]],
        changed: Callable[[], None],
        known: Mapping[Path, FileState | None] | None = None,
    ) -> None:
        self._files = files
        self._changed = changed
        self._settled: dict[Path, FileState | None] = dict(known or {})
        self._moving: dict[Path, FileState | None] = {}
        self._content: dict[Path, bytes] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._has_complained = False

    def start(self) -> None:
        """Watch from now on."""
        self._states()
        self._watching = asyncio.create_task(self._watch(), name="watch-configuration")

    def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        states = self._states()
        if states == self._settled:
            self._moving = {}
        elif states != self._moving:
            self._moving = states
        elif await self._take(states):
            self._changed()

    def notice_new_files(self) -> None:
        """Files that are new among those that count are about to be read."""
        self._states()

    async def settle(self) -> None:
        """What is in the files now is about to be read, and no change any more."""
        await self._take(self._states())

    async def _take(self, states: dict[Path, FileState | None]) -> bool:
        """Take the files as they are; whether their content is another than before."""
        self._settled, self._moving = states, {}
        before = self._content
        # In a thread: they may be large, or far away.
        self._content = await asyncio.to_thread(_digests, tuple(states))
        return self._content != before

    def _states(self) -> dict[Path, FileState | None]:
        """The state of each file. One that is gone has not changed, nor one that is new here."""
        files = list(dict.fromkeys(self._files()))
        if len(files) > MAX_WATCHED and not self._has_complained:
            self._has_complained = True
            _log.warning(
                "The configuration names too many files to watch all",
                extra={"files": len(files), "most": MAX_WATCHED},
            )
        states: dict[Path, FileState | None] = {}
        for file in files[:MAX_WATCHED]:
            state = file_state(file)
            known = self._settled.setdefault(file, state)
            states[file] = known if state is None else state
        for file in self._settled.keys() - states.keys():
            del self._settled[file]
        return states


def _digests(files: Iterable[Path]) -> dict[Path, bytes]:
    """What is in each file, to compare."""
    return {file: _digest(file) for file in files}


def _digest(file: Path) -> bytes:
    from hashlib import blake2b  # a connector whose files never change does without

    try:
        with file.open("rb") as content:
            return blake2b(content.read(MAX_DOCUMENT + 1)).digest()
    except OSError as error:
        return str(error).encode()
