"""The counters of several workers as those of one program.

A worker that dies takes its counters with it, and the next one begins at nothing; what it had last
told of them is kept, because a counter that falls is taken for a restart of the whole. What it had
told of gauges is over: its requests in flight have ended with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from underpass.ops.metrics import FAMILIES, Snapshot

__all__ = ["Readings", "Tally", "total"]

Readings: TypeAlias = dict[str, int | float | dict[tuple[str, ...], int | float]]
"""A snapshot as it comes through a channel, which makes lists of plain label values."""


class Tally:
    """The counters of one worker's place, over the lives of its processes."""

    def __init__(self) -> None:
        self._before: Readings = {}
        self._latest: Readings = {}

    def told(self, readings: Readings) -> None:
        """What the running process counts now."""
        self._latest = readings

    def ended(self) -> None:
        """The process is gone."""
        counted: Readings = {
            name: value for name, value in self._latest.items() if FAMILIES[name].kind != "gauge"
        }
        self._before = total((self._before, counted))
        self._latest = {}

    @property
    def readings(self) -> Readings:
        return total((self._before, self._latest))


def total(snapshots: Iterable[Snapshot]) -> Readings:
    """The sums, label by label."""
    sums: Readings = {}
    for snapshot in snapshots:
        for name, value in snapshot.items():
            known = sums.get(name)
            if isinstance(value, (int, float)):
                sums[name] = value + (known if isinstance(known, (int, float)) else 0)
                continue
            labelled = sums[name] = dict(known) if isinstance(known, dict) else {}
            for labels, count in value.items():
                key = (labels,) if isinstance(labels, str) else tuple(labels)
                labelled[key] = labelled.get(key, 0) + count
    return sums
