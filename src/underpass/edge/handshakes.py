"""How many TLS handshakes never came to an end: event loops tell a server of those that do."""

from __future__ import annotations

import math
from typing import Final

from underpass.wire.turns import TICK

__all__ = ["Handshakes"]

_MARGIN: Final = 2
"""Ticks: a timeout may be late, and so may a tick."""


class Handshakes:
    """Of one listener. One that is not `completed` when no handshake may take longer has failed.

    Args:
        seconds: how long a handshake may take. Nothing is kept of a single one, so a flood of them
            costs no memory.
    """

    def __init__(self, seconds: float) -> None:
        self.failed = 0
        self._under_way = [0] * (math.ceil(seconds / TICK) + _MARGIN)
        """How many began in each of the last ticks."""
        self._tick = 0

    def begin(self) -> int:
        """A connection has come; what to give to `completed`."""
        self._under_way[self._tick % len(self._under_way)] += 1
        return self._tick

    @property
    def recent(self) -> int:
        """Under way, or failed, of those that began in this tick or the last one."""
        size = len(self._under_way)
        return self._under_way[self._tick % size] + self._under_way[(self._tick - 1) % size]

    def completed(self, began: int) -> None:
        """A handshake has ended well."""
        if self._tick - began < len(self._under_way):
            self._under_way[began % len(self._under_way)] -= 1
        else:  # the loop stood still, and it was given up
            self.failed -= 1

    def tick(self) -> None:
        """Once a tick."""
        self._tick += 1
        oldest = self._tick % len(self._under_way)
        self.failed += self._under_way[oldest]
        self._under_way[oldest] = 0
