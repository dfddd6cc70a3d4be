"""The management host inside a tunnel, through our edge, and commands that ask it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peers.curl import Answer, Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually, soon
from peers.processes import UNDERPASS, ConnectorProcess, EdgeProcess, Process, new_tunnel, running
from rig.management import management_token
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

HOSTNAME = "app.example.test"
# A name that every system resolves, so that stock clients find the edge by it.
MANAGEMENT = "localhost"


@dataclass
class Managed:
    """A tunnel whose edge leads a hostname to the management service."""

    edge: EdgeProcess
    connector: Process
    origin: Origin
    tunnel_id: str

    @property
    def visitor(self) -> Curl:
        return Curl(self.edge, HOSTNAME)

    def ask(self, path: str, *more: str, token: str | None = None) -> Answer:
        token = management_token() if token is None else token
        return Curl(self.edge, MANAGEMENT)(f"{path}?access_token={token}", *more)

    def logs(self, actor: str = "somebody", **options: Any) -> connect:
        return connect(
            f"wss://{MANAGEMENT}:{self.edge.https_port}/logs?access_token={management_token(actor)}",
            host="127.0.0.1",
            port=self.edge.https_port,
            ssl=ssl.create_default_context(cafile=self.edge.ca),
            proxy=None,
            open_timeout=PATIENCE,
            **options,
        )

    @property
    def host(self) -> str:
        return f"{MANAGEMENT}:{self.edge.https_port}"


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def managed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Managed]:
    data_dir = tmp_path_factory.mktemp("managed") / "data"
    credentials = new_tunnel(data_dir, HOSTNAME, MANAGEMENT)
    edge = EdgeProcess(data_dir)
    with Origin() as origin:
        connector = ConnectorProcess(
            ["run", f"--url={origin.url}"],
            settings=[
                *(edge.edge_arguments[0],) * 2,
                *(f"--cacert={edge.ca}", "--ha-connections=2", f"--workers={request.param}"),
                *(f"--management-hostname={MANAGEMENT}", "--label=the-one"),
            ],
            environment={"TUNNEL_TOKEN": credentials.to_token()},
        )
        with running(connector, edge):
            connector.ready(2)
            yield Managed(edge, connector, origin, str(credentials.tunnel_id))


def start(**filters: Any) -> str:
    return json.dumps({"type": "start_streaming", "filters": filters})


async def until(socket: ClientConnection, message: str) -> dict[str, Any]:
    """The next record with this in its message."""
    while True:
        for log in json.loads(await soon(socket.recv()))["logs"]:
            if message in log.get("message", ""):
                return dict(log)


async def closed_with(socket: ClientConnection) -> tuple[int, str]:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await soon(socket.recv())
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


class TestPages:
    def test_without_a_token_nothing_is_told(self, managed: Managed) -> None:
        for path in ("/ping", "/logs", "/nothing"):
            for token in ("", "no-token", management_token("")):
                answer = managed.ask(path, token=token)
                assert (answer.status, answer.header("content-type")) == (400, "application/json")
                assert answer.json == {
                    "errors": [{"code": 1001, "message": "missing access_token query parameter"}]
                }

    def test_ping(self, managed: Managed) -> None:
        assert (managed.ask("/ping").status, managed.ask("/ping").body) == (200, b"")
        assert managed.ask("/ping", "--head").status == 200

    def test_host_details(self, managed: Managed) -> None:
        answer = managed.ask("/host_details")
        connector = managed.connector.wait_for("Generated Connector ID")["message"].split()[-1]
        assert answer.header("content-type") == "application/json"
        assert answer.json == {
            "connector_id": connector,
            "ip": "127.0.0.1",
            "hostname": "custom:the-one",
        }

    def test_metrics_are_those_of_the_whole_connector(self, managed: Managed) -> None:
        text = managed.ask("/metrics").body.decode()
        assert re.search(r"^cloudflared_tunnel_ha_connections 2$", text, re.MULTILINE)

    def test_what_processes_do(self, managed: Managed) -> None:
        assert b"thread MainThread:" in managed.ask("/debug/stacks").body
        assert b"tracked objects, by type:" in managed.ask("/debug/memory").body

    def test_other_requests(self, managed: Managed) -> None:
        assert managed.ask("/nothing").status == 404
        answer = managed.ask("/ping", "-X", "POST")
        assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
        assert managed.ask("/ping", "-X", "OPTIONS").status == 405
        assert managed.ask("/logs", "-X", "POST").status == 405
        assert managed.ask("/logs").status == 426

    def test_only_the_dashboard_may_read_answers_in_a_browser(self, managed: Managed) -> None:
        answer = managed.ask("/ping", "-H", "Origin: https://dash.cloudflare.com")
        assert answer.header("access-control-allow-origin") == "https://dash.cloudflare.com"
        assert answer.header("access-control-allow-credentials") == "true"
        assert answer.header("vary") == "Origin"
        for origin in (
            "https://example.com",
            "http://dash.cloudflare.com",
            "https://cloudflare.com.example",
            "https://evilcloudflare.com",
        ):
            answer = managed.ask("/ping", "-H", f"Origin: {origin}")
            assert (answer.status, answer.header("access-control-allow-origin")) == (200, None)

    def test_the_rules_never_see_that_host(self, managed: Managed) -> None:
        for path in ("/ping", "/nothing", "/hello"):
            managed.ask(path)
        assert managed.origin.requests("/ping") == []
        assert managed.origin.requests("/hello") == []


def test_diagnostics_can_be_off_and_the_service_too(data_dir: Path) -> None:
    credentials = new_tunnel(data_dir, MANAGEMENT)
    edge = EdgeProcess(data_dir)
    with Origin() as origin:

        def connector(*settings: str) -> ConnectorProcess:
            return ConnectorProcess(
                ["run", f"--url={origin.url}"],
                settings=[*edge.edge_arguments, "--ha-connections=1", *settings],
                environment={"TUNNEL_TOKEN": credentials.to_token()},
            ).ready()

        curl = Curl(edge, MANAGEMENT)
        query = f"?access_token={management_token()}"
        with running(edge):
            with running(
                connector(f"--management-hostname={MANAGEMENT}", "--management-diagnostics=false")
            ):
                assert curl(f"/metrics{query}").status == 404
                assert curl(f"/debug/stacks{query}").status == 404
                assert curl(f"/ping{query}").status == 200
            with running(connector("--management-hostname=")):
                assert curl(f"/hello{query}").body == b"hello\n"


class TestLogs:
    def test_requests_are_streamed_from_every_process(self, managed: Managed) -> None:
        async def scenario() -> None:
            async with managed.logs() as socket:
                await socket.send(start())
                await until(socket, "Streaming logs")
                # Every process has answered, and had heard before that somebody listens.
                await asyncio.to_thread(managed.ask, "/debug/stacks")
                for number in range(4):  # both links have had some
                    await asyncio.to_thread(managed.visitor, f"/hello?{number}")
                    log = await until(socket, f"/hello?{number} HTTP/2.0")
                    assert (log["event"], log.get("level")) == ("http", None)
                    assert log["fields"]["originService"] == managed.origin.url
                    assert log["fields"]["path"] == "/hello"
                await asyncio.to_thread(managed.visitor, "/raw/nothing")
                log = await until(socket, "Unable to reach the origin service")
                assert (log["event"], log["level"]) == ("http", "error")

        asyncio.run(scenario())
        # The connector's own log has what it was told to have.
        assert not managed.connector.has_logged("GET https://")
        assert managed.connector.has_logged("Unable to reach the origin service")

    def test_filters_are_changed_and_streaming_stops_and_goes_on(self, managed: Managed) -> None:
        async def scenario() -> None:
            async with managed.logs() as socket:
                await socket.send(start(level="error"))
                await socket.send('{"type":"stop_streaming"}')
                await socket.send(start(events=["cloudflared"]))
                assert (await until(socket, "Streaming logs"))["time"].endswith("Z")

        asyncio.run(scenario())

    def test_a_session_of_somebody_else_is_refused(self, managed: Managed) -> None:
        async def scenario() -> None:
            async with managed.logs() as first:
                await first.send(start())
                await until(first, "Streaming logs")
                async with managed.logs("somebody-else") as second:
                    await second.send(start())
                    assert await closed_with(second) == (
                        4002,
                        "limit exceeded for streaming sessions",
                    )
                async with managed.logs() as third:
                    await third.send(start())
                    assert (await closed_with(first))[0] == 1000
                    await until(third, "Streaming logs")

        asyncio.run(scenario())
        managed.connector.wait_for("Another management session request was attempted")

    def test_pages_of_other_sites_cannot_open_it(self, managed: Managed) -> None:
        async def scenario() -> None:
            for origin in ("https://example.com", "https://cloudflare.com.example"):
                with pytest.raises(InvalidStatus) as refused:
                    await managed.logs(origin=origin)
                assert refused.value.response.status_code == 403
            async with managed.logs(origin="https://dash.cloudflare.com"):
                pass  # it is open

        asyncio.run(scenario())

    def test_nonsense_ends_it(self, managed: Managed) -> None:
        async def scenario() -> None:
            async with managed.logs() as socket:
                await socket.send('{"type":"sing"}')
                assert await closed_with(socket) == (
                    1003,
                    "invalid client message type was provided: sing",
                )

        asyncio.run(scenario())


class Tail(Process):
    """A `tail` that runs."""

    def __init__(self, command: Sequence[str], managed: Managed, *more: str) -> None:
        super().__init__(
            [
                *(*command, "tail", "--management-hostname", managed.host, "--output", "json"),
                *("--token", management_token("tail"), *more, managed.tunnel_id),
            ],
            {"SSL_CERT_FILE": str(managed.edge.ca)},
        )


def cloudflared() -> str:
    path = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not path:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    return path


def follow_and_interrupt(tail: Tail, managed: Managed) -> None:
    eventually(
        lambda: managed.visitor("/hello?followed").status and tail.has_logged("/hello?followed"),
        "the request is shown",
    )
    tail.signal(signal.SIGINT)
    tail.check()


def test_our_tail_follows_our_connector(managed: Managed) -> None:
    follow_and_interrupt(Tail(UNDERPASS, managed), managed)


@pytest.mark.interop
def test_a_stock_tail_follows_our_connector(managed: Managed) -> None:
    follow_and_interrupt(Tail([cloudflared()], managed), managed)


@pytest.mark.interop
def test_our_tail_follows_a_stock_connector(data_dir: Path, tmp_path: Path) -> None:
    binary = cloudflared()
    credentials = new_tunnel(data_dir, HOSTNAME, MANAGEMENT)
    edge = EdgeProcess(data_dir)
    with Origin() as origin:
        connector = Process(
            [
                *(binary, "tunnel", "--output=json", "--no-autoupdate", "--no-prechecks"),
                *("--protocol=http2", "--metrics=127.0.0.1:0", *edge.edge_arguments),
                *(edge.edge_arguments[0], f"--management-hostname={MANAGEMENT}", "run"),
                *("--token", credentials.to_token(), "--url", origin.url),
            ]
        )
        with running(connector, edge):
            connector.wait_for("Registered tunnel connection")
            managed = Managed(edge, connector, origin, str(credentials.tunnel_id))
            follow_and_interrupt(Tail(UNDERPASS, managed, "--event", "http"), managed)


class TestTailFails:
    """Exit code 1, and the reason on standard error."""

    def run(self, managed: Managed, *arguments: str, **environment: str) -> tuple[int, str]:
        tail = Process(
            [*UNDERPASS, "tail", *arguments], {"SSL_CERT_FILE": str(managed.edge.ca), **environment}
        )
        return tail.wait(), tail.log

    def test_somebody_else_streams(self, managed: Managed) -> None:
        async def scenario() -> tuple[int, str]:
            async with managed.logs() as socket:
                await socket.send(start())
                await until(socket, "Streaming logs")
                return await asyncio.to_thread(
                    self.run,
                    managed,
                    f"--token={management_token('other')}",
                    f"--management-hostname={managed.host}",
                )

        code, log = asyncio.run(scenario())
        assert code == 1
        assert "received remote closure: (4002) limit exceeded for streaming sessions" in log

    def test_the_answer_is_no_websocket(self, managed: Managed) -> None:
        # The visitors' host: an application that knows no WebSocket at /logs.
        code, log = self.run(
            managed,
            f"--token={management_token()}",
            TUNNEL_MANAGEMENT_HOSTNAME=f"unknown.localhost:{managed.edge.https_port}",
        )
        assert code == 1
        assert "cannot connect to unknown.localhost" in log

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--token=nonsense"], "the management token is not a signed JSON Web Token"),
            (["--level=loud", "--token=x"], "--level 'loud' is not debug, info, warn or error"),
            (["--event=http,tcp", "--token=x"], "--event 'http,tcp' is not cloudflared"),
            (["--sample=0", "--token=x"], "--sample 0 is not a number above 0"),
            (["--connector-id=x", "--token=x"], "--connector-id: 'x' is not a UUID"),
            (["not-an-id"], "'not-an-id' is not a UUID"),
        ],
    )
    def test_the_command_line_makes_no_sense(
        self, managed: Managed, arguments: list[str], reason: str
    ) -> None:
        code, log = self.run(managed, *arguments)
        assert code == 1
        assert reason in log
