# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""A histogram of fixed buckets, filled where the counting is done and read when somebody asks."""

from collections.abc import Iterable

class Histogram:
    """How many values were at most each bound. `bounds` ascend, and are no more than 14."""

    def __init__(self, bounds: Iterable[float]) -> None:
        """ValueError if they do not."""
    @property
    def bounds(self) -> tuple[float, ...]: ...
    @property
    def sum(self) -> float:
        """Of all values."""
    @property
    def count(self) -> int:
        """Values so far."""
    def add(self, value: float) -> None:
        """Count one value."""
    def absorb(self, other: Histogram) -> None:
        """Add what another has counted. ValueError if its bounds are not the same."""
    def cumulative(self) -> list[int]:
        """How many values were at most the first bound, the second, ...; and how many in all."""
