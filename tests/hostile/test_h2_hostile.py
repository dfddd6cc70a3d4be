"""Peers that attack through HTTP/2: what they may do, what it costs them, what we hold for them.

Each limit is tested just below, at, and just above. The attacks are named by their CVE numbers:
2019-9511 to 9518 (floods), 2023-44487 (rapid reset), 2024-27316 (CONTINUATION), 2025-8671 (made you
reset).
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from rig.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    OK,
    PADDED,
    POST,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    RawClient,
    RawServer,
    Sender,
    frame,
    goaway,
    ping,
    rst_stream,
    settings,
    window_update,
)
from rig.transport import ManualLoop

from underpass.core.frames import ErrorCode, Setting
from underpass.core.h2 import H2Stream, Limits
from underpass.core.relay import Exchange

Raw = RawClient | RawServer
CALM = ErrorCode.ENHANCE_YOUR_CALM


def live(kind: type) -> int:
    return sum(isinstance(each, kind) for each in gc.get_objects())


def thrifty(allowance: int, **more: int) -> Limits:
    """The first SETTINGS cost 1; `allowance` is what is left after them."""
    return Limits(allowance=allowance + 1, allowance_per_second=10, **more)


# Frames that carry nothing. Each is charged; how much, in tenths.


def open_stream(raw: Raw) -> None:
    if isinstance(raw, RawClient):
        raw.feed(raw.peer.headers(1, POST))
    else:
        raw.request(POST, end=False)


def ended_stream(raw: Raw) -> None:
    if isinstance(raw, RawClient):
        raw.feed(raw.peer.headers(1, GET, end=True))
        raw.exchanges[0].answer()
    else:
        raw.request()
        raw.feed(raw.peer.headers(1, OK, end=True))


def nothing(raw: Raw) -> None:
    """No stream is needed."""


FLOODS: dict[str, tuple[Callable[[Raw], None], bytes, int]] = {
    "PING (CVE-2019-9512)": (nothing, ping(), 10),
    "answers to PING": (nothing, ping(ack=True), 10),
    "SETTINGS (CVE-2019-9515)": (nothing, settings(), 10),
    "settings in one frame": (nothing, settings(*[(0xFFFF, 0)] * 9), 100),
    "unasked SETTINGS acknowledgements": (
        lambda raw: raw.feed(frame(SETTINGS, ACK, 0)),
        frame(SETTINGS, ACK, 0),
        10,
    ),
    "PRIORITY (CVE-2019-9513)": (nothing, frame(PRIORITY, 0, 7, bytes(5)), 10),
    "unknown frames": (nothing, frame(0xFE, 0, 0), 10),
    "empty DATA (CVE-2019-9518)": (open_stream, Sender.data(1, b""), 10),
    "DATA of padding": (open_stream, Sender.data(1, b"", padding=0), 10),
    "small WINDOW_UPDATE (CVE-2019-9511)": (nothing, window_update(0, 1), 1),
    "small WINDOW_UPDATE on a stream": (open_stream, window_update(1, 1), 1),
    "WINDOW_UPDATE on an ended stream": (ended_stream, window_update(1, 65535), 1),
    "DATA on an ended stream": (ended_stream, Sender.data(1, b"x"), 1),
    "RST_STREAM on an ended stream": (ended_stream, rst_stream(1, 0), 10),
}


@pytest.mark.parametrize("role", [RawClient, RawServer])
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_when_its_allowance_is_spent(
    role: type[RawClient | RawServer], flood: str
) -> None:
    prepare, wire, tenths = FLOODS[flood]
    allowed = 1000 * 10 // tenths
    for excess in (-1, 0, 1):
        if tenths == 1 and excess == 0:
            continue  # a sum of tenths is not exact
        raw = role(thrifty(1000))
        prepare(raw)
        raw.sent()
        answers = role is RawServer and "PING" not in flood and wire[3] == DATA
        if answers and prepare is open_stream:
            raw.feed(raw.peer.headers(1, OK))
        wires = wire * (allowed + excess)
        raw.feed(*(wires[at : at + 10_000] for at in range(0, len(wires), 10_000)))
        assert raw.goaway_code() == (CALM if excess > 0 else None)
        assert raw.transport.closed is (excess > 0)


def test_the_allowance_is_earned_back() -> None:
    client = RawClient(thrifty(100))
    client.feed(ping() * 100)
    for _ in range(20):
        client.loop.now += 10
        client.feed(ping() * 100)
        assert not client.transport.closed
    client.loop.now += 1
    client.feed(ping() * 10)
    assert not client.transport.closed
    client.feed(ping())
    assert client.goaway_code() == CALM


def test_a_burst_is_no_larger_for_having_waited() -> None:
    client = RawClient(thrifty(100))
    client.loop.now += 1_000_000
    client.loop.turn.tick()
    client.feed(ping() * 101)
    assert not client.transport.closed
    client.feed(ping())
    assert client.goaway_code() == CALM


def test_updates_that_give_back_what_was_sent_cost_nothing() -> None:
    """Go's client gives credit back 4 KiB at a time, on both levels; downloads must not end."""
    client = RawClient(thrifty(10))
    client.feed(client.peer.headers(1, GET, end=True))
    heard = client.exchanges[0]
    heard.answer(end=False)
    total = 0
    for _ in range(500):
        heard.side.write(bytes(16384))
        sent = sum(len(each.payload) for each in client.sent() if each.kind == DATA)
        client.feed((window_update(0, 4096) + window_update(1, 4096)) * (sent // 4096))
        total += sent
    assert total == 500 * 16384
    assert not client.transport.closed


# Streams opened for nothing.


RESETS: dict[str, Callable[[Sender, int], bytes]] = {
    "rapid reset (CVE-2023-44487)": lambda peer, stream: (
        peer.headers(stream, GET, end=True) + rst_stream(stream, ErrorCode.CANCEL)
    ),
    "malformed heads": lambda peer, stream: peer.headers(stream, GET[1:], end=True),
    "content that was not announced": lambda peer, stream: (
        peer.headers(stream, [*POST, (b"content-length", b"1")]) + peer.data(stream, b"ab")
    ),
    "less content than announced": lambda peer, stream: (
        peer.headers(stream, [*POST, (b"content-length", b"2")]) + peer.data(stream, b"a", end=True)
    ),
    "malformed trailers": lambda peer, stream: (
        peer.headers(stream, POST) + peer.headers(stream, [(b":path", b"/")], end=True)
    ),
    "trailers without an end": lambda peer, stream: (
        peer.headers(stream, POST) + peer.headers(stream, [(b"x", b"y")])
    ),
    "window overflow (CVE-2025-8671)": lambda peer, stream: (
        peer.headers(stream, POST) + window_update(stream, 2**31 - 1)
    ),
    "heads over the limit": lambda peer, stream: peer.headers(
        stream, [*GET, (b"x", b"y" * 5000)], end=True
    ),
}


@pytest.mark.parametrize("way", RESETS)
def test_streams_that_only_cost_us_are_charged(way: str) -> None:
    """However a peer gets its stream reset, by itself or by us (CVE-2025-8671)."""
    for excess in (0, 1):
        client = RawClient(thrifty(200, max_header_list=4096))
        for i in range(200 + excess):
            client.feed(RESETS[way](client.peer, 2 * i + 1))
            assert client.connection.active <= 1
        assert client.goaway_code() == (CALM if excess else None)
        assert client.counters.active == 0


@pytest.mark.parametrize(
    ("after", "cost"),
    [
        (lambda stream: window_update(stream, 0), 1.1),
        (lambda stream: Sender.data(stream, b"x"), 1.1),
        (lambda stream: Sender().headers(stream, [(b"x", b"y")], end=True), 2),
    ],
)
def test_an_ended_request_that_goes_on_is_charged(
    after: Callable[[int], bytes], cost: float
) -> None:
    client = RawClient(thrifty(200))
    streams = 0
    while not client.transport.closed:
        stream = 2 * streams + 1
        client.feed(client.peer.headers(stream, GET, end=True) + after(stream))
        streams += 1
    assert client.goaway_code() == CALM
    assert abs(streams - 200 / cost) <= 1


def test_reset_streams_leave_nothing_behind() -> None:
    client = RawClient(Limits(allowance=10_000))
    gc.collect()
    before = live(H2Stream), live(Exchange)
    for i in range(2000):
        client.feed(RESETS["rapid reset (CVE-2023-44487)"](client.peer, 2 * i + 1))
    client.exchanges.clear()
    gc.collect()
    assert client.connection.active == 0
    assert live(Exchange) == before[1]
    assert live(H2Stream) <= before[0] + 1


def test_streams_reset_while_their_content_waits_leave_nothing_behind() -> None:
    """The peer opens no window, so what waits for it would wait in line for ever."""
    client = RawClient(
        Limits(allowance=10_000), handler=lambda each: each.respond(200, [], b"x" * 100)
    )
    client.feed(client.peer.headers(1, GET, end=True))
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 100_000)))
    gc.collect()
    before = live(H2Stream)
    # Use the connection's window up, so that nothing in line is ever looked at.
    stream = 3
    for _ in range(700):
        client.feed(client.peer.headers(stream, GET, end=True))
        stream += 2
    assert client.connection.active > 0
    for _ in range(2000):
        client.feed(client.peer.headers(stream, GET, end=True), rst_stream(stream, 8))
        stream += 2
    waiting = client.connection.active
    assert live(H2Stream) <= before + waiting + 2
    client.transport.lose(None)
    assert client.connection.active == 0
    assert live(H2Stream) <= before + 1


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_streams_over_the_limit_are_refused(limit: int) -> None:
    client = RawClient(Limits(max_concurrent_streams=limit))
    for i in range(limit):
        client.feed(client.peer.headers(2 * i + 1, POST))
    assert client.sent() == []
    over = 2 * limit + 1
    client.feed(client.peer.headers(over, [*POST, (b"x-table", b"kept in step")]))
    assert [(each.kind, each.stream, each.code) for each in client.sent()] == [
        (RST_STREAM, over, ErrorCode.REFUSED_STREAM)
    ]
    client.feed(client.peer.data(over, b"content", end=True))
    assert client.sent() == []
    assert client.connection.active == limit
    client.feed(rst_stream(1, ErrorCode.CANCEL))
    client.feed(client.peer.headers(over + 2, [*GET, (b"x-table", b"kept in step")], end=True))
    assert client.connection.active == limit
    assert (b"x-table", b"kept in step") in client.exchanges[-1].head


def test_refused_streams_are_charged() -> None:
    client = RawClient(thrifty(100, max_concurrent_streams=1))
    client.feed(client.peer.headers(1, POST))
    for i in range(100):
        client.feed(client.peer.headers(2 * i + 3, GET, end=True))
    assert client.goaway_code() is None
    client.feed(client.peer.headers(999, GET, end=True))
    assert client.goaway_code() == CALM


def test_streams_opened_after_our_goaway_are_charged() -> None:
    client = RawClient(thrifty(100))
    client.feed(client.peer.headers(1, POST))
    client.connection.shut_down()
    client.sent()
    for i in range(100):
        client.feed(client.peer.headers(2 * i + 3, GET, end=True))
    assert client.goaway_code() is None
    client.feed(client.peer.headers(999, GET, end=True))
    assert client.goaway_code() == CALM


@pytest.mark.parametrize("stream", [1, 3, 5])
def test_a_stream_is_opened_once_and_in_order(stream: int) -> None:
    """Used twice (1, 5) or skipped before (3): RFC 9113 §5.1.1."""
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True), client.peer.headers(5, GET, end=True))
    for heard in client.exchanges:
        heard.answer()
    client.sent()
    client.feed(client.peer.headers(stream, GET, end=True))
    assert client.goaway_code() == ErrorCode.PROTOCOL_ERROR
    assert len(client.exchanges) == 2


@pytest.mark.parametrize("stream", [2, 2**31 - 2])
def test_clients_open_odd_streams(stream: int) -> None:
    client = RawClient()
    client.feed(client.peer.headers(stream, GET, end=True))
    assert client.goaway_code() == ErrorCode.PROTOCOL_ERROR
    assert client.exchanges == []


def test_the_last_stream_of_all_works() -> None:
    client = RawClient()
    client.feed(client.peer.headers(2**31 - 1, GET, end=True))
    client.exchanges[0].answer()
    assert [each.stream for each in client.sent()] == [2**31 - 1]


# Header blocks.


@pytest.mark.parametrize("role", [RawClient, RawServer])
@pytest.mark.parametrize(("count", "fine"), [(63, True), (64, True), (65, False)])
@pytest.mark.parametrize("empty", [False, True])
def test_continuations_of_a_block_are_counted(
    role: type[RawClient | RawServer], count: int, fine: bool, empty: bool
) -> None:
    """CVE-2024-27316."""
    raw = role()
    if isinstance(raw, RawServer):
        raw.request()
    block = Sender().block(GET if role is RawClient else OK)
    first = block if empty else b""
    raw.feed(frame(HEADERS, END_STREAM, 1, first))
    raw.feed(*[frame(CONTINUATION, 0, 1)] * (count - 1))
    raw.feed(frame(CONTINUATION, END_HEADERS, 1, block if not empty else b""))
    assert raw.goaway_code() == (None if fine else CALM)
    if isinstance(raw, RawClient):
        assert len(raw.exchanges) == fine


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_a_block_in_pieces_is_bounded(excess: int) -> None:
    """524,288 bytes; what one HEADERS frame holds is bounded by its own size."""
    client = RawClient(Limits(max_frame_size=65536, max_header_list=1000))
    pieces = [65536] * 8
    pieces[-1] += min(0, excess)
    client.feed(frame(HEADERS, END_STREAM, 1, bytes(pieces[0])))
    for size in pieces[1:]:
        assert not client.transport.closed
        client.feed(frame(CONTINUATION, 0, 1, bytes(size)))
    if excess > 0:
        client.feed(frame(CONTINUATION, END_HEADERS, 1, b"x"))
        assert client.goaway_code() == CALM
    else:
        assert not client.transport.closed


def list_size(pairs: list[tuple[bytes, bytes]]) -> int:
    """RFC 9113 §6.5.2."""
    return sum(len(name) + len(value) + 32 for name, value in pairs)


@pytest.mark.parametrize("excess", [-1, 0, 1])
@pytest.mark.parametrize("end", [False, True])
def test_a_request_head_over_the_limit_is_answered_with_431(excess: int, end: bool) -> None:
    client = RawClient(Limits(max_header_list=4096))
    pairs = [*GET, (b"x", b"")]
    pairs[-1] = (b"x", b"y" * (4096 - list_size(pairs) + excess))
    client.feed(client.peer.headers(1, pairs, end=end))
    frames = client.sent()
    if excess <= 0:
        assert frames == []
        assert client.exchanges[0].head == pairs
    else:
        assert client.exchanges == []
        assert frames[0].fields is not None
        assert frames[0].fields[0] == (b":status", b"431")
        assert frames[0].ends
        assert [each.kind for each in frames[1:]] == ([] if end else [RST_STREAM])
        assert client.connection.active == 0
        client.feed(client.peer.headers(3, [*GET, (b"x", b"z")], end=True))
        assert client.exchanges[0].head == [*GET, (b"x", b"z")]


@pytest.mark.parametrize("excess", [-1, 0, 1])
@pytest.mark.parametrize("trailers", [False, True])
def test_a_response_section_over_the_limit_costs_its_stream(excess: int, trailers: bool) -> None:
    server = RawServer(Limits(max_header_list=4096))
    asked = server.request()
    server.sent()
    pairs = [(b"x", b"")] if trailers else [*OK, (b"x", b"")]
    pairs[-1] = (b"x", b"y" * (4096 - list_size(pairs) + excess))
    if trailers:
        server.feed(server.peer.headers(1, OK))
    server.feed(server.peer.headers(1, pairs, end=True))
    assert asked.ended is (excess <= 0)
    codes = [each.code for each in server.sent() if each.kind == RST_STREAM]
    assert codes == ([ErrorCode.PROTOCOL_ERROR] if excess > 0 else [])
    again = server.request()
    server.feed(server.peer.headers(3, OK, end=True))
    assert again.ended


def test_a_small_block_must_not_become_a_large_head() -> None:
    """An HPACK bomb: one octet stands for a field of four kilobytes."""
    client = RawClient(Limits(max_header_list=16384))
    client.feed(client.peer.headers(1, [*GET, (b"x", b"y" * 3900)], end=True))
    indexed = client.peer.block([(b"x", b"y" * 3900)])
    assert len(indexed) == 1
    bomb = client.peer.block(GET) + indexed * 60_000
    client.feed(frame(HEADERS, END_HEADERS | END_STREAM, 3, bomb))
    assert len(client.exchanges) == 1
    (answer,) = client.sent()
    assert answer.fields is not None
    assert answer.fields[0] == (b":status", b"431")
    client.feed(client.peer.headers(5, [*GET, (b"x", b"y" * 3900)], end=True))
    assert len(client.exchanges) == 2


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbe",
        b"\x3f\xff\xff\xff\x7f",
        b"\x82\x20",
        b"\x00\x7f\xff\xff\xff\x7f",
        b"\x00\x81\xff\x00",
        b"\x40",
    ],
    ids=["index 0", "endless", "unknown", "table size", "late size", "long", "huffman", "cut"],
)
@pytest.mark.parametrize("role", [RawClient, RawServer])
def test_malformed_hpack_ends_the_connection(
    role: type[RawClient | RawServer], block: bytes
) -> None:
    raw = role()
    if isinstance(raw, RawServer):
        raw.request()
    raw.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    assert raw.goaway_code() == ErrorCode.COMPRESSION_ERROR
    assert raw.counters.active == 0


# Peers that do not read.


def test_a_server_stops_reading_a_peer_that_takes_no_answers() -> None:
    client = RawClient(Limits(allowance=10**6))
    client.connection.pause_writing()
    fed = 0
    while client.transport.reading:
        client.connection.data_received(ping() * 1000)
        client.loop.run()
        fed += 1000
        assert fed < 20_000
    assert client.transport.writes == []
    client.connection.resume_writing()
    client.loop.run()
    assert client.transport.reading
    assert len(client.transport.collect()) == fed * 17
    client.feed(ping())
    assert len(client.sent()) == 1


def test_a_server_stops_reading_requests_of_a_peer_that_takes_no_responses() -> None:
    client = RawClient(handler=lambda each: each.respond(204, [(b"x", b"y" * 1000)]))
    client.connection.pause_writing()
    stream = 1
    while client.transport.reading:
        client.connection.data_received(client.peer.headers(stream, GET, end=True))
        client.loop.run()
        stream += 2
        assert stream < 2 * 10_000
    client.connection.resume_writing()
    answered = [each.stream for each in client.sent() if each.kind == HEADERS]
    assert answered == list(range(1, stream, 2))
    assert client.transport.reading


def test_a_client_gives_up_a_peer_that_makes_it_answer_and_does_not_read() -> None:
    """It reads on, or two peers could wait for each other; so there is an end to what it holds."""
    server = RawServer(Limits(allowance=10**7))
    server.connection.pause_writing()
    wire = ping() * 1000
    fed = 0
    while not server.transport.closed:
        server.connection.data_received(wire)
        server.loop.run()
        fed += len(wire)
        assert fed < 5 * 1024 * 1024
    assert fed > 4 * 1024 * 1024
    assert server.transport.aborted
    assert server.transport.writes == []


def test_a_client_opens_no_streams_on_a_connection_that_takes_none() -> None:
    server = RawServer()
    server.connection.pause_writing()
    opened = 0
    while server.request([*GET, (b"x-%d" % opened, b"y" * 20_000)]).accepted:
        opened += 1
        server.loop.run()
        assert opened < 400
    assert opened > 100
    server.connection.resume_writing()
    assert len([each for each in server.sent() if each.kind == HEADERS]) == opened
    assert server.connection.accepts_requests


def test_content_for_a_peer_that_does_not_read_stays_with_whoever_sent_it() -> None:
    """CVE-2019-9517: a wide open window and a transport that takes nothing."""
    loop = ManualLoop()
    origin = RawServer(
        Limits(stream_window=65535, connection_window=1 << 20, max_frame_size=16384), loop=loop
    )
    visitor = RawClient(loop=loop, handler=lambda each: origin.connection.forward(each))
    visitor.feed(settings((Setting.INITIAL_WINDOW_SIZE, 2**31 - 1)))
    visitor.feed(window_update(0, 2**31 - 1 - 65535), visitor.peer.headers(1, GET, end=True))
    origin.sent()
    visitor.sent()
    visitor.connection.pause_writing()
    origin.feed(origin.peer.headers(1, OK))
    for size in (16384, 16384, 16384, 16383):
        origin.feed(origin.peer.data(1, bytes(size)))
    assert origin.sent() == [], "no credit came back"
    origin.feed(origin.peer.data(1, b"x"))
    assert [each.code for each in origin.sent()] == [ErrorCode.FLOW_CONTROL_ERROR]


# Windows as weapons.


def test_toggling_the_initial_window_is_charged_by_the_streams_it_touches() -> None:
    client = RawClient(Limits(allowance=1000, allowance_per_second=10))
    for i in range(500):
        client.feed(client.peer.headers(2 * i + 1, POST))
    toggles = 0
    while not client.transport.closed:
        client.feed(settings((Setting.INITIAL_WINDOW_SIZE, toggles & 1)))
        toggles += 1
    assert client.goaway_code() == CALM
    # Each costs 2 and 0.01 for each of 500 streams.
    assert 140 <= toggles <= 146


def test_a_peer_that_never_opens_its_window_holds_no_more_than_its_streams_may() -> None:
    client = RawClient(Limits(max_concurrent_streams=20))
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    for i in range(40):
        client.feed(client.peer.headers(2 * i + 1, GET, end=True))
        if len(client.exchanges) > i:
            client.exchanges[i].answer(body=bytes(1000))
    assert client.connection.active == 20
    assert len(client.exchanges) == 20
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 1000)))
    assert client.connection.active == 0


@pytest.mark.parametrize("increment", [1, 2, 3])
def test_crumbs_of_window_arrive_as_crumbs_of_content(increment: int) -> None:
    client = RawClient()
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    client.feed(client.peer.headers(1, GET, end=True))
    client.exchanges[0].answer(body=b"content")
    got = b""
    for _ in range(-(-7 // increment)):
        client.feed(window_update(1, increment))
        got += b"".join(each.payload for each in client.sent() if each.kind == DATA)
    assert got == b"content"
    assert client.connection.active == 0


# What a hostile connector can do to the edge.


@pytest.mark.parametrize(
    "wire",
    [
        Sender().headers(1, [(b":status", b"103")]),
        goaway(1, ErrorCode.NO_ERROR),
    ],
    ids=["interim responses", "GOAWAY"],
)
def test_responses_that_never_begin_are_charged(wire: bytes) -> None:
    server = RawServer(thrifty(100))
    server.request()
    for excess in (0, 1):
        server.feed(wire * (1 if excess else 100))
        assert server.goaway_code() == (CALM if excess else None)
    assert server.counters.active == 0


def test_padding_alone_moves_no_stream_for_nothing() -> None:
    """A padded frame with content is content; one without is charged (CVE-2019-9518)."""
    client = RawClient(thrifty(10))
    client.feed(client.peer.headers(1, POST))
    for _ in range(100):
        client.feed(client.peer.data(1, b"x", padding=255))
    assert not client.transport.closed
    client.feed(*[frame(DATA, PADDED, 1, b"\xff" + bytes(255))] * 11)
    assert client.goaway_code() == CALM


def test_nothing_a_hostile_peer_sent_is_heard_after_the_connection_was_given_up() -> None:
    client = RawClient(thrifty(1))
    client.feed(ping() * 3 + client.peer.headers(1, GET, end=True))
    assert client.exchanges == []
    assert [each.kind for each in client.sent()][-1] in (GOAWAY, 6)
    client.connection.data_received(client.peer.headers(3, GET, end=True))
    assert client.exchanges == []
