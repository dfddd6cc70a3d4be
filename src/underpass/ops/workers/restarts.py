"""When a worker that has died is started again."""

from __future__ import annotations

from typing import Final

__all__ = ["RestartPolicy"]

SETTLED_SECONDS: Final = 60.0
"""A worker that lived so long had nothing wrong with its start: the next one follows at once."""

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 30.0
"""Seconds; doubled from the first to the longest while workers die young."""


class RestartPolicy:
    """Waits before restarts: none for an accident, growing ones for what keeps happening."""

    def __init__(self) -> None:
        self.deaths = 0
        """In a row, each too soon after its start."""

    def died(self, lived: float) -> float:
        """A worker died after `lived` seconds: how many to wait before the next is started."""
        if lived >= SETTLED_SECONDS:
            self.deaths = 0
        self.deaths += 1
        if self.deaths == 1:
            return 0.0
        return float(min(FIRST_WAIT * 2 ** min(self.deaths - 2, 16), LONGEST_WAIT))
