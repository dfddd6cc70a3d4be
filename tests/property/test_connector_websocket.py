"""Any conversation with the `websockets` library's client is understood as it was meant."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from underpass.connector.services.websocket import CloseCode, Message, Opcode, WebSocketServer

texts = st.text(max_size=200).map(lambda text: Message(True, text.encode("utf-8")))
binaries = st.binary(max_size=70_000).map(lambda data: Message(False, data))


@dataclass(frozen=True)
class Sent:
    """A message and where it is cut into fragments; a ping after each when `pings`."""

    message: Message
    cuts: tuple[int, ...]
    pings: bool


@st.composite
def sent(draw: st.DrawFn) -> Sent:
    message = draw(texts | binaries)
    cuts = draw(st.lists(st.integers(0, len(message.data)), max_size=4).map(sorted))
    return Sent(message, tuple(cuts), draw(st.booleans()))


def open_client() -> ClientProtocol:
    return ClientProtocol(parse_uri("ws://app.example/"), state=OPEN, max_size=None)


def write(client: ClientProtocol, item: Sent) -> None:
    data = item.message.data
    edges = [0, *item.cuts, len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    for number, part in enumerate(parts):
        final = number == len(parts) - 1
        if number:
            client.send_continuation(part, final)
        elif item.message.is_text:
            client.send_text(part, final)
        else:
            client.send_binary(part, final)
        if item.pings:
            client.send_ping(b"%d" % number)


def chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` cut into pieces of these sizes, the last ones as large as the last size."""
    pieces = []
    at = 0
    for size in [*sizes, len(data) or 1]:
        pieces.append(data[at : at + size])
        at += size
    return pieces


@given(st.lists(sent(), max_size=5), st.lists(st.integers(1, 5000), max_size=20))
def test_what_a_client_sends_arrives_and_comes_back(items: list[Sent], sizes: list[int]) -> None:
    client = open_client()
    for item in items:
        write(client, item)
    client.send_close(CloseCode.NORMAL, "done")
    wire = b"".join(client.data_to_send())

    replies = bytearray()
    received: list[Message] = []

    def echo(message: Message) -> None:
        received.append(message)
        server.send(message)

    server = WebSocketServer(replies.extend, echo)
    for chunk in chunks(wire, sizes):
        server.feed(chunk)
    assert received == [item.message for item in items]
    assert server.closed

    client.receive_data(bytes(replies))
    client.receive_eof()
    frames = [event for event in client.events_received() if isinstance(event, Frame)]
    echoed = [
        Message(frame.opcode is TheirOpcode.TEXT, bytes(frame.data))
        for frame in frames
        if frame.opcode in (TheirOpcode.TEXT, TheirOpcode.BINARY)
    ]
    pongs = sum(frame.opcode is TheirOpcode.PONG for frame in frames)
    assert echoed == received
    assert pongs == sum(len(item.cuts) + 1 for item in items if item.pings)
    assert client.close_code == CloseCode.NORMAL


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_noise_never_raises_and_what_is_held_stays_bounded(noise: list[bytes]) -> None:
    server = WebSocketServer(lambda _: None, lambda _: None, max_message=64)
    for piece in noise:
        server.feed(piece)
        # One frame that is not whole yet (head and payload), and the fragments before it.
        assert len(server._input) < 14 + 125
        assert len(server._message) <= 64


@given(texts | binaries)
def test_what_we_send_is_one_frame_that_a_client_accepts(message: Message) -> None:
    out = bytearray()
    WebSocketServer(out.extend, lambda _: None).send(message)
    client = open_client()
    client.receive_data(bytes(out))
    (frame,) = client.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, bytes(frame.data), frame.fin) == (
        TheirOpcode.TEXT if message.opcode is Opcode.TEXT else TheirOpcode.BINARY,
        message.data,
        True,
    )
