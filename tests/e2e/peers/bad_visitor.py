"""Visitors who send what they like and leave when they like: raw bytes over TCP or TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator

from .patience import soon


class RawVisitor:
    """A connection to a public listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def head(self) -> bytes:
        """The next response head."""
        return await soon(self.reader.readuntil(b"\r\n\r\n"))

    async def status(self) -> int:
        """The status of the next response."""
        return int((await self.head()).split(b" ", 2)[1])

    async def rest(self) -> bytes:
        """What comes until the edge closes; a reset is an end too."""
        received = bytearray()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await soon(self.reader.read(65536)):
                received += data
        return bytes(received)

    def vanish(self) -> None:
        """Leave with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def raw_visitor(
    port: int, *, tls: bool = False, alpn: str = "http/1.1", server_name: str = "localhost"
) -> AsyncIterator[RawVisitor]:
    """Connect to a listener on loopback."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=server_name if tls else None
    )
    try:
        yield RawVisitor(reader, writer)
    finally:
        writer.transport.abort()


def get(host: str, path: str = "/hello", *headers: str) -> bytes:
    """A request head for GET."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
