"""Signals: the first SIGTERM or SIGINT asks to stop, the second insists; SIGHUP asks to reload."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, final

__all__ = ["ShutdownSignals"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


@final
class ShutdownSignals:
    """Calls `on_stop` for the first signal and `on_abort` for the second, on the running loop.

    Use as a context manager in the main thread; in another one it does nothing. Both callbacks may
    be set late: `stopping` remembers a signal that came before. What is `quiet` logs no signal.
    """

    WANTED = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, *, quiet: bool = False) -> None:
        self._level = logging.DEBUG if quiet else logging.INFO
        self.stopping = asyncio.Event()
        self.exit_code = 0
        self.on_stop: Callable[[], object] | None = None
        self.on_abort: Callable[[], object] | None = None
        self._loop = asyncio.get_running_loop()
        self._restore: list[Callable[[], object]] = []

    def reload_with(self, callback: Callable[[], object]) -> None:
        """Call `callback` for each SIGHUP from now on, on platforms that have it.

        A terminal that is closed sends SIGHUP too, to what runs in its foreground: a shutdown.
        """
        number: signal.Signals | None = getattr(signal, "SIGHUP", None)
        has_terminal = os.isatty(2)

        def hang_up() -> None:
            if number is not None and has_terminal and not os.isatty(2):
                self.receive(number)
            else:
                callback()

        self._call_for(number, hang_up)

    def upgrade_with(self, callback: Callable[[], object]) -> None:
        """Call `callback` for each SIGUSR2 from now on, on platforms that have it."""
        self._call_for(getattr(signal, "SIGUSR2", None), callback)

    def _call_for(self, number: int | None, callback: Callable[[], object]) -> None:
        if number is None or threading.current_thread() is not threading.main_thread():
            return
        previous = signal.getsignal(number)
        self._loop.add_signal_handler(number, callback)

        def restore() -> None:
            self._loop.remove_signal_handler(number)
            if previous is not None:
                signal.signal(number, previous)

        self._restore.append(restore)

    def __enter__(self) -> ShutdownSignals:
        if threading.current_thread() is threading.main_thread():
            for number in self.WANTED:
                self._install(number)
        return self

    def __exit__(self, *_: object) -> None:
        while self._restore:
            self._restore.pop()()

    async def unless_stopped(self, work: Awaitable[T]) -> T | None:
        """The result of `work`, or None if a signal came first; `work` is then cancelled."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stopping.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)

    def receive(self, number: signal.Signals) -> None:
        """What a signal does."""
        if not self.stopping.is_set():
            _log.log(self._level, "Initiating graceful shutdown due to signal %s", number.name)
            self.stopping.set()
            callback = self.on_stop
        else:
            _log.log(self._level, "Shutting down at once due to signal %s", number.name)
            self.exit_code = 128 + number
            callback = self.on_abort
        if callback is not None:
            callback()

    def _install(self, number: signal.Signals) -> None:
        try:
            self._loop.add_signal_handler(number, self.receive, number)
        except NotImplementedError:  # Windows: its loops have no such thing
            previous = signal.signal(number, self._receive_outside)
            self._restore.append(lambda: signal.signal(number, previous))
        else:
            self._restore.append(lambda: self._loop.remove_signal_handler(number))

    def _receive_outside(self, number: int, _: Any) -> None:
        self._loop.call_soon_threadsafe(self.receive, signal.Signals(number))
