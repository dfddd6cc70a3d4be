"""Links in worker processes, seen from the supervisor, with workers that the test plays."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from underpass.connector import worker_messages as messages
from underpass.connector import workers as workers_module
from underpass.connector.config import Config, read_config
from underpass.connector.data_path import DataPathError
from underpass.connector.edges import EdgeSlot
from underpass.connector.homes import Home
from underpass.connector.ingress import HttpStatus, Ingress, single_rule
from underpass.connector.links import DialError, DialErrorKind
from underpass.connector.options import ConnectorOptions
from underpass.connector.workers import WorkerDialer, WorkerLostError, _Ear
from underpass.ops.document import parse_yaml
from underpass.ops.workers import restarts
from underpass.ops.workers.channel import Channel
from underpass.ops.workers.logs import LogLine
from underpass.ops.workers.process import connect
from underpass.ops.workers.tally import Readings
from underpass.wire.credentials import Credentials
from underpass.wire.registration import RegistrationRefused

TOTAL = "cloudflared_tunnel_total_requests"
SLOT = EdgeSlot("edge", 7844, 0)
OPTIONS = ConnectorOptions(
    ingress=single_rule(HttpStatus(200)),
    credentials=Credentials("account", b"s" * 32, uuid.UUID(int=1)),
    edges=(("edge", 7844),),
    connector_id=uuid.UUID(int=2),
    workers=2,
)


class FakeWorker:
    """A worker process without a process: a channel whose other end the test speaks at."""

    requests = messages.WorkerRequest
    notices = messages.SupervisorNotice

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.inside = Channel(self)
        self.channel: Channel
        self.asked: list[Any] = []
        self.aborted: list[int] = []
        self.probed: list[int] = []
        self.outcome: messages.DialAnswer | None = None
        self.refusal = ""
        self.total = 0
        self.dialling = asyncio.Event()
        self.reached = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self.heard = asyncio.Event()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def open(self, ear: Any) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ear)
        try:
            for channel, end in ((self.channel, ours), (self.inside, theirs)):
                end.setblocking(False)
                await connect(channel, end)
        except BaseException:
            ours.close()
            theirs.close()
            raise

    async def answer(self, request: Any) -> Any:
        self.asked.append(request)
        self.reached.set()
        await self.free.wait()
        if isinstance(request, messages.Dial):
            self.dialling.set()
            if self.outcome is None:
                await asyncio.Event().wait()
            return self.outcome
        if isinstance(request, messages.ReadCounters):
            return {TOTAL: self.total}
        if isinstance(request, messages.InFlight):
            return 7
        if isinstance(request, messages.Configure | messages.Unregister | messages.Prepare):
            return messages.Done(self.refusal)
        if isinstance(request, messages.Apply):
            return messages.Done()
        return None

    def notice(self, notice: Any) -> None:
        (self.probed if isinstance(notice, messages.Probe) else self.aborted).append(notice.link)
        self.heard.set()

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


class Dialer(WorkerDialer):
    """The dialer with fake workers; `refusal` is what those that start from now on say, and with
    `holds` they say nothing until they are `free`."""

    def __init__(self, options: ConnectorOptions = OPTIONS) -> None:
        super().__init__(options)
        self.started: list[FakeWorker] = []
        self.refusal = ""
        self.holds = False
        self.one_more = asyncio.Event()

    async def start_process(self, worker: int) -> FakeWorker:
        process = FakeWorker(len(self.started))
        if self.holds:
            process.free.clear()
        process.refusal = self.refusal
        process.outcome = messages.Dialled(uuid.UUID(int=9), "loc01", False)
        await process.open(_Ear(self, worker))
        self.started.append(process)
        self.one_more.set()
        return process


def run(scenario: Callable[[Dialer], Awaitable[None]], options: ConnectorOptions = OPTIONS) -> None:
    async def main() -> None:
        dialer = Dialer(options)
        await dialer.open()
        try:
            await asyncio.wait_for(scenario(dialer), 20)
        finally:
            await dialer.close()

    asyncio.run(main())


def test_the_index_says_which_worker() -> None:
    async def scenario(dialer: Dialer) -> None:
        for index in range(4):
            link = await dialer.dial(SLOT, index, 3)
            assert link.process is dialer.started[index % 2]
            assert link.details.location_name == "loc01"
        first = [each for each in dialer.started[0].asked if isinstance(each, messages.Dial)]
        assert [each.conn_index for each in first] == [0, 2]
        assert (first[0].host, first[0].port, first[0].previous_attempts) == ("edge", 7844, 3)

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            messages.DialFailed("tls", "TLS with edge"),
            DialError(DialErrorKind.TLS, "TLS with edge"),
        ),
        (
            messages.DialFailed("tls", "not to be trusted", True),
            DialError(DialErrorKind.TLS, "not to be trusted", is_lasting=True),
        ),
        (messages.Refused("unknown", 7, True), RegistrationRefused("unknown", 7, True)),
    ],
)
def test_dial_errors_are_what_they_were_in_the_worker(
    answer: messages.DialAnswer, expected: Exception
) -> None:
    async def scenario(dialer: Dialer) -> None:
        dialer.started[0].outcome = answer
        with pytest.raises(type(expected)) as raised:
            await dialer.dial(SLOT, 0, 0)
        assert str(raised.value) == str(expected)
        assert vars(raised.value) == vars(expected)

    run(scenario)


def test_a_link_is_asked_for_by_its_own_number() -> None:
    async def scenario(dialer: Dialer) -> None:
        link, other = await dialer.dial(SLOT, 0, 0), await dialer.dial(SLOT, 2, 0)
        worker = dialer.started[0]
        number, other_number = (
            each.link for each in worker.asked if isinstance(each, messages.Dial)
        )
        await other.unregister(5.0)
        await other.drained()
        assert await other.in_flight() == 7
        assert worker.asked[-3:] == [
            messages.Unregister(other_number, 5.0),
            messages.Drain(other_number),
            messages.InFlight(other_number),
        ]
        link.abort()
        await worker.heard.wait()
        assert worker.aborted == [number]
        worker.inside.tell(messages.LinkClosed(number, "reset"))
        error = await link.wait_closed()
        assert isinstance(error, ConnectionError)
        assert str(error) == "reset"
        worker.inside.tell(messages.LinkClosed(other_number, None))
        assert await other.wait_closed() is None

    run(scenario)


def dials(worker: FakeWorker) -> list[messages.Dial]:
    return [each for each in worker.asked if isinstance(each, messages.Dial)]


def test_links_of_several_homes_are_shared_out_as_one_row() -> None:
    credentials = Credentials("account", b"s" * 32, uuid.UUID(int=1))
    homes = tuple(
        Home(name=name, credentials=credentials, edges=(("edge", 1),), ha_connections=3)
        for name in ("a", "b")
    )

    async def scenario(dialer: Dialer) -> None:
        for home in (0, 1):
            for index in range(3):
                await dialer.dial(EdgeSlot("edge", 1, 0, home), index, 0)
        placed = [[(d.home, d.conn_index) for d in dials(w)] for w in dialer.started]
        assert placed == [[(0, 0), (0, 2), (1, 1)], [(0, 1), (1, 0), (1, 2)]]
        configured = dialer.started[0].asked[0]
        assert [home.name for home in messages.options_of(configured).all_homes] == ["a", "b"]

    run(scenario, replace(OPTIONS, homes=homes))


def test_the_worker_is_told_which_link_is_replaced() -> None:
    async def scenario(dialer: Dialer) -> None:
        old = await dialer.dial(SLOT, 0, 0)
        new = await dialer.dial(SLOT, 0, 0, old)
        first, second = dials(dialer.started[0])
        assert (first.replacing, second.replacing) == (0, first.link)
        # One whose worker has died has nothing to give up.
        dialer.started[0].kill()
        await new.wait_closed()
        await dialer.dial(SLOT, 0, 0, new)
        assert dials(dialer.started[2])[0].replacing == 0

    run(scenario)


def test_links_are_probed_and_go_away_in_their_worker() -> None:
    async def scenario(dialer: Dialer) -> None:
        link = await dialer.dial(SLOT, 0, 0)
        worker = dialer.started[0]
        (dial,) = dials(worker)
        link.probe()
        await worker.heard.wait()
        assert worker.probed == [dial.link]
        going = asyncio.ensure_future(link.wait_going_away())
        worker.inside.tell(messages.LinkGoingAway(99))  # one that has closed meanwhile
        worker.inside.tell(messages.LinkGoingAway(dial.link))
        await going
        worker.inside.tell(messages.LinkClosed(dial.link, None))
        await link.wait_closed()
        worker.heard.clear()
        link.probe()  # it is gone: nobody is asked
        (await dialer.dial(SLOT, 2, 0)).probe()
        await worker.heard.wait()
        assert worker.probed == [dial.link, dials(worker)[1].link]

    run(scenario)


def test_what_goes_wrong_with_unregistering_is_told() -> None:
    async def scenario(dialer: Dialer) -> None:
        link = await dialer.dial(SLOT, 0, 0)
        dialer.started[0].refusal = "timed out"
        with pytest.raises(ConnectionError, match="timed out"):
            await link.unregister(5.0)

    run(scenario)


def test_a_dead_workers_links_end_with_its_name_and_are_dialled_in_the_next() -> None:
    async def scenario(dialer: Dialer) -> None:
        lost, kept = await dialer.dial(SLOT, 1, 0), await dialer.dial(SLOT, 0, 0)
        dialer.started[1].kill()
        error = await lost.wait_closed()
        assert isinstance(error, WorkerLostError)
        assert str(error) == "worker process 1 has ended: signal SIGKILL"
        assert await lost.in_flight() == 0
        await lost.drained()
        with pytest.raises(WorkerLostError):
            await lost.unregister(1.0)
        lost.abort()
        again = await dialer.dial(SLOT, 1, 0)
        assert again.process is dialer.started[2]
        assert kept.process is dialer.started[0]
        assert await kept.in_flight() == 7

    run(scenario)


def test_a_worker_that_dies_while_it_dials_is_not_the_addresss_fault() -> None:
    async def scenario(dialer: Dialer) -> None:
        worker = dialer.started[0]
        worker.outcome = None
        dial = asyncio.ensure_future(dialer.dial(SLOT, 0, 0))
        await worker.dialling.wait()
        worker.kill()
        with pytest.raises(DialError, match="worker process 0") as raised:
            await dial
        assert raised.value.kind is DialErrorKind.WORKER

    run(scenario)


def test_a_dial_given_up_leaves_no_link_behind() -> None:
    async def scenario(dialer: Dialer) -> None:
        worker = dialer.started[0]
        worker.outcome = None
        dial = asyncio.ensure_future(dialer.dial(SLOT, 0, 0))
        await worker.dialling.wait()
        dial.cancel()
        await worker.heard.wait()
        (request,) = (each for each in worker.asked if isinstance(each, messages.Dial))
        assert worker.aborted == [request.link]

    run(scenario)


def counted(dialer: Dialer) -> Any:
    return dialer.counters().get(TOTAL, 0)


def test_counters_are_summed_and_never_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(dialer: Dialer) -> None:
        dialer.started[0].total, dialer.started[1].total = 3, 4
        await dialer.refresh()
        assert counted(dialer) == 7
        link = await dialer.dial(SLOT, 1, 0)
        dialer.started[1].kill()
        await link.wait_closed()
        await dialer.refresh()
        assert counted(dialer) == 7
        await dialer.dial(SLOT, 1, 0)
        dialer.started[2].total = 1
        await dialer.refresh()
        assert counted(dialer) == 8

    run(scenario)


def test_a_worker_that_does_not_tell_its_counters_delays_no_scrape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers_module, "SCRAPE_SECONDS", 0.01)

    async def scenario(dialer: Dialer) -> None:
        slow, other = dialer.started
        slow.total, other.total = 3, 4
        await dialer.refresh()

        async def never(_: Any) -> Readings:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

        monkeypatch.setattr(slow, "answer", never)
        slow.total, other.total = 30, 40
        await dialer.refresh()
        assert counted(dialer) == 3 + 40
        monkeypatch.undo()

    run(scenario)


OTHER = single_rule(HttpStatus(204))


def test_rules_are_applied_in_every_worker() -> None:
    async def scenario(dialer: Dialer) -> None:
        await dialer.apply(OTHER)
        prepare = messages.prepare_message(OTHER)
        for worker in dialer.started:
            assert worker.asked[-2:] == [prepare, messages.Apply()]
        # Whoever comes later begins with them.
        link = await dialer.dial(SLOT, 0, 0)
        dialer.started[0].kill()
        await link.wait_closed()
        await dialer.dial(SLOT, 0, 0)
        assert dialer.started[2].asked[0].rules == prepare.rules

    run(scenario)


def test_rules_that_one_worker_refuses_are_applied_in_none() -> None:
    async def scenario(dialer: Dialer) -> None:
        dialer.started[1].refusal = "no such file"
        with pytest.raises(DataPathError, match="no such file"):
            await dialer.apply(OTHER)
        for worker in dialer.started:
            assert worker.asked[-1] == messages.Apply(give_up=True)
        link = await dialer.dial(SLOT, 0, 0)
        dialer.started[0].kill()
        await link.wait_closed()
        await dialer.dial(SLOT, 0, 0)
        assert dialer.started[2].asked[0].rules == messages.rules_of(OPTIONS.ingress)

    run(scenario)


def test_rules_are_refused_when_no_worker_can_look_at_them() -> None:
    async def scenario(dialer: Dialer) -> None:
        for worker in dialer.started:
            worker.kill()
        with pytest.raises(DataPathError, match="no worker process"):
            await dialer.apply(OTHER)

    run(scenario)


def test_a_worker_that_does_not_take_the_rules_is_replaced_by_one_that_has_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "APPLY_SECONDS", 0.01)

    async def scenario(dialer: Dialer) -> None:
        slow = dialer.started[0]
        link = await dialer.dial(SLOT, 0, 0)

        async def never(_: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(slow, "answer", never)
        await dialer.apply(OTHER)
        await link.wait_closed()
        await dialer.dial(SLOT, 0, 0)
        assert dialer.started[2].asked[0].rules == messages.rules_of(OTHER)

    run(scenario)
    assert "did not take the configuration" in caplog.text


async def begin_to_replace(dialer: Dialer, conn_index: int) -> tuple[FakeWorker, Any]:
    """Kill the worker of a link; the one in its place, which holds its answer to the rules it has
    got, and a dial that waits for it."""
    worker = dialer.started[conn_index]
    link = await dialer.dial(SLOT, conn_index, 0)
    dialer.holds = True
    dialer.one_more.clear()
    worker.kill()
    await link.wait_closed()
    waiting = asyncio.ensure_future(dialer.dial(SLOT, conn_index, 0))
    await dialer.one_more.wait()
    replacement = dialer.started[-1]
    await replacement.reached.wait()
    return replacement, waiting


@pytest.mark.parametrize("refusal", ["", "no such file"])
def test_a_worker_that_becomes_ready_while_rules_are_checked_gets_them_too(
    refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "FIRST_WAIT", 0.0)

    async def scenario(dialer: Dialer) -> None:
        late, waiting = await begin_to_replace(dialer, 0)
        slow = dialer.started[1]
        slow.free.clear()
        slow.reached.clear()
        applying = asyncio.ensure_future(dialer.apply(OTHER))
        await slow.reached.wait()
        late.free.set()
        link = await waiting
        assert link.process is late
        late.refusal = refusal
        slow.free.set()
        await applying
        assert slow.asked[-1] == messages.Apply()
        rules = messages.rules_of(OTHER)
        if refusal:
            # What another worker has taken cannot be taken back; it may do better from the start.
            dialer.holds = False
            await link.wait_closed()
            await dialer.dial(SLOT, 0, 0)
            assert dialer.started[3].asked[0].rules == rules
        else:
            assert late.asked[0].rules != rules
            assert late.asked[-2:] == [messages.prepare_message(OTHER), messages.Apply()]

    run(scenario)


def test_a_worker_that_starts_while_rules_are_applied_has_them_before_its_first_link() -> None:
    async def scenario(dialer: Dialer) -> None:
        late, waiting = await begin_to_replace(dialer, 0)
        await dialer.apply(OTHER)
        late.free.set()
        assert (await waiting).process is late
        kinds = [type(each) for each in late.asked]
        assert kinds == [messages.Configure, messages.Prepare, messages.Apply, messages.Dial]
        assert late.asked[1].rules == messages.rules_of(OTHER)

    run(scenario)


def test_one_worker_that_refuses_to_start_ends_all() -> None:
    async def main() -> None:
        dialer = Dialer()
        dialer.refusal = "bastion is not supported"
        with pytest.raises(DataPathError, match="bastion is not supported"):
            await dialer.open()
        assert dialer.processes() == []
        for worker in dialer.started:
            await asyncio.wait_for(worker.ended(), 10)

    asyncio.run(main())


def test_log_lines_come_with_the_workers_number(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(dialer: Dialer) -> None:
        line = LogLine(0.0, logging.WARNING, "underpass.connector.link", "said", {"host": "x"})
        worker = dialer.started[1]
        worker.inside.tell(line)
        await dialer.refresh()  # comes after

    run(scenario)
    (record,) = (each for each in caplog.records if each.getMessage() == "said")
    assert (vars(record)["worker"], vars(record)["host"]) == (1, "x")


RULES = r"""
ingress:
  - hostname: app.example.com
    path: \.(png|jpe?g)$
    service: http://localhost:8000
    originRequest: {connectTimeout: 3s, noTLSVerify: true, httpHostHeader: other.example.com}
  - hostname: "*.files.example.com"
    service: unix:/run/files.sock
  - hostname: ssh.example.com
    service: ssh://localhost:22
    originRequest:
      ipRules: [{prefix: 10.0.0.0/8, ports: [80, 443], allow: true}]
  - hostname: tls.example.com
    service: https://localhost:8443
    originRequest: {caPool: /etc/ssl/internal.pem, originServerName: x, keepAliveTimeout: 1m}
  - hostname: guarded.example.com
    service: http://localhost:1
    originRequest: {access: {required: true, teamName: team, audTag: [one, two]}}
  - hostname: hello.example.com
    service: hello_world
  - hostname: jump.example.com
    service: tcp://unused:1
    originRequest: {bastionMode: true, proxyProtocol: v2, ipRules: [{prefix: "::/0"}]}
  - hostname: socks.example.com
    service: socks-proxy
    originRequest: {ipRules: [{prefix: 10.0.0.0/8, ports: [22], allow: true}]}
  - service: http_status:404
"""


def test_rules_are_the_same_on_the_other_side() -> None:
    config: Config = read_config(parse_yaml(RULES.encode(), "config.yml"))
    assert config.ingress is not None
    sent = msgspec.msgpack.encode(messages.prepare_message(config.ingress))
    received = msgspec.msgpack.decode(sent, type=messages.Prepare)
    found: Ingress = messages.rules_to_ingress(received)
    for mine, theirs in zip(config.ingress.rules, found.rules, strict=True):
        assert (mine.service, mine.hostname) == (theirs.service, theirs.hostname)
        assert mine.origin_request == theirs.origin_request
        assert (mine.path and mine.path.text) == (theirs.path and theirs.path.text)
    for host, path in (
        (b"app.example.com", b"/x.png"),
        (b"app.example.com", b"/x.txt"),
        (b"a.b.files.example.com", b"/"),
    ):
        assert found.match(host, path) == config.ingress.match(host, path)


def test_options_are_the_same_on_the_other_side() -> None:
    options = replace(
        OPTIONS,
        cacert=Path("/etc/ca.pem"),
        edge_bind_address=str(ipaddress.ip_address("127.0.0.1")),
        rpc_timeout=7.0,
        tags=(("name", "value"),),
        workers=3,
    )
    message = messages.configure_message(options, logging.INFO)
    sent = msgspec.msgpack.encode(message)
    found = messages.options_of(msgspec.msgpack.decode(sent, type=messages.Configure))
    (home,) = found.all_homes
    for name in ("credentials", "cacert", "edge_bind_address", "protocol"):
        assert getattr(home, name) == getattr(options, name)
    for name in ("rpc_timeout", "tags", "connector_id", "workers"):
        assert getattr(found, name) == getattr(options, name)
    assert "ssss" not in repr(message)


def test_a_worker_that_hangs_is_ended_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "FINISH_SECONDS", 0.01)

    async def scenario(dialer: Dialer) -> None:
        async def never(_: Any) -> None:
            await asyncio.Event().wait()

        for worker in dialer.started:
            monkeypatch.setattr(worker, "answer", never)

    run(scenario)
    assert caplog.text.count("A worker process is ended as it is") == 2
