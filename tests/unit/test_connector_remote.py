"""Configuration that the edge pushes: how it is read, and who may change what is in force."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from underpass.connector.data_path import DataPathError
from underpass.connector.in_force import InForce
from underpass.connector.ingress import HttpService, HttpStatus, Ingress, single_rule
from underpass.connector.local_configuration import local_configuration_of
from underpass.connector.origin_request import OriginRequest
from underpass.connector.remote import read_remote
from underpass.connector.warp_routing import WarpRouting
from underpass.ops.document import MAX_IGNORED, ConfigError
from underpass.wire.remote_config import ConfigurationReply, ConfigurationUpdate


def update(version: int, config: Any) -> ConfigurationUpdate:
    text = config if isinstance(config, str) else json.dumps(config)
    return ConfigurationUpdate(version, text.encode())


def rule(status: int, **more: Any) -> dict[str, Any]:
    return {"ingress": [{"service": f"http_status:{status}"}], **more}


class TestReading:
    def test_rules_with_what_goes_with_them(self) -> None:
        config = {
            "ingress": [
                {
                    "hostname": "a.example",
                    "service": "http://h",
                    "originRequest": {"tlsTimeout": 3},
                },
                {"service": "http_status:404"},
            ],
            "originRequest": {"connectTimeout": 7},
            "warp-routing": {"connectTimeout": 2, "tcpKeepAlive": 3, "maxActiveFlows": 9},
        }
        ingress = read_remote(update(0, config)).ingress
        assert ingress.rules[0].service == HttpService("http", "h", 80)
        settings = OriginRequest(connect_timeout=7.0, tls_timeout=3.0)
        assert ingress.rules[0].origin_request == settings
        assert ingress.warp_routing == WarpRouting(2.0, 3.0, 9)

    @pytest.mark.parametrize("config", [{}, {"ingress": []}, {"ingress": None}])
    def test_without_rules_the_answer_is_503(self, config: Any) -> None:
        assert read_remote(update(0, config)).ingress.rules[0].service == HttpStatus(503)

    def test_unknown_keys_are_noted_and_those_of_bookkeeping_are_not(self) -> None:
        config = {
            "ingress": [{"id": "1", "later": 1, "service": "http_status:200"}],
            "originRequest": {"newest": True},
            "more": {},
        }
        ignored = read_remote(update(0, config)).ignored
        assert sorted(ignored) == ["ingress[0].later", "more", "originRequest.newest"]
        many = {f"key{number}": 1 for number in range(MAX_IGNORED + 5)}
        assert len(read_remote(update(0, many)).ignored) == MAX_IGNORED

    @pytest.mark.parametrize(
        ("config", "why"),
        [
            ("[]", "expected a mapping, found a list"),
            ("1", "expected a mapping"),
            ("{", "not valid JSON"),
            ("[" * 100_000, "nested too deeply"),
            ({"ingress": {}}, "ingress: expected a list"),
            ({"ingress": [{"service": "x"}]}, "configuration 4 from the edge: ingress.*rule #1"),
            (rule(200, originRequest={"connectTimeout": "5s"}), "whole number of seconds"),
            (rule(200, originRequest={"connectTimeout": 1.5}), "whole number of seconds"),
            (rule(200, **{"warp-routing": {"maxActiveFlows": -1}}), "cannot be negative"),
        ],
    )
    def test_what_cannot_be_used(self, config: Any, why: str) -> None:
        with pytest.raises(ConfigError, match=why):
            read_remote(update(4, config))

    def test_the_flag_of_flows_wins(self) -> None:
        config = rule(200, **{"warp-routing": {"maxActiveFlows": 9}})
        assert read_remote(update(0, config), 0).ingress.warp_routing.max_active_flows == 0
        assert read_remote(update(0, config), 5).ingress.warp_routing.max_active_flows == 5

    def test_the_report_to_the_edge_has_what_is_not_the_default(self) -> None:
        config = rule(200, **{"warp-routing": {"maxActiveFlows": 9, "tcpKeepAlive": 4}})
        ingress = read_remote(update(0, config)).ingress
        report = json.loads(local_configuration_of(ingress, "http2"))
        assert report["warp-routing"] == {"maxActiveFlows": 9, "tcpKeepAlive": 4}


class Bench:
    def __init__(self) -> None:
        self.applied: list[int] = []
        self.refusal: Exception | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.begun = asyncio.Event()
        self.now = 1000.0
        self.in_force = InForce(clock=lambda: self.now)
        self.in_force.start(self.apply, single_rule(HttpStatus(503)))

    async def apply(self, ingress: Ingress) -> None:
        self.begun.set()
        await self.free.wait()
        if self.refusal is not None:
            raise self.refusal
        service = ingress.rules[0].service
        assert isinstance(service, HttpStatus)
        self.applied.append(service.code)

    async def push(self, version: int, status: int) -> ConfigurationReply:
        return await self.in_force.update(update(version, rule(status)))


def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(Bench()), 20)

    asyncio.run(main())


def test_only_newer_versions_are_applied() -> None:
    async def scenario(bench: Bench) -> None:
        assert bench.in_force.version == 0
        assert not bench.in_force.is_remote
        bench.now = 2000.0
        for version in (0, 1, 5):
            assert await bench.push(version, 200 + version) == ConfigurationReply(version)
        for version in (5, 3, -1, -5):
            assert await bench.push(version, 500) == ConfigurationReply(5)
        assert bench.applied == [200, 201, 205]
        assert bench.in_force.snapshot() == {
            "cloudflared_orchestration_config_version": 5,
            "underpass_configuration_refused": {"file": 0, "edge": 0},
            "underpass_configuration_last_success_timestamp_seconds": 2000.0,
        }

    run(scenario)


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (DataPathError("not supported"), "not supported"),
        (ZeroDivisionError(), "an internal error"),
    ],
)
def test_what_cannot_be_applied_leaves_the_version(refusal: Exception, why: str) -> None:
    async def scenario(bench: Bench) -> None:
        bench.refusal = refusal
        bench.now = 2000.0
        assert await bench.push(3, 200) == ConfigurationReply(-1, why)
        assert bench.in_force.snapshot() == {
            "cloudflared_orchestration_config_version": 0,
            "underpass_configuration_refused": {"file": 0, "edge": 1},
            "underpass_configuration_last_success_timestamp_seconds": 1000.0,
        }
        bench.refusal = None
        assert await bench.push(3, 200) == ConfigurationReply(3)

    run(scenario)


def test_one_that_comes_on_every_link_is_refused_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        for why in ("bad", "bad", "worse"):
            bench.refusal = DataPathError(why)
            assert await bench.push(3, 200) == ConfigurationReply(-1, why)
        assert bench.in_force.snapshot()["underpass_configuration_refused"] == {
            "file": 0,
            "edge": 2,
        }

    run(scenario)
    assert [record.error for record in caplog.records if hasattr(record, "error")] == [
        "bad",
        "worse",
    ]


def test_one_change_at_a_time_in_the_order_asked_for() -> None:
    async def scenario(bench: Bench) -> None:
        bench.free.clear()
        pushes = [asyncio.create_task(bench.push(version, 200 + version)) for version in (2, 1, 3)]
        await bench.begun.wait()
        bench.free.set()
        replies = await asyncio.gather(*pushes)
        assert [reply.last_applied_version for reply in replies] == [2, 2, 3]
        assert bench.applied == [202, 203]

    run(scenario)


def test_an_asker_that_goes_away_does_not_stop_it_half_way() -> None:
    async def scenario(bench: Bench) -> None:
        bench.free.clear()
        push = asyncio.create_task(bench.push(1, 201))
        await bench.begun.wait()
        push.cancel()
        with pytest.raises(asyncio.CancelledError):
            await push
        bench.free.set()
        assert await bench.push(1, 500) == ConfigurationReply(1)
        assert bench.applied == [201]

    run(scenario)


def test_the_end_gives_up_what_is_under_way() -> None:
    async def scenario(bench: Bench) -> None:
        bench.free.clear()
        push = asyncio.create_task(bench.push(1, 201))
        await bench.begun.wait()
        bench.in_force.close()
        with pytest.raises(asyncio.CancelledError):
            await push
        assert bench.applied == []

    run(scenario)
