"""Origins that speak no HTTP, reached over a WebSocket as visitors' clients do."""

from __future__ import annotations

import asyncio
import os
import ssl

import pytest
from peers.patience import PATIENCE, soon
from peers.processes import EdgeProcess, QuickTunnelProcess, running
from peers.stream_echo import stream_echo
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


def visit(edge: EdgeProcess, hostname: str) -> connect:
    return connect(
        f"wss://{hostname}:{edge.https_port}/",
        host="127.0.0.1",
        port=edge.https_port,
        proxy=None,
        max_size=None,
        ssl=ssl.create_default_context(cafile=edge.ca),
        open_timeout=PATIENCE,
    )


@pytest.mark.parametrize("scheme", ["tcp", "ssh", "rdp"])
def test_bytes_both_ways(edge: EdgeProcess, scheme: str) -> None:
    content = os.urandom(3_000_001)

    async def scenario(hostname: str) -> None:
        async with visit(edge, hostname) as socket:
            await socket.send(b"ping")
            assert await soon(socket.recv()) == b"ping"
            await socket.send(content)
            received = bytearray()
            while len(received) < len(content):
                message = await soon(socket.recv())
                assert isinstance(message, bytes)
                received += message
            assert received == content

    with stream_echo() as port:
        connector = QuickTunnelProcess(edge, f"--url={scheme}://127.0.0.1:{port}")
        with running(connector):
            connector.ready()
            asyncio.run(scenario(connector.hostname))


def test_a_server_that_speaks_first(edge: EdgeProcess) -> None:
    """SSH does: its greeting must not be lost between connecting and joining."""

    async def scenario() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-test\r\n")
            await reader.readline()
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connector = await asyncio.to_thread(
            QuickTunnelProcess, edge, f"--url=ssh://127.0.0.1:{port}"
        )
        try:
            await asyncio.to_thread(connector.ready)
            for _ in range(20):
                async with visit(edge, connector.hostname) as socket:
                    assert await soon(socket.recv()) == b"SSH-2.0-test\r\n"
                    await socket.send(b"bye\n")
                    with pytest.raises(ConnectionClosed):
                        await soon(socket.recv())
        finally:
            await asyncio.to_thread(connector.stop)
            server.close()

    asyncio.run(scenario())


def test_nobody_listens(edge: EdgeProcess) -> None:
    async def scenario(hostname: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with visit(edge, hostname):
                raise AssertionError("there is nothing to connect to")
        assert refused.value.response.status_code == 502

    connector = QuickTunnelProcess(edge, "--url=tcp://127.0.0.1:1")
    with running(connector):
        connector.ready()
        asyncio.run(scenario(connector.hostname))
        line = connector.wait_for("Unable to reach the origin service", status=502)
        assert "127.0.0.1:1" in line["error"]
