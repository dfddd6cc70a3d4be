"""SETTINGS, in both roles (RFC 9113 §3.4, §6.5; docs: wire protocol §2.1)."""

from __future__ import annotations

import struct

import pytest
from rig.cuts import every_cut
from rig.http2 import (
    ACK,
    DATA,
    GET,
    GOAWAY,
    HEADERS,
    OK,
    POST,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    RawClient,
    RawServer,
    frame,
    settings,
    window_update,
)

from underpass.core.frames import ErrorCode, Setting
from underpass.core.h2 import H2Connection, Limits

Role = type[RawClient] | type[RawServer]


def values(payload: bytes) -> dict[int, int]:
    return dict(struct.iter_unpack(">HI", payload))


def greeting(role: Role) -> bytes:
    """What a peer says first."""
    return (PREFACE if role is RawClient else b"") + settings()


def test_a_server_speaks_first() -> None:
    """The connector sends its SETTINGS without waiting for the preface."""
    client = RawClient(Limits(stream_window=70000, max_header_list=5000), greet=False)
    first, second = client.sent()
    assert first.kind == SETTINGS
    assert values(first.payload) == {
        Setting.MAX_FRAME_SIZE: 65536,
        Setting.MAX_HEADER_LIST_SIZE: 5000,
        Setting.INITIAL_WINDOW_SIZE: 70000,
        Setting.NO_RFC7540_PRIORITIES: 1,
        Setting.MAX_CONCURRENT_STREAMS: 20000,
    }
    assert (second.kind, second.stream, second.number) == (WINDOW_UPDATE, 0, 16777216 - 65535)


def test_a_client_sends_the_preface_and_refuses_push() -> None:
    server = RawServer(Limits(connection_window=65535), greet=False)
    server.loop.run()
    assert server.transport.writes[0].startswith(PREFACE)
    only = server.sent()
    assert [each.kind for each in only] == [SETTINGS]
    assert values(only[0].payload)[Setting.ENABLE_PUSH] == 0
    assert Setting.MAX_CONCURRENT_STREAMS not in values(only[0].payload)


@pytest.mark.parametrize("role", [RawClient, RawServer])
def test_settings_are_acknowledged_however_they_are_cut(role: Role) -> None:
    for pieces in every_cut(greeting(role)):
        raw = role(greet=False)
        raw.sent()
        raw.feed(*pieces)
        assert [(each.kind, each.flags) for each in raw.sent()] == [(SETTINGS, ACK)]


@pytest.mark.parametrize("role", [RawClient, RawServer])
def test_the_first_settings_are_announced(role: Role) -> None:
    calls: list[str] = []

    class Announcing(H2Connection):
        def connected(self) -> None:
            calls.append("connected")

    raw = role(connection=Announcing, greet=False)
    raw.feed(greeting(role)[:-1])
    assert calls == []
    raw.feed(greeting(role)[-1:], settings())
    assert calls == ["connected"]


def test_acknowledgements_are_counted() -> None:
    server = RawServer()
    assert server.connection.settings_unacknowledged == 1
    server.feed(frame(SETTINGS, ACK, 0))
    assert server.connection.settings_unacknowledged == 0


@pytest.mark.parametrize("at", range(24))
def test_what_does_not_begin_with_the_preface_is_no_http2_client(at: int) -> None:
    wrong = bytearray(PREFACE)
    wrong[at] ^= 0x20
    for pieces in ([bytes(wrong)], [bytes([octet]) for octet in wrong]):
        client = RawClient(greet=False)
        client.sent()
        client.feed(*pieces)
        assert client.sent() == []
        assert client.transport.closed


def test_an_http1_request_is_no_http2_client() -> None:
    client = RawClient(greet=False)
    client.feed(b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
    assert client.transport.closed
    assert client.exchanges == []


@pytest.mark.parametrize("role", [RawClient, RawServer])
@pytest.mark.parametrize(
    "first", [frame(SETTINGS, ACK, 0), window_update(0, 1), frame(0xEE, 0, 0), frame(DATA, 0, 1)]
)
def test_the_first_frame_must_be_settings(role: Role, first: bytes) -> None:
    raw = role(greet=False)
    raw.feed(greeting(role)[: -len(settings())] + first)
    assert raw.goaway_code() == ErrorCode.PROTOCOL_ERROR
    assert raw.transport.closed


MALFORMED: list[tuple[bytes, ErrorCode]] = [
    (frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    (frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    (frame(SETTINGS, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    (frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    (settings((Setting.INITIAL_WINDOW_SIZE, 2**31)), ErrorCode.FLOW_CONTROL_ERROR),
    (settings((Setting.MAX_FRAME_SIZE, 16383)), ErrorCode.PROTOCOL_ERROR),
    (settings((Setting.MAX_FRAME_SIZE, 16777216)), ErrorCode.PROTOCOL_ERROR),
    (settings((Setting.ENABLE_PUSH, 2)), ErrorCode.PROTOCOL_ERROR),
    (settings((Setting.NO_RFC7540_PRIORITIES, 2)), ErrorCode.PROTOCOL_ERROR),
]


@pytest.mark.parametrize("role", [RawClient, RawServer])
@pytest.mark.parametrize(("wire", "code"), MALFORMED)
def test_malformed_settings_end_the_connection(role: Role, wire: bytes, code: ErrorCode) -> None:
    for pieces in every_cut(wire):
        raw = role()
        raw.feed(*pieces)
        assert raw.goaway_code() == code
        assert raw.transport.closed


def test_a_server_must_not_enable_push() -> None:
    server = RawServer()
    server.feed(settings((Setting.ENABLE_PUSH, 1)))
    assert server.goaway_code() == ErrorCode.PROTOCOL_ERROR
    client = RawClient()
    client.feed(settings((Setting.ENABLE_PUSH, 1)))
    assert client.goaway_code() is None


@pytest.mark.parametrize("role", [RawClient, RawServer])
def test_extreme_and_unknown_settings_are_fine(role: Role) -> None:
    raw = role()
    raw.feed(
        settings(
            (Setting.INITIAL_WINDOW_SIZE, 2**31 - 1),
            (Setting.MAX_FRAME_SIZE, 16384),
            (Setting.MAX_FRAME_SIZE, 16777215),
            (Setting.HEADER_TABLE_SIZE, 2**32 - 1),
            (Setting.MAX_CONCURRENT_STREAMS, 2**32 - 1),
            (Setting.MAX_HEADER_LIST_SIZE, 0),
            (Setting.ENABLE_PUSH, 0),
            (Setting.NO_RFC7540_PRIORITIES, 1),
            (0xFFFF, 7),
        )
    )
    assert [(each.kind, each.flags) for each in raw.sent()] == [(SETTINGS, ACK)]
    assert raw.connection.peer_max_header_list == 0


@pytest.mark.parametrize("largest", [16384, 16385, 70000])
def test_no_frame_is_larger_than_the_peer_allows(largest: int) -> None:
    client = RawClient()
    client.feed(
        settings((Setting.MAX_FRAME_SIZE, largest), (Setting.INITIAL_WINDOW_SIZE, 1 << 20))
        + window_update(0, 1 << 20)
    )
    client.sent()
    client.feed(client.peer.headers(1, GET, end=True))
    client.exchanges[0].answer([(b"x", b"y" * 100_000)], b"z" * 200_000)
    data = client.transport
    client.loop.run()
    lengths = []
    wire = b"".join(data.writes)
    while wire:
        length = int.from_bytes(wire[:3], "big")
        lengths.append(length)
        wire = wire[9 + length :]
    assert max(lengths) <= largest
    frames = client.sent()
    assert frames[0].fields is not None
    assert dict(frames[0].fields)[b"x"] == b"y" * 100_000
    assert b"".join(each.payload for each in frames[1:]) == b"z" * 200_000


def test_a_client_keeps_to_the_streams_its_peer_allows() -> None:
    server = RawServer(greet=False)
    assert server.connection.peer_max_streams == 100
    server.feed(settings((Setting.MAX_CONCURRENT_STREAMS, 2)))
    first, second, third = (server.request() for _ in range(3))
    assert (first.accepted, second.accepted, third.accepted) == (True, True, False)
    assert not server.connection.accepts_requests
    server.feed(server.peer.headers(1, OK, end=True))
    assert server.connection.accepts_requests
    assert server.request().accepted
    assert [each.stream for each in server.sent() if each.kind == HEADERS] == [1, 3, 5]


def test_before_settings_a_client_opens_a_hundred_streams() -> None:
    server = RawServer(greet=False)
    assert [server.request().accepted for _ in range(101)] == [True] * 100 + [False]
    server.feed(settings())
    assert server.connection.accepts_requests
    assert server.connection.peer_max_streams == 2**32 - 1


@pytest.mark.parametrize("size", [0, 31, 4096, 65536])
def test_the_header_table_keeps_to_the_peers_size(size: int) -> None:
    """The decoder raises if the encoder exceeds what it was told."""
    server = RawServer()
    server.feed(settings((Setting.HEADER_TABLE_SIZE, size)))
    server._decoder.max_allowed_table_size = size
    for i in range(50):
        server.request([*GET, (b"x-%d" % (i % 7), b"value %d" % (i % 11))])
        heads = [each.fields for each in server.sent() if each.kind == HEADERS]
        assert heads == [(*GET, (b"x-%d" % (i % 7), b"value %d" % (i % 11)))]


def test_every_settings_frame_is_acknowledged_in_order() -> None:
    client = RawClient()
    client.feed(settings() * 3)
    assert [(each.kind, each.flags) for each in client.sent()] == [(SETTINGS, ACK)] * 3


def test_settings_are_in_force_once_they_are_acknowledged() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST) + settings((Setting.INITIAL_WINDOW_SIZE, 5)))
    client.sent()
    client.exchanges[0].answer(body=b"1234567890")
    sent = client.sent()
    assert [each.payload for each in sent if each.kind == DATA] == [b"12345"]
    assert [each.kind for each in sent if each.kind == GOAWAY] == []
