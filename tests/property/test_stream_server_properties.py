"""TCP visitors' framing against the `websockets` library as the oracle, however it is cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from rig.visitorstream import ORIGIN_CLOSE, VisitorStream, server_frame
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.integers(0, 70_000).map(lambda size: bytes(range(256)) * (size // 256)),
    ),
    max_size=6,
)
CUTS = st.lists(st.integers(1, 5000), max_size=12)


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """What a connector may send, and the bytes that the visitor is to get."""
    wire, expected = b"", b""
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from((Opcode.BINARY, Opcode.TEXT)))
        parts = draw(st.lists(st.binary(max_size=400), min_size=1, max_size=4))
        for index, part in enumerate(parts):
            opcode = kind if index == 0 else Opcode.CONT
            wire += server_frame(part, opcode, final=index == len(parts) - 1)
            expected += part
            if draw(st.booleans()):
                ping = draw(st.binary(max_size=125))
                wire += server_frame(ping, draw(st.sampled_from((Opcode.PING, Opcode.PONG))))
    return wire, expected


@settings(deadline=None)
@given(PIECES)
def test_what_visitors_send_is_what_a_websocket_server_gets(pieces: list[bytes]) -> None:
    stream = VisitorStream(agrees=True)
    oracle = ServerProtocol(state=OPEN, max_size=None)
    for piece in pieces:
        stream.say(piece)
        oracle.receive_data(stream.take())
    stream.visitor.end()
    stream.run()
    oracle.receive_data(stream.take())
    events = [event for event in oracle.events_received() if isinstance(event, Frame)]
    assert b"".join(event.data for event in events[:-1]) == b"".join(pieces)
    assert all(event.opcode is Opcode.BINARY for event in events[:-1])
    assert events[-1].opcode is Opcode.CLOSE
    assert oracle.close_rcvd is not None
    assert oracle.close_rcvd.code == 1000


@settings(deadline=None)
@given(frames(), CUTS, st.booleans())
def test_what_origins_send_is_what_visitors_get(
    sent: tuple[bytes, bytes], cuts: list[int], says_close: bool
) -> None:
    wire, expected = sent
    stream = VisitorStream()
    whole = wire + (ORIGIN_CLOSE if says_close else b"")
    for size in [*cuts, len(whole) + 1]:
        piece, whole = whole[:size], whole[size:]
        stream.write(piece)
    assert stream.visitor.take() == expected
    assert not stream.visitor.closed
    stream.side.end()
    stream.run()
    assert stream.visitor.said_end
    assert stream.exchange.cause is None
    assert stream.exchange.response_bytes == len(expected)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=20))
def test_any_bytes_of_a_connector_are_carried_or_end_the_stream(pieces: list[bytes]) -> None:
    stream = VisitorStream()
    for piece in pieces:
        stream.write(piece)
    assert len(stream.visitor.written) <= sum(map(len, pieces))
    assert stream.visitor.closed == (stream.exchange.cause is not None)
    assert stream.exchange.cause in (None, "protocol_error")


@settings(deadline=None)
@given(PIECES, PIECES)
def test_bytes_through_a_whole_tunnel(there: list[bytes], back: list[bytes]) -> None:
    stream = VisitorStream(relays=True, agrees=True)
    for piece in there:
        stream.say(piece)
    stream.visitor.end()
    for piece in back:
        stream.origin.feed(piece)
        stream.run()
    stream.origin.end()
    stream.run()
    assert stream.origin.take() == b"".join(there)
    assert stream.visitor.take() == b"".join(back)
    assert stream.visitor.closed
    assert stream.counters.causes() == {}
    assert (stream.edge.active, stream.counters.active) == (0, 0)
