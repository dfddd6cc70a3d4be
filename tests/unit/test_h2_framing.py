"""Padding, priority, CONTINUATION, PING and frames nobody knows (RFC 9113 §4, §6)."""

from __future__ import annotations

import pytest
from rig.cuts import every_cut
from rig.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    OK,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
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

from underpass.core.frames import ErrorCode
from underpass.core.h2 import H2Connection

Role = type[RawClient] | type[RawServer]
BOTH = pytest.mark.parametrize("role", [RawClient, RawServer])


def in_pieces(stream: int, block: bytes, pieces: int, flags: int = END_STREAM) -> list[bytes]:
    """One block as HEADERS and `pieces` - 1 CONTINUATIONs."""
    size = max(1, -(-len(block) // pieces))
    parts = [block[at * size : (at + 1) * size] for at in range(pieces)]
    return [
        frame(
            CONTINUATION if i else HEADERS,
            (0 if i else flags) | (END_HEADERS if i == pieces - 1 else 0),
            stream,
            part,
        )
        for i, part in enumerate(parts)
    ]


@BOTH
def test_pings_are_answered_with_the_same_octets(role: Role) -> None:
    raw = role()
    raw.feed(ping(b"\0\1\2\3\xff\xfe\xfd\xfc") + ping(b"12345678"))
    assert [(each.kind, each.flags, each.payload) for each in raw.sent()] == [
        (PING, ACK, b"\0\1\2\3\xff\xfe\xfd\xfc"),
        (PING, ACK, b"12345678"),
    ]


@BOTH
def test_answers_to_pings_are_not_answered(role: Role) -> None:
    raw = role()
    raw.connection.ping()
    (sent,) = raw.sent()
    assert (sent.kind, sent.flags, len(sent.payload)) == (PING, 0, 8)
    before = raw.connection.bytes_received
    raw.feed(ping(sent.payload, ack=True))
    assert raw.sent() == []
    assert raw.connection.bytes_received == before + 17


@BOTH
def test_control_frames_overtake_content_that_waits(role: Role) -> None:
    raw = role()
    if isinstance(raw, RawClient):
        raw.feed(raw.peer.headers(1, GET, end=True))
        side = raw.exchanges[0].side
        side.send_response(200)
    else:
        side = raw.request(POST, end=False).side
    side.write(bytes(100_000))
    raw.sent()
    raw.feed(ping())
    assert [each.kind for each in raw.sent()] == [PING]


@BOTH
def test_unknown_frames_are_ignored(role: Role) -> None:
    raw = role()
    for kind in (0x0A, 0x0C, 0x10, 0xFF):
        raw.feed(frame(kind, 0xFF, 0, b"anything"), frame(kind, 0, 12345, bytes(16384)))
    assert raw.sent() == []
    assert not raw.transport.closed


@BOTH
def test_priority_is_ignored_on_any_stream(role: Role) -> None:
    raw = role()
    for stream in (1, 2, 999):
        raw.feed(frame(PRIORITY, 0, stream, b"\0\0\0\0\x10"))
    assert raw.sent() == []
    assert not raw.transport.closed


MALFORMED: list[tuple[str, bytes, ErrorCode]] = [
    ("PING on a stream", frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    ("a short PING", frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    ("a long PING", frame(PING, ACK, 0, bytes(9)), ErrorCode.FRAME_SIZE_ERROR),
    ("PRIORITY on no stream", frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    ("a short PRIORITY", frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    ("a long PRIORITY", frame(PRIORITY, 0, 1, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    ("PUSH_PROMISE", frame(PUSH_PROMISE, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    ("a short RST_STREAM", frame(RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    ("a long RST_STREAM", frame(RST_STREAM, 0, 1, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    ("RST_STREAM on no stream", rst_stream(0, 0), ErrorCode.PROTOCOL_ERROR),
    ("RST_STREAM on an idle one", rst_stream(99, 0), ErrorCode.PROTOCOL_ERROR),
    ("a short WINDOW_UPDATE", window_update(0, 1)[:2] + b"\3" + window_update(0, 1)[3:12],
     ErrorCode.FRAME_SIZE_ERROR),
    ("GOAWAY on a stream", frame(7, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    ("a short GOAWAY", frame(7, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    ("DATA on no stream", frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    ("DATA on an idle stream", frame(DATA, 0, 99, b"x"), ErrorCode.PROTOCOL_ERROR),
    ("HEADERS on no stream", frame(HEADERS, 5, 0), ErrorCode.PROTOCOL_ERROR),
    ("a lone CONTINUATION", frame(CONTINUATION, 4, 1), ErrorCode.PROTOCOL_ERROR),
    ("HEADERS padded with nothing", frame(HEADERS, 5 | PADDED, 1), ErrorCode.FRAME_SIZE_ERROR),
    ("HEADERS without its priority", frame(HEADERS, 5 | PRIORITY_FLAG, 1, bytes(4)),
     ErrorCode.FRAME_SIZE_ERROR),
    ("HEADERS with too much padding", frame(HEADERS, 5 | PADDED, 1, b"\4abc"),
     ErrorCode.PROTOCOL_ERROR),
    ("malformed HPACK", frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
     ErrorCode.COMPRESSION_ERROR),
    ("a frame too large", frame(HEADERS, 5, 1, bytes(65537))[:9], ErrorCode.FRAME_SIZE_ERROR),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("what", "wire", "code"), MALFORMED, ids=[each[0] for each in MALFORMED])
def test_malformed_frames_end_the_connection(
    role: Role, what: str, wire: bytes, code: ErrorCode
) -> None:
    faults: list[tuple[int, str]] = []

    class Noting(H2Connection):
        def protocol_failure(self, code: int, why: str) -> None:
            faults.append((code, why))

    for pieces in every_cut(wire):
        faults.clear()
        raw = role(connection=Noting)
        raw.feed(*pieces)
        assert raw.goaway_code() == code
        assert raw.transport.closed
        assert not raw.transport.aborted
        assert [fault for fault, _ in faults] == [code]


@pytest.mark.parametrize("padding", [None, 0, 1, 255])
@pytest.mark.parametrize("priority", [False, True])
def test_heads_may_be_padded_and_carry_a_priority(padding: int | None, priority: bool) -> None:
    block = Sender().block(GET)
    flags = END_HEADERS | END_STREAM
    if priority:
        block = b"\x80\0\0\3\xff" + block
        flags |= PRIORITY_FLAG
    if padding is not None:
        block = bytes([padding]) + block + bytes(padding)
        flags |= PADDED
    for pieces in every_cut(frame(HEADERS, flags, 1, block)):
        client = RawClient()
        client.feed(*pieces)
        assert [heard.head for heard in client.exchanges] == [GET]
        assert client.exchanges[0].ended


@pytest.mark.parametrize("count", [2, 3, 7, 65])
def test_a_head_may_come_in_many_frames(count: int) -> None:
    pairs = [*GET, (b"x", b"y" * 200)]
    wire = b"".join(in_pieces(1, Sender().block(pairs), count))
    for pieces in every_cut(wire) if count < 4 else ([wire],):
        client = RawClient()
        client.feed(*pieces)
        assert [heard.head for heard in client.exchanges] == [pairs]
        assert client.exchanges[0].ended


def test_a_response_head_and_trailers_may_come_in_many_frames() -> None:
    server = RawServer()
    asked = server.request()
    head = [*OK, (b"x", b"y" * 100)]
    server.feed(*in_pieces(1, server.peer.block(head), 5, flags=0))
    server.feed(*in_pieces(1, server.peer.block([(b"x-sum", b"1")]), 2))
    assert asked.head == head
    assert asked.ended


@BOTH
@pytest.mark.parametrize(
    "between",
    [
        frame(DATA, 0, 1, b"x"),
        Sender().headers(3, GET),
        frame(CONTINUATION, 4, 3),
        settings(),
        ping(),
        window_update(0, 1),
        rst_stream(1, 0),
        goaway(0, 0),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(0xFE, 0, 1),
    ],
)
def test_nothing_comes_between_the_frames_of_a_block(role: Role, between: bytes) -> None:
    """RFC 9113 §4.3: not even frames of unknown types."""
    raw = role()
    if isinstance(raw, RawServer):
        raw.request()
    first, second = in_pieces(1, Sender().block(GET if role is RawClient else OK), 2)
    raw.feed(first, between)
    assert raw.goaway_code() == ErrorCode.PROTOCOL_ERROR
    assert raw.transport.closed
    raw.connection.data_received(second)
    if isinstance(raw, RawClient):
        assert raw.exchanges == []


def test_what_follows_a_connection_error_is_not_read() -> None:
    client = RawClient()
    client.feed(frame(PING, 0, 1, bytes(8)) + client.peer.headers(1, GET, end=True))
    assert client.exchanges == []
    assert [each.kind for each in client.sent()] == [7]


def test_the_goaway_of_a_connection_error_says_why_and_what_was_seen() -> None:
    client = RawClient()
    client.feed(client.peer.headers(5, GET, end=True), frame(PING, 0, 1, bytes(8)))
    (last,) = client.sent()
    assert last.number == 5
    assert last.payload[8:] == b"PING on a stream"


def test_settings_between_exchanges_are_answered_before_them() -> None:
    client = RawClient()
    client.connection.data_received(client.peer.headers(1, GET, end=True) + settings())
    client.exchanges[0].answer()
    assert [each.kind for each in client.sent()] == [SETTINGS, HEADERS]
