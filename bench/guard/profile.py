"""Where a workload's instructions go, function by function."""

from __future__ import annotations

import re
from typing import Final

from bench.guard.dumps import Dump

__all__ = ["profile"]

SHOWN: Final = 30
"""Functions in each of the two lists."""

_CYTHON = re.compile(r"__pyx_(?:f|pw|pf)_(.+)")


def profile(dump: Dump, repetitions: int) -> str:
    """The functions that cost most themselves, and those that cost most with what they call."""
    lines = [f"{dump.name}: {dump.total // repetitions:,} instructions"]
    for title, attribute in (("itself", "own"), ("with what it calls", "inclusive")):
        lines += ["", f"{'instructions':>13}{'share':>9}  {title}"]
        costs = sorted(
            ((getattr(cost, attribute), name) for name, cost in dump.functions.items()),
            reverse=True,
        )
        lines += [
            f"{cost // repetitions:>13,}{cost / dump.total * 100:>7.1f} %  {plain_name(name)}"
            for cost, name in costs[:SHOWN]
        ]
    return "\n".join(lines)


def plain_name(name: str) -> str:
    """`underpass.core.h2.H2Connection.on_frame` for what Cython made of it."""
    match = _CYTHON.match(name)
    if match is None:
        return name
    words, rest = [], match[1]
    while (sized := re.match(r"_*(\d+)(.*)", rest)) is not None:
        # "4core_2h2_": the length of a name, and the name; methods that Python sees are numbered.
        size = int(sized[1])
        word, rest = sized[2][:size], sized[2][size:]
        if rest and not rest.startswith("_"):
            word, rest = sized[2], ""
        words.append(word)
    if rest:
        words.append(rest.lstrip("_"))
    return ".".join(words)
