"""A WebSocket on a stream of an HTTP/2 connection (RFC 8441), with the `h2` and `websockets`
libraries."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from websockets.frames import Frame, Opcode
from websockets.protocol import Event, Protocol, Side

from .http2_client import Http2Client, Stream, visitor_context


def asking(
    authority: bytes, path: bytes, *more: tuple[bytes, bytes], protocol: bytes = b"websocket"
) -> list[tuple[bytes, bytes]]:
    """A request head for another protocol."""
    return [
        (b":method", b"CONNECT"),
        (b":protocol", protocol),
        (b":scheme", b"https"),
        (b":authority", authority),
        (b":path", path),
        (b"sec-websocket-version", b"13"),
        *more,
    ]


class Socket:
    """One WebSocket, open."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.protocol = Protocol(Side.CLIENT, max_size=None)
        self._taken = 0
        self._frames: list[Event] = []

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.protocol.send_text(message.encode())
        else:
            self.protocol.send_binary(message)
        await self._flush()

    async def receive(self) -> str | bytes:
        """The next message."""
        frames = [await self._frame()]
        while not frames[-1].fin:
            frames.append(await self._frame())
        data = b"".join(bytes(frame.data) for frame in frames)
        return data.decode() if frames[0].opcode is Opcode.TEXT else data

    async def closed(self) -> tuple[int, str]:
        """Code and reason; the stream has ended in good order."""
        frame = await self._frame()
        assert frame.opcode is Opcode.CLOSE
        await self._flush()
        await self.stream.send(b"", end=True)
        await self.stream.finished()
        assert self.stream.reset is None
        assert self.protocol.close_rcvd is not None
        return self.protocol.close_rcvd.code, self.protocol.close_rcvd.reason

    async def _frame(self) -> Frame:
        while True:
            self._frames += self.protocol.events_received()
            if self._frames:
                frame = self._frames.pop(0)
                assert isinstance(frame, Frame)
                return frame
            self.protocol.receive_data(await self._more())

    async def _more(self) -> bytes:
        stream, taken = self.stream, self._taken
        await stream.until(lambda s: len(s.data) > taken or s.ended or s.reset is not None)
        assert len(stream.data) > taken, f"the stream has ended (reset {stream.reset})"
        self._taken = len(stream.data)
        return bytes(stream.data[taken:])

    async def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                await self.stream.send(data)


@contextlib.asynccontextmanager
async def http2_visitor(port: int, hostname: str) -> AsyncIterator[Http2Client]:
    """A connection to the edge's public listener."""
    visitor = await Http2Client.connect(
        "127.0.0.1", port, server_name=hostname, context=visitor_context()
    )
    try:
        yield visitor
    finally:
        await visitor.close()
