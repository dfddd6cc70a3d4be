"""Raw byte streams to an origin (docs: wire protocol §2.8): both directions, and how they end."""

from __future__ import annotations

import gc

import pytest
from rig.exchanges import Client, alive
from rig.http1 import Outgoing
from rig.peer import Peer, connect
from rig.transport import ManualLoop

from underpass.core.fields import Fields
from underpass.core.relay import Counters, Exchange
from underpass.core.stream import StreamClient

SOURCE_CREDIT = 262144

HEAD = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"10.0.0.1:22"),
    (b":path", b"/"),
]


class Connection(StreamClient):
    """Can be referred to weakly."""


class Stream:
    """A visitor, our connection, and the origin behind it."""

    def __init__(self, *, before: bytes = b"", ended: bool = False) -> None:
        self.loop = ManualLoop()
        self.counters = Counters()
        self.client = Client(Outgoing(self.counters))
        self.client.side.request(self.client.exchange, Fields(HEAD))
        if before:
            self.client.side.write(before)
        if ended:
            self.client.side.end()
        self.connection = Connection(self.loop.turn)
        self.origin: Peer = connect(self.loop, self.connection)

    def attach(self, *pairs: tuple[bytes, bytes], status: int = 200) -> None:
        self.connection.attach(self.client.exchange, pairs, status)
        self.loop.run()


def joined(*, before: bytes = b"") -> Stream:
    stream = Stream(before=before)
    stream.attach()
    return stream


class TestJoining:
    def test_is_acknowledged_before_anything_flows(self) -> None:
        stream = Stream()
        stream.attach((b"x", b"y"))
        assert stream.client.status == 200
        assert stream.client.get(b"x") == b"y"
        assert stream.origin.written == b""

    def test_with_another_status(self) -> None:
        stream = Stream()
        stream.attach((b"upgrade", b"websocket"), status=101)
        assert stream.client.status == 101

    def test_what_came_before_goes_out_first(self) -> None:
        stream = joined(before=b"early")
        stream.client.side.write(b" late")
        stream.loop.run()
        assert stream.origin.take() == b"early late"
        assert stream.client.side.unreleased == 0

    def test_bytes_pass_as_they_are(self) -> None:
        stream = joined()
        stream.client.side.write(b"\x00\r\n0\r\n\r\n")
        stream.origin.feed(b"SSH-2.0\r\n\xff")
        stream.loop.run()
        assert stream.origin.take() == b"\x00\r\n0\r\n\r\n"
        assert stream.client.body == b"SSH-2.0\r\n\xff"
        assert stream.origin.writes == 1

    def test_nobody_wants_it_any_more(self) -> None:
        stream = Stream()
        stream.client.side.reset()
        stream.attach()
        assert stream.origin.closed

    def test_the_connection_is_already_lost(self) -> None:
        stream = Stream()
        stream.origin.lose()
        stream.attach()
        assert stream.client.status == 502


class TestEnding:
    def test_the_origin_ends(self) -> None:
        stream = joined()
        stream.origin.feed(b"bye")
        stream.origin.end()
        stream.loop.run()
        assert (stream.client.body, stream.client.ended) == (b"bye", True)
        assert stream.client.exchange.is_over
        assert stream.origin.closed

    def test_the_visitor_ends(self) -> None:
        stream = joined()
        stream.client.side.write(b"bye")
        stream.client.side.end()
        stream.loop.run()
        assert stream.origin.take() == b"bye"
        assert stream.origin.closed
        assert stream.client.ended
        assert stream.client.abandoned is None

    def test_the_visitor_had_ended_before(self) -> None:
        stream = Stream(before=b"all", ended=True)
        stream.attach()
        assert stream.origin.take() == b"all"
        assert stream.origin.closed
        assert stream.client.ended

    def test_the_origin_resets(self) -> None:
        stream = joined()
        stream.origin.lose(ConnectionResetError())
        assert not stream.client.ended
        assert stream.client.abandoned is not None

    def test_the_visitor_resets(self) -> None:
        """docs: wire protocol §2.8: a reset cancels the connection."""
        stream = joined()
        stream.client.side.write(b"lost")
        stream.client.side.reset()
        stream.loop.run()
        assert stream.origin.aborted
        assert stream.origin.written == b""

    def test_the_owner_gives_it_up(self) -> None:
        stream = joined()
        stream.connection.abort()
        stream.loop.run()
        assert stream.client.exchange.is_over

    def test_bytes_before_it_was_joined_end_it(self) -> None:
        stream = Stream()
        stream.origin.feed(b"too soon")
        assert stream.origin.aborted


class TestBackpressure:
    def test_the_origin_is_not_read_while_nobody_takes(self) -> None:
        stream = joined()
        stream.client.side.keeps_credit = True
        stream.origin.feed(b"x" * (SOURCE_CREDIT - 1))
        assert stream.origin.reading
        stream.origin.feed(b"x")
        assert not stream.origin.reading
        stream.client.side.take(SOURCE_CREDIT // 2 - 1)
        assert not stream.origin.reading
        stream.client.side.take(1)
        assert stream.origin.reading

    def test_content_is_released_as_the_transport_takes_it(self) -> None:
        stream = joined()
        stream.connection.pause_writing()
        stream.client.side.write(b"1234")
        stream.loop.run()
        assert (stream.client.side.unreleased, stream.origin.written) == (4, b"")
        stream.connection.resume_writing()
        stream.loop.run()
        assert (stream.client.side.unreleased, stream.origin.written) == (0, b"1234")


@pytest.mark.parametrize("then", ["end", "lose", "reset", "abort", "nothing"])
@pytest.mark.parametrize("attached", [True, False])
def test_nothing_is_left(then: str, attached: bool) -> None:
    """Without the cycle collector: what a stream was made of goes when it ends."""
    gc.collect()
    gc.disable()
    try:
        before = alive(Exchange, StreamClient, Client)
        stream = Stream()
        if attached:
            stream.attach()
        if then == "reset":
            stream.client.side.reset()
        elif then == "abort":
            stream.connection.abort()
        elif then != "nothing":
            getattr(stream.origin, then)()
        stream.loop.run()
        stream.origin.lose()
        if not attached:
            stream.attach()
        assert stream.counters.active == 0
        side = stream.client.side
        side.on_head = side.on_data = side.on_end = side.on_abandoned = None
        del stream, side
        assert alive(Exchange, StreamClient, Client) == before
    finally:
        gc.enable()
