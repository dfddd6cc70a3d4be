"""A connector and an edge that cannot agree: what each says, and that neither is stuck."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from peers.edge_stand_in import CONTROL, EdgeStandIn, Serve, hang
from peers.http2_client import Http2Client, head
from peers.patience import eventually_async
from peers.processes import ConnectorProcess, EdgeProcess, keep_tunnel, new_tunnel, running

from underpass.connector.edges import EdgeSlot
from underpass.connector.ingress import HelloWorld, single_rule
from underpass.connector.link import HttpLinkDialer
from underpass.connector.links import DialError
from underpass.connector.options import ConnectorOptions
from underpass.connector.status import ConnectorStatus
from underpass.wire.credentials import Credentials
from underpass.wire.registration import RegistrationRefused

HOSTNAME = "app.example.test"


def some_token() -> str:
    return Credentials("account", os.urandom(32), uuid.uuid4()).to_token()


@contextlib.asynccontextmanager
async def dialling(stand_in: EdgeStandIn, *settings: str) -> AsyncIterator[ConnectorProcess]:
    """A connector on its way to a stand-in edge."""
    connector = ConnectorProcess(
        [*stand_in.arguments, *settings, "--hello-world", "run", f"--token={some_token()}"]
    )
    stack = contextlib.ExitStack()
    stack.enter_context(running(connector))
    try:
        yield connector
    finally:
        # Stopping waits for the process, which may wait for this loop.
        await asyncio.to_thread(stack.close)


# At an edge of ours.


def test_a_wrong_secret(data_dir: Path) -> None:
    credentials = new_tunnel(data_dir, HOSTNAME)
    wrong = Credentials(credentials.account_tag, os.urandom(32), credentials.tunnel_id)
    edge = EdgeProcess(data_dir)
    connector = ConnectorProcess(
        [*edge.edge_arguments, "--hello-world", "run", f"--token={wrong.to_token()}"]
    )
    with running(connector, edge):
        line = connector.wait_for("Register tunnel error from server side")
        assert "Unauthorized" in line["error"]
        # It may be the edge that has not heard of the tunnel yet.
        connector.wait_for("Retrying connection")
        assert connector.readiness[0] == 503
        assert wrong.to_token() not in connector.log + edge.log


@pytest.mark.parametrize("mistake", ["secret", "certificate"])
def test_what_only_a_human_can_mend_ends_the_start(
    data_dir: Path, tmp_path: Path, mistake: str
) -> None:
    credentials = new_tunnel(data_dir, HOSTNAME)
    secret = os.urandom(32) if mistake == "secret" else credentials.tunnel_secret
    token = Credentials(credentials.account_tag, secret, credentials.tunnel_id).to_token()
    elsewhere = tmp_path / "elsewhere.pem"
    trustme.CA().cert_pem.write_to_path(str(elsewhere))
    edge = EdgeProcess(data_dir)
    with running(edge):
        trust = edge.ca if mistake == "secret" else elsewhere
        connector = ConnectorProcess(
            [
                *(f"--edge={edge.tunnels[0]}", f"--cacert={trust}", "--hello-world"),
                *("--retries=1", "run", f"--token={token}"),
            ]
        )
        connector.check(1)
        line = connector.wait_for("Initiating shutdown")
        told = "Unauthorized" if mistake == "secret" else "is not to be trusted"
        assert told in line["error"]
        assert "given up after 2 attempts" in line["error"]


def test_an_unknown_tunnel_is_told_the_same(data_dir: Path) -> None:
    known = new_tunnel(data_dir, HOSTNAME)
    edge = EdgeProcess(data_dir)
    errors = set()
    for tunnel_id in (uuid.uuid4(), known.tunnel_id):
        token = Credentials("account", os.urandom(32), tunnel_id).to_token()
        connector = ConnectorProcess(
            [*edge.edge_arguments, "--hello-world", "run", f"--token={token}"]
        )
        with running(connector):
            errors.add(connector.wait_for("Register tunnel error from server side")["error"])
    edge.stop()
    assert len(errors) == 1


def test_a_tunnel_made_while_the_connector_waits_is_taken(data_dir: Path) -> None:
    """Credentials that are refused now may be good in a moment."""
    edge = EdgeProcess(data_dir)
    token = some_token()
    connector = ConnectorProcess([*edge.edge_arguments, "--hello-world", "run", f"--token={token}"])
    with running(connector):
        connector.wait_for("Register tunnel error from server side")
        edge.stop()
        keep_tunnel(data_dir, Credentials.from_token(token), HOSTNAME)
        edge = edge.again()
        with running(edge):
            connector.ready()


def test_an_edge_with_a_certificate_from_elsewhere(data_dir: Path, tmp_path: Path) -> None:
    credentials = new_tunnel(data_dir, HOSTNAME)
    elsewhere = tmp_path / "elsewhere.pem"
    trustme.CA().cert_pem.write_to_path(str(elsewhere))
    edge = EdgeProcess(data_dir)
    with running(edge):
        for trust in ([f"--cacert={elsewhere}"], []):
            connector = ConnectorProcess(
                [
                    f"--edge={edge.tunnels[0]}",
                    *trust,
                    "--hello-world",
                    "run",
                    f"--token={credentials.to_token()}",
                ]
            )
            with running(connector):
                line = connector.wait_for("Unable to establish connection with the edge")
                assert line["step"] == "tls"
                assert "not to be trusted" in line["error"]
                assert "--cacert" in line["error"]
        assert "registered connection" not in edge.log


def test_a_cacert_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    for content in (None, "no certificate\n"):
        if content is not None:
            path.write_text(content)
        connector = ConnectorProcess(
            [
                "--edge=127.0.0.1:1",
                f"--cacert={path}",
                "--hello-world",
                "run",
                f"--token={some_token()}",
            ]
        )
        connector.check(expected=1)
        assert str(path) in connector.log


# At a stand-in.


def test_what_a_connector_says_of_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path)
        async with stand_in.listening(), dialling(stand_in, "--grace-period=0s"):
            link = await stand_in.registered_link()
            (request,) = link.requests
            assert request.conn_index == 0
            assert "serialized_headers" in request.options.client.features
            assert request.options.client.client_id.version == 4
            assert request.options.client.arch
            assert str(request.options.origin_local_ip) == "127.0.0.1"
            assert request.auth.account_tag == "account"
            assert (b":status", b"200") in link.control.headers
            assert b'"hello_world"' in link.configurations[0] or b"hello" in link.configurations[0]

    asyncio.run(scenario())


def test_a_stopped_connector_unregisters_and_takes_leave(tmp_path: Path) -> None:
    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path)
        async with stand_in.listening():
            connector = ConnectorProcess(
                [*stand_in.arguments, "--hello-world", "run", f"--token={some_token()}"]
            )
            link = await stand_in.registered_link()
            await asyncio.to_thread(connector.ready)
            stopping = asyncio.create_task(asyncio.to_thread(connector.stop))
            await link.serve_control_stream(lambda: link.unregistered)
            # Requests sent before the edge knew are still answered.
            page = await link.client.get(b"app.example", b"/")
            await page.finished()
            assert page.status == 200
            await link.control.until(lambda s: s.ended or s.reset is not None)
            await link.client.close()
            await stopping

    asyncio.run(scenario())


@pytest.mark.parametrize("should_retry", [True, False])
def test_a_duplicate_connection_is_tried_again(tmp_path: Path, should_retry: bool) -> None:
    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path)
        async with stand_in.listening(), dialling(stand_in, "--grace-period=0s") as connector:
            link = await stand_in.link()
            link.refusal = RegistrationRefused("EDUPCONN", should_retry=should_retry)
            await link.serve_control_stream(lambda: bool(link.requests))
            # The connector closes: it need not wait for the edge to.
            await link.client.ended()
            await asyncio.to_thread(connector.wait_for, "Register tunnel error")
            again = await stand_in.registered_link()
            assert again.requests[0].options.num_previous_attempts == 1
            assert (
                connector.metric(
                    "cloudflared_tunnel_tunnel_register_fail",
                    'error="dup_edge_conn",rpcName="registerConnection"',
                )
                == 1
            )

    asyncio.run(scenario())


def test_a_final_refusal_ends_the_connector(tmp_path: Path) -> None:
    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path)
        async with stand_in.listening():
            connector = ConnectorProcess(
                [*stand_in.arguments, "--hello-world", "run", f"--token={some_token()}"]
            )
            link = await stand_in.link()
            link.refusal = RegistrationRefused("this tunnel is banned", should_retry=False)
            await link.serve_control_stream(lambda: bool(link.requests))
            await asyncio.to_thread(connector.check, 1)
            assert "this tunnel is banned" in connector.log

    asyncio.run(scenario())


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def speak_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await hang(reader, writer)


async def speak_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(os.urandom(4096))
    await hang(reader, writer)


async def refuse_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    client = Http2Client(reader, writer)
    client.connection.close_connection(error_code=11, additional_data=b"go away")
    client.flush()
    await client.ended()
    await client.close()


async def garbage_on_the_control_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    client = Http2Client(reader, writer)
    control = await client.request(head(b"GET", b"c", b"/", CONTROL), end=False)
    await control.head()
    await control.send(b"\xff" * 64)
    await client.ended()
    await client.close()


async def end_the_control_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    client = Http2Client(reader, writer)
    control = await client.request(head(b"GET", b"c", b"/", CONTROL), end=False)
    await control.head()
    await control.send(b"", end=True)
    await client.ended()
    await client.close()


@pytest.mark.parametrize(
    "serve",
    [
        close_at_once,
        speak_http1,
        speak_garbage,
        refuse_http2,
        garbage_on_the_control_stream,
        end_the_control_stream,
    ],
)
def test_an_edge_that_misbehaves_is_tried_again(tmp_path: Path, serve: Serve) -> None:
    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path)
        async with stand_in.listening(serve), dialling(stand_in) as connector:
            line = await asyncio.to_thread(
                connector.wait_for, "Unable to establish connection with the edge"
            )
            assert line["error"]
            await eventually_async(lambda: stand_in.connections >= 2, "it comes again")
            assert connector.readiness[0] == 503

    asyncio.run(scenario())


def test_an_edge_without_tls(tmp_path: Path) -> None:
    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path)
        async with stand_in.listening(speak_http1, tls=False), dialling(stand_in) as connector:
            line = await asyncio.to_thread(
                connector.wait_for, "Unable to establish connection with the edge"
            )
            assert line["step"] == "tls"

    asyncio.run(scenario())


def test_a_wrong_name_on_the_edges_certificate(tmp_path: Path) -> None:
    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path, "elsewhere.example")
        async with stand_in.listening(hang), dialling(stand_in) as connector:
            line = await asyncio.to_thread(
                connector.wait_for, "Unable to establish connection with the edge"
            )
            assert "h2.cftunnel.com" in line["error"]

    asyncio.run(scenario())


@pytest.mark.parametrize("silence", ["no control stream", "no answer"])
def test_an_edge_that_never_answers_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silence: str
) -> None:
    monkeypatch.setattr("underpass.connector.link.CONTROL_STREAM_TIMEOUT", 0.1)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Http2Client(reader, writer)
        if silence == "no answer":
            await client.request(head(b"GET", b"c", b"/", CONTROL), end=False)
        await client.ended()
        await client.close()

    async def scenario() -> None:
        stand_in = EdgeStandIn(tmp_path)
        async with stand_in.listening(say_nothing):
            options = ConnectorOptions(
                single_rule(HelloWorld()),
                credentials=Credentials.from_token(some_token()),
                cacert=stand_in.ca,
                rpc_timeout=0.1,
            )
            dialer = HttpLinkDialer(options, ConnectorStatus(options.connector_id))
            what = "open the control stream" if silence == "no control stream" else "answer the reg"
            with pytest.raises(DialError, match=f"the edge did not {what}"):
                await dialer.dial(EdgeSlot("127.0.0.1", stand_in.port, 0), 0, 0)
            dialer.close()

    asyncio.run(scenario())
