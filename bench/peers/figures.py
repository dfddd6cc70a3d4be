"""Percentiles, and ratios with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PERCENTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` (0 to 1) of the values do not exceed.

    Raises:
        ValueError: no values.
    """
    if not ordered:
        raise ValueError("a percentile of nothing")
    rank = -int(-part * len(ordered) // 1)  # rounded up
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds; nothing of nothing."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {name: percentile(ordered, part) * 1000 for name, part in PERCENTILES.items()}


@dataclass(frozen=True)
class Spread:
    """A median and what lies around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def ratios(above: Mapping[int, float], below: Mapping[int, float]) -> list[float]:
    """Quotients pair by pair, of the rounds that have both."""
    return [above[key] / below[key] for key in sorted(above) if below.get(key)]
