"""Waiting for somebody to log in with a browser: what the login brings is polled for at a transfer
service (docs: API §7, access §3.4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from underpass.ops.http_request import RequestError

__all__ = ["LOGIN_SECONDS", "MAX_FAILURES", "PAUSE_SECONDS", "POLL_SECONDS", "poll_for_login"]

LOGIN_SECONDS: Final = 600.0
"""How long to wait for somebody to log in: ten polls of a minute, as cloudflared."""
POLL_SECONDS: Final = 60.0
"""For one poll. The service holds the request until there is an answer, or for a while."""
PAUSE_SECONDS: Final = 1.0
"""From one poll to the next, when the service answers at once that there is nothing yet."""
MAX_FAILURES: Final = 5
"""Polls in a row that do not reach the service."""

_Brought = TypeVar("_Brought")


def poll_for_login(
    poll: Callable[[float], _Brought | None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> _Brought | None:
    """What the login brings, or None if nobody has logged in within LOGIN_SECONDS.

    Args:
        poll: asks once, for so many seconds at most; None says that there is nothing yet.

    Raises RequestError when the service cannot be reached MAX_FAILURES times in a row, and whatever
    else `poll` does.
    """
    end = clock() + LOGIN_SECONDS
    failures = 0
    while (remaining := end - clock()) > 0:
        begun = clock()
        try:
            brought = poll(min(POLL_SECONDS, remaining))
        except RequestError:
            # A service that holds the request longer than a poll lasts is not at fault.
            failures += clock() - begun < POLL_SECONDS
            if failures >= MAX_FAILURES:
                raise
        else:
            if brought is not None:
                return brought
            failures = 0
        sleep(max(0.0, min(PAUSE_SECONDS - (clock() - begun), end - clock())))
    return None
