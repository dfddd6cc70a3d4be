"""An edge's workers seen from the supervisor, with workers that the test plays."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from rig.stored import ENTRY, create_tunnel, delete_tunnel

from underpass.edge import worker_messages as messages
from underpass.edge import workers as workers_module
from underpass.edge.data_path import Service
from underpass.edge.errors import EdgeError
from underpass.edge.link_details import LinkDetails
from underpass.edge.moving import Way
from underpass.edge.router import MAX_LINKS_PER_TUNNEL, Router
from underpass.edge.store import Account, ApiToken, Changes, Configuration, Snapshot, Tunnel
from underpass.edge.store.sqlite import SqliteStore
from underpass.edge.worker import EdgeWorker
from underpass.edge.workers import EdgeWorkers, _Ear
from underpass.ops.workers.channel import Channel
from underpass.ops.workers.process import connect

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="workers need sockets in the file system"
)

TUNNEL = UUID(int=1)
CONNECTOR = UUID(int=2)


async def joined(one: Channel, other: Channel) -> None:
    """Make the two ends of one channel of them."""
    ends = socket.socketpair()
    for channel, end in zip((one, other), ends, strict=True):
        end.setblocking(False)
        await connect(channel, end)


class FakeWorker:
    """A worker process without a process: a channel whose other end the test speaks at."""

    requests = messages.WorkerRequest
    notices = messages.SupervisorNotice

    def __init__(self, number: int, refusal: str = "") -> None:
        self.pid = 1000 + number
        self.number = number
        self.refusal = refusal
        self.answers_refresh = True
        self.inside = Channel(self)
        self.channel: Channel
        self.asked: list[Any] = []
        self.told: list[Any] = []
        self.told_before: list[Any] = []
        self._changed = asyncio.Condition()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def answer(self, request: Any) -> Any:
        self.asked.append(request)
        if isinstance(request, messages.Configure):
            self.told_before = list(self.told)
            return messages.Done(self.refusal)
        if isinstance(request, messages.Refresh):
            if not self.answers_refresh:
                await asyncio.Event().wait()
            return messages.Done()
        return None

    def notice(self, notice: Any) -> None:
        self.told.append(notice)

    async def has_been_told(self, *notices: Any) -> None:
        """Everything up to now, in this order."""
        # What was told before a call has come when its answer has.
        await self.channel.call(messages.Alive(), type(None))
        assert self.told == list(notices)

    def came(self, number: int, index: int = 0, tunnel: UUID = TUNNEL) -> messages.LinkCame:
        notice = messages.LinkCame(self.number, number, tunnel, CONNECTOR, index)
        self.inside.tell(notice)
        return notice

    def went(self, number: int) -> messages.LinkWent:
        notice = messages.LinkWent(self.number, number)
        self.inside.tell(notice)
        return notice

    async def heard(self) -> None:
        """The supervisor has taken in what this worker has told."""
        await self.inside.call(messages.ReadChanges(0), Changes)

    def drained(self) -> None: ...

    def closed(self) -> None:
        self.die("exit code 0")

    def die(self, how: str) -> None:
        if not self._ended.done():
            self._ended.set_result(how)
            self.inside.close()

    async def ended(self) -> str:
        how = await asyncio.shield(self._ended)
        await self.channel.wait_closed()
        await self.inside.wait_closed()
        return how

    def kill(self) -> None:
        self.die("signal SIGKILL")

    async def stop(self) -> None:
        self.channel.close()
        await self.ended()


class EmptyStore:
    async def snapshot(self) -> Snapshot:
        return Snapshot(0, (), ())

    async def changes_since(self, revision: int) -> Changes:
        return Changes(revision, (), ())


class Workers(EdgeWorkers):
    """Two of them, played."""

    def __init__(self, refusal: str = "") -> None:
        self.http, self.https, self.tunnel = (
            socket.create_server(("127.0.0.1", 0)) for _ in range(3)
        )
        self.router = Router()
        super().__init__(
            2,
            Service("local01", "localhost"),
            Path("/nowhere"),
            EmptyStore(),  # type: ignore[arg-type]
            self.router,
            http=self.http,
            https=self.https,
            tunnels=[self.tunnel],
        )
        self.refusal = refusal
        self.latest: dict[int, FakeWorker] = {}
        self.replaced = asyncio.Event()

    async def start_process(self, worker: int) -> FakeWorker:
        process = FakeWorker(worker, self.refusal)
        process.channel = Channel(_Ear(self, worker))
        await joined(process.channel, process.inside)
        if worker in self.latest:
            self.replaced.set()
        self.latest[worker] = process
        return process

    def close_sockets(self) -> None:
        for listener in (self.http, self.https, self.tunnel):
            listener.close()


def run(scenario: Callable[[Workers, FakeWorker, FakeWorker], Awaitable[None]]) -> None:
    async def main() -> None:
        workers = Workers()
        try:
            await workers.open()
            played = workers.latest
            await asyncio.wait_for(scenario(workers, played[0], played[1]), 20)
        finally:
            await workers.close()
            workers.close_sockets()

    asyncio.run(main())


class TestLinks:
    def test_others_learn_of_a_link(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            came = one.came(7)
            await one.heard()
            (link,) = workers.router.links_of(TUNNEL)
            assert (link.connector_id, link.conn_index) == (CONNECTOR, 0)
            went = one.went(7)
            await one.heard()
            assert workers.router.links_of(TUNNEL) == ()
            await other.has_been_told(came, went)
            await one.has_been_told()

        run(scenario)

    def test_the_second_of_two_with_one_index_is_closed(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            came = one.came(7)
            await one.heard()
            other.came(3)
            await other.heard()
            await other.has_been_told(came, messages.Abort(3))
            # Its end is no end of the one that stays.
            other.went(3)
            await other.heard()
            await one.has_been_told()
            assert len(workers.router.links_of(TUNNEL)) == 1

        run(scenario)

    def test_one_link_too_many_is_closed(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            for number in range(MAX_LINKS_PER_TUNNEL):
                (one, other)[number % 2].came(number, number)
            await asyncio.gather(one.heard(), other.heard())
            one.came(1000, MAX_LINKS_PER_TUNNEL)
            await one.heard()
            await one.channel.call(messages.Alive(), type(None))
            assert one.told[-1] == messages.Abort(1000)
            assert len(workers.router.links_of(TUNNEL)) == MAX_LINKS_PER_TUNNEL

        run(scenario)

    def test_a_doubt_reaches_who_holds_it(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            one.came(7)
            await one.heard()
            other.inside.tell(messages.Probe(0, 7))
            await other.heard()
            await one.has_been_told(messages.Probe(0, 7))

        run(scenario)

    def test_a_dead_workers_links_are_gone(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            first, second = one.came(7), one.came(8, 1)
            await one.heard()
            third = other.came(1, 2)
            await other.heard()
            one.kill()
            await workers.replaced.wait()
            await other.has_been_told(
                first, second, messages.LinkWent(0, 7), messages.LinkWent(0, 8)
            )
            new = workers.latest[0]
            while not any(isinstance(each, messages.Configure) for each in new.asked):
                await new.inside.call(messages.ReadChanges(0), Changes)
            # It knows the others' before it takes its first visitor.
            assert new.told_before == [third]
            assert len(workers.router.links_of(TUNNEL)) == 1

        run(scenario)

    def test_what_is_told_of_a_link_goes_with_it(self) -> None:
        details = LinkDetails(
            UUID(int=9), datetime(2026, 11, 27, tzinfo=timezone.utc), "192.0.2.1", "1", "a", ("f",)
        )

        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            came = messages.LinkCame(0, 7, TUNNEL, CONNECTOR, 0, details)
            one.inside.tell(came)
            await one.heard()
            (link,) = workers.router.links_of(TUNNEL)
            assert link.details == details
            await other.has_been_told(came)

        run(scenario)

    def test_all_are_asked_to_close_links_and_waited_for(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            await workers.close_links(TUNNEL, CONNECTOR)
            await workers.close_links(TUNNEL)
            for worker in (one, other):
                assert worker.asked[-2:] == [
                    messages.CloseLinks(TUNNEL, CONNECTOR),
                    messages.CloseLinks(TUNNEL, None),
                ]

        run(scenario)

    def test_a_worker_that_ends_meanwhile_has_closed_its_links(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            one.kill()
            await workers.close_links(TUNNEL)
            assert messages.CloseLinks(TUNNEL) in other.asked

        run(scenario)

    def test_a_worker_that_is_up_is_told_to_the_others(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            up = messages.PeerIsUp(0, "/somewhere/0.sock")
            one.inside.tell(up)
            await one.heard()
            await other.has_been_told(up)
            await one.has_been_told()

        run(scenario)


class TestLife:
    def test_what_a_worker_is_told_at_first(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            first, second = one.asked[0], other.asked[0]
            assert (first.number, second.number) == (0, 1)
            assert first.http == workers.http.fileno()
            assert first.https == workers.https.fileno()
            assert first.tunnels == (workers.tunnel.fileno(),)
            assert first.service == Service("local01", "localhost")
            assert os.stat(first.peers).st_mode & 0o777 == 0o700

        run(scenario)

    def test_a_worker_that_refuses_is_no_edge(self) -> None:
        async def main() -> None:
            workers = Workers(refusal="no certificate")
            with pytest.raises(EdgeError, match="no certificate"):
                await workers.open()
            assert workers.processes() == []
            workers.close_sockets()

        asyncio.run(main())

    def test_a_change_is_taken_over_by_all(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            await workers.take_over()
            for worker in (one, other):
                assert worker.asked[-1] == messages.Refresh()

        run(scenario)

    def test_a_worker_that_takes_over_nothing_is_replaced(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(workers_module, "REFRESH_SECONDS", 0.05)

        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            one.answers_refresh = False
            await workers.take_over()
            await workers.replaced.wait()
            assert workers.latest[0] is not one
            assert workers.latest[1] is other

        with caplog.at_level(logging.ERROR, "underpass"):
            run(scenario)
        assert "did not take over a change" in caplog.text

    def test_the_end_comes_in_order(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            await workers.stop_visitors(3.0)
            assert workers.http.fileno() == workers.https.fileno() == -1
            assert workers.tunnel.fileno() != -1
            assert [each.asked[-1] for each in (one, other)] == [messages.StopVisitors(3.0)] * 2
            await workers.stop_links(2.0)
            assert workers.tunnel.fileno() == -1
            assert [each.asked[-1] for each in (one, other)] == [messages.StopLinks(2.0)] * 2

        run(scenario)

    def test_without_patience_nothing_is_waited_for(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            await workers.stop_visitors(0.0)
            assert await one.ended()
            assert await other.ended()
            assert not any(isinstance(each, messages.StopVisitors) for each in one.asked)

        run(scenario)


class Worker(EdgeWorker):
    """A worker from the inside, which does not end this process."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: list[UUID] = []

    def closed(self) -> None: ...

    def _close_links_of(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        self.deleted.append(tunnel_id)


class Supervisor:
    """What a worker asks and tells."""

    requests = messages.SupervisorRequest
    notices = messages.WorkerNotice

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.asked: list[Any] = []

    async def answer(self, request: Any) -> Any:
        self.asked.append(type(request))
        if isinstance(request, messages.ReadSnapshot):
            return await self.store.snapshot()
        return await self.store.changes_since(request.revision)

    def notice(self, notice: Any) -> None: ...

    def drained(self) -> None: ...

    def closed(self) -> None: ...


def test_workers_read_configurations_and_no_tokens(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    account = Account("a" * 32, "b" * 32, "mine", "", now)
    token = ApiToken("0" * 12, account.id, "token", ("read",), (), bytes(32), now)
    tunnel = Tunnel(uuid4(), account.id, "web", bytes(32), now)
    configuration = Configuration(tunnel.id, 1, b"{}", now)

    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "edge.db")
        workers = Workers()
        workers.store = store
        await store.commit((account, token, tunnel, configuration), ENTRY)
        ear = _Ear(workers, 0)
        for told in (
            await ear.answer(messages.ReadSnapshot()),
            await ear.answer(messages.ReadChanges(0)),
        ):
            assert told.tokens == ()
            assert [each.id for each in told.tunnels] == [tunnel.id]
            assert [each.version for each in told.configurations] == [1]
        found = await ear.answer(messages.ReadConfiguration(tunnel.id))
        assert found.document == b"{}"
        assert await ear.answer(messages.ReadConfiguration(uuid4())) is None
        await workers.close()
        workers.close_sockets()
        await store.close()

    asyncio.run(main())


def test_a_worker_follows_the_store(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "edge.db")
        supervisor = Supervisor(store)
        channel = Channel(supervisor)
        worker = Worker()
        await joined(channel, worker.channel)
        kept, deleted = (
            Tunnel(uuid4(), "account", name, bytes(32), datetime.now(timezone.utc))
            for name in ("one", "two")
        )
        await create_tunnel(store, kept, ("one.localhost",))
        assert await channel.call(messages.Refresh(), messages.Done) == messages.Done()
        await create_tunnel(store, deleted, ("two.localhost",))
        assert await channel.call(messages.Refresh(), messages.Done) == messages.Done()
        assert supervisor.asked == [messages.ReadSnapshot, messages.ReadChanges]
        registry, router = worker._registry, worker._router
        assert registry.authenticate("account", bytes(32), kept.id).name == "one"
        assert router.knows("two.localhost")
        known = registry.tunnel(deleted.id)
        assert known is not None
        await delete_tunnel(store, deleted.id, known.revision)
        assert await channel.call(messages.Refresh(), messages.Done) == messages.Done()
        assert worker.deleted == [deleted.id]
        assert not router.knows("two.localhost")
        assert router.knows("one.localhost")
        refused = None
        try:
            await registry.delete_tunnel(kept.id)
        except EdgeError as error:
            refused = error
        assert "changes nothing" in str(refused)
        channel.close()
        await channel.wait_closed()
        await worker.channel.wait_closed()
        await store.close()

    asyncio.run(main())


class TestAnotherEdge:
    """Which this one follows, or is followed by."""

    def test_it_is_told_what_there_is_and_what_comes(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            up = messages.PeerIsUp(0, "/here/0.sock")
            one.inside.tell(up)
            came = one.came(7)
            await one.heard()
            told: list[Any] = []
            await workers.introduce(told.append)
            assert told == [up, came]
            went = one.went(7)
            await one.heard()
            assert told == [up, came, went]

        run(scenario)

    def test_what_it_tells_reaches_every_worker(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            tell: Callable[[Any], object] = lambda notice: None  # noqa: E731
            await workers.introduce(tell)
            workers.notice(messages.PeerIsUp(9, "/there/9.sock"))
            workers.notice(messages.LinkCame(9, 1, TUNNEL, CONNECTOR, 0))
            workers.notice(messages.LinkCame(9, 2, TUNNEL, CONNECTOR, 1))
            workers.notice(messages.LinkWent(9, 1))
            heard = [
                messages.PeerIsUp(9, "/there/9.sock.beyond", beyond=True),
                messages.LinkCame(9, 1, TUNNEL, CONNECTOR, 0, beyond=True),
                messages.LinkCame(9, 2, TUNNEL, CONNECTOR, 1, beyond=True),
                messages.LinkWent(9, 1),
            ]
            await one.has_been_told(*heard)
            assert len(workers.router.links_beyond(TUNNEL)) == 1
            # A link here may have the same index.
            came = one.came(7, 1)
            await one.heard()
            await other.has_been_told(*heard, came)
            workers.leave([9])
            workers.part(tell, [9])
            await one.has_been_told(*heard, messages.PeerLeaves(9), messages.PeerWent(9))
            assert workers.router.links_beyond(TUNNEL) == ()

        run(scenario)

    def test_a_link_is_moved_where_it_is(self) -> None:
        async def scenario(workers: Workers, one: FakeWorker, other: FakeWorker) -> None:
            one.came(7)
            await one.heard()
            (link,) = workers.router.own_links_of(TUNNEL)
            workers.move(link, Way.ASK, 60.0)
            await one.has_been_told(messages.MoveLink(7, Way.ASK, 60.0))

        run(scenario)
