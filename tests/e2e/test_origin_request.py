"""Settings of `originRequest` about HTTP, as an origin sees them (docs: configuration §5)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from peers.bad_visitor import get, raw_visitor
from peers.curl import Answer, Curl
from peers.forward_proxy import ForwardProxy
from peers.hinting_origin import HINTS, HintingOrigin
from peers.http2_client import Http2Client, visitor_context
from peers.origin import Origin
from peers.patience import PATIENCE, soon
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running
from websockets.asyncio.client import connect

from underpass.wire.credentials import Credentials, write_credentials_file

HOSTS = ("*.apps.test",)


@dataclass(frozen=True)
class World:
    """An edge with a tunnel for `*.apps.test`, and an authority for origins."""

    edge: EdgeProcess
    credentials: Credentials
    authority: trustme.CA
    files: Path

    @property
    def ca(self) -> str:
        return str(self.files / "ca.pem")

    def context(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        return context

    def curl(self, host: str) -> Curl:
        return Curl(self.edge, f"{host}.apps.test")

    @contextlib.contextmanager
    def serving(
        self, service: str, environment: dict[str, str] | None = None, **settings: Any
    ) -> Iterator[ConnectorProcess]:
        """A connector with one rule."""
        configuration = self.files / "config.yml"
        configuration.write_text(
            yaml.safe_dump(
                {
                    "tunnel": str(self.credentials.tunnel_id),
                    "credentials-file": str(self.files / "credentials.json"),
                    "ingress": [{"service": service, "originRequest": settings}],
                }
            )
        )
        connector = ConnectorProcess(
            [f"--config={configuration}", *self.edge.edge_arguments, "run"],
            environment=environment,
        )
        with running(connector):
            connector.ready()
            yield connector


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    files = tmp_path_factory.mktemp("world")
    credentials = new_tunnel(files / "data", *HOSTS)
    write_credentials_file(files / "credentials.json", credentials)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    edge = EdgeProcess(files / "data")
    with running(edge):
        yield World(edge, credentials, authority, files)


@dataclass
class Named:
    """A TLS origin that has a certificate for some names, and notes which were asked for."""

    world: World
    names: tuple[str, ...]
    asked: list[str | None] = field(default_factory=list)

    def context(self) -> ssl.SSLContext:
        context = self.world.context(*self.names)

        def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
            self.asked.append(name)

        context.sni_callback = note
        return context


def assert_untrusted(answer: Answer, connector: ConnectorProcess) -> None:
    assert answer.status == 502
    assert answer.header("underpass-cause") == "tls"
    assert "mismatch" in connector.wait_for("Unable to reach the origin service")["error"]


class TestMatchSNIToHost:
    def test_the_host_that_goes_out_is_the_name_on_the_certificate(self, world: World) -> None:
        named = Named(world, ("one.apps.test", "two.apps.test"))
        with (
            Origin(named.context()) as origin,
            world.serving(origin.url, matchSNItoHost=True, caPool=world.ca) as connector,
        ):
            for _ in range(3):
                for host in ("one", "two"):
                    assert world.curl(host)("/hello").body == b"hello\n"
            # A connection for each name, used for no other, and used again.
            assert named.asked == ["one.apps.test", "two.apps.test"]
            assert origin.connections == 2
            assert_untrusted(world.curl("three")("/hello"), connector)

    def test_after_http_host_header_and_without_its_port(self, world: World) -> None:
        named = Named(world, ("inner.test",))
        with (
            Origin(named.context()) as origin,
            world.serving(
                origin.url,
                matchSNItoHost=True,
                httpHostHeader="inner.test:8443",
                originServerName="of-no-account.test",
                caPool=world.ca,
            ),
        ):
            answer = world.curl("one")("/shown")
            headers = {name.lower(): value for name, value in answer.json["headers"]}
            assert headers["host"] == "inner.test:8443"
            assert named.asked == ["inner.test"]

    def test_a_host_no_certificate_can_be_for(self, world: World) -> None:
        with (
            Origin(world.context("one.apps.test")) as origin,
            world.serving(
                origin.url, matchSNItoHost=True, httpHostHeader="a..b", caPool=world.ca
            ) as connector,
        ):
            answer = world.curl("one")("/hello")
            assert (answer.status, answer.header("underpass-cause")) == (502, "tls")
            connector.wait_for("Unable to reach the origin service")


@pytest.mark.parametrize(
    ("settings", "name"), [({}, "localhost"), ({"originServerName": "inner.test"}, "inner.test")]
)
def test_the_name_of_a_unix_socket_with_tls(
    world: World, settings: dict[str, str], name: str
) -> None:
    named = Named(world, (name,))
    path = world.files / f"{name}.sock"
    with (
        Origin(named.context(), path) as origin,
        world.serving(f"unix+tls:{path}", caPool=world.ca, **settings),
    ):
        for host in ("one", "two"):
            assert world.curl(host)("/hello").body == b"hello\n"
        assert (named.asked, origin.connections) == ([name], 1)


class TestDisableChunkedEncoding:
    @pytest.fixture
    def origin(self, world: World) -> Iterator[Origin]:
        with Origin() as origin, world.serving(origin.url, disableChunkedEncoding=True):
            yield origin

    def headers(self, answer: Answer) -> dict[str, str]:
        return {name.lower(): value for name, value in answer.json["headers"]}

    @pytest.mark.parametrize("version", ["--http1.1", "--http2"])
    def test_content_without_a_length_gets_one(
        self, world: World, origin: Origin, version: str
    ) -> None:
        how = "Transfer-Encoding: chunked" if version == "--http1.1" else "Content-Length:"
        answer = world.curl("one")("/shown", version, "-d", "some content", "-H", how)
        assert answer.json["content"] == "some content"
        assert self.headers(answer)["content-length"] == "12"
        assert "transfer-encoding" not in self.headers(answer)

    def test_content_with_a_length_may_have_any(
        self, world: World, origin: Origin, tmp_path: Path
    ) -> None:
        (tmp_path / "content").write_bytes(bytes(3_000_000))
        answer = world.curl("one")("/sink", "--data-binary", f"@{tmp_path / 'content'}")
        assert answer.json["size"] == 3_000_000

    @pytest.mark.parametrize(("size", "status"), [(524_288, 200), (524_289, 411)])
    def test_content_without_a_length_may_not(
        self, world: World, origin: Origin, tmp_path: Path, size: int, status: int
    ) -> None:
        (tmp_path / "content").write_bytes(bytes(size))
        answer = world.curl("one")(
            "/sink",
            *("--http1.1", "-H", "Transfer-Encoding: chunked", "-H", "Expect:"),
            *("--data-binary", f"@{tmp_path / 'content'}"),
        )
        assert answer.status == status
        if status == 411:
            assert b"Content-Length" in answer.body

    def test_a_request_without_content(self, world: World, origin: Origin) -> None:
        assert world.curl("one")("/hello").body == b"hello\n"
        assert world.curl("one")("/shown", "-X", "POST").json["content"] == ""


@pytest.mark.parametrize("settings", [{"keepAliveConnections": 0}, {"keepAliveTimeout": "0s"}])
def test_nothing_kept_alive_means_some(world: World, settings: dict[str, Any]) -> None:
    """0 connections are "no total limit, 2 for each host"; 0 s are for ever."""
    with Origin() as origin, world.serving(origin.url, **settings):
        answers = world.curl("one").several(["/hello"] * 5)
        assert [answer.status for answer in answers] == [200] * 5
        assert origin.connections == 1


class TestHttp2Origin:
    @pytest.mark.parametrize("tls", [False, True])
    def test_a_websocket_is_asked_for_in_http1(self, world: World, tls: bool) -> None:
        context = world.context("127.0.0.1") if tls else None
        with (
            Origin(context) as origin,
            world.serving(origin.url, http2Origin=True, caPool=world.ca),
        ):

            async def scenario() -> None:
                async with connect(
                    f"ws://one.apps.test:{world.edge.http_port}/ws",
                    host="127.0.0.1",
                    port=world.edge.http_port,
                    proxy=None,
                    open_timeout=PATIENCE,
                ) as socket:
                    message = os.urandom(100_000)
                    await socket.send(message)
                    assert await soon(socket.recv()) == message

            asyncio.run(scenario())

    def test_with_tls_an_origin_that_picks_http1_is_kept(self, world: World) -> None:
        context = world.context("127.0.0.1")
        context.set_alpn_protocols(["http/1.1"])
        with (
            Origin(context) as origin,
            world.serving(origin.url, http2Origin=True, caPool=world.ca),
        ):
            answers = world.curl("one").several(["/hello"] * 5)
            assert [answer.body for answer in answers] == [b"hello\n"] * 5
            assert origin.connections == 1

    def test_early_hints_come_early(self, world: World) -> None:
        """To visitors of HTTP/1.1 and HTTP/2, while the origin has not made up its mind."""

        async def scenario(origin: HintingOrigin) -> None:
            visitor = await Http2Client.connect(
                "127.0.0.1",
                world.edge.https_port,
                server_name="one.apps.test",
                context=visitor_context(),
            )
            try:
                async with raw_visitor(world.edge.http_port) as other:
                    stream = await visitor.get(b"one.apps.test", b"/")
                    await other.send(get("one.apps.test", "/"))
                    await stream.until(lambda s: s.interim)
                    assert stream.interim == [[(b":status", b"103"), *HINTS]]
                    assert await other.head() == (
                        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n"
                        b"Link: </b.js>; rel=preload\r\n\r\n"
                    )
                    assert stream.status == 0, "there is no response yet"
                    origin.decide()
                    await stream.finished()
                    assert (stream.status, bytes(stream.data)) == (200, b"final\n")
                    assert await other.status() == 200
            finally:
                await visitor.close()

        with (
            HintingOrigin(world.context("127.0.0.1")).serving() as origin,
            world.serving(f"https://127.0.0.1:{origin.port}", http2Origin=True, caPool=world.ca),
        ):
            asyncio.run(scenario(origin))


class TestProxies:
    """Services have names here that only the proxy knows."""

    @pytest.fixture
    def proxy(self) -> Iterator[ForwardProxy]:
        with ForwardProxy() as proxy:
            yield proxy

    def environment(self, proxy: ForwardProxy, **more: str) -> dict[str, str]:
        return {"HTTP_PROXY": proxy.url, "HTTPS_PROXY": proxy.url, **more}

    def test_http_is_asked_of_the_proxy_for_the_services_host(
        self, world: World, proxy: ForwardProxy
    ) -> None:
        with world.serving("http://app.internal:8080", self.environment(proxy)):
            answers = world.curl("one").several(["/p?q", "/p?r"], "-H", "Proxy-Authorization: x")
            for answer, path in zip(answers, ("/p?q", "/p?r"), strict=True):
                lines = answer.body.decode().split("\n")
                assert lines[0] == f"GET http://app.internal:8080{path} HTTP/1.1"
                assert lines[1].startswith("Host: one.apps.test")
                assert [line for line in lines if line.startswith("Proxy-")] == [
                    "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ="
                ]

    def test_https_goes_through_a_tunnel(self, world: World, proxy: ForwardProxy) -> None:
        with (
            Origin(world.context("app.internal")) as origin,
            world.serving("https://app.internal", self.environment(proxy), caPool=world.ca),
        ):
            proxy.ways["app.internal:443"] = origin.port
            answers = world.curl("one").several(["/hello"] * 3)
            assert [answer.body for answer in answers] == [b"hello\n"] * 3
            assert proxy.asked == [
                [
                    "CONNECT app.internal:443 HTTP/1.1",
                    "Host: app.internal:443",
                    "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=",
                ]
            ]

    @pytest.mark.parametrize("alpn", [["http/1.1"], None])
    def test_http2_origins_too(
        self, world: World, proxy: ForwardProxy, alpn: list[str] | None
    ) -> None:
        context = world.context("app.internal")
        if alpn:
            context.set_alpn_protocols(alpn)
        with (
            Origin(context) as origin,
            world.serving(
                "https://app.internal", self.environment(proxy), caPool=world.ca, http2Origin=True
            ),
        ):
            proxy.ways["app.internal:443"] = origin.port
            assert world.curl("one")("/hello").body == b"hello\n"

    def test_grpc_through_a_tunnel(self, world: World, proxy: ForwardProxy) -> None:
        pytest.importorskip("grpc", reason="grpcio is not installed")
        from peers.grpc_server import Call, GrpcServer, channel

        leaf = world.authority.issue_cert("app.internal")
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        for scheme, port, pair in (
            ("https", 443, (leaf.private_key_pem.bytes(), chain)),
            ("http", 80, None),
        ):
            with (
                GrpcServer(pair=pair) as server,
                world.serving(
                    f"{scheme}://app.internal",
                    self.environment(proxy),
                    caPool=world.ca,
                    http2Origin=True,
                ),
                channel(world.edge.https_port, "one.apps.test", world.edge.ca) as visitor,
            ):
                proxy.ways[f"app.internal:{port}"] = server.port
                assert Call(visitor).unary(b"message", timeout=PATIENCE) == b"message"

    def test_a_refusal_is_quoted(self, world: World, proxy: ForwardProxy) -> None:
        with world.serving("https://other.internal", self.environment(proxy)) as connector:
            answer = world.curl("one")("/")
            assert (answer.status, answer.header("underpass-cause")) == (502, "dial")
            line = connector.wait_for("Unable to reach the origin service")
            assert "403 Not That One" in line["error"]

    def test_loopback_and_exceptions_are_reached_directly(
        self, world: World, proxy: ForwardProxy
    ) -> None:
        with (
            Origin() as origin,
            world.serving(origin.url, self.environment(proxy)),
        ):
            assert world.curl("one")("/hello").body == b"hello\n"
        with world.serving(
            "http://app.internal", self.environment(proxy, NO_PROXY="internal")
        ) as connector:
            assert world.curl("one")("/").status == 502
            connector.wait_for("Unable to reach the origin service")
        assert proxy.asked == []

    def test_a_proxy_that_cannot_be_used_is_refused_at_the_start(self, world: World) -> None:
        configuration = world.files / "config.yml"
        with world.serving("http://app.internal"):
            pass
        connector = ConnectorProcess(
            [f"--config={configuration}", *world.edge.edge_arguments, "run"],
            environment={"HTTP_PROXY": "socks5://127.0.0.1:1080"},
        )
        assert connector.wait() == 1
        assert "rule #1" in connector.log
        assert "socks5://" in connector.log
