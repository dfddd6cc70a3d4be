"""Peers who take their time: the edge's patience is bounded, and its own to choose.

The edge runs in the tests' process, where its patience can be shortened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from peers import in_process
from peers.bad_visitor import get, raw_visitor
from peers.http2_client import Http2Client, visitor_context
from peers.origin import Origin
from peers.patience import eventually_async, soon

from underpass.edge import gateway, links, tunnels
from underpass.edge.timeouts import Timeouts
from underpass.wire import turns

Scenario = Callable[[in_process.Tunnel, Origin], Awaitable[None]]


@pytest.fixture
def run(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    # A tick is a second otherwise; every timeout is as late as one.
    monkeypatch.setattr(turns, "TICK", 0.05)

    def run_scenario(scenario: Scenario, **options: Timeouts) -> None:
        async def main() -> None:
            with Origin() as origin:
                async with in_process.tunnel(data_dir, origin.url, **options) as tunnel:
                    await scenario(tunnel, origin)
                    assert await status_of(tunnel, "/hello") == 200

        in_process.run(main())

    return run_scenario


Run = Callable[..., None]


async def status_of(tunnel: in_process.Tunnel, path: str) -> int:
    async with raw_visitor(tunnel.edge.http.port) as visitor:
        await visitor.send(get(tunnel.hostname, path))
        return await visitor.status()


def test_an_origin_that_never_answers_is_given_up(run: Run) -> None:
    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(get(tunnel.hostname, "/hang", "Accept: application/json"))
            said = await visitor.head()
            assert said.startswith(b"HTTP/1.1 504 ")
            assert b"underpass-cause: timeout_first_byte" in said.lower()
        # The origin is told too: nobody waits for it any more.
        request = origin.requests("/hang")[0]
        await eventually_async(lambda: request.gone, "the origin sees the end")
        assert tunnel.streams_on_links == 0

    run(scenario, timeouts=Timeouts(first_byte=0.2))


def test_others_on_the_link_go_on_meanwhile(run: Run) -> None:
    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        waiting = asyncio.create_task(status_of(tunnel, "/hang"))
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(get(tunnel.hostname, "/trickle?key=others"))
            await visitor.head()
            assert await soon(visitor.reader.readexactly(4)) == b"half"
            assert await soon(waiting) == 504
            # Only the beginning of an answer has a time limit.
            origin.open_gate("others")
            assert await soon(visitor.reader.readexactly(4)) == b"half"

    run(scenario, timeouts=Timeouts(first_byte=0.2))


def test_a_long_upload_is_not_cut(run: Run) -> None:
    """What counts is how long nothing has come."""

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        # The first is given up; the second lasts longer, and goes on.
        patient = asyncio.create_task(status_of(tunnel, "/hang"))
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(
                f"POST /sink HTTP/1.1\r\nHost: {tunnel.hostname}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n".encode()
            )
            pieces = 0
            while not patient.done() or pieces < 20:
                await visitor.send(b"1\r\nx\r\n")
                pieces += 1
                await asyncio.wait({patient}, timeout=0.02)
            assert await patient == 504
            await visitor.send(b"0\r\n\r\n")
            assert await visitor.status() == 200
            assert origin.requests("/sink")[0].size == pieces

    run(scenario, timeouts=Timeouts(first_byte=0.3))


@pytest.mark.parametrize("path", ["/trickle?key=never", "/events?key=never"])
def test_a_response_that_stands_still(run: Run, path: str) -> None:
    """It is broken off, so that nobody takes it for a whole one."""

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(get(tunnel.hostname, path))
            assert await visitor.status() == 200
            rest = await visitor.rest()
            assert not rest.endswith(b"0\r\n\r\n")
        assert tunnel.edge.gateway.counters.causes()["timeout_idle"] == 1
        await eventually_async(lambda: tunnel.streams_on_links == 0, "the link is told")

    run(scenario, timeouts=Timeouts(idle=0.2))


def test_a_response_that_stands_still_over_http2(run: Run) -> None:
    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        visitor = await Http2Client.connect(
            "127.0.0.1",
            tunnel.edge.https.port,
            server_name=tunnel.hostname,
            context=visitor_context(),
        )
        try:
            stream = await visitor.get(tunnel.hostname.encode(), b"/trickle?key=never")
            await stream.finished()
            assert (stream.status, bytes(stream.data)) == (200, b"half")
            assert stream.reset == ErrorCodes.INTERNAL_ERROR
        finally:
            await visitor.close()

    run(scenario, timeouts=Timeouts(idle=0.2))


def test_a_request_that_takes_too_long_in_all(run: Run) -> None:
    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(get(tunnel.hostname, "/hang", "Accept: application/json"))
            said = await visitor.head()
            assert said.startswith(b"HTTP/1.1 504 ")
            assert b"underpass-cause: timeout_total" in said.lower()
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(get(tunnel.hostname, "/flood"))
            assert await visitor.status() == 200
            assert not (await visitor.rest()).endswith(b"0\r\n\r\n")
        assert tunnel.edge.gateway.counters.causes() == {"timeout_total": 2}

    run(scenario, timeouts=Timeouts(total=0.3))


def test_a_websocket_takes_as_long_as_it_likes(run: Run) -> None:
    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(
                get(
                    tunnel.hostname,
                    "/ws",
                    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                )
            )
            assert await visitor.status() == 101
            assert await status_of(tunnel, "/hang") == 504
            await visitor.send(b"\x81\x85\x00\x00\x00\x00hello")
            assert await soon(visitor.reader.readexactly(7)) == b"\x81\x05hello"

    run(scenario, timeouts=Timeouts(total=0.3))


def test_a_head_that_does_not_come(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "HEAD_SECONDS", 0.2)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(b"GET / HTTP/1.1\r\nHost: ")
            assert (await visitor.rest()).startswith(b"HTTP/1.1 408 ")

    run(scenario)


def test_a_head_in_drips(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowloris: something comes now and then, but never the end."""
    monkeypatch.setattr(gateway, "HEAD_SECONDS", 0.2)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(b"GET / HTTP/1.1\r\n")
            ended = asyncio.create_task(visitor.rest())
            while not ended.done():
                await visitor.send(b"X-Drip: drop\r\n")
                await asyncio.wait({ended}, timeout=0.02)
            assert (await ended).startswith(b"HTTP/1.1 408 ")

    run(scenario)


def test_a_connection_that_is_not_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "IDLE_SECONDS", 0.2)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        for tls in (False, True):
            port = tunnel.edge.https.port if tls else tunnel.edge.http.port
            async with raw_visitor(port, tls=tls) as visitor:
                assert await visitor.rest() == b""
            async with raw_visitor(port, tls=tls) as visitor:
                await visitor.send(get(tunnel.hostname))
                assert await visitor.status() == 200
                await soon(visitor.reader.readexactly(6))
                assert await visitor.rest() == b""

    run(scenario)


def test_an_http2_connection_that_is_not_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "IDLE_SECONDS", 2)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        visitor = await Http2Client.connect(
            "127.0.0.1",
            tunnel.edge.https.port,
            server_name=tunnel.hostname,
            context=visitor_context(),
        )
        try:
            stream = await visitor.get(tunnel.hostname.encode(), b"/hello")
            await stream.finished()
            await visitor.ended()
            assert visitor.gone_away == 0
        finally:
            await visitor.close()

    run(scenario)


def test_a_websocket_may_be_silent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(gateway, "IDLE_SECONDS", 0.1)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        async with raw_visitor(tunnel.edge.http.port) as visitor:
            await visitor.send(
                get(
                    tunnel.hostname,
                    "/ws",
                    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                )
            )
            assert await visitor.status() == 101
            # Long enough for an idle connection to be closed twice over.
            async with raw_visitor(tunnel.edge.http.port) as idle:
                await idle.rest()
            async with raw_visitor(tunnel.edge.http.port) as idle:
                await idle.rest()
            await visitor.send(b"\x81\x85\x00\x00\x00\x00hello")
            assert await soon(visitor.reader.readexactly(7)) == b"\x81\x05hello"

    run(scenario, timeouts=Timeouts(first_byte=1.5))


def test_a_connection_that_never_registers_is_closed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "REGISTRATION_SECONDS", 0.2)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        port = tunnel.edge.tunnels[0].port
        async with raw_visitor(port, tls=True, server_name="h2.cftunnel.com") as visitor:
            await visitor.rest()
        await eventually_async(lambda: len(tunnel.edge.listeners.links) == 1, "only one is left")

    run(scenario)


def test_a_handshake_that_does_not_come(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "HANDSHAKE_SECONDS", 0.2)
    monkeypatch.setattr(tunnels, "HANDSHAKE_SECONDS", 0.2)

    async def scenario(tunnel: in_process.Tunnel, origin: Origin) -> None:
        for port in (tunnel.edge.https.port, tunnel.edge.tunnels[0].port):
            async with raw_visitor(port) as visitor:
                await visitor.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                await visitor.rest()

    run(scenario)
