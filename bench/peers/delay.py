"""A long way between two ends: `python -m bench.peers.delay HOST:PORT MILLISECONDS`.

Relays TCP connections, each byte so many milliseconds later than it came, in both directions, with
no limit to the bandwidth: a round trip takes twice as long. (The kernel's netem would do the same
to packets, but needs privileges and a module that is often not there.)
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import deque

READ_BYTES = 1 << 18
MAX_HELD = 512 << 20
"""Bytes on the way in one direction, ten seconds of 400 Mbit/s: more is not a long way but a leak,
and the connection is cut."""


class End(asyncio.BufferedProtocol):
    """One end of a relayed connection. What it reads goes to `other`, later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._buffer = bytearray(READ_BYTES)
        self._held: deque[tuple[float, bytes]] = deque()
        self._bytes_held = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._hold(bytes(memoryview(self._buffer)[:nbytes]))

    def eof_received(self) -> bool:
        self._hold(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or not self._held:
            self._end_other()

    def _hold(self, part: bytes) -> None:
        self._held.append((time.monotonic() + self._seconds, part))
        self._bytes_held += len(part)
        if self._bytes_held > MAX_HELD and self.transport is not None:
            self.transport.abort()
        if self._timer is None:
            self._wait(self._seconds)

    def _wait(self, seconds: float) -> None:
        # uvloop counts in whole milliseconds: rounded down, it would turn without pause.
        self._timer = self._loop.call_later(math.ceil(seconds * 1000) / 1000, self._pass_on)

    def _pass_on(self) -> None:
        self._timer = None
        other = self.other.transport if self.other is not None else None
        now = time.monotonic()
        due = []
        while self._held and self._held[0][0] <= now:
            due.append(self._held.popleft()[1])
        together = b"".join(due)
        self._bytes_held -= len(together)
        if other is not None and not other.is_closing():
            if together:
                other.write(together)
            if due and not due[-1]:
                self._end_other()
        if self._held:
            self._wait(self._held[0][0] - now)

    def _end_other(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Near(End):
    """The end that was connected to. Dials the far one."""

    def __init__(self, seconds: float, address: tuple[str, int]) -> None:
        super().__init__(seconds)
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._dialling = asyncio.ensure_future(self._dial())

    async def _dial(self) -> None:
        far = End(self._seconds)
        far.other = self
        await self._loop.create_connection(lambda: far, *self._address)
        self.other = far
        assert self.transport is not None
        self.transport.resume_reading()


async def main(address: str, milliseconds: float) -> None:
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Near(milliseconds / 1000, (host, int(port))), "127.0.0.1", 0
    )
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], float(sys.argv[2])))
