"""How an edge makes way for the next process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from underpass.edge.errors import OptionsError

__all__ = ["DEFAULT_HANDOVER", "MAX_DRAIN_SECONDS", "HandoverOptions"]

MAX_DRAIN_SECONDS: Final = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class HandoverOptions:
    """`drain_seconds`: how long the old process may stay for what it has under way: transfers,
    WebSockets, and connectors that take their time. What is left then is cut off."""

    drain_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.drain_seconds) and 0 < self.drain_seconds <= MAX_DRAIN_SECONDS):
            raise OptionsError(
                f"drain time {self.drain_seconds:g}: give up to {MAX_DRAIN_SECONDS:.0f} seconds, "
                "and more than none"
            )


DEFAULT_HANDOVER: Final = HandoverOptions()
