"""An origin that reads whatever is uploaded and answers "ok": `python -m bench.sink PORT`.

Does no more than find the end of each request, so that it is not what is measured. Understands
Content-Length only, which is what the loads send.
"""

from __future__ import annotations

import asyncio
import re
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BUFFER = bytearray(1 << 18)
VIEW = memoryview(BUFFER)


class Sink(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return VIEW

    def buffer_updated(self, nbytes: int) -> None:
        at = 0
        while at < nbytes:
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
            length = LENGTH.search(self._head, 0, end + 2)
            self._left = int(length[1]) if length else 0
            at = nbytes - (len(self._head) - end - 4)
            self._head = b""
            if not self._left:
                self._transport.write(ANSWER)


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Sink, "127.0.0.1", port)
    print("sink is listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
