"""A rate limit: so many at once, so many a second in the long run."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Holds up to `capacity` tokens and gains `per_second` of them; starts full.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(
        self, capacity: int, per_second: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if capacity < 1 or per_second <= 0:
            raise ValueError("a token bucket needs room for a token and a way to gain one")
        self._capacity = float(capacity)
        self._per_second = per_second
        self._clock = clock
        self._tokens = float(capacity)
        self._counted_at = clock()

    def take(self) -> float:
        """Take a token: 0.0. When there is none, take nothing: the seconds until there is one."""
        now = self._clock()
        gained = max(0.0, now - self._counted_at) * self._per_second
        self._tokens = min(self._capacity, self._tokens + gained)
        self._counted_at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._per_second
