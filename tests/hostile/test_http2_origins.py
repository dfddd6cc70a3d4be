"""Origins that break HTTP/2: the visitor is told, the next request goes elsewhere, and what they
can make us hold is bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rig.http2 import (
    CONTINUATION,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    frame,
    goaway,
    ping,
    rst_stream,
    settings,
    window_update,
)
from rig.http2origin import Origins, OriginServer

from underpass.core.h2 import Limits

OK = [(b":status", b"200")]
MAX_CONCURRENT_STREAMS = 3
NO_ERROR, REFUSED_STREAM = 0, 7

CONNECTION_FAULTS: dict[str, Callable[[OriginServer], bytes]] = {
    "HTTP/1.1": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a frame too large": lambda _: frame(0, 0, 1, bytes(65537)),
    "a push": lambda peer: frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + peer.peer.block(OK)),
    "an answer to what was not asked": lambda server: server.peer.headers(99, OK),
    "an even stream": lambda server: server.peer.headers(2, OK),
    "a header block that is none": lambda _: frame(HEADERS, END_HEADERS, 1, b"\xff" * 20),
    "a header block without end": lambda _: b"".join(
        [frame(HEADERS, 0, 1, b"\x88"), *[frame(CONTINUATION, 0, 1, b"")] * 100]
    ),
    "an endless header block": lambda _: b"".join(
        [frame(HEADERS, 0, 1, b"\x88"), *[frame(CONTINUATION, 0, 1, bytes(16384))] * 40]
    ),
    "a flood of settings": lambda _: settings() * 30000,
    "a flood of pings": lambda _: ping() * 30000,
    "a flood of resets": lambda _: rst_stream(1, 8) * 30000,
    "a window beyond all bounds": lambda _: window_update(0, 0x7FFFFFFF),
    "more than the window": lambda server: (
        server.peer.headers(1, OK) + server.peer.data(1, bytes(16384)) * 5
    ),
    "a SETTINGS of five bytes": lambda _: frame(SETTINGS, 0, 0, bytes(5)),
}

STREAM_FAULTS: dict[str, Callable[[OriginServer], bytes]] = {
    "content before a head": lambda server: server.peer.data(1, b"x"),
    "no status": lambda server: server.peer.headers(1, [(b"x", b"y")]),
    "a status that is none": lambda server: server.peer.headers(1, [(b":status", b"2000")]),
    "101": lambda server: server.peer.headers(1, [(b":status", b"101")]),
    "an interim head that ends": lambda server: server.peer.headers(
        1, [(b":status", b"103")], end=True
    ),
    "a connection field": lambda server: server.peer.headers(1, [*OK, (b"connection", b"x")]),
    "a name in capitals": lambda server: server.peer.headers(1, [*OK, (b"X", b"y")]),
    "a line break in a value": lambda server: server.peer.headers(1, [*OK, (b"x", b"y\r\nz: 1")]),
    "two lengths": lambda server: server.peer.headers(
        1, [*OK, (b"content-length", b"1"), (b"content-length", b"2")]
    ),
    "a length of what does not come": lambda server: server.peer.headers(
        1, [*OK, (b"content-length", b"5")], end=True
    ),
}

BROKEN_OFF: dict[str, Callable[[OriginServer], bytes]] = {
    "too little": lambda server: (
        server.peer.headers(1, [*OK, (b"content-length", b"5")])
        + server.peer.data(1, b"four", end=True)
    ),
    "too much": lambda server: (
        server.peer.headers(1, [*OK, (b"content-length", b"3")])
        + server.peer.data(1, b"four", end=True)
    ),
    "two heads": lambda server: server.peer.headers(1, OK) + server.peer.headers(1, OK),
    "trailers with a pseudo field": lambda server: (
        server.peer.headers(1, OK) + server.peer.headers(1, OK, end=True)
    ),
    "a reset": lambda server: server.peer.headers(1, OK) + rst_stream(1, NO_ERROR),
}


@pytest.mark.parametrize("what", CONNECTION_FAULTS)
def test_a_connection_that_makes_no_sense_is_given_up(what: str) -> None:
    origins = Origins(limits=Limits(stream_window=65535, connection_window=65535))
    ask = origins.request(b"POST")
    ask.side.keeps_credit = True
    server = origins.connect()
    server.feed(CONNECTION_FAULTS[what](server))
    origins.loop.run()
    assert server.transport.closed
    assert ask.cause == "reset_by_origin" or ask.abandoned is not None
    assert not ask.ended or ask.statuses == [502]
    # Nothing of it is left, and the next request has a connection of its own.
    assert origins.pool.session_count == 0
    other = origins.request()
    second = origins.connect()
    second.feed(second.peer.headers(1, OK, end=True))
    assert other.statuses == [200]


@pytest.mark.parametrize("what", STREAM_FAULTS)
def test_an_answer_that_makes_no_sense_fails_alone(what: str) -> None:
    origins = Origins()
    ask, other = origins.request(b"POST"), origins.request(b"POST")
    server = origins.connect()
    server.feed(STREAM_FAULTS[what](server))
    assert (ask.statuses, ask.cause) == ([502], "protocol_error")
    assert [each.stream for each in server.sent() if each.kind == RST_STREAM] == [1]
    server.feed(server.peer.headers(3, OK, end=True))
    assert other.statuses == [200]


@pytest.mark.parametrize("what", BROKEN_OFF)
def test_an_answer_that_breaks_off_is_seen_to_break_off(what: str) -> None:
    """Never a short content that looks complete."""
    origins = Origins()
    ask = origins.request()
    server = origins.connect()
    server.feed(BROKEN_OFF[what](server))
    assert ask.statuses == [200]
    assert ask.abandoned is not None
    assert not ask.ended


def test_endless_interim_responses_cost_the_origin_its_connection() -> None:
    origins = Origins()
    ask = origins.request(b"POST")
    server = origins.connect()
    server.feed(b"".join(server.peer.headers(1, [(b":status", b"103")]) for _ in range(30000)))
    assert server.transport.closed
    assert ask.cause == "reset_by_origin"


def test_an_origin_that_refuses_everything_is_not_asked_for_ever() -> None:
    """Two more attempts for each request, whatever the origin says."""
    origins = Origins()
    asks = [origins.request() for _ in range(10)]
    dials = 0
    while origins.asked:
        server = origins.connect()
        dials += 1
        for stream in server.streams():
            server.feed(rst_stream(stream, REFUSED_STREAM))
    assert all(ask.statuses == [502] for ask in asks)
    assert dials <= 30


def test_an_origin_that_always_goes_away_is_not_asked_for_ever() -> None:
    origins = Origins()
    asks = [origins.request(b"POST", body=b"x") for _ in range(10)]
    dials = 0
    while origins.asked:
        server = origins.connect()
        dials += 1
        server.feed(goaway(0, NO_ERROR))
        assert server.transport.closed
    assert all(ask.statuses == [502] for ask in asks)
    assert dials <= 30


def test_connections_are_bounded_whatever_the_origin_allows() -> None:
    """One that grants a stream a connection has 64 connections, and the rest waits."""
    origins = Origins()
    for _ in range(200):
        origins.request()
    while origins.asked:
        origins.connect((MAX_CONCURRENT_STREAMS, 1))
    assert origins.pool.session_count == origins.pool.max_sessions == 64
    assert origins.pool.dialled == 64


def test_a_limit_that_falls_to_nothing_holds_nobody_up_for_good() -> None:
    origins = Origins(max_sessions=1)
    origins.request()
    server = origins.connect((MAX_CONCURRENT_STREAMS, 1))
    waiting = origins.request()
    server.feed(settings((MAX_CONCURRENT_STREAMS, 0)))
    server.feed(server.peer.headers(1, OK, end=True))
    # It takes nothing any more, so it is closed, and another one asked for.
    origins.tick()
    assert [each.kind for each in server.sent()][-1] == GOAWAY
    origins.connect()
    assert len(origins.servers[-1].streams()) == 1
    assert waiting.statuses == []


def test_visitors_that_take_nothing_hold_a_window_each_and_no_more() -> None:
    origins = Origins(limits=Limits(stream_window=65535, connection_window=200000))
    asks = [origins.request() for _ in range(4)]
    server = origins.connect()
    server.sent()
    held = 0
    for number, ask in enumerate(asks):
        ask.side.keeps_credit = True
        stream = 1 + 2 * number
        server.feed(server.peer.headers(stream, OK))
        for _ in range(3):
            server.feed(server.peer.data(stream, bytes(16000)))
            held += 16000
    assert sum(len(ask.body) for ask in asks) == held
    assert [each for each in server.sent() if each.kind == 8] == []
