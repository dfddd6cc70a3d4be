"""Whoever comes to a listener that looks at how connections begin, and begins badly.

The edge runs in the tests' process, where its patience can be shortened and its insides counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from peers import in_process
from peers.bad_visitor import get, raw_visitor
from peers.origin import Origin
from peers.patience import PATIENCE, eventually_async, soon
from rig.hellos import hello_for, in_records

from underpass.edge import front_door, gateway
from underpass.edge.passthrough import Passthrough
from underpass.edge.trusted_hops import TrustedHops
from underpass.wire import turns

Scenario = Callable[[in_process.Tunnel, Origin], Awaitable[None]]
Run = Callable[..., None]

SECRET = "secret.example.test"
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a")

READING: dict[str, object] = {"passthrough": Passthrough((SECRET,))}
"""Has hellos looked at."""

TRUSTING: dict[str, object] = {**READING, "trusted_hops": TrustedHops(("127.0.0.1",))}
"""Has PROXY headers asked for, too."""


@pytest.fixture
def run(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    # A tick is a second otherwise; every timeout is as late as one.
    monkeypatch.setattr(turns, "TICK", 0.05)

    def run_scenario(
        scenario: Scenario, options: dict[str, object], good: bytes = b"", *, goes_on: bool = True
    ) -> None:
        async def main() -> None:
            with Origin() as origin:
                async with in_process.tunnel(data_dir, origin.url, more=options) as tunnel:
                    assert await is_served(tunnel, good)
                    await scenario(tunnel, origin)
                    assert not goes_on or await is_served(tunnel, good)

        in_process.run(main())

    return run_scenario


async def is_served(tunnel: in_process.Tunnel, header: bytes = b"") -> bool:
    """Whether somebody who begins well is."""
    async with raw_visitor(tunnel.edge.http.port) as visitor:
        await visitor.send(header + get(tunnel.hostname))
        if await visitor.status() != 200:
            return False
    if header:
        return True
    async with raw_visitor(tunnel.edge.https.port, tls=True, server_name=tunnel.hostname) as secure:
        await secure.send(get(tunnel.hostname))
        return await secure.status() == 200


HELLO = hello_for(SECRET, "h2")
MESSAGE = HELLO[5:]

BEGINNINGS = [
    pytest.param(os.urandom(20_000), id="noise"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="HTTP"),
    pytest.param(b"\x80\x2e\x01\x00\x02" + bytes(41), id="SSL 2"),
    pytest.param(b"\x16\x03\x01\x00\x00" * 5_000, id="empty records"),
    pytest.param(b"\x16\x03\x01\xff\xff" + bytes(70_000), id="a record of 64 kB"),
    pytest.param(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16_380), id="a message of 16 MB"),
    pytest.param(in_records(MESSAGE, [1] * len(MESSAGE)), id="a record for each byte"),
    pytest.param(in_records(MESSAGE + MESSAGE, []), id="two hellos"),
    pytest.param(HELLO.replace(SECRET.encode(), b"secret.example.tes\0"), id="a zero byte"),
    pytest.param(HELLO[:-1] + b"\xff", id="the last byte is another"),
    pytest.param(b"\x15\x03\x03\x00\x02\x02\x28", id="an alert"),
    pytest.param(HELLO[:300], id="half a hello"),
    pytest.param(b"\x16", id="a byte"),
    pytest.param(b"", id="nothing"),
]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_bad_beginning_hurts_nobody_else(
    run: Run, beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "HANDSHAKE_SECONDS", 0.5)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        files = in_process.open_files()
        for close_at_once in (False, True):
            async with raw_visitor(tunnel.edge.https.port) as visitor:
                with contextlib.suppress(ConnectionError):
                    await visitor.send(beginning)
                if close_at_once:
                    visitor.writer.close()
                else:
                    await visitor.rest()
        await eventually_async(lambda: in_process.open_files() <= files, "nothing stays open")
        assert tunnel.edge.gateway.counters.opened == 2, "those who begin well, and nobody else"

    run(scenario, READING)


def test_drips_are_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "HANDSHAKE_SECONDS", 0.3)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with raw_visitor(tunnel.edge.https.port) as visitor:
            ended = asyncio.create_task(visitor.rest())
            for byte in HELLO:
                with contextlib.suppress(ConnectionError):
                    await visitor.send(bytes([byte]))
                await asyncio.wait({ended}, timeout=0.02)
                if ended.done():
                    break
            assert await soon(ended) == b""

    run(scenario, READING)


def test_handshakes_are_counted_as_without_a_door(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "HANDSHAKE_SECONDS", 0.3)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        handshakes = tunnel.edge.gateway.handshakes
        for beginning in (b"", b"\x16\x03", HELLO[:300], b"nonsense", hello_for(None)):
            async with raw_visitor(tunnel.edge.https.port) as visitor:
                await visitor.send(beginning)
                await visitor.rest()
        await eventually_async(lambda: handshakes.failed == 5, "five have failed")
        for _ in range(3):
            assert await is_served(tunnel)
        async with raw_visitor(tunnel.edge.https.port) as visitor:
            # Not the edge's to count: whoever it is for may think well of it.
            await visitor.send(HELLO)
            await visitor.rest()
        await asyncio.sleep(0)
        await eventually_async(lambda: not handshakes.recent, "none is under way")
        assert handshakes.failed == 5

    run(scenario, READING)


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"PROXY TCP4 192.0.2.7", id="half a line"),
        pytest.param(b"PROXY TCP4 " + b"1" * 100_000, id="a line without end"),
        pytest.param(V2, id="half a header"),
        pytest.param(V2 + b"\x21\x11\xff\xff" + bytes(65_535), id="64 kB of it"),
        pytest.param(V2 + b"\x21\x11\x10\x00" + bytes(4_096), id="one byte too many"),
        pytest.param(V2 + b"\x21\x11\x0f\xf0" + bytes(4_000), id="a byte too few"),
        pytest.param(V2 + b"\x21\x11\x00\x04" + bytes(4), id="no room for an address"),
        pytest.param(V2 + b"\x21\x13\x00\x0c" + bytes(12), id="a protocol of its own"),
        pytest.param(V2 + b"\xff\xff\xff\xff" + bytes(70_000), id="ones"),
        pytest.param(os.urandom(10_000), id="noise"),
        pytest.param(HELLO, id="TLS"),
        pytest.param(get("a"), id="HTTP"),
    ],
)
def test_bad_headers_from_a_trusted_hop(
    run: Run, beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "HANDSHAKE_SECONDS", 0.5)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        files = in_process.open_files()
        for port in (tunnel.edge.http.port, tunnel.edge.https.port):
            async with raw_visitor(port) as visitor:
                with contextlib.suppress(ConnectionError):
                    await visitor.send(beginning)
                assert await visitor.rest() == b""
        await eventually_async(lambda: in_process.open_files() <= files, "nothing stays open")

    run(scenario, TRUSTING, b"PROXY UNKNOWN\r\n")


def test_the_end_waits_for_nobody_who_says_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "_MOMENT", 0.1)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with contextlib.AsyncExitStack() as stack:
            silent = [
                await stack.enter_async_context(raw_visitor(port))
                for port in (tunnel.edge.http.port, tunnel.edge.https.port) * 20
            ]
            await silent[1].send(HELLO[:50])
            # Patient for longer than the test is.
            await soon(tunnel.edge.gateway.stop(10 * PATIENCE))
            for visitor in silent:
                assert await visitor.rest() == b""

    run(scenario, TRUSTING, b"PROXY UNKNOWN\r\n", goes_on=False)
