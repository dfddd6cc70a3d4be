"""The small HTTP server for operators: /metrics, /ready, /healthcheck, more pages.

Docs: observability §1. It answers one request per connection and keeps nothing; a peer gets a
bounded head, a bounded time, and a bounded number of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import httptools
from msgspec import Struct

from underpass.ops.metrics import CONTENT_TYPE, Metrics

__all__ = [
    "DEFAULT_ADDRESS",
    "KNOWN_PORTS",
    "MetricsAddressError",
    "MetricsServer",
    "Page",
    "Readiness",
    "announce",
    "json_page",
    "serve_metrics",
    "text_page",
]

# Given unchanged, this means: the first free of the known ports, else any.
DEFAULT_ADDRESS = "localhost:0"
KNOWN_PORTS = range(20241, 20246)
# Bytes of request line and header fields.
MAX_HEAD = 8 * 1024
# Seconds for the head to arrive, and for the answer to be taken.
READ_TIMEOUT = 10.0
WRITE_TIMEOUT = 10.0
# Seconds for connections that have been made to be taken notice of.
SETTLE_SECONDS = 0.1
# Connections at a time; the next ones are turned away.
MAX_CONNECTIONS = 64
_CHUNK = 4096
_MAX_PORT = 65535

_log = logging.getLogger(__name__)


class MetricsAddressError(ValueError):
    """The metrics address cannot be used; the text says why."""


class Readiness(Struct, frozen=True):
    """What `/ready` tells: registered links, and the id of this connector."""

    ready_connections: int
    connector_id: str


class Page(Struct, frozen=True):
    """An answer."""

    status: int
    content_type: str
    body: bytes


_TEXT = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class _Head:
    """Receives what httptools parses of one request."""

    def __init__(self) -> None:
        self.target = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_headers_complete(self) -> None:
        self.complete = True


class MetricsServer:
    """Answers for one program. `readiness` and `quick_hostname` are asked at every request.

    `pages` are more paths, and what is there; a page that raises is one request's 500. Without
    `readiness` there is /metrics and these, and nothing of a connector.
    """

    def __init__(
        self,
        metrics: Metrics,
        readiness: Callable[[], Readiness] | None = None,
        quick_hostname: Callable[[], str] = str,
        pages: Mapping[bytes, Callable[[], Awaitable[Page]]] | None = None,
        *,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        self._metrics = metrics
        self._quick_hostname = quick_hostname
        self._read_timeout = read_timeout
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self._routes: dict[bytes, Callable[[], Awaitable[Page]]] = {
            b"/metrics": self._answer_metrics
        }
        if readiness is not None:
            self._routes |= {
                b"/ready": partial(self._answer_ready, readiness),
                b"/healthcheck": self._answer_healthcheck,
                b"/quicktunnel": self._answer_quicktunnel,
            }
        self._routes |= pages or {}

    @property
    def address(self) -> str:
        """`host:port` as bound."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self, address: str) -> None:
        """Listen on `address` (see `serve_metrics`). Raises MetricsAddressError."""
        host, port = parse_address(address)
        ports = [*KNOWN_PORTS, 0] if address == DEFAULT_ADDRESS else [port]
        failure: OSError | None = None
        for candidate in ports:
            failure = await self._listen(host, candidate)
            if failure is None:
                return
        assert failure is not None
        raise MetricsAddressError(
            f"cannot listen on the metrics address {address}: {failure.strerror or failure}"
        ) from failure

    async def serve(self, listener: socket.socket) -> None:
        """Answer on a bound socket. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=MAX_HEAD)

    async def _listen(self, host: str, port: int) -> OSError | None:
        """Listen, or return why not."""
        try:
            await self.serve(await _bind(host, port))
        except OSError as error:
            return error
        return None

    async def drain(self) -> None:
        """Stop listening, and answer those who have connected: another process does from now on."""
        if self._server is not None:
            self._server.close()
        # Who has just connected becomes a task in the next turns of the loop.
        await asyncio.sleep(SETTLE_SECONDS)
        if self._connections:
            await asyncio.wait(self._connections, timeout=READ_TIMEOUT)

    async def stop(self) -> None:
        """Stop listening and drop what is being answered."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            await self._exchange(reader, writer)
        except (OSError, asyncio.TimeoutError):
            writer.transport.abort()  # the peer is gone or too slow; there is nobody to tell
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, answer = await asyncio.wait_for(self._read(reader), self._read_timeout)
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
            f"Content-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        writer.write(head.encode("ascii") + (b"" if method == b"HEAD" else answer.body))
        await asyncio.wait_for(writer.drain(), WRITE_TIMEOUT)

    async def _read(self, reader: asyncio.StreamReader) -> tuple[bytes, Page]:
        head = _Head()
        parser = httptools.HttpRequestParser(head)
        received = 0
        while not head.complete:
            chunk = await reader.read(_CHUNK)
            received += len(chunk)
            if not chunk:
                raise ConnectionResetError("the peer closed before its request was complete")
            if received > MAX_HEAD:
                return b"", _error(431)
            try:
                parser.feed_data(chunk)
            except httptools.HttpParserUpgrade:
                break  # an upgrade is not offered; the request is answered as it stands
            except httptools.HttpParserError:
                return b"", _error(400)
        method = parser.get_method()
        return method, await self._answer(method, head.target)

    async def _answer(self, method: bytes, target: bytes) -> Page:
        route = self._routes.get(target.partition(b"?")[0])
        if route is None:
            return _error(404)
        if method not in (b"GET", b"HEAD"):
            return _error(405)
        try:
            return await route()
        except Exception as error:  # noqa: BLE001 - a page that fails is no reason to stop
            path = target.decode("ascii", "replace")
            _log.error("unexpected error in a page", exc_info=error, extra={"path": path})
            return text_page(f"ERR: {error}\n", 500)

    async def _answer_metrics(self) -> Page:
        return Page(200, CONTENT_TYPE, await self._metrics.scrape())

    async def _answer_ready(self, ask: Callable[[], Readiness]) -> Page:
        readiness = ask()
        status = 200 if readiness.ready_connections else 503
        return json_page(
            {
                "status": status,
                "readyConnections": readiness.ready_connections,
                "connectorId": readiness.connector_id,
            },
            status,
        )

    async def _answer_healthcheck(self) -> Page:
        return text_page("OK\n")

    async def _answer_quicktunnel(self) -> Page:
        return json_page({"hostname": self._quick_hostname()})


async def serve_metrics(server: MetricsServer, address: str) -> None:
    """Start `server` on `address`, `host:port`; the default address has rules of its own.

    Raises MetricsAddressError.
    """
    await server.start(address)
    announce(server)


def announce(server: MetricsServer) -> None:
    """Say in the log where it is."""
    _log.info("Starting metrics server on %s/metrics", server.address)


def parse_address(address: str) -> tuple[str, int]:
    """Split `host:port`, `[address]:port` or `:port`. Raises MetricsAddressError."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or (":" in bare and bare == host) or not (port.isascii() and port.isdigit()):
        raise MetricsAddressError(
            f"the metrics address {address!r} is not host:port, like localhost:20241"
        )
    if int(port) > _MAX_PORT:
        raise MetricsAddressError(f"the metrics address {address!r}: {port} is not a port")
    return bare, int(port)


async def _bind(host: str, port: int) -> socket.socket:
    """One bound socket: of several addresses the first IPv4 one, as Go chooses."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, address = min(
        found, key=lambda entry: entry[0] != (socket.AF_INET if host else socket.AF_INET6)
    )
    bound = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # where it would let two programs have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not host and family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # a system without dual sockets serves IPv6 alone
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _error(status: int) -> Page:
    return text_page(f"{status} {_REASONS[status]}\n", status)


def text_page(text: str, status: int = 200) -> Page:
    """A page in plain text."""
    return Page(status, _TEXT, text.encode("utf-8"))


def json_page(value: Any, status: int = 200) -> Page:
    """A page of JSON."""
    body = json.dumps(value, separators=(",", ":")).encode("utf-8")
    return Page(status, "application/json", body)
