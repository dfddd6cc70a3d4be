"""Receive windows that grow while they are what holds a stream up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.http2 import (
    ACK,
    GET,
    OK,
    PING,
    POST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    RawClient,
    RawServer,
    frame,
    ping,
    rst_stream,
)
from rig.transport import ManualLoop

from underpass.core.h2 import Limits

ROUND_TRIP = 0.1
FIRST = 65536
HALF = FIRST // 2
LARGEST = 4 * FIRST
LIMITS = Limits(
    stream_window=FIRST,
    largest_stream_window=LARGEST,
    connection_window=1 << 20,
    max_frame_size=FIRST,
)
SPARE = 64 * 1024 * 1024


def credit(frames: list[Frame], stream: int) -> int:
    return sum(
        each.number for each in frames if (each.kind, each.stream) == (WINDOW_UPDATE, stream)
    )


def far_away(limits: Limits = LIMITS, *, round_trip: float = ROUND_TRIP) -> RawClient:
    """A peer whose answer to our SETTINGS took a round trip, and whose stream 1 sends content."""
    client = RawClient(limits, keeps_credit=True)
    client.loop.now += round_trip
    client.feed(frame(SETTINGS, ACK, 0), client.peer.headers(1, POST))
    client.sent()
    return client


def upload(client: RawClient, size: int, seconds: float, stream: int = 1) -> list[Frame]:
    """`size` bytes come and are taken, `seconds` after the last that came; what is answered."""
    client.loop.now += seconds
    for start in range(0, size, FIRST):
        client.feed(client.peer.data(stream, bytes(min(FIRST, size - start))))
    client.exchanges[stream // 2].side.take(size)
    return client.sent()


def test_the_answer_to_settings_tells_the_round_trip() -> None:
    assert far_away().connection.round_trip == pytest.approx(ROUND_TRIP)
    assert RawClient().connection.round_trip == 0


def test_half_a_window_in_less_than_a_round_trip_doubles_it() -> None:
    client = far_away()
    first = upload(client, HALF, 0.01)
    assert (credit(first, 1), credit(first, 0)) == (HALF, 0)
    second = upload(client, HALF, ROUND_TRIP * 0.9)
    # The stream's growth is the connection's too, or it would come out of the other streams' share.
    assert (credit(second, 1), credit(second, 0)) == (HALF + FIRST, FIRST)
    assert client.loop.turn.spare_window == SPARE - FIRST
    # Now 64 KiB are half of it.
    assert credit(upload(client, FIRST - 1, 1.0), 1) == 0
    assert credit(upload(client, 1, 0), 1) == FIRST


def test_a_peer_that_is_not_held_up_gets_no_more() -> None:
    client = far_away()
    upload(client, HALF, 0.01)
    for _ in range(5):
        frames = upload(client, HALF, ROUND_TRIP)
        assert (credit(frames, 1), credit(frames, 0)) == (HALF, 0)


def test_nor_does_one_whose_content_is_taken_slowly() -> None:
    client = far_away()
    upload(client, HALF, 0.01)
    client.feed(client.peer.data(1, bytes(FIRST)))
    client.loop.now += 2 * ROUND_TRIP
    client.exchanges[0].side.take(FIRST)
    assert credit(client.sent(), 1) == FIRST


def test_credit_that_comes_in_lumps_tells_the_pace_as_well() -> None:
    """More than half is released in one go, and the rest is less: one report a round trip."""
    client = far_away()
    upload(client, HALF, 0.01)
    lump = upload(client, FIRST * 3 // 4, ROUND_TRIP)
    assert credit(lump, 1) == FIRST * 3 // 4 + FIRST


def test_nor_does_one_whose_distance_is_not_known() -> None:
    client = RawClient(LIMITS, keeps_credit=True)
    client.feed(client.peer.headers(1, POST))
    for _ in range(4):
        assert credit(upload(client, HALF, 0), 1) == HALF


def test_there_is_a_largest_window() -> None:
    client = far_away()
    window = FIRST
    for _ in range(12):
        window += credit(upload(client, window // 2, 0.01), 1) - window // 2
        assert window <= LARGEST
    assert window == LARGEST


def test_what_all_connections_of_a_loop_may_grow_by_has_a_bound() -> None:
    client = far_away()
    client.loop.turn.spare_window = FIRST + 1000
    window = FIRST
    for _ in range(12):
        window += credit(upload(client, window // 2, 0.01), 1) - window // 2
    assert window == FIRST + FIRST + 1000
    assert client.loop.turn.spare_window == 0


def test_a_stream_that_ends_gives_its_growth_back_as_the_peer_uses_the_credit() -> None:
    client = far_away()
    upload(client, HALF, 0.01)
    upload(client, HALF, 0.01)
    client.feed(rst_stream(1, 0), client.peer.headers(3, POST))
    client.sent()
    assert client.loop.turn.spare_window == SPARE - FIRST
    frames = upload(client, HALF, 1.0, stream=3)
    assert client.loop.turn.spare_window == SPARE - HALF
    # The connection's credit is not renewed for as much as the stream that is gone was given.
    assert (credit(frames, 3), credit(frames, 0)) == (HALF, 0)
    upload(client, HALF, 1.0, stream=3)
    assert client.loop.turn.spare_window == SPARE


def test_a_connection_that_ends_gives_everything_back() -> None:
    client = far_away()
    for _ in range(3):
        upload(client, HALF, 0.01)
    client.feed(client.peer.headers(3, POST))
    for _ in range(2):
        upload(client, HALF, 0.01, stream=3)
    client.feed(rst_stream(1, 0))
    assert client.loop.turn.spare_window < SPARE
    client.transport.lose()
    assert client.loop.turn.spare_window == SPARE


def test_an_old_round_trip_is_measured_anew() -> None:
    client = far_away()
    upload(client, HALF, 9.0)
    assert [each for each in client.sent() if each.kind == PING] == []
    [asked] = [each for each in upload(client, HALF, 2.0) if each.kind == PING]
    # One question at a time, and nobody else's answer.
    assert [each for each in upload(client, HALF, 0.1) if each.kind == PING] == []
    client.feed(ping(b"underpas", ack=True))
    assert client.connection.round_trip == pytest.approx(ROUND_TRIP)
    client.loop.now += 0.4
    client.feed(ping(asked.payload, ack=True))
    assert client.connection.round_trip == pytest.approx(0.5)
    client.loop.now += 5.0
    client.feed(ping(asked.payload, ack=True))
    assert client.connection.round_trip == pytest.approx(0.5)


def test_a_download_is_held_up_no_more_than_an_upload() -> None:
    server = RawServer(LIMITS)
    server.loop.now += ROUND_TRIP
    server.feed(frame(SETTINGS, ACK, 0))
    asked = server.request(GET)
    server.feed(server.peer.headers(1, OK))
    server.sent()
    grown = 0
    for _ in range(2):
        server.feed(server.peer.data(1, bytes(HALF)))
        grown += credit(server.sent(), 1) - HALF
    assert (grown, len(asked.body)) == (FIRST, FIRST)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(1, HALF),
            st.sampled_from([0.0, 0.05, 0.2]),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.integers(0, 3 * FIRST),
)
def test_no_growth_is_lost_or_counted_twice(
    steps: list[tuple[int, int, float, bool]], spare: int
) -> None:
    """Whatever streams do, what they may hold is what was granted, and all of it comes back."""
    loop = ManualLoop()
    loop.turn.spare_window = spare
    client = RawClient(LIMITS, loop=loop, keeps_credit=True)
    loop.now += ROUND_TRIP
    client.feed(frame(SETTINGS, ACK, 0))
    opened = 0
    streams: dict[int, tuple[int, int]] = {}
    for slot, size, seconds, ends in steps:
        if slot not in streams:
            client.feed(client.peer.headers(2 * opened + 1, POST))
            streams[slot] = (opened, FIRST)
            opened += 1
        index, window = streams[slot]
        size = min(size, window)
        loop.now += seconds
        client.feed(client.peer.data(2 * index + 1, bytes(size)))
        client.exchanges[index].side.take(size)
        frames = client.sent()
        assert not [each for each in frames if each.kind == RST_STREAM]
        streams[slot] = (index, window - size + credit(frames, 2 * index + 1))
        assert 0 <= loop.turn.spare_window <= spare
        if ends:
            client.feed(rst_stream(2 * index + 1, 0))
            del streams[slot]
    client.transport.lose()
    assert loop.turn.spare_window == spare
