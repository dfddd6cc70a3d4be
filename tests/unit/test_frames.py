"""FrameReader: cutting a byte stream into frames (RFC 9113 §4.1, §4.2, §6.1)."""

from __future__ import annotations

from array import array

import pytest
from rig.cuts import every_cut
from rig.http2 import DATA, END_STREAM, HEADERS, PADDED, PING, SETTINGS, Sender, frame, ping

from underpass.core.frames import ErrorCode, FrameReader, Setting

Event = tuple[object, ...]


def read(pieces: list[bytes], max_frame_size: int = 16384) -> list[Event]:
    """The events of `pieces`, with the parts of each DATA frame joined."""
    reader = FrameReader(max_frame_size)
    events: list[Event] = []
    for piece in pieces:
        for event in reader.feed(piece):
            if event[0] == "data" and events and events[-1][0] == "data" and not events[-1][3]:
                assert events[-1][1] == event[1]
                assert isinstance(events[-1][2], bytes)
                assert isinstance(event[2], bytes)
                events[-1] = ("data", event[1], events[-1][2] + event[2], event[3])
            else:
                events.append(event)
                if event[0] == "broken":
                    return events
    return events


CASES: list[tuple[bytes, list[Event]]] = [
    (ping(), [("frame", PING, 0, 0, b"abcdefgh")]),
    (frame(SETTINGS, 1, 0), [("frame", SETTINGS, 1, 0, b"")]),
    (frame(0xFE, 0xFF, 7, b"unknown"), [("frame", 0xFE, 0xFF, 7, b"unknown")]),
    (
        Sender.data(1, b"content", end=True),
        [("data_head", END_STREAM, 1, 7), ("data", 1, b"content", True)],
    ),
    (Sender.data(3, b""), [("data_head", 0, 3, 0), ("data", 3, b"", True)]),
    (
        Sender.data(3, b"abc", padding=4),
        [("data_head", PADDED, 3, 8), ("data", 3, b"abc", True)],
    ),
    (
        Sender.data(3, b"abc", padding=0),
        [("data_head", PADDED, 3, 4), ("data", 3, b"abc", True)],
    ),
    (
        Sender.data(3, b"", padding=255, end=True),
        [("data_head", PADDED | END_STREAM, 3, 256), ("data", 3, b"", True)],
    ),
    (
        Sender.data(1, b"a", padding=2) + ping() + Sender.data(5, b"b"),
        [
            ("data_head", PADDED, 1, 4),
            ("data", 1, b"a", True),
            ("frame", PING, 0, 0, b"abcdefgh"),
            ("data_head", 0, 5, 1),
            ("data", 5, b"b", True),
        ],
    ),
]


@pytest.mark.parametrize(("wire", "expected"), CASES)
def test_frames_are_the_same_however_they_are_cut(wire: bytes, expected: list[Event]) -> None:
    for pieces in every_cut(wire):
        assert read(pieces) == expected


def test_the_reserved_bit_of_the_stream_identifier_is_ignored() -> None:
    wire = frame(PING, 0, 0x80000000, b"abcdefgh") + frame(HEADERS, 4, 0x80000005, b"x")
    assert read([wire]) == [("frame", PING, 0, 0, b"abcdefgh"), ("frame", HEADERS, 4, 5, b"x")]


def test_data_is_handed_out_as_it_comes() -> None:
    reader = FrameReader()
    assert reader.feed(Sender.data(1, b"x" * 100)[:50]) == [
        ("data_head", 0, 1, 100),
        ("data", 1, b"x" * 41, False),
    ]
    assert reader.feed(b"x" * 58) == [("data", 1, b"x" * 58, False)]
    assert reader.feed(b"x") == [("data", 1, b"x", True)]


def test_content_is_complete_before_its_padding_has_come() -> None:
    wire = Sender.data(1, b"abc", padding=10, end=True)
    reader = FrameReader()
    events = reader.feed(wire[:-10])
    assert events[-1] == ("data", 1, b"abc", True)
    assert reader.feed(wire[-10:] + ping()) == [("frame", PING, 0, 0, b"abcdefgh")]


@pytest.mark.parametrize("max_frame_size", [16384, 16385, 65536, 16777215])
@pytest.mark.parametrize("kind", [DATA, HEADERS])
def test_a_frame_may_be_as_large_as_we_advertise(kind: int, max_frame_size: int) -> None:
    for size, fine in ((max_frame_size - 1, True), (max_frame_size, True)):
        events = read([frame(kind, 0, 1, bytes(size))], max_frame_size)
        assert (events[-1][0] != "broken") is fine
    if max_frame_size < 0xFFFFFF:
        header = frame(kind, 0, 1, bytes(max_frame_size + 1))[:9]
        assert read([header], max_frame_size) == [("broken", ErrorCode.FRAME_SIZE_ERROR)]


@pytest.mark.parametrize("size", [0, 16383, 16777216])
def test_a_largest_frame_outside_the_protocols_range_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"6\.5\.2"):
        FrameReader(size)


@pytest.mark.parametrize(("length", "padding", "fine"), [(5, 3, True), (5, 4, True), (5, 5, False)])
def test_padding_must_fit_its_frame(length: int, padding: int, fine: bool) -> None:
    wire = frame(DATA, PADDED, 1, bytes([padding]) + bytes(length - 1))
    for pieces in every_cut(wire):
        events = read(pieces)
        if fine:
            assert events[-1] == ("data", 1, bytes(length - 1 - padding), True)
        else:
            assert events == [("data_head", PADDED, 1, 5), ("broken", ErrorCode.PROTOCOL_ERROR)]


def test_a_padded_frame_needs_room_for_the_padding_length() -> None:
    for pieces in every_cut(frame(DATA, PADDED, 1)):
        assert read(pieces) == [("broken", ErrorCode.FRAME_SIZE_ERROR)]


def test_a_broken_stream_stays_broken() -> None:
    reader = FrameReader()
    assert reader.feed(frame(DATA, PADDED, 1)) == [("broken", ErrorCode.FRAME_SIZE_ERROR)]
    assert reader.feed(ping()) == [("broken", ErrorCode.FRAME_SIZE_ERROR)]
    assert reader.feed(b"") == [("broken", ErrorCode.FRAME_SIZE_ERROR)]


def test_any_contiguous_buffer_can_be_fed() -> None:
    for data in (bytearray(ping()), memoryview(ping()), array("B", ping())):
        assert FrameReader().feed(data) == [("frame", PING, 0, 0, b"abcdefgh")]
    with pytest.raises((ValueError, BufferError)):
        FrameReader().feed(memoryview(bytes(100))[::2])


def test_codes_and_settings_have_the_numbers_of_the_rfc() -> None:
    assert ErrorCode(0xB) is ErrorCode.ENHANCE_YOUR_CALM
    assert [int(code) for code in ErrorCode] == list(range(14))
    assert {setting.name: int(setting) for setting in Setting} == {
        "HEADER_TABLE_SIZE": 1,
        "ENABLE_PUSH": 2,
        "MAX_CONCURRENT_STREAMS": 3,
        "INITIAL_WINDOW_SIZE": 4,
        "MAX_FRAME_SIZE": 5,
        "MAX_HEADER_LIST_SIZE": 6,
        "ENABLE_CONNECT_PROTOCOL": 8,
        "NO_RFC7540_PRIORITIES": 9,
    }
