"""Requests and responses on streams, both roles (RFC 9113 §5.1, §8; docs: wire protocol §2.4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rig.cuts import every_cut
from rig.http2 import (
    DATA,
    END_STREAM,
    GET,
    HEADERS,
    OK,
    POST,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    RawClient,
    RawServer,
    Sender,
    frame,
    rst_stream,
    settings,
)

from underpass.core.frames import ErrorCode
from underpass.core.h2 import Limits

VECTORS = Path(__file__).parents[1] / "vectors" / "http2_observed.json"
SUM = [(b"x-sum", b"1")]


# Server role.


def test_a_request_is_the_same_however_it_is_cut() -> None:
    peer = Sender()
    wire = PREFACE + settings() + peer.headers(1, POST) + peer.data(1, b"content", padding=3)
    wire += peer.headers(1, SUM, end=True)
    for pieces in every_cut(wire):
        client = RawClient(greet=False)
        client.feed(*pieces)
        (heard,) = client.exchanges
        assert heard.head == POST
        assert heard.body == b"content"
        assert heard.ended
        assert client.connection.bytes_received == len(wire)


def test_requests_are_interleaved() -> None:
    client = RawClient()
    peer = client.peer
    client.feed(
        peer.headers(1, POST)
        + peer.headers(3, POST)
        + peer.data(3, b"three")
        + peer.data(1, b"one")
        + peer.headers(7, GET, end=True)
        + peer.data(1, b"", end=True)
        + peer.data(3, b" more", end=True)
    )
    assert [bytes(heard.body) for heard in client.exchanges] == [b"one", b"three more", b""]
    assert all(heard.ended for heard in client.exchanges)
    assert client.connection.active == 3


def test_responses_leave_in_the_order_they_are_made() -> None:
    client = RawClient()
    for stream in (1, 3, 5):
        client.feed(client.peer.headers(stream, GET, end=True))
    for heard in reversed(client.exchanges):
        heard.answer(body=b"x")
    assert [each.stream for each in client.sent() if each.kind == HEADERS] == [5, 3, 1]


@pytest.mark.parametrize("body", [b"", b"content"])
def test_no_frame_is_spent_on_the_end(body: bytes) -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    side = client.exchanges[0].side
    side.send_response(200)
    side.write(body)
    side.end()
    frames = client.sent()
    assert frames[-1].ends
    assert len(frames) == (2 if body else 1)


def test_an_end_after_its_turn_is_an_empty_frame() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    side = client.exchanges[0].side
    side.send_response(200)
    side.write(b"content")
    assert not client.sent()[-1].ends
    side.end()
    assert [(each.kind, each.flags, each.payload) for each in client.sent()] == [
        (DATA, END_STREAM, b"")
    ]


def test_the_end_goes_on_the_streams_own_last_frame() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True), client.peer.headers(3, GET, end=True))
    one, three = (heard.side for heard in client.exchanges)
    for side in (one, three):
        side.send_response(200)
        side.write(b"content")
    one.end()
    three.end()
    frames = client.sent()
    assert [(each.kind, each.stream, each.payload) for each in frames if each.ends] == [
        (DATA, 1, b""),
        (DATA, 3, b""),
    ]
    assert client.connection.active == 0


def test_a_response_before_the_end_of_the_request_stops_it() -> None:
    """RFC 9113 §8.1; docs: wire protocol §2.10."""
    client = RawClient()
    client.feed(client.peer.headers(1, POST))
    client.exchanges[0].answer(body=b"enough")
    frames = client.sent()
    assert [each.kind for each in frames] == [HEADERS, DATA, RST_STREAM]
    assert frames[1].ends
    assert frames[2].code == ErrorCode.NO_ERROR
    client.feed(client.peer.data(1, b"late"))
    client.feed(client.peer.headers(1, SUM, end=True))
    assert client.sent() == []
    assert not client.transport.closed


def test_a_lingering_server_reads_the_rest_of_a_request_it_has_answered() -> None:
    client = RawClient(Limits(linger=100))
    client.feed(client.peer.headers(1, POST))
    client.exchanges[0].answer(body=b"enough")
    assert [each.kind for each in client.sent()] == [HEADERS, DATA]
    client.feed(client.peer.data(1, bytes(100)))
    assert client.sent() == []
    assert client.connection.active == 1
    client.feed(client.peer.data(1, b"x"))
    assert [(each.kind, each.code) for each in client.sent()] == [(RST_STREAM, ErrorCode.NO_ERROR)]
    assert client.connection.active == 0


def test_a_lingering_stream_ends_with_the_request() -> None:
    client = RawClient(Limits(linger=100))
    client.feed(client.peer.headers(1, POST))
    client.exchanges[0].answer()
    client.feed(client.peer.data(1, b"rest", end=True))
    assert [each.kind for each in client.sent()] == [HEADERS]
    assert client.connection.active == 0


def test_a_lingering_stream_is_given_up_in_time() -> None:
    client = RawClient(Limits(linger=100))
    client.feed(client.peer.headers(1, POST))
    client.exchanges[0].answer()
    client.sent()
    client.loop.now += 4
    client.loop.turn.tick()
    client.connection.sweep_streams(5, 60.0)
    assert client.connection.active == 1
    client.loop.now += 1
    client.loop.turn.tick()
    client.connection.sweep_streams(5, 60.0)
    assert client.connection.active == 0
    assert [each.code for each in client.sent()] == [ErrorCode.NO_ERROR]


@pytest.mark.parametrize(
    ("declared", "parts", "fine"),
    [
        (b"5", [b"12345"], True),
        (b"5", [b"123", b"45"], True),
        (b"5", [b"1234"], False),
        (b"5", [b"123456"], False),
        (b"5", [b"12345", b"6"], False),
        (b"0", [b""], True),
        (b"0", [b"1"], False),
    ],
)
@pytest.mark.parametrize("trailers", [False, True])
def test_content_length_must_be_true(
    declared: bytes, parts: list[bytes], fine: bool, trailers: bool
) -> None:
    client = RawClient()
    peer = client.peer
    client.feed(peer.headers(1, [*POST, (b"content-length", declared)]))
    for i, part in enumerate(parts):
        client.feed(peer.data(1, part, end=not trailers and i == len(parts) - 1))
    if trailers:
        client.feed(peer.headers(1, SUM, end=True))
    heard = client.exchanges[0]
    if fine:
        assert heard.ended
        assert heard.body == b"".join(parts)
        assert client.sent() == []
    else:
        assert not heard.ended
        assert heard.abandoned == ErrorCode.PROTOCOL_ERROR
        assert [(each.kind, each.code) for each in client.sent()] == [
            (RST_STREAM, ErrorCode.PROTOCOL_ERROR)
        ]
    assert not client.transport.closed


def test_a_request_that_ends_with_its_head_must_not_announce_content() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, [*POST, (b"content-length", b"5")], end=True))
    assert client.exchanges == []
    assert [each.code for each in client.sent()] == [ErrorCode.PROTOCOL_ERROR]
    client.feed(client.peer.headers(3, [*POST, (b"content-length", b"0")], end=True))
    assert len(client.exchanges) == 1


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        GET[1:],
        [*GET, (b"Upper", b"x")],
        [*GET, (b"connection", b"close")],
        [*GET, (b"x", b"a\r\nb")],
        OK,
    ],
)
def test_a_malformed_head_costs_its_stream_and_no_other(pairs: list[tuple[bytes, bytes]]) -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True), client.peer.headers(3, pairs, end=True))
    assert [(each.kind, each.stream, each.code) for each in client.sent()] == [
        (RST_STREAM, 3, ErrorCode.PROTOCOL_ERROR)
    ]
    client.exchanges[0].answer()
    assert [each.stream for each in client.sent()] == [1]


def test_malformed_trailers_cost_their_stream() -> None:
    for trailers, end in ((SUM, False), ([(b":path", b"/")], True), ([(b"X", b"y")], True)):
        client = RawClient()
        client.feed(client.peer.headers(1, POST), client.peer.headers(1, trailers, end=end))
        assert [each.code for each in client.sent()] == [ErrorCode.PROTOCOL_ERROR]
        assert client.exchanges[0].abandoned == ErrorCode.PROTOCOL_ERROR
        assert client.connection.active == 0


@pytest.mark.parametrize(
    "late", ["data", "empty data", "headers"], ids=["data", "empty data", "headers"]
)
def test_after_its_end_a_request_must_not_go_on(late: str) -> None:
    client = RawClient()
    peer = client.peer
    client.feed(peer.headers(1, GET, end=True))
    if late == "headers":
        client.feed(peer.headers(1, SUM, end=True))
    else:
        client.feed(peer.data(1, b"x" if late == "data" else b""))
    assert [(each.kind, each.code) for each in client.sent()] == [
        (RST_STREAM, ErrorCode.STREAM_CLOSED)
    ]
    assert client.exchanges[0].abandoned == ErrorCode.STREAM_CLOSED
    assert client.connection.active == 0


def test_a_reset_stream_takes_nothing_more() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST), rst_stream(1, ErrorCode.CANCEL))
    heard = client.exchanges[0]
    assert heard.abandoned == ErrorCode.CANCEL
    heard.answer(body=b"late")
    assert client.sent() == []
    client.feed(rst_stream(1, ErrorCode.CANCEL))
    assert client.sent() == []


def test_a_side_that_gives_up_resets_its_stream() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST))
    client.exchanges[0].side.reset(ErrorCode.INTERNAL_ERROR)
    assert [(each.kind, each.code) for each in client.sent()] == [
        (RST_STREAM, ErrorCode.INTERNAL_ERROR)
    ]


# Client role.


def test_a_response_is_the_same_however_it_is_cut() -> None:
    peer = Sender()
    wire = settings() + peer.headers(1, [(b":status", b"103")]) + peer.headers(1, OK)
    wire += peer.data(1, b"content", padding=3) + peer.headers(1, SUM, end=True)
    for pieces in every_cut(wire):
        server = RawServer(greet=False)
        asked = server.request()
        server.feed(*pieces)
        assert asked.status == 200
        assert asked.head == OK
        assert asked.body == b"content"
        assert asked.ended
        assert server.connection.active == 0


def test_a_client_uses_odd_streams_in_order() -> None:
    server = RawServer()
    for _ in range(3):
        server.request()
    assert [(each.kind, each.stream) for each in server.sent()] == [
        (HEADERS, 1),
        (HEADERS, 3),
        (HEADERS, 5),
    ]


def test_request_content_goes_out_until_its_end() -> None:
    server = RawServer()
    asked = server.request(POST, end=False)
    asked.side.write(b"con")
    asked.side.write(b"tent")
    asked.side.end()
    frames = server.sent()
    assert frames[0].fields == tuple(POST)
    assert b"".join(each.payload for each in frames[1:]) == b"content"
    assert frames[-1].ends
    assert server.connection.active == 1


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        GET,
        [(b":status", b"20")],
        [*OK, (b"Upper", b"x")],
        [*OK, (b"transfer-encoding", b"chunked")],
        [(b":status", b"101")],
    ],
)
def test_a_malformed_response_costs_its_stream(pairs: list[tuple[bytes, bytes]]) -> None:
    server = RawServer()
    asked, other = server.request(), server.request()
    server.sent()
    server.feed(server.peer.headers(1, pairs))
    assert [(each.kind, each.code) for each in server.sent()] == [
        (RST_STREAM, ErrorCode.PROTOCOL_ERROR)
    ]
    assert asked.abandoned is not None
    server.feed(server.peer.headers(3, OK, end=True))
    assert other.ended


def test_an_interim_response_does_not_end_the_stream() -> None:
    server = RawServer()
    asked = server.request()
    server.feed(server.peer.headers(1, [(b":status", b"100")], end=True))
    assert asked.abandoned is not None


def test_content_must_not_come_before_its_head() -> None:
    for first in (b"", Sender().headers(1, [(b":status", b"103")])):
        server = RawServer()
        asked = server.request()
        server.sent()
        server.feed(first, server.peer.data(1, b"content"))
        assert [each.code for each in server.sent()] == [ErrorCode.PROTOCOL_ERROR]
        assert asked.abandoned is not None


@pytest.mark.parametrize(
    ("request_head", "response"),
    [
        ([(b":method", b"HEAD"), *GET[1:]], [*OK, (b"content-length", b"5")]),
        (GET, [(b":status", b"304"), (b"content-length", b"5")]),
        (GET, [(b":status", b"204")]),
    ],
)
def test_responses_without_content_may_announce_some(
    request_head: list[tuple[bytes, bytes]], response: list[tuple[bytes, bytes]]
) -> None:
    for ending in ("with the head", "by an empty frame", "with content after all"):
        server = RawServer()
        asked = server.request(request_head)
        server.sent()
        server.feed(server.peer.headers(1, response, end=ending == "with the head"))
        if ending != "with the head":
            server.feed(server.peer.data(1, b"" if "empty" in ending else b"12345", end=True))
        if ending == "with content after all":
            assert asked.abandoned == ErrorCode.PROTOCOL_ERROR
            assert [each.code for each in server.sent()] == [ErrorCode.PROTOCOL_ERROR]
        else:
            assert asked.ended
            assert server.sent() == []
        assert server.connection.active == 0


@pytest.mark.parametrize("parts", [[b"1234"], [b"123456"], [b"123", b"4567"], []])
def test_a_response_must_be_as_long_as_it_says(parts: list[bytes]) -> None:
    server = RawServer()
    asked = server.request()
    server.feed(server.peer.headers(1, [*OK, (b"content-length", b"5")], end=not parts))
    for i, part in enumerate(parts):
        server.feed(server.peer.data(1, part, end=i == len(parts) - 1))
    assert not asked.ended
    assert asked.abandoned is not None
    assert server.connection.active == 0


def test_a_second_final_head_is_a_malformed_trailer() -> None:
    server = RawServer()
    asked = server.request()
    server.sent()
    server.feed(server.peer.headers(1, OK), server.peer.headers(1, OK, end=True))
    assert [each.code for each in server.sent()] == [ErrorCode.PROTOCOL_ERROR]
    assert asked.abandoned is not None


@pytest.mark.parametrize(
    "wire",
    [
        Sender().headers(1, OK),
        Sender().headers(2, OK),
        frame(DATA, 0, 1),
        frame(DATA, 0, 2),
        frame(DATA, 0, 0),
        frame(HEADERS, 4, 0),
        rst_stream(1, 0),
        rst_stream(0, 0),
        frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2"),
    ],
)
def test_a_client_hears_of_no_stream_it_has_not_opened(wire: bytes) -> None:
    server = RawServer()
    server.feed(wire)
    assert server.goaway_code() == ErrorCode.PROTOCOL_ERROR


def test_frames_for_a_stream_given_up_by_the_client_are_ignored() -> None:
    server = RawServer()
    asked = server.request()
    asked.side.reset()
    server.sent()
    peer = server.peer
    server.feed(peer.headers(1, [*OK, (b"x-table", b"kept in step")]))
    server.feed(peer.data(1, b"content", end=True))
    assert server.sent() == []
    again = server.request()
    server.feed(peer.headers(3, [*OK, (b"x-table", b"kept in step")], end=True))
    assert (b"x-table", b"kept in step") in again.head


def test_sweep_gives_up_what_was_not_answered_in_time() -> None:
    server = RawServer()
    slow = server.request(times_out=True)
    patient = server.request()
    begun = server.request(times_out=True)
    server.loop.now += 5
    server.loop.turn.tick()
    late = server.request(times_out=True)
    server.feed(server.peer.headers(5, OK))
    server.sent()
    server.loop.now += 5
    assert server.connection.sweep(10) == 0, "measured by ticks"
    server.loop.turn.tick()
    assert server.connection.sweep(10) == 1
    assert [(each.kind, each.stream, each.code) for each in server.sent()] == [
        (RST_STREAM, 1, ErrorCode.CANCEL)
    ]
    assert slow.abandoned is not None
    assert [each.abandoned for each in (patient, begun, late)] == [None] * 3
    server.feed(server.peer.headers(1, OK, end=True))
    assert slow.status is None
    assert server.connection.active == 3


# Recorded from a real connector: what it takes we take, and what it refuses we refuse.

LOOSER = {b"/%zz"}
"""Percent signs are the origin's business."""


def recorded_requests() -> list[Any]:
    vectors = json.loads(VECTORS.read_text())["vectors"]
    found = []
    for group, cases in vectors.items():
        for case in cases:
            head = case["events"][0]
            if head.get("edge_sends") != "HEADERS":
                continue
            pairs = [
                (name.encode("latin1"), value.encode("latin1")) for name, value in head["fields"]
            ]
            answers = [each for each in case["events"] if "edge_receives" in each]
            refused = (
                not answers
                or answers[0].get("code") == "PROTOCOL_ERROR"
                or any(list(each) == [":status", "400"] for each in answers[0].get("fields", []))
            )
            found.append(pytest.param(pairs, refused, id=f"{group}: {case['case']}"))
    return found


def is_stricter(pairs: list[tuple[bytes, bytes]]) -> bool:
    """What Go's server mends, we refuse: a target that would end a request line, two hosts."""
    head = dict(pairs)
    two_hosts = b"host" in head and head[b"host"] != head.get(b":authority", head[b"host"])
    return two_hosts or b" " in head.get(b":path", b"")


@pytest.mark.parametrize(("pairs", "refused"), recorded_requests())
def test_recorded_heads_are_taken_or_refused(
    pairs: list[tuple[bytes, bytes]], refused: bool
) -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, pairs))
    if is_stricter(pairs) or (refused and dict(pairs)[b":path"] not in LOOSER):
        assert client.exchanges == []
        assert [(each.kind, each.code) for each in client.sent()] == [
            (RST_STREAM, ErrorCode.PROTOCOL_ERROR)
        ]
    else:
        assert client.sent() == []
        (heard,) = client.exchanges
        assert heard.head == pairs
    assert not client.transport.closed
