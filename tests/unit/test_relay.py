"""Exchanges: what joins the side that received a request to the side that carries it on."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rig.http2 import (
    DATA,
    GET,
    HEADERS,
    OK,
    POST,
    RST_STREAM,
    WINDOW_UPDATE,
    Heard,
    RawClient,
    RawServer,
    goaway,
    rst_stream,
)
from rig.transport import ManualLoop

from underpass.core.fields import Fields, Token
from underpass.core.frames import ErrorCode
from underpass.core.h2 import H2Connection, H2Stream, Limits
from underpass.core.headerblock import serialize_pairs
from underpass.core.relay import Acceptor, Counters, Exchange, PythonSide
from underpass.core.tunnel import EdgeExchange, VisitorAcceptor, VisitorExchange


class Pair:
    """A raw client, a server and a client of ours, a raw server; every request is forwarded."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.server = RawServer(loop=self.loop)
        self.exchanges: list[Exchange] = []
        self.client = RawClient(loop=self.loop, handler=self._forward)

    def _forward(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        assert self.server.connection.forward(exchange)

    @property
    def open(self) -> tuple[int, int]:
        return self.client.connection.active, self.server.connection.active


def summary(frames: list, kinds: tuple[int, ...] = (HEADERS, DATA, RST_STREAM)) -> list:  # type: ignore[type-arg]
    """(kind, stream, what it says, END_STREAM) of frames that belong to streams."""
    found = []
    for each in frames:
        if each.kind == HEADERS:
            found.append((HEADERS, each.stream, list(each.fields), each.ends))
        elif each.kind == DATA:
            found.append((DATA, each.stream, each.payload, each.ends))
        elif each.kind == RST_STREAM:
            found.append((RST_STREAM, each.stream, each.code, False))
    return [each for each in found if each[0] in kinds]


def test_an_exchange_passes_both_messages_on_with_their_trailers() -> None:
    pair = Pair()
    client, server = pair.client, pair.server
    sum_trailer = [(b"x-sum", b"1")]
    client.feed(
        client.peer.headers(1, POST), client.peer.data(1, b"ab"), client.peer.data(1, b"cd")
    )
    client.feed(client.peer.headers(1, sum_trailer, end=True))
    assert summary(server.sent()) == [
        (HEADERS, 1, POST, False),
        (DATA, 1, b"ab", False),
        (DATA, 1, b"cd", False),
        (HEADERS, 1, sum_trailer, True),
    ]
    head = [*OK, (b"server", b"x")]
    server.feed(server.peer.headers(1, head), server.peer.data(1, b"response"))
    server.feed(server.peer.headers(1, sum_trailer, end=True))
    assert summary(client.sent()) == [
        (HEADERS, 1, head, False),
        (DATA, 1, b"response", False),
        (HEADERS, 1, sum_trailer, True),
    ]
    assert pair.open == (0, 0)
    assert pair.exchanges[0].is_over
    assert pair.exchanges[0].status == 200
    counters = client.counters
    assert (counters.opened, counters.active, counters.failed) == (1, 0, 0)
    assert (counters.request_bytes, counters.response_bytes) == (4, 8)
    assert counters.statuses() == {200: 1}


def test_a_handler_can_read_the_request_until_the_response_begins() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, [*POST, (b"cf-ray", b"abc")]))
    exchange = client.exchanges[0].exchange
    assert (exchange.method, exchange.scheme) == (b"POST", b"https")
    assert (exchange.authority, exchange.path) == (b"app.example", b"/")
    assert exchange.header(Token.T_CF_RAY) == b"abc"
    assert exchange.header(Token.T_COOKIE) is None
    assert exchange.has_body
    assert not exchange.wants_upgrade
    client.exchanges[0].answer(end=False)
    assert exchange.request is None
    assert exchange.method == exchange.path == b""
    assert exchange.header(Token.T_CF_RAY) is None


@pytest.mark.parametrize("ended", [False, True])
def test_content_that_came_first_is_kept_for_the_outbound_side(ended: bool) -> None:
    loop = ManualLoop()
    server = RawServer(loop=loop)
    kept: list[Exchange] = []
    client = RawClient(loop=loop, handler=kept.append)
    client.feed(client.peer.headers(1, POST), client.peer.data(1, b"one "))
    client.feed(client.peer.data(1, b"two"))
    if ended:
        client.feed(client.peer.headers(1, [(b"x-sum", b"1")], end=True))
    assert kept[0].has_body
    assert server.connection.forward(kept[0])
    expected = [(HEADERS, 1, POST, False), (DATA, 1, b"one two", False)]
    if ended:
        expected.append((HEADERS, 1, [(b"x-sum", b"1")], True))
    assert summary(server.sent()) == expected


def test_content_that_came_first_is_kept_for_a_python_side() -> None:
    kept: list[Exchange] = []
    client = RawClient(handler=kept.append)
    client.feed(client.peer.headers(1, POST), client.peer.data(1, b"content", end=True))
    heard = Heard(kept[0])
    assert heard.body == b"content"
    assert heard.ended


def test_a_request_without_content_ends_with_its_head() -> None:
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, GET, end=True))
    assert summary(pair.server.sent()) == [(HEADERS, 1, GET, True)]


def test_interim_responses_stay_between_neighbours() -> None:
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, GET, end=True))
    pair.server.feed(pair.server.peer.headers(1, [(b":status", b"103"), (b"link", b"</x>")]))
    assert summary(pair.client.sent()) == []
    pair.server.feed(pair.server.peer.headers(1, OK, end=True))
    assert summary(pair.client.sent()) == [(HEADERS, 1, OK, True)]


def test_a_complete_response_ends_an_unfinished_request() -> None:
    """RFC 9113 §8.1."""
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, POST))
    pair.server.sent()
    pair.server.feed(pair.server.peer.headers(1, OK, end=True))
    assert summary(pair.server.sent()) == [(RST_STREAM, 1, ErrorCode.CANCEL, False)]
    assert summary(pair.client.sent()) == [
        (HEADERS, 1, OK, True),
        (RST_STREAM, 1, ErrorCode.NO_ERROR, False),
    ]
    assert pair.open == (0, 0)


def test_a_complete_response_ends_a_request_that_still_waits_for_room() -> None:
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, POST))
    for i in range(5):
        pair.client.feed(pair.client.peer.data(1, bytes(16384), end=i == 4))
    assert sum(len(each.payload) for each in pair.server.sent() if each.kind == DATA) == 65535
    pair.server.feed(pair.server.peer.headers(1, OK, end=True))
    assert summary(pair.server.sent()) == [(RST_STREAM, 1, ErrorCode.CANCEL, False)]
    assert summary(pair.client.sent()) == [(HEADERS, 1, OK, True)]
    assert pair.open == (0, 0)


def test_a_visitor_that_goes_away_ends_the_outbound_side() -> None:
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, POST))
    pair.server.sent()
    pair.client.feed(rst_stream(1, ErrorCode.CANCEL))
    assert summary(pair.server.sent()) == [(RST_STREAM, 1, ErrorCode.CANCEL, False)]
    assert pair.open == (0, 0)
    assert pair.client.counters.failed == 1


def test_a_response_that_breaks_off_is_broken_off() -> None:
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, GET, end=True))
    pair.server.feed(pair.server.peer.headers(1, OK), rst_stream(1, ErrorCode.NO_ERROR))
    assert summary(pair.client.sent()) == [
        (HEADERS, 1, OK, False),
        (RST_STREAM, 1, ErrorCode.INTERNAL_ERROR, False),
    ]
    assert pair.open == (0, 0)


def test_an_exchange_that_nobody_can_carry_is_answered_with_502() -> None:
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, GET, end=True))
    pair.server.feed(rst_stream(1, ErrorCode.INTERNAL_ERROR))
    assert summary(pair.client.sent()) == [
        (HEADERS, 1, [(b":status", b"502"), (b"content-length", b"0")], True)
    ]
    assert pair.client.counters.failed == 1
    assert pair.client.counters.statuses() == {502: 1}


# Answers of our own.


def answered(
    request: list[tuple[bytes, bytes]], respond: Callable[[Exchange], object]
) -> list[tuple[object, ...]]:
    client = RawClient(handler=respond)
    client.feed(client.peer.headers(1, request, end=True))
    assert client.connection.active == 0
    return summary(client.sent())


def test_respond_answers_whole() -> None:
    assert answered(GET, lambda exchange: exchange.respond(404, [(b"x", b"y")], b"not here")) == [
        (HEADERS, 1, [(b":status", b"404"), (b"x", b"y"), (b"content-length", b"8")], False),
        (DATA, 1, b"not here", True),
    ]


def test_a_head_request_is_told_the_length_and_gets_no_content() -> None:
    head = [(b":method", b"HEAD"), *GET[1:]]
    assert answered(head, lambda exchange: exchange.respond(200, [], b"content")) == [
        (HEADERS, 1, [(b":status", b"200"), (b"content-length", b"7")], True)
    ]


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_content_have_none(status: int) -> None:
    assert answered(GET, lambda exchange: exchange.respond(status, [], b"content")) == [
        (HEADERS, 1, [(b":status", b"%d" % status)], True)
    ]


@pytest.mark.parametrize("status", [-1, 0, 100, 199, 1000])
def test_only_final_statuses_can_be_answered(status: int) -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    with pytest.raises(ValueError, match="not a final status"):
        client.exchanges[0].exchange.respond(status, [])
    assert client.connection.active == 1


def test_fail_answers_once_and_counts_once() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    exchange = client.exchanges[0].exchange
    for _ in range(3):
        exchange.fail(504, "timeout")
        exchange.respond(200, [])
    assert summary(client.sent()) == [
        (HEADERS, 1, [(b":status", b"504"), (b"content-length", b"0")], True)
    ]
    assert client.counters.failed == 1
    assert client.counters.statuses() == {504: 1}
    assert client.counters.active == 0


def test_an_answer_of_our_own_ends_the_outbound_side() -> None:
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, GET, end=True))
    pair.server.sent()
    pair.exchanges[0].respond(503, [])
    assert summary(pair.server.sent()) == [(RST_STREAM, 1, ErrorCode.CANCEL, False)]
    assert pair.open == (0, 0)


def test_reset_breaks_both_sides_off() -> None:
    pair = Pair()
    pair.client.feed(pair.client.peer.headers(1, GET, end=True))
    pair.server.sent()
    pair.exchanges[0].reset(ErrorCode.ENHANCE_YOUR_CALM)
    assert summary(pair.client.sent()) == [(RST_STREAM, 1, ErrorCode.ENHANCE_YOUR_CALM, False)]
    assert summary(pair.server.sent()) == [(RST_STREAM, 1, ErrorCode.CANCEL, False)]
    assert pair.open == (0, 0)
    assert pair.client.counters.failed == 1


def test_without_a_handler_requests_are_answered_with_503() -> None:
    loop = ManualLoop()
    client = RawClient.over(loop, Acceptor())
    client.feed(client.peer.headers(1, GET, end=True))
    assert summary(client.sent())[0][2][0] == (b":status", b"503")


def a_fault(exchange: Exchange) -> None:
    raise RuntimeError("a fault of ours")


def test_what_a_handler_raises_is_one_requests_fault() -> None:
    errors: list[Exception] = []
    loop = ManualLoop()
    client = RawClient.over(loop, Acceptor(a_fault, None, lambda _, error: errors.append(error)))
    for stream in (1, 3):
        client.feed(client.peer.headers(stream, GET, end=True))
        head = summary(client.sent())[0]
        assert (head[1], head[2][0]) == (stream, (b":status", b"500"))
    assert [str(error) for error in errors] == ["a fault of ours"] * 2


def test_without_anyone_to_tell_what_a_handler_raises_ends_the_connection() -> None:
    loop = ManualLoop(raises=False)
    client = RawClient.over(loop, Acceptor(a_fault))
    client.feed(client.peer.headers(1, GET, end=True))
    assert client.transport.aborted
    assert [str(error) for error in loop.errors] == ["a fault of ours"]
    assert client.counters.active == 0


# Retries.


class Retrying:
    """A visitor's server whose handler forwards to the first link that takes the request."""

    def __init__(self, links: int = 4) -> None:
        self.loop = ManualLoop()
        self.links = [RawServer(loop=self.loop) for _ in range(links)]
        self.failures: list[tuple[int, str]] = []
        self.used: list[int] = []
        self.errors: list[Exception] = []
        self.acceptor = VisitorAcceptor(
            self.forward,
            Counters(),
            lambda _, error: self.errors.append(error),
            self._failed,
            b"192.0.2.1",
            b"https",
        )
        self.client = RawClient.over(self.loop, self.acceptor)

    def forward(self, exchange: Exchange) -> None:
        link = len(self.used)
        self.used.append(link)
        assert self.links[link].connection.forward(exchange)

    def _failed(self, exchange: Exchange, status: int, cause: str) -> None:
        self.failures.append((status, cause))
        exchange.respond(status, [])

    def link_response(self, *pairs: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        return [
            *OK,
            (b"cf-cloudflared-response-headers", serialize_pairs(pairs)),
            (b"cf-cloudflared-response-meta", b'{"src":"origin"}'),
        ]


REFUSED = rst_stream(1, ErrorCode.REFUSED_STREAM)


@pytest.mark.parametrize("request_head", [GET, POST])
@pytest.mark.parametrize("how", ["reset", "goaway"])
def test_a_request_that_was_refused_is_sent_again(
    request_head: list[tuple[bytes, bytes]], how: str
) -> None:
    scene = Retrying()
    scene.client.feed(scene.client.peer.headers(1, request_head, end=True))
    scene.links[0].feed(REFUSED if how == "reset" else goaway(0, ErrorCode.NO_ERROR))
    assert scene.used == [0, 1]
    link = scene.links[1]
    link.feed(link.peer.headers(1, scene.link_response((b"X-A", b"b")), end=True))
    head = summary(scene.client.sent())[0]
    assert head[2][0] == (b":status", b"200")
    assert (b"x-a", b"b") in head[2]
    assert scene.client.counters.failed == 0


def test_a_request_whose_link_was_lost_is_sent_again_if_it_may_be_repeated() -> None:
    scene = Retrying()
    scene.client.feed(scene.client.peer.headers(1, GET, end=True))
    scene.links[0].transport.lose(ConnectionResetError())
    assert scene.used == [0, 1]
    scene = Retrying()
    scene.client.feed(scene.client.peer.headers(1, POST, end=True))
    scene.links[0].transport.lose(ConnectionResetError())
    assert scene.used == [0]
    assert scene.failures == [(502, "link_lost")]


def test_a_request_whose_content_has_gone_out_is_not_sent_again() -> None:
    scene = Retrying()
    scene.client.feed(
        scene.client.peer.headers(1, POST) + scene.client.peer.data(1, b"x", end=True)
    )
    scene.links[0].feed(REFUSED)
    assert scene.used == [0]
    assert scene.failures == [(502, "reset_by_peer")]


class TestRefusals:
    """A connector answers that it could not carry a request on."""

    @staticmethod
    def refuse(
        scene: Retrying, cause: bytes, *more: tuple[bytes, bytes], status: bytes = b"502"
    ) -> None:
        link = scene.links[scene.used[-1]]
        head = [
            (b":status", status),
            (b"cf-cloudflared-response-meta", b'{"src":"cloudflared"}'),
            (b"cf-cloudflared-cause", cause),
            *more,
        ]
        link.feed(link.peer.headers(1, head, end=True))

    @staticmethod
    def scene(again: Any = None) -> Retrying:
        scene = Retrying(5)
        scene.acceptor.refusals = {"dial": False, "connector": True, "no_link": False}
        scene.acceptor.again = again or scene.forward
        return scene

    @pytest.mark.parametrize(
        ("request_head", "cause", "goes_on"),
        [
            (GET, b"dial", True),
            (POST, b"dial", True),
            (GET, b"connector", True),
            (POST, b"connector", False),
            (GET, b"reset_by_origin", False),
            (GET, b"", True),
            (POST, b"", False),
        ],
    )
    def test_are_no_end_where_another_may_do_it(
        self, request_head: list[tuple[bytes, bytes]], cause: bytes, goes_on: bool
    ) -> None:
        scene = self.scene()
        scene.client.feed(scene.client.peer.headers(1, request_head, end=True))
        self.refuse(scene, cause)
        assert (len(scene.used), len(scene.failures)) == ((2, 0) if goes_on else (1, 1))
        if goes_on:
            link = scene.links[1]
            link.feed(link.peer.headers(1, scene.link_response(), end=True))
            assert summary(scene.client.sent())[0][2][0] == (b":status", b"200")
            assert scene.client.counters.failed == 0

    def test_are_three_at_most(self) -> None:
        scene = self.scene()
        scene.client.feed(scene.client.peer.headers(1, GET, end=True))
        for _ in range(3):
            assert scene.failures == []
            self.refuse(scene, b"dial")
        assert scene.used == [0, 1, 2]
        assert scene.failures == [(502, "dial")]

    def test_are_the_answer_when_content_has_gone_out(self) -> None:
        scene = self.scene()
        scene.client.feed(
            scene.client.peer.headers(1, POST) + scene.client.peer.data(1, b"x", end=True)
        )
        self.refuse(scene, b"dial")
        assert (scene.used, scene.failures) == ([0], [(502, "dial")])

    def test_are_told_to_who_routes_again_and_may_be_the_answer_after_all(self) -> None:
        told: list[tuple[str | None, int, bool]] = []

        def again(exchange: VisitorExchange) -> None:
            told.append((exchange.refusal, exchange.refusal_status, exchange.told))
            assert exchange.refusal is not None
            exchange.fail(exchange.refusal_status, exchange.refusal)

        scene = self.scene(again)
        scene.client.feed(scene.client.peer.headers(1, GET, end=True))
        by_the_edge = (b"cf-cloudflared-cause-by", b"edge")
        self.refuse(scene, b"no_link", by_the_edge, status=b"503")
        assert told == [("no_link", 503, False)]
        assert scene.failures == [(503, "no_link")]

    def test_a_fault_of_who_routes_again_is_that_requests_alone(self) -> None:
        def again(exchange: VisitorExchange) -> None:
            raise RuntimeError("a fault")

        scene = self.scene(again)
        scene.client.feed(scene.client.peer.headers(1, GET, end=True))
        self.refuse(scene, b"dial")
        assert scene.failures == [(500, "internal_error")]
        assert [type(error) for error in scene.errors] == [RuntimeError]


def test_a_request_is_tried_three_times() -> None:
    scene = Retrying(5)
    scene.client.feed(scene.client.peer.headers(1, GET, end=True))
    for i in range(3):
        assert scene.failures == []
        scene.links[i].feed(REFUSED)
    assert scene.used == [0, 1, 2]
    assert scene.failures == [(502, "reset_by_peer")]
    assert scene.client.connection.active == 0


@pytest.mark.parametrize("end", [False, True])
def test_a_response_that_makes_no_sense_is_502_and_its_stream_is_reset(end: bool) -> None:
    scene = Retrying()
    scene.client.feed(scene.client.peer.headers(1, POST))
    link = scene.links[0]
    link.sent()
    malformed = [*OK, (b"cf-cloudflared-response-headers", b"not base64!")]
    link.feed(link.peer.headers(1, malformed, end=end))
    assert scene.failures == [(502, "protocol_error")]
    assert summary(link.sent()) == [(RST_STREAM, 1, ErrorCode.PROTOCOL_ERROR, False)]
    assert link.connection.active == scene.client.connection.active == 0


# Python sides.


def test_a_python_side_may_hold_back_its_senders_credit() -> None:
    client = RawClient(Limits(stream_window=65535, connection_window=65535), keeps_credit=True)
    client.feed(client.peer.headers(1, POST))
    for _ in range(3):
        client.feed(client.peer.data(1, bytes(16384)))
    heard = client.exchanges[0]
    assert len(heard.body) == 3 * 16384
    assert client.sent() == []
    heard.side.take(3 * 16384)
    updates = [(each.stream, each.number) for each in client.sent() if each.kind == WINDOW_UPDATE]
    assert sorted(updates) == [(0, 3 * 16384), (1, 3 * 16384)]


def test_a_python_side_learns_when_what_it_wrote_has_left() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    side = client.exchanges[0].side
    left: list[int] = []
    side.on_released = lambda: left.append(side.unreleased)
    side.send_response(200)
    side.write(bytes(65535))
    assert side.unreleased == 0
    side.write(b"more")
    assert side.unreleased == 4
    client.feed(b"\0\0\4\10\0\0\0\0\0\0\0\0\2", b"\0\0\4\10\0\0\0\0\1\0\0\0\2")
    assert side.unreleased == 2
    assert left[-1] == 2


@pytest.mark.parametrize("act", [PythonSide.end, lambda side: side.write(b"content")])
def test_a_response_begins_with_its_head(act: Callable[[PythonSide], None]) -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    with pytest.raises(ValueError, match="send_response"):
        act(client.exchanges[0].side)
    client.exchanges[0].answer()
    assert summary(client.sent()) == [(HEADERS, 1, OK, True)]


def test_a_side_opened_on_an_exchange_that_is_over_is_detached() -> None:
    exchanges: list[Exchange] = []
    client = RawClient(handler=exchanges.append)
    client.feed(client.peer.headers(1, GET, end=True))
    exchanges[0].respond(200, [])
    side = exchanges[0].open_python_side()
    assert not side.is_attached
    side.send_response(200)
    side.write(b"x")
    side.end()
    side.reset()
    exchanges[0].deliver_waiting()
    assert summary(client.sent()) == [(HEADERS, 1, [*OK, (b"content-length", b"0")], True)]


class Noted(EdgeExchange):
    """Remembers how it ended."""

    def __init__(self, counters: Counters) -> None:
        super().__init__(counters)
        self.causes: list[str | None] = []
        self.on_over = self._note

    def _note(self, exchange: Exchange) -> None:
        assert exchange is self
        self.causes.append(exchange.cause)


def asked(server: RawServer) -> tuple[Noted, PythonSide]:
    exchange = Noted(server.counters)
    side = PythonSide()
    side.request(exchange, Fields(GET))
    side.end()
    assert server.connection.forward(exchange)
    return exchange, side


def test_an_exchange_tells_once_how_it_ended() -> None:
    server = RawServer()
    exchange, _ = asked(server)
    server.feed(server.peer.headers(1, OK, end=True))
    assert exchange.causes == [None]
    exchange, side = asked(server)
    side.reset()
    server.feed(server.peer.headers(3, OK, end=True))
    assert exchange.causes == ["broken_off"]
    exchange, _ = asked(server)
    exchange.reset()
    exchange.reset()
    assert exchange.causes == ["broken_off"]
    exchange, side = asked(server)
    server.feed(server.peer.headers(7, OK), rst_stream(7, ErrorCode.CANCEL))
    assert exchange.causes == ["reset_by_peer"]


# What is left over: nothing.


class Thing:
    """Something with a weak reference."""


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def live(kind: type) -> int:
    return sum(isinstance(each, kind) for each in gc.get_objects())


ENDINGS: dict[str, Callable[[Pair], object]] = {
    "complete": lambda pair: pair.server.feed(
        pair.server.peer.headers(1, OK), pair.server.peer.data(1, b"content", end=True)
    ),
    "early": lambda pair: pair.server.feed(pair.server.peer.headers(1, OK, end=True)),
    "reset by the visitor": lambda pair: pair.client.feed(rst_stream(1, ErrorCode.CANCEL)),
    "reset by the origin": lambda pair: pair.server.feed(rst_stream(1, ErrorCode.CANCEL)),
    "visitor lost": lambda pair: pair.client.transport.lose(None),
    "link lost": lambda pair: pair.server.transport.lose(ConnectionResetError()),
    "reset by us": lambda pair: pair.exchanges[0].reset(),
    "answered by us": lambda pair: pair.exchanges[0].respond(503, [], b"x" * 100),
    "malformed response": lambda pair: pair.server.feed(pair.server.peer.headers(1, GET)),
    "malformed request": lambda pair: pair.client.feed(pair.client.peer.headers(1, OK)),
    "response over its window": lambda pair: pair.server.feed(
        pair.server.peer.headers(1, OK), pair.server.peer.data(1, b"x" * 70000, end=True)
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("content", [b"", b"some", bytes(70000)])
def test_an_exchange_that_has_ended_leaves_nothing_for_the_collector(
    ending: str, content: bytes
) -> None:
    with without_collector():
        pair = Pair()
        before = live(H2Stream), live(Exchange)
        pair.client.feed(pair.client.peer.headers(1, POST))
        for at in range(0, len(content), 16384):
            pair.client.feed(pair.client.peer.data(1, content[at : at + 16384]))
        thing = Thing()
        seen = weakref.ref(thing)
        pair.exchanges[0].context = thing
        del thing
        assert seen() is not None
        ENDINGS[ending](pair)
        pair.loop.run()
        # Unblock what may still wait for room.
        if not pair.client.connection.is_closed:
            pair.client.feed(
                b"\0\0\4\10\0\0\0\0\0\0\x7f\xff\xff", b"\0\0\4\10\0\0\0\0\1\0\x7f\xff\xff"
            )
        pair.exchanges.clear()
        assert seen() is None
        for each in (pair.client.connection, pair.server.connection):
            assert each.active == 0
        # A connection may remember the stream it looked at last; ended ones hold nothing.
        assert live(Exchange) == before[1]
        assert live(H2Stream) <= before[0] + 2
        assert pair.client.counters.active == 0
        assert gc.collect() == 0


def test_an_ended_connection_leaves_nothing_for_the_collector() -> None:
    with without_collector():
        before = live(H2Stream), live(Exchange), live(H2Connection)
        pair = Pair()
        for stream in range(1, 41, 2):
            pair.client.feed(pair.client.peer.headers(stream, POST))
            pair.client.feed(pair.client.peer.data(stream, b"content"))
        pair.client.transport.lose(None)
        pair.server.transport.lose(None)
        pair.loop.run()
        pair.exchanges.clear()
        del pair.client, pair.server
        assert (live(H2Stream), live(Exchange), live(H2Connection)) == before
