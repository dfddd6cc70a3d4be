"""A request as an origin sees it, and the connection it came by."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from .origin import Origin

PIECE = 65536


@dataclass
class Request:
    """A request as it came in, and what of its content was read."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    connection: int
    """Counts the origin's connections from 1."""
    size: int = 0
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False
    gone: bool = False
    """The client went away before it was answered in full."""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    def query(self, name: str, default: str = "") -> str:
        return parse_qs(urlsplit(self.target).query).get(name, [default])[0]

    def header(self, name: str, default: str = "") -> str:
        values = self.all(name)
        return values[0] if values else default

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class GoneError(Exception):
    """The client has gone away."""


class Conversation:
    """One connection's reader and writer while a handler has them."""

    def __init__(
        self,
        origin: Origin,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head: bytes,
    ) -> None:
        self.origin = origin
        self.request = request
        self.reader = reader
        self.writer = writer
        self.head = head
        self.keep = "close" not in request.header("connection").lower()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def respond(
        self, status: int, body: bytes = b"", *headers: tuple[str, str], length: bool = True
    ) -> None:
        lines = [f"HTTP/1.1 {status} Fine", *(f"{name}: {value}" for name, value in headers)]
        if length:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    async def read_content(self, take: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Hand every piece of the request's content to `take`."""
        request = self.request

        async def deliver(piece: bytes) -> None:
            request.size += len(piece)
            result = take(piece)
            if result is not None:
                await result

        if "chunked" in request.header("transfer-encoding").lower():
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await self._read_exactly(size, deliver)
                await self.reader.readexactly(2)
            while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                name, _, value = line.decode("latin-1").strip().partition(":")
                request.trailers.append((name, value.strip()))
        else:
            await self._read_exactly(int(request.header("content-length", "0")), deliver)
        request.complete = True

    async def _read_exactly(self, size: int, deliver: Callable[[bytes], Awaitable[None]]) -> None:
        while size:
            piece = await self.reader.read(min(size, PIECE))
            if not piece:
                raise GoneError
            size -= len(piece)
            await deliver(piece)

    async def gone(self) -> None:
        """Return when the client has gone away."""
        while await self.reader.read(PIECE):
            pass
        self.request.gone = True

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
