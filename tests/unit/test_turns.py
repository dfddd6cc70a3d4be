"""The turn of a loop: its tick, and what becomes of memory that bulk transfers have freed."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
from rig.transport import ManualLoop, connect

from underpass.core import allocator
from underpass.core.endpoint import Endpoint
from underpass.wire import turns
from underpass.wire.turns import BULK, TICK, LoopTurn


class TickingLoop(ManualLoop):
    """A loop whose timers go off when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[Callable[[], object]] = []

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        assert delay == TICK
        self.timers.append(callback)

    def tick(self) -> None:
        self.timers.pop()()


class Allocator:
    """Counts what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept = self.given_back = 0
        monkeypatch.setattr(turns, "allocator", self)

    def keep_freed(self) -> None:
        self.kept += 1

    def give_back(self) -> None:
        self.given_back += 1


class TestMemory:
    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> Allocator:
        return Allocator(monkeypatch)

    @pytest.fixture
    def loop(self) -> TickingLoop:
        return TickingLoop()

    @pytest.fixture
    def endpoint(self, loop: TickingLoop, told: Allocator) -> Endpoint:
        turn = LoopTurn(loop)  # type: ignore[arg-type]
        turn.start()
        assert told.kept == 1
        endpoint = Endpoint(turn)
        connect(loop, endpoint)
        return endpoint

    def test_is_given_back_in_the_first_quiet_tick(
        self, loop: TickingLoop, told: Allocator, endpoint: Endpoint
    ) -> None:
        for _ in range(2):
            endpoint.data_received(bytes(BULK))
            loop.tick()
            assert told.given_back == 0
        endpoint.data_received(bytes(BULK - 1))
        loop.tick()
        assert told.given_back == 1

    def test_is_left_alone_while_there_was_nothing_to_keep(
        self, loop: TickingLoop, told: Allocator, endpoint: Endpoint
    ) -> None:
        for _ in range(3):
            endpoint.data_received(bytes(BULK - 1))
            loop.tick()
        assert told.given_back == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_allocator_listens() -> None:
    assert allocator.keep_freed()
    assert isinstance(allocator.give_back(), bool)
