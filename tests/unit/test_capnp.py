"""The Cap'n Proto codec: what it reads, what it writes, and what it refuses."""

from __future__ import annotations

import struct

import pytest

from underpass.wire import capnp
from underpass.wire.capnp import MalformedMessage, Message, MessageReader, StructReader
from underpass.wire.capnp_builder import MAX_BUILT_BYTES, MessageBuilder


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def struct_pointer(offset: int, data_words: int, pointers: int) -> int:
    return (offset & 0x3FFFFFFF) << 2 | data_words << 32 | pointers << 48


def list_pointer(offset: int, element: int, count: int) -> int:
    return 1 | (offset & 0x3FFFFFFF) << 2 | element << 32 | count << 35


def far_pointer(segment: int, position: int, *, double: bool = False) -> int:
    return 2 | double << 2 | position << 3 | segment << 32


def root_of(*segments: bytes) -> StructReader:
    return Message(segments).root()


def framed(*segments: bytes) -> bytes:
    table = struct.pack(
        f"<{1 + len(segments)}I", len(segments) - 1, *(len(segment) // 8 for segment in segments)
    )
    return table + bytes(-len(table) % 8) + b"".join(segments)


class TestFraming:
    def test_a_message_may_arrive_byte_by_byte(self):
        message = framed(words(struct_pointer(0, 1, 0), 0x1234))
        reader = MessageReader()
        received = [m for byte in message for m in reader.feed(bytes([byte]))]
        assert [m.root().u16(0) for m in received] == [0x1234]
        assert reader.buffered == 0

    def test_several_messages_may_arrive_at_once(self):
        stream = b"".join(framed(words(struct_pointer(0, 1, 0), i)) for i in range(5))
        reader = MessageReader()
        received = list(reader.feed(stream + b"\0\0\0"))
        assert [m.root().u64(0) for m in received] == [0, 1, 2, 3, 4]
        assert reader.buffered == 3

    def test_messages_not_iterated_over_are_kept(self):
        stream = b"".join(framed(words(struct_pointer(0, 1, 0), i)) for i in range(3))
        reader = MessageReader()
        assert next(reader.feed(stream)).root().u64(0) == 0
        assert [m.root().u64(0) for m in reader.feed(b"")] == [1, 2]

    def test_bytes_are_taken_in_even_if_nobody_iterates(self):
        reader = MessageReader()
        reader.feed(b"\0\0\0\0")
        assert reader.buffered == 4

    def test_the_segment_table_is_padded_to_a_word(self):
        one = words(far_pointer(1, 0))
        two = words(struct_pointer(0, 1, 0), 7)
        three = b""
        assert [m.root().u64(0) for m in MessageReader().feed(framed(one, two, three))] == [7]

    def test_the_most_segments_allowed_are_512(self):
        segments = [words(0)] * capnp.MAX_SEGMENTS
        (message,) = MessageReader().feed(framed(*segments))
        assert len(message.segments) == 512
        with pytest.raises(MalformedMessage, match="513 segments"):
            list(MessageReader().feed(struct.pack("<II", 512, 0)))

    def test_the_segment_count_may_not_overflow(self):
        with pytest.raises(MalformedMessage, match="segments"):
            list(MessageReader().feed(b"\xff" * 8))

    def test_a_message_larger_than_the_limit_is_refused_by_its_table(self):
        limit = capnp.MAX_MESSAGE_BYTES
        reader = MessageReader()
        assert list(reader.feed(struct.pack("<II", 0, limit // 8 - 1))) == []
        with pytest.raises(MalformedMessage, match=f"at most {limit}"):
            list(MessageReader().feed(struct.pack("<II", 0, limit // 8)))

    def test_segments_count_together_towards_the_limit(self):
        with pytest.raises(MalformedMessage, match="at most 64"):
            list(MessageReader(max_message_bytes=64).feed(struct.pack("<IIII", 1, 4, 4, 0)))

    def test_after_an_error_there_is_no_next_message(self):
        reader = MessageReader()
        with pytest.raises(MalformedMessage):
            list(reader.feed(b"\xff" * 8))
        with pytest.raises(MalformedMessage):
            list(reader.feed(framed(words(0))))
        assert reader.buffered == 0

    def test_exactly_one_message_is_expected_of_a_whole(self):
        message = framed(words(struct_pointer(0, 1, 0), 9))
        assert Message.from_bytes(message).root().u8(0) == 9
        for wrong in (b"", message[:-1], message + b"\0", message * 2):
            with pytest.raises(MalformedMessage):
                Message.from_bytes(wrong)


class TestReading:
    def test_numbers_are_little_endian_at_byte_offsets(self):
        root = root_of(words(struct_pointer(0, 2, 0), 0xFEDCBA9876543210, (1 << 64) - 5))
        assert root.u8(0) == 0x10
        assert root.u16(2) == 0x7654
        assert root.u32(4) == 0xFEDCBA98
        assert root.u64(0) == 0xFEDCBA9876543210
        assert root.i64(8) == -5
        assert root.i32(8) == -5

    def test_bits_are_counted_from_the_lowest(self):
        root = root_of(words(struct_pointer(0, 1, 0), 1 << 9))
        assert [root.bit(i) for i in (8, 9, 10)] == [False, True, False]

    def test_fields_beyond_a_shorter_struct_are_zero_empty_or_null(self):
        root = root_of(words(struct_pointer(0, 1, 0), (1 << 64) - 1))
        assert root.u64(4) == root.u32(8) == root.u16(8) == root.u8(8) == root.i64(8) == 0
        assert root.bit(64) is False
        assert root.text(0) == ""
        assert root.data(0) == b""
        assert root.text_list(0) == []
        assert root.struct_list(0) == []
        assert root.capability(0) is None
        assert root.struct(0).struct(3).u64(0) == 0

    def test_null_pointers_are_zero_empty_or_null(self):
        root = root_of(words(struct_pointer(0, 0, 1), 0))
        assert root.text(0) == ""
        assert root.data(0) == b""
        assert root.text_list(0) == []
        assert root.struct_list(0) == []
        assert root.capability(0) is None
        assert root.struct(0).u64(0) == 0

    def test_a_null_root_is_an_empty_struct(self):
        assert root_of(words(0)).text(5) == ""

    def test_a_far_pointer_leads_to_a_pointer_in_another_segment(self):
        root = root_of(words(far_pointer(1, 1)), words(0, struct_pointer(0, 1, 0), 42))
        assert root.u64(0) == 42

    def test_a_double_far_pointer_brings_its_own_tag(self):
        root = root_of(
            words(far_pointer(1, 0, double=True)),
            words(far_pointer(2, 1), struct_pointer(0, 1, 1)),
            words(0, 42, list_pointer(0, 2, 3), int.from_bytes(b"hi\0", "little")),
        )
        assert root.u64(0) == 42
        assert root.text(0) == "hi"

    def test_a_pointer_may_lead_backwards(self):
        root = root_of(words(struct_pointer(1, 0, 1), 7, struct_pointer(-2, 1, 0)))
        assert root.struct(0).u64(0) == 7

    def test_a_capability_pointer_holds_an_index(self):
        assert root_of(words(struct_pointer(0, 0, 1), 3 | 5 << 32)).capability(0) == 5

    def test_a_struct_of_no_size_points_before_itself(self):
        root = root_of(words(struct_pointer(0, 0, 1), struct_pointer(-1, 0, 0)))
        assert root.struct(0).u64(0) == 0


TOO_BIG = 1 << 28
REFUSED = {
    "no root pointer": (b"",),
    "root is a list": (words(list_pointer(0, 2, 0)),),
    "root is a capability": (words(3),),
    "struct past the end": (words(struct_pointer(0, 2, 0), 0),),
    "struct before the start": (words(struct_pointer(-3, 1, 0), 0),),
    "struct far outside": (words(struct_pointer(TOO_BIG, 1, 0), 0),),
    "far to no segment": (words(far_pointer(9, 0)),),
    "far past the end": (words(far_pointer(1, 1)), words(0)),
    "double far past the end": (words(far_pointer(1, 0, double=True)), words(0)),
    "far to far": (words(far_pointer(1, 0)), words(far_pointer(0, 0))),
    "far to itself": (words(far_pointer(0, 0)),),
    "double far to a struct": (
        words(far_pointer(1, 0, double=True)),
        words(struct_pointer(0, 1, 0), struct_pointer(0, 1, 0)),
    ),
    "double far to double far": (
        words(far_pointer(1, 0, double=True)),
        words(far_pointer(1, 0, double=True), struct_pointer(0, 1, 0)),
    ),
    "double far with a far tag": (
        words(far_pointer(1, 0, double=True)),
        words(far_pointer(1, 0), far_pointer(1, 0)),
    ),
    "double far to no segment": (
        words(far_pointer(1, 0, double=True)),
        words(far_pointer(7, 0), struct_pointer(0, 1, 0)),
    ),
}


@pytest.mark.parametrize("segments", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_root_pointer_is_refused(segments):
    with pytest.raises(MalformedMessage):
        root_of(*segments)


def with_pointer(pointer: int, *content: int) -> StructReader:
    return root_of(words(struct_pointer(0, 0, 1), pointer, *content))


class TestRefusals:
    @pytest.mark.parametrize("method", ["text", "data", "text_list", "struct_list"])
    def test_a_list_past_the_end(self, method):
        element = {"text": 2, "data": 2, "text_list": 6, "struct_list": 7}[method]
        for count in (17, (1 << 29) - 1):
            with pytest.raises(MalformedMessage):
                getattr(with_pointer(list_pointer(0, element, count), 0), method)(0)

    @pytest.mark.parametrize("method", ["text", "data", "text_list", "struct_list"])
    def test_a_pointer_of_another_kind(self, method):
        for pointer in (struct_pointer(-1, 0, 0), 3, list_pointer(0, 1, 0), list_pointer(0, 5, 0)):
            with pytest.raises(MalformedMessage):
                getattr(with_pointer(pointer, 0), method)(0)

    def test_a_capability_pointer_with_unknown_bits(self):
        with pytest.raises(MalformedMessage, match="no known kind"):
            with_pointer(7).capability(0)

    def test_text_without_its_nul(self):
        abc = int.from_bytes(b"abc", "little")
        assert with_pointer(list_pointer(0, 2, 4), abc).text(0) == "abc"
        for count in (0, 3):
            with pytest.raises(MalformedMessage, match="NUL"):
                with_pointer(list_pointer(0, 2, count), abc).text(0)

    def test_text_that_is_not_utf8(self):
        with pytest.raises(MalformedMessage, match="UTF-8"):
            with_pointer(list_pointer(0, 2, 2), 0xFF).text(0)

    def test_a_list_of_structs_with_a_bad_tag(self):
        for tag in (list_pointer(0, 2, 0), struct_pointer(2, 1, 0), struct_pointer(1, 1, 1)):
            with pytest.raises(MalformedMessage):
                with_pointer(list_pointer(0, 7, 1), tag, 0).struct_list(0)

    def test_a_list_of_structs_whose_tag_is_past_the_end(self):
        with pytest.raises(MalformedMessage):
            with_pointer(list_pointer(0, 7, 0)).struct_list(0)

    def test_structs_of_no_size_are_counted(self):
        with pytest.raises(MalformedMessage, match="traversal"):
            with_pointer(list_pointer(0, 7, 0), struct_pointer(0x1FFFFFFF, 0, 0)).struct_list(0)

    def test_a_list_read_again_and_again_exceeds_the_traversal_limit(self):
        shared = 6
        pointers = [list_pointer(shared - 1 - i, 2, 64) for i in range(shared)]
        root = root_of(words(struct_pointer(0, 0, shared), *pointers, *[0] * 8))
        spent_on_root = shared
        reads = (capnp.TRAVERSAL_FACTOR * (1 + shared + 8) - spent_on_root) // 8
        for i in range(reads):
            root.data(i % shared)
        with pytest.raises(MalformedMessage, match="traversal"):
            root.data(0)

    def test_structs_nested_too_deep(self):
        chain = [struct_pointer(0, 0, 1)] * (capnp.MAX_DEPTH + 2)
        node = root_of(words(*chain, 0))
        for _ in range(capnp.MAX_DEPTH):
            node = node.struct(0)
        with pytest.raises(MalformedMessage, match="nested"):
            node.struct(0)

    def test_a_struct_that_contains_itself(self):
        def descend(node: StructReader) -> None:
            descend(node.struct(0))

        with pytest.raises(MalformedMessage):
            descend(root_of(words(struct_pointer(0, 0, 1), struct_pointer(-1, 0, 1))))


class TestBuilding:
    def test_objects_follow_each_other_depth_first(self):
        builder = MessageBuilder()
        root = builder.init_root(1, 2)
        root.set_u16(2, 0xABCD)
        child = root.init_struct(0, 1, 1)
        child.set_text(0, "hi")
        root.set_data(1, b"data")
        assert builder.to_bytes() == struct.pack("<II", 0, 8) + words(
            struct_pointer(0, 1, 2),
            0xABCD0000,
            struct_pointer(1, 1, 1),
            list_pointer(3, 2, 4),
            0,
            list_pointer(0, 2, 3),
            int.from_bytes(b"hi\0", "little"),
            int.from_bytes(b"data", "little"),
        )

    def test_empty_text_and_data_are_null_pointers(self):
        builder = MessageBuilder()
        root = builder.init_root(0, 2)
        root.set_text(0, "")
        root.set_data(1, b"")
        assert builder.to_bytes() == struct.pack("<II", 0, 3) + words(struct_pointer(0, 0, 2), 0, 0)

    def test_what_is_written_is_read(self):
        builder = MessageBuilder()
        root = builder.init_root(3, 4)
        root.set_bit(3, True)
        root.set_bit(4, True)
        root.set_bit(4, False)
        root.set_u8(1, 255)
        root.set_i32(4, -7)
        root.set_u64(8, (1 << 64) - 1)
        root.set_i64(16, -(1 << 63))
        root.set_text_list(0, ["ä", "", "long " * 10])
        root.set_capability(1, 3)
        for i, element in enumerate(root.init_struct_list(2, 3, 1, 1)):
            element.set_u32(0, i)
            element.set_text(0, str(i))
        root.init_struct_list(3, 0, 1, 1)
        read = Message.from_bytes(builder.to_bytes()).root()
        assert [read.bit(i) for i in (2, 3, 4)] == [False, True, False]
        assert read.u8(1) == 255
        assert read.i32(4) == -7
        assert read.u64(8) == (1 << 64) - 1
        assert read.i64(16) == -(1 << 63)
        assert read.text_list(0) == ["ä", "", "long " * 10]
        assert read.capability(1) == 3
        assert [(e.u32(0), e.text(0)) for e in read.struct_list(2)] == [
            (0, "0"),
            (1, "1"),
            (2, "2"),
        ]
        assert read.struct_list(3) == []

    def test_no_message_is_built_that_cloudflared_would_not_read(self):
        root = MessageBuilder().init_root(0, 2)
        with pytest.raises(ValueError, match=str(MAX_BUILT_BYTES)):
            root.set_data(0, bytes(MAX_BUILT_BYTES))
