"""Log sessions in workers: what they ask the supervisor, and what it hands them."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest

from underpass.connector import worker_messages as messages
from underpass.connector.management import between_processes as module
from underpass.connector.management.between_processes import RemoteHost, StreamingDesk
from underpass.connector.status import ConnectorStatus
from underpass.ops.workers.channel import ChannelClosedError
from underpass.wire.log_streaming import LogEvent, LogFilters, LogLevel

ROOT = logging.getLogger("underpass")
LOG = logging.getLogger("underpass.test")


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """The supervisor's log, at level info."""
    before = list(ROOT.handlers), ROOT.level
    ROOT.handlers = []
    ROOT.setLevel(logging.INFO)
    yield
    ROOT.handlers = before[0]
    ROOT.setLevel(before[1])


class Listener:
    """A session in a worker."""

    def __init__(self, actor: str = "me", filters: LogFilters | None = None) -> None:
        self.actor = actor
        self.filters = filters or LogFilters()
        self.messages: list[str] = []
        self.ended = False

    def take(self, message: bytes) -> None:
        self.messages += [log["message"] for log in json.loads(message)["logs"]]

    def preempted(self) -> None:
        self.ended = True


class Worker:
    """A worker's host on a channel that ends at `desk`; what crosses it is spelt out and read."""

    def __init__(self, desk: StreamingDesk) -> None:
        self._desk = desk
        self.unsent = 0
        self.is_closed = False
        self.host = RemoteHost(self)  # type: ignore[arg-type]

    async def call(self, request: Any, answer: type[Any]) -> Any:
        if self.is_closed:
            raise ChannelClosedError("the channel is closed")
        request = _crossed(request, messages.SupervisorRequest)
        found = await self._desk.answer(self, request)  # type: ignore[arg-type]
        return _crossed(found, answer)

    def tell(self, notice: Any) -> None:
        if isinstance(notice, messages.EndStreaming):
            self._desk.end(self, notice.session)  # type: ignore[arg-type]
            return
        notice = _crossed(notice, messages.SupervisorNotice)
        if isinstance(notice, messages.Streamed):
            self.host.streamed(notice)
        else:
            assert isinstance(notice, messages.Preempted)
            self.host.preempted(notice)


def _crossed(value: Any, kind: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


class Bench:
    def __init__(self) -> None:
        self.levels: list[int] = []
        self.status = ConnectorStatus(uuid.UUID(int=1))
        self.desk = StreamingDesk(self.status, self.levels.append)
        self.workers = [Worker(self.desk), Worker(self.desk)]


def scenario(body: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(body(Bench()), 20)

    asyncio.run(main())


def test_records_reach_the_worker_with_the_session() -> None:
    async def body(bench: Bench) -> None:
        host = bench.workers[1].host
        listener = Listener(filters=LogFilters(LogLevel.warn, (LogEvent.http,), 1.0))
        assert await host.begin(listener)
        LOG.warning("about nothing")
        LOG.info("too quiet", extra={"event": 1})
        LOG.warning("wanted", extra={"event": 1})
        assert listener.messages == ["wanted"]
        host.end(listener)
        LOG.warning("too late", extra={"event": 1})
        assert listener.messages == ["wanted"]

    scenario(body)


def test_workers_are_told_from_which_level_on() -> None:
    async def body(bench: Bench) -> None:
        host, listener = bench.workers[0].host, Listener()
        await host.begin(listener)
        listener.filters = LogFilters(LogLevel.error)
        await host.begin(listener)  # other filters, the same session
        host.end(listener)
        assert bench.levels == [logging.DEBUG, logging.INFO]

    scenario(body)


def test_one_session_at_a_time_in_all_workers() -> None:
    async def body(bench: Bench) -> None:
        (one, two) = (worker.host for worker in bench.workers)
        first, second, other = Listener(), Listener(), Listener("another")
        assert await one.begin(first)
        assert not await two.begin(other)
        assert await two.begin(second)
        assert (first.ended, second.ended, other.ended) == (True, False, False)
        LOG.info("said")
        assert "said" not in first.messages
        assert (second.messages, other.messages) == (["said"], [])

    scenario(body)


def test_a_worker_that_dies_takes_its_session_with_it() -> None:
    async def body(bench: Bench) -> None:
        await bench.workers[0].host.begin(Listener())
        bench.desk.lost(bench.workers[0])  # type: ignore[arg-type]
        assert bench.levels == [logging.DEBUG, logging.INFO]
        assert await bench.workers[1].host.begin(Listener("another"))

    scenario(body)


def test_a_worker_that_does_not_keep_up_misses_records(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(bench: Bench) -> None:
        worker, listener = bench.workers[0], Listener()
        await worker.host.begin(listener)
        worker.unsent = module.MAX_UNSENT + 1
        LOG.info("missed")
        worker.unsent = 0
        LOG.info("taken")
        assert listener.messages == ["taken"]

    scenario(body)


def test_metrics_and_reports_are_the_whole_connectors() -> None:
    async def body(bench: Bench) -> None:
        async def metrics() -> bytes:
            return b"all of them"

        async def report(subject: str) -> str:
            return f"all {subject}"

        bench.status.metrics, bench.status.report = metrics, report
        assert await bench.workers[0].host.metrics() == b"all of them"
        assert await bench.workers[0].host.report("stacks") == "all stacks"

    scenario(body)


def test_a_supervisor_that_is_gone_is_a_lost_connection() -> None:
    async def body(bench: Bench) -> None:
        worker, listener = bench.workers[0], Listener()
        worker.is_closed = True
        with pytest.raises(ConnectionError, match="the channel is closed"):
            await worker.host.begin(listener)
        with pytest.raises(ConnectionError):
            await worker.host.metrics()

    scenario(body)
