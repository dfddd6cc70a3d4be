"""`hello_world` through a tunnel: an edge, a connector and its test application on one loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from underpass.connector.ingress import single_rule
from underpass.connector.options import ConnectorOptions
from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import HelloWorld
from underpass.connector.runner import serve_connector
from underpass.connector.services import hello_world
from underpass.connector.services.websocket import MAX_MESSAGE
from underpass.edge.options import EdgeOptions
from underpass.edge.server import Edge

PATIENCE = 30.0


class Tunnel:
    """The public side of a running tunnel."""

    def __init__(self, edge: Edge, hostname: str) -> None:
        self.edge = edge
        self.hostname = hostname

    async def open(self, path: str, *fields: str, method: str = "GET") -> asyncio.StreamReader:
        """Send a request on a connection of its own; the reader is at the status line."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.edge.http.port)
        self.writer = writer  # of the newest request
        head = [f"{method} {path} HTTP/1.1", f"Host: {self.hostname}", *fields, "", ""]
        writer.write("\r\n".join(head).encode())
        return reader

    async def get(self, path: str, *fields: str, method: str = "GET") -> tuple[int, str, str]:
        """Status, head and content."""
        reader = await self.open(path, *fields, "Connection: close", method=method)
        head, _, content = (await reader.read()).decode().partition("\r\n\r\n")
        self.writer.close()
        return int(head.split()[1]), head.lower(), content

    def websocket(self, path: str = "/ws", **options: Any) -> connect:
        sock = socket.create_connection(("127.0.0.1", self.edge.http.port), PATIENCE)
        return connect(
            f"ws://{self.hostname}{path}",
            sock=sock,
            compression=None,
            open_timeout=PATIENCE,
            **options,
        )


@contextlib.asynccontextmanager
async def tunnel(directory: Path) -> AsyncIterator[Tunnel]:
    anywhere = "127.0.0.1:0"
    edge = Edge(
        EdgeOptions.parse(
            data_dir=directory, https=anywhere, http=anywhere, tunnels=(anywhere,), api=anywhere
        )
    )
    await edge.start()
    try:
        quick = await edge.registry.create_quick_tunnel("localhost")
        ready = asyncio.Event()
        options = ConnectorOptions(
            single_rule(HelloWorld(), OriginRequest()),
            credentials=quick.credentials,
            edges=tuple((address.host, address.port) for address in edge.tunnels),
            cacert=edge.ca_certificate,
            ha_connections=1,
            grace_period=0,
            connector_id=uuid.uuid4(),
        )
        connector = asyncio.create_task(serve_connector(options, ready=ready.set))
        try:
            await asyncio.wait_for(ready.wait(), PATIENCE)
            yield Tunnel(edge, quick.hostname)
        finally:
            connector.cancel()
            await asyncio.gather(connector, return_exceptions=True)
    finally:
        await edge.stop()


Run = Callable[[Callable[[Tunnel], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a scenario with a tunnel."""

    def run_scenario(scenario: Callable[[Tunnel], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with tunnel(tmp_path / "edge") as shared:
                await asyncio.wait_for(scenario(shared), 2 * PATIENCE)

        asyncio.run(main())

    return run_scenario


def test_the_small_answers(run: Run) -> None:
    async def scenario(tunnel: Tunnel) -> None:
        assert (await tunnel.get("/_health"))[::2] == (200, "ok")
        status, head, content = await tunnel.get("/uptime")
        assert status == 200
        assert "content-type: application/json" in head
        assert set(json.loads(content)) == {"startTime", "uptime"}
        assert (await tunnel.get("/ws"))[0] == 426
        status, _, content = await tunnel.get("/_health", method="HEAD")
        assert (status, content) == (200, "")
        assert (await tunnel.get("/sse", method="HEAD"))[0] == 200

    run(scenario)


def test_the_page_shows_the_request_and_runs_nothing_of_it(run: Run) -> None:
    async def scenario(tunnel: Tunnel) -> None:
        status, head, page = await tunnel.get(
            "/any?q=<script>", "X-Test: <b>bold</b>", "Cookie: session=secret"
        )
        assert status == 200
        assert "content-security-policy: default-src 'none'" in head
        assert "GET /any?q=&lt;script&gt;" in page
        assert "&lt;b&gt;bold&lt;/b&gt;" in page
        assert "<script" not in page
        assert "secret" not in page
        assert tunnel.hostname in page
        assert "cf-cloudflared-" not in page

    run(scenario)


def test_events_count(run: Run) -> None:
    async def scenario(tunnel: Tunnel) -> None:
        reader = await tunnel.open("/sse?freq=10ms")
        text = await reader.readuntil(b"data: 3\n")
        assert b"content-type: text/event-stream" in text.lower()
        assert [line for line in text.split(b"\n") if line.startswith(b"data")] == [
            b"data: 0",
            b"data: 1",
            b"data: 2",
            b"data: 3",
        ]
        tunnel.writer.close()

    run(scenario)


@pytest.mark.parametrize("freq", ["soon", "1ms", "2h", "-1s"])
def test_events_come_at_a_sensible_pace_only(run: Run, freq: str) -> None:
    async def scenario(tunnel: Tunnel) -> None:
        status, _, content = await tunnel.get(f"/sse?freq={freq}")
        assert status == 400
        assert content.startswith("freq: ")

    run(scenario)


def test_the_websocket_says_everything_back(run: Run) -> None:
    async def scenario(tunnel: Tunnel) -> None:
        async with tunnel.websocket(max_size=None) as websocket:
            for message in ("hello", b"\0\1\2", "größer", b"x" * MAX_MESSAGE):
                await websocket.send(message)
                assert await websocket.recv() == message
            await (await websocket.ping())
        assert websocket.close_code == 1000

    run(scenario)


def test_a_message_beyond_the_limit_closes_the_websocket(run: Run) -> None:
    async def scenario(tunnel: Tunnel) -> None:
        async with tunnel.websocket() as websocket:
            await websocket.send(b"x" * (MAX_MESSAGE + 1))
            with pytest.raises(ConnectionClosedError):
                await websocket.recv()
            assert websocket.close_code == 1009

    run(scenario)


def test_the_websocket_is_at_one_path(run: Run) -> None:
    async def scenario(tunnel: Tunnel) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await tunnel.websocket("/elsewhere")
        assert refused.value.response.status_code == 404

    run(scenario)


def test_a_visitor_who_does_not_listen_is_not_listened_to(run: Run) -> None:
    async def scenario(tunnel: Tunnel) -> None:
        reader = await tunnel.open(
            "/ws",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        # Unmasking with zeros changes nothing: one binary message of 64 KiB.
        message = b"\x82\xff" + (65536).to_bytes(8, "big") + bytes(4) + bytes(65536)
        writer = tunnel.writer
        sent = 0

        async def send_for_ever() -> None:
            nonlocal sent
            while True:
                writer.write(message)
                await writer.drain()
                sent += len(message)

        sending = asyncio.create_task(send_for_ever())
        # The reader takes nothing beyond its own small buffer, so sending comes to a stand; what
        # flows in a turn of the loop has been seen to end when a whole second request has passed.
        before = -1
        while sent != before:
            before = sent
            for _ in range(20):
                assert (await tunnel.get("/_health"))[0] == 200
            assert sent < 64 * 1024 * 1024
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()

    run(scenario)


def test_sessions_are_counted_and_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hello_world, "MAX_SESSIONS", 2)

    async def scenario(tunnel: Tunnel) -> None:
        async with tunnel.websocket() as first, tunnel.websocket():
            assert (await tunnel.get("/sse"))[0] == 503
            await first.close()
            await answered(tunnel)

    async def answered(tunnel: Tunnel) -> None:
        """The place is free once the close has come through the tunnel."""
        while True:
            reader = await tunnel.open("/sse?freq=10ms")
            status = int((await reader.readline()).split()[1])
            tunnel.writer.close()
            if status == 200:
                return

    run(scenario)


def test_a_client_that_vanishes_frees_its_place(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hello_world, "MAX_SESSIONS", 1)

    async def scenario(tunnel: Tunnel) -> None:
        for _ in range(5):
            while (websocket := await opened(tunnel)) is None:
                pass
            websocket.transport.abort()

    async def opened(tunnel: Tunnel) -> ClientConnection | None:
        try:
            return await tunnel.websocket()
        except InvalidStatus as refused:
            if refused.response.status_code != 503:
                raise
            return None

    run(scenario)
