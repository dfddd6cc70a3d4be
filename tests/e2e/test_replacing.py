"""A link is replaced while it serves: at the edge's wish, or at somebody's here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from peers import in_process
from peers.bad_visitor import get, raw_visitor
from peers.curl import Curl
from peers.edge_stand_in import EdgeStandIn
from peers.http2_client import head
from peers.origin import Origin
from peers.patience import PATIENCE, eventually_async, soon
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running

from underpass.connector.data_path import build_data_path
from underpass.connector.edges import EdgePool, parse_edge, static_regions
from underpass.connector.ingress import single_rule
from underpass.connector.links import HomeEvent, LinkConnected, LinkEvent
from underpass.connector.options import ConnectorOptions
from underpass.connector.origins import parse_url_flag
from underpass.connector.status import ConnectorStatus
from underpass.connector.supervisor import Supervisor
from underpass.wire.credentials import Credentials

HOSTNAME = "app.example.test"

# RFC 9113 §6.8: eight bytes, type 7, no flags, stream 0; last stream 0, NO_ERROR.
GOAWAY = b"\0\0\x08\x07\0\0\0\0\0" + bytes(8)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_edge_that_goes_away_gets_another_link_first(tmp_path: Path, workers: int) -> None:
    async def scenario(origin: Origin) -> None:
        stand_in = EdgeStandIn(tmp_path)
        async with stand_in.listening():
            token = Credentials("account", os.urandom(32), uuid.uuid4()).to_token()
            settings = [*stand_in.arguments * workers, f"--workers={workers}"]
            connector = ConnectorProcess(
                [*settings, "run", f"--url={origin.url}", f"--token={token}"]
            )
            old = await stand_in.registered_link()
            for _ in range(workers - 1):
                link = await stand_in.link()
                await link.serve_control_stream(lambda link=link: bool(link.requests))  # type: ignore[misc]
            slow = await old.request(head(b"GET", b"app", b"/slow?key=away"))
            await asyncio.to_thread(origin.wait_for_request, "/slow")

            old.client.writer.write(GOAWAY)
            new = await stand_in.link()
            # It is dialled, and registers no sooner than the old one has given its index up.
            await old.serve_control_stream(lambda: old.unregistered)
            assert not new.requests
            await new.serve_control_stream(lambda: bool(new.configurations))
            assert new.requests[0].conn_index == old.requests[0].conn_index == 0

            fresh = await new.request(head(b"GET", b"app", b"/hello"))
            assert (await fresh.finished()).status == 200
            assert not slow.ended
            await asyncio.to_thread(origin.open_gate, "away")
            assert bytes((await slow.finished()).data) == b"at last\n"
            await old.client.ended()
            assert connector.readiness[1]["readyConnections"] == workers
            assert not connector.has_logged("Lost connection")
            await asyncio.to_thread(connector.wait_for, "Replacing the connection as the edge asks")
            await asyncio.to_thread(connector.kill)

    with Origin() as origin:
        asyncio.run(scenario(origin))


@contextlib.asynccontextmanager
async def supervised(
    edge: EdgeProcess, credentials: Credentials, origin: Origin, workers: int
) -> AsyncIterator[tuple[Supervisor, list[LinkEvent | HomeEvent]]]:
    """A connector with two links, whose supervisor is at hand."""
    addresses = [parse_edge(tunnel) for tunnel in edge.tunnels]
    options = ConnectorOptions(
        ingress=single_rule(parse_url_flag(origin.url)),
        credentials=credentials,
        cacert=edge.ca,
        workers=workers,
    )
    path = await build_data_path(options, ConnectorStatus(options.connector_id))
    events: list[LinkEvent | HomeEvent] = []
    supervisor = Supervisor(
        path.dialer,
        EdgePool(static_regions(addresses)),
        ha_connections=len(addresses),
        retries=5,
        grace_period=PATIENCE,
        observe=events.append,
    )
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, events
    finally:
        supervisor.stop()
        await task
        await path.close()


def connected(events: Sequence[LinkEvent | HomeEvent]) -> int:
    return sum(isinstance(event, LinkConnected) for event in events)


@pytest.mark.parametrize("workers", [1, 2])
def test_links_are_replaced_on_request_and_no_visitor_notices(data_dir: Path, workers: int) -> None:
    async def scenario(edge: EdgeProcess, origin: Origin) -> None:
        curl = Curl(edge, HOSTNAME)
        async with supervised(edge, credentials, origin, workers) as (supervisor, events):
            await eventually_async(lambda: connected(events) == 2, "both are up")
            with curl.begun("/slow?key=again", "-w", "%{http_code}") as visit:
                await asyncio.to_thread(origin.wait_for_request, "/slow")
                statuses: list[int] = []

                async def visit_all_the_time() -> None:
                    while connected(events) < 4:
                        answers = await asyncio.to_thread(curl.several, ["/hello"] * 5)
                        statuses.extend(answer.status for answer in answers)

                supervisor.reconnect()
                await visit_all_the_time()
                assert set(statuses) == {200}
                origin.open_gate("again")
                out, _ = await asyncio.to_thread(visit.communicate)
                assert out == b"at last\n200"

    credentials = new_tunnel(data_dir, HOSTNAME)
    edge = EdgeProcess(data_dir, tunnels=["127.0.0.1:0"] * 2)
    with running(edge), Origin() as origin:
        asyncio.run(scenario(edge, origin))


def test_a_link_that_our_edge_drains_finishes_although_it_unregisters_meanwhile(
    data_dir: Path,
) -> None:
    async def scenario() -> None:
        with Origin() as origin:
            async with in_process.tunnel(data_dir, origin.url) as tunnel:
                (old,) = tunnel.edge.listeners.links
                port = tunnel.edge.http.port
                async with raw_visitor(port) as slow:
                    await slow.send(get(tunnel.hostname, "/slow?key=drain"))
                    await asyncio.to_thread(origin.wait_for_request, "/slow")
                    old.prepare_stop()

                    def replaced() -> bool:
                        return any(link.registered for link in tunnel.edge.listeners.links - {old})

                    await eventually_async(replaced, "there is another link")
                    await eventually_async(lambda: old.registration.unregistered, "the old has")
                    async with raw_visitor(port) as visitor:
                        await visitor.send(get(tunnel.hostname, "/hello"))
                        assert await visitor.status() == 200
                    await asyncio.to_thread(origin.open_gate, "drain")
                    assert await slow.status() == 200
                    assert len(origin.requests("/slow")) == 1  # not by asking again
                await soon(old.ended)

    in_process.run(scenario())
