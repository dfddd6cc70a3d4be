"""Flow control in both directions (RFC 9113 §5.2, §6.9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.http2 import (
    DATA,
    END_STREAM,
    GET,
    GOAWAY,
    OK,
    POST,
    RST_STREAM,
    WINDOW_UPDATE,
    Frame,
    RawClient,
    RawServer,
    rst_stream,
    settings,
    window_update,
)
from rig.transport import ManualLoop

from underpass.core.frames import ErrorCode, Setting
from underpass.core.h2 import Limits

SMALL = Limits(stream_window=65535, connection_window=65535, max_frame_size=16384)
"""The smallest windows there are; then what a peer may send is easily counted."""


def content(frames: list[Frame], stream: int | None = None) -> bytes:
    return b"".join(
        each.payload
        for each in frames
        if each.kind == DATA and (stream is None or each.stream == stream)
    )


def credit(frames: list[Frame], stream: int) -> int:
    return sum(
        each.number for each in frames if (each.kind, each.stream) == (WINDOW_UPDATE, stream)
    )


# What we send.


def answering(body: bytes, *settings_pairs: tuple[int, int]) -> RawClient:
    """A server that has answered its first request with `body`."""
    client = RawClient()
    client.feed(settings(*settings_pairs))
    client.sent()
    client.feed(client.peer.headers(1, GET, end=True))
    client.exchanges[0].answer(body=body)
    return client


@pytest.mark.parametrize("size", [0, 1, 65534, 65535])
def test_content_that_fits_the_windows_is_sent_at_once(size: int) -> None:
    client = answering(bytes(size))
    frames = client.sent()
    assert content(frames) == bytes(size)
    assert frames[-1].ends
    assert client.connection.active == 0


def test_content_beyond_the_stream_window_waits_for_it() -> None:
    client = answering(bytes(range(256)) * 400, (Setting.INITIAL_WINDOW_SIZE, 1000))
    client.feed(window_update(0, 1 << 20))
    sent = content(client.sent())
    assert len(sent) == 1000
    client.feed(window_update(1, 1))
    sent += content(client.sent())
    assert len(sent) == 1001
    client.feed(window_update(1, 200_000))
    frames = client.sent()
    assert sent + content(frames) == bytes(range(256)) * 400
    assert frames[-1].ends
    assert client.connection.active == 0


def test_content_beyond_the_connection_window_waits_for_it() -> None:
    client = answering(bytes(100_000), (Setting.INITIAL_WINDOW_SIZE, 1 << 20))
    assert len(content(client.sent())) == 65535
    client.feed(window_update(1, 1 << 20))
    assert client.sent() == []
    client.feed(window_update(0, 10))
    assert len(content(client.sent())) == 10
    client.feed(window_update(0, 1 << 20))
    frames = client.sent()
    assert len(content(frames)) == 100_000 - 65545
    assert frames[-1].ends


def test_a_smaller_initial_window_makes_windows_negative() -> None:
    client = answering(bytes(2000), (Setting.INITIAL_WINDOW_SIZE, 1000))
    assert len(content(client.sent())) == 1000
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 400)), window_update(1, 600))
    assert content(client.sent()) == b""
    client.feed(window_update(1, 1))
    assert len(content(client.sent())) == 1
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 2000)))
    assert len(content(client.sent())) == 999


def test_a_zero_window_blocks_content_and_nothing_else() -> None:
    client = answering(b"content", (Setting.INITIAL_WINDOW_SIZE, 0))
    frames = client.sent()
    assert frames[0].fields == tuple(OK)
    assert content(frames) == b""
    client.feed(client.peer.headers(3, GET, end=True))
    client.exchanges[1].answer()
    assert [each.ends for each in client.sent()] == [True]
    client.feed(window_update(1, 7))
    assert content(client.sent()) == b"content"
    assert client.connection.active == 0


def test_an_empty_end_needs_no_window() -> None:
    client = RawClient()
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 0)), client.peer.headers(1, GET, end=True))
    client.exchanges[0].answer(end=False)
    client.sent()
    client.exchanges[0].side.end()
    assert [(each.kind, each.flags) for each in client.sent()] == [(DATA, END_STREAM)]


def test_streams_take_turns() -> None:
    client = RawClient()
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    client.feed(window_update(0, 1 << 24))
    for stream in (1, 3, 5):
        client.feed(client.peer.headers(stream, GET, end=True))
        client.exchanges[-1].answer(body=bytes(100_000))
    client.sent()
    client.connection.data_received(settings((Setting.INITIAL_WINDOW_SIZE, 1 << 20)))
    order = [each.stream for each in client.sent() if each.kind == DATA]
    assert len(order) == 3 * 7
    for i in range(0, 18, 3):
        assert sorted(order[i : i + 3]) == [1, 3, 5]


def test_a_small_response_overtakes_a_large_one() -> None:
    client = answering(bytes(1 << 20), (Setting.INITIAL_WINDOW_SIZE, 1 << 24))
    client.loop.run()
    client.connection.data_received(window_update(0, 1 << 24))
    client.loop.run_once()
    client.connection.data_received(client.peer.headers(3, GET, end=True))
    client.exchanges[1].answer(body=b"small")
    client.loop.run_once()
    frames = client.sent()
    small = next(i for i, each in enumerate(frames) if each.stream == 3 and each.kind == DATA)
    assert len(content(frames[:small], 1)) < 1 << 20
    assert content(frames, 3) == b"small"
    assert len(content(frames, 1)) == 1 << 20


@pytest.mark.parametrize(("stream", "window"), [(0, 65535), (1, 65535)])
def test_windows_end_at_two_to_the_31_minus_one(stream: int, window: int) -> None:
    for excess in (-1, 0, 1):
        client = RawClient()
        client.feed(
            client.peer.headers(1, POST), window_update(stream, 2**31 - 1 - window + excess)
        )
        frames = client.sent()
        if excess <= 0:
            assert frames == []
        elif stream == 0:
            assert [(each.kind, each.code) for each in frames] == [
                (GOAWAY, ErrorCode.FLOW_CONTROL_ERROR)
            ]
        else:
            assert [(each.kind, each.stream, each.code) for each in frames] == [
                (RST_STREAM, 1, ErrorCode.FLOW_CONTROL_ERROR)
            ]
            assert not client.transport.closed
            assert client.exchanges[0].abandoned == ErrorCode.FLOW_CONTROL_ERROR


def test_settings_must_not_overflow_a_stream_window() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST), window_update(1, 2**31 - 1 - 65535))
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 65536)))
    assert client.goaway_code() == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("role", [RawClient, RawServer])
def test_window_updates_on_idle_streams_end_the_connection(
    role: type[RawClient | RawServer],
) -> None:
    raw = role()
    raw.feed(window_update(1, 1))
    assert raw.goaway_code() == ErrorCode.PROTOCOL_ERROR


def test_window_updates_on_closed_streams_are_ignored() -> None:
    client = answering(b"content")
    client.sent()
    client.feed(window_update(1, 1000), window_update(1, 0))
    assert client.sent() == []
    server = RawServer()
    server.request()
    server.feed(server.peer.headers(1, OK, end=True), window_update(1, 1000))
    assert server.goaway_code() is None


@pytest.mark.parametrize(
    ("stream", "kind"), [(0, GOAWAY), (1, RST_STREAM)], ids=["connection", "stream"]
)
def test_an_update_by_nothing_is_an_error(stream: int, kind: int) -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST), window_update(stream, 0))
    assert [(each.kind, each.code) for each in client.sent()] == [(kind, ErrorCode.PROTOCOL_ERROR)]


def test_the_reserved_bit_of_an_increment_is_ignored() -> None:
    client = answering(bytes(65535 + 10))
    client.sent()
    client.feed(window_update(0, 0x80000000 | 10), window_update(1, 0x80000000 | 10))
    assert len(content(client.sent())) == 10


def test_nothing_is_written_while_the_transport_is_paused() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    client.connection.pause_writing()
    client.exchanges[0].answer(body=b"content")
    client.loop.run()
    assert client.transport.writes == []
    # It waits with its stream, where the sender's credit is held back.
    assert client.exchanges[0].side.unreleased == 7
    client.connection.resume_writing()
    assert content(client.sent()) == b"content"


# What we receive.


def test_credit_returns_when_half_the_window_is_used_up() -> None:
    client = RawClient(SMALL)
    client.feed(client.peer.headers(1, POST), client.peer.data(1, bytes(16384)))
    client.feed(client.peer.data(1, bytes(16383)))
    assert client.sent() == []
    client.feed(client.peer.data(1, b"x"))
    frames = client.sent()
    assert credit(frames, 0) == credit(frames, 1) == 32768


def test_credit_returns_only_for_what_the_other_side_has_taken() -> None:
    client = RawClient(SMALL, keeps_credit=True)
    client.feed(client.peer.headers(1, POST))
    for _ in range(4):
        client.feed(client.peer.data(1, bytes(16383)))
    client.feed(client.peer.data(1, bytes(3)))
    assert client.sent() == []
    client.exchanges[0].side.take(40_000)
    frames = client.sent()
    assert credit(frames, 0) == credit(frames, 1) == 40_000
    # 40,000 more, and not one byte beyond.
    for size in (16384, 16384, 7232):
        client.feed(client.peer.data(1, bytes(size)))
    assert client.sent() == []
    client.feed(client.peer.data(1, b"x"))
    assert client.goaway_code() == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_the_stream_window_is_enforced(excess: int) -> None:
    client = RawClient(Limits(stream_window=65535, connection_window=1 << 20), keeps_credit=True)
    client.feed(client.peer.headers(1, POST))
    client.feed(client.peer.data(1, bytes(65535 - 20)), client.peer.data(1, bytes(20 + excess)))
    resets = [(each.stream, each.code) for each in client.sent() if each.kind == RST_STREAM]
    if excess > 0:
        assert resets == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
        assert client.exchanges[0].abandoned == ErrorCode.FLOW_CONTROL_ERROR
    else:
        assert resets == []
    assert not client.transport.closed


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_the_connection_window_is_enforced(excess: int) -> None:
    limits = Limits(stream_window=65535, connection_window=70_000)
    client = RawClient(limits, keeps_credit=True)
    client.feed(client.peer.headers(1, POST), client.peer.headers(3, POST))
    client.feed(client.peer.data(1, bytes(60_000)), client.peer.data(3, bytes(10_000 + excess)))
    expected = ErrorCode.FLOW_CONTROL_ERROR if excess > 0 else None
    assert client.goaway_code() == expected


def test_streams_that_stand_still_do_not_starve_the_others() -> None:
    """Credit held back until half the window has gathered would never return here."""
    client = RawClient(SMALL, keeps_credit=True)
    client.feed(client.peer.headers(1, POST), client.peer.headers(3, POST))
    for _ in range(4):
        client.feed(client.peer.data(1, bytes(10_000)))
    left = 65535 - 40_000
    received = 0
    for _ in range(20):
        part = min(left, 16384)
        client.feed(client.peer.data(3, bytes(part)))
        client.exchanges[1].side.take(part)
        received += part
        left += credit(client.sent(), 0) - part
        assert left > 0
    assert len(client.exchanges[1].body) == received > 65535


def test_padding_counts_and_comes_back() -> None:
    client = RawClient(SMALL)
    client.feed(client.peer.headers(1, POST))
    returned = used = 0
    for _ in range(600):
        client.feed(client.peer.data(1, b"x", padding=255))
        used += 257
        frames = client.sent()
        assert credit(frames, 0) == credit(frames, 1)
        returned += credit(frames, 0)
    assert client.exchanges[0].body == b"x" * 600
    assert used - returned < 32768 + 257


class Ledger:
    """Counts what a raw peer has sent against the connection window, and what came back."""

    def __init__(self, raw: RawClient | RawServer) -> None:
        self.raw = raw
        self.outstanding = 0

    def send(self, *frames: bytes) -> None:
        for each in frames:
            if each[3] == DATA:
                self.outstanding += int.from_bytes(each[:3], "big")
            self.raw.feed(each)

    def settle(self) -> int:
        """What was never given back, after the threshold has been passed by other means."""
        self.outstanding -= credit(self.raw.sent(), 0)
        return self.outstanding


WAYS = [
    "delivered",
    "delivered in pieces",
    "padded",
    "reset by the peer",
    "reset by us",
    "reset amid a frame",
    "content too long",
    "over the stream's window",
    "for a stream that was reset",
    "for a stream that has ended",
    "exchange over",
    "not taken before the end",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padding", [None, 0, 9])
def test_every_byte_of_credit_comes_back_exactly_once(way: str, padding: int | None) -> None:
    keeps = way not in ("delivered", "delivered in pieces", "padded")
    client = RawClient(
        Limits(stream_window=65535, connection_window=65535, max_frame_size=16384),
        keeps_credit=keeps,
    )
    peer = client.peer
    ledger = Ledger(client)
    big = peer.data(1, bytes(10_000), padding=padding)
    head = peer.headers(1, [*POST, (b"content-length", b"10100")] if "too long" in way else POST)
    client.feed(head)
    if way in ("delivered", "padded"):
        ledger.send(big)
    elif way == "delivered in pieces":
        ledger.outstanding += int.from_bytes(big[:3], "big")
        client.feed(*(big[at : at + 999] for at in range(0, len(big), 999)))
    elif way == "reset by the peer":
        ledger.send(big, rst_stream(1, ErrorCode.CANCEL))
    elif way == "reset by us":
        ledger.send(big)
        client.exchanges[0].side.reset()
    elif way == "reset amid a frame":
        ledger.outstanding += int.from_bytes(big[:3], "big")
        client.feed(big[:5000])
        client.exchanges[0].side.reset()
        client.feed(big[5000:7000], big[7000:])
    elif way == "content too long":
        ledger.send(big, peer.data(1, bytes(101), padding=padding))
    elif way == "over the stream's window":
        client.feed(window_update(0, 1))
        ledger.send(*[big] * 6)
        assert client.goaway_code() is None
    elif way == "for a stream that was reset":
        client.exchanges[0].side.reset()
        ledger.send(big)
    elif way == "for a stream that has ended":
        ledger.send(peer.data(1, b"", end=True), big)
    elif way == "exchange over":
        client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
        client.exchanges[0].exchange.respond(200, [], b"waits for its window")
        ledger.send(big)
    elif way == "not taken before the end":
        ledger.send(big, peer.data(1, b"", end=True))
        client.exchanges[0].answer()
    if keeps:
        client.exchanges[0].side.take(len(client.exchanges[0].body))
    # Another stream now moves so much that whatever is due has to come back with it.
    client.feed(peer.headers(3, POST))
    for _ in range(40):
        ledger.send(peer.data(3, bytes(8000)))
        if keeps:
            client.exchanges[1].side.take(8000)
        assert ledger.settle() < 65535
    # Nobody holds anything now: the window is whole but for what waits below the threshold,
    assert ledger.outstanding < 32768
    held = ledger.outstanding
    # and that is exactly what is left of it.
    client.exchanges[1].side.reset()
    filler = 65535 - held
    client.feed(peer.headers(5, POST))
    client.exchanges[2].side.keeps_credit = True
    sizes = [16384] * (filler // 16384) + [filler % 16384]
    for size in sizes:
        client.feed(peer.data(5, bytes(size)))
    assert client.goaway_code() is None
    assert credit(client.sent(), 0) == 0
    client.feed(peer.data(5, b"x"))
    assert client.goaway_code() == ErrorCode.FLOW_CONTROL_ERROR


@given(st.data())
def test_pauses_of_the_transport_never_lose_or_reorder_content(data: st.DataObject) -> None:
    loop = ManualLoop()
    client = RawClient(loop=loop)
    client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 1 << 20)), window_update(0, 1 << 20))
    client.feed(client.peer.headers(1, GET, end=True))
    side = client.exchanges[0].side
    side.send_response(200)
    expected = bytearray()
    got = bytearray()
    for step in data.draw(st.lists(st.sampled_from(["write", "pause", "resume", "turn"]))):
        if step == "write":
            part = data.draw(st.binary(max_size=50)) * 700
            expected += part
            side.write(part)
        elif step == "pause":
            client.connection.pause_writing()
        elif step == "resume":
            client.connection.resume_writing()
        else:
            loop.run()
    client.connection.resume_writing()
    got += content(client.sent())
    assert got == expected
    assert side.unreleased == 0
    side.end()
    assert [each.ends for each in client.sent()] == [True]
    assert client.connection.active == 0


# Frames of what comes in pieces.


def pieces_of_one_turn(*pieces: bytes) -> list[Frame]:
    """The DATA frames of a response whose content was written in `pieces` before the turn ended."""
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    exchange = client.exchanges[0]
    exchange.answer(end=False)
    for piece in pieces:
        exchange.side.write(piece)
    return [each for each in client.sent() if each.kind == DATA]


def test_crumbs_of_one_turn_go_in_one_frame() -> None:
    [sent] = pieces_of_one_turn(b"\x81\x05", b"hello", b"", b"!")
    assert sent.payload == b"\x81\x05hello!"


def test_up_to_a_quantum() -> None:
    sent = pieces_of_one_turn(bytes(16383), b"a", b"b", b"c")
    assert [each.payload[-2:] for each in sent] == [b"\x00a", b"bc"]


def test_but_not_across_other_frames() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True), client.peer.headers(3, GET, end=True))
    for exchange in client.exchanges:
        exchange.answer(end=False)
    for content in (b"a", b"b"):
        for exchange in client.exchanges:
            exchange.side.write(content)
    sent = [(each.stream, each.payload) for each in client.sent() if each.kind == DATA]
    assert sent == [(1, b"a"), (3, b"a"), (1, b"b"), (3, b"b")]


def test_crumbs_count_against_both_windows() -> None:
    client = answering(b"", (Setting.INITIAL_WINDOW_SIZE, 3))
    client.feed(client.peer.headers(3, GET, end=True))
    exchange = client.exchanges[1]
    exchange.answer(end=False)
    for piece in (b"ab", b"cd", b"ef"):
        exchange.side.write(piece)
    assert content(client.sent(), 3) == b"abc"
    client.feed(window_update(3, 65535))
    assert content(client.sent(), 3) == b"def"
