"""One listener that is served in two ways, and changes between them while visitors come."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from underpass.edge.entrance import ORDINARY, Beginnings, Entrance
from underpass.edge.trusted_hops import TrustedHops
from underpass.ops import event_loop

PATIENCE = 20.0
TRUSTING = Beginnings(TrustedHops(("10.0.0.0/8",)))
BELIEVING = Beginnings(TrustedHops(("127.0.0.1",)))


class Greeter(asyncio.Protocol):
    """Says how the visitor came, and closes."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's are not registered as asyncio's
        stream.write((self._address or "by the loop").encode())
        stream.close()


Scenario = Callable[[Entrance, int], Awaitable[None]]


@pytest.fixture(params=["uvloop", "asyncio"])
def play(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setenv("UNDERPASS_LOOP", request.param)

    def play_scenario(scenario: Scenario, beginnings: Beginnings = ORDINARY) -> None:
        async def main() -> None:
            listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            listener.setblocking(False)
            port = listener.getsockname()[1]
            entrance = Entrance(
                listener,
                lambda address, _: Greeter(address),
                context=None,
                handshakes=None,
                seconds=PATIENCE,
                beginnings=beginnings,
            )
            await entrance.open()
            try:
                await scenario(entrance, port)
            finally:
                entrance.close()
                entrance.abort()
                await entrance.wait_closed()
            with pytest.raises(ConnectionRefusedError):
                await visit(port)

        event_loop.run(main())

    return play_scenario


async def visit(port: int, header: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(header)
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_without_a_reason_to_look_the_loop_serves(play: Callable[..., None]) -> None:
    async def scenario(entrance: Entrance, port: int) -> None:
        assert await visit(port) == b"by the loop"

    play(scenario)


def test_with_one_a_door_does(play: Callable[..., None]) -> None:
    async def scenario(entrance: Entrance, port: int) -> None:
        assert await visit(port) == b"127.0.0.1"

    play(scenario, TRUSTING)


def test_visitors_come_while_it_changes(play: Callable[..., None]) -> None:
    async def scenario(entrance: Entrance, port: int) -> None:
        seen: set[bytes] = set()
        for round_ in range(30):
            visits = [asyncio.create_task(visit(port)) for _ in range(10)]
            await entrance.change((TRUSTING, ORDINARY)[round_ % 2])
            seen.update(await asyncio.gather(*visits))
        assert seen <= {b"by the loop", b"127.0.0.1"}
        await entrance.change(ORDINARY)
        assert await visit(port) == b"by the loop"
        await entrance.change(TRUSTING)
        assert await visit(port) == b"127.0.0.1"

    play(scenario)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="files are counted in /proc")
def test_changes_leave_nothing_open(play: Callable[..., None]) -> None:
    async def scenario(entrance: Entrance, port: int) -> None:
        await entrance.change(TRUSTING)
        await entrance.change(ORDINARY)
        assert await visit(port) == b"by the loop"
        before = open_files()
        for _ in range(20):
            await entrance.change(TRUSTING)
            entrance.look()
            await entrance.change(ORDINARY)
            entrance.look()
        assert await visit(port) == b"by the loop"
        assert open_files() <= before

    play(scenario)


def test_who_waits_as_it_changes_is_treated_as_when_he_came(play: Callable[..., None]) -> None:
    async def scenario(entrance: Entrance, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not entrance.is_expecting:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        await entrance.change(ORDINARY)
        entrance.look()
        assert await visit(port) == b"by the loop"
        writer.write(b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n")
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b"192.0.2.7"
        writer.close()

    play(scenario, BELIEVING)


def test_nothing_changes_after_the_end(play: Callable[..., None]) -> None:
    async def scenario(entrance: Entrance, port: int) -> None:
        entrance.close()
        await entrance.change(TRUSTING)

    play(scenario)
