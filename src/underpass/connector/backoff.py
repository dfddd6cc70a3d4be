"""How long to wait before the next attempt: exponential, jittered, and never nothing.

The bounds are those of the reference connector (docs: wire protocol §1.4): the n-th wait is drawn
uniformly from [0, base * 2^n) and n stops growing at `retries`. Two things are wilfully different:

- There is a floor under every wait, so a refused port is never dialled in a tight loop, however few
  addresses there are.
- A success alone does not reset n. The link must have lived past a grace deadline, so an edge that
  accepts a registration and drops the link at once is not stormed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

__all__ = ["MINIMUM_WAIT", "Backoff"]

# Seconds. Four attempts a second at the very most, from one link, on the unluckiest draw.
MINIMUM_WAIT = 0.25


class Backoff:
    """The waits of one link.

    `base` is in seconds, `retries` caps the exponent, `clock` returns monotonic seconds and
    `uniform(a, b)` draws a float between its arguments.
    """

    def __init__(
        self,
        base: float = 1.0,
        retries: int = 5,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._base = base
        self._retries = max(0, retries)
        self._clock = clock
        self._uniform = uniform
        self._attempts = 0
        self._reset_at: float | None = None

    @property
    def attempts(self) -> int:
        """Failed attempts since the last reset, at most `retries`: what registration reports."""
        return self._attempts

    @property
    def bound(self) -> float:
        """The longest the next wait can be, in seconds."""
        exponent = 0 if self._is_reset_due() else self._attempts
        return max(MINIMUM_WAIT, self._base * 2.0 ** min(exponent + 1, self._retries))

    @property
    def is_settled(self) -> bool:
        """Whether the link was up for so long that what comes now is a new beginning."""
        return self._is_reset_due()

    def reset(self) -> None:
        """Begin anew: what the failures were due to has changed."""
        self._attempts = 0
        self._reset_at = None

    def succeeded(self) -> None:
        """Note that the link is up; if it stays up for the grace time, the count starts anew."""
        longest = self._base * 2.0 * 2.0 ** (self._attempts + 1)
        self._reset_at = self._clock() + self._uniform(0.0, longest)

    def next_wait(self) -> float:
        """Count one failure and return the seconds to wait before trying again."""
        bound = self.bound
        if self._is_reset_due():
            self._attempts = 0
        self._reset_at = None
        self._attempts = min(self._attempts + 1, self._retries)
        return max(MINIMUM_WAIT, self._uniform(0.0, bound))

    def _is_reset_due(self) -> bool:
        return self._reset_at is not None and self._clock() >= self._reset_at
