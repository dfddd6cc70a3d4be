"""An edge written for tests on the `h2` library, as good or as bad as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from underpass.wire.headers import EDGE_SERVER_NAME_HTTP2
from underpass.wire.registration import (
    ConnectionDetails,
    RegistrationRefused,
    RegistrationRequest,
    RegistrationServer,
)

from .http2_client import Headers, Http2Client, Stream, head
from .patience import soon

CONTROL = (b"cf-cloudflared-proxy-connection-upgrade", b"control-stream")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Link:
    """A connector's connection, its control stream answered."""

    client: Http2Client
    control: Stream
    requests: list[RegistrationRequest] = field(default_factory=list)
    configurations: list[bytes] = field(default_factory=list)
    unregistered: bool = False
    refusal: RegistrationRefused | None = None
    is_remotely_managed: bool = False
    _server: RegistrationServer | None = None
    _answers: list[bytes] = field(default_factory=list)

    # What a registration server calls.

    def register_connection(self, request: RegistrationRequest) -> ConnectionDetails:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        return ConnectionDetails(
            uuid.uuid4(), "standin", tunnel_is_remotely_managed=self.is_remotely_managed
        )

    def unregister_connection(self) -> None:
        self.unregistered = True

    def update_local_configuration(self, config: bytes) -> None:
        self.configurations.append(config)

    async def serve_control_stream(self, until: Callable[[], bool]) -> None:
        """Answer calls until something has happened."""
        if self._server is None:
            self._server = RegistrationServer(self, self._answers.append)
        while not until():
            await self.control.until(lambda s: s.data or s.ended or s.reset is not None)
            assert self.control.data, "the connector ended its control stream"
            data = bytes(self.control.data)
            self.control.data.clear()
            self._server.feed(data)
            for answer in self._answers:
                await self.control.send(answer)
            self._answers.clear()

    async def stream(self, destination: bytes, *more: tuple[bytes, bytes]) -> Stream:
        """Open a raw stream to an address."""
        fields = [(b"cf-cloudflared-proxy-src", b"192.0.2.1:4242"), *more]
        return await self.client.request(head(b"CONNECT", destination, b"/", *fields), end=False)

    async def request(self, fields: Headers, *, end: bool = True) -> Stream:
        return await self.client.request(fields, end=end)


class EdgeStandIn:
    """Listens on `ports` loopback ports. `serve` is called for each connection after TLS."""

    def __init__(self, directory: Path, server_name: str = EDGE_SERVER_NAME_HTTP2) -> None:
        self._authority = trustme.CA()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(server_name).configure_cert(self._context)
        self.ca = directory / "stand-in-ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.connections = 0
        self._links: asyncio.Queue[Link] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def arguments(self) -> list[str]:
        """What a connector is told to find it; twice, as reference connectors want another try."""
        return [f"--edge=127.0.0.1:{self.port}", f"--cacert={self.ca}"]

    @contextlib.asynccontextmanager
    async def listening(
        self, serve: Serve | None = None, *, tls: bool = True
    ) -> AsyncIterator[None]:
        """While this holds, connectors can dial in."""
        answer = serve or self._take_link

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await answer(reader, writer)
            except asyncio.CancelledError:
                # Only the end of `listening` cancels.
                pass
            finally:
                self._tasks.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(
            accept, "127.0.0.1", 0, ssl=self._context if tls else None
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def link(self) -> Link:
        """The next connection, its control stream open and nothing answered yet."""
        return await soon(self._links.get())

    async def registered_link(self) -> Link:
        """The next connection, registered, its configuration taken."""
        link = await self.link()
        await link.serve_control_stream(lambda: bool(link.configurations))
        return link

    async def _take_link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Http2Client(reader, writer)
        try:
            control = await client.request(head(b"GET", b"control", b"/", CONTROL), end=False)
            await control.head()
            await self._links.put(Link(client, control))
            await client.ended()
        finally:
            await client.close()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything and say nothing."""
    while await reader.read(65536):
        pass
