"""The origin of what is more than a file: `python -m bench.peers.origin`.

    GET /1k            1 KiB
    POST anything      reads the content and answers "ok"
    GET /hold          an event at once, and no more of them
    GET /barrier/N     waits until N requests wait here, then answers all of them
    GET /echo          a WebSocket that sends back each message

Does no more than needed to find the end of each request, so that it is not what is measured:
understands Content-Length only, and messages of at most 125 bytes, which is what the loads send.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

BACKLOG = 4096
BARRIER_SECONDS = 90.0
"""Those that wait at a barrier get 503 after so long."""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
SMALL = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\n\r\n"
    + bytes(1024)
)
# Of a type that no proxy waits with until there is more.
HOLD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n"
)
LATE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
UNKNOWN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
KEY = re.compile(rb"\r\nsec-websocket-key: *([^\r]+)", re.IGNORECASE)
VIEW = memoryview(bytearray(1 << 18))


class Barrier:
    """Requests that are answered together."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._waiting: list[asyncio.Transport] = []
        self._timeout: asyncio.TimerHandle | None = None

    def add(self, transport: asyncio.Transport) -> None:
        self._waiting.append(transport)
        if self._timeout is None:
            loop = asyncio.get_running_loop()
            self._timeout = loop.call_later(BARRIER_SECONDS, self._open, LATE)
        if len(self._waiting) == self._wanted:
            self._open(ANSWER)

    def remove(self, transport: asyncio.Transport) -> None:
        if transport in self._waiting:
            self._waiting.remove(transport)

    def _open(self, answer: bytes) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
        self._timeout = None
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            transport.write(answer)


BARRIERS: dict[int, Barrier] = {}


class Connection(asyncio.BufferedProtocol):
    """One connection of a connector."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._messages: bytes | None = None
        self._barrier: Barrier | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._barrier is not None:
            self._barrier.remove(self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return VIEW

    def buffer_updated(self, nbytes: int) -> None:
        at = 0
        while at < nbytes:
            if self._messages is not None:
                self._echo(bytes(VIEW[at:nbytes]))
                return
            if self._left:
                part = min(self._left, nbytes - at)
                self._left -= part
                at += part
                if not self._left:
                    self._transport.write(ANSWER)
                continue
            self._head += bytes(VIEW[at:nbytes])
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._head[: end + 2]
            at = nbytes - (len(self._head) - end - 4)
            self._head = b""
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        method, path, _ = head.split(b" ", 2)
        if method == b"POST":
            length = LENGTH.search(head)
            self._left = int(length[1]) if length else 0
            if not self._left:
                self._transport.write(ANSWER)
        elif path == b"/1k":
            self._transport.write(SMALL)
        elif path == b"/hold":
            self._transport.write(HOLD)
        elif path.startswith(b"/barrier/"):
            wanted = int(path.rpartition(b"/")[2])
            self._barrier = BARRIERS.setdefault(wanted, Barrier(wanted))
            self._barrier.add(self._transport)
        elif path == b"/echo" and (key := KEY.search(head)):
            accept = base64.b64encode(hashlib.sha1(key[1] + WEBSOCKET_GUID).digest())
            self._messages = b""
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
        else:
            self._transport.write(UNKNOWN)

    def _echo(self, received: bytes) -> None:
        messages = (self._messages or b"") + received
        while len(messages) >= 6:
            length = messages[1] & 127
            if len(messages) < 6 + length:
                break
            mask = int.from_bytes((messages[2:6] * 32)[:length], "big")
            content = int.from_bytes(messages[6 : 6 + length], "big") ^ mask
            frame = bytes((messages[0], length)) + content.to_bytes(length, "big")
            self._transport.write(frame)
            messages = messages[6 + length :]
        self._messages = messages


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=BACKLOG)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve())
