"""The local sides of streams: standard input and output, and accepted connections."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Final

from underpass.visitor.stream import MAX_MESSAGE

__all__ = ["AcceptedConnection", "StandardStreams"]

READ_AHEAD: Final = 8
"""Pieces of standard input that wait for the network."""


class StandardStreams:
    """Standard input and output, whatever they are: pipes, files, terminals, on every platform.

    A thread of its own reads, because no event loop reads files, nor Windows' pipes. Nobody waits
    for it at the end.
    """

    def __init__(self, source: int = 0, sink: int = 1) -> None:
        self._source = source
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = threading.Semaphore(READ_AHEAD)
        self._failure: OSError | None = None
        threading.Thread(target=self._read, name="standard-input", daemon=True).start()

    async def read(self) -> bytes:
        """See LocalEnd."""
        piece = await self._pieces.get()
        self._room.release()
        if not piece and self._failure is not None:
            raise self._failure
        return piece

    async def write(self, data: bytes) -> None:
        """See LocalEnd."""
        await self._loop.run_in_executor(None, self._write, data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._sink, view) :]

    def _read(self) -> None:
        piece = b"-"
        while piece:
            self._room.acquire()
            try:
                piece = os.read(self._source, MAX_MESSAGE)
            except OSError as error:
                self._failure, piece = error, b""
            try:
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
            except RuntimeError:
                # The loop has ended: the other side was first.
                return


class AcceptedConnection:
    """A connection to a local listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See LocalEnd."""
        return await self._reader.read(MAX_MESSAGE)

    async def write(self, data: bytes) -> None:
        """See LocalEnd."""
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """Write what is left, and close."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            # It is closed all the same, and whoever was there does not care any more.
            return
