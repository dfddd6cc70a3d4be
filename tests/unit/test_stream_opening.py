"""A stream whose visitor and connector agree on something before bytes flow (SOCKS does)."""

from __future__ import annotations

import gc
import struct

import pytest
from rig.exchanges import Client, alive
from rig.http1 import Outgoing
from rig.peer import Peer, connect
from rig.transport import ManualLoop

from underpass.core.fields import Fields
from underpass.core.relay import Counters, Exchange
from underpass.core.stream import StreamClient
from underpass.core.websocket import WebSocketStream

KEY = b"\x37\xfa\x21\x3d"
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
HEAD = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"socks.example"),
    (b":path", b"/"),
]


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """A client's, masked."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else struct.pack("!BH", 0xFE, size)
    masked = bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))
    return bytes((0x80 | opcode,)) + length + KEY + masked


def server_frame(payload: bytes, opcode: int = BINARY) -> bytes:
    return bytes((0x80 | opcode, len(payload))) + payload


class Plain(StreamClient):
    """Can be referred to weakly."""


class Framed(WebSocketStream):
    """Can be referred to weakly."""


class Opening:
    """A visitor and a connection without a transport, which listens."""

    def __init__(self, kind: type[StreamClient] = Framed, *, before: bytes = b"") -> None:
        self.loop = ManualLoop()
        self.counters = Counters()
        self.client = Client(Outgoing(self.counters))
        self.client.side.request(self.client.exchange, Fields(HEAD))
        if before:
            self.client.side.write(before)
        self.heard = b""
        self.times_gone = 0
        self.connection = kind(self.loop.turn)
        self.connection.listen(self.hear, self.leave)
        self.connection.attach(self.client.exchange, (), 101)
        self.loop.run()

    def hear(self, data: bytes) -> None:
        self.heard += data

    def leave(self) -> None:
        self.times_gone += 1

    def connect(self) -> Peer:
        return connect(self.loop, self.connection)


def test_the_visitor_is_answered_before_there_is_an_origin() -> None:
    assert Opening().client.status == 101


def test_what_it_says_is_heard_and_goes_nowhere_else() -> None:
    opening = Opening(before=frame(b"be"))
    opening.client.side.write(frame(b"gin") + frame(b"ning")[:3])
    opening.client.side.write(frame(b"ning")[3:])
    assert opening.heard == b"beginning"
    origin = opening.connect()
    opening.connection.go_on()
    opening.loop.run()
    assert origin.written == b""


def test_it_hears_what_is_said() -> None:
    opening = Opening()
    opening.connection.say(b"\x05\x00")
    opening.connection.say(b"")
    assert opening.client.body == server_frame(b"\x05\x00")


def test_pings_are_answered_meanwhile() -> None:
    opening = Opening()
    opening.client.side.write(frame(b"p", PING))
    assert opening.client.body == server_frame(b"p", 10)
    assert opening.heard == b""


def test_then_bytes_flow_the_rest_first() -> None:
    opening = Opening(before=frame(b"handshake" + b"rest"))
    origin = opening.connect()
    opening.connection.say(b"ok")
    opening.connection.introduce(b"PROXY UNKNOWN\r\n")
    opening.connection.go_on(b"rest")
    opening.client.side.write(frame(b" and more"))
    origin.feed(b"banner")
    opening.loop.run()
    assert origin.take() == b"PROXY UNKNOWN\r\nrest and more"
    assert opening.client.body == server_frame(b"ok") + server_frame(b"banner")
    assert opening.heard == b"handshakerest"


@pytest.mark.parametrize("rest", [b"", b"rest"])
def test_what_was_heard_stays_charged_until_bytes_flow(rest: bytes) -> None:
    """So no more can come than a stream's window holds."""
    first, more = frame(b"handshake" + rest), frame(b"more")
    opening = Opening(before=first)
    opening.client.side.write(more)
    opening.connect()
    opening.loop.run()
    assert opening.client.side.unreleased == len(first) + len(more)
    opening.connection.go_on(rest)
    opening.loop.run()
    assert opening.client.side.unreleased == 0


def test_messages_that_hold_nothing_for_the_origin_are_released() -> None:
    """Else pings alone would use up the window of a stream that is idle for long."""
    opening = Opening()
    opening.connect()
    opening.connection.go_on()
    for message in (frame(b"p", PING), frame(b"text", TEXT), frame(b"")):
        opening.client.side.write(message)
        opening.loop.run()
        assert opening.client.side.unreleased == 0


@pytest.mark.parametrize("how", ["end", "reset", "close", "broken"])
def test_the_visitor_leaves(how: str) -> None:
    opening = Opening()
    if how == "end":
        opening.client.side.end()
    elif how == "reset":
        opening.client.side.reset()
    else:
        opening.client.side.write(frame(b"\x03\xe8", CLOSE) if how == "close" else b"\xff\xff")
    assert opening.times_gone == 1
    opening.connection.hang_up()
    opening.loop.run()
    assert opening.client.exchange.is_over
    assert opening.connection.is_closed
    assert (opening.times_gone, opening.counters.active) == (1, 0)


def test_hanging_up_says_what_was_said() -> None:
    opening = Opening()
    opening.connection.say(b"\x05\xff")
    opening.connection.hang_up()
    assert opening.client.body == server_frame(b"\x05\xff") + server_frame(b"\x03\xe8", CLOSE)
    assert (opening.client.ended, opening.times_gone) == (True, 0)
    opening.client.side.write(frame(b"late"))
    assert opening.heard == b""


def test_an_origin_that_comes_too_late_is_let_go() -> None:
    opening = Opening()
    opening.client.side.reset()
    origin = opening.connect()
    opening.connection.introduce(b"hello")
    opening.connection.go_on(b"rest")
    opening.loop.run()
    assert (origin.aborted, origin.written) == (True, b"")


def test_hanging_up_with_an_origin_there() -> None:
    opening = Opening()
    origin = opening.connect()
    opening.connection.introduce(b"PROXY UNKNOWN\r\n")
    opening.connection.hang_up()
    opening.loop.run()
    assert (origin.written, origin.closed) == (b"PROXY UNKNOWN\r\n", True)
    assert opening.client.ended


def test_a_listener_that_fails_ends_its_own_stream_only() -> None:
    loop = ManualLoop(raises=False)
    client = Client(Outgoing(Counters()))
    client.side.request(client.exchange, Fields(HEAD))
    connection = Framed(loop.turn)

    def fail(data: bytes) -> None:
        raise RuntimeError("a fault")

    connection.listen(fail, lambda: None)
    connection.attach(client.exchange, (), 101)
    client.side.write(frame(b"x"))
    assert [str(error) for error in loop.errors] == ["a fault"]
    assert client.abandoned is not None
    assert connection.is_closed


def test_raw_streams_can_listen_too() -> None:
    opening = Opening(Plain, before=b"first")
    assert opening.heard == b"first"
    origin = opening.connect()
    opening.connection.go_on(b"st")
    opening.loop.run()
    assert origin.written == b"st"


@pytest.mark.parametrize("then", ["end", "reset", "hang up", "go on", "nothing"])
def test_nothing_is_left(then: str) -> None:
    """Without the cycle collector."""
    gc.collect()
    gc.disable()
    try:
        before = alive(Exchange, StreamClient, Client)
        opening = Opening()
        side = opening.client.side
        if then == "end":
            side.end()
        elif then == "reset":
            side.reset()
        elif then == "go on":
            opening.connect().lose()
        opening.connection.hang_up()
        opening.loop.run()
        side.on_head = side.on_data = side.on_end = side.on_abandoned = None
        del opening, side
        assert alive(Exchange, StreamClient, Client) == before
    finally:
        gc.enable()


def test_a_flood_of_pings_is_not_answered_without_end() -> None:
    """From a visitor who takes no answer: they would all have to wait at the connector."""
    opening = Opening()
    opening.connect()
    opening.connection.go_on()
    opening.client.side.keeps_credit = True
    for _ in range(100):
        opening.client.side.write(frame(b"x" * 125, PING) * 100)
    assert 200_000 < len(opening.client.body) < 300_000
    opening.client.side.take(len(opening.client.body))
    before = len(opening.client.body)
    opening.client.side.write(frame(b"again", PING))
    assert opening.client.body[before:] == server_frame(b"again", 10)
