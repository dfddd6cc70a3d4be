"""What comes to the tunnel listener and is no connector, or a bad one: the edge serves on."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import uuid
from collections.abc import Awaitable, Callable, Iterator

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived
from peers.patience import PATIENCE, eventually, soon
from peers.stage import Stage

from underpass.wire.credentials import Credentials
from underpass.wire.headers import EDGE_SERVER_NAME_HTTP2
from underpass.wire.registration import (
    ClientInfo,
    ConnectionOptions,
    RegistrationClient,
    RegistrationRefused,
)


@pytest.fixture(autouse=True)
def _the_tunnel_survives(scene: Stage) -> Iterator[None]:
    """The good connector's requests go on, and the edge forgets the bad one."""
    files = scene.edge.open_files
    yield
    answer = scene.curl("/hello")
    assert (answer.status, answer.body) == (200, b"hello\n")
    eventually(lambda: scene.edge.open_files <= files + 1, "the edge has closed what it opened")


def tunnel_port(scene: Stage) -> int:
    return int(scene.edge.tunnels[0].rpartition(":")[2])


def trusting_nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_a_probe_that_connects_and_leaves(scene: Stage) -> None:
    for _ in range(20):
        socket.create_connection(("127.0.0.1", tunnel_port(scene)), PATIENCE).close()


def test_a_probe_that_shakes_hands_and_leaves(scene: Stage) -> None:
    """cloudflared's own check before it starts does this."""
    context = ssl.create_default_context(cafile=scene.edge.ca)
    for _ in range(5):
        with (
            socket.create_connection(("127.0.0.1", tunnel_port(scene)), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="probe.cftunnel.com") as secure,
        ):
            assert secure.version() == "TLSv1.3"


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
        b"SSH-2.0-scanner\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        os.urandom(2000),
    ],
    ids=["HTTP", "SSH", "half a hello", "garbage"],
)
def test_what_is_no_tls(scene: Stage, beginning: bytes) -> None:
    with socket.create_connection(("127.0.0.1", tunnel_port(scene)), PATIENCE) as stranger:
        stranger.sendall(beginning)
        stranger.shutdown(socket.SHUT_WR)
        try:
            while stranger.recv(4096):
                pass
        except ConnectionResetError:
            # An end, if a rude one.
            pass


def test_old_tls_is_refused(scene: Stage) -> None:
    context = trusting_nobody()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", tunnel_port(scene)), PATIENCE) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(plain, server_hostname=EDGE_SERVER_NAME_HTTP2)


class BadConnector:
    """A connector's end of a link on the `h2` library: answers the control stream, then what a
    test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.http2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.http2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.http2.data_to_send())

    async def events(self) -> list[Event]:
        """What comes next; nothing at the end."""
        data = await soon(self.reader.read(65536))
        found = self.http2.receive_data(data) if data else []
        self.flush()
        return found

    async def control_stream(self) -> int:
        """The stream the edge opens."""
        while True:
            for event in await self.events():
                if isinstance(event, RequestReceived):
                    return int(event.stream_id or 0)

    async def answer_control_stream(self, status: bytes = b"200") -> int:
        stream = await self.control_stream()
        self.http2.send_headers(stream, [(b":status", status)])
        self.flush()
        return stream

    async def ended(self) -> None:
        """Return when the edge has closed the connection."""
        try:
            while await soon(self.reader.read(65536)):
                pass
        except (ConnectionError, ssl.SSLError):
            # A reset is an end.
            return


def connector(scene: Stage, scenario: Callable[[BadConnector], Awaitable[None]]) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            tunnel_port(scene),
            ssl=trusting_nobody(),
            server_hostname=EDGE_SERVER_NAME_HTTP2,
        )
        try:
            await scenario(BadConnector(reader, writer))
        finally:
            writer.transport.abort()

    asyncio.run(main())


def test_garbage_instead_of_http2(scene: Stage) -> None:
    async def scenario(bad: BadConnector) -> None:
        bad.writer.write(os.urandom(10_000))
        await bad.ended()

    connector(scene, scenario)


def test_http1_instead_of_http2(scene: Stage) -> None:
    async def scenario(bad: BadConnector) -> None:
        bad.writer.write(b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n")
        await bad.ended()

    connector(scene, scenario)


@pytest.mark.parametrize("status", [b"404", b"502"])
def test_a_control_stream_that_is_declined(scene: Stage, status: bytes) -> None:
    async def scenario(bad: BadConnector) -> None:
        await bad.answer_control_stream(status)
        await bad.ended()

    connector(scene, scenario)


@pytest.mark.parametrize(
    "message",
    [
        b"\xff" * 64,
        b"\x00\x00\x00\x00\xff\xff\xff\x7f",
        b"\xff\xff\xff\xff" + bytes(4),
        b"\x00\x00\x00\x00\x01\x00\x00\x00" + b"\x00\x00\x00\x00\xff\xff\xff\xff",
    ],
    ids=["garbage", "a segment of 16 GiB", "four billion segments", "a wild pointer"],
)
def test_a_malformed_registration(scene: Stage, message: bytes) -> None:
    async def scenario(bad: BadConnector) -> None:
        stream = await bad.answer_control_stream()
        bad.http2.send_data(stream, message)
        bad.flush()
        await bad.ended()

    connector(scene, scenario)


@pytest.mark.parametrize("takes_leave", [True, False])
def test_wrong_credentials_end_the_connection(scene: Stage, takes_leave: bool) -> None:
    """Once the connector has ended its control stream, or after a while."""

    async def scenario(bad: BadConnector) -> None:
        stream = await bad.answer_control_stream()

        def send(data: bytes) -> None:
            bad.http2.send_data(stream, data)
            bad.flush()

        client = RegistrationClient(send)
        wrong = Credentials("account", os.urandom(32), uuid.uuid4())
        options = ConnectionOptions(ClientInfo(uuid.uuid4(), (), "1", "test"), None)
        registering = asyncio.ensure_future(
            client.register_connection(wrong.auth, wrong.tunnel_id, 0, options)
        )
        while not registering.done():
            for event in await bad.events():
                if hasattr(event, "data"):
                    client.feed(event.data)
            await asyncio.sleep(0)
        with pytest.raises(RegistrationRefused, match="Unauthorized"):
            registering.result()
        if takes_leave:
            bad.http2.end_stream(stream)
            bad.flush()
        await bad.ended()

    connector(scene, scenario)


def test_a_stream_that_the_connector_opens(scene: Stage) -> None:
    """Roles are fixed: the edge asks, the connector answers."""

    async def scenario(bad: BadConnector) -> None:
        await bad.control_stream()
        # HEADERS on stream 2, as if pushed.
        bad.writer.write(b"\x00\x00\x01\x01\x05\x00\x00\x00\x02\x88")
        await bad.ended()

    connector(scene, scenario)


def test_an_endless_header_block(scene: Stage) -> None:
    """CVE-2024-27316: CONTINUATION without end."""

    async def scenario(bad: BadConnector) -> None:
        stream = await bad.control_stream()
        number = stream.to_bytes(4, "big")
        block = b"\x00\x03abc\x03def" * 1000
        bad.writer.write(len(block).to_bytes(3, "big") + b"\x01\x00" + number + block)
        try:
            for _ in range(2000):
                bad.writer.write(len(block).to_bytes(3, "big") + b"\x09\x00" + number + block)
                await bad.writer.drain()
        except ConnectionError:
            # Cut off while it was sending.
            return
        await bad.ended()

    connector(scene, scenario)
