"""How long a test waits before it calls something hung, and how it waits: for what can be seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

PATIENCE: Final = 60.0
"""Seconds. Only a hang lasts so long, on the slowest machine too."""

LOOK_EVERY: Final = 0.02
"""Seconds between two looks at what cannot be waited for otherwise (a process's open files)."""

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str) -> T:
    """The first true value of `look`; for what has no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise AssertionError(f"in vain waited {PATIENCE:.0f} s until {what}; last: {found!r}")
        time.sleep(LOOK_EVERY)


async def eventually_async(look: Callable[[], T], what: str) -> T:
    """The same on an event loop."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise AssertionError(f"in vain waited {PATIENCE:.0f} s until {what}; last: {found!r}")
        await asyncio.sleep(LOOK_EVERY)


async def soon(awaitable: Awaitable[T]) -> T:
    """The result of something that must come."""
    return await asyncio.wait_for(awaitable, PATIENCE)
