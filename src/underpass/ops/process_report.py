"""What this process is doing and what it holds, as text: what Go programs have pprof for.

Made when somebody asks, from what the interpreter knows anyway; nothing is sampled or traced
beforehand.
"""

from __future__ import annotations

import asyncio
import gc
import io
import os
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import Final, Literal

__all__ = ["Subject", "report"]

Subject = Literal["stacks", "memory"]

MAX_TASKS: Final = 1000
"""Tasks that are shown; one request makes none."""

MAX_TYPES: Final = 60
"""Types of objects that are shown, the most frequent ones."""


def report(subject: Subject) -> str:
    """The stacks of all threads and tasks, or what the memory is used for.

    Call it on the event loop, whose tasks are shown.
    """
    return _stacks() if subject == "stacks" else _memory()


def _stacks() -> str:
    out = io.StringIO()
    print(f"process {os.getpid()}, Python {sys.version}", file=out)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        print(f"\nthread {names.get(ident, ident)}:", file=out)
        out.writelines(traceback.format_stack(frame))
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    for task in tasks[:MAX_TASKS]:
        print(file=out)
        task.print_stack(file=out)
    if len(tasks) > MAX_TASKS:
        print(f"\nand {len(tasks) - MAX_TASKS} more tasks", file=out)
    return out.getvalue()


def _memory() -> str:
    out = io.StringIO()
    print(f"process {os.getpid()}, Python {sys.version}\n", file=out)
    out.write(_system_view())
    print("\ngarbage collector, by generation:", file=out)
    for number, (waiting, done) in enumerate(zip(gc.get_count(), gc.get_stats(), strict=True)):
        print(f"  {number}: {waiting} waiting; {done}", file=out)
    print(f"  {gc.get_freeze_count()} objects of the start are left alone", file=out)
    print("\ntracked objects, by type:", file=out)
    kinds = Counter(
        f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects()
    )
    for kind, count in kinds.most_common(MAX_TYPES):
        print(f"{count:>9}  {kind}", file=out)
    return out.getvalue()


def _system_view() -> str:
    """What the system counts, on Linux; elsewhere nothing."""
    path = Path("/proc/self/status")
    if not path.exists():
        return ""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    wanted = ("Vm", "Rss", "Threads", "FDSize")
    return "".join(f"{line}\n" for line in lines if line.startswith(wanted))
