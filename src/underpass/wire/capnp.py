"""Cap'n Proto messages: stream framing and a bounds-checked reader.

Implements the encoding and the unpacked stream framing of the Cap'n Proto specification
(capnproto.org, "Encoding Spec") as far as the tunnel's schemas go: structs, Text, Data,
List(Text), List(struct), capabilities and far pointers. Docs: wire protocol §3.1.

Every byte read here comes from the network. Whatever is wrong with it, and wherever it is
noticed, :class:`MalformedMessage` is raised and nothing else. The writer is in
:mod:`underpass.wire.capnp_builder`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

WORD: Final = 8
"""Bytes in a word, the unit of every size and offset in the encoding."""

MAX_MESSAGE_BYTES: Final = 1 << 20
"""Largest message accepted, segment table included. A registration is below 1 KiB; what may
grow is a configuration in JSON, and 1 MiB holds several thousand ingress rules."""

MAX_SEGMENTS: Final = 512
"""Most segments in one message: the number cloudflared accepts. It always sends one."""

MAX_DEPTH: Final = 32
"""Most structs nested in each other. The tunnel's schemas nest fewer than ten."""

TRAVERSAL_FACTOR: Final = 4
"""How many words a reader may visit for every word received. A conforming message has one
pointer to each object and is read at most twice; pointers that share an object to make a small
message look endless run out of this."""

_STRUCT: Final = 0
_LIST: Final = 1
_FAR: Final = 2
_CAPABILITY: Final = 3
_LIST_OF_BYTES: Final = 2
_LIST_OF_POINTERS: Final = 6
_LIST_OF_STRUCTS: Final = 7

_u16 = struct.Struct("<H").unpack_from
_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from
_i32 = struct.Struct("<i").unpack_from
_i64 = struct.Struct("<q").unpack_from


class MalformedMessage(ValueError):  # noqa: N818  (a fact about bytes, named as one)
    """Received bytes are not a Cap'n Proto message, or one beyond the limits of this reader."""


class Message:
    """One received message; :meth:`root` is the way in.

    The segments are immutable and kept alive by every reader into them.
    """

    __slots__ = ("_budget", "segments")

    def __init__(self, segments: Sequence[bytes]) -> None:
        self.segments = segments
        self._budget = TRAVERSAL_FACTOR * sum(len(segment) for segment in segments) // WORD

    @classmethod
    def from_bytes(cls, framed: bytes) -> Message:
        """The one message that `framed` holds, segment table first."""
        reader = MessageReader(max_message_bytes=max(len(framed), WORD))
        messages = list(reader.feed(framed))
        if len(messages) != 1 or reader.buffered:
            raise MalformedMessage(f"{len(framed)} bytes are not exactly one message")
        return messages[0]

    def root(self) -> StructReader:
        """The root struct; an empty one if the root pointer is null."""
        if not self.segments or len(self.segments[0]) < WORD:
            raise MalformedMessage("the first segment has no room for a root pointer")
        return self.struct_at(0, 0, 0)

    def spend(self, words: int) -> None:
        """Count `words` against the traversal limit."""
        self._budget -= words
        if self._budget < 0:
            raise MalformedMessage("traversal limit exceeded: pointers share objects")

    def struct_at(self, segment_id: int, position: int, depth: int) -> StructReader:
        """Follow the struct pointer at word `position`; null gives an empty struct."""
        pointer, segment_id, target = self._resolve(segment_id, position)
        if pointer == 0:
            return StructReader(self, 0, 0, 0, 0, depth)
        if pointer & 3 != _STRUCT:
            raise MalformedMessage("expected a struct pointer")
        data_words = (pointer >> 32) & 0xFFFF
        pointer_count = pointer >> 48
        self._check_range(segment_id, target, data_words + pointer_count)
        self.spend(max(1, data_words + pointer_count))
        return StructReader(self, segment_id, target, data_words, pointer_count, depth)

    def bytes_at(self, segment_id: int, position: int) -> bytes | None:
        """The content of the byte list whose pointer is at word `position`; None for null."""
        pointer, segment_id, target = self._resolve(segment_id, position)
        if pointer == 0:
            return None
        if pointer & 3 != _LIST or (pointer >> 32) & 7 != _LIST_OF_BYTES:
            raise MalformedMessage("expected a list of bytes")
        size = pointer >> 35
        words = (size + WORD - 1) // WORD
        self._check_range(segment_id, target, words)
        self.spend(max(1, words))
        start = target * WORD
        return self.segments[segment_id][start : start + size]

    def text_at(self, segment_id: int, position: int) -> str:
        """The Text whose pointer is at word `position`; empty for null."""
        content = self.bytes_at(segment_id, position)
        if content is None:
            return ""
        if not content or content[-1] != 0:
            raise MalformedMessage("text does not end in NUL")
        try:
            return content[:-1].decode()
        except UnicodeDecodeError as error:
            raise MalformedMessage("text is not UTF-8") from error

    def pointer_list_at(self, segment_id: int, position: int) -> tuple[int, range]:
        """Segment and word positions of the pointers in a list of pointers; none for null."""
        pointer, segment_id, target = self._resolve(segment_id, position)
        if pointer == 0:
            return 0, range(0)
        if pointer & 3 != _LIST or (pointer >> 32) & 7 != _LIST_OF_POINTERS:
            raise MalformedMessage("expected a list of pointers")
        count = pointer >> 35
        self._check_range(segment_id, target, count)
        self.spend(max(1, count))
        return segment_id, range(target, target + count)

    def struct_list_at(self, segment_id: int, position: int, depth: int) -> list[StructReader]:
        """The elements of the list of structs whose pointer is at word `position`."""
        pointer, segment_id, target = self._resolve(segment_id, position)
        if pointer == 0:
            return []
        if pointer & 3 != _LIST or (pointer >> 32) & 7 != _LIST_OF_STRUCTS:
            raise MalformedMessage("expected a list of structs")
        words = pointer >> 35
        self._check_range(segment_id, target, words + 1)
        tag = _u64(self.segments[segment_id], target * WORD)[0]
        if tag & 3 != _STRUCT:
            raise MalformedMessage("the tag of a list of structs is not a struct")
        count = (tag >> 2) & 0x3FFFFFFF
        data_words = (tag >> 32) & 0xFFFF
        pointer_count = tag >> 48
        stride = data_words + pointer_count
        if count * stride > words:
            raise MalformedMessage("a list of structs overruns its size")
        # Structs of no size cost the sender nothing, so each is counted as a word.
        self.spend(1 + max(words, count))
        first = target + 1
        return [
            StructReader(self, segment_id, first + i * stride, data_words, pointer_count, depth)
            for i in range(count)
        ]

    def capability_at(self, segment_id: int, position: int) -> int | None:
        """The capability table index at word `position`; None for any other pointer."""
        pointer, _, _ = self._resolve(segment_id, position)
        if pointer & 3 != _CAPABILITY:
            return None
        if pointer & 0xFFFFFFFF != _CAPABILITY:
            raise MalformedMessage("a pointer of no known kind")
        return pointer >> 32

    def _check_range(self, segment_id: int, start: int, words: int) -> None:
        if segment_id >= len(self.segments):
            raise MalformedMessage(f"a pointer names segment {segment_id}, which does not exist")
        if start < 0 or (start + words) * WORD > len(self.segments[segment_id]):
            raise MalformedMessage("a pointer leads outside of its segment")

    def _resolve(self, segment_id: int, position: int) -> tuple[int, int, int]:
        """Pointer word, segment and first word of the object, with far pointers followed.

        The target is not bounds-checked here, since its size is still to be decoded. The
        caller guarantees that the pointer itself lies inside the segment.
        """
        pointer: int = _u64(self.segments[segment_id], position * WORD)[0]
        if pointer & 3 != _FAR:
            return pointer, segment_id, position + 1 + _offset(pointer)
        double = pointer & 4
        pad = (pointer >> 3) & 0x1FFFFFFF
        segment_id = pointer >> 32
        self._check_range(segment_id, pad, 2 if double else 1)
        landing: int = _u64(self.segments[segment_id], pad * WORD)[0]
        if not double:
            if landing & 3 == _FAR:
                raise MalformedMessage("a far pointer leads to another far pointer")
            return landing, segment_id, pad + 1 + _offset(landing)
        if landing & 7 != _FAR:
            raise MalformedMessage("the landing pad of a double-far pointer is not a far pointer")
        tag: int = _u64(self.segments[segment_id], (pad + 1) * WORD)[0]
        if tag & 3 not in (_STRUCT, _LIST):
            raise MalformedMessage("the tag of a double-far pointer is neither struct nor list")
        return tag, landing >> 32, (landing >> 3) & 0x1FFFFFFF


def _offset(pointer: int) -> int:
    """The signed 30-bit offset of a struct or list pointer."""
    offset = (pointer >> 2) & 0x3FFFFFFF
    return offset - 0x40000000 if offset & 0x20000000 else offset


class StructReader:
    """A struct inside a received message.

    Data offsets are in bytes (bits for :meth:`bit`), pointers are numbered from 0. As the
    encoding demands, what the sender's struct is too short to hold reads as zero, empty or null.
    Every method that follows a pointer raises :class:`MalformedMessage` if it leads nowhere good.
    """

    __slots__ = ("_data", "_data_end", "_depth", "_message", "_pointer_count", "_segment_id")

    def __init__(
        self,
        message: Message,
        segment_id: int,
        position: int,
        data_words: int,
        pointer_count: int,
        depth: int,
    ) -> None:
        if depth > MAX_DEPTH:
            raise MalformedMessage(f"structs are nested deeper than {MAX_DEPTH}")
        self._message = message
        self._segment_id = segment_id
        self._data = position * WORD
        self._data_end = (position + data_words) * WORD
        self._pointer_count = pointer_count
        self._depth = depth

    def _number(self, unpack: Callable[[bytes, int], Any], offset: int, size: int) -> int:
        position = self._data + offset
        if position + size > self._data_end:
            return 0
        value: int = unpack(self._message.segments[self._segment_id], position)[0]
        return value

    def bit(self, offset: int) -> bool:
        """The Bool at bit `offset`."""
        return bool(self.u8(offset >> 3) >> (offset & 7) & 1)

    def u8(self, offset: int) -> int:
        """The UInt8 at byte `offset`."""
        position = self._data + offset
        if position >= self._data_end:
            return 0
        return self._message.segments[self._segment_id][position]

    def u16(self, offset: int) -> int:
        """The UInt16 at byte `offset`; also enums and union tags."""
        return self._number(_u16, offset, 2)

    def u32(self, offset: int) -> int:
        """The UInt32 at byte `offset`."""
        return self._number(_u32, offset, 4)

    def u64(self, offset: int) -> int:
        """The UInt64 at byte `offset`."""
        return self._number(_u64, offset, 8)

    def i32(self, offset: int) -> int:
        """The Int32 at byte `offset`."""
        return self._number(_i32, offset, 4)

    def i64(self, offset: int) -> int:
        """The Int64 at byte `offset`."""
        return self._number(_i64, offset, 8)

    def struct(self, pointer: int) -> StructReader:
        """The struct behind pointer number `pointer`."""
        if pointer >= self._pointer_count:
            return StructReader(self._message, 0, 0, 0, 0, self._depth + 1)
        return self._message.struct_at(self._segment_id, self._position(pointer), self._depth + 1)

    def text(self, pointer: int) -> str:
        """The Text behind pointer number `pointer`."""
        if pointer >= self._pointer_count:
            return ""
        return self._message.text_at(self._segment_id, self._position(pointer))

    def data(self, pointer: int) -> bytes:
        """The Data behind pointer number `pointer`."""
        if pointer >= self._pointer_count:
            return b""
        return self._message.bytes_at(self._segment_id, self._position(pointer)) or b""

    def text_list(self, pointer: int) -> list[str]:
        """The List(Text) behind pointer number `pointer`."""
        if pointer >= self._pointer_count:
            return []
        message = self._message
        segment_id, words = message.pointer_list_at(self._segment_id, self._position(pointer))
        return [message.text_at(segment_id, word) for word in words]

    def struct_list(self, pointer: int) -> list[StructReader]:
        """The list of structs behind pointer number `pointer`."""
        if pointer >= self._pointer_count:
            return []
        return self._message.struct_list_at(
            self._segment_id, self._position(pointer), self._depth + 1
        )

    def capability(self, pointer: int) -> int | None:
        """The capability table index in pointer number `pointer`; None for any other pointer."""
        if pointer >= self._pointer_count:
            return None
        return self._message.capability_at(self._segment_id, self._position(pointer))

    def _position(self, pointer: int) -> int:
        return self._data_end // WORD + pointer


class MessageReader:
    """Cuts a byte stream into messages, wherever its chunks happen to end.

    Holds at most one incomplete message, so at most `max_message_bytes` plus what the owner
    feeds at once. A message announced as larger is refused as soon as its table is complete.
    After an error every further call raises it again: the stream has no next message boundary.
    """

    def __init__(self, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._needed = WORD
        self._failure: str | None = None

    def allow(self, max_message_bytes: int) -> None:
        """Take in messages of this size from now on: the peer has shown that it may send them."""
        self._max_message_bytes = max_message_bytes

    @property
    def buffered(self) -> int:
        """Bytes held of a message that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Message]:
        """Take in `data` at once; iterate over the messages that are complete.

        Messages not iterated over are kept for the next call. Raises
        :class:`MalformedMessage` while iterating.
        """
        if self._failure is None:
            self._buffer += data
        return self._complete_messages()

    def _complete_messages(self) -> Iterator[Message]:
        if self._failure is not None:
            raise MalformedMessage(self._failure)
        try:
            while (message := self._take()) is not None:
                yield message
        except MalformedMessage as error:
            self._failure = str(error)
            self._buffer.clear()
            raise

    def _take(self) -> Message | None:
        buffer = self._buffer
        if len(buffer) < self._needed:
            return None
        segment_count = _u32(buffer, 0)[0] + 1
        if segment_count > MAX_SEGMENTS:
            raise MalformedMessage(f"{segment_count} segments, at most {MAX_SEGMENTS} are allowed")
        table = (4 + 4 * segment_count + WORD - 1) // WORD * WORD
        if len(buffer) < table:
            self._needed = table
            return None
        sizes = [size * WORD for size in struct.unpack_from(f"<{segment_count}I", buffer, 4)]
        total = table + sum(sizes)
        if total > self._max_message_bytes:
            raise MalformedMessage(
                f"a message of {total} bytes, at most {self._max_message_bytes} are allowed"
            )
        if len(buffer) < total:
            self._needed = total
            return None
        segments = []
        position = table
        for size in sizes:
            segments.append(bytes(buffer[position : position + size]))
            position += size
        del buffer[:total]
        self._needed = WORD
        return Message(segments)
