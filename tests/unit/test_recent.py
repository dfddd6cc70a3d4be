"""The last requests, as the core remembers them."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

import pytest
from rig.exchanges import alive
from rig.http1 import Visitor
from rig.tunnel import Tunnel

from underpass.core.recent import KEPT, RecentRequests, Ring
from underpass.core.relay import Counters
from underpass.core.tunnel import VisitorAcceptor, VisitorExchange
from underpass.edge.recent import MAX_SHOWN, Recent, merged, read_recent

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Somewhere:
    """Where a request goes, as the edge keeps it with the exchange."""

    tunnel_id = None
    connector_id = None
    conn_index = 2


class Edge:
    """A visitor whose requests are answered as they say in the path: `/200`, `/fail/dial`."""

    def __init__(self, recent: RecentRequests | None, *, context: Any = Somewhere) -> None:
        self.context = context
        self.kept: list[VisitorExchange] = []
        acceptor = VisitorAcceptor(
            self._answer, Counters(), None, None, b"192.0.2.1", b"https", b"TEST"
        )
        acceptor.recent = recent
        self.visitor = Visitor(acceptor=acceptor, scheme=b"https")

    def _answer(self, exchange: VisitorExchange) -> None:
        exchange.context = self.context
        _, kind, *rest = exchange.path.partition(b"?")[0].decode("ascii").split("/")
        if kind == "fail":
            exchange.fail(502, rest[0])
        elif kind == "wait":
            self.kept.append(exchange)
        else:
            exchange.respond(int(kind), (), b"ok")

    def ask(self, target: bytes, method: bytes = b"GET", host: bytes = b"app.example.com") -> None:
        self.visitor.send(method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        self.visitor.loop.run()


def shown(records: list[Any]) -> list[tuple[bytes, bytes, bytes, int]]:
    return [record[1:5] for record in records]


class TestRing:
    def test_the_newest_first_and_no_more_than_there_is_room(self) -> None:
        recent = RecentRequests(3, 2)
        edge = Edge(recent)
        assert recent.requests() == []
        for number in range(5):
            edge.ask(b"/200/%d" % number)
        assert [record[3] for record in recent.requests()] == [b"/200/4", b"/200/3", b"/200/2"]
        assert recent.failures() == []

    def test_what_a_record_says(self) -> None:
        recent = RecentRequests()
        edge = Edge(recent)
        before = time.time()
        edge.ask(b"/201/x", b"POST", b"App.Example.com:8443")
        (record,) = recent.requests()
        at, method, host, path, status, seconds, sent, received, ray, *rest = record
        assert before - 1 < at < time.time() + 1
        assert (method, host, path) == (b"POST", b"App.Example.com:8443", b"/201/x")
        assert (status, sent, received) == (201, 0, 2)
        assert seconds is not None
        assert 0 <= seconds < 60
        assert ray.endswith(b"-TEST")
        assert rest == [0, None, False, Somewhere]

    def test_what_is_under_way_is_there_too(self) -> None:
        recent = RecentRequests()
        edge = Edge(recent)
        edge.ask(b"/wait")
        (record,) = recent.requests()
        assert (record[4], record[5], record[12]) == (0, None, Somewhere)
        edge.kept[0].respond(200, (), b"late")
        edge.visitor.loop.run()
        (record,) = recent.requests()
        assert (record[4], record[7]) == (200, 4)
        assert record[5] is not None

    @pytest.mark.parametrize("target", [b"/200?token=secret", b"/200/?", b"/200?" + b"s" * 400])
    def test_the_query_is_not_kept(self, target: bytes) -> None:
        recent = RecentRequests()
        Edge(recent).ask(target)
        assert recent.requests()[0][3] == target.partition(b"?")[0]

    def test_what_is_long_is_cut(self) -> None:
        recent = RecentRequests()
        edge = Edge(recent)
        method, host, path = KEPT
        assert method >= len("VERSION-CONTROL")
        for size, cut in ((0, b""), (1, "…".encode())):
            edge.ask(b"/200/" + b"p" * (path - 5 + size) + b"?q")
            assert recent.requests()[0][3] == b"/200/" + b"p" * (path - 5) + cut
            edge.ask(b"/200", host=b"h" * (host + size))
            assert recent.requests()[0][2] == b"h" * host + cut

    def test_failures_are_kept_when_much_goes_well(self) -> None:
        recent = RecentRequests(4, 2)
        edge = Edge(recent)
        for cause in (b"dial", b"tls", b"dns"):
            edge.ask(b"/fail/" + cause)
        edge.ask(b"/503")
        for _ in range(10):
            edge.ask(b"/200")
        failures = recent.failures()
        assert [(record[3], record[4], record[10]) for record in failures] == [
            (b"/503", 503, None),
            (b"/fail/dns", 502, "dns"),
        ]
        assert all(record[12] is Somewhere for record in failures)

    def test_strangers_wash_no_failure_out(self) -> None:
        recent = RecentRequests(8, 1)
        known, stranger = Edge(recent), Edge(recent, context=None)
        known.ask(b"/fail/dial")
        for _ in range(4):
            stranger.ask(b"/fail/unknown_host")
            stranger.ask(b"/bad%zz")
        known.ask(b"/wait")
        known.visitor.transport.lose()
        known.visitor.loop.run()
        assert recent.requests()[0][10] == "reset_by_client"
        assert [record[10] for record in recent.failures()] == ["dial"]

    def test_one_that_has_been_forgotten_ends_without_a_trace(self) -> None:
        recent = RecentRequests(2, 2)
        waiting, busy = Edge(recent), Edge(recent)
        waiting.ask(b"/wait")
        for number in range(3):
            busy.ask(b"/200/%d" % number)
        waiting.kept[0].fail(502, "dial")
        assert [record[3] for record in recent.requests()] == [b"/200/2", b"/200/1"]
        assert recent.failures() == []

    def test_nothing_is_kept_alive_that_is_over(self) -> None:
        gc.collect()
        before = alive(VisitorExchange)
        recent = RecentRequests(4, 4)
        edge = Edge(recent)
        for path in (b"/200", b"/fail/dial", b"/wait"):
            edge.ask(path)
        edge.kept.pop().reset()
        edge.visitor.loop.run()
        gc.collect()
        assert alive(VisitorExchange) == before
        assert len(recent.requests()) == 3

    def test_a_ring_that_goes_lets_go(self) -> None:
        gc.collect()
        before = alive(VisitorExchange)
        edge = Edge(RecentRequests(4, 4))
        edge.ask(b"/wait")
        edge.visitor.transport.lose()
        edge.visitor.loop.run()
        edge.kept.clear()
        del edge
        gc.collect()
        assert alive(VisitorExchange) == before

    def test_a_link_that_is_gone_is_kept_by_its_name_alone(self) -> None:
        class Link:
            pass

        link = Link()
        recent = RecentRequests(4, 4)
        edge = Edge(recent, context=link)
        edge.ask(b"/200")
        edge.ask(b"/fail/dial")
        edge.context = None
        recent.forget(link, "its name")
        assert [record[12] for record in recent.requests()] == ["its name"] * 2
        assert [record[12] for record in recent.failures()] == ["its name"]
        gone = weakref.ref(link)
        del link
        gc.collect()
        assert gone() is None

    @pytest.mark.parametrize("size", [0, -1, 65537])
    def test_how_large_it_may_be(self, size: int) -> None:
        with pytest.raises(ValueError, match="65536"):
            Ring(size)

    def test_without_it_nothing_is_remembered(self) -> None:
        edge = Edge(None)
        edge.ask(b"/200")
        assert b"200 OK" in edge.visitor.transport.take()


def test_a_request_that_is_sent_again_is_one() -> None:
    tunnel = Tunnel()
    tunnel.at_edge.recent = recent = RecentRequests()
    tunnel.request(b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n")
    tunnel.dials.origin.end()
    tunnel.run()
    tunnel.respond(OK)
    assert len(recent.requests()) == 1


class TestShown:
    def test_bytes_that_are_no_text_are_made_visible(self) -> None:
        class Kept:
            @staticmethod
            def requests() -> list[Any]:
                record = (0.0, b"GET", b"a\xe2\x80\xaeb", b"/200/\xff\xc3\xa9", 200, 1.0)
                return [(*record, 0, 0, b"ray", 1, None, False, None)]

            @staticmethod
            def failures() -> list[Any]:
                return []

        kept: Any = Kept()
        (record,) = read_recent(kept).requests
        assert record.path == "/200/\\xffé"
        assert record.host == "a\\u202eb"

    def test_who_says_why_says_where(self) -> None:
        recent = RecentRequests()
        Edge(recent).ask(b"/fail/link_lost")
        (record,) = read_recent(recent).failures
        assert (record.cause, record.hop, record.conn_index) == ("link_lost", "link", 2)

    def test_several_processes_remember_as_one(self) -> None:
        one, other = RecentRequests(), RecentRequests()
        for number in range(4):
            Edge((one, other)[number % 2]).ask(b"/200/%d" % number)
        together = merged([read_recent(one), read_recent(other)])
        assert [record.path for record in together.requests] == [
            "/200/3",
            "/200/2",
            "/200/1",
            "/200/0",
        ]
        many = Recent(together.requests * MAX_SHOWN, [])
        assert len(merged([many]).requests) == MAX_SHOWN
