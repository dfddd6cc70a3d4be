"""`hello_world`: the built-in test application, answering in process (docs: configuration §3.2).

    /           a page that shows the request as it arrived
    /uptime     JSON: when the application started, and for how long it has run
    /ws         a WebSocket that says everything back
    /sse        a counter as server-sent events, one every `freq` (`/sse?freq=1s`; 10s by default)
    /_health    `ok`

Wilfully different from cloudflared: there is no TLS server on a port of its own, and the page does
not show what a visitor keeps secret (cookies, authorization).
"""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final
from urllib.parse import parse_qs

import msgspec

from underpass.connector.services.handshake import accept_key
from underpass.connector.services.websocket import CloseCode, Message, WebSocketServer
from underpass.core.fields import Token
from underpass.core.relay import PythonSide
from underpass.core.tunnel import Kind, OriginExchange
from underpass.ops.durations import format_duration, parse_duration

__all__ = ["HelloWorldService"]

MAX_SESSIONS: Final = 128
"""WebSockets and event streams at once. A WebSocket can hold a message of 1 MiB, and this is an
application for trying things out."""

MAX_UNSENT: Final = 64 * 1024
"""Bytes of answers waiting for a slow reader, beyond which its WebSocket is not read any further
and its event stream skips events."""

DEFAULT_EVERY: Final = 10.0
SHORTEST_EVERY: Final = 0.01
LONGEST_EVERY: Final = 3600.0
"""Seconds between two events."""

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream")
_FRESH: Final = (b"cache-control", b"no-store")
# The page runs nothing and loads nothing, whatever a header in it may say.
_POLICY: Final = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")

_SECRET: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization"})
_INTERNAL: Final = b"cf-cloudflared-"


class HelloWorldService:
    """The application. Belongs to the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at = datetime.now(timezone.utc)
        self._started = time.monotonic()
        self._sessions: set[_Echo | _Events] = set()

    @property
    def sessions(self) -> int:
        """WebSockets and event streams open now."""
        return len(self._sessions)

    def forward(self, exchange: OriginExchange) -> None:
        """Answer a request."""
        path, _, query = exchange.path.partition(b"?")
        if exchange.kind == Kind.WEBSOCKET:
            if path == b"/ws":
                self._open_echo(exchange)
            else:
                exchange.respond(404, [_TEXT], b"the WebSocket is at /ws\n")
        elif path == b"/_health":
            exchange.respond(200, [_TEXT, _FRESH], b"ok")
        elif path == b"/uptime":
            exchange.respond(200, [_JSON, _FRESH], self._uptime())
        elif path == b"/sse":
            self._open_events(exchange, query)
        elif path == b"/ws":
            exchange.respond(426, [_TEXT, (b"upgrade", b"websocket")], b"use a WebSocket here\n")
        else:
            exchange.respond(200, [_HTML, _FRESH, _POLICY, _NO_SNIFFING], self._page(exchange))

    @property
    def is_busy(self) -> bool:
        """Whether a session is open."""
        return bool(self._sessions)

    def close(self) -> None:
        """End every WebSocket and event stream."""
        for session in tuple(self._sessions):
            session.stop()

    def _uptime(self) -> bytes:
        return msgspec.json.encode(
            {
                "startTime": self._started_at.isoformat(),
                "uptime": format_duration(round(time.monotonic() - self._started, 3)),
            }
        )

    def _open_echo(self, exchange: OriginExchange) -> None:
        try:
            accept = accept_key(exchange.header(Token.T_SEC_WEBSOCKET_KEY) or b"")
        except ValueError as error:
            exchange.respond(400, [_TEXT], f"{error}\n".encode())
            return
        if not self._has_room(exchange):
            return
        session = _Echo(exchange.open_python_side(), self._sessions.discard)
        self._sessions.add(session)
        session.start(exchange, accept)

    def _open_events(self, exchange: OriginExchange, query: bytes) -> None:
        try:
            every = _interval(query)
        except ValueError as error:
            exchange.respond(400, [_TEXT], f"freq: {error}\n".encode())
            return
        if exchange.method == b"HEAD":
            exchange.respond(200, [_EVENTS, _FRESH])
            return
        if not self._has_room(exchange):
            return
        session = _Events(exchange.open_python_side(), self._sessions.discard, self._loop, every)
        self._sessions.add(session)
        session.start(exchange)

    def _has_room(self, exchange: OriginExchange) -> bool:
        if len(self._sessions) < MAX_SESSIONS:
            return True
        text = f"{MAX_SESSIONS} WebSockets and event streams are open already\n"
        exchange.respond(503, [_TEXT, (b"retry-after", b"10")], text.encode())
        return False

    def _page(self, exchange: OriginExchange) -> bytes:
        rows = []
        for name, value in exchange.request or ():
            if name.startswith((b":", _INTERNAL)):
                continue
            shown = "(not shown)" if name.lower() in _SECRET else _printable(value)
            rows.append(f"<tr><th>{_printable(name)}<td>{shown}")
        request = f"{_printable(exchange.method)} {_printable(exchange.path)}"
        return _PAGE.format(
            style=_STYLE,
            request=request,
            host=_printable(exchange.authority),
            rows="\n".join(rows),
            uptime=format_duration(round(time.monotonic() - self._started)),
        ).encode()


class _Echo:
    """One WebSocket."""

    def __init__(self, side: PythonSide, on_gone: Callable[[_Echo], None]) -> None:
        self._side = side
        self._on_gone = on_gone
        self._socket = WebSocketServer(side.write, self._reply)
        self._untaken = 0
        side.keeps_credit = True
        side.on_data = self._feed
        side.on_released = self._go_on
        side.on_end = self.stop
        side.on_abandoned = self._abandoned

    def start(self, exchange: OriginExchange, accept: bytes) -> None:
        fields = [(b"upgrade", b"websocket"), (b"sec-websocket-accept", accept)]
        self._side.send_response(101, fields)
        exchange.deliver_waiting()

    def stop(self) -> None:
        """The visitor has no more to say, or this application ends."""
        self._socket.close(CloseCode.GOING_AWAY)
        self._finish()

    def _feed(self, data: bytes) -> None:
        self._untaken += len(data)
        self._socket.feed(data)
        if self._socket.closed:
            self._finish()
        else:
            self._go_on()

    def _reply(self, message: Message) -> None:
        self._socket.send(message)

    def _go_on(self) -> None:
        """Let the visitor send more, unless too much of what was said back is still waiting."""
        if self._untaken and self._side.unreleased <= MAX_UNSENT:
            untaken, self._untaken = self._untaken, 0
            self._side.take(untaken)

    def _finish(self) -> None:
        self._on_gone(self)
        self._side.end()

    def _abandoned(self, code: int) -> None:
        self._on_gone(self)


class _Events:
    """One stream of server-sent events (the `text/event-stream` of the HTML standard, §9.2)."""

    def __init__(
        self,
        side: PythonSide,
        on_gone: Callable[[_Events], None],
        loop: asyncio.AbstractEventLoop,
        every: float,
    ) -> None:
        self._side = side
        self._on_gone = on_gone
        self._loop = loop
        self._every = every
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        side.on_abandoned = self._abandoned

    def start(self, exchange: OriginExchange) -> None:
        self._side.send_response(200, [_EVENTS, _FRESH])
        exchange.deliver_waiting()
        self._tick()

    def stop(self) -> None:
        self._forget()
        self._side.end()

    def _tick(self) -> None:
        if self._side.unreleased <= MAX_UNSENT:
            self._side.write(b"id: %d\ndata: %d\n\n" % (self._count, self._count))
        self._count += 1
        self._timer = self._loop.call_later(self._every, self._tick)

    def _abandoned(self, code: int) -> None:
        self._forget()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._on_gone(self)


def _interval(query: bytes) -> float:
    """Seconds between events, from the query. Raises ValueError."""
    given = parse_qs(query.decode("ascii", "replace"), max_num_fields=16).get("freq")
    if not given:
        return DEFAULT_EVERY
    every = parse_duration(given[-1])
    if not SHORTEST_EVERY <= every <= LONGEST_EVERY:
        shortest, longest = format_duration(SHORTEST_EVERY), format_duration(LONGEST_EVERY)
        raise ValueError(f"{given[-1]} is not between {shortest} and {longest}")
    return every


def _printable(text: bytes) -> str:
    return html.escape(text.decode("utf-8", "backslashreplace"))


_STYLE: Final = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}
p{margin:.5rem 0 1.5rem;opacity:.8}
pre,td,th{font:13px/1.6 ui-monospace,monospace}
table{border-collapse:collapse;width:100%}
th{text-align:left;vertical-align:top;padding:.2rem 1.5rem .2rem 0;white-space:nowrap}
td{overflow-wrap:anywhere}
tr{border-top:1px solid #8884}
"""

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Hello through the tunnel</title>
<style>{style}</style>
<h1>Hello through the tunnel</h1>
<p>This page comes from the connector's own test application, up for {uptime}.
Your request arrived like this:</p>
<pre>{request}</pre>
<table>
<tr><th>host<td>{host}
{rows}
</table>
"""
