"""Pre-checks: what is probed, how patiently, and what the operator is told."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from underpass.connector import prechecks
from underpass.connector.discovery import SrvTarget
from underpass.connector.edges import EdgeSlot
from underpass.connector.homes import Home
from underpass.connector.links import DialError, DialErrorKind
from underpass.connector.prechecks import (
    FAIL,
    MAX_TARGETS,
    PASS,
    SKIP,
    Report,
    Row,
    check,
    log_report,
    table,
)
from underpass.connector.trust import TrustError
from underpass.wire.credentials import Credentials

REGIONS = ("region1.v2.argotunnel.com", "region2.v2.argotunnel.com")


class World:
    """A network in the test's hands."""

    def __init__(self) -> None:
        self.records: list[SrvTarget] | OSError = [
            SrvTarget(name, 7844, priority) for priority, name in enumerate(REGIONS)
        ]
        self.fallback: list[SrvTarget] | OSError = OSError("blocked")
        self.hosts: dict[str, list[str]] = {
            REGIONS[0]: ["192.0.2.1", "192.0.2.2", "2001:db8::1"],
            REGIONS[1]: ["192.0.2.9"],
        }
        self.errors: dict[str, list[Exception]] = {}
        self.api: list[OSError] = []
        self.asked: list[str] = []
        self.waits: list[float] = []

    def check(self, *homes: Home) -> Report:
        return asyncio.run(
            check(
                homes,
                resolver=self,
                connect=self._connect,
                reach_api=self._reach_api,
                sleep=self._sleep,
            )
        )

    async def targets(self, name: str) -> Sequence[SrvTarget]:
        self.asked.append(name)
        return self._answer(self.records)

    async def fallback_targets(self, name: str) -> Sequence[SrvTarget]:
        return self._answer(self.fallback)

    async def addresses(self, host: str) -> Sequence[str]:
        if host not in self.hosts:
            raise OSError("no such name")
        return self.hosts[host]

    @staticmethod
    def _answer(answer: list[SrvTarget] | OSError) -> list[SrvTarget]:
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _connect(self, home: Home) -> Callable[[EdgeSlot], Awaitable[None]]:
        if home.cacert is not None:
            raise TrustError(f"--cacert {home.cacert}: no such file")

        async def connect(slot: EdgeSlot) -> None:
            if self.errors.get(slot.host):
                raise self.errors[slot.host].pop(0)

        return connect

    async def _reach_api(self) -> None:
        if self.api:
            raise self.api.pop(0)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def statuses(report: Report) -> list[tuple[str, str, str]]:
    return [(row.component, row.target, row.status) for row in report.rows]


def static(*edges: tuple[str, int], name: str = "") -> Home:
    return Home(name=name, edges=edges)


REFUSED = DialError(DialErrorKind.CONNECT, "connection refused")


class TestTargets:
    def test_a_discovered_edge_is_looked_at_by_region_and_family(self) -> None:
        report = World().check(Home())
        assert statuses(report) == [
            ("DNS Resolution", REGIONS[0], PASS),
            ("DNS Resolution", REGIONS[1], PASS),
            ("TCP Connectivity", "192.0.2.1:7844", PASS),
            ("TCP Connectivity", "[2001:db8::1]:7844", PASS),
            ("TCP Connectivity", "192.0.2.9:7844", PASS),
            ("Cloudflare API", "api.cloudflare.com:443", PASS),
        ]
        assert report.rows[0].details == "3 addresses"
        assert not report.is_hard_failure

    def test_one_family_may_be_asked_for(self) -> None:
        targets = [row.target for row in World().check(Home(edge_ip_version="6")).rows]
        assert "[2001:db8::1]:7844" in targets
        assert "192.0.2.1:7844" not in targets

    def test_credentials_may_name_the_region(self) -> None:
        world = World()
        world.check(Home(credentials=Credentials("", b"", uuid.UUID(int=1), "us")))
        assert world.asked == ["_us-v2-origintunneld._tcp.argotunnel.com"]

    def test_a_list_has_one_row_for_each_address_and_asks_nobody_elses_api(self) -> None:
        world = World()
        world.hosts = {"edge.example.com": ["192.0.2.5"], "192.0.2.6": ["192.0.2.6"]}
        named, plain = ("edge.example.com", 7844), ("192.0.2.6", 1)
        assert statuses(world.check(static(named, plain, plain))) == [
            ("DNS Resolution", "edge.example.com", PASS),
            ("TCP Connectivity", "192.0.2.5:7844", PASS),
            ("TCP Connectivity", "192.0.2.6:1", PASS),
        ]

    def test_a_list_is_looked_at_up_to_a_bound(self) -> None:
        world = World()
        addresses = [f"192.0.2.{number}" for number in range(100)]
        world.hosts = {address: [address] for address in addresses}
        report = world.check(static(*((address, 1) for address in addresses)))
        assert len(report.rows) == MAX_TARGETS

    def test_several_homes_are_named(self) -> None:
        world = World()
        world.hosts["192.0.2.6"] = ["192.0.2.6"]
        report = world.check(Home(name="cloudflare"), static(("192.0.2.6", 1), name="own"))
        assert ("TCP Connectivity", "own: 192.0.2.6:1", PASS) in statuses(report)
        assert ("DNS Resolution", f"cloudflare: {REGIONS[0]}", PASS) in statuses(report)
        assert [row.component for row in report.rows].count("Cloudflare API") == 1

    def test_behind_a_proxy_names_are_left_to_it(self) -> None:
        home = Home(edges=(("edge.behind.proxy", 1),), edge_proxy="http://proxy")
        assert statuses(World().check(home)) == [
            ("DNS Resolution", "edge.behind.proxy", SKIP),
            ("TCP Connectivity", "edge.behind.proxy:1", PASS),
        ]

    def test_a_proxy_that_cannot_be_used(self) -> None:
        home = Home(edges=(("edge", 1),), edge_proxy="ftp://u:s3cret@x")
        (row,) = World().check(home).rows
        assert (row.status, row.action) == (FAIL, "Mend what names the proxy.")
        assert "s3cret" not in row.details


class TestFailures:
    def test_three_attempts_then_it_is_said(self) -> None:
        world = World()
        world.hosts = {"192.0.2.6": ["192.0.2.6"]}
        world.errors = {"192.0.2.6": [REFUSED] * 3}
        report = world.check(static(("192.0.2.6", 7844)))
        (row,) = report.rows
        assert (row.status, row.details) == (FAIL, "connection refused")
        assert row.action.startswith("Allow TCP from this machine to 192.0.2.6 at port 7844")
        assert world.waits == [1.0, 2.0]
        assert report.is_hard_failure

    def test_a_second_attempt_may_do(self) -> None:
        world = World()
        world.errors = {"192.0.2.9": [REFUSED]}
        assert all(row.status == PASS for row in world.check(Home()).rows)

    def test_one_way_is_enough(self) -> None:
        world = World()
        world.errors = {"192.0.2.9": [REFUSED] * 3}
        assert not world.check(Home()).is_hard_failure

    def test_without_dns_there_is_no_edge(self) -> None:
        world = World()
        world.records = OSError("no DNS server answers")
        report = world.check(Home())
        assert report.is_hard_failure
        row = report.rows[0]
        assert (row.component, row.status) == ("DNS Resolution", FAIL)
        assert row.details == "no DNS server answers"
        assert "--edge" in row.action

    def test_dns_over_tls_helps(self) -> None:
        world = World()
        world.fallback, world.records = world.records, OSError("refused")
        assert not world.check(Home()).is_hard_failure

    def test_a_region_without_an_address(self) -> None:
        world = World()
        del world.hosts[REGIONS[1]]
        report = world.check(Home())
        assert ("DNS Resolution", REGIONS[1], FAIL) in statuses(report)
        assert ("TCP Connectivity", f"{REGIONS[1]}:7844", SKIP) in statuses(report)
        assert report.is_hard_failure

    def test_an_api_that_is_closed_is_no_hard_failure(self) -> None:
        world = World()
        world.api = [OSError("timed out")] * 3
        report = world.check(Home())
        assert report.rows[-1].status == FAIL
        assert "commands that create" in report.rows[-1].action
        assert not report.is_hard_failure

    def test_certificates_that_cannot_be_read(self) -> None:
        home = Home(edges=(("192.0.2.6", 1),), cacert=Path("/absent.pem"))
        (row,) = World().check(home).rows
        assert (row.status, row.details) == (FAIL, "--cacert /absent.pem: no such file")

    def test_another_program_at_the_edges_address(self) -> None:
        world = World()
        world.hosts = {"192.0.2.6": ["192.0.2.6"]}
        world.errors = {"192.0.2.6": [DialError(DialErrorKind.TLS, "not to be trusted")] * 3}
        (row,) = world.check(static(("192.0.2.6", 7844))).rows
        assert row.action.startswith("See the details")

    def test_nobody_at_the_edges_address(self) -> None:
        world = World()
        world.hosts = {"192.0.2.6": ["192.0.2.6"]}
        error = DialError(DialErrorKind.CONNECT, "refused")
        error.__cause__ = ConnectionRefusedError()
        world.errors = {"192.0.2.6": [error] * 3}
        (row,) = world.check(static(("192.0.2.6", 7844))).rows
        assert row.action.startswith("See that the edge runs and listens at 192.0.2.6:7844")

    def test_who_does_not_answer_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prechecks, "PROBE_SECONDS", 0.01)
        monkeypatch.setattr(prechecks, "SUITE_SECONDS", 0.05)
        world = World()

        async def never(slot: EdgeSlot) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(world, "_connect", lambda _: never)
        report = world.check(Home())
        assert {row.details for row in report.rows if row.component == "TCP Connectivity"} == {
            "no answer in time"
        }
        assert world.waits == []  # the whole has its end before a second attempt


ROWS = (
    Row("DNS Resolution", "edge", PASS, "2 addresses"),
    Row("TCP Connectivity", "192.0.2.6:7844", FAIL, "connection refused " * 5, "Open the port."),
)


def test_a_table_for_a_person() -> None:
    report = Report(uuid.UUID(int=1), ROWS)
    lines = table(report).splitlines()
    assert lines[1].startswith("| CONNECTIVITY PRE-CHECKS")
    assert lines[3].split("|")[1:5] == [
        " COMPONENT        ",
        " TARGET         ",
        " STATUS ",
        " DETAILS                                                      ",
    ]
    assert len({len(line) for line in lines if line[0] in "+|"}) == 1
    assert lines[-2].startswith("TCP Connectivity, 192.0.2.6:7844: Open the port. (connection")
    assert lines[-1] == "SUMMARY: no link can be made before the above is mended."
    open_way = Report(uuid.UUID(int=1), ROWS[:1])
    assert table(open_way).endswith("SUMMARY: the way to the edge is open.")
    partly = Report(uuid.UUID(int=1), (*ROWS, Row("TCP Connectivity", "x", PASS, "")))
    assert table(partly).endswith("SUMMARY: links can be made, though not to everywhere.")


def test_lines_for_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_report(Report(uuid.UUID(int=1), ROWS))
    first, second, whole = [record.__dict__ for record in caplog.records]
    assert (first["message"], first["status"], first["component"]) == (
        "precheck",
        "pass",
        "DNS Resolution",
    )
    assert second["action"] == "Open the port."
    assert (whole["message"], whole["hard_fail"]) == ("precheck complete", True)
    assert whole["suggested_protocol"] is None
    assert first["run_id"] == whole["run_id"]
