"""The event loop a process runs on: uvloop, winloop on Windows, or plain asyncio.

`UNDERPASS_LOOP=asyncio` asks for the last one, for comparison and for platforms where the others
misbehave.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["new_event_loop", "run"]

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new loop of the best kind there is."""
    if os.environ.get("UNDERPASS_LOOP") == "asyncio":
        return asyncio.new_event_loop()
    try:
        if sys.platform == "win32":
            import winloop

            return winloop.new_event_loop()
        else:
            import uvloop

            return uvloop.new_event_loop()
    except ImportError:
        return asyncio.new_event_loop()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a new loop, then cancel what it left and close the loop.

    From here on garbage is collected, but not looked for among what the start has made.
    """
    gc.freeze()
    gc.enable()
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
