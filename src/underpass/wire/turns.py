"""The compiled core's `Turn` bound to an event loop, with the coarse clock that timeouts go by."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from typing import Final

from underpass.core import allocator
from underpass.core.endpoint import Endpoint, Turn

__all__ = ["TICK", "LoopTurn"]

TICK: Final = 1.0
"""Seconds between looks at timeouts; each may be late by as much."""

BULK: Final = 1024 * 1024
"""Bytes read in a tick from which on it has moved bulk data, and freed memory is worth keeping."""

log = logging.getLogger("underpass.wire.turns")


class LoopTurn(Turn):
    """The turn of the running loop. `start` begins ticking, `stop` ends it.

    `on_tick` holds what is called once a tick, after the clock was read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Completion-port loops keep reads outstanding, so two could share a buffer at once.
        # uvloop's own time goes in milliseconds, too coarse for a round trip on a local network.
        super().__init__(loop.call_soon, time.monotonic, self._failed, sys.platform == "win32")
        self.on_tick: set[Callable[[], None]] = set()
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._received = 0
        self._keeps_memory = False

    def start(self) -> None:
        """Begin to tick."""
        if self._timer is None:
            allocator.keep_freed()
            self._timer = self._loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        self.tick()
        self._look_after_memory()
        for look in tuple(self.on_tick):
            look()

    def _look_after_memory(self) -> None:
        moved, self._received = self.received - self._received, self.received
        if moved >= BULK:
            self._keeps_memory = True
        elif self._keeps_memory:
            self._keeps_memory = False
            allocator.give_back()

    @staticmethod
    def _failed(endpoint: Endpoint, error: Exception) -> None:
        log.error("connection dropped: unexpected error", exc_info=error)
