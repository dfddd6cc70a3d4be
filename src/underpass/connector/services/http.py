"""HTTP origins: `http://`, `https://`, `unix:` and `unix+tls:`.

A request that finds a waiting connection never comes here: `forward` is the compiled pool's. This
module dials when none waits.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Final

from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import HttpService, UnixService
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
        self._context = origin_context(settings) if is_tls and settings.ca_pool else None
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
        timeout = self._settings.connect_timeout or None
        waiting, failed = self._pool.arrivals, self._pool.dial_failed
        try:
            connection = await asyncio.wait_for(self._open(), timeout)
        except asyncio.TimeoutError:
            why = f"{self._service} did not answer within {timeout:g} s"
            failed(502, "dial_timeout", why, waiting)
        except ssl.SSLError as error:
            failed(502, "tls", f"TLS with {self._service}: {_tls_trouble(error)}")
        except socket.gaierror as error:
            failed(502, "dns", f"cannot resolve the name of {self._service}: {error}")
        except OSError as error:
            failed(502, "dial", f"cannot connect to {self._service}: {error}")
        except asyncio.CancelledError:
            failed(502, "shutdown")
            raise
        else:
            self._pool.arrived(connection)

    async def _open(self) -> OriginConnection:
        settings, service = self._settings, self._service
        if self._is_tls and self._context is None:
            self._context = origin_context(settings)  # here, because it is slow to make
        tls_timeout = (settings.tls_timeout or 3600.0) if self._is_tls else None
        if isinstance(service, UnixService):
            if sys.platform == "win32":
                raise OSError("unix sockets are not supported on Windows")
            _, connection = await self._loop.create_unix_connection(
                self._new_connection,
                service.path,
                ssl=self._context,
                server_hostname=(settings.origin_server_name or "localhost")
                if self._is_tls
                else None,
                ssl_handshake_timeout=tls_timeout,
            )
            return connection
        _, connection = await self._loop.create_connection(
            self._new_connection,
            service.host,
            service.port,
            ssl=self._context,
            server_hostname=(settings.origin_server_name or service.host) if self._is_tls else None,
            ssl_handshake_timeout=tls_timeout,
        )
        _keep_alive(connection, settings.tcp_keep_alive)
        return connection

    def _new_connection(self) -> OriginConnection:
        return OriginConnection(self._turn, self._pool, self._connections)


def _tls_trouble(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not to be trusted: {error.verify_message} (give its CA with "
            "originRequest.caPool, its name with originServerName, or set noTLSVerify)"
        )
    return str(error.reason or error)


def _keep_alive(connection: OriginConnection, period: float) -> None:
    """TCP keep-alive as configured: seconds, 0 for the system's own, negative for none."""
    transport = connection.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or period < 0:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if period >= 1 and hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(period))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(period))
