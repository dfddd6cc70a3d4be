"""What can be known of an exchange: where it went, how it fared, what it failed for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest
from rig.http1 import Dials, Visitor
from rig.http2 import RawClient, RawServer, rst_stream
from rig.transport import ManualLoop

from underpass.core.fields import Fields
from underpass.core.frames import ErrorCode
from underpass.core.headerblock import serialize_pairs
from underpass.core.relay import Counters, Exchange, Route
from underpass.core.tunnel import (
    OriginAcceptor,
    OriginExchange,
    VisitorAcceptor,
    VisitorExchange,
)

Pairs = Iterable[tuple[bytes, bytes]]

GET = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a.test"),
    (b":path", b"/p"),
]
POST = [(b":method", b"POST"), *GET[1:]]
UPGRADE = (b"cf-cloudflared-proxy-connection-upgrade", b"websocket")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Connector:
    """A raw edge before a link of a connector, whose requests all take one route to an origin."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.dials = Dials(self.loop)
        self.common = Counters()
        self.own = Counters()
        self.made = 0
        self.route = Route(self.dials.pool.forward, self._counters, info="the rule")
        self.exchanges: list[OriginExchange] = []
        self.failures: list[tuple[int, str]] = []
        acceptor = OriginAcceptor(
            self._handle,
            self.common,
            None,
            b"tag",
            (),
            lambda _, status, cause: self.failures.append((status, cause)),
            3,
        )
        self.edge = RawClient.over(self.loop, acceptor)
        self.stream = -1

    def _counters(self) -> Counters:
        self.made += 1
        return self.own

    def _handle(self, exchange: OriginExchange) -> None:
        self.exchanges.append(exchange)
        self.route.take(exchange)

    def request(self, fields: Pairs = GET, *, end: bool = True) -> OriginExchange:
        self.stream += 2
        self.edge.feed(self.edge.peer.headers(self.stream, fields, end=end))
        return self.exchanges[-1]

    def answer(self, text: bytes = OK) -> dict[bytes, bytes]:
        """The fields of the response head that the edge gets."""
        self.dials.origin.feed(text)
        return next((dict(each.fields) for each in self.edge.sent() if each.fields), {})


class TestRoutes:
    def test_count_their_own_requests(self) -> None:
        connector = Connector()
        exchange = connector.request(POST, end=False)
        assert exchange.route is connector.route
        assert exchange.route.info == "the rule"
        assert (connector.common.opened, connector.common.active) == (0, 0)
        assert (connector.own.opened, connector.own.active) == (1, 1)
        connector.edge.feed(connector.edge.peer.data(1, b"1234567", end=True))
        connector.answer()
        own = connector.own
        assert (own.opened, own.active, own.failed) == (1, 0, 0)
        assert (own.request_bytes, own.response_bytes) == (7, 2)
        assert own.statuses() == {200: 1}
        assert own.classes() == [0, 1, 0, 0, 0]
        assert (connector.common.request_bytes, connector.common.statuses()) == (0, {})

    def test_counters_are_made_at_the_first_request(self) -> None:
        connector = Connector()
        assert connector.made == 0
        for _ in range(3):
            connector.request()
            connector.answer()
        assert connector.made == 1

    def test_an_observer_sees_the_request_before_it_goes_on(self) -> None:
        connector = Connector()
        seen: list[tuple[bytes, bytes, int]] = []
        connector.route.observe = lambda each: seen.append(
            (each.method, each.path, len(connector.dials.transports))
        )
        connector.request()
        assert seen == [(b"GET", b"/p", 0)]

    def test_an_exchange_that_comes_again_is_counted_once(self) -> None:
        connector = Connector()
        exchange = connector.request()
        connector.route.take(exchange)
        assert connector.own.opened == 1


class TestTimes:
    def test_each_request_is_in_both_histograms(self) -> None:
        connector = Connector()
        for _ in range(3):
            connector.request()
            connector.answer()
        assert connector.own.first_byte.count == connector.own.duration.count == 3
        assert 0 <= connector.own.first_byte.sum <= connector.own.duration.sum

    def test_first_byte_and_end(self) -> None:
        connector = Connector()
        exchange = connector.request()
        assert exchange.first_byte_seconds is None
        before = exchange.seconds
        connector.answer(OK[:-1])
        first = exchange.first_byte_seconds
        assert first is not None
        assert before <= first
        connector.dials.origin.feed(b"k")
        assert exchange.seconds == exchange.seconds >= first
        assert exchange.first_byte_seconds == first

    def test_a_tunnels_life_is_no_duration(self) -> None:
        connector = Connector()
        exchange = connector.request([*GET, UPGRADE], end=False)
        agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
        connector.answer(agreed + b"Upgrade: websocket\r\n\r\n")
        assert exchange.status == 101
        connector.dials.origin.end()
        assert connector.own.active == 0
        assert (connector.own.first_byte.count, connector.own.duration.count) == (1, 0)


class TestObserversOfOneExchange:
    def test_are_told_of_the_end_once(self) -> None:
        connector = Connector()
        told: list[tuple[int, str | None, int, int]] = []
        connector.route.observe = lambda each: setattr(
            each,
            "on_over",
            lambda one: told.append((one.status, one.cause, one.request_bytes, one.response_bytes)),
        )
        connector.request(POST, end=False)
        connector.edge.feed(connector.edge.peer.data(1, b"123", end=True))
        assert told == []
        connector.answer()
        assert told == [(200, None, 3, 2)]
        connector.edge.feed(rst_stream(1, ErrorCode.CANCEL))
        assert len(told) == 1

    def test_may_add_to_the_head_that_goes_to_the_edge_and_not_to_the_visitor(self) -> None:
        connector = Connector()
        answers: list[int] = []

        def answered(_: OriginExchange, status: int, head: Fields) -> None:
            answers.append(status)
            head.append(b"cf-int-cloudflared-tracing", b"spans")

        connector.request().on_answer = answered
        head = connector.answer()
        assert answers == [200]
        assert head[b"cf-int-cloudflared-tracing"] == b"spans"
        assert b"tracing" not in head[b"cf-cloudflared-response-headers"]

    def test_see_answers_of_our_own_too(self) -> None:
        connector = Connector()
        answers: list[int] = []
        connector.request().on_answer = lambda _, status, __: answers.append(status)
        connector.exchanges[-1].fail(502, "dial")
        connector.request().on_answer = lambda _, status, __: answers.append(status)
        connector.exchanges[-1].respond(404, ())
        assert answers == [502, 404]

    @pytest.mark.parametrize("hook", ["on_answer", "on_over"])
    def test_what_they_raise_is_told_and_breaks_nothing(
        self, hook: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raised: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda what: raised.append(what.exc_value))
        connector = Connector()

        def broken(*_: object) -> None:
            raise RuntimeError("no")

        setattr(connector.request(), hook, broken)
        assert connector.answer()[b":status"] == b"200"
        assert [str(each) for each in raised] == ["no"]
        connector.request()
        assert connector.answer()[b":status"] == b"200"


class TestCausesAtTheConnector:
    def test_a_complete_response_has_none(self) -> None:
        connector = Connector()
        exchange = connector.request()
        connector.answer()
        assert (exchange.cause, connector.failures, connector.own.causes()) == (None, [], {})

    def test_a_request_that_is_answered_with_an_error(self) -> None:
        connector = Connector()
        exchange = connector.request()
        head = connector.answer(b"rubbish\r\n\r\n")
        assert head[b"cf-cloudflared-cause"] == b"protocol_error"
        assert exchange.cause == "protocol_error"
        assert connector.failures == [(502, "protocol_error")]
        assert connector.own.causes() == {"protocol_error": 1}
        assert connector.own.failed == 1

    def test_a_response_that_breaks_off(self) -> None:
        connector = Connector()
        exchange = connector.request()
        connector.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        connector.dials.origin.end()
        assert exchange.cause == "reset_by_origin"
        assert connector.failures == [(0, "reset_by_origin")]
        assert connector.own.causes() == {"reset_by_origin": 1}
        assert connector.own.failed == 1

    def test_a_visitor_that_goes(self) -> None:
        connector = Connector()
        exchange = connector.request()
        connector.edge.feed(rst_stream(1, ErrorCode.CANCEL))
        assert exchange.cause == "reset_by_client"
        assert connector.failures == [(0, "reset_by_client")]
        assert connector.own.failed == 1

    def test_the_tunnels_own_streams_are_no_failures(self) -> None:
        connector = Connector()
        control = (b"cf-cloudflared-proxy-connection-upgrade", b"control-stream")
        connector.request([*GET, control], end=False)
        connector.edge.feed(rst_stream(1, ErrorCode.CANCEL))
        assert connector.failures == []

    def test_the_link_is_told_apart(self) -> None:
        assert Connector().request().acceptor.conn_index == 3

    def test_only_so_many_are_counted_apart(self) -> None:
        counters = Counters()
        for number in range(200):
            Visit.failing(counters, f"cause_{number}")
        assert len(counters.causes()) == 129
        assert counters.causes()["other"] == 72
        assert counters.failed == 200


class TestCounters:
    def test_are_added_up(self) -> None:
        connector, other = Connector(), Connector()
        for each in (connector, other):
            each.request()
            each.answer()
        other.request()
        other.answer(b"rubbish\r\n\r\n")
        other.request()
        connector.own.absorb(other.own)
        total = connector.own
        assert (total.opened, total.active, total.failed) == (4, 1, 1)
        assert total.statuses() == {200: 2, 502: 1}
        assert total.causes() == {"protocol_error": 1}
        assert total.response_bytes == 4
        assert total.duration.count == 3


class Visit:
    """A visitor's request through an edge; a raw connector answers."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.connector = RawServer(loop=self.loop)
        self.failures: list[tuple[int, str, bool]] = []
        self.counters = Counters()
        acceptor = VisitorAcceptor(
            self._route, self.counters, None, self._failed, b"192.0.2.1", b"https"
        )
        self.visitor = Visitor(loop=self.loop, acceptor=acceptor, scheme=b"https")
        self.visitor.send(b"GET /p HTTP/1.1\r\nHost: a.test\r\n\r\n")

    def _route(self, exchange: VisitorExchange) -> None:
        assert self.connector.connection.forward(exchange)

    def _failed(self, exchange: VisitorExchange, status: int, cause: str) -> None:
        self.failures.append((status, cause, exchange.told))
        exchange.respond(status, ())

    def answer(self, *fields: tuple[bytes, bytes], status: bytes = b"502") -> bytes:
        head = [(b":status", status), *fields]
        self.connector.feed(self.connector.peer.headers(1, head, end=True))
        return self.visitor.read()

    @staticmethod
    def failing(counters: Counters, cause: str) -> None:
        """Count one failure."""
        exchanges: list[Exchange] = []
        loop = ManualLoop()
        client = RawClient.over(loop, OriginAcceptor(exchanges.append, counters))
        client.feed(client.peer.headers(1, GET, end=True))
        exchanges[0].fail(502, cause)


META = (b"cf-cloudflared-response-meta", b'{"src":"cloudflared"}')


class TestCausesAtTheEdge:
    def test_the_connectors_word_is_passed_on(self) -> None:
        visit = Visit()
        visit.answer(META, (b"cf-cloudflared-cause", b"dial_timeout"))
        assert visit.failures == [(502, "dial_timeout", True)]
        assert visit.counters.causes() == {"dial_timeout": 1}

    @pytest.mark.parametrize(
        "text", [b"", b"Dial", b"a b", b"dial; x", b"x" * 41, b"\xff", b'"', b"<b>"]
    )
    def test_what_is_no_word_is_not(self, text: bytes) -> None:
        visit = Visit()
        visit.answer(META, (b"cf-cloudflared-cause", text))
        assert visit.failures == [(502, "connector", True)]

    def test_a_connector_that_gives_none(self) -> None:
        visit = Visit()
        visit.answer(META)
        assert visit.failures == [(502, "connector", True)]

    def test_another_process_of_the_edge_speaks_as_an_edge(self) -> None:
        visit = Visit()
        by = (b"cf-cloudflared-cause-by", b"edge")
        visit.answer(META, (b"cf-cloudflared-cause", b"link_lost"), by)
        assert visit.failures == [(502, "link_lost", False)]

    def test_what_the_edge_itself_sees(self) -> None:
        visit = Visit()
        visit.connector.feed(rst_stream(1, ErrorCode.INTERNAL_ERROR))
        assert visit.failures == [(502, "reset_by_peer", False)]

    def test_an_application_cannot_speak_for_the_edge(self) -> None:
        visit = Visit()
        forged = [
            (b"Underpass-Cause", b"no_link"),
            (b"underpass-hop", b"link"),
            (b"x-underpass", b"its own"),
        ]
        said = visit.answer(
            (b"cf-cloudflared-response-headers", serialize_pairs(forged)),
            (b"cf-cloudflared-response-meta", b'{"src":"origin"}'),
            status=b"200",
        ).lower()
        assert b"underpass-cause" not in said
        assert b"underpass-hop" not in said
        assert b"x-underpass: its own" in said
