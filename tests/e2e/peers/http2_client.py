"""An HTTP/2 client on the `h2` library: an independent peer for whatever here is a server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from .patience import soon

Headers = list[tuple[bytes, bytes]]

READ = 65536


class Stream:
    """One request and what has come of its response."""

    def __init__(self, client: Http2Client, stream_id: int) -> None:
        self.id = stream_id
        self.interim: list[Headers] = []
        self.headers: Headers = []
        self.trailers: Headers = []
        self.data = bytearray()
        self.ended = False
        self.reset: int | None = None
        """The error code, if the peer reset the stream."""
        self._client = client

    @property
    def status(self) -> int:
        return int(self.header(b":status") or b"0")

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    async def until(self, look: Callable[[Stream], object]) -> Stream:
        """Return when `look(stream)` is true; fails when the connection ends before."""
        await self._client.until(lambda: bool(look(self)), f"stream {self.id}")
        return self

    async def head(self) -> Stream:
        return await self.until(lambda s: s.headers or s.reset is not None)

    async def received(self, size: int) -> Stream:
        """So many bytes of content have come."""
        await self.until(lambda s: len(s.data) >= size or s.ended or s.reset is not None)
        assert len(self.data) >= size, (
            f"only {len(self.data)} of {size} bytes: status {self.status}, reset {self.reset}"
        )
        return self

    async def finished(self) -> Stream:
        """The response has ended, or was reset."""
        return await self.until(lambda s: s.ended or s.reset is not None)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send content as the windows allow."""
        await self._client.send(self, data, end=end)

    def cancel(self, code: int = ErrorCodes.CANCEL) -> None:
        self._client.connection.reset_stream(self.id, code)
        self._client.flush()


class Http2Client:
    """A client on a connected pair of streams. `close` it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                # What a test sends need not be correct.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.streams: dict[int, Stream] = {}
        self.gone_away: int | None = None
        """The error code of a GOAWAY."""
        self.closed = False
        self.writer = writer
        self._reader = reader
        self._changed = asyncio.Condition()
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(1 << 24)
        self.flush()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(
        cls, host: str, port: int, *, server_name: str, context: ssl.SSLContext
    ) -> Http2Client:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=server_name
        )
        return cls(reader, writer)

    async def request(self, headers: Sequence[tuple[bytes, bytes]], *, end: bool = True) -> Stream:
        stream = Stream(self, self.connection.get_next_available_stream_id())
        self.streams[stream.id] = stream
        self.connection.send_headers(stream.id, headers, end_stream=end)
        self.flush()
        await self.writer.drain()
        return stream

    async def get(self, authority: bytes, path: bytes, *more: tuple[bytes, bytes]) -> Stream:
        return await self.request(head(b"GET", authority, path, *more))

    async def send(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        rest = memoryview(data)
        while rest:
            await self.until(
                lambda: (
                    stream.reset is not None
                    or self.connection.local_flow_control_window(stream.id) > 0
                ),
                f"room on stream {stream.id}",
            )
            if stream.reset is not None:
                return
            size = min(
                len(rest),
                self.connection.local_flow_control_window(stream.id),
                self.connection.max_outbound_frame_size,
            )
            self.connection.send_data(stream.id, bytes(rest[:size]))
            rest = rest[size:]
            self.flush()
            await self.writer.drain()
        if end:
            self.connection.end_stream(stream.id)
            self.flush()

    async def until(self, look: Callable[[], bool], what: str) -> None:
        async with self._changed:
            await soon(self._changed.wait_for(lambda: look() or self.closed))
        assert look(), f"the connection ended before: {what} (GOAWAY {self.gone_away})"

    async def ended(self) -> None:
        """The peer has closed the connection."""
        async with self._changed:
            await soon(self._changed.wait_for(lambda: self.closed))

    def flush(self) -> None:
        if not self.writer.is_closing():
            self.writer.write(self.connection.data_to_send())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.writer.transport.abort()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(READ):
                events = self.connection.receive_data(data)
                for event in events:
                    self._take(event)
                self.flush()
                async with self._changed:
                    self._changed.notify_all()
        except (OSError, ProtocolError, ssl.SSLError):
            # As good as closed, for what a test can see.
            pass
        finally:
            self.closed = True
            async with self._changed:
                self._changed.notify_all()

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.gone_away = int(event.error_code or 0)
            return
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
        if stream is None:
            return
        if isinstance(event, InformationalResponseReceived):
            stream.interim.append(list(event.headers))
        elif isinstance(event, ResponseReceived):
            stream.headers = list(event.headers)
        elif isinstance(event, TrailersReceived):
            stream.trailers = list(event.headers)
        elif isinstance(event, DataReceived):
            stream.data += event.data
            if event.flow_controlled_length:
                self.connection.acknowledge_received_data(event.flow_controlled_length, stream.id)
        elif isinstance(event, StreamEnded):
            stream.ended = True
        elif isinstance(event, StreamReset):
            stream.reset = int(event.error_code or 0)


def head(
    method: bytes, authority: bytes, path: bytes, *more: tuple[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """A request head."""
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", authority),
        (b":path", path),
        *more,
    ]


def visitor_context() -> ssl.SSLContext:
    """TLS for a visitor who trusts anybody and speaks HTTP/2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
