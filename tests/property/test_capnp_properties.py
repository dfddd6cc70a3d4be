"""The Cap'n Proto codec against pycapnp, and against bytes that nobody meant."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underpass.wire.capnp import MalformedMessage, Message, MessageReader, StructReader
from underpass.wire.capnp_builder import MessageBuilder, StructBuilder

SCHEMA = Path(__file__).parent.parent / "vectors" / "codec.capnp"
SIZE = (3, 6)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
leaves = st.fixed_dictionaries(
    {
        "small": st.integers(0, 0xFF),
        "flag": st.booleans(),
        "otherFlag": st.booleans(),
        "port": st.integers(0, 0xFFFF),
        "version": st.integers(-(1 << 31), (1 << 31) - 1),
        "wide": st.integers(0, (1 << 64) - 1),
        "elapsed": st.integers(-(1 << 63), (1 << 63) - 1),
        "name": texts,
        "content": st.binary(max_size=40),
        "words": st.lists(texts, max_size=5),
        "child": st.none(),
        "children": st.just([]),
    }
)
samples = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda leaf, child, children: {**leaf, "child": child, "children": children},
        leaves,
        inner,
        st.lists(inner, max_size=3),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def schema():
    capnp = pytest.importorskip("capnp")
    capnp.remove_import_hook()
    return capnp.load(str(SCHEMA))


def write(builder: StructBuilder, sample: dict) -> None:
    builder.set_u8(0, sample["small"])
    builder.set_bit(8, sample["flag"])
    builder.set_bit(9, sample["otherFlag"])
    builder.set_u16(2, sample["port"])
    builder.set_i32(4, sample["version"])
    builder.set_u64(8, sample["wide"])
    builder.set_i64(16, sample["elapsed"])
    builder.set_text(0, sample["name"])
    builder.set_data(1, sample["content"])
    builder.set_text_list(2, sample["words"])
    if sample["child"] is not None:
        write(builder.init_struct(3, *SIZE), sample["child"])
    children = sample["children"]
    for element, child in zip(
        builder.init_struct_list(4, len(children), *SIZE), children, strict=True
    ):
        write(element, child)


def build(sample: dict) -> bytes:
    builder = MessageBuilder()
    write(builder.init_root(*SIZE), sample)
    return builder.to_bytes()


def read_as(reader: StructReader, sample: dict) -> dict:
    """`reader` as a sample. A null struct reads as an empty one: `sample` says which is null."""
    child = sample["child"]
    return {
        "small": reader.u8(0),
        "flag": reader.bit(8),
        "otherFlag": reader.bit(9),
        "port": reader.u16(2),
        "version": reader.i32(4),
        "wide": reader.u64(8),
        "elapsed": reader.i64(16),
        "name": reader.text(0),
        "content": reader.data(1),
        "words": reader.text_list(2),
        "child": None if child is None else read_as(reader.struct(3), child),
        "children": [
            read_as(element, expected)
            for element, expected in zip(reader.struct_list(4), sample["children"], strict=True)
        ],
    }


def foreign_fill(builder, sample: dict) -> None:
    for field, value in sample.items():
        if field == "child":
            if value is not None:
                foreign_fill(builder.init("child"), value)
        elif field == "children":
            for element, child in zip(builder.init(field, len(value)), value, strict=True):
                foreign_fill(element, child)
        elif field == "words":
            words = builder.init(field, len(value))
            for i, word in enumerate(value):
                words[i] = word
        else:
            setattr(builder, field, value)


def foreign_read(reader) -> dict:
    fields = ("small", "flag", "otherFlag", "port", "version", "wide", "elapsed", "name")
    return {
        **{field: getattr(reader, field) for field in fields},
        "content": bytes(reader.content),
        "words": list(reader.words),
        "child": foreign_read(reader.child) if reader._has("child") else None,
        "children": [foreign_read(child) for child in reader.children],
    }


def touch(reader: StructReader) -> None:
    """Read everything there is, in the ways a decoder would."""
    reader.u8(0)
    reader.u64(8)
    reader.i64(16)
    reader.capability(5)
    reader.text(0)
    reader.data(1)
    reader.text_list(2)
    child = reader.struct(3)
    if child.u64(8) or child.data(1):
        touch(child)
    for element in reader.struct_list(4):
        touch(element)


@given(samples)
def test_pycapnp_reads_what_we_build(schema, sample):
    with schema.Sample.from_bytes(build(sample)) as reader:
        assert foreign_read(reader) == sample


@given(samples, st.none() | st.integers(1, 64))
def test_we_read_what_pycapnp_builds_in_one_segment_or_many(schema, sample, first_segment_words):
    # A first segment too small for the message makes far pointers.
    builder = schema.Sample.new_message(num_first_segment_words=first_segment_words)
    foreign_fill(builder, sample)
    message = Message.from_bytes(builder.to_bytes())
    assert read_as(message.root(), sample) == sample


@given(samples)
def test_we_read_what_we_build(sample):
    assert read_as(Message.from_bytes(build(sample)).root(), sample) == sample


@given(st.lists(samples, max_size=4), st.lists(st.integers(0, 1000), max_size=8).map(sorted))
def test_chunks_may_end_anywhere(expected, ends):
    stream = b"".join(build(sample) for sample in expected)
    reader = MessageReader()
    received = []
    for start, end in zip([0, *ends], [*ends, None], strict=True):
        received += reader.feed(stream[start:end])
    assert [read_as(m.root(), s) for m, s in zip(received, expected, strict=True)] == expected
    assert reader.buffered == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_malformed(data):
    reader = MessageReader()
    try:
        for message in reader.feed(data):
            touch(message.root())
    except MalformedMessage:
        pass


@given(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=20), st.data())
def test_any_words_in_any_segments_are_messages_or_malformed(content, data):
    cut = data.draw(st.integers(1, len(content)))
    segments = [b"".join(content[:cut]), b"".join(content[cut:])]
    try:
        touch(Message(segments).root())
    except MalformedMessage:
        pass


@given(samples, st.data())
def test_a_damaged_message_is_another_message_or_malformed(sample, data):
    damaged = bytearray(build(sample))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        touch(Message.from_bytes(bytes(damaged)).root())
    except MalformedMessage:
        pass


pointers = st.one_of(
    st.builds(
        lambda kind, offset, low, high: kind | (offset & 0x3FFFFFFF) << 2 | low << 32 | high << 48,
        st.integers(0, 3),
        st.integers(-4, 12),
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    st.builds(
        lambda offset, element, count: 1 | (offset & 0x3FFFFFFF) << 2 | element << 32 | count << 35,
        st.integers(-4, 12),
        st.integers(0, 7),
        st.integers(0, 20),
    ),
    st.builds(
        lambda double, position, segment: 2 | double << 2 | position << 3 | segment << 32,
        st.integers(0, 1),
        st.integers(0, 12),
        st.integers(0, 3),
    ),
)


@given(st.lists(st.lists(pointers, max_size=12), min_size=1, max_size=3))
def test_any_tangle_of_pointers_is_a_message_or_malformed(segments):
    packed = [struct.pack(f"<{len(segment)}Q", *segment) for segment in segments]
    try:
        touch(Message(packed).root())
    except MalformedMessage:
        pass
