"""The dashboard, and the API with it, at a public hostname of the edge.

A request for that name is taken whole and handed to the application, in this process or in the one
that started it; the answer is handed back whole. Pages are small and few, so that nothing here is
on the way of anybody else's requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct

from underpass.core.relay import PythonSide
from underpass.core.tunnel import VisitorExchange
from underpass.edge.hostnames import hostname_of
from underpass.wire.quick_tunnel import QUICK_TUNNEL_PATH

__all__ = [
    "BODY_SECONDS",
    "MAX_BODY",
    "MAX_REQUESTS",
    "AskDashboard",
    "DashboardAnswer",
    "PublicDashboard",
    "ask_application",
]

log = logging.getLogger("underpass.edge.dashboard")

MAX_REQUESTS: Final = 128
"""Requests under way; command lines that wait for a login are among them."""

MAX_BODY: Final = 1024 * 1024
"""Of one request. A tunnel's configuration that is larger goes to the API's own listener."""

BODY_SECONDS: Final = 10.0
"""For a request's body to arrive."""

_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)
_NOT_OURS: Final = frozenset({b"connection", b"content-length", b"transfer-encoding", b"date"})
"""Fields of an answer that the gateway makes itself."""


class AskDashboard(Struct, frozen=True, tag=True):
    """A request, whole. -> DashboardAnswer"""

    method: str
    target: bytes
    host: bytes
    client: str
    fields: list[tuple[bytes, bytes]]
    body: bytes


class DashboardAnswer(Struct, frozen=True):
    """What the application says."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes


Ask = Callable[[AskDashboard], Awaitable[DashboardAnswer]]


class PublicDashboard:
    """Answers for one hostname.

    Args:
        hostname: by which it is asked.
        secure_port: where it is asked with TLS.
        ask: hands a request to the application; may raise anything.
    """

    def __init__(self, hostname: str, secure_port: int, ask: Ask) -> None:
        self.hostname = hostname
        self._secure_port = secure_port
        self._ask = ask
        self._conversations: set[_Conversation] = set()

    def take(self, exchange: VisitorExchange) -> bool:
        """Answer a request, now or later. False if it is for another host."""
        if hostname_of(exchange.authority) != self.hostname:
            return False
        path = exchange.path
        if exchange.acceptor.scheme != b"https":
            # Cookies and tokens are not for all to read.
            port = "" if self._secure_port == 443 else f":{self._secure_port}"
            location = f"https://{self.hostname}{port}".encode("ascii")
            exchange.respond(308, ((b"location", location + (path if path[:1] == b"/" else b"/")),))
        elif exchange.wants_upgrade:
            exchange.respond(501, _TEXT, b"There are no WebSockets here.\n")
        elif path.partition(b"?")[0] == QUICK_TUNNEL_PATH.encode("ascii"):
            # For these nobody is asked who they are.
            exchange.respond(404, _TEXT, b"Quick tunnels are made at the API's own listener.\n")
        elif len(self._conversations) >= MAX_REQUESTS:
            exchange.respond(503, (*_TEXT, (b"retry-after", b"5")), b"Too many at once.\n")
        else:
            conversation = _Conversation(exchange, self._ask, self._conversations.discard)
            self._conversations.add(conversation)
            conversation.begin()
        return True


class _Conversation:
    """One request and its answer."""

    def __init__(
        self, exchange: VisitorExchange, ask: Ask, on_over: Callable[[_Conversation], None]
    ) -> None:
        self._exchange = exchange
        self._ask = ask
        self._on_over = on_over
        self._body = bytearray()
        self._side: PythonSide | None = None
        self._answering: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        request = exchange.request
        assert request is not None
        self._method = exchange.method.decode("ascii", "replace")
        self._target = exchange.path
        self._host = exchange.authority
        self._fields = [
            (name.lower(), value) for name, value in request if not name.startswith(b":")
        ]

    def begin(self) -> None:
        """Take what the visitor sends."""
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(
            BODY_SECONDS, self._refuse, 408, b"The request's body came too slowly.\n"
        )
        side = self._side = self._exchange.open_python_side()
        side.on_data = self._take
        side.on_end = self._whole
        side.on_abandoned = self._abandoned
        self._exchange.deliver_waiting()

    def _take(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_BODY:
            self._refuse(413, b"The request's body is too large.\n")

    def _whole(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if self._answering is None and self._side is not None:
            self._answering = asyncio.ensure_future(self._answer())

    async def _answer(self) -> None:
        request = AskDashboard(
            self._method,
            self._target,
            self._host,
            self._exchange.visitor.decode("ascii", "replace"),
            self._fields,
            bytes(self._body),
        )
        try:
            answer = await self._ask(request)
        except Exception as error:  # noqa: BLE001 - one request's, whatever it is
            log.error("the dashboard cannot answer: %s", error)
            self._refuse(503, b"The edge cannot answer now.\n")
            return
        fields = [(name, value) for name, value in answer.fields if name.lower() not in _NOT_OURS]
        self._respond(answer.status, fields, answer.body)

    def _refuse(self, status: int, why: bytes) -> None:
        self._respond(status, _TEXT, why)

    def _respond(self, status: int, fields: Any, body: bytes) -> None:
        self._end()
        self._exchange.respond(status, fields, body)

    def _abandoned(self, code: int) -> None:
        """The visitor has gone."""
        self._end()
        if self._answering is not None:
            self._answering.cancel()

    def _end(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        side, self._side = self._side, None
        if side is not None:
            side.on_data = side.on_end = side.on_abandoned = None
        self._on_over(self)


async def ask_application(application: Any, request: AskDashboard) -> DashboardAnswer:
    """What an ASGI application says to a request that came over TLS."""
    path, _, query = request.target.partition(b"?")
    fields = [(name, value) for name, value in request.fields if name != b"host"]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", request.host), *fields],
        "client": (request.client, 0),
        "server": None,
    }
    heard = [{"type": "http.request", "body": request.body, "more_body": False}]
    answer: list[Any] = []
    body = bytearray()

    async def receive() -> dict[str, Any]:
        return heard.pop() if heard else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.append(message)
        else:
            body.extend(message.get("body", b""))

    await application(scope, receive, send)
    return DashboardAnswer(answer[0]["status"], list(answer[0]["headers"]), bytes(body))
