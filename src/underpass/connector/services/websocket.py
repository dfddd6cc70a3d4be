"""Either end of a WebSocket, bytes in and bytes out (RFC 6455 §5 to §7).

For services that answer in this process, and commands that ask. A WebSocket to an origin passes
through unread.
"""

from __future__ import annotations

import codecs
import enum
import os
from collections.abc import Callable, Iterator
from typing import ClassVar, Final

from msgspec import Struct

__all__ = [
    "MAX_MESSAGE",
    "CloseCode",
    "Message",
    "WebSocketClient",
    "WebSocketError",
    "WebSocketServer",
    "encode_close",
    "encode_frame",
]

MAX_MESSAGE: Final = 1024 * 1024
"""Bytes of one message, all its fragments together; what one peer can make us hold."""

MAX_CONTROL: Final = 125
"""Bytes of a control frame (RFC 6455 §5.5)."""

_FINAL: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_CONTROL: Final = 0x08


class Opcode(enum.IntEnum):
    """RFC 6455 §5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(enum.IntEnum):
    """RFC 6455 §7.4.1, as far as this end says them."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    INVALID_TEXT = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011


class WebSocketError(Exception):
    """The peer broke the protocol or a limit; `code` is what it is closed with."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Message(Struct, frozen=True):
    """A whole message. The data of a text is valid UTF-8."""

    is_text: bool
    data: bytes

    @property
    def opcode(self) -> Opcode:
        return Opcode.TEXT if self.is_text else Opcode.BINARY


def encode_frame(opcode: Opcode, payload: bytes, key: bytes = b"") -> bytes:
    """A whole message or control frame, final; masked if there is a `key`, as a client's are."""
    size = len(payload)
    masked = _MASKED if key else 0
    if size < 126:
        head = bytes((_FINAL | opcode, masked | size))
    elif size < 1 << 16:
        head = bytes((_FINAL | opcode, masked | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, masked | 127)) + size.to_bytes(8, "big")
    return head + key + (_masked(payload, key) if key else payload)


def encode_close(code: int, reason: str = "", key: bytes = b"") -> bytes:
    """A close frame; the reason is cut to what a control frame holds."""
    text = reason.encode("utf-8")[: MAX_CONTROL - 2].decode("utf-8", "ignore").encode("utf-8")
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big") + text, key)


class _WebSocket:
    """Reads what the peer sends; answers pings and closes by itself.

    Feed it with `feed`, which hands whole messages to `on_message` and everything that has to go
    out to `write`. Once `closed` is true, both directions are over: the caller ends the stream.
    """

    _is_client: ClassVar[bool]

    def __init__(
        self,
        write: Callable[[bytes], None],
        on_message: Callable[[Message], None],
        *,
        max_message: int = MAX_MESSAGE,
    ) -> None:
        self._write = write
        self._on_message = on_message
        self._max_message = max_message
        self._input = bytearray()
        self._kind: Opcode | None = None
        """Of the message whose fragments are coming in."""
        self._message = bytearray()
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._close_sent = False
        self.closed = False
        self.close_code: int | None = None
        """What the peer closed with; None when it has not, or gave no reason."""
        self.close_reason = ""

    def feed(self, data: bytes) -> None:
        """Take in bytes as they came. What comes after the end is ignored."""
        if self.closed:
            return
        self._input += data
        try:
            for opcode, final, payload in self._frames():
                self._take(opcode, final, payload)
                if self.closed:
                    break
        except WebSocketError as error:
            if not self._close_sent:
                self._write(encode_close(error.code, str(error), self._key()))
            self._end()

    def send(self, message: Message) -> None:
        """Send a whole message; nothing once a close frame has been sent."""
        if not self._close_sent:
            self._write(encode_frame(message.opcode, message.data, self._key()))

    def ping(self) -> None:
        """Ask the peer for a sign of life, so that nothing on the way takes the connection for an
        idle one. Nobody waits for the answer."""
        if not self._close_sent:
            self._write(encode_frame(Opcode.PING, b"", self._key()))

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame; the peer's own answer sets `closed`."""
        if not self._close_sent:
            self._close_sent = True
            self._write(encode_close(code, reason, self._key()))

    def _key(self) -> bytes:
        """What the next frame is masked with (§5.3); nothing at a server."""
        return os.urandom(4) if self._is_client else b""

    def _frames(self) -> Iterator[tuple[Opcode, bool, bytes]]:
        """The whole frames that have come, unmasked."""
        while (head := self._head()) is not None:
            opcode, final, start, size = head
            if len(self._input) < start + size:
                return
            payload = bytes(self._input[start : start + size])
            if not self._is_client:
                payload = _masked(payload, bytes(self._input[start - 4 : start]))
            del self._input[: start + size]
            yield opcode, final, payload

    def _head(self) -> tuple[Opcode, bool, int, int] | None:
        """Opcode, FIN, length of the head and of the payload; None until the head is whole."""
        data = self._input
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        if first & _RESERVED:
            raise _fault("a reserved bit is set, and no extension was agreed on")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise _fault(f"the opcode {first & 0x0F} is reserved") from None
        if bool(second & _MASKED) == self._is_client:
            raise _fault(
                "a server's frames must not be masked"
                if self._is_client
                else "a client's frames have to be masked"
            )
        final = bool(first & _FINAL)
        size = second & 0x7F
        if opcode & _CONTROL and (size > MAX_CONTROL or not final):
            raise _fault("a control frame is fragmented or too long")
        extra = {126: 2, 127: 8}.get(size, 0)
        start = 2 + extra + (0 if self._is_client else 4)
        if len(data) < start:
            return None
        if extra:
            size = int.from_bytes(data[2 : 2 + extra], "big")
            if size < 126 or (extra == 8 and (size < 1 << 16 or size >> 63)):
                raise _fault("a length is not written in its shortest form")
        if not opcode & _CONTROL and size > self._max_message - len(self._message):
            raise WebSocketError(
                CloseCode.TOO_BIG, f"a message has more than {self._max_message} bytes"
            )
        return opcode, final, start, size

    def _take(self, opcode: Opcode, final: bool, payload: bytes) -> None:
        if opcode == Opcode.CLOSE:
            self._take_close(payload)
        elif opcode == Opcode.PING:
            if not self._close_sent:
                self._write(encode_frame(Opcode.PONG, payload, self._key()))
        elif opcode != Opcode.PONG:
            self._take_fragment(opcode, final, payload)

    def _take_fragment(self, opcode: Opcode, final: bool, payload: bytes) -> None:
        if (opcode == Opcode.CONTINUATION) != (self._kind is not None):
            raise _fault("a fragment does not belong to the message that is coming in")
        if self._kind is None:
            self._kind = opcode
        if self._kind == Opcode.TEXT:
            try:
                self._text.decode(payload, final)
            except UnicodeDecodeError:
                raise WebSocketError(CloseCode.INVALID_TEXT, "a text is not UTF-8") from None
        self._message += payload
        if not final:
            return
        message = Message(self._kind == Opcode.TEXT, bytes(self._message))
        self._kind = None
        self._message = bytearray()
        if not self._close_sent:
            self._on_message(message)

    def _take_close(self, payload: bytes) -> None:
        if len(payload) == 1:
            raise _fault("a close frame has half a code")
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if not _may_be_sent(code):
                raise _fault(f"{code} is not a close code that can be sent")
            try:
                self.close_code, self.close_reason = code, payload[2:].decode("utf-8")
            except UnicodeDecodeError:
                raise WebSocketError(
                    CloseCode.INVALID_TEXT, "the reason of a close is not UTF-8"
                ) from None
        if not self._close_sent:
            self._write(encode_frame(Opcode.CLOSE, payload[:2], self._key()))
        self._end()

    def _end(self) -> None:
        self._close_sent = self.closed = True
        self._input = bytearray()
        self._message = bytearray()


class WebSocketServer(_WebSocket):
    """The end that was asked for a WebSocket."""

    _is_client = False


class WebSocketClient(_WebSocket):
    """The end that asked for it."""

    _is_client = True


def _fault(reason: str) -> WebSocketError:
    return WebSocketError(CloseCode.PROTOCOL_ERROR, reason)


def _may_be_sent(code: int) -> bool:
    """§7.4: 1005, 1006 and 1015 are never on the wire, 1004 is reserved."""
    return code in {1000, 1001, 1002, 1003, *range(1007, 1015)} or 3000 <= code <= 4999


def _masked(payload: bytes, key: bytes) -> bytes:
    """XOR with the key, all at once: a loop over bytes costs a hundred times as much."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
