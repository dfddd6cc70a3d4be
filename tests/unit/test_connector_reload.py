"""Other rules while requests run: what is read, what is refused, what is kept and let go of."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from underpass.connector import dispatch as dispatch_module
from underpass.connector.config import load_config
from underpass.connector.configuration import Configuration
from underpass.connector.data_path import DataPathError
from underpass.connector.dispatch import Dispatcher, Plan, ServiceNotSupportedError
from underpass.connector.in_force import InForce
from underpass.connector.ingress import HttpStatus, Ingress, Rule, single_rule
from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import HttpService, parse_service
from underpass.connector.reload import Reloader
from underpass.connector.settings import resolve
from underpass.connector.trust import TrustError
from underpass.wire.remote_config import ConfigurationUpdate
from underpass.wire.turns import LoopTurn

VERSION = "cloudflared_orchestration_config_version"
REFUSED = "underpass_configuration_refused"


class Bench:
    """A reloader on a file, and the rules it applied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.applied: list[Ingress] = []
        self.refusal: Exception | None = None
        self.reads = 0
        self.may_read = threading.Event()
        self.may_read.set()
        self.write("http_status:200")
        self.in_force = InForce()
        self.in_force.start(self.apply, single_rule(HttpStatus(503)))
        self.reloader = Reloader(self.read(), self.in_force)

    def write(self, service: str, more: str = "") -> None:
        self.path.write_text(f"{more}ingress: [service: '{service}']\n")

    def read(self) -> Configuration:
        assert self.may_read.wait(10)
        self.reads += 1
        config = load_config(self.path, ())
        return Configuration(resolve([], {}, config.settings), config, self.read)

    async def apply(self, ingress: Ingress) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.applied.append(ingress)

    async def reload(self) -> None:
        self.reloader.ask()
        await self.done()

    async def done(self) -> None:
        assert self.reloader.reloads.working is not None
        await asyncio.wait_for(self.reloader.reloads.working, 10)

    @property
    def services(self) -> list[str]:
        return [str(ingress.rules[0].service) for ingress in self.applied]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "config.yml")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(), 20)

    asyncio.run(main())


def test_each_reload_applies_what_the_file_says_then(bench: Bench) -> None:
    async def scenario() -> None:
        bench.reloader.start()
        for status in (201, 202):
            bench.write(f"http_status:{status}")
            await bench.reload()
        assert bench.services == ["http_status:201", "http_status:202"]
        assert bench.in_force.snapshot()[VERSION] == 2
        assert bench.in_force.snapshot()[REFUSED] == {"file": 0, "edge": 0}

    run(scenario)


def test_the_same_rules_are_applied_too(bench: Bench) -> None:
    """What they name may have changed: a file of certificates."""

    async def scenario() -> None:
        bench.reloader.start()
        await bench.reload()
        assert bench.services == ["http_status:200"]

    run(scenario)


def test_what_is_asked_meanwhile_makes_for_one_more(bench: Bench) -> None:
    async def scenario() -> None:
        bench.reloader.start()
        bench.may_read.clear()
        for _ in range(5):
            bench.reloader.ask()
            await asyncio.sleep(0)
        bench.may_read.set()
        await bench.done()
        assert bench.reads == 1 + 2
        assert len(bench.applied) == 2

    run(scenario)


def test_what_is_asked_before_the_start_is_done_after_it(bench: Bench) -> None:
    async def scenario() -> None:
        bench.reloader.ask()
        bench.reloader.start()
        await bench.done()
        assert len(bench.applied) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("text", "refusal", "why"),
    [
        ("ingress: [", None, "config.yml"),
        ("retries: 9\n", None, "neither ingress rules nor an origin"),
        ("ha-connections: 65\ningress: [service: 'http_status:1']\n", None, "http_status"),
        ("ha-connections: 65\ningress: [service: 'http_status:201']\n", None, "ha-connections"),
        ("ingress: [service: bastion]\n", DataPathError("not supported"), "not supported"),
        ("ingress: [service: hello_world]\n", ZeroDivisionError("a fault"), "a fault"),
    ],
)
def test_what_cannot_be_used_is_refused(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    text: str,
    refusal: Exception | None,
    why: str,
) -> None:
    async def scenario() -> None:
        bench.reloader.start()
        bench.path.write_text(text)
        bench.refusal = refusal
        await bench.reload()
        assert not bench.applied
        assert bench.in_force.snapshot()[VERSION] == 0
        assert bench.in_force.snapshot()[REFUSED] == {"file": 1, "edge": 0}
        bench.refusal = None
        bench.write("http_status:201")
        await bench.reload()
        assert bench.services == ["http_status:201"]

    run(scenario)
    (record,) = (each for each in caplog.records if each.levelno == logging.ERROR)
    assert why in str(vars(record).get("error") or (record.exc_info and record.exc_info[1]))


def test_what_waits_for_a_restart_is_named(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench.reloader.start()
        bench.write("http_status:201", "retries: 9\nproxy-connect-timeout: 3s\ntunnel: other\n")
        await bench.reload()
        assert bench.services == ["http_status:201"]

    run(scenario)
    (record,) = (each for each in caplog.records if "after a restart" in each.getMessage())
    assert vars(record)["keys"] == ["retries", "tunnel"]


def test_homes_wait_for_a_restart_if_they_are_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        bench.write("http_status:201", "homes: [{name: a}]\n")
        bench.reloader = Reloader(bench.read(), bench.in_force)
        bench.reloader.start()
        # What differs is what is said, not where: the line is another one.
        bench.write("http_status:202", "\nhomes: [{name: a}]\n")
        await bench.reload()
        assert "after a restart" not in caplog.text
        bench.write("http_status:202", "homes: [{name: b}]\n")
        await bench.reload()
        bench.reloader.close()

    asyncio.run(scenario())
    (record,) = (each for each in caplog.records if "after a restart" in each.getMessage())
    assert record.__dict__["keys"] == ["homes"]


@pytest.mark.parametrize("is_there", [True, False])
def test_without_a_file_there_is_nothing_to_do(
    bench: Bench, caplog: pytest.LogCaptureFixture, is_there: bool
) -> None:
    config = load_config(None, ())
    without = Configuration(resolve([], {}, {}), config, bench.read)
    reloader = Reloader(without if is_there else None, bench.in_force)

    async def scenario() -> None:
        reloader.start()
        reloader.ask()
        assert reloader.reloads.working is not None
        await reloader.reloads.working

    run(scenario)
    assert bench.reads == 1
    assert "no configuration file to reload" in caplog.text


def test_what_the_edge_has_sent_stays_and_reads_its_files_again(bench: Bench) -> None:
    async def scenario() -> None:
        bench.reloader.start()
        sent = ConfigurationUpdate(4, b'{"ingress": [{"service": "http_status:204"}]}')
        assert (await bench.in_force.update(sent)).last_applied_version == 4
        bench.write("http_status:205")
        await bench.reload()
        assert bench.services == ["http_status:204", "http_status:204"]
        bench.refusal = DataPathError("no such file")
        await bench.reload()
        assert bench.in_force.snapshot()[VERSION] == 4
        assert bench.in_force.snapshot()[REFUSED] == {"file": 1, "edge": 0}

    run(scenario)


def test_a_file_is_watched_unless_that_is_turned_off(bench: Bench) -> None:
    async def scenario() -> None:
        for settings, watches in (({}, True), ({"no-config-watch": True}, False)):
            configuration = bench.read()
            told = Configuration(
                resolve([settings], {}, {}), configuration.config, configuration.read_again
            )
            reloader = Reloader(told, bench.in_force)
            reloader.start()
            assert (reloader.reloads.watch is not None) is watches
            reloader.close()

    run(scenario)


def test_the_end_gives_up_what_is_under_way(bench: Bench) -> None:
    async def scenario() -> None:
        began = asyncio.Event()

        async def never(_: Ingress) -> None:
            began.set()
            await asyncio.Event().wait()

        bench.reloader.close()
        bench.in_force.start(never, single_rule(HttpStatus(503)))
        bench.reloader.start()
        bench.reloader.ask()
        await began.wait()
        bench.reloader.close()
        with pytest.raises(asyncio.CancelledError):
            await bench.done()

    run(scenario)


class FakeService:
    """Busy as long as the test says so."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.is_busy = False
        self.was_closed = False

    def forward(self, exchange: Any) -> None: ...

    def close(self) -> None:
        self.was_closed = True


class Dispatched(Dispatcher):
    """A dispatcher of fake services."""

    made: list[FakeService]

    def _service(self, number: int, rule: Rule) -> Any:
        if rule.origin_request.ca_pool == "absent":
            raise TrustError("no such file")
        if not hasattr(self, "made"):
            self.made = []
        self.made.append(FakeService(rule))
        return self.made[-1]


def rules(*statuses: int, ca_pool: str = "") -> Ingress:
    hosts = [f"{number}.example.com" for number in range(len(statuses) - 1)]
    settings = OriginRequest(ca_pool=ca_pool)
    return Ingress(
        [
            Rule(HttpStatus(status), host, origin_request=settings)
            for status, host in zip(statuses, [*hosts, ""], strict=True)
        ]
    )


def dispatching(scenario: Callable[[Dispatched, LoopTurn], None], ingress: Ingress) -> None:
    async def main() -> None:
        turn = LoopTurn(asyncio.get_running_loop())
        dispatcher = Dispatched(turn, ingress)
        scenario(dispatcher, turn)
        dispatcher.close()
        assert all(service.was_closed for service in dispatcher.made)
        assert not turn.on_tick

    asyncio.run(main())


def tick(turn: LoopTurn) -> None:
    for look in tuple(turn.on_tick):
        look()


def test_a_service_that_stays_is_the_same() -> None:
    def scenario(dispatcher: Dispatched, turn: LoopTurn) -> None:
        dispatcher.apply(dispatcher.prepare(rules(203, 201, 201)))
        assert [service.rule.service.code for service in dispatcher.made] == [201, 202, 203, 201]
        assert [service.was_closed for service in dispatcher.made] == [False, True, False, False]

    dispatching(scenario, rules(201, 202))


def test_one_with_a_file_of_certificates_is_made_anew() -> None:
    def scenario(dispatcher: Dispatched, turn: LoopTurn) -> None:
        dispatcher.apply(dispatcher.prepare(rules(201, ca_pool="pem")))
        assert [service.was_closed for service in dispatcher.made] == [True, False]

    dispatching(scenario, rules(201, ca_pool="pem"))


def test_a_file_of_certificates_that_is_not_there_is_a_rule_s() -> None:
    settings = OriginRequest(ca_pool="/absent")
    ingress = Ingress([Rule(HttpService("https", "a", 443), origin_request=settings)])

    async def main() -> None:
        with pytest.raises(TrustError, match=r"rule #1: .*/absent: No such file"):
            Dispatcher(LoopTurn(asyncio.get_running_loop()), ingress)

    asyncio.run(main())


def test_a_busy_service_is_closed_when_it_is_done() -> None:
    def scenario(dispatcher: Dispatched, turn: LoopTurn) -> None:
        (old,) = dispatcher.made
        old.is_busy = True
        dispatcher.apply(dispatcher.prepare(rules(202)))
        tick(turn)
        assert not old.was_closed
        old.is_busy = False
        tick(turn)
        assert old.was_closed

    dispatching(scenario, rules(201))


def test_a_plan_that_fails_or_is_given_up_leaves_nothing() -> None:
    def scenario(dispatcher: Dispatched, turn: LoopTurn) -> None:
        with pytest.raises(TrustError):
            dispatcher.prepare(Ingress([*rules(202).rules, *rules(203, ca_pool="absent").rules]))
        plan: Plan = dispatcher.prepare(rules(204, 201))
        plan.discard()
        assert [service.was_closed for service in dispatcher.made] == [False, True, True]
        assert dispatcher.handler({})

    dispatching(scenario, rules(201))


def test_many_rules_are_no_reason_to_refuse_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_module, "MAX_RETIRED", 3)

    def scenario(dispatcher: Dispatched, turn: LoopTurn) -> None:
        dispatcher.made[0].is_busy = True
        for first in (211, 221, 231):
            dispatcher.apply(dispatcher.prepare(rules(*range(first, first + 9))))
        assert not dispatcher.made[0].was_closed

    dispatching(scenario, rules(*range(201, 210)))


def test_ten_thousand_origins_that_nobody_asks_for_cost_nothing() -> None:
    service = [parse_service(f"http://127.0.0.1:{port}") for port in range(1, 10_000)]
    ingress = Ingress(
        [
            *(Rule(each, f"{number}.example.com") for number, each in enumerate(service)),
            Rule(HttpStatus(404)),
        ]
    )

    async def main() -> None:
        turn = LoopTurn(asyncio.get_running_loop())
        dispatcher = Dispatcher(turn, ingress)
        assert len(turn.on_tick) == 1
        dispatcher.close()
        assert not turn.on_tick

    asyncio.run(main())


def test_services_that_are_never_done_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_module, "MAX_RETIRED", 3)

    def scenario(dispatcher: Dispatched, turn: LoopTurn) -> None:
        for status in (202, 203, 204):
            dispatcher.made[-1].is_busy = True
            dispatcher.apply(dispatcher.prepare(rules(status)))
        with pytest.raises(ServiceNotSupportedError, match="3 services of earlier rules"):
            dispatcher.prepare(rules(205))
        dispatcher.made[0].is_busy = False
        tick(turn)
        dispatcher.apply(dispatcher.prepare(rules(205)))

    dispatching(scenario, rules(201))
