"""Histograms of fixed buckets."""

from __future__ import annotations

import pytest

from underpass.core.histogram import Histogram


def test_a_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((1.0, 2.5, 10.0))
    for value in (0.0, 1.0, 1.1, 2.5, 10.0, 10.5, 1e9):
        histogram.add(value)
    assert histogram.cumulative() == [2, 4, 5, 7]
    assert histogram.count == 7
    assert histogram.sum == pytest.approx(0 + 1 + 1.1 + 2.5 + 10 + 10.5 + 1e9)


def test_nothing_yet() -> None:
    histogram = Histogram((1, 2))
    assert histogram.bounds == (1.0, 2.0)
    assert (histogram.cumulative(), histogram.count, histogram.sum) == ([0, 0, 0], 0, 0.0)


def test_two_are_added_up() -> None:
    one, other = Histogram((1, 2)), Histogram((1, 2))
    for value in (0.5, 1.5):
        one.add(value)
    for value in (1.5, 3):
        other.add(value)
    one.absorb(other)
    assert one.cumulative() == [1, 3, 4]
    assert one.sum == 6.5
    with pytest.raises(ValueError, match="other bounds"):
        one.absorb(Histogram((1, 3)))


@pytest.mark.parametrize("bounds", [(), tuple(range(15)), (2, 1), (1, 1)])
def test_bounds_that_make_no_histogram(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram(bounds)
