"""WebSockets pass through the tunnel as an opaque stream of bytes."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually, soon
from peers.stage import Stage
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

SCHEMES = ["ws", "wss"]


def visit(scene: Stage, scheme: str, path: str = "/ws", **options: Any) -> connect:
    """A visitor's WebSocket through the plain or the TLS listener."""
    port = scene.edge.http_port
    if scheme == "wss":
        port = scene.edge.https_port
        options["ssl"] = ssl.create_default_context(cafile=scene.edge.ca)
    return connect(
        f"{scheme}://{scene.hostname}:{port}{path}",
        host="127.0.0.1",
        port=port,
        proxy=None,
        max_size=None,
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
        **options,
    )


async def echoed(socket: ClientConnection, message: str | bytes) -> None:
    await socket.send(message)
    assert await soon(socket.recv()) == message


@pytest.mark.parametrize("scheme", SCHEMES)
def test_messages_both_ways(scene: Stage, scheme: str) -> None:
    async def scenario() -> None:
        async with visit(scene, scheme) as socket:
            await echoed(socket, "text, caf\xe9")
            await echoed(socket, b"\x00\xff")
            await echoed(socket, "")
            for number in range(100):
                await echoed(socket, f"message {number}")

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_origin_is_told(scene: Stage, scheme: str) -> None:
    async def scenario() -> None:
        async with visit(
            scene,
            scheme,
            f"/ws/{scheme}?q=1",
            subprotocols=["chat.v2", "chat.v1"],
            additional_headers={"X-Custom": "kept", "Origin": "https://app.example"},
        ) as socket:
            assert socket.subprotocol == "chat.v2"

    asyncio.run(scenario())
    request = scene.origin.requests(f"/ws/{scheme}")[-1]
    assert request.target == f"/ws/{scheme}?q=1"
    assert request.header("connection").lower() == "upgrade"
    assert request.header("upgrade").lower() == "websocket"
    assert request.header("sec-websocket-version") == "13"
    assert request.header("sec-websocket-key")
    assert request.header("x-custom") == "kept"
    assert request.header("origin") == "https://app.example"
    assert request.header("cf-connecting-ip") == "127.0.0.1"
    assert not request.all("content-length") + request.all("transfer-encoding")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("compression", ["deflate", None])
def test_large_messages(scene: Stage, compression: str | None, scheme: str) -> None:
    async def scenario() -> None:
        async with visit(scene, scheme, compression=compression) as socket:
            for size in (16 * 1024, 65536, 1_000_003, 16 * 1024 * 1024):
                await echoed(socket, os.urandom(size))

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ping_and_pong(scene: Stage, scheme: str) -> None:
    async def scenario() -> None:
        async with visit(scene, scheme) as socket:
            await soon(await socket.ping(b"are you there"))

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_origins_close_code_arrives(scene: Stage, scheme: str) -> None:
    async def scenario() -> None:
        async with visit(scene, scheme) as socket:
            await socket.send("close 4321 enough of this")
            with pytest.raises(ConnectionClosed) as closed:
                await soon(socket.recv())
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "enough of this")

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_visitors_close_is_answered(scene: Stage, scheme: str) -> None:
    async def scenario() -> None:
        async with visit(scene, scheme, f"/ws/closes-{scheme}") as socket:
            await echoed(socket, "hello")
            await soon(socket.close(1001, "leaving"))
            assert socket.close_code == 1001

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_visitor_who_vanishes_is_noticed_by_the_origin(scene: Stage, scheme: str) -> None:
    path = f"/ws/vanishes-{scheme}"

    async def scenario() -> None:
        async with visit(scene, scheme, path) as socket:
            await echoed(socket, "hello")
            socket.transport.abort()

    asyncio.run(scenario())
    eventually(lambda: scene.origin.requests(path)[0].gone, "the origin sees the end")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_origin_that_vanishes_is_noticed_by_the_visitor(scene: Stage, scheme: str) -> None:
    async def scenario() -> None:
        async with visit(scene, scheme) as socket:
            await socket.send("reset")
            with pytest.raises(ConnectionClosed) as closed:
                await soon(socket.recv())
            assert closed.value.rcvd is None

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_origin_that_declines_is_quoted(scene: Stage, scheme: str) -> None:
    async def scenario() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with visit(scene, scheme, "/status/403"):
                raise AssertionError("opened a WebSocket that the origin declined")
        assert refused.value.response.status_code == 403
        assert refused.value.response.headers["X-Kept"] == "yes"

    asyncio.run(scenario())


def test_a_hundred_at_once(scene: Stage) -> None:
    async def scenario() -> None:
        async def one(number: int) -> None:
            async with visit(scene, SCHEMES[number % 2]) as socket:
                await echoed(socket, f"I am {number}")
                # All are open before any goes on.
                await soon(all_open.wait())
                await echoed(socket, os.urandom(10_000))

        all_open = asyncio.Barrier(100) if hasattr(asyncio, "Barrier") else Rendezvous(100)
        await asyncio.gather(*(one(number) for number in range(100)))

    asyncio.run(scenario())


class Rendezvous:
    """asyncio.Barrier, which Python 3.10 lacks."""

    def __init__(self, parties: int) -> None:
        self._missing = parties
        self._complete = asyncio.Event()

    async def wait(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._complete.set()
        await self._complete.wait()


def test_an_upgrade_to_something_else_is_an_ordinary_request(curl: Curl, origin: Origin) -> None:
    answer = curl("/shown", "-H", "Connection: Upgrade, HTTP2-Settings", "-H", "Upgrade: h2c",
                  "-H", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", scheme="http")  # fmt: skip
    assert answer.status == 200
    names = {name.lower() for name, _ in answer.json["headers"]}
    assert not names & {"upgrade", "http2-settings"}
