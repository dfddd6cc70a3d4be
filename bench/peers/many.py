"""Many visitors at once, in a process of their own, told what to do line by line.

    python -m bench.peers.many ADDRESS HOST PATH [--websocket]

`open N` opens connections until there are N, each with a request of its own, and answers `opened N`
when each has the head of a response; `together N` does so without waiting for one response before
the next request, for those that are answered together. `burst N` opens N connections as fast as it
can and answers `burst` and how many of the requests failed. `echo N` has up to ECHOING WebSockets
send a message and wait for it to come back, over and over until N have, and answers `echoed` and a
line of JSON. `close` closes all. What goes wrong is answered with `failed: ...`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

import uvloop

from bench.peers.figures import latencies

UNANSWERED = 128
"""Opened and not answered at once, so that no listener's backlog overflows."""
PACE_SECONDS = 0.025
"""Between UNANSWERED connections and the next, when there is no response to wait for."""
OPEN_SECONDS = 120.0
ECHOING = 64
MESSAGE = b"x" * 120
# The mask is zero: the content stays as it is, and a connector has to do the same work.
FRAME_OUT = bytes((0x82, 0x80 | len(MESSAGE))) + bytes(4) + MESSAGE
FRAME_IN = bytes((0x82, len(MESSAGE))) + MESSAGE


CAUSE = re.compile(rb"\r\nunderpass-cause: *([^\r]*)", re.IGNORECASE)


def brief(answer: bytes) -> str:
    """The status line, and why the edge says so, if it does."""
    cause = CAUSE.search(answer)
    line = answer.partition(b"\r\n")[0] + (b" (" + cause[1] + b")" if cause else b"")
    return line[:200].decode("ascii", "replace")


class Visitor(asyncio.Protocol):
    """One connection and its request."""

    def __init__(self, request: bytes, expected: bytes) -> None:
        self._request = request
        self._expected = expected
        self._received = b""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._echoes: Echoes | None = None
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        assert self.transport is not None
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.answered.done():
            if b"\r\n\r\n" not in self._received:
                return
            if self._received.startswith(self._expected):
                self._received = b""
                self.answered.set_result(None)
            else:
                self.answered.set_exception(RuntimeError(f"answered {brief(self._received)}"))
        elif self._echoes is not None and len(self._received) >= len(FRAME_IN):
            if self._received != FRAME_IN:
                self._echoes.fail(f"echoed {self._received[:300]!r}")
            self._received = b""
            if self._echoes.count(time.monotonic() - self._sent):
                self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"a connection was closed: {exc}"
        if not self.answered.done():
            self.answered.set_exception(RuntimeError(why))
        elif self._echoes is not None:
            self._echoes.fail(why)

    def echo(self, echoes: Echoes) -> None:
        self._echoes = echoes
        self._send()

    def stop(self) -> None:
        self._echoes = None

    def _send(self) -> None:
        assert self.transport is not None
        self._sent = time.monotonic()
        self.transport.write(FRAME_OUT)


class Echoes:
    """Messages of all visitors together."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self.times: list[float] = []
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count(self, seconds: float) -> bool:
        """One came back. Whether to send another."""
        self.times.append(seconds)
        if len(self.times) >= self._wanted and not self.complete.done():
            self.complete.set_result(None)
        return len(self.times) < self._wanted

    def fail(self, why: str) -> None:
        if not self.complete.done():
            self.complete.set_exception(RuntimeError(why))


class Crowd:
    """All visitors."""

    def __init__(self, address: str, request: bytes, expected: bytes) -> None:
        name, _, port = address.rpartition(":")
        self._address = name, int(port)
        self._request = request
        self._expected = expected
        self._visitors: list[Visitor] = []

    async def open(self, wanted: int) -> str:
        gate = asyncio.Semaphore(UNANSWERED)

        async def one() -> None:
            async with gate:
                await self._request_one()

        missing = wanted - len(self._visitors)
        return await self._opened(wanted, [asyncio.create_task(one()) for _ in range(missing)])

    async def open_together(self, wanted: int) -> str:
        tasks = []
        for number in range(wanted - len(self._visitors)):
            tasks.append(asyncio.create_task(self._request_one()))
            if number % UNANSWERED == UNANSWERED - 1:
                await asyncio.sleep(PACE_SECONDS)
        return await self._opened(wanted, tasks)

    async def burst(self, wanted: int) -> str:
        outcomes = asyncio.gather(
            *(self._request_one() for _ in range(wanted)), return_exceptions=True
        )
        failed = sum(outcome is not None for outcome in await outcomes)
        return f"burst {failed}"

    async def _request_one(self) -> None:
        _, visitor = await asyncio.get_running_loop().create_connection(
            lambda: Visitor(self._request, self._expected), *self._address
        )
        self._visitors.append(visitor)
        await visitor.answered

    async def _opened(self, wanted: int, tasks: list[asyncio.Task[None]]) -> str:
        if not tasks:
            return f"opened {wanted}"
        done, pending = await asyncio.wait(
            tasks, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        errors = [str(error) for task in done if (error := task.exception())]
        if errors or pending:
            why = errors[0] if errors else "no answer in time"
            return f"failed: {len(errors) + len(pending)} of {len(tasks)}: {why}"
        return f"opened {wanted}"

    async def echo(self, wanted: int) -> str:
        echoes = Echoes(wanted)
        begun = time.monotonic()
        for visitor in self._visitors[:ECHOING]:
            visitor.echo(echoes)
        try:
            await asyncio.wait_for(echoes.complete, OPEN_SECONDS)
        except (RuntimeError, asyncio.TimeoutError) as error:
            return f"failed: {error!r}"
        found = {
            "requests": len(echoes.times),
            "seconds": time.monotonic() - begun,
            **latencies(echoes.times),
        }
        for visitor in self._visitors:
            visitor.stop()
        return f"echoed {json.dumps(found)}"

    def close(self) -> None:
        for visitor in self._visitors:
            if visitor.transport is not None:
                visitor.transport.abort()
        self._visitors.clear()


async def main(address: str, host: str, path: str, *options: str) -> None:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "User-Agent: bench"]
    websocket = "--websocket" in options
    if websocket:
        lines += [
            "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]  # fmt: skip
    request = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
    crowd = Crowd(address, request, b"HTTP/1.1 101" if websocket else b"HTTP/1.1 200")
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, _, number = line.strip().partition(" ")
        if verb == "open":
            answer = await crowd.open(int(number))
        elif verb == "together":
            answer = await crowd.open_together(int(number))
        elif verb == "burst":
            answer = await crowd.burst(int(number))
        elif verb == "echo":
            answer = await crowd.echo(int(number))
        else:
            crowd.close()
            answer = "closed"
        print(answer, flush=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
