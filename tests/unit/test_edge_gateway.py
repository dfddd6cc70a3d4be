"""What the gateway notices about its visitors' connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from underpass.edge.gateway import SEND_SECONDS, SendWatch


@dataclass
class Transport:
    waiting: int = 0

    def get_write_buffer_size(self) -> int:
        return self.waiting


@dataclass
class Visitor:
    transport: Any
    write_paused: bool = True


def ticks_until_stuck(watch: SendWatch, visitor: Any, limit: int = 1000) -> int:
    return next(tick for tick in range(1, limit) if watch.is_stuck(visitor))


def test_a_visitor_that_takes_nothing_is_noticed_at_the_limit() -> None:
    visitor = Visitor(Transport(70000))
    assert ticks_until_stuck(SendWatch(), visitor) == SEND_SECONDS + 1


def test_a_visitor_that_takes_a_little_is_left_alone() -> None:
    watch, visitor = SendWatch(), Visitor(Transport(70000))
    for tick in range(5 * SEND_SECONDS):
        if tick % (SEND_SECONDS - 1) == 0:
            visitor.transport.waiting -= 1
        assert not watch.is_stuck(visitor)


def test_a_visitor_that_takes_everything_again_starts_afresh() -> None:
    watch, visitor = SendWatch(), Visitor(Transport(70000))
    for _ in range(SEND_SECONDS):
        assert not watch.is_stuck(visitor)
    visitor.write_paused = False
    assert not watch.is_stuck(visitor)
    visitor.write_paused = True
    assert not watch.is_stuck(visitor)


def test_a_closed_connection_is_not_stuck() -> None:
    watch = SendWatch()
    visitor = Visitor(None)
    assert not any(watch.is_stuck(visitor) for _ in range(2 * SEND_SECONDS))
