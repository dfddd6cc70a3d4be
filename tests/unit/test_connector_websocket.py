"""The server's end of a WebSocket (RFC 6455)."""

from __future__ import annotations

import struct

import pytest

from underpass.connector.services.handshake import accept_key
from underpass.connector.services.websocket import (
    MAX_CONTROL,
    CloseCode,
    Message,
    Opcode,
    WebSocketServer,
    encode_close,
    encode_frame,
)

KEY = b"\x37\xfa\x21\x3d"


def client_frame(opcode: int, payload: bytes = b"", *, final: bool = True, first: int = 0) -> bytes:
    """A masked frame as a client sends it; `first` is or-ed into the first byte."""
    size = len(payload)
    head = bytes(((0x80 if final else 0) | opcode | first,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 1 << 16:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + KEY + bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))


class Peer:
    """A server under test with what it has sent and understood."""

    def __init__(self, max_message: int = 1024) -> None:
        self.sent = bytearray()
        self.messages: list[Message] = []
        self.server = WebSocketServer(
            self.sent.extend, self.messages.append, max_message=max_message
        )

    def closed_with(self) -> int:
        """The code of the close frame that ends what was sent."""
        assert self.server.closed
        at = self.sent.rindex(0x88)
        return int.from_bytes(self.sent[at + 2 : at + 4], "big")


def test_accept_key_is_that_of_the_standards_example() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("key", [b"", b"short", b"!!!!", b"dGhlIHNhbXBsZSBub25jZQ==" * 2, b"\xff"])
def test_accept_key_refuses_what_is_no_nonce(key: bytes) -> None:
    with pytest.raises(ValueError, match="sixteen bytes"):
        accept_key(key)


def test_the_standards_masked_hello_is_understood() -> None:
    peer = Peer()
    peer.server.feed(bytes.fromhex("818537fa213d7f9f4d5158"))
    assert peer.messages == [Message(True, b"Hello")]


def test_the_standards_unmasked_hello_is_sent() -> None:
    assert encode_frame(Opcode.TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")


def test_a_frame_may_come_byte_by_byte() -> None:
    peer = Peer()
    for byte in client_frame(Opcode.BINARY, b"x" * 300):
        peer.server.feed(bytes((byte,)))
    assert peer.messages == [Message(False, b"x" * 300)]


def test_fragments_make_one_message_with_a_ping_between_them() -> None:
    peer = Peer()
    peer.server.feed(
        client_frame(Opcode.TEXT, b"gr\xc3", final=False)
        + client_frame(Opcode.PING, b"alive?")
        + client_frame(Opcode.CONTINUATION, b"\xbc\xc3\x9fe")
    )
    assert peer.messages == [Message(True, "grüße".encode())]
    assert bytes(peer.sent) == encode_frame(Opcode.PONG, b"alive?")


def test_a_pong_is_ignored() -> None:
    peer = Peer()
    peer.server.feed(client_frame(Opcode.PONG, b"unasked"))
    assert not peer.sent
    assert not peer.server.closed


def test_a_close_is_answered_with_its_code() -> None:
    peer = Peer()
    peer.server.feed(client_frame(Opcode.CLOSE, b"\x03\xe8bye"))
    assert bytes(peer.sent) == encode_frame(Opcode.CLOSE, b"\x03\xe8")
    assert peer.server.closed


def test_a_close_without_a_code_is_answered_without_one() -> None:
    peer = Peer()
    peer.server.feed(client_frame(Opcode.CLOSE))
    assert bytes(peer.sent) == encode_frame(Opcode.CLOSE, b"")


def test_nothing_is_said_or_heard_after_the_close() -> None:
    peer = Peer()
    peer.server.feed(client_frame(Opcode.CLOSE) + client_frame(Opcode.TEXT, b"late"))
    peer.server.feed(client_frame(Opcode.TEXT, b"later"))
    sent = bytes(peer.sent)
    peer.server.send(Message(True, b"ours"))
    peer.server.close(CloseCode.GOING_AWAY)
    assert peer.messages == []
    assert bytes(peer.sent) == sent


def test_our_own_close_waits_for_the_peers() -> None:
    peer = Peer()
    peer.server.close(CloseCode.GOING_AWAY, "restart")
    peer.server.send(Message(True, b"too late"))
    peer.server.feed(client_frame(Opcode.TEXT, b"crossed it") + client_frame(Opcode.PING))
    assert not peer.server.closed
    peer.server.feed(client_frame(Opcode.CLOSE, b"\x03\xe9"))
    assert peer.server.closed
    assert bytes(peer.sent) == encode_close(CloseCode.GOING_AWAY, "restart")
    assert peer.messages == []


def test_a_long_reason_is_cut_between_characters() -> None:
    frame = encode_close(CloseCode.NORMAL, "ü" * 100)
    assert len(frame) - 2 <= MAX_CONTROL
    assert frame[4:].decode("utf-8") == "ü" * 61


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(Opcode.TEXT, b"x", first=0x40), CloseCode.PROTOCOL_ERROR),
        (client_frame(3, b"x"), CloseCode.PROTOCOL_ERROR),
        (client_frame(11, b"x"), CloseCode.PROTOCOL_ERROR),
        (encode_frame(Opcode.TEXT, b"not masked"), CloseCode.PROTOCOL_ERROR),
        (client_frame(Opcode.PING, b"x" * 126), CloseCode.PROTOCOL_ERROR),
        (client_frame(Opcode.PING, b"x", final=False), CloseCode.PROTOCOL_ERROR),
        (client_frame(Opcode.CONTINUATION, b"x"), CloseCode.PROTOCOL_ERROR),
        (client_frame(Opcode.TEXT, b"x", final=False) * 2, CloseCode.PROTOCOL_ERROR),
        (b"\x82\xfe\x00\x7d" + KEY, CloseCode.PROTOCOL_ERROR),
        (b"\x82\xff" + bytes(6) + b"\xff\xff" + KEY, CloseCode.PROTOCOL_ERROR),
        (b"\x82\xff\x80" + bytes(7) + KEY, CloseCode.PROTOCOL_ERROR),
        (client_frame(Opcode.CLOSE, b"\x03"), CloseCode.PROTOCOL_ERROR),
        (client_frame(Opcode.CLOSE, b"\x03\xed"), CloseCode.PROTOCOL_ERROR),
        (client_frame(Opcode.CLOSE, b"\x03\xe8\xff"), CloseCode.INVALID_TEXT),
        (client_frame(Opcode.TEXT, b"\xff"), CloseCode.INVALID_TEXT),
        (client_frame(Opcode.TEXT, b"\xc3"), CloseCode.INVALID_TEXT),
        (client_frame(Opcode.TEXT, b"\xc0\x80", final=False), CloseCode.INVALID_TEXT),
    ],
    ids=[
        "reserved bit",
        "reserved opcode",
        "reserved control opcode",
        "not masked",
        "long control frame",
        "fragmented control frame",
        "continuation of nothing",
        "message within a message",
        "length longer than needed",
        "eight-byte length longer than needed",
        "length beyond 63 bits",
        "half a close code",
        "close code that is never sent",
        "close reason not UTF-8",
        "text not UTF-8",
        "text ends within a character",
        "bad first fragment",
    ],
)
def test_a_fault_closes_with_the_right_code(data: bytes, code: CloseCode) -> None:
    peer = Peer()
    peer.server.feed(data)
    assert peer.closed_with() == code
    assert peer.messages == []


def test_a_message_may_be_as_large_as_the_limit_and_no_larger() -> None:
    peer = Peer(max_message=1000)
    peer.server.feed(client_frame(Opcode.BINARY, bytes(1000)))
    assert peer.messages == [Message(False, bytes(1000))]
    peer.server.feed(client_frame(Opcode.BINARY, bytes(1001))[:14])
    assert peer.closed_with() == CloseCode.TOO_BIG


def test_fragments_together_are_held_to_the_limit() -> None:
    peer = Peer(max_message=1000)
    peer.server.feed(client_frame(Opcode.BINARY, bytes(600), final=False))
    assert not peer.server.closed
    peer.server.feed(client_frame(Opcode.CONTINUATION, bytes(401)))
    assert peer.closed_with() == CloseCode.TOO_BIG
