"""Raw streams into a private network, asked for by an edge of another make."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from peers.edge_stand_in import EdgeStandIn, Link
from peers.patience import eventually_async, soon
from peers.processes import ConnectorProcess, running
from peers.stream_echo import stream_echo

from underpass.wire.credentials import Credentials

ORIGIN_META = (b"cf-cloudflared-response-meta", b'{"src":"origin"}')
CONNECTOR_META = (b"cf-cloudflared-response-meta", b'{"src":"cloudflared"}')


@dataclass(frozen=True)
class Joined:
    link: Link
    connector: ConnectorProcess


@contextlib.asynccontextmanager
async def joined(directory: Path, *arguments: str) -> AsyncIterator[Joined]:
    """A connector registered at a stand-in edge."""
    stand_in = EdgeStandIn(directory)
    async with stand_in.listening():
        token = Credentials("account", bytes(32), _ID).to_token()
        connector = ConnectorProcess(
            [*stand_in.arguments, *arguments, "--grace-period=0s", "run", f"--token={token}"]
        )
        stack = contextlib.ExitStack()
        stack.enter_context(running(connector))
        try:
            link = await stand_in.registered_link()
            yield Joined(link, connector)
        finally:
            # Stopping waits for the process, which may wait for this loop.
            await asyncio.to_thread(stack.close)


_ID = UUID("00000000-0000-4000-8000-000000000001")


@pytest.fixture
def echo() -> Iterator[bytes]:
    """An address that echoes, as an authority."""
    with stream_echo() as port:
        yield b"127.0.0.1:%d" % port


def test_bytes_both_ways(tmp_path: Path, echo: bytes) -> None:
    async def scenario() -> None:
        async with joined(tmp_path) as peers:
            stream = await peers.link.stream(echo)
            await stream.head()
            assert stream.status == 200
            assert ORIGIN_META in stream.headers
            assert (b"cf-cloudflared-response-headers", b"") in stream.headers
            for number in range(1, 4):
                # Every write comes back before the next is made: nothing waits for more.
                await stream.send(b"ping\n")
                await stream.received(5 * number)
            assert bytes(stream.data) == b"ping\n" * 3
            await stream.send(b"", end=True)
            await stream.finished()

    asyncio.run(scenario())


def test_many_megabytes(tmp_path: Path, echo: bytes) -> None:
    size = 20 * 1024 * 1024

    async def scenario() -> None:
        async with joined(tmp_path) as peers:
            stream = await peers.link.stream(echo)
            content = os.urandom(size)
            await stream.send(content)
            await stream.received(size)
            assert hashlib.sha256(stream.data).digest() == hashlib.sha256(content).digest()
            stream.cancel()

    asyncio.run(scenario())


def test_ipv6(tmp_path: Path) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")

    async def scenario() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hello\r\n")
            writer.close()

        server = await asyncio.start_server(greet, sock=listener)
        try:
            async with joined(tmp_path) as peers:
                stream = await peers.link.stream(b"[::1]:%d" % listener.getsockname()[1])
                await stream.finished()
                assert (stream.status, bytes(stream.data)) == (200, b"220 hello\r\n")
        finally:
            server.close()

    asyncio.run(scenario())


def test_a_server_that_speaks_first_and_hangs_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hello\r\n")
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        try:
            async with joined(tmp_path) as peers:
                stream = await peers.link.stream(
                    b"127.0.0.1:%d" % server.sockets[0].getsockname()[1]
                )
                await stream.finished()
                assert bytes(stream.data) == b"220 hello\r\n"
                assert stream.ended
        finally:
            server.close()

    asyncio.run(scenario())


def test_the_websocket_handshake_is_answered_when_asked(tmp_path: Path, echo: bytes) -> None:
    key = base64.b64encode(bytes(16))

    async def scenario() -> None:
        async with joined(tmp_path) as peers:
            stream = await peers.link.stream(echo, (b"sec-websocket-key", key))
            await stream.head()
            block = stream.header(b"cf-cloudflared-response-headers") or b""
            pairs = dict(
                tuple(base64.b64decode(part + b"==").lower() for part in pair.split(b":"))
                for pair in block.split(b";")
                if pair
            )
            accept = base64.b64encode(
                hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            )
            assert pairs[b"sec-websocket-accept"] == accept.lower()
            assert pairs[b"upgrade"] == b"websocket"
            stream.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["reset", "end"])
def test_the_edge_ends_a_stream_and_the_origin_learns_of_it(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            await reader.read()
            ended.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            async with joined(tmp_path) as peers:
                port = server.sockets[0].getsockname()[1]
                stream = await peers.link.stream(b"127.0.0.1:%d" % port)
                await stream.received(5)
                if how == "reset":
                    stream.cancel()
                else:
                    await stream.send(b"", end=True)
                await soon(ended.wait())
                await eventually_async(
                    lambda: peers.connector.metric("cloudflared_tcp_active_sessions") == 0,
                    "no stream is counted",
                )
                assert peers.connector.metric("cloudflared_tcp_total_sessions") == 1
        finally:
            server.close()

    asyncio.run(scenario())


def test_an_origin_that_resets_resets_the_stream(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            await reader.read(1)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            async with joined(tmp_path) as peers:
                port = server.sockets[0].getsockname()[1]
                stream = await peers.link.stream(b"127.0.0.1:%d" % port)
                await stream.received(5)
                await stream.send(b"x")
                await stream.finished()
                assert stream.reset is not None
                other = await peers.link.stream(b"127.0.0.1:%d" % port)
                await other.received(5)
                other.cancel()
        finally:
            server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "destination",
    [b"localhost:22", b"127.0.0.1", b"127.0.0.1:0", b"127.0.0.1:65536", b"127.0.0.1:ssh", b"[::1"],
)
def test_a_destination_that_is_no_address_is_refused(tmp_path: Path, destination: bytes) -> None:
    async def scenario() -> None:
        async with joined(tmp_path) as peers:
            stream = await peers.link.stream(destination)
            await stream.head()
            assert stream.status == 502
            assert CONNECTOR_META in stream.headers

    asyncio.run(scenario())


def test_a_closed_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as unused:
        # Bound and not listening: refused, and nobody else takes it.
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def scenario() -> None:
            async with joined(tmp_path) as peers:
                stream = await peers.link.stream(b"127.0.0.1:%d" % port)
                await stream.head()
                assert stream.status == 502
                peers.connector.wait_for("Unable to reach the origin service", status=502)

        asyncio.run(scenario())


LIMITED_META = (
    b"cf-cloudflared-response-meta",
    b'{"src":"cloudflared","flow_rate_limited":true}',
)


@pytest.mark.parametrize(
    ("flag", "in_file", "limit"), [(2, None, 2), (None, 2, 2), (1, 2, 1), (3, 2, 3)]
)
def test_a_stream_beyond_the_limit_is_refused_and_told_as_such(
    tmp_path: Path, echo: bytes, flag: int | None, in_file: int | None, limit: int
) -> None:
    """docs: configuration §6. The flag wins."""
    file = tmp_path / "config.yml"
    routing = f"warp-routing: {{maxActiveFlows: {in_file}}}\n" if in_file else ""
    file.write_text(f"{routing}ingress: [service: 'http_status:404']\n")
    arguments = [f"--config={file}", *([f"--max-active-flows={flag}"] if flag else [])]

    async def scenario() -> None:
        async with joined(tmp_path, *arguments) as peers:
            streams = [await peers.link.stream(echo) for _ in range(limit)]
            for stream in streams:
                await stream.head()
                assert stream.status == 200
            refused = await peers.link.stream(echo)
            await refused.head()
            assert refused.status == 502
            assert LIMITED_META in refused.headers
            streams[0].cancel()
            await eventually_async(
                lambda: peers.connector.metric("cloudflared_tcp_active_sessions") == limit - 1,
                "there is room again",
            )
            again = await peers.link.stream(echo)
            await again.head()
            assert again.status == 200
            for stream in (*streams[1:], again):
                stream.cancel()

    asyncio.run(scenario())


def test_requests_and_streams_share_a_link(tmp_path: Path, echo: bytes) -> None:
    """A request is answered while a stream is open, and the stream goes on."""

    async def scenario() -> None:
        async with joined(tmp_path, "--hello-world") as peers:
            stream = await peers.link.stream(echo)
            await stream.head()
            page = await peers.link.client.get(b"app.example", b"/")
            await page.finished()
            assert page.status == 200
            assert b"cf-cloudflared-response-headers" in dict(page.headers)
            await stream.send(b"still here")
            await stream.received(10)
            stream.cancel()

    asyncio.run(scenario())
