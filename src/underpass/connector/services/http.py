"""HTTP origins: `http://`, `https://`, `unix:` and `unix+tls:`.

A request that finds a waiting connection never comes here: `forward` is the compiled pool's. This
module dials when none waits.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final

from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import HttpService, UnixService
from underpass.connector.services.dial import SHUTDOWN, Dialer, OriginDialError, Tls
from underpass.connector.trust import origin_context
from underpass.core.http1client import Http1Client, OriginPool
from underpass.core.tunnel import OriginExchange
from underpass.wire.turns import LoopTurn

__all__ = ["HttpOrigin"]

log = logging.getLogger("underpass.connector.origin")

MAX_DIALS: Final = 512
"""Connections being made to one origin at once: more would fill its listen queue. Requests beyond
wait for one that comes free."""


class OriginConnection(Http1Client, asyncio.BufferedProtocol):
    """The core's HTTP/1.1 client on a transport; among `connections` while it is open."""

    def __init__(
        self, turn: LoopTurn, pool: OriginPool, connections: set[OriginConnection]
    ) -> None:
        super().__init__(turn, pool)
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, reason: Exception | None) -> None:
        self._connections.discard(self)
        super().connection_lost(reason)


class HttpOrigin:
    """One HTTP origin with its pool of connections."""

    def __init__(
        self, turn: LoopTurn, service: HttpService | UnixService, settings: OriginRequest
    ) -> None:
        self._turn = turn
        self._service = service
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._dialer = Dialer(settings)
        self._pool = OriginPool(
            self._dial,
            max_idle=settings.keep_alive_connections or 100,
            idle_timeout=settings.keep_alive_timeout,
            max_dials=MAX_DIALS,
        )
        self._dials: set[asyncio.Task[None]] = set()
        self._connections: set[OriginConnection] = set()
        is_tls = service.tls if isinstance(service, UnixService) else service.scheme == "https"
        self._is_tls = is_tls
        # A file that cannot be used is to be known before the first request.
        self._context: ssl.SSLContext | None = (
            origin_context(settings) if is_tls and settings.ca_pool else None
        )
        self._host = settings.http_host_header.encode("idna") if settings.http_host_header else None
        turn.on_tick.add(self._tick)

    @property
    def forward(self) -> Callable[[OriginExchange], None]:
        """The compiled pool's own method, unless something has to be said first."""
        if self._host is None:
            return self._pool.forward

        def forward(exchange: OriginExchange) -> None:
            exchange.host = self._host
            self._pool.forward(exchange)

        return forward

    @property
    def is_busy(self) -> bool:
        """Whether connections are being made, or are in use."""
        return bool(self._dials) or len(self._connections) > len(self._pool)

    def close(self) -> None:
        """Close waiting connections and give up those being made."""
        self._turn.on_tick.discard(self._tick)
        self._pool.close()
        for dial in self._dials:
            dial.cancel()

    def _tick(self) -> None:
        self._pool.sweep(self._turn.coarse)

    def _dial(self) -> None:
        task = self._loop.create_task(self._connect())
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _connect(self) -> None:
        waiting, failed = self._pool.arrivals, self._pool.dial_failed
        try:
            connection = await self._open()
        except OriginDialError as error:
            # Of those who wait together, each has waited for this attempt.
            timed_out = error.cause.endswith("_timeout")
            failed(502, error.cause, str(error), waiting if timed_out else None)
        except asyncio.CancelledError:
            failed(502, SHUTDOWN)
            raise
        else:
            self._pool.arrived(connection)

    async def _open(self) -> OriginConnection:
        settings, service = self._settings, self._service
        if isinstance(service, UnixService):
            tls = self._tls(settings.origin_server_name or "localhost")
            return await self._dialer.open_unix(service, service.path, self._new_connection, tls)
        tls = self._tls(settings.origin_server_name or service.host)
        return await self._dialer.open_tcp(
            service, service.host, service.port, self._new_connection, tls
        )

    def _tls(self, server_name: str) -> Tls | None:
        if not self._is_tls:
            return None
        if self._context is None:
            self._context = origin_context(self._settings)  # here, because it is slow to make
        return Tls(self._context, server_name)

    def _new_connection(self) -> OriginConnection:
        return OriginConnection(self._turn, self._pool, self._connections)
