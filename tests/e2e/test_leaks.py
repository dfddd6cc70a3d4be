"""Whatever happens to requests, nothing of them stays: no exchange, stream, task or open file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from peers import in_process
from peers.bad_answers import RAW
from peers.bad_visitor import RawVisitor, get, raw_visitor
from peers.http2_client import Http2Client, head, visitor_context
from peers.origin import Origin
from peers.patience import eventually, eventually_async, soon
from peers.processes import EdgeProcess, QuickTunnelProcess, running

ROUNDS = 5
"""How often each visit is made; what leaks once leaks every time."""


class Place:
    """Where visits go."""

    def __init__(self, hostname: str, http_port: int, https_port: int, origin: Origin) -> None:
        self.hostname = hostname
        self.http_port = http_port
        self.https_port = https_port
        self.origin = origin

    async def http2(self) -> Http2Client:
        return await Http2Client.connect(
            "127.0.0.1", self.https_port, server_name=self.hostname, context=visitor_context()
        )


Visit = Callable[[Place], Awaitable[None]]
VISITS: list[Visit] = []


def visit(scenario: Visit) -> Visit:
    VISITS.append(scenario)
    return scenario


@visit
async def a_complete_request(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(get(place.hostname))
        assert await visitor.status() == 200


@visit
async def leaves_before_the_answer(place: Place) -> None:
    count = len(place.origin.requests("/hang"))
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(get(place.hostname, "/hang"))
        await came(place, "/hang", count)
        visitor.vanish()


@visit
async def leaves_amid_a_download(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(get(place.hostname, "/flood"))
        await visitor.head()
        await soon(visitor.reader.readexactly(1_000_000))
        visitor.vanish()


@visit
async def leaves_amid_a_download_over_tls(place: Place) -> None:
    async with raw_visitor(place.https_port, tls=True, server_name=place.hostname) as visitor:
        await visitor.send(get(place.hostname, "/flood"))
        await visitor.head()
        await soon(visitor.reader.readexactly(1_000_000))
        visitor.vanish()


@visit
async def stops_reading_a_download_and_leaves(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        count = len(place.origin.requests("/flood"))
        await visitor.send(get(place.hostname, "/flood"))
        visitor.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await came(place, "/flood", count)
        visitor.vanish()


@visit
async def leaves_amid_an_upload(place: Place) -> None:
    count = len(place.origin.requests("/sink"))
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(
            f"POST /sink HTTP/1.1\r\nHost: {place.hostname}\r\n".encode()
            + b"Content-Length: 10000000\r\n\r\n"
            + bytes(500_000)
        )
        await came(place, "/sink", count)
        visitor.vanish()


@visit
async def ends_a_chunked_upload_wrongly(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(
            f"POST /sink HTTP/1.1\r\nHost: {place.hostname}\r\n".encode()
            + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
        )
        assert await visitor.status() == 400


@visit
async def uploads_what_nobody_reads(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(
            f"POST /early HTTP/1.1\r\nHost: {place.hostname}\r\n".encode()
            + b"Content-Length: 10000000\r\n\r\n"
        )
        assert await visitor.status() == 403


@visit
async def a_websocket_is_cut(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        await open_websocket(place, visitor)
        visitor.vanish()


@visit
async def a_websocket_is_cut_by_the_origin(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        await open_websocket(place, visitor)
        # A masked text frame: reset.
        await visitor.send(b"\x81\x85\x00\x00\x00\x00reset")
        assert await visitor.rest() == b""


@visit
async def an_origin_that_resets(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(get(place.hostname, "/reset"))
        assert await visitor.status() == 502


@visit
async def an_origin_that_resets_amid_a_download(place: Place) -> None:
    place.origin.open_gate("leaks")
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(get(place.hostname, "/reset?after=head&key=leaks"))
        await visitor.rest()


@visit
async def an_origin_that_lies(place: Place) -> None:
    for name in RAW:
        async with raw_visitor(place.http_port) as visitor:
            await visitor.send(get(place.hostname, f"/raw/{name}", "Connection: close"))
            await visitor.rest()


@visit
async def a_host_that_nobody_serves(place: Place) -> None:
    async with raw_visitor(place.http_port) as visitor:
        await visitor.send(get("nobody.localhost"))
        assert await visitor.status() == 404


@visit
async def streams_that_are_cancelled(place: Place) -> None:
    visitor = await place.http2()
    try:
        host = place.hostname.encode()
        download = await visitor.get(host, b"/flood")
        await download.received(1_000_000)
        count = len(place.origin.requests("/hang"))
        waiting = await visitor.get(host, b"/hang")
        await came(place, "/hang", count)
        uploads = len(place.origin.requests("/sink"))
        upload = await visitor.request(head(b"POST", host, b"/sink"), end=False)
        await upload.send(bytes(100_000))
        await came(place, "/sink", uploads)
        for stream in (download, waiting, upload):
            stream.cancel()
        # The connection is as good as before.
        assert (await (await visitor.get(host, b"/hello")).finished()).status == 200
    finally:
        await visitor.close()


@visit
async def a_connection_full_of_streams_is_cut(place: Place) -> None:
    visitor = await place.http2()
    try:
        host = place.hostname.encode()
        count = len(place.origin.requests("/hang"))
        for _ in range(20):
            await visitor.get(host, b"/hang")
        flood = await visitor.get(host, b"/flood")
        await flood.received(100_000)
        await came(place, "/hang", count + 19)
    finally:
        await visitor.close()


async def open_websocket(place: Place, visitor: RawVisitor) -> None:
    await visitor.send(
        get(
            place.hostname,
            "/ws",
            *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
    )
    assert await visitor.status() == 101


async def came(place: Place, path: str, count: int) -> None:
    """The origin has been asked once more."""
    await eventually_async(
        lambda: len(place.origin.requests(path)) > count, f"the origin is asked for {path}"
    )


async def every_visit(place: Place) -> None:
    for _ in range(ROUNDS):
        await asyncio.gather(*(scenario(place) for scenario in VISITS))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_nothing_is_left_within_the_process(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setenv("UNDERPASS_LOOP", loop)

    async def scenario() -> None:
        with Origin() as origin:
            async with in_process.tunnel(data_dir, origin.url) as tunnel:
                edge = tunnel.edge
                place = Place(tunnel.hostname, edge.http.port, edge.https.port, origin)
                await a_complete_request(place)
                await nothing_under_way(tunnel)
                tasks = len(asyncio.all_tasks())
                for one in VISITS:
                    await one(place)
                    try:
                        await nothing_under_way(tunnel)
                    except AssertionError as error:
                        raise AssertionError(f"after {one.__name__}: {error}") from None
                await every_visit(place)
                await nothing_under_way(tunnel)
                await eventually_async(
                    lambda: len(asyncio.all_tasks()) <= tasks,
                    f"no more than {tasks} tasks are left",
                )
                assert tunnel.metric("cloudflared_tunnel_concurrent_requests_per_tunnel") == 0

    async def nothing() -> None:
        async with in_process.tunnel(data_dir, "http://127.0.0.1:1"):
            pass

    # A loop's first use opens files that stay with the process.
    in_process.run(nothing())
    before = in_process.open_files()
    in_process.run(scenario())
    eventually(lambda: in_process.open_files() <= before, "all files are closed")


async def nothing_under_way(tunnel: in_process.Tunnel) -> None:
    def left() -> dict[str, int]:
        return {
            "requests at the edge": tunnel.requests_at_edge,
            "visitors": tunnel.edge.gateway.connections,
            "streams on links": tunnel.streams_on_links,
            "requests at the connector": tunnel.metric(
                "cloudflared_tunnel_concurrent_requests_per_tunnel"
            ),
        }

    try:
        await eventually_async(lambda: not any(left().values()), "nothing is under way")
    except AssertionError:
        raise AssertionError(f"left: {left()}") from None


def test_nothing_is_left_in_the_processes(data_dir: Path) -> None:
    edge = EdgeProcess(data_dir)
    with Origin() as origin:
        connector = QuickTunnelProcess(
            edge, f"--url={origin.url}", settings=["--proxy-keepalive-connections=1"]
        )
        with running(connector, edge):
            connector.ready()
            place = Place(connector.hostname, edge.http_port, edge.https_port, origin)
            asyncio.run(a_complete_request(place))
            eventually(lambda: origin.open_connections == 1, "one connection waits at the origin")
            files = eventually(lambda: settled(edge), "the edge is idle")
            connector_files = settled(connector)

            asyncio.run(every_visit(place))

            def quiet() -> bool:
                return (
                    edge.open_files <= files
                    and connector.open_files <= connector_files
                    and origin.open_connections <= 1
                    and connector.metric("cloudflared_tunnel_concurrent_requests_per_tunnel") == 0
                )

            eventually(quiet, f"the edge has {files} files open, the connector {connector_files}")


def settled(process: EdgeProcess | QuickTunnelProcess) -> int:
    """Its open files, once two looks in a row agree."""
    before = -1
    while (now := process.open_files) != before:
        before = now
    return now
