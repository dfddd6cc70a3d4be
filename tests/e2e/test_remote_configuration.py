"""Configuration that the edge pushes: applied under running requests, or refused; answered in
either case."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peers.curl import Answer, Curl
from peers.edge_stand_in import EdgeStandIn, Link
from peers.http2_client import Stream, head
from peers.origin import Origin
from peers.patience import eventually_async, soon
from peers.processes import ConnectorProcess, Process, running

from underpass.edge.configuration import ConfigurationNotTakenError
from underpass.edge.links import EdgeLink
from underpass.edge.options import EdgeOptions
from underpass.edge.server import Edge
from underpass.wire.credentials import Credentials
from underpass.wire.remote_config import MAX_UPDATE_BYTES

HOSTNAME = b"app.example.test"
UPGRADE = (b"cf-cloudflared-proxy-connection-upgrade", b"update-configuration")
VERSION = "cloudflared_orchestration_config_version"
REFUSED = "underpass_configuration_refused"


def configuration(*services: str, **more: Any) -> dict[str, Any]:
    """The JSON of rules, all but the last for hosts of their own."""
    rules = [
        {"id": str(number), "hostname": f"{number}.example.test", "service": service}
        for number, service in enumerate(services)
    ]
    return {"ingress": [*rules[:-1], {"service": services[-1]}], **more}


@dataclass
class Pushed:
    """A connector at a stand-in edge, with all its links."""

    connector: ConnectorProcess
    links: list[Link]
    file: Path

    async def send(self, body: bytes, link: int = 0) -> Stream:
        """Send the body of an update, whatever it is; its answer."""
        fields = head(b"PUT", b"configuration", b"/", UPGRADE)
        stream = await self.links[link].request(fields, end=False)
        await stream.send(body, end=True)
        return await stream.finished()

    async def push(self, version: int, config: Any, link: int = 0) -> dict[str, Any]:
        """Send an update; the connector's reply."""
        body = json.dumps({"version": version, "config": config}).encode()
        answer = await self.send(body, link)
        assert answer.status == 200
        assert not [name for name, _ in answer.headers if name.startswith(b"cf-")]
        reply: dict[str, Any] = json.loads(answer.data)
        return reply

    async def status(self, link: int, host: bytes = HOSTNAME, path: bytes = b"/hello") -> int:
        """What a visitor who comes by a link is answered."""
        stream = await self.links[link].request(head(b"GET", host, path))
        return (await stream.finished()).status

    async def metric(self, name: str, labels: str = "") -> float:
        return await asyncio.to_thread(self.connector.metric, name, labels)


@contextlib.asynccontextmanager
async def stopped_after(*processes: Process) -> AsyncIterator[None]:
    """As `running`, on the loop that the processes may wait for."""
    stack = contextlib.ExitStack()
    stack.enter_context(running(*processes))
    try:
        yield
    except BaseException:
        for process in processes:
            print(f"\n--- {type(process).__name__}\n{process.log}")
        raise
    finally:
        await asyncio.to_thread(stack.close)


@contextlib.asynccontextmanager
async def pushed(
    directory: Path, rules: str, *, workers: int = 1, settings: Sequence[str] = ()
) -> AsyncIterator[Pushed]:
    """`rules` are those of the file."""
    file = directory / "config.yml"
    file.write_text(f"ingress: {rules}\n")
    stand_in = EdgeStandIn(directory)
    async with stand_in.listening():
        connector = ConnectorProcess(
            [
                *(stand_in.arguments[0],) * 2,
                *(stand_in.arguments[1], f"--workers={workers}", "--ha-connections=2"),
                *(f"--config={file}", *settings, "run"),
            ],
            environment={
                "TUNNEL_TOKEN": Credentials("account", os.urandom(32), uuid.uuid4()).to_token()
            },
        )
        async with stopped_after(connector):
            links = [await stand_in.registered_link()]
            links.append(await stand_in.link())
            await links[1].serve_control_stream(lambda: bool(links[1].requests))
            await asyncio.to_thread(connector.ready, 2)
            ending = [asyncio.create_task(end_with(link)) for link in links]
            yield Pushed(connector, links, file)
        await asyncio.gather(*ending)


async def end_with(link: Link) -> None:
    """Close a link once its connector has unregistered it, as an edge does."""
    await link.serve_control_stream(lambda: link.unregistered)
    await link.client.close()


WORKERS = pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])


@WORKERS
def test_a_newer_version_is_in_force_on_every_link(tmp_path: Path, workers: int) -> None:
    async def scenario() -> None:
        async with pushed(tmp_path, "[{service: 'http_status:418'}]", workers=workers) as at:
            features = at.links[0].requests[0].options.client.features
            assert "allow_remote_config" in features
            assert [await at.status(link) for link in (0, 1)] == [418, 418]
            for version, status, link in ((0, 200, 0), (1, 201, 1), (7, 202, 0)):
                config = configuration("http_status:500", f"http_status:{status}")
                reply = await at.push(version, config, link)
                assert reply == {"lastAppliedVersion": version, "err": None}
                assert [await at.status(link) for link in (0, 1)] == [status, status]
                assert await at.status(1 - link, b"0.example.test") == 500
            assert await at.metric(VERSION) == 7
            assert await at.metric(REFUSED, 'source="edge"') == 0

    asyncio.run(scenario())


@WORKERS
def test_an_old_version_and_a_bad_one_change_nothing(tmp_path: Path, workers: int) -> None:
    async def scenario() -> None:
        async with pushed(tmp_path, "[{service: 'http_status:418'}]", workers=workers) as at:
            bad = configuration("http_status:200", "localhost:8000")
            reply = await at.push(3, bad)
            assert reply["lastAppliedVersion"] == -1
            assert "rule #2" in reply["err"]
            assert "needs a scheme" in reply["err"]
            assert await at.status(1) == 418
            assert (await at.push(3, configuration("http_status:203")))["err"] is None
            for version in (3, 2):
                reply = await at.push(version, configuration("http_status:204"))
                assert reply == {"lastAppliedVersion": 3, "err": None}
            pem = {"originRequest": {"caPool": "/nonexistent.pem"}}
            reply = await at.push(4, configuration("https://127.0.0.1:1", **pem))
            assert reply["lastAppliedVersion"] == 3
            assert "/nonexistent.pem" in reply["err"]
            assert [await at.status(link) for link in (0, 1)] == [203, 203]
            assert await at.metric(VERSION) == 3
            assert await at.metric(REFUSED, 'source="edge"') == 2
            at.connector.wait_for("Configuration refused, the one in force stays", refused=4)

    asyncio.run(scenario())


def test_a_tunnel_managed_by_the_edge_reports_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path)
        token = Credentials("account", os.urandom(32), uuid.uuid4()).to_token()
        async with stand_in.listening():
            connector = ConnectorProcess(
                [*stand_in.arguments, "--hello-world", "run"], environment={"TUNNEL_TOKEN": token}
            )
            async with stopped_after(connector):
                link = await stand_in.link()
                link.is_remotely_managed = True
                await link.serve_control_stream(lambda: bool(link.requests))
                await asyncio.to_thread(connector.ready)
                ending = asyncio.create_task(end_with(link))
            await ending
            assert not link.configurations

    asyncio.run(scenario())


def test_what_is_no_update_is_told_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pushed(tmp_path, "[{service: 'http_status:418'}]") as at:
            for body in (b"", b"{", b'{"version": 1}', b'{"version": "1", "config": {}}', b"[]"):
                answer = await at.send(body)
                assert answer.status == 502
                assert answer.header(b"cf-cloudflared-response-meta") == b'{"src":"cloudflared"}'
            answer = await at.send(b" " * (MAX_UPDATE_BYTES + 1))
            assert answer.status == 413
            assert await at.status(0) == 418
            assert await at.metric(VERSION) == 0

    asyncio.run(scenario())


def test_without_rules_every_request_gets_503_and_unknown_keys_are_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pushed(tmp_path, "[{service: 'http_status:418'}]") as at:
            for version, config in enumerate(({"ingress": [], "later": 1}, {})):
                reply = await at.push(version, config)
                assert reply == {"lastAppliedVersion": version, "err": None}
                assert await at.status(0) == 503
            line = at.connector.wait_for("Keys of the configuration from the edge are unknown here")
            assert line["keys"] == ["later"]

    asyncio.run(scenario())


def test_updates_that_never_end_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pushed(tmp_path, "[{service: 'http_status:418'}]") as at:
            fields = head(b"PUT", b"configuration", b"/", UPGRADE)
            begun = [await at.links[0].request(fields, end=False) for _ in range(4)]
            answer = await at.send(b"{}")
            assert answer.status == 503
            begun[0].cancel()
            config = configuration("http_status:200")

            async def push() -> bool:
                body = json.dumps({"version": 1, "config": config}).encode()
                return (await at.send(body)).status == 200

            while not await soon(push()):
                pass
            assert await at.status(0) == 200

    asyncio.run(scenario())


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_the_edges_configuration_wins_over_the_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pushed(tmp_path, "[{service: 'http_status:418'}]") as at:
            await at.push(0, configuration("http_status:200"))
            at.file.write_text("ingress: [{service: 'http_status:201'}]\n")
            at.connector.signal(signal.SIGHUP)
            await asyncio.to_thread(
                at.connector.wait_for, "The edge has sent the configuration in force"
            )
            assert await at.status(0) == 200

    asyncio.run(scenario())


def test_an_update_meets_a_connector_that_is_stopping(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pushed(tmp_path, "[{service: 'http_status:418'}]", workers=2) as at:
            fields = head(b"PUT", b"configuration", b"/", UPGRADE)
            await at.links[0].request(fields, end=False)

    asyncio.run(scenario())


@dataclass
class InProcessEdge:
    """What `Curl` has to know of an edge on this loop."""

    edge: Edge
    ca: Path

    @property
    def https_port(self) -> int:
        return self.edge.https.port

    @property
    def http_port(self) -> int:
        return self.edge.http.port


@dataclass
class OurEdge:
    edge: Edge
    hostname: str
    token: str
    arguments: list[str]
    curl: Curl

    async def links(self, count: int) -> list[EdgeLink]:
        """The connector's links, once there are so many."""
        listeners = self.edge.listeners
        await eventually_async(
            lambda: sum(link.registered for link in listeners.links) == count, "links register"
        )
        return sorted(listeners.links, key=lambda link: link.conn_index)


@contextlib.asynccontextmanager
async def our_edge(data_dir: Path) -> AsyncIterator[OurEdge]:
    """An edge of ours on this loop, with a tunnel."""
    any_port = "127.0.0.1:0"
    edge = Edge(
        EdgeOptions.parse(
            data_dir=data_dir, https=any_port, http=any_port, tunnels=(any_port,), api=any_port
        )
    )
    await edge.start()
    try:
        quick = await edge.registry.create_quick_tunnel("localhost")
        yield OurEdge(
            edge,
            quick.hostname,
            quick.credentials.to_token(),
            [f"--edge={edge.tunnels[0]}", f"--edge={edge.tunnels[0]}"],
            Curl(InProcessEdge(edge, data_dir / "ca.pem"), quick.hostname),  # type: ignore[arg-type]
        )
    finally:
        await edge.stop()


@WORKERS
def test_our_edge_pushes_under_load_and_no_request_is_dropped(data_dir: Path, workers: int) -> None:
    async def scenario(one: Origin, other: Origin) -> None:
        async with our_edge(data_dir) as ours:
            connector = ConnectorProcess(
                [
                    *ours.arguments,
                    *(f"--cacert={data_dir / 'ca.pem'}", f"--workers={workers}"),
                    *("--ha-connections=2", f"--url={one.url}", "run"),
                ],
                environment={"TUNNEL_TOKEN": ours.token},
            )
            async with stopped_after(connector):
                links = await ours.links(2)
                over = asyncio.Event()
                answers: list[Answer] = []

                async def visit() -> None:
                    while not over.is_set():
                        answers.extend(await asyncio.to_thread(ours.curl.several, ["/hello"] * 10))

                visitors = [asyncio.create_task(visit()) for _ in range(2)]
                for version in range(12):
                    origin = (other, one)[version % 2]
                    asked = len(origin.requests("/hello"))
                    config = json.dumps(configuration(origin.url)).encode()
                    assert await links[version % 2].push_configuration(version, config) == version
                    await eventually_async(
                        lambda origin=origin, asked=asked: (
                            len(origin.requests("/hello")) > asked
                            or any(each.done() for each in visitors)
                        ),
                        "requests come to the other origin",
                    )
                over.set()
                await asyncio.gather(*visitors)
                assert {answer.status for answer in answers} == {200}
                assert await links[0].push_configuration(3, b"{}") == 11
                with pytest.raises(ConfigurationNotTakenError, match="needs a scheme") as raised:
                    await links[1].push_configuration(99, b'{"ingress":[{"service":"no"}]}')
                assert raised.value.version == 11

    with Origin() as one, Origin() as other:
        asyncio.run(scenario(one, other))


@pytest.mark.interop
def test_a_stock_cloudflared_takes_what_our_edge_pushes(data_dir: Path) -> None:
    binary = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not binary:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")

    async def scenario(one: Origin, other: Origin) -> None:
        async with our_edge(data_dir) as ours:
            cloudflared = Process(
                [
                    binary,
                    *("tunnel", "--output=json", "--no-autoupdate", "--no-prechecks"),
                    *("--protocol=http2", "--metrics=127.0.0.1:0"),
                    *(f"--cacert={data_dir / 'ca.pem'}", *ours.arguments, *ours.arguments),
                    *("--grace-period=1s", f"--url={one.url}", "run"),
                ],
                {"TUNNEL_TOKEN": ours.token},
            )
            async with stopped_after(cloudflared):
                link = (await ours.links(4))[0]
                for version, origin in enumerate((other, one, other)):
                    config = json.dumps(configuration(origin.url)).encode()
                    assert await link.push_configuration(version, config) == version
                    asked = len(origin.requests("/hello"))
                    answer = await asyncio.to_thread(ours.curl, "/hello")
                    assert (answer.status, len(origin.requests("/hello"))) == (200, asked + 1)
                assert await link.push_configuration(1, b"{}") == 2
                with pytest.raises(ConfigurationNotTakenError) as raised:
                    await link.push_configuration(9, b'{"ingress":[{"service":"no"}]}')
                assert raised.value.version == 2

    with Origin() as one, Origin() as other:
        asyncio.run(scenario(one, other))
