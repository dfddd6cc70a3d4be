"""A visitor's request reaches the application behind the tunnel, and its answer comes back."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from peers import content
from peers.bad_visitor import get, raw_visitor
from peers.curl import Curl
from peers.http2_client import Http2Client, head, visitor_context
from peers.origin import Origin
from peers.processes import EdgeProcess
from peers.stage import Stage, stage

HUNDRED_MIB = 100 * 1024 * 1024

LISTENERS = [
    pytest.param("http", "--http1.1", id="http-1.1"),
    pytest.param("https", "--http1.1", id="https-1.1"),
    pytest.param("https", "--http2", id="https-2"),
]
"""The ways a visitor may come."""

EXPECTED_VERSION = {"--http1.1": "1.1", "--http2": "2"}


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "content"
    with path.open("wb") as file:
        for block in content.blocks(HUNDRED_MIB):
            file.write(block)
    return path


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_a_get(curl: Curl, scheme: str, version: str) -> None:
    answer = curl("/hello", version, scheme=scheme)
    assert answer.status == 200
    assert answer.version == EXPECTED_VERSION[version]
    assert answer.body == b"hello\n"
    assert answer.header("content-type") == "text/plain"
    assert answer.header("content-length") == "6"


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_a_head(curl: Curl, scheme: str, version: str) -> None:
    answer = curl("/hello", version, "--head", scheme=scheme)
    assert answer.status == 200
    assert answer.header("content-length") == "6"


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_what_the_origin_is_told(curl: Curl, scheme: str, version: str) -> None:
    path = "/shown/a%2Fb/%C3%A9?q=1&q=2&empty=&plus=a+b"
    answer = curl(
        path,
        version,
        *("-H", "X-Custom: one", "-H", "X-Custom: two", "-H", "X-Empty;", "-A", "tester/1"),
        *("-b", "c=1; d=2", "-H", "Connection: keep-alive, X-Hop", "-H", "X-Hop: secret"),
        *("-H", "CF-Connecting-IP: 6.6.6.6", "-H", "CF-Warp-Tag-Id: forged"),
        scheme=scheme,
    )
    seen = answer.json
    assert seen["method"] == "GET"
    assert seen["target"] == path
    headers: dict[str, list[str]] = {}
    for name, value in seen["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    assert headers["host"] == [curl.url("", scheme).partition("//")[2]]
    assert headers["x-custom"] == ["one", "two"]
    assert headers["x-empty"] == [""]
    assert headers["user-agent"] == ["tester/1"]
    assert headers["cookie"] == ["c=1; d=2"]
    assert headers["cf-connecting-ip"] == ["127.0.0.1"]
    assert headers["x-forwarded-for"] == ["127.0.0.1"]
    assert headers["x-forwarded-proto"] == [scheme]
    assert len(headers["cf-ray"]) == 1
    assert headers["cf-ray"] == [answer.header("cf-ray")]
    assert len(headers["cf-warp-tag-id"]) == 1
    assert headers["cf-warp-tag-id"] != ["forged"]
    assert headers["connection"] == ["keep-alive"]
    # Named by Connection, where there is one: not for the next.
    assert headers.get("x-hop", []) == (["secret"] if version == "--http2" else [])
    assert not [name for name in headers if name.startswith("cf-cloudflared-")]


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_a_host_is_found_however_it_is_spelt(curl: Curl, scheme: str, version: str) -> None:
    for host in (curl.hostname.upper(), f"{curl.hostname}.", f"{curl.hostname}:1"):
        answer = curl("/shown", version, "-H", f"Host: {host}", scheme=scheme)
        assert answer.status == 200
        assert ["Host", host] in answer.json["headers"]


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
def test_content_with_a_length(curl: Curl, method: str, scheme: str, version: str) -> None:
    seen = curl("/shown", version, "-X", method, "-d", "some content", scheme=scheme).json
    assert seen["method"] == method
    assert seen["content"] == "some content"
    assert ["Content-Length", "12"] in seen["headers"]


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_content_without_a_length(curl: Curl, method: str, scheme: str, version: str) -> None:
    seen = curl(
        *("/shown", version, "-X", method, "-d", "some content"),
        *("-H", "Transfer-Encoding: chunked" if version == "--http1.1" else "Content-Length:"),
        scheme=scheme,
    ).json
    assert seen["content"] == "some content"
    assert ["Transfer-Encoding", "chunked"] in seen["headers"]


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_method_that_has_content_with_none(
    curl: Curl, method: str, scheme: str, version: str
) -> None:
    seen = curl("/shown", version, "-X", method, scheme=scheme).json
    assert seen["content"] == ""
    assert ["Content-Length", "0"] in seen["headers"]


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_expect_continue(curl: Curl, scheme: str, version: str) -> None:
    seen = curl("/shown", version, "-H", "Expect: 100-continue", "-d", "waits", scheme=scheme).json
    assert seen["content"] == "waits"
    assert not [name for name, _ in seen["headers"] if name.lower() == "expect"]


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
@pytest.mark.parametrize("code", [201, 204, 304, 401, 418, 500, 503])
def test_a_status_is_passed_on(curl: Curl, code: int, scheme: str, version: str) -> None:
    answer = curl(f"/status/{code}", version, scheme=scheme)
    assert answer.status == code
    assert answer.header("x-kept") == "yes"
    assert answer.body == b""
    assert answer.exit_code == 0


def test_a_redirect_is_not_followed(curl: Curl) -> None:
    answer = curl("/redirect")
    assert answer.status == 302
    assert answer.header("location") == "/hello"


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_repeated_and_unusual_response_headers(curl: Curl, scheme: str, version: str) -> None:
    answer = curl("/cookies", version, scheme=scheme)
    assert answer.all("set-cookie") == ["a=1", "b=2"]
    assert answer.header("x-latin") == "caf\xe9"


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_trailers(curl: Curl, scheme: str, version: str) -> None:
    answer = curl("/trailers", version, scheme=scheme)
    assert answer.body == b"hello"
    assert answer.header("x-sum") == "5"


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_a_part(curl: Curl, scheme: str, version: str) -> None:
    answer = curl("/part", version, "-r", "2-5", scheme=scheme)
    assert (answer.status, answer.body) == (206, b"2345")
    assert answer.header("content-range") == "bytes 2-5/10"


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_trailers_of_a_request(scene: Stage, scheme: str, version: str) -> None:
    """Our own connector takes them."""

    async def by_http2() -> None:
        visitor = await Http2Client.connect(
            "127.0.0.1",
            scene.edge.https_port,
            server_name=scene.hostname,
            context=visitor_context(),
        )
        try:
            asked = head(b"POST", scene.hostname.encode(), b"/shown/trailers")
            stream = await visitor.request(asked, end=False)
            await stream.send(b"hello")
            visitor.connection.send_headers(stream.id, [(b"x-sum", b"5")], end_stream=True)
            visitor.flush()
            assert (await stream.finished()).status == 200
        finally:
            await visitor.close()

    async def by_http1() -> None:
        async with raw_visitor(
            scene.edge.https_port if scheme == "https" else scene.edge.http_port,
            tls=scheme == "https",
            server_name=scene.hostname,
        ) as visitor:
            await visitor.send(
                f"POST /shown/trailers HTTP/1.1\r\nHost: {scene.hostname}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n".encode()
            )
            assert await visitor.status() == 200

    asyncio.run(by_http2() if version == "--http2" else by_http1())
    trailers = scene.origin.requests("/shown/trailers")[-1].trailers
    assert [(name.lower(), value) for name, value in trailers] == [("x-sum", "5")]


def test_strict_transport_security(data_dir: Path) -> None:
    """Where the application does not say; never without TLS."""
    name = "strict-transport-security"
    with stage(data_dir, edge_arguments=["--hsts=86400"]) as strict:
        for version in ("--http1.1", "--http2"):
            for path in ("/hello", "/raw/nothing"):
                said = strict.curl(path, version, scheme="https").all(name)
                assert said == ["max-age=86400"]
            said = strict.curl("/strict", version, scheme="https").all(name)
            assert said == ["max-age=1; includeSubDomains"]
        for path in ("/hello", "/raw/nothing"):
            assert strict.curl(path, scheme="http").all(name) == []

        async def malformed(tls: bool) -> bytes:
            port = strict.edge.https_port if tls else strict.edge.http_port
            async with raw_visitor(port, tls=tls, server_name=strict.hostname) as visitor:
                await visitor.send(b"nonsense\r\n\r\n")
                return (await visitor.rest()).lower()

        assert b"\r\nstrict-transport-security: max-age=86400\r\n" in asyncio.run(malformed(True))
        assert b"strict-transport" not in asyncio.run(malformed(False))


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_interim_responses_do_not_disturb(curl: Curl, scheme: str, version: str) -> None:
    answer = curl("/interim", version, scheme=scheme)
    assert (answer.status, answer.body) == (200, b"final\n")


def test_early_hints_come_early(scene: Stage) -> None:
    """RFC 8297: before the application has made up its mind."""

    async def by_http1() -> None:
        async with raw_visitor(scene.edge.http_port) as visitor:
            await visitor.send(get(scene.hostname, "/hinted?key=hints-1"))
            hints = await visitor.head()
            assert hints == (
                b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n"
                b"Link: </b.js>; rel=preload\r\n\r\n"
            )
            scene.origin.open_gate("hints-1")
            assert await visitor.status() == 200
            await visitor.send(get(scene.hostname, "/hello"))
            assert (await visitor.head()).startswith(b"final\nHTTP/1.1 200 ")

    async def by_http2() -> None:
        visitor = await Http2Client.connect(
            "127.0.0.1",
            scene.edge.https_port,
            server_name=scene.hostname,
            context=visitor_context(),
        )
        try:
            stream = await visitor.get(scene.hostname.encode(), b"/hinted?key=hints-2")
            await stream.until(lambda s: s.interim)
            assert stream.interim == [
                [
                    (b":status", b"103"),
                    (b"link", b"</a.css>; rel=preload"),
                    (b"link", b"</b.js>; rel=preload"),
                ]
            ]
            scene.origin.open_gate("hints-2")
            await stream.finished()
            assert (stream.status, bytes(stream.data)) == (200, b"final\n")
        finally:
            await visitor.close()

    asyncio.run(by_http1())
    asyncio.run(by_http2())


def test_early_hints_are_not_for_http_1_0(scene: Stage) -> None:
    async def scenario() -> None:
        async with raw_visitor(scene.edge.http_port) as visitor:
            await visitor.send(f"GET /interim HTTP/1.0\r\nHost: {scene.hostname}\r\n\r\n".encode())
            assert await visitor.status() == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_megabyte_however_framed(curl: Curl, framing: str, scheme: str, version: str) -> None:
    size = 1_000_003
    answer = curl(f"/bytes/{size}?framing={framing}", version, scheme=scheme)
    assert (answer.exit_code, answer.size) == (0, size)
    assert answer.sha256 == content.digest(size)


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_a_hundred_mebibytes_down(curl: Curl, scheme: str, version: str) -> None:
    answer = curl(f"/bytes/{HUNDRED_MIB}", version, scheme=scheme)
    assert (answer.exit_code, answer.size) == (0, HUNDRED_MIB)
    assert answer.sha256 == content.digest(HUNDRED_MIB)


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
@pytest.mark.parametrize("known_length", [True, False])
def test_a_hundred_mebibytes_up(
    curl: Curl, large_file: Path, known_length: bool, scheme: str, version: str
) -> None:
    how = ["-T", str(large_file), "-X", "POST"]
    if not known_length:
        how += ["-H", "Transfer-Encoding: chunked" if version == "--http1.1" else "Content-Length:"]
    seen = curl("/sink", version, *how, scheme=scheme).json
    assert seen == {"size": HUNDRED_MIB, "sha256": content.digest(HUNDRED_MIB)}


def test_both_directions_at_once(curl: Curl, large_file: Path) -> None:
    answer = curl("/echo", "-T", str(large_file), "-X", "POST")
    assert (answer.exit_code, answer.size) == (0, HUNDRED_MIB)
    assert answer.sha256 == content.digest(HUNDRED_MIB)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refusal_that_comes_before_the_content(curl: Curl, large_file: Path, scheme: str) -> None:
    """The visitor learns of it, though it is still sending."""
    answer = curl("/early", "--http1.1", "-T", str(large_file), "-H", "Expect:", scheme=scheme)
    assert (answer.status, answer.body) == (403, b"no\n")


def test_a_refusal_that_comes_before_the_content_over_http2(scene: Stage) -> None:
    async def scenario() -> None:
        visitor = await Http2Client.connect(
            "127.0.0.1",
            scene.edge.https_port,
            server_name=scene.hostname,
            context=visitor_context(),
        )
        try:
            stream = await visitor.request(
                head(b"POST", scene.hostname.encode(), b"/early"), end=False
            )
            await stream.send(bytes(HUNDRED_MIB // 10))
            await stream.finished()
            assert (stream.status, bytes(stream.data)) == (403, b"no\n")
            # RFC 9113 §8.1: complete, and the rest is not wanted.
            await stream.until(lambda s: s.reset == ErrorCodes.NO_ERROR)
            again = await visitor.get(scene.hostname.encode(), b"/hello")
            assert bytes((await again.finished()).data) == b"hello\n"
        finally:
            await visitor.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_events_arrive_as_they_are_written(
    curl: Curl, origin: Origin, scheme: str, version: str
) -> None:
    key = f"{scheme}{version}"
    with curl.begun(f"/events?key={key}", version, scheme=scheme) as visit:
        assert visit.stdout is not None
        for number in range(3):
            # The origin writes the next event only after this one has been seen.
            assert visit.stdout.readline() == b"data: event %d\n" % number
            assert visit.stdout.readline() == b"\n"
            origin.open_gate(f"{key}-{number + 1}")
        assert visit.stdout.read() == b""
        assert visit.wait() == 0


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_the_visitors_connection_is_kept(curl: Curl, scheme: str, version: str) -> None:
    answers = curl.several(
        ["/hello", "/status/204", "/bytes/100000", "/hello"], version, scheme=scheme
    )
    assert [answer.status for answer in answers] == [200, 204, 200, 200]
    assert [answer.connections for answer in answers] == [1, 0, 0, 0]


def test_connections_to_the_origin_are_kept(curl: Curl, origin: Origin) -> None:
    curl("/hello")
    before = origin.connections
    answers = curl.several(["/shown"] * 20)
    assert [answer.status for answer in answers] == [200] * 20
    assert origin.connections == before


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_an_unknown_host_gets_a_page(
    edge: EdgeProcess, accept: str, scheme: str, version: str
) -> None:
    stranger = Curl(edge, "no-such-tunnel.localhost")
    # No certificate is made for a name that nobody serves.
    answer = stranger("/<script>", version, "-k", "-H", f"Accept: {accept}", scheme=scheme)
    assert answer.status == 404
    assert answer.header("cf-ray")
    assert answer.header("cache-control") == "no-store"
    if accept == "application/json":
        assert answer.header("content-type") == "application/json"
        assert answer.json["status"] == 404
        assert answer.json["type"] == "urn:underpass:error:unknown-host"
        assert answer.json["host"].startswith("no-such-tunnel.localhost")
    else:
        assert answer.header("content-type") == "text/html; charset=utf-8"
        assert b"Nothing is served under this name" in answer.body
        assert b"no-such-tunnel.localhost" in answer.body
        assert b"<script>" not in answer.body


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_a_tunnel_without_a_connector_says_so(edge: EdgeProcess, scheme: str, version: str) -> None:
    made = subprocess.run(
        ["curl", "-q", "-sS", "-X", "POST", f"http://{edge.api}/tunnel"],
        capture_output=True,
        check=True,
    )
    hostname = json.loads(made.stdout)["result"]["hostname"].partition(":")[0]
    answer = Curl(edge, hostname)("/", version, "-H", "Accept: application/json", scheme=scheme)
    assert answer.status == 503
    assert int(answer.header("retry-after") or "") > 0
    assert answer.json["type"] == "urn:underpass:error:no-link"


@pytest.mark.parametrize(("scheme", "version"), LISTENERS)
def test_many_at_once(scene: Stage, scheme: str, version: str) -> None:
    """Two thousand requests, a hundred at a time, every one answered."""
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed (Debian: nghttp2-client)")
    clients, streams = (100, 1) if version == "--http1.1" else (10, 10)
    done = subprocess.run(
        [
            *("h2load", "-n", "2000", "-c", str(clients), "-m", str(streams), "-t", "1"),
            *(("--h1",) if version == "--http1.1" else ()),
            *(
                "--connect-to",
                f"127.0.0.1:{_port(scene, scheme)}",
                scene.curl.url("/hello", scheme),
            ),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed" in done.stdout
    assert "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx" in done.stdout


def _port(scene: Stage, scheme: str) -> int:
    return scene.edge.https_port if scheme == "https" else scene.edge.http_port


@pytest.mark.parametrize("loop", ["asyncio"])
def test_everything_runs_on_plain_asyncio_too(data_dir: Path, large_file: Path, loop: str) -> None:
    with stage(data_dir, environment={"UNDERPASS_LOOP": loop}) as plain:
        curl = plain.curl
        for scheme, version in (
            ("http", "--http1.1"),
            ("https", "--http1.1"),
            ("https", "--http2"),
        ):
            test_a_get(curl, scheme, version)
            test_content_without_a_length(curl, "POST", scheme, version)
            test_a_megabyte_however_framed(curl, "chunked", scheme, version)
            test_events_arrive_as_they_are_written(curl, plain.origin, scheme, version)
            test_the_visitors_connection_is_kept(curl, scheme, version)
            test_an_unknown_host_gets_a_page(plain.edge, "text/html", scheme, version)
        test_a_refusal_that_comes_before_the_content(curl, large_file, "https")
        test_a_refusal_that_comes_before_the_content_over_http2(plain)
        test_a_hundred_mebibytes_down(curl, "https", "--http2")
        test_a_hundred_mebibytes_up(curl, large_file, True, "https", "--http2")
