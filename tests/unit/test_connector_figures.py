"""Figures under cloudflared's names, with its labels and buckets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rig.http2 import GET, RawClient
from rig.transport import ManualLoop

from underpass.connector.figures import EdgeCalls, StreamConnects
from underpass.connector.ingress import Ingress, Rule
from underpass.connector.observers import chained
from underpass.connector.origins import parse_service
from underpass.connector.routes import RouteTable
from underpass.core.tunnel import OriginAcceptor, OriginExchange
from underpass.ops.metrics import Metrics, SnapshotSource

LE = ["0.05", "0.15000000000000002", "0.45000000000000007", "1.35", "4.050000000000001", "+Inf"]
"""The buckets of a stock cloudflared's calls, as it labels them."""


def family(source: SnapshotSource, name: str) -> Any:
    text = Metrics([source]).render().decode()
    return {each.name: each for each in text_string_to_metric_families(text)}[name]


def buckets(source: SnapshotSource, name: str) -> list[str]:
    found = family(source, name)
    assert found.type == "histogram"
    return [sample.labels["le"] for sample in found.samples if sample.name.endswith("_bucket")]


class Streams:
    """A connector with one rule, whose service is not HTTP."""

    def __init__(self, service: str = "tcp://localhost:22") -> None:
        self.connects = StreamConnects()
        self.table = RouteTable(None, self.connects.observe)
        self.service = service

    def request(self, forward: Callable[[OriginExchange], object]) -> None:
        ingress = Ingress([Rule(parse_service(self.service))])
        (handler,) = self.table.handlers(ingress, (lambda exchange: forward(exchange) and None,))
        client = RawClient.over(ManualLoop(), OriginAcceptor(handler, self.table.unrouted))
        client.feed(client.peer.headers(1, GET, end=True))


def connected(exchange: OriginExchange) -> None:
    exchange.open_python_side().send_response(101)


class TestConnectsOfStreams:
    def test_one_that_works(self) -> None:
        streams = Streams()
        streams.request(connected)
        snapshot = streams.connects.snapshot()
        latency = snapshot["cloudflared_proxy_connect_latency"]
        assert isinstance(latency, dict)
        assert latency[("+Inf",)] == 1
        assert snapshot["cloudflared_proxy_connect_streams_errors"] == 0

    def test_one_that_does_not(self) -> None:
        streams = Streams()
        streams.request(lambda exchange: exchange.fail(502, "dial"))
        snapshot = streams.connects.snapshot()
        latency = snapshot["cloudflared_proxy_connect_latency"]
        assert isinstance(latency, dict)
        assert latency[("+Inf",)] == 0
        assert snapshot["cloudflared_proxy_connect_streams_errors"] == 1

    def test_a_handshake_that_is_turned_away_is_neither(self) -> None:
        streams = Streams()
        streams.request(lambda exchange: exchange.respond(400, ()))
        snapshot = streams.connects.snapshot()
        assert snapshot["cloudflared_proxy_connect_streams_errors"] == 0
        latency = snapshot["cloudflared_proxy_connect_latency"]
        assert isinstance(latency, dict)
        assert latency[("+Inf",)] == 0

    def test_requests_to_http_origins_are_not_looked_at(self) -> None:
        streams = Streams("http://localhost:8000")
        streams.request(lambda exchange: exchange.fail(502, "dial"))
        assert streams.connects.errors == 0

    def test_buckets_are_cloudflareds(self) -> None:
        assert buckets(StreamConnects().snapshot, "cloudflared_proxy_connect_latency") == [
            *("1", "10", "25", "50", "100", "500", "1000", "5000", "+Inf")
        ]


class TestCallsToTheEdge:
    def test_are_counted_by_method(self) -> None:
        calls = EdgeCalls()
        calls.note("register_connection", 0.1, True)
        calls.note("register_connection", 0.2, False)
        calls.note("unregister_connection", 5.0, False)
        snapshot = calls.snapshot()
        register = ("registration", "register_connection")
        unregister = ("registration", "unregister_connection")
        assert snapshot["cloudflared_rpc_client_operations"] == {register: 2, unregister: 1}
        assert snapshot["cloudflared_rpc_client_failures"] == {register: 1}
        latency = snapshot["cloudflared_rpc_client_latency_secs"]
        assert isinstance(latency, dict)
        assert [latency[(*register, bound)] for bound in LE[:3]] == [0, 1, 2]
        assert latency[(*unregister, LE[4])] == 0
        assert latency[(*unregister, "+Inf")] == 1

    def test_labels_and_buckets_are_cloudflareds(self) -> None:
        calls = EdgeCalls()
        calls.note("register_connection", 0.1, False)
        name = "cloudflared_rpc_client_latency_secs"
        assert buckets(calls.snapshot, name) == LE
        sample = family(calls.snapshot, name).samples[0]
        assert sample.labels.keys() == {"handler", "method", "le"}


class TestFlowsTurnedAway:
    def test_are_counted_as_cloudflared_does(self) -> None:
        table = RouteTable()
        refuse = table.private_network(lambda exchange: exchange.fail(502, "too_many_streams"))
        client = RawClient.over(ManualLoop(), OriginAcceptor(refuse, table.unrouted))
        client.feed(client.peer.headers(1, GET, end=True))
        name = "flow_client_registrations_rate_limited_total"
        assert table.snapshot()[name] == {"tcp": 1}
        text = Metrics([table.snapshot]).render().decode()
        assert re.search(rf'^{name}{{flow_type="tcp"}} 1$', text, re.MULTILINE)

    def test_there_is_no_series_without_any(self) -> None:
        assert RouteTable().snapshot()["flow_client_registrations_rate_limited_total"] == {}


class TestChains:
    def test_call_both(self) -> None:
        called: list[tuple[str, int]] = []
        hook = chained(lambda n: called.append(("a", n)), lambda n: called.append(("b", n)))
        hook(1)
        assert called == [("a", 1), ("b", 1)]

    def test_of_one_are_that_one(self) -> None:
        def hook() -> None: ...

        assert chained(None, hook) is hook
        assert chained(hook, None) is hook
        assert chained(None, None) is None

    def test_the_second_is_called_even_if_the_first_fails(self) -> None:
        called: list[int] = []

        def broken(_: int) -> None:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            chained(broken, called.append)(7)
        assert called == [7]
