"""A worker's place: when a process is started, started again, given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from underpass.ops.workers import seat as seat_module
from underpass.ops.workers.channel import ChannelError
from underpass.ops.workers.restarts import (
    FIRST_WAIT,
    LONGEST_WAIT,
    SETTLED_SECONDS,
    RestartPolicy,
)
from underpass.ops.workers.seat import Seat, WorkerRefusedError


def test_an_accident_costs_no_time_and_repetition_more_and_more() -> None:
    policy = RestartPolicy()
    waits = [policy.died(1.0) for _ in range(10)]
    assert waits[:6] == [0.0, FIRST_WAIT, 2.0, 4.0, 8.0, 16.0]
    assert waits[6:] == [LONGEST_WAIT] * 4
    assert policy.died(SETTLED_SECONDS) == 0.0
    assert policy.died(SETTLED_SECONDS - 1) == FIRST_WAIT


def test_many_deaths_are_no_overflow() -> None:
    policy = RestartPolicy()
    policy.deaths = 10**6
    assert policy.died(0.0) == LONGEST_WAIT


class FakeProcess:
    channel: Any = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.was_killed = False
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def die(self, how: str) -> None:
        if not self._ended.done():
            self._ended.set_result(how)

    async def ended(self) -> str:
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        self.was_killed = True
        self.die("signal SIGKILL")

    async def stop(self) -> None:
        self.die("exit code 0")


class Bench:
    """A seat and everything it asks for, in the test's hands."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.refusals: list[Exception] = []
        self.waits: list[float] = []
        self.ends: list[tuple[int, str]] = []
        self.end_noticed = asyncio.Event()
        self.hangs = False
        self.time = 0.0
        self.seat = Seat[FakeProcess](
            0,
            start=self.start,
            prepare=self.prepare,
            watch=self.watch,
            on_end=self.on_end,
            sleep=self.sleep,
            clock=lambda: self.time,
        )

    def on_end(self, process: FakeProcess, how: str) -> None:
        self.ends.append((process.pid, how))
        self.end_noticed.set()

    async def start(self) -> FakeProcess:
        self.processes.append(FakeProcess(len(self.processes)))
        return self.processes[-1]

    async def prepare(self, process: FakeProcess) -> None:
        if self.refusals:
            raise self.refusals.pop(0)

    async def watch(self, process: FakeProcess) -> None:
        if self.hangs:
            await asyncio.Event().wait()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def successor(self, process: FakeProcess) -> FakeProcess:
        """The current process after the end of `process` was noticed."""
        while process.pid not in [pid for pid, _ in self.ends]:
            await self.end_noticed.wait()
            self.end_noticed.clear()
        return await self.seat.process()

    async def close(self) -> None:
        async def finish(_: FakeProcess) -> None: ...

        await self.seat.close(finish)


def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench()
        try:
            await asyncio.wait_for(scenario(bench), 20)
        finally:
            await bench.close()

    asyncio.run(main())


def test_a_dead_process_is_replaced() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.seat.open()
        first = await bench.seat.process()
        first.die("exit code 1")
        second = await bench.successor(first)
        assert (first.pid, second.pid) == (0, 1)
        assert bench.ends == [(0, "exit code 1")]
        assert bench.waits == [0.0]
        second.die("exit code 1")
        assert (await bench.successor(second)).pid == 2
        assert bench.waits == [0.0, FIRST_WAIT]

    run(scenario)


def test_one_that_cannot_be_prepared_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.seat.open()
        first = await bench.seat.process()
        bench.refusals = [ChannelError("gone"), WorkerRefusedError("no"), OSError("no memory")]
        first.die("signal SIGKILL")
        last = await bench.successor(first)
        assert last.pid == 4
        assert [process.was_killed for process in bench.processes] == [False] + [True] * 3 + [False]
        assert bench.waits == [0.0, 1.0, 2.0, 4.0]

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert caplog.text.count("A worker process cannot be started") == 3
    assert "A worker process keeps ending" in caplog.text


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (WorkerRefusedError("bastion is not supported"), "bastion is not supported"),
        (ChannelError("closed"), "worker process 0: closed: signal SIGKILL"),
    ],
)
def test_the_first_start_has_to_succeed(refusal: Exception, words: str) -> None:
    async def scenario(bench: Bench) -> None:
        bench.refusals = [refusal]
        with pytest.raises(WorkerRefusedError, match=words):
            await bench.seat.open()
        assert bench.processes[0].was_killed
        assert bench.seat.current is None

    run(scenario)


def test_one_that_does_not_get_ready_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat_module, "PREPARE_SECONDS", 0.01)

    async def scenario(bench: Bench) -> None:
        async def never(_: FakeProcess) -> None:
            await asyncio.Event().wait()

        bench.seat._prepare = never
        with pytest.raises(WorkerRefusedError, match=r"not ready after 0\.01 s"):
            await bench.seat.open()
        assert bench.processes[0].was_killed

    run(scenario)


def test_one_that_does_not_answer_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat_module, "WATCH_EVERY", 0.01)
    monkeypatch.setattr(seat_module, "HUNG_SECONDS", 0.01)

    async def scenario(bench: Bench) -> None:
        bench.hangs = True
        await bench.seat.open()
        first = await bench.seat.process()
        await first.ended()
        bench.hangs = False
        await bench.successor(first)
        assert first.was_killed
        assert bench.ends[0] == (0, "it did not answer for 0.01 s; signal SIGKILL")

    run(scenario)


def test_one_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat_module, "WATCH_EVERY", 0.0)
    looks = asyncio.Event()

    async def scenario(bench: Bench) -> None:
        count = 0

        async def watch(_: FakeProcess) -> None:
            nonlocal count
            count += 1
            if count == 20:
                looks.set()
            if count % 2:
                raise ChannelError("it has ended, which is noticed by itself")

        bench.seat._watch = watch
        await bench.seat.open()
        await looks.wait()
        assert not bench.processes[0].was_killed

    run(scenario)


def test_an_unexpected_error_reaches_whoever_waits() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.seat.open()
        first = await bench.seat.process()
        bench.refusals = [ZeroDivisionError("a fault of ours")]
        first.die("exit code 1")
        with pytest.raises(ZeroDivisionError):
            await bench.successor(first)

    run(scenario)


def test_the_end_is_no_accident(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.seat.open()
        await bench.close()
        assert bench.ends == [(0, "stopped")]
        assert len(bench.processes) == 1

    run(scenario)
    assert not caplog.records
