"""Interoperation: a stock cloudflared as the connector of our edge.

Runs when UNDERPASS_CLOUDFLARED names a binary; needs no network.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers import content
from peers.bad_visitor import get, raw_visitor
from peers.cloudflared import Cloudflared, binary
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually, soon
from peers.processes import EdgeProcess, new_tunnel, running
from websockets.asyncio.client import connect

from underpass.wire.credentials import Credentials, write_credentials_file

__all__ = ["binary"]

pytestmark = pytest.mark.interop

HUNDRED_MIB = 100 * 1024 * 1024

VISITS = [
    pytest.param("http", "--http1.1", id="http-1.1"),
    pytest.param("https", "--http1.1", id="https-1.1"),
    pytest.param("https", "--http2", id="https-2"),
]


@dataclass(frozen=True)
class Interop:
    edge: EdgeProcess
    cloudflared: Cloudflared
    origin: Origin
    curl: Curl


@pytest.fixture(scope="module")
def interop(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interop]:
    """A quick tunnel, asked for by cloudflared at our API."""
    edge = EdgeProcess(tmp_path_factory.mktemp("interop") / "data")
    with running(edge), Origin() as origin:
        cloudflared = Cloudflared(
            binary, edge, [f"--url={origin.url}", f"--quick-service=http://{edge.api}"]
        )
        with running(cloudflared):
            cloudflared.ready()
            hostname = eventually(lambda: _hostname(cloudflared), "it tells its name")
            yield Interop(edge, cloudflared, origin, Curl(edge, hostname))


def _hostname(cloudflared: Cloudflared) -> str:
    for line in list(cloudflared.lines):
        _, found, rest = str(line.get("message")).partition("https://")
        if found and ".localhost" in rest:
            return rest.partition(":")[0]
    return ""


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "content"
    with path.open("wb") as file:
        for block in content.blocks(HUNDRED_MIB):
            file.write(block)
    return path


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_a_get(interop: Interop, scheme: str, version: str) -> None:
    answer = interop.curl("/hello", version, scheme=scheme)
    assert (answer.status, answer.body) == (200, b"hello\n")
    assert answer.header("content-type") == "text/plain"
    assert answer.header("content-length") == "6"


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_a_post(interop: Interop, scheme: str, version: str) -> None:
    seen = interop.curl("/shown?q=1", version, "-d", "some content", scheme=scheme).json
    assert (seen["method"], seen["target"], seen["content"]) == (
        "POST",
        "/shown?q=1",
        "some content",
    )
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert headers["cf-connecting-ip"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == scheme


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_a_post_without_a_length(interop: Interop, scheme: str, version: str) -> None:
    how = "Transfer-Encoding: chunked" if version == "--http1.1" else "Content-Length:"
    seen = interop.curl("/shown", version, "-d", "some content", "-H", how, scheme=scheme).json
    assert seen["content"] == "some content"


@pytest.mark.parametrize("code", [204, 304, 404, 500])
def test_a_status(interop: Interop, code: int) -> None:
    answer = interop.curl(f"/status/{code}")
    assert (answer.status, answer.exit_code, answer.header("x-kept")) == (code, 0, "yes")


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_a_head(interop: Interop, scheme: str, version: str) -> None:
    answer = interop.curl("/hello", version, "--head", scheme=scheme)
    assert (answer.status, answer.header("content-length")) == (200, "6")


def test_headers(interop: Interop) -> None:
    answer = interop.curl("/cookies")
    assert answer.all("set-cookie") == ["a=1", "b=2"]


def test_trailers(interop: Interop) -> None:
    answer = interop.curl("/trailers")
    assert (answer.body, answer.header("x-sum")) == (b"hello", "5")


def test_early_hints_stay_with_it(interop: Interop) -> None:
    async def scenario() -> None:
        async with raw_visitor(interop.edge.http_port) as visitor:
            await visitor.send(get(interop.curl.hostname, "/interim"))
            assert await visitor.status() == 200

    asyncio.run(scenario())


def chunked(host: str, target: str) -> bytes:
    """A request with content and trailers."""
    return (
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n4\r\nsome\r\n0\r\nX-Sum: 5\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(("target", "status"), [("/%", 400), ("/status/404", 404), ("/sink", 200)])
def test_trailers_of_a_request_do_not_harm_its_link(
    interop: Interop, target: str, status: int
) -> None:
    """Its HTTP/2 server ends the connection when they come on a stream that it has reset."""
    lost = sum(" is gone" in str(line.get("message")) for line in list(interop.edge.lines))

    async def scenario() -> None:
        for _ in range(20):
            async with raw_visitor(interop.edge.http_port) as visitor:
                await visitor.send(chunked(interop.curl.hostname, target))
                assert await visitor.status() == status

    asyncio.run(scenario())
    assert interop.curl("/hello").body == b"hello\n"
    assert sum(" is gone" in str(line.get("message")) for line in list(interop.edge.lines)) == lost


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_a_hundred_mebibytes_down(interop: Interop, scheme: str, version: str) -> None:
    answer = interop.curl(f"/bytes/{HUNDRED_MIB}", version, scheme=scheme)
    assert (answer.exit_code, answer.size) == (0, HUNDRED_MIB)
    assert answer.sha256 == content.digest(HUNDRED_MIB)


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_a_hundred_mebibytes_up(
    interop: Interop, large_file: Path, scheme: str, version: str
) -> None:
    seen = interop.curl("/sink", version, "-T", str(large_file), "-X", "POST", scheme=scheme).json
    assert seen == {"size": HUNDRED_MIB, "sha256": content.digest(HUNDRED_MIB)}


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_events_arrive_as_they_are_written(interop: Interop, scheme: str, version: str) -> None:
    key = f"interop-{scheme}{version}"
    with interop.curl.begun(f"/events?key={key}", version, scheme=scheme) as visit:
        assert visit.stdout is not None
        for number in range(3):
            assert visit.stdout.readline() == b"data: event %d\n" % number
            assert visit.stdout.readline() == b"\n"
            interop.origin.open_gate(f"{key}-{number + 1}")
        assert visit.stdout.read() == b""


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket(interop: Interop, scheme: str) -> None:
    port = interop.edge.http_port if scheme == "ws" else interop.edge.https_port
    tls = ssl.create_default_context(cafile=interop.edge.ca) if scheme == "wss" else None

    async def scenario() -> None:
        async with connect(
            f"{scheme}://{interop.curl.hostname}:{port}/ws",
            host="127.0.0.1",
            port=port,
            ssl=tls,
            proxy=None,
            max_size=None,
            open_timeout=PATIENCE,
        ) as socket:
            for message in ("text", b"\x00\xff", os.urandom(3_000_000)):
                await socket.send(message)
                assert await soon(socket.recv()) == message
            await socket.send("close 4321 enough")
            await soon(socket.wait_closed())
            assert socket.close_code == 4321

    asyncio.run(scenario())


def test_an_origin_that_fails_gets_our_page(interop: Interop) -> None:
    answer = interop.curl("/raw/nothing", "-H", "Accept: application/json")
    assert answer.status == 502
    assert answer.header("underpass-cause") == "connector"
    assert answer.header("underpass-hop") == "connector"
    assert answer.json["type"] == "urn:underpass:error:origin-unreachable"


def test_a_visitor_who_leaves_is_noticed_by_the_origin(interop: Interop) -> None:
    with interop.curl.begun("/hang") as visit:
        request = interop.origin.wait_for_request("/hang")
        visit.kill()
    eventually(lambda: request.gone, "the origin sees the end")


def named(
    binary: str, edge: EdgeProcess, credentials: Credentials, origin: Origin, directory: Path
) -> Cloudflared:
    """A tunnel run from a credentials file, with rules."""
    path = directory / f"{credentials.tunnel_id}.json"
    if not path.exists():
        write_credentials_file(path, credentials)
    configuration = directory / "config.yml"
    configuration.write_text(
        f"tunnel: {credentials.tunnel_id}\ncredentials-file: {path}\ningress:\n"
        f"  - hostname: app.example.test\n    service: {origin.url}\n"
        "  - service: http_status:410\n"
    )
    return Cloudflared(binary, edge, [f"--config={configuration}", "run"])


def test_a_credentials_file_four_links_and_a_restart(
    binary: str, data_dir: Path, tmp_path: Path
) -> None:
    credentials = new_tunnel(data_dir, "app.example.test", "other.example.test")
    edge = EdgeProcess(data_dir)
    with Origin() as origin:
        cloudflared = named(binary, edge, credentials, origin, tmp_path)
        cloudflared.ready(4)
        assert Curl(edge, "app.example.test")("/hello").body == b"hello\n"
        assert Curl(edge, "other.example.test")("/hello").status == 410
        edge.stop()
        edge = edge.again()
        with running(cloudflared, edge):
            cloudflared.wait_for("Registered tunnel connection", count=5)
            assert Curl(edge, "app.example.test")("/hello").body == b"hello\n"


def test_it_leaves_gracefully(binary: str, data_dir: Path, tmp_path: Path) -> None:
    """It unregisters and waits; the edge lets the last request finish, then closes."""
    import signal

    credentials = new_tunnel(data_dir, "app.example.test")
    edge = EdgeProcess(data_dir)
    with running(edge), Origin() as origin:
        cloudflared = named(binary, edge, credentials, origin, tmp_path)
        cloudflared.ready(4)
        curl = Curl(edge, "app.example.test")
        with curl.begun("/slow?key=leaving") as visit:
            origin.wait_for_request("/slow")
            cloudflared.signal(signal.SIGTERM)
            for number in range(1, 5):
                edge.wait_for("unregistered", count=number)
            assert curl("/hello").status == 503
            origin.open_gate("leaving")
            out, _ = visit.communicate(timeout=PATIENCE)
            assert out == b"at last\n"
        cloudflared.check()


def test_wrong_credentials_are_refused(binary: str, data_dir: Path, tmp_path: Path) -> None:
    known = new_tunnel(data_dir, "app.example.test")
    wrong = Credentials(known.account_tag, hashlib.sha256(b"wrong").digest(), known.tunnel_id)
    edge = EdgeProcess(data_dir)
    with running(edge), Origin() as origin:
        cloudflared = named(binary, edge, wrong, origin, tmp_path)
        line = cloudflared.wait_for("Register tunnel error from server side")
        assert "Unauthorized" in line["error"]
        assert Curl(edge, "app.example.test")("/hello").status == 503
        cloudflared.kill()
