"""Waits grow, jitter, stop growing, and reset only after a link has proved itself."""

from __future__ import annotations

from underpass.connector.backoff import MINIMUM_WAIT, Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def longest(_: float, high: float) -> float:
    return high


def shortest(low: float, _: float) -> float:
    return low


def test_bounds_double_up_to_the_cap() -> None:
    backoff = Backoff(1.0, 5, uniform=longest)
    assert [backoff.next_wait() for _ in range(7)] == [2, 4, 8, 16, 32, 32, 32]
    assert backoff.attempts == 5


def test_bound_announces_the_next_wait() -> None:
    backoff = Backoff(1.0, 3, uniform=longest)
    for _ in range(5):
        announced = backoff.bound
        assert backoff.next_wait() == announced


def test_the_unluckiest_draw_still_waits() -> None:
    backoff = Backoff(1.0, 5, uniform=shortest)
    assert [backoff.next_wait() for _ in range(3)] == [MINIMUM_WAIT] * 3


def test_no_retries_means_a_constant_wait_not_a_tight_loop() -> None:
    backoff = Backoff(1.0, 0, uniform=longest)
    assert [backoff.next_wait() for _ in range(3)] == [1.0, 1.0, 1.0]


def test_a_link_that_dies_at_once_does_not_reset_the_count() -> None:
    clock = Clock()
    backoff = Backoff(1.0, 5, clock=clock, uniform=longest)
    backoff.next_wait()
    backoff.next_wait()
    backoff.succeeded()
    clock.now += 1.0
    assert backoff.next_wait() == 8


def test_a_link_that_lived_past_the_grace_time_resets_the_count() -> None:
    clock = Clock()
    backoff = Backoff(1.0, 5, clock=clock, uniform=longest)
    backoff.next_wait()
    backoff.next_wait()
    backoff.succeeded()
    clock.now += 16.0  # base * 2 * 2^(2 + 1)
    assert backoff.bound == 2
    assert backoff.next_wait() == 2
    assert backoff.attempts == 1
