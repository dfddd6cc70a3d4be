"""Messages between two processes of this program, over a stream socket.

A message is four bytes of length, most significant first, and that many bytes of MessagePack.
Either side may ask (`call`, answered once, cancelled by the asker) and tell (`tell`, never
answered). What can be asked and told is a union of tagged `msgspec.Struct`s, which the two sides
agree on in a module of their own.

Both ends are the same program, so a message that makes no sense is a fault, and closes the channel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
from msgspec import Struct

__all__ = [
    "MAX_CALLS",
    "MAX_MESSAGE",
    "CallFailedError",
    "Channel",
    "ChannelClosedError",
    "ChannelError",
    "Frames",
    "Talker",
    "frame",
]

MAX_MESSAGE: Final = 32 * 1048576
"""Bytes of one message: four times the largest configuration file, rules written out."""

MAX_CALLS: Final = 1024
"""Unanswered calls each way. A link has three at most, and a process 64 links."""

_LENGTH: Final = 4

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ChannelError(Exception):
    """A call could not be made, or was not answered."""


class ChannelClosedError(ChannelError):
    """The channel has closed: the other process has ended, or is about to."""


class CallFailedError(ChannelError):
    """The other side met an error that it did not expect; the text is its own."""


class _Call(Struct, array_like=True, frozen=True, tag="call"):
    number: int
    request: msgspec.Raw


class _Cancel(Struct, array_like=True, frozen=True, tag="cancel"):
    number: int


class _Answer(Struct, array_like=True, frozen=True, tag="answer"):
    number: int
    value: msgspec.Raw


class _Failure(Struct, array_like=True, frozen=True, tag="failure"):
    number: int
    message: str


class _Notice(Struct, array_like=True, frozen=True, tag="notice"):
    value: msgspec.Raw


_Envelope = _Call | _Cancel | _Answer | _Failure | _Notice

_decoder: Final[msgspec.msgpack.Decoder[_Envelope]] = msgspec.msgpack.Decoder(_Envelope)
_encode: Final = msgspec.msgpack.Encoder().encode


def frame(message: bytes) -> bytes:
    """`message` with its length. Raises ChannelError when it is larger than MAX_MESSAGE."""
    if len(message) > MAX_MESSAGE:
        raise ChannelError(f"a message of {len(message)} bytes is larger than {MAX_MESSAGE}")
    return len(message).to_bytes(_LENGTH, "big") + message


class Frames:
    """Takes messages out of a stream, however it was cut."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now. Raises ChannelError for one that is too large."""
        pending = self._pending
        pending += data
        start = 0
        while len(pending) - start >= _LENGTH:
            size = int.from_bytes(pending[start : start + _LENGTH], "big")
            if size > MAX_MESSAGE:
                raise ChannelError(f"a message of {size} bytes is larger than {MAX_MESSAGE}")
            end = start + _LENGTH + size
            if len(pending) < end:
                break
            message = bytes(pending[start + _LENGTH : end])
            start = end
            yield message
        del pending[:start]


class Talker(Protocol):
    """What one side does with what the other one says."""

    requests: Any
    """The union of what it can be asked; None for nothing."""
    notices: Any
    """The union of what it can be told; None for nothing."""

    async def answer(self, request: Any) -> Any:
        """Answer one request. Cancelled when nobody waits for it any more."""

    def notice(self, notice: Any) -> None:
        """Take in what was told."""

    def drained(self) -> None:
        """What was written has gone out, after there had been much of it."""

    def closed(self) -> None:
        """The channel has closed. Called once, after every call has failed."""


class Channel(asyncio.Protocol):
    """One end of a channel; the protocol of a stream transport."""

    def __init__(self, talker: Talker) -> None:
        self._talker = talker
        self._requests = msgspec.msgpack.Decoder(talker.requests)
        self._notices = msgspec.msgpack.Decoder(talker.notices)
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._is_closed = False
        self._closed = asyncio.Event()
        self._numbers = 0
        self._calls: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def unsent(self) -> int:
        """Bytes written that have not gone out."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    async def call(self, request: Struct, answer: type[T]) -> T:
        """Ask, and wait for an answer of that type.

        Raises ChannelClosedError, CallFailedError, or ChannelError when there are too many calls
        or the request is too large.
        """
        if self._is_closed:
            raise ChannelClosedError("the channel is closed")
        if len(self._calls) >= MAX_CALLS:
            raise ChannelError(f"{MAX_CALLS} calls are waiting for their answers")
        self._numbers += 1
        number = self._numbers
        self._send(_Call(number, msgspec.Raw(_encode(request))))
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            value = await future
        except asyncio.CancelledError:
            if not self._is_closed:
                self._send(_Cancel(number))
            raise
        finally:
            self._calls.pop(number, None)
        return msgspec.msgpack.decode(value, type=answer)

    def tell(self, notice: Struct) -> None:
        """Say something that needs no answer; into the void when the channel is closed."""
        if not self._is_closed:
            self._send(_Notice(msgspec.Raw(_encode(notice))))

    def close(self) -> None:
        """Close at once; what has not gone out is lost. Closing twice is harmless."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when it is closed, by either side."""
        await self._closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                self._receive(_decoder.decode(message))
        except (ChannelError, msgspec.MsgspecError) as error:
            _log.error("a channel between processes is broken", extra={"error": str(error)})
            self.close()

    def resume_writing(self) -> None:
        self._talker.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        self._closed.set()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ChannelClosedError("the channel has closed"))
        for task in tuple(self._answering.values()):
            task.cancel()
        self._talker.closed()

    def _send(self, envelope: _Envelope) -> None:
        self._write(frame(_encode(envelope)))

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _receive(self, message: _Envelope) -> None:
        if isinstance(message, _Notice):
            self._talker.notice(self._notices.decode(message.value))
        elif isinstance(message, _Call):
            if len(self._answering) >= MAX_CALLS:
                raise ChannelError(f"more than {MAX_CALLS} calls at a time")
            request = self._requests.decode(message.request)
            task = asyncio.ensure_future(self._answer(message.number, request))
            self._answering[message.number] = task
            # Not in `_answer`: a task cancelled before its first step never runs.
            task.add_done_callback(lambda _: self._answering.pop(message.number, None))
        elif isinstance(message, _Cancel):
            answering = self._answering.get(message.number)
            if answering is not None:
                answering.cancel()
        else:
            self._resolve(message)

    def _resolve(self, message: _Answer | _Failure) -> None:
        future = self._calls.get(message.number)
        if future is None or future.done():
            return  # nobody waits for it any more
        if isinstance(message, _Failure):
            future.set_exception(CallFailedError(message.message))
        else:
            future.set_result(message.value)

    async def _answer(self, number: int, request: Any) -> None:
        try:
            answer = await self._talker.answer(request)
            data = frame(_encode(_Answer(number, msgspec.Raw(_encode(answer)))))
        except Exception as error:  # noqa: BLE001 - whatever it was, the asker must not wait for ever
            _log.error("unexpected error while answering another process", exc_info=error)
            data = frame(_encode(_Failure(number, str(error) or type(error).__name__)))
        if not self._is_closed:
            self._write(data)
