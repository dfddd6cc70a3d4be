"""How many processors this process may use."""

from __future__ import annotations

import os

__all__ = ["available_processors"]


def available_processors() -> int:
    """Processors this process may run on: those it is bound to, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
