"""Requests are told apart by ingress rule, within a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rig.http2 import GET, RawClient
from rig.transport import ManualLoop

from underpass.connector.ingress import Ingress, Rule
from underpass.connector.origins import parse_service
from underpass.connector.routes import MAX_SERIES, RouteTable
from underpass.core.histogram import Histogram
from underpass.core.relay import Exchange
from underpass.core.tunnel import OriginAcceptor, OriginExchange
from underpass.ops.metrics import FAMILIES, Metrics, histogram_values
from underpass.ops.workers.tally import Tally, total

Handler = Callable[[OriginExchange], None]


def rules(*hostnames: str) -> Ingress:
    service = parse_service("http://localhost:8000")
    return Ingress([Rule(service, name) for name in (*hostnames, "")])


class Requests:
    """Makes requests, and gives them to whichever handler."""

    def __init__(self, table: RouteTable) -> None:
        self._exchanges: list[OriginExchange] = []
        acceptor = OriginAcceptor(self._exchanges.append, table.unrouted)
        self._client = RawClient.over(ManualLoop(), acceptor)
        self._stream = -1

    def make(self, handler: Handler) -> OriginExchange:
        self._stream += 2
        self._client.feed(self._client.peer.headers(self._stream, GET, end=True))
        exchange = self._exchanges.pop()
        handler(exchange)
        return exchange


def answer(status: int) -> Handler:
    return lambda exchange: exchange.respond(status, (), b"12345")


def hold(_: Exchange) -> None:
    """Answer later."""


class TestSeries:
    def test_each_rule_has_its_own(self) -> None:
        table = RouteTable()
        first, last = table.handlers(rules("a.test"), (answer(200), answer(404)))
        requests = Requests(table)
        for handler in (first, first, last):
            requests.make(handler)
        snapshot = table.snapshot()
        assert snapshot["underpass_rule_requests_total"] == {("0", "a.test"): 2, ("1", "*"): 1}
        assert snapshot["underpass_rule_responses_total"] == {
            ("0", "a.test", "2xx"): 2,
            ("1", "*", "4xx"): 1,
        }
        assert snapshot["underpass_rule_response_bytes_total"] == {
            ("0", "a.test"): 10,
            ("1", "*"): 5,
        }
        assert snapshot["cloudflared_tunnel_total_requests"] == 3
        assert snapshot["cloudflared_tunnel_response_by_code"] == {("200",): 2, ("404",): 1}

    def test_a_rule_without_requests_has_none(self) -> None:
        table = RouteTable()
        table.handlers(rules("a.test"), (hold, hold))
        assert table.snapshot()["underpass_rule_requests_total"] == {}
        assert table.by_rule == {}

    def test_there_are_only_so_many(self) -> None:
        table = RouteTable()
        count = MAX_SERIES + 50
        ingress = rules(*(f"h{number}.test" for number in range(count)))
        handlers = table.handlers(ingress, (answer(200),) * (count + 1))
        requests = Requests(table)
        for handler in handlers:
            requests.make(handler)
        own = table.snapshot()["underpass_rule_requests_total"]
        assert isinstance(own, dict)
        assert len(own) == MAX_SERIES + 1
        assert own["other", ""] == 51
        assert own[str(MAX_SERIES - 1), f"h{MAX_SERIES - 1}.test"] == 1

    def test_private_networks_have_one(self) -> None:
        table = RouteTable()
        table.handlers(rules(), (hold,))
        Requests(table).make(table.private_network(answer(200)))
        own = table.snapshot()["underpass_rule_requests_total"]
        assert own == {("warp-routing", ""): 1}

    def test_failures_are_told_by_cause_and_hop(self) -> None:
        table = RouteTable()
        (handler,) = table.handlers(rules(), (lambda exchange: exchange.fail(502, "dial"),))
        Requests(table).make(handler)
        snapshot = table.snapshot()
        assert snapshot["underpass_request_failures_total"] == {("dial", "origin"): 1}
        assert snapshot["underpass_rule_failures_total"] == {("0", "*"): 1}
        assert snapshot["cloudflared_tunnel_request_errors"] == 1


class TestOtherRules:
    def test_a_rule_that_stays_goes_on_counting(self) -> None:
        table = RouteTable()
        requests = Requests(table)
        requests.make(table.handlers(rules("a.test"), (answer(200), hold))[0])
        requests.make(table.handlers(rules("a.test", "b.test"), (answer(200), hold, hold))[0])
        assert table.snapshot()["underpass_rule_requests_total"] == {("0", "a.test"): 2}

    def test_a_rule_that_is_gone_stays_in_the_total(self) -> None:
        table = RouteTable()
        requests = Requests(table)
        requests.make(table.handlers(rules("a.test"), (answer(200), hold))[0])
        table.handlers(rules("b.test"), (hold, hold))
        snapshot = table.snapshot()
        assert snapshot["underpass_rule_requests_total"] == {}
        assert snapshot["cloudflared_tunnel_total_requests"] == 1
        assert snapshot["cloudflared_tunnel_response_by_code"] == {("200",): 1}

    def test_it_is_told_apart_until_its_last_request_has_ended(self) -> None:
        table = RouteTable()
        exchange = Requests(table).make(table.handlers(rules("a.test"), (hold, hold))[0])
        table.handlers(rules("b.test"), (hold, hold))
        active = "underpass_rule_active_requests"
        assert table.snapshot()[active] == {("0", "a.test"): 1}
        exchange.respond(200, ())
        snapshot = table.snapshot()
        assert snapshot[active] == {}
        assert snapshot["cloudflared_tunnel_concurrent_requests_per_tunnel"] == 0
        assert snapshot["cloudflared_tunnel_total_requests"] == 1

    def test_many_changes_leave_nothing_behind(self) -> None:
        table = RouteTable()
        requests = Requests(table)
        for number in range(300):
            requests.make(table.handlers(rules(f"h{number}.test"), (answer(200), hold))[0])
        assert len(table.by_rule) == 1
        assert table.snapshot()["cloudflared_tunnel_total_requests"] == 300


class TestHistograms:
    def test_as_a_snapshot_has_them(self) -> None:
        histogram = Histogram((0.5, 2))
        for value in (0.25, 1, 10):
            histogram.add(value)
        assert histogram_values([(("0", "h"), histogram)]) == {
            ("0", "h", "0.5"): 1,
            ("0", "h", "2"): 2,
            ("0", "h", "+Inf"): 3,
            ("0", "h", "sum"): 11.25,
        }

    def test_in_the_text_format(self) -> None:
        table = RouteTable()
        Requests(table).make(table.handlers(rules(), (answer(200),))[0])
        text = Metrics([table.snapshot]).render().decode()
        found = {each.name: each for each in text_string_to_metric_families(text)}
        family = found["underpass_rule_duration_seconds"]
        assert family.type == "histogram"
        by_name: dict[str, list[Any]] = {}
        for sample in family.samples:
            by_name.setdefault(sample.name.rpartition("_")[2], []).append(sample)
        assert [each.value for each in by_name["count"]] == [1]
        assert len(by_name["sum"]) == 1
        assert by_name["bucket"][-1].labels == {"rule": "0", "hostname": "*", "le": "+Inf"}
        counts = [each.value for each in by_name["bucket"]]
        assert counts == sorted(counts)

    def test_of_several_processes_are_added_up(self) -> None:
        tables = [RouteTable(), RouteTable()]
        for table in tables:
            Requests(table).make(table.handlers(rules(), (answer(200),))[0])
        name = "underpass_rule_duration_seconds"
        summed = total(table.snapshot() for table in tables)[name]
        assert isinstance(summed, dict)
        assert summed["0", "*", "+Inf"] == 2

    def test_do_not_fall_when_a_process_ends(self) -> None:
        table, tally = RouteTable(), Tally()
        Requests(table).make(table.handlers(rules(), (answer(200),))[0])
        tally.told(dict(table.snapshot()))  # type: ignore[arg-type]
        tally.ended()
        kept = tally.readings["underpass_rule_duration_seconds"]
        assert isinstance(kept, dict)
        assert kept["0", "*", "+Inf"] == 1
        assert "underpass_rule_active_requests" not in tally.readings


def test_every_metric_of_the_table_is_declared() -> None:
    table = RouteTable()
    Requests(table).make(table.handlers(rules(), (answer(200),))[0])
    assert table.snapshot().keys() <= FAMILIES.keys()
