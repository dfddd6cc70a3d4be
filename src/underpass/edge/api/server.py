"""Runs the API under uvicorn, as one task of the edge's own event loop.

uvicorn is built to own a process. Here it owns a listening socket and nothing else: no signal
handlers, no logging set-up, no access log.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES: Final = 16 * 1024
"""Of a request's line and headers (h11's own limit, kept by name)."""

MAX_CONNECTIONS: Final = 256
"""Beyond, requests are answered 503. A fleet's command lines need a handful."""

HEAD_SECONDS: Final = 15.0
"""For a request's head to arrive, and for a refused request to end."""

KEEP_ALIVE_SECONDS: Final = 5
"""A connection may idle between two requests."""

STOP_SECONDS: Final = 5
"""Requests under way may take this long after `stop`."""

LEAVE_SECONDS: Final = 0.5
"""For a request to come on a connection without one, after `stop`."""

_DATE_SECONDS: Final = 1.0
"""Between two looks at the clock for the Date header."""


class ApiServer:
    """One application on one listening socket, which it closes in the end."""

    def __init__(self, application: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                application,
                # The parser in C has no limit on the size of a head.
                http=_BoundedProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to accept; returns once it does.

        Raises:
            RuntimeError: it was started before.
            OSError: the socket cannot be served.
        """
        if self._serving is not None:
            raise RuntimeError("an API server is started once")
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[self._listener]), name="underpass-api"
        )
        up = asyncio.ensure_future(self._server.up.wait())
        try:
            await asyncio.wait((self._serving, up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._serving.done():
            await self._serving

    async def stop(self) -> None:
        """Accept no more, let requests under way finish for STOP_SECONDS, close everything.
        Stopping twice, or what was never started, is harmless."""
        if self._serving is None:
            self._listener.close()
            return
        self._server.stop()
        await asyncio.shield(self._serving)


class _Server(uvicorn.Server):
    """uvicorn's server without what it does to a process, told to stop by an event."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def main_loop(self) -> None:
        # on_tick renews the Date header at 0; uvicorn itself looks ten times a second.
        while not await self.on_tick(0):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _DATE_SECONDS)


class _BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a deadline while no request is being answered.

    uvicorn forgets its keep-alive timer at the first byte, so a head that trickles in, or a body
    that goes on after its request was refused, would keep a connection for ever.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False
        self._watch()

    def shutdown(self) -> None:
        if self._leaving or (self.cycle is not None and not self.cycle.response_complete):
            super().shutdown()
            return
        # A request may be on its way on a connection that has none now.
        self._leaving = True
        self.loop.call_later(LEAVE_SECONDS, self._leave)

    def _leave(self) -> None:
        if not self.transport.is_closing():
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
