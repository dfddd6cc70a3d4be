"""The compiled core's `Turn` bound to an event loop, with the coarse clock that timeouts go by."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Final

from underpass.core.endpoint import Endpoint, Turn

__all__ = ["TICK", "LoopTurn"]

TICK: Final = 1.0
"""Seconds between looks at timeouts; each may be late by as much."""

log = logging.getLogger("underpass.wire.turns")


class LoopTurn(Turn):
    """The turn of the running loop. `start` begins ticking, `stop` ends it.

    `on_tick` holds what is called once a tick, after the clock was read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Completion-port loops keep reads outstanding, so two could share a buffer at once.
        super().__init__(loop.call_soon, loop.time, self._failed, sys.platform == "win32")
        self.on_tick: set[Callable[[], None]] = set()
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        self.tick()
        for look in tuple(self.on_tick):
            look()

    @staticmethod
    def _failed(endpoint: Endpoint, error: Exception) -> None:
        log.error("connection dropped: unexpected error", exc_info=error)
