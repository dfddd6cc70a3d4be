"""The other end of a connection, as a test plays it: what it reads, what it writes, how it goes."""

from __future__ import annotations

from typing import Any

from rig.transport import ManualLoop
from underpass.core.endpoint import Endpoint

__all__ = ["Peer", "connect"]


class Peer:
    """A transport, and who is behind it: `written` is what they could read, `feed` what they write.

    Lets go of its endpoint when the connection is gone, as an event loop does.
    """

    def __init__(self, loop: ManualLoop, *, tls: bool = False) -> None:
        self.loop = loop
        self.tls = tls
        self.endpoint: Endpoint | None = None
        self.written = b""
        self.writes = 0
        self.reading = True
        self.pauses = 0
        self.closed = False
        self.aborted = False
        self.lost = False
        self.said_end = False

    # What the endpoint calls.

    def write(self, data: bytes) -> None:
        assert not self.closed, "write after close"
        assert not self.said_end, "write after the end"
        assert data, "empty write"
        self.written += data
        self.writes += 1

    def write_eof(self) -> None:
        assert not self.closed, "end after close"
        assert not self.said_end, "ended twice"
        self.said_end = True

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        self._lose_soon(None)

    def abort(self) -> None:
        self.aborted = True
        if not self.closed:
            self.closed = True
            self._lose_soon(None)

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False
        self.pauses += 1

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return object() if name == "sslcontext" and self.tls else default

    def _lose_soon(self, reason: Exception | None) -> None:
        self.loop.call_soon(lambda: self.lose(reason))

    # What the test does with it.

    def feed(self, data: bytes) -> None:
        """The other end writes `data`: goes in by the buffered protocol, as on a real transport."""
        while data and self.endpoint is not None:
            buffer = self.endpoint.get_buffer(-1)
            size = min(len(data), len(buffer))
            buffer[:size] = data[:size]
            self.endpoint.buffer_updated(size)
            data = data[size:]

    def end(self) -> None:
        """The other end has written its last byte."""
        if self.endpoint is not None and not self.endpoint.eof_received() and not self.closed:
            self.close()

    def lose(self, reason: Exception | None = None) -> None:
        """The connection is gone."""
        self.closed = True
        if not self.lost:
            self.lost = True
            endpoint, self.endpoint = self.endpoint, None
            assert endpoint is not None
            endpoint.connection_lost(reason)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken, self.written = self.written, b""
        return taken


def connect(loop: ManualLoop, endpoint: Endpoint, *, tls: bool = False) -> Peer:
    """Give `endpoint` a transport."""
    transport = Peer(loop, tls=tls)
    transport.endpoint = endpoint
    endpoint.connection_made(transport)
    return transport
