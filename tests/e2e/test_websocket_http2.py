"""WebSockets of visitors who speak HTTP/2 (RFC 8441): applications see no difference."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from peers.cloudflared import Cloudflared, binary
from peers.http2_client import Http2Client
from peers.http2_websocket import Socket, asking, http2_visitor
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running
from peers.stage import Stage

__all__ = ["binary"]

Scenario = Callable[[Http2Client, bytes], Awaitable[None]]


def play(edge: EdgeProcess, hostname: str, scenario: Scenario) -> None:
    async def main() -> None:
        async with http2_visitor(edge.https_port, hostname) as visitor:
            await scenario(visitor, hostname.encode())

    asyncio.run(main())


async def opened(visitor: Http2Client, host: bytes, path: bytes = b"/ws") -> Socket:
    stream = await visitor.request(asking(host, path), end=False)
    await stream.head()
    assert stream.status == 200, stream.headers
    return Socket(stream)


async def converse(visitor: Http2Client, host: bytes) -> None:
    """What any tunnel to an echo has to do."""
    socket = await opened(visitor, host)
    for message in ("text, caf\xe9", b"\x00\xff", "", os.urandom(3_000_000)):
        await socket.send(message)
        assert await socket.receive() == message
    await socket.send("close 4321 enough")
    assert await socket.closed() == (4321, "enough")


def test_it_is_offered_and_carries_messages_both_ways(scene: Stage) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        await (await visitor.get(host, b"/hello")).head()
        assert visitor.connection.remote_settings.enable_connect_protocol == 1
        await converse(visitor, host)

    play(scene.edge, scene.hostname, scenario)


def test_what_the_application_is_told(scene: Stage) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        fields = [
            (b"sec-websocket-protocol", b"chat.v2, chat.v1"),
            (b"origin", b"https://app.example"),
            (b"sec-websocket-key", b"not for the application"),
        ]
        stream = await visitor.request(asking(host, b"/ws/h2?q=1", *fields), end=False)
        await stream.head()
        assert stream.status == 200
        assert stream.header(b"sec-websocket-protocol") == b"chat.v2"
        names = [name for name, _ in stream.headers]
        assert not {b"sec-websocket-accept", b"upgrade", b"connection"} & set(names)

    play(scene.edge, scene.hostname, scenario)
    request = scene.origin.requests("/ws/h2")[-1]
    assert (request.method, request.target) == ("GET", "/ws/h2?q=1")
    assert request.header("connection").lower() == "upgrade"
    assert request.header("upgrade").lower() == "websocket"
    assert request.header("sec-websocket-version") == "13"
    assert request.header("origin") == "https://app.example"
    assert len(request.all("sec-websocket-key")) == 1
    assert not request.all("content-length") + request.all("transfer-encoding")


def test_many_on_one_connection_beside_requests(scene: Stage) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        sockets = [await opened(visitor, host) for _ in range(20)]
        for number, socket in enumerate(sockets):
            await socket.send(f"message {number}")
        answer = await visitor.get(host, b"/hello")
        assert bytes((await answer.finished()).data) == b"hello\n"
        for number, socket in enumerate(sockets):
            assert await socket.receive() == f"message {number}"

    play(scene.edge, scene.hostname, scenario)


def test_a_visitor_who_does_not_read_slows_the_application(scene: Stage) -> None:
    """The window of the stream holds, and others on the connection go on."""

    async def scenario(visitor: Http2Client, host: bytes) -> None:
        socket = await opened(visitor, host)
        sent = os.urandom(2_000_000)
        # Read what comes, and give no credit for it: a window and no more may come.
        acknowledge = visitor.connection.acknowledge_received_data
        visitor.connection.acknowledge_received_data = lambda size, stream: None  # type: ignore[method-assign]
        await socket.send(sent)
        await socket.stream.received(65535)
        other = await visitor.get(host, b"/status/204")
        assert (await other.finished()).status == 204
        assert len(socket.stream.data) == 65535
        visitor.connection.acknowledge_received_data = acknowledge  # type: ignore[method-assign]
        acknowledge(65535, socket.stream.id)
        visitor.flush()
        assert await socket.receive() == sent

    play(scene.edge, scene.hostname, scenario)


def test_either_end_may_leave(scene: Stage) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        reset = await opened(visitor, host)
        await reset.send("reset")
        await reset.stream.finished()
        left = await opened(visitor, host, b"/ws/left")
        left.stream.cancel()
        answer = await visitor.get(host, b"/hello")
        assert (await answer.finished()).status == 200
        request = scene.origin.requests("/ws/left")[-1]
        await asyncio.to_thread(eventually, lambda: request.gone, "the origin sees the end")

    play(scene.edge, scene.hostname, scenario)


@pytest.mark.parametrize(
    ("path", "status", "cause"),
    [
        (b"/hello", 502, b"not_a_websocket"),
        (b"/status/204", 502, b"not_a_websocket"),
        (b"/status/404", 404, None),
        (b"/redirect", 302, None),
        (b"/raw/nothing", 502, b"reset_by_origin"),
    ],
)
def test_an_application_that_does_not_want_one(
    scene: Stage, path: bytes, status: int, cause: bytes | None
) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        stream = await visitor.request(asking(host, path), end=False)
        await stream.finished()
        assert stream.status == status
        assert stream.header(b"underpass-cause") == cause

    play(scene.edge, scene.hostname, scenario)


def test_a_name_nobody_serves(scene: Stage) -> None:
    async def scenario(visitor: Http2Client, host: bytes) -> None:
        stream = await visitor.request(asking(b"nobody.example.test", b"/ws"), end=False)
        assert (await stream.finished()).status == 404

    play(scene.edge, scene.hostname, scenario)


def test_through_another_worker(data_dir: Path) -> None:
    """Visitors come to either of two, the only link is in one."""
    credentials = new_tunnel(data_dir, "app.example.test")
    edge = EdgeProcess(data_dir, more=["--workers=2"])
    with running(edge), Origin() as origin:
        connector = ConnectorProcess(
            [*edge.edge_arguments, "--ha-connections=1", "run", f"--url={origin.url}"],
            environment={"TUNNEL_TOKEN": credentials.to_token()},
        )
        with running(connector):
            connector.ready()
            for _ in range(8):
                play(edge, "app.example.test", converse)


@pytest.mark.interop
def test_through_a_stock_cloudflared(binary: str, data_dir: Path, tmp_path: Path) -> None:
    credentials = new_tunnel(data_dir, "app.example.test")
    edge = EdgeProcess(data_dir)
    with running(edge), Origin() as origin:
        arguments = ["run", f"--url={origin.url}", f"--token={credentials.to_token()}"]
        cloudflared = Cloudflared(binary, edge, arguments)
        with running(cloudflared):
            cloudflared.ready()
            play(edge, "app.example.test", converse)


@pytest.mark.interop
def test_from_a_browser(scene: Stage, tmp_path: Path) -> None:
    """It uses the connection that the page came by."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    network_log = tmp_path / "network.json"
    browser = subprocess.Popen(
        [
            chromium,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
            *("--ignore-certificate-errors", "--host-resolver-rules=MAP * 127.0.0.1"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={network_log}"),
            f"https://{scene.hostname}:{scene.edge.https_port}/page-with-websocket",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told = eventually(
            lambda: [each for each in scene.origin.requests("/hello") if each.query("heard")],
            "the page tells what it heard",
        )[0]
        assert (told.query("heard"), told.query("by")) == ("from a browser", "h2")
    finally:
        browser.terminate()
        browser.wait(PATIENCE)
    assert ":protocol: websocket" in network_log.read_text()
