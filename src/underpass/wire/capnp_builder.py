"""Cap'n Proto messages: the writer.

Messages are built depth first into one segment, in the object order that cloudflared's encoder
happens to use, so that recorded messages are reproduced byte for byte. Docs: wire protocol §3.1;
the reader and the framing are in :mod:`underpass.wire.capnp`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from underpass.wire.capnp import WORD

MAX_BUILT_BYTES: Final = 64 << 20
"""Largest message built: the most that cloudflared reads."""

_LIST: Final = 1
_CAPABILITY: Final = 3
_LIST_OF_BYTES: Final = 2
_LIST_OF_POINTERS: Final = 6
_LIST_OF_STRUCTS: Final = 7

_u16 = struct.Struct("<H").pack_into
_u32 = struct.Struct("<I").pack_into
_u64 = struct.Struct("<Q").pack_into
_i32 = struct.Struct("<i").pack_into
_i64 = struct.Struct("<q").pack_into


class MessageBuilder:
    """A message under construction: :meth:`init_root` first, :meth:`to_bytes` last."""

    __slots__ = ("segment",)

    def __init__(self) -> None:
        self.segment = bytearray(WORD)

    def init_root(self, data_words: int, pointer_count: int) -> StructBuilder:
        """The root struct, of the given size."""
        return self.allocate_struct(0, data_words, pointer_count)

    def to_bytes(self) -> bytes:
        """The framed message: segment table, then the segment."""
        return struct.pack("<II", 0, len(self.segment) // WORD) + self.segment

    def allocate(self, words: int) -> int:
        """Append `words` zero words; returns the position of the first in words.

        Raises ValueError if the message would pass MAX_BUILT_BYTES.
        """
        position = len(self.segment) // WORD
        if (1 + position + words) * WORD > MAX_BUILT_BYTES:
            raise ValueError(
                f"message too large: no cloudflared reads more than {MAX_BUILT_BYTES} bytes"
            )
        self.segment += bytes(words * WORD)
        return position

    def allocate_struct(
        self, pointer_at: int, data_words: int, pointer_count: int
    ) -> StructBuilder:
        """A new struct at the end of the segment, pointed to from word `pointer_at`."""
        position = self.allocate(data_words + pointer_count)
        # A struct of no size would be indistinguishable from null at offset 0: it points to -1.
        offset = position - pointer_at - 1 if data_words + pointer_count else -1
        size = data_words << 32 | pointer_count << 48
        self.set_pointer(pointer_at, (offset & 0x3FFFFFFF) << 2 | size)
        return StructBuilder(self, position, data_words)

    def allocate_list(self, pointer_at: int, element: int, count: int, words: int) -> int:
        """Room for a list of `words` words; `element` is the code of the element size."""
        position = self.allocate(words)
        self.set_pointer(
            pointer_at, (position - pointer_at - 1) << 2 | _LIST | element << 32 | count << 35
        )
        return position

    def set_bytes(self, pointer_at: int, content: bytes) -> None:
        """A list of bytes, pointed to from word `pointer_at`."""
        words = (len(content) + WORD - 1) // WORD
        start = WORD * self.allocate_list(pointer_at, _LIST_OF_BYTES, len(content), words)
        self.segment[start : start + len(content)] = content

    def set_text(self, pointer_at: int, text: str) -> None:
        """A Text, pointed to from word `pointer_at`; the empty one is a null pointer."""
        if text:
            self.set_bytes(pointer_at, text.encode() + b"\0")

    def set_pointer(self, pointer_at: int, pointer: int) -> None:
        """Write the pointer word at word `pointer_at`."""
        _u64(self.segment, pointer_at * WORD, pointer)


class StructBuilder:
    """A struct inside a message under construction.

    Data offsets are in bytes (bits for :meth:`set_bit`), pointers are numbered from 0, both as in
    the schema. Set every pointer at most once: what it pointed to before stays in the message.
    """

    __slots__ = ("_builder", "_data", "_pointers")

    def __init__(self, builder: MessageBuilder, position: int, data_words: int) -> None:
        self._builder = builder
        self._data = position * WORD
        self._pointers = position + data_words

    def set_bit(self, offset: int, value: bool) -> None:
        """Set the Bool at bit `offset`."""
        mask = 1 << (offset & 7)
        position = self._data + (offset >> 3)
        if value:
            self._builder.segment[position] |= mask
        else:
            self._builder.segment[position] &= ~mask

    def set_u8(self, offset: int, value: int) -> None:
        """Set the UInt8 at byte `offset`."""
        self._builder.segment[self._data + offset] = value

    def set_u16(self, offset: int, value: int) -> None:
        """Set the UInt16 at byte `offset`; also enums and union tags."""
        _u16(self._builder.segment, self._data + offset, value)

    def set_u32(self, offset: int, value: int) -> None:
        """Set the UInt32 at byte `offset`."""
        _u32(self._builder.segment, self._data + offset, value)

    def set_u64(self, offset: int, value: int) -> None:
        """Set the UInt64 at byte `offset`."""
        _u64(self._builder.segment, self._data + offset, value)

    def set_i32(self, offset: int, value: int) -> None:
        """Set the Int32 at byte `offset`."""
        _i32(self._builder.segment, self._data + offset, value)

    def set_i64(self, offset: int, value: int) -> None:
        """Set the Int64 at byte `offset`."""
        _i64(self._builder.segment, self._data + offset, value)

    def set_text(self, pointer: int, text: str) -> None:
        """A Text behind pointer number `pointer`; the empty one is a null pointer."""
        self._builder.set_text(self._pointers + pointer, text)

    def set_data(self, pointer: int, data: bytes) -> None:
        """A Data behind pointer number `pointer`; the empty one is a null pointer."""
        if data:
            self._builder.set_bytes(self._pointers + pointer, data)

    def set_text_list(self, pointer: int, texts: Sequence[str]) -> None:
        """A List(Text) behind pointer number `pointer`."""
        builder = self._builder
        first = builder.allocate_list(
            self._pointers + pointer, _LIST_OF_POINTERS, len(texts), len(texts)
        )
        for position, text in enumerate(texts, first):
            builder.set_text(position, text)

    def set_capability(self, pointer: int, index: int) -> None:
        """A capability: the index of its descriptor in the payload's table."""
        self._builder.set_pointer(self._pointers + pointer, _CAPABILITY | index << 32)

    def init_struct(self, pointer: int, data_words: int, pointer_count: int) -> StructBuilder:
        """A new struct behind pointer number `pointer`."""
        return self._builder.allocate_struct(self._pointers + pointer, data_words, pointer_count)

    def init_struct_list(
        self, pointer: int, count: int, data_words: int, pointer_count: int
    ) -> list[StructBuilder]:
        """A new list of `count` structs behind pointer number `pointer`."""
        builder = self._builder
        stride = data_words + pointer_count
        words = count * stride
        # The pointer counts the words of the elements; the tag word in front comes on top.
        tag = builder.allocate_list(self._pointers + pointer, _LIST_OF_STRUCTS, words, words + 1)
        builder.set_pointer(tag, count << 2 | data_words << 32 | pointer_count << 48)
        return [StructBuilder(builder, tag + 1 + i * stride, data_words) for i in range(count)]
