"""WebSocket framing of the compiled core: a client's frames in, an origin's bytes out."""

from __future__ import annotations

import struct

import pytest

from underpass.core.websocket import WebSocketReader

KEY = b"\x37\xfa\x21\x3d"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def client_frame(opcode: int, payload: bytes = b"", *, final: bool = True, first: int = 0) -> bytes:
    """A masked frame; `first` is or-ed into the first byte."""
    size = len(payload)
    head = bytes(((0x80 if final else 0) | opcode | first,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 1 << 16:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + KEY + bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))


def read(pieces: list[bytes]) -> list[tuple[object, ...]]:
    """What a fresh reader makes of `pieces`, neighbouring data of one kind joined."""
    reader = WebSocketReader()
    events: list[tuple[object, ...]] = []
    for piece in pieces:
        for event in reader.feed(piece):
            if (
                event[0] == "data"
                and events
                and events[-1][0] == "data"
                and events[-1][2] == event[2]
            ):
                events[-1] = ("data", events[-1][1] + event[1], event[2])
            else:
                events.append(event)
    return events


def every_way(stream: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and cut once at every offset."""
    cut = [[stream[:at], stream[at:]] for at in range(1, len(stream))]
    return [[stream], [bytes((byte,)) for byte in stream], *cut]


CASES = {
    "binary": (client_frame(BINARY, b"hello"), [("data", b"hello", False)]),
    "text": (client_frame(TEXT, b"hello"), [("data", b"hello", True)]),
    "empty": (client_frame(BINARY) + client_frame(PING), [("ping", b"")]),
    "two messages": (
        client_frame(BINARY, b"one") + client_frame(TEXT, b"two"),
        [("data", b"one", False), ("data", b"two", True)],
    ),
    "fragments with a ping between them": (
        client_frame(BINARY, b"a" * 5, final=False)
        + client_frame(PING, b"p")
        + client_frame(0, b"b" * 7),
        [("data", b"aaaaa", False), ("ping", b"p"), ("data", b"bbbbbbb", False)],
    ),
    "medium length": (client_frame(BINARY, b"x" * 200), [("data", b"x" * 200, False)]),
    "close": (client_frame(CLOSE, b"\x03\xe8bye"), [("close", b"\x03\xe8bye")]),
    "pong is ignored": (client_frame(PONG, b"p"), []),
    "longest control frame": (client_frame(PING, b"p" * 125), [("ping", b"p" * 125)]),
}


@pytest.mark.parametrize("name", CASES)
def test_frames_are_read_however_they_are_cut(name: str) -> None:
    stream, expected = CASES[name]
    for pieces in every_way(stream):
        assert read(pieces) == expected


def test_a_message_of_any_size_is_handed_on_as_it_comes() -> None:
    payload = bytes(range(256)) * 1024
    stream = client_frame(BINARY, payload)
    reader = WebSocketReader()
    head, *rest = reader.feed(stream[:1000])
    assert head == ("data", payload[: 1000 - 14], False)
    assert rest == []
    assert read([stream[:1000], stream[1000:]]) == [("data", payload, False)]


BROKEN = {
    "not masked": b"\x82\x05hello",
    "reserved bit": client_frame(BINARY, b"x", first=0x40),
    "unknown data opcode": client_frame(3, b"x"),
    "unknown control opcode": client_frame(11, b"x"),
    "fragmented control frame": client_frame(PING, b"x", final=False),
    "control frame over 125 bytes": client_frame(PING, b"x" * 126),
    "continuation of nothing": client_frame(0, b"x"),
    "new message inside a message": client_frame(BINARY, b"x", final=False) + client_frame(BINARY),
    "length over 63 bits": b"\x82\xff" + b"\xff" * 8 + KEY,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_standard_forbids_breaks_the_stream_for_good(name: str) -> None:
    for pieces in every_way(BROKEN[name]):
        events = read(pieces)
        assert events[-1] == ("broken",)
    reader = WebSocketReader()
    assert reader.feed(BROKEN[name])[-1] == ("broken",)
    assert reader.feed(client_frame(BINARY, b"x")) == [("broken",)]
