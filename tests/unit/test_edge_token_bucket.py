"""The rate limit, with a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from underpass.edge.api.token_bucket import TokenBucket


@dataclass
class Clock:
    seconds: float = 50.0

    def __call__(self) -> float:
        return self.seconds


def test_a_burst_then_a_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(3, 0.5, clock=clock)
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take() == pytest.approx(2.0)
    clock.seconds += 1.0
    assert bucket.take() == pytest.approx(1.0)
    clock.seconds += 1.0
    assert bucket.take() == 0.0
    assert bucket.take() == pytest.approx(2.0)


def test_it_never_holds_more_than_its_capacity() -> None:
    clock = Clock()
    bucket = TokenBucket(2, 100.0, clock=clock)
    clock.seconds += 3600.0
    assert [bool(bucket.take()) for _ in range(3)] == [False, False, True]


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    clock = Clock()
    bucket = TokenBucket(2, 1.0, clock=clock)
    clock.seconds -= 30.0
    assert [bool(bucket.take()) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(("capacity", "rate"), [(0, 1.0), (1, 0.0), (1, -1.0)])
def test_one_that_never_gives_is_refused(capacity: int, rate: float) -> None:
    with pytest.raises(ValueError, match="token bucket"):
        TokenBucket(capacity, rate)
