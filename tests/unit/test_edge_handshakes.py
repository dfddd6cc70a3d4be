"""Counting handshakes that nobody tells the end of."""

from __future__ import annotations

from underpass.edge.handshakes import Handshakes


def ticks(handshakes: Handshakes, count: int) -> None:
    for _ in range(count):
        handshakes.tick()


def test_one_that_ends_well_has_not_failed() -> None:
    handshakes = Handshakes(10)
    began = handshakes.begin()
    ticks(handshakes, 10)
    handshakes.completed(began)
    ticks(handshakes, 100)
    assert handshakes.failed == 0


def test_one_that_does_not_has_failed_when_its_time_is_over() -> None:
    handshakes = Handshakes(10)
    ticks(handshakes, 7)
    handshakes.completed(handshakes.begin())
    handshakes.begin()
    ticks(handshakes, 10)
    assert handshakes.failed == 0
    ticks(handshakes, 2)
    assert handshakes.failed == 1
    ticks(handshakes, 100)
    assert handshakes.failed == 1


def test_one_that_was_taken_for_failed_and_is_there_after_all() -> None:
    handshakes = Handshakes(10)
    began = handshakes.begin()
    ticks(handshakes, 50)
    assert handshakes.failed == 1
    handshakes.completed(began)
    assert handshakes.failed == 0
