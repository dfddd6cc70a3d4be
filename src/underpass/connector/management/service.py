"""The management service: what requests to the management hostname reach (docs: observability §3).

    /ping             200
    /host_details     JSON: which connector this is, on which machine
    /logs             a WebSocket that streams the log (§4)
    /metrics          the metrics of the whole connector
    /debug/stacks, /debug/memory    what its processes do and hold

Every request has to have a management token in its query. What the token says is believed: its
signature can be checked only by whoever issues such tokens, so the edge has to, and an edge that
lets others use the hostname lets them read the log (docs/security.md).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from underpass.connector.management.host import Host
from underpass.connector.management.session import LogSession
from underpass.connector.options import DEFAULT_SERVICE_ADDRESS, ConnectorOptions
from underpass.connector.services.handshake import MALFORMED_KEY, accept_key
from underpass.core.fields import Token
from underpass.core.tunnel import Kind, OriginExchange
from underpass.ops.metrics import CONTENT_TYPE
from underpass.wire.log_streaming import (
    ManagementClaims,
    parse_management_token,
)

__all__ = ["ManagementService"]

MAX_SESSIONS: Final = 16
"""WebSockets open at once; one of them streams."""

MAX_QUERY_FIELDS: Final = 64

ADDRESS_SECONDS: Final = 1.0
"""To find out which local address leads to the edge."""

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_JSON: Final = (b"content-type", b"application/json")
_METRICS: Final = (b"content-type", CONTENT_TYPE.encode("ascii"))

_DASHBOARD: Final = re.compile(rb"(?i)https://[a-z0-9-]+(?:\.[a-z0-9-]+)*\.cloudflare\.com\Z")
_DASHBOARD_HOST: Final = re.compile(rb"(?i)https?://(?:[a-z0-9-]+\.)+cloudflare\.com(?::\d+)?\Z")

_NO_TOKEN: Final = msgspec.json.encode(
    {"errors": [{"code": 1001, "message": "missing access_token query parameter"}]}
)

_Pairs = list[tuple[bytes, bytes]]


class ManagementService:
    """The service, for the running event loop."""

    def __init__(self, options: ConnectorOptions, host: Host) -> None:
        self._options = options
        self._host = host
        self._sessions: set[LogSession] = set()
        self._answering: set[asyncio.Task[None]] = set()
        self._routes: dict[bytes, tuple[bytes, Callable[[OriginExchange, _Pairs], None]]] = {
            b"/ping": (b"GET, HEAD", self._ping),
            b"/host_details": (b"GET", self._host_details),
        }
        if options.management_diagnostics:
            self._routes |= {
                b"/metrics": (b"GET", self._metrics),
                b"/debug/stacks": (b"GET", self._stacks),
                b"/debug/memory": (b"GET", self._memory),
            }

    @property
    def is_busy(self) -> bool:
        """Whether a session is open."""
        return bool(self._sessions)

    def close(self) -> None:
        """End every session."""
        for session in tuple(self._sessions):
            session.stop()
        for task in self._answering:
            task.cancel()

    def forward(self, exchange: OriginExchange) -> None:
        """Answer a request."""
        path, _, query = exchange.path.partition(b"?")
        claims = _claims(query)
        if claims is None:
            exchange.respond(400, [_JSON], _NO_TOKEN)
        elif path == b"/logs":
            self._logs(exchange, claims)
        elif path not in self._routes:
            exchange.respond(404, [_TEXT], b"404 page not found\n")
        else:
            methods, answer = self._routes[path]
            if exchange.method not in methods.split(b", "):
                exchange.respond(405, [(b"allow", methods)])
            else:
                answer(exchange, _cors(exchange.header(Token.T_ORIGIN)))

    def _ping(self, exchange: OriginExchange, cors: _Pairs) -> None:
        exchange.respond(200, cors)

    def _host_details(self, exchange: OriginExchange, cors: _Pairs) -> None:
        async def answer() -> tuple[_Pairs, bytes]:
            details: dict[str, Any] = {"connector_id": str(self._options.connector_id)}
            address = await self._private_address()
            if address:
                details["ip"] = address
            details["hostname"] = self._hostname()
            return [_JSON, *cors], msgspec.json.encode(details)

        self._answer_later(exchange, answer())

    def _metrics(self, exchange: OriginExchange, cors: _Pairs) -> None:
        async def answer() -> tuple[_Pairs, bytes]:
            return [_METRICS, *cors], await self._host.metrics()

        self._answer_later(exchange, answer())

    def _stacks(self, exchange: OriginExchange, cors: _Pairs) -> None:
        async def answer() -> tuple[_Pairs, bytes]:
            return [_TEXT, *cors], (await self._host.report("stacks")).encode()

        self._answer_later(exchange, answer())

    def _memory(self, exchange: OriginExchange, cors: _Pairs) -> None:
        async def answer() -> tuple[_Pairs, bytes]:
            return [_TEXT, *cors], (await self._host.report("memory")).encode()

        self._answer_later(exchange, answer())

    def _answer_later(
        self, exchange: OriginExchange, answer: Awaitable[tuple[_Pairs, bytes]]
    ) -> None:
        async def run() -> None:
            try:
                fields, body = await answer
            except ConnectionError as error:
                exchange.respond(503, [_TEXT], f"{error}\n".encode())
            else:
                exchange.respond(200, fields, body)

        task = asyncio.get_running_loop().create_task(run())
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def _logs(self, exchange: OriginExchange, claims: ManagementClaims) -> None:
        if exchange.method != b"GET":
            exchange.respond(405, [(b"allow", b"GET")])
            return
        if exchange.kind != Kind.WEBSOCKET:
            exchange.respond(426, [_TEXT, (b"upgrade", b"websocket")], b"use a WebSocket here\n")
            return
        origin = exchange.header(Token.T_ORIGIN)
        if origin and not _may_open(origin, exchange.authority):
            exchange.respond(403, [_TEXT], b"this Origin may not stream logs\n")
            return
        try:
            accept = accept_key(exchange.header(Token.T_SEC_WEBSOCKET_KEY) or b"")
        except ValueError:
            exchange.respond(*MALFORMED_KEY)
            return
        if len(self._sessions) >= MAX_SESSIONS:
            text = f"{MAX_SESSIONS} management sessions are open already\n"
            exchange.respond(503, [_TEXT, (b"retry-after", b"10")], text.encode())
            return
        session = LogSession(
            exchange.open_python_side(),
            claims.actor_id,
            self._host.log_source,
            self._sessions.discard,
        )
        self._sessions.add(session)
        session.start(exchange, accept)

    def _hostname(self) -> str:
        if self._options.label:
            return f"custom:{self._options.label}"
        return socket.gethostname() or "unknown"

    async def _private_address(self) -> str:
        """The local address that packets for the edge leave from; "" if there is no way to it."""
        options = self._options
        host, port = options.service_op_ip or next(iter(options.edges), DEFAULT_SERVICE_ADDRESS)
        loop = asyncio.get_running_loop()
        try:
            # Connecting a UDP socket asks the system for the way, and sends nothing.
            transport, _ = await asyncio.wait_for(
                loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(host, port)),
                ADDRESS_SECONDS,
            )
        except (OSError, asyncio.TimeoutError):
            return ""
        name = transport.get_extra_info("sockname")
        transport.close()
        return str(name[0])


def _claims(query: bytes) -> ManagementClaims | None:
    try:
        fields = parse_qs(query.decode("ascii"), max_num_fields=MAX_QUERY_FIELDS)
        return parse_management_token(fields.get("access_token", [""])[0])
    except (UnicodeDecodeError, ValueError):  # ManagementTokenError is a ValueError
        return None


def _cors(origin: bytes | None) -> _Pairs:
    """What lets the dashboard read an answer."""
    vary = (b"vary", b"Origin")
    if origin is None or not _DASHBOARD.match(origin):
        return [vary]
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        vary,
    ]


def _may_open(origin: bytes, authority: bytes) -> bool:
    """A page may open `/logs` from the dashboard, or from the management host itself."""
    own = (b"https://" + authority, b"http://" + authority)
    return origin in own or _DASHBOARD_HOST.match(origin) is not None
