"""When a configuration is read again: asked for by a signal, or because a file has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from underpass.ops import service_manager

if TYPE_CHECKING:
    from underpass.ops.document import FileState
    from underpass.ops.file_watch import FileWatch

__all__ = ["Reloads"]


class Reloads:
    """Calls `reload` for what is asked, one at a time; it must not raise.

    What is asked while one is under way makes for one more after it, what is asked before `start`
    for one then. A service manager is told of each.
    """

    def __init__(self, reload: Callable[[], Awaitable[None]]) -> None:
        self._reload = reload
        self._is_started = False
        self._asked = False
        self.working: asyncio.Task[None] | None = None
        self.watch: FileWatch | None = None

    def start(self) -> None:
        """Do what is asked from now on, and what has been asked."""
        self._is_started = True
        if self._asked:
            self.ask()

    def watch_files(
        self, files: Callable[[], Iterable[Path]], known: Mapping[Path, FileState | None]
    ) -> None:
        """Reload also when one of the files has another content: see FileWatch."""
        from underpass.ops.file_watch import FileWatch  # not without a file

        self.watch = FileWatch(files, self.ask, known)
        self.watch.start()

    def ask(self) -> None:
        """Reload soon."""
        self._asked = True
        if self._is_started and (self.working is None or self.working.done()):
            self.working = asyncio.create_task(self._work(), name="reload")

    def close(self) -> None:
        """Give up what is under way."""
        if self.watch is not None:
            self.watch.close()
        if self.working is not None:
            self.working.cancel()

    async def _work(self) -> None:
        while self._asked:
            self._asked = False
            with service_manager.reloading():
                await self._reload()
