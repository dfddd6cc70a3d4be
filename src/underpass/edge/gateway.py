"""The public gateway: visitors' connections, and the way of each request into a tunnel.

HTTP/1.1 on the plain listener; HTTP/1.1 and HTTP/2 by ALPN on the one with TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from underpass.core.endpoint import Endpoint
from underpass.core.fields import Token
from underpass.core.h2 import H2Connection, Limits
from underpass.core.http1server import Http1Server
from underpass.core.recent import RecentRequests
from underpass.core.relay import Counters, Exchange
from underpass.core.tunnel import VisitorAcceptor, VisitorExchange
from underpass.edge.challenges import PREFIX, Challenges
from underpass.edge.entrance import ORDINARY, Beginnings, Entrance
from underpass.edge.figures import TellingWho
from underpass.edge.handshakes import Handshakes
from underpass.edge.hostnames import hostname_of
from underpass.edge.links import EdgeLink
from underpass.edge.manners import Manners
from underpass.edge.origin_health import REFUSALS
from underpass.edge.pages import Failure, PageKind, render
from underpass.edge.passthrough import NO_PASSTHROUGH
from underpass.edge.pools import Pool
from underpass.edge.remote import RemoteLink
from underpass.edge.router import Router, UnknownHost
from underpass.edge.sites import HostnameTable
from underpass.edge.steering import Steering
from underpass.edge.visitor_address import plain_address
from underpass.edge.waiting import WaitingRoom
from underpass.wire.causes import Speaker, hop_of
from underpass.wire.turns import LoopTurn

if TYPE_CHECKING:
    from underpass.edge.access_log import AccessLog
    from underpass.edge.dashboard.public import PublicDashboard
    from underpass.edge.management import Management

__all__ = ["Gateway"]

log = logging.getLogger("underpass.edge.gateway")

HANDSHAKE_SECONDS: Final = 10.0
"""For TLS with a visitor."""

HEAD_SECONDS: Final = 15.0
"""From the first byte of a request head to its last: slower is an attack, not a visitor."""

IDLE_SECONDS: Final = 75.0
"""An HTTP/1.1 connection without a request, or an HTTP/2 one without a stream. nginx has 75."""

SEND_SECONDS: Final = 60
"""Without a byte taken of what waits for a visitor. What it holds up is a window of a link that
others use; nginx gives 60 s too."""

MAX_CONNECTIONS: Final = 16384
"""Visitors' connections at once; about 10 kB each when idle."""

MAX_HEAD: Final = 32768
"""Bytes of an HTTP/1.1 request head. nginx allows 32 KiB, most servers 8 to 16."""

LINGER_BYTES: Final = 1048576
"""Of an HTTP/2 upload that are read on and thrown away after an early answer, for at most..."""

LINGER_SECONDS: Final = 2.0
"""...so long: some clients lose an early answer when the reset is close behind it."""

_PAGES: Final = {
    400: PageKind.BAD_REQUEST,
    403: PageKind.FORBIDDEN,
    404: PageKind.UNKNOWN_HOST,
    408: PageKind.BAD_REQUEST,
    413: PageKind.PAYLOAD_TOO_LARGE,
    421: PageKind.MISDIRECTED,
    431: PageKind.HEADER_TOO_LARGE,
    501: PageKind.NOT_SUPPORTED,
    503: PageKind.NO_LINK,
    504: PageKind.GATEWAY_TIMEOUT,
    508: PageKind.LOOP,
}


def visitor_limits() -> Limits:
    """What one HTTP/2 visitor may do. Browsers use about 100 streams and rarely reset."""
    return Limits(
        max_concurrent_streams=256,
        stream_window=262144,
        connection_window=4194304,
        max_frame_size=16384,
        max_header_list=65536,
        allowance=1000,
        allowance_per_second=200,
        linger=LINGER_BYTES,
        extended_connect=True,
    )


class SendWatch:
    """Notices a visitor that takes nothing of what is waiting for it."""

    def __init__(self) -> None:
        self._waiting = 0
        self._ticks = 0

    def is_stuck(self, visitor: Endpoint) -> bool:
        """Asked once a tick: whether nothing has been taken for SEND_SECONDS."""
        transport = visitor.transport
        if transport is None or not visitor.write_paused:
            self._ticks = 0
            return False
        waiting = transport.get_write_buffer_size()
        self._ticks = self._ticks + 1 if waiting == self._waiting else 0
        self._waiting = waiting
        return self._ticks >= SEND_SECONDS


class VisitorHttp1(Http1Server, asyncio.BufferedProtocol):
    """A visitor who speaks HTTP/1.1."""

    def __init__(self, gateway: Gateway, acceptor: VisitorAcceptor, scheme: bytes) -> None:
        super().__init__(gateway.turn, acceptor, scheme, MAX_HEAD)
        self.acceptor = acceptor
        self._gateway = gateway
        self._sending = SendWatch()

    is_fresh = True
    """It has come since the last tick: its first request may be on its way."""

    def look(self) -> None:
        """Once a tick: time out what waits too long."""
        self.is_fresh = False
        self.sweep(HEAD_SECONDS, IDLE_SECONDS)
        if self._sending.is_stuck(self):
            self.abort()

    def leave(self) -> None:
        """Called once a tick: close with the next response that can say so."""
        self.announce_end()

    def error_response(self, status: int) -> bytes:
        page = render(_PAGES.get(status, PageKind.BAD_REQUEST), b"", "-")
        reason = HTTPStatus(status).phrase.encode("ascii")
        head = [b"HTTP/1.1 %d %b" % (status, reason), b"Connection: close"]
        head.extend(name + b": " + value for name, value in page.headers)
        if self.acceptor.hsts is not None:
            head.append(b"Strict-Transport-Security: " + self.acceptor.hsts)
        return b"\r\n".join(head) + b"\r\n\r\n" + page.body

    def disconnected(self, reason: Exception | None) -> None:
        self._gateway.forget(self)


class VisitorHttp2(H2Connection, asyncio.BufferedProtocol):
    """A visitor who speaks HTTP/2."""

    def __init__(self, gateway: Gateway, acceptor: VisitorAcceptor) -> None:
        super().__init__(gateway.turn, acceptor, visitor_limits())
        self.acceptor = acceptor
        self._gateway = gateway
        self._sending = SendWatch()
        self._goodbyes = 0
        self._quiet_ticks = 0

    is_fresh = True
    """It has come since the last tick: its first request may be on its way."""

    def look(self) -> None:
        """Once a tick: say goodbye to a connection nobody uses."""
        self.is_fresh = False
        self.sweep_streams(LINGER_SECONDS, SEND_SECONDS)
        if self._sending.is_stuck(self):
            self.abort()
            return
        self._quiet_ticks = 0 if self.active else self._quiet_ticks + 1
        if self._quiet_ticks >= IDLE_SECONDS:
            self.shut_down()

    def leave(self) -> None:
        """Called once a tick: say goodbye, and mean it a whole tick later (RFC 9113 §6.8). What
        the visitor has begun before it heard of that is answered."""
        if self._goodbyes == 0:
            self.announce_end()
        elif self._goodbyes == 2:
            self.shut_down()
        self._goodbyes += 1

    def protocol_failure(self, code: int, why: str) -> None:
        log.info("a visitor broke the HTTP/2 protocol: %s (error code %d)", why, code)

    def disconnected(self, reason: Exception | None) -> None:
        self._gateway.forget(self)


class Doorman(asyncio.BufferedProtocol):
    """Waits for the handshake to say which protocol is spoken, and hands over to it."""

    def __init__(
        self, gateway: Gateway, scheme: bytes, address: str | None, began: int | None
    ) -> None:
        self._gateway = gateway
        self._scheme = scheme
        self._address = address
        if began is None:
            began = gateway.handshakes.begin() if scheme == b"https" else 0
        self._began = began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._scheme == b"https":
            self._gateway.handshakes.completed(self._began)
        # uvloop's transports are not registered as asyncio's.
        self._gateway.welcome(cast("asyncio.Transport", transport), self._scheme, self._address)

    def get_buffer(self, sizehint: int) -> bytearray:
        raise RuntimeError("the doorman has handed over")

    def buffer_updated(self, nbytes: int) -> None:
        raise RuntimeError("the doorman has handed over")


Visitor: TypeAlias = VisitorHttp1 | VisitorHttp2


class Gateway:
    """Serves visitors on the public listeners.

    Args:
        location: the edge's short name, which ends every ray.
        manners: how requests are dealt with.
        secure_port: where visitors of the plain listener are sent who are to come with TLS.
        challenges: answered on the plain listener before any tunnel is asked.
        access_log: gets a line for each request; its owner closes it.
        recent: remembers the last requests.
        room: where requests wait for a link that is about to come.
    """

    def __init__(
        self,
        turn: LoopTurn,
        router: Router,
        *,
        location: str,
        manners: Manners,
        secure_port: int = 443,
        challenges: Challenges | None = None,
        access_log: AccessLog | None = None,
        recent: RecentRequests | None = None,
        room: WaitingRoom | None = None,
    ) -> None:
        self.turn = turn
        self._recent = recent
        self.access_log = access_log
        self.management: Management | None = None
        self.dashboard: PublicDashboard | None = None
        """Both are asked about hosts that no route leads from."""
        self._challenges = challenges
        self._secure_port = secure_port
        self.counters = Counters()
        self.telling = TellingWho()
        self.handshakes = Handshakes(HANDSHAKE_SECONDS)
        self.accepted: Counter[tuple[str]] = Counter()
        """Visitors' connections so far, by listener."""
        self._router = router
        self.steering = Steering(router, self.route, room)
        self._manners = manners
        self._sites: HostnameTable[Manners] | None = None
        self._location = location.upper().encode("ascii")
        self._entrances: list[Entrance] = []
        self._passthrough = NO_PASSTHROUGH
        self._visitors: set[Visitor] = set()
        self._draining = False
        self._stopping = False
        self._emptied = asyncio.Event()
        turn.on_tick.add(self._look)

    @property
    def connections(self) -> int:
        """Visitors' connections open now."""
        return len(self._visitors)

    def behave(self, manners: Manners, sites: HostnameTable[Manners] | None) -> None:
        """Deal with requests in this way from now on; with those for some hosts as `sites` has it,
        whose default is `manners`."""
        self._manners, self._sites = manners, sites
        for visitor in self._visitors:
            self._tell(visitor.acceptor)

    def _tell(self, acceptor: VisitorAcceptor) -> None:
        """What a visitor's requests are subject to before anybody has asked for their host."""
        # With sites, each request is told its own limit: see `_meet`.
        acceptor.max_body = self._manners.max_body if self._sites is None else -1
        acceptor.compresses = self._manners.compresses
        # RFC 6797 §8.1: what came without TLS must not say it.
        acceptor.hsts = self._manners.hsts if acceptor.scheme == b"https" else None

    async def start(
        self,
        plain: socket.socket,
        secure: socket.socket,
        context: ssl.SSLContext,
        beginnings: Beginnings = ORDINARY,
    ) -> None:
        """Begin to accept on bound sockets."""
        self._passthrough = beginnings.passthrough
        for scheme, listener, security, handshakes in (
            (b"http", plain, None, None),
            (b"https", secure, context, self.handshakes),
        ):
            entrance = Entrance(
                listener,
                partial(Doorman, self, scheme),
                context=security,
                handshakes=handshakes,
                seconds=HANDSHAKE_SECONDS,
                beginnings=beginnings,
            )
            self._entrances.append(entrance)
            await entrance.open()

    async def begin_with(self, beginnings: Beginnings) -> None:
        """Look at connections that come from now on in this way."""
        self._passthrough = beginnings.passthrough
        for entrance in self._entrances:
            await entrance.change(beginnings)

    def welcome(
        self, transport: asyncio.Transport, scheme: bytes, address: str | None = None
    ) -> None:
        """A visitor has connected; from `address`, if the socket does not know better."""
        if len(self._visitors) >= MAX_CONNECTIONS:
            transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        has_http2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        route: Callable[[VisitorExchange], None]
        if scheme == b"http":
            route = self.route_plain
        elif self._passthrough:
            route = self._route_unless_passed_through
        else:
            route = self.route
        failed = self._failed
        if self.access_log is not None:
            spoken = scheme.decode("ascii"), "HTTP/2.0" if has_http2 else "HTTP/1.1"
            route = self.access_log.observing(*spoken, route)
            failed = self.access_log.observing(*spoken, failed)
        if address is None:
            peer = transport.get_extra_info("peername")
            address = str(peer[0]) if peer else "0.0.0.0"  # noqa: S104 - nobody's, bound by nobody
        acceptor = VisitorAcceptor(
            route,
            self.counters,
            self._unexpected,
            failed,
            plain_address(address).encode("ascii"),
            scheme,
            self._location,
        )
        acceptor.recent = self._recent
        self._tell(acceptor)
        acceptor.again = self.steering.again
        acceptor.refusals = REFUSALS
        visitor: Visitor
        if has_http2:
            visitor = VisitorHttp2(self, acceptor)
        else:
            visitor = VisitorHttp1(self, acceptor, scheme)
        self._visitors.add(visitor)
        self.accepted[(scheme.decode("ascii"),)] += 1
        transport.set_protocol(visitor)
        visitor.connection_made(transport)
        if self._draining and isinstance(visitor, VisitorHttp1):
            visitor.leave()

    def forget(self, visitor: Visitor) -> None:
        """A visitor's connection has ended."""
        self._visitors.discard(visitor)
        self._look_whether_empty()

    def route(self, exchange: VisitorExchange) -> None:
        """Send a request down a link. Called once a request."""
        if self._sites is not None and not self._meet(exchange, self._sites):
            return
        link = self._router.route(exchange.authority)
        if link.__class__ is EdgeLink or isinstance(link, RemoteLink):
            exchange.context = link
            if not link.forward(exchange):
                self.steering.by_another(link, exchange)
        elif isinstance(link, UnknownHost):
            if not any(own.take(exchange) for own in (self.management, self.dashboard) if own):
                exchange.fail(404, "unknown_host")
        elif isinstance(link, Pool):
            self.steering.by_pool(link, exchange)
        else:
            self.steering.wait(exchange, [link.tunnel_id], "no_link")

    def route_plain(self, exchange: VisitorExchange) -> None:
        """The same for a request that came without TLS."""
        path = exchange.path
        if path.startswith(PREFIX) and self._challenges is not None:
            proof = self._challenges.find(path)
            if proof is not None:
                exchange.respond(200, ((b"content-type", b"application/octet-stream"),), proof)
                return
        if self._manners_for(exchange).redirect:
            host = hostname_of(exchange.authority)
            # A name that nobody serves is told so here: there is no certificate for it.
            if host is not None and self._router.knows(host):
                exchange.respond(308, ((b"location", self._secure(host, path)),))
                return
        if self._passthrough:
            self._route_unless_passed_through(exchange)
        else:
            self.route(exchange)

    def _route_unless_passed_through(self, exchange: VisitorExchange) -> None:
        """The same where some hostnames' TLS ends at the application: what has come to the edge for
        one of them is no bytes for it. Browsers that take a connection for all names of its
        certificate then make another (RFC 9110 §15.5.20)."""
        host = hostname_of(exchange.authority)
        if host is not None and self._passthrough.covers(host):
            exchange.fail(421, "passed_through")
        else:
            self.route(exchange)

    def _manners_for(self, exchange: VisitorExchange) -> Manners:
        return self._manners if self._sites is None else self._sites.find(exchange.authority)

    def _meet(self, exchange: VisitorExchange, sites: HostnameTable[Manners]) -> bool:
        """Make a request subject to what its host has of its own; False when that ends it."""
        manners = sites.find(exchange.authority)
        exchange.patience = manners.patience
        exchange.compresses = manners.compresses
        if exchange.acceptor.scheme == b"https":
            exchange.hsts = manners.hsts
        return exchange.limit_body(manners.max_body)

    def _secure(self, host: str, path: bytes) -> bytes:
        """The address of the same with TLS."""
        port = b"" if self._secure_port == 443 else b":%d" % self._secure_port
        # The form for requests about the whole server has no path (RFC 9112 §3.2.4).
        return b"https://" + host.encode("ascii") + port + (path if path[:1] == b"/" else b"/")

    def _failed(self, exchange: VisitorExchange, status: int, cause: str) -> None:
        if exchange.told:
            self.telling.note(cause)
            self.steering.note_failure(exchange, cause)
        hop = hop_of(cause, Speaker.CONNECTOR if exchange.told else Speaker.EDGE)
        page = render(
            _PAGES.get(status, PageKind.ORIGIN_UNREACHABLE),
            exchange.authority,
            exchange.ray.decode("ascii"),
            exchange.header(Token.T_ACCEPT),
            Failure(cause, hop),
            self._manners_for(exchange).pages,
        )
        log.info(
            "answered for an origin",
            extra={
                "status": status,
                "cause": cause,
                "hop": hop.value,
                "host": exchange.authority.decode("ascii", "replace"),
                "cfRay": exchange.ray.decode("ascii"),
            },
        )
        fields = [field for field in page.headers if field[0] != b"content-length"]
        exchange.respond(page.status, fields, page.body)

    def _unexpected(self, exchange: Exchange, error: Exception) -> None:
        log.error("unexpected error while routing a request", exc_info=error)

    def _look(self) -> None:
        self.handshakes.tick()
        self._router.tick()
        for entrance in self._entrances:
            entrance.look()
        if self.access_log is not None:
            self.access_log.flush()
        for visitor in tuple(self._visitors):
            visitor.look()
            if self._stopping:
                visitor.shut_down()
            elif self._draining:
                visitor.leave()
        self._look_whether_empty()

    def _look_whether_empty(self) -> None:
        # What has been accepted is served: a TLS handshake that is under way becomes a visitor.
        if self._visitors or self.handshakes.recent:
            return
        if not any(entrance.is_expecting for entrance in self._entrances):
            self._emptied.set()

    async def drain(self, seconds: float) -> None:
        """Accept no more: another process does. Return when every visitor has gone, of itself or
        with the answer to its next request, or `seconds` have passed.

        No connection is closed that a request may be on its way on, so an idle one stays for as
        long as it might have anyway.
        """
        self._draining = True
        for entrance in self._entrances:
            entrance.close()
        for visitor in tuple(self._visitors):
            visitor.leave()
        self._emptied.clear()
        self._look_whether_empty()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._emptied.wait(), seconds)

    async def stop(self, seconds: float) -> None:
        """Accept no more; let requests under way finish for so long; close everything."""
        self._stopping = True
        for entrance in self._entrances:
            entrance.close()
        for visitor in tuple(self._visitors):
            if not visitor.is_fresh:
                visitor.shut_down()
        self._emptied.clear()
        self._look_whether_empty()
        if not self._emptied.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)
        for entrance in self._entrances:
            entrance.abort()
        for visitor in tuple(self._visitors):
            visitor.abort()
        self.turn.on_tick.discard(self._look)
        for entrance in self._entrances:
            await entrance.wait_closed()
