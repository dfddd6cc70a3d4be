"""Connections to one HTTP origin under one name: a pool, and how it is filled.

A request that finds a waiting connection never comes here: `forward` is the compiled pool's. This
module dials when none waits.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import HttpService, UnixService
from underpass.connector.services.dial import SHUTDOWN, Dialer, OriginDialError, Tls
from underpass.core.http1client import Http1Client, OriginPool
from underpass.core.tunnel import OriginExchange
from underpass.wire.turns import LoopTurn

if TYPE_CHECKING:
    from underpass.connector.services.http2 import Http2Connection
    from underpass.connector.services.proxy import Proxy

__all__ = ["HTTP2_OR_1", "OriginConnections", "OriginSettingError"]

log = logging.getLogger("underpass.connector.origin")

MAX_DIALS: Final = 512
"""Connections being made to one origin at once: more would fill its listen queue. Requests beyond
wait for one that comes free."""

NO_TOTAL: Final = 2
"""Idle connections kept with `keepAliveConnections: 0`: "no limit in all", and Go's own for each
host."""

SETTINGS_SECONDS: Final = 10.0
"""How long an HTTP/2 origin may take to send its SETTINGS."""

RELEARN_SECONDS: Final = 60.0
"""How long an origin that answered in HTTP/1.1 is not asked for HTTP/2 again."""

RESTARTED_SECONDS: Final = 5.0
"""The same of one that hung up without a word: it may just be starting."""

HTTP2_OR_1: Final = ("h2", "http/1.1")
"""What a handshake offers an origin that may speak HTTP/2."""

P = TypeVar("P", bound=asyncio.BaseProtocol)

Codec: TypeAlias = "OriginConnection | Http2Connection"


class OriginSettingError(Exception):
    """A setting of the rule, or a proxy that the environment names, cannot be used."""


class OriginConnection(Http1Client, asyncio.BufferedProtocol):
    """The core's HTTP/1.1 client on a transport; among `connections` while it is open."""

    def __init__(
        self, turn: LoopTurn, pool: OriginPool, connections: set[asyncio.BaseProtocol]
    ) -> None:
        super().__init__(turn, pool)
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, reason: Exception | None) -> None:
        self._connections.discard(self)
        super().connection_lost(reason)


class OriginConnections:
    """The connections to `service` whose certificate, if it has one, is for `server_name`.

    `context` makes the TLS context that offers these protocols.
    """

    def __init__(
        self,
        turn: LoopTurn,
        service: HttpService | UnixService,
        settings: OriginRequest,
        context: Callable[[tuple[str, ...]], ssl.SSLContext],
        server_name: str | None,
        proxy: Proxy | None,
    ) -> None:
        self._turn = turn
        self._service = service
        self._settings = settings
        self._context = context
        self._server_name = server_name
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._dialer = Dialer(settings)
        self._dials: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.BaseProtocol] = set()
        self._http1_until = 0.0
        # Only where plain HTTP/1.1 is spoken is a proxy told the request itself.
        self._relayed = proxy is not None and not self._is_tls and not settings.http2_origin
        self._http1 = OriginPool(
            lambda: self._dial(self._http1, self._open_http1),
            max_idle=settings.keep_alive_connections or NO_TOTAL,
            idle_timeout=settings.keep_alive_timeout,
            max_dials=MAX_DIALS,
            absolute=_origin_form(service) if self._relayed else None,
            proxy_authorization=proxy.authorization if proxy is not None else None,
        )
        self._pool = self._http1
        if settings.http2_origin:
            from underpass.core.http2client import Http2Pool

            self._http2 = Http2Pool(
                lambda: self._dial(self._http2, self._open_http2),
                self._http1,
                max_idle=settings.keep_alive_connections or NO_TOTAL,
                idle_timeout=settings.keep_alive_timeout,
                max_dials=MAX_DIALS,
            )
            self._pool = self._http2

    @property
    def _is_tls(self) -> bool:
        service = self._service
        return service.tls if isinstance(service, UnixService) else service.scheme == "https"

    @property
    def forward(self) -> Callable[[OriginExchange], None]:
        """The compiled pool's own method."""
        return self._pool.forward

    @property
    def is_busy(self) -> bool:
        """Whether connections are being made, or are in use."""
        return bool(self._dials) or len(self._connections) > self._waiting

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing: neither a connection nor one in the making."""
        return not self._dials and not self._connections

    @property
    def _waiting(self) -> int:
        return len(self._http1) + (len(self._pool) if self._pool is not self._http1 else 0)

    def close(self) -> None:
        """Close waiting connections and give up those being made."""
        self._turn.on_tick.discard(self._sweep)
        self._pool.close()
        for dial in self._dials:
            dial.cancel()

    def _sweep(self) -> None:
        """Look at what has been idle, or silent, for too long; once a tick."""
        self._pool.sweep(self._turn.coarse)
        if self._pool is not self._http1:
            self._http1.sweep(self._turn.coarse)
        if self.is_empty:
            # Of thousands of origins few are in use, and only those need looking after.
            self._turn.on_tick.discard(self._sweep)

    # Dialling.

    def _dial(self, pool: OriginPool, make: Callable[[OriginPool], Awaitable[Codec]]) -> None:
        self._turn.on_tick.add(self._sweep)
        task = self._loop.create_task(self._fill(pool, make))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _fill(self, pool: OriginPool, make: Callable[[OriginPool], Awaitable[Codec]]) -> None:
        """Make one connection, and tell the pool how it went."""
        waiting = pool.arrivals
        # Where one connection carries many, each of them has waited for this attempt.
        together = pool is not self._http1 and not self._http2.session_count
        try:
            connection = await make(pool)
        except OriginDialError as error:
            if error.cause == "dial_timeout" or together:
                pool.dial_failed(502, error.cause, str(error), waiting)
            else:
                pool.dial_failed(502, error.cause, str(error))
        except asyncio.CancelledError:
            pool.dial_failed(502, SHUTDOWN)
            raise
        except Exception:
            # A fault of ours: it is logged, and nobody waits for ever.
            pool.dial_failed(500, "internal_error")
            raise
        else:
            pool.arrived(connection)

    async def _open_http1(self, pool: OriginPool) -> OriginConnection:
        return await self._open(self._new_http1(pool), ())

    async def _open_http2(self, pool: OriginPool) -> Codec:
        from underpass.connector.services.http2 import Negotiation, NotHttp2Error

        if self._is_tls:
            negotiation = await self._open(
                lambda: Negotiation(self._new_http2, self._new_http1(pool)), HTTP2_OR_1
            )
            codec = negotiation.codec
            assert codec is not None
            if isinstance(codec, OriginConnection):
                return codec
            try:
                return await self._settled(codec)
            except NotHttp2Error:
                text = (
                    f"{self._service} agreed on HTTP/2 in the TLS handshake and does not speak it"
                )
                raise OriginDialError("protocol_error", text) from None
        if self._turn.coarse >= self._http1_until:
            try:
                return await self._settled(await self._open(self._new_http2, ()))
            except NotHttp2Error as error:
                patience = RELEARN_SECONDS if error.answered else RESTARTED_SECONDS
                self._http1_until = self._turn.coarse + patience
                log.info("%s does not speak HTTP/2 and is asked in HTTP/1.1", self._service)
        return await self._open_http1(pool)

    async def _settled(self, connection: Http2Connection) -> Http2Connection:
        """The same connection, once the origin has shown that it speaks HTTP/2."""
        try:
            await asyncio.wait_for(connection.ready, SETTINGS_SECONDS)
        except asyncio.TimeoutError:
            connection.abort()
            raise OriginDialError(
                "dial_timeout",
                f"{self._service} sent nothing of HTTP/2 within {SETTINGS_SECONDS:g} s (if it does "
                "not speak that, leave out originRequest.http2Origin)",
            ) from None
        except BaseException:
            connection.abort()
            raise
        return connection

    def _new_http1(self, pool: OriginPool) -> Callable[[], OriginConnection]:
        return lambda: OriginConnection(self._turn, pool, self._connections)

    def _new_http2(self) -> Http2Connection:
        from underpass.connector.services.http2 import Http2Connection

        scheme = b"https" if self._is_tls else b"http"
        return Http2Connection(self._turn, self._http2, scheme, self._connections)

    async def _open(self, factory: Callable[[], P], alpn: tuple[str, ...]) -> P:
        service, proxy = self._service, self._proxy
        tls = None
        if self._is_tls:
            tls = Tls(self._context(alpn), self._server_name)
        if isinstance(service, UnixService):
            return await self._dialer.open_unix(service, service.path, factory, tls)
        if proxy is None:
            return await self._dialer.open_tcp(service, service.host, service.port, factory, tls)
        name = f"the proxy {proxy}"
        if self._relayed:
            return await self._dialer.open_tcp(name, proxy.host, proxy.port, factory)
        from underpass.connector.services.proxy import ask_for_tunnel

        sock = await self._dialer.connect_tcp(name, proxy.host, proxy.port)
        await ask_for_tunnel(sock, proxy, service, self._settings.connect_timeout or None)
        return await self._dialer.open_socket(service, sock, factory, tls)


def _origin_form(service: HttpService | UnixService) -> bytes:
    assert isinstance(service, HttpService)
    port = "" if service.port == 80 else f":{service.port}"
    host = f"[{service.host}]" if ":" in service.host else service.host
    return f"http://{host}{port}".encode("idna")
