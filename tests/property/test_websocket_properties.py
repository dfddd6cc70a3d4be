"""The compiled WebSocket reader against `websockets`' own framing as the oracle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from underpass.core.websocket import WebSocketReader

PAYLOADS = st.binary(max_size=400)


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[Frame], list[tuple[str, bytes]]]:
    """Frames a client may send, and what is to be read from them."""
    frames: list[Frame] = []
    expected: list[tuple[str, bytes]] = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from((Opcode.BINARY, Opcode.TEXT)))
        parts = draw(st.lists(PAYLOADS, min_size=1, max_size=4))
        for index, part in enumerate(parts):
            final = index == len(parts) - 1
            frames.append(Frame(kind if index == 0 else Opcode.CONT, part, fin=final))
            expected.append((kind.name, part))
            if draw(st.booleans()):
                ping = draw(st.binary(max_size=125))
                frames.append(Frame(Opcode.PING, ping))
                expected.append(("PING", ping))
    return frames, expected


@given(messages(), st.lists(st.integers(1, 300)))
def test_whatever_a_client_sends_is_understood(
    sent: tuple[list[Frame], list[tuple[str, bytes]]], cuts: list[int]
) -> None:
    frames, expected = sent
    stream = b"".join(frame.serialize(mask=True, extensions=[]) for frame in frames)
    reader = WebSocketReader()
    read: list[tuple[str, bytes]] = []
    for size in [*cuts, len(stream) + 1]:
        piece, stream = stream[:size], stream[size:]
        for event in reader.feed(piece):
            if event[0] == "ping":
                read.append(("PING", event[1]))
            else:
                assert event[0] == "data"
                read.append(("TEXT" if event[2] else "BINARY", event[1]))
    assert joined(read) == joined(expected)


def joined(events: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Neighbours of one kind made one, pings apart, empty data dropped."""
    result: list[tuple[str, bytes]] = []
    for kind, payload in events:
        if kind != "PING" and not payload:
            continue
        if result and kind != "PING" and result[-1][0] == kind:
            result[-1] = (kind, result[-1][1] + payload)
        else:
            result.append((kind, payload))
    return result


@given(st.lists(st.binary(max_size=64)))
def test_any_bytes_are_read_or_break_the_stream(pieces: list[bytes]) -> None:
    reader = WebSocketReader()
    broken = False
    for piece in pieces:
        events = reader.feed(piece)
        assert not broken or events == [("broken",)]
        broken = bool(events) and events[-1] == ("broken",)
        assert sum(len(event[1]) for event in events if len(event) > 1) <= sum(map(len, pieces))
