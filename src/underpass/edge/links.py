"""The edge's end of a link: open the control stream, let the connector register, carry requests.

Docs: wire protocol §2.1 to §2.3, §2.11, and the hazards for edges in §8.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from uuid import UUID

from underpass.core.fields import Fields
from underpass.core.h2 import H2Connection, Limits
from underpass.core.relay import Counters, PythonSide
from underpass.core.tunnel import EdgeExchange
from underpass.edge.link_details import UNKNOWN_DETAILS, LinkDetails
from underpass.edge.moving import Way
from underpass.edge.registration import LinkRegistration
from underpass.edge.registry import Registry
from underpass.edge.remote import RemoteLink
from underpass.edge.router import Link, Router
from underpass.edge.timeouts import Timeouts
from underpass.wire.headers import (
    ACCEPTS_HINTS,
    EDGE_ACCEPTS,
    FEATURE_REQUEST_TRAILERS,
    PROXY_CONNECTION_UPGRADE,
    UPGRADE_CONTROL_STREAM,
)
from underpass.wire.link import LinkConnection, drain_words
from underpass.wire.registration import ClientInfo, RegistrationServer
from underpass.wire.remote_config import ConfigurationUpdate
from underpass.wire.rpc import RpcProtocolError
from underpass.wire.turns import LoopTurn

__all__ = ["EdgeLink"]

log = logging.getLogger("underpass.edge.links")

REGISTRATION_SECONDS: Final = 15.0
"""A connection that has not registered by then is not a connector."""

DRAIN_SECONDS: Final = 180.0
"""What an unregistered link may still take for its last requests: cloudflared's longest grace
period."""

LINK_WINDOW: Final = 128 * 1048576
"""Bytes of responses that visitors have not taken yet, of all requests on one link. One that takes
nothing keeps at most a stream's window of it (1 MiB, or what it has grown to), and that for a
minute."""

FAREWELL_SECONDS: Final = 2.0
"""For a refused connector to end its control stream. Were the connection closed before, cloudflared
might see that first, and take it for a fault that ends the process."""

NOBODY: Final = UUID(int=0)


class EdgeLink(LinkConnection):
    """One connection a connector has dialled. `router.Link` and `registration.RegistrableLink`.

    Args:
        location: what the connector is told it is connected to.
        timeouts: how long requests may take.
        on_connected: called once when the connection is there, its TLS handshake included.
        on_registered: called once when the connector has registered and been told so.
        on_gone: called once when the link has ended.
    """

    load = H2Connection.active

    def __init__(
        self,
        turn: LoopTurn,
        registry: Registry,
        router: Router,
        *,
        location: str,
        timeouts: Timeouts,
        on_connected: Callable[[EdgeLink], None],
        on_registered: Callable[[EdgeLink], None],
        on_gone: Callable[[EdgeLink], None],
    ) -> None:
        super().__init__(turn, limits=Limits(connection_window=LINK_WINDOW))
        self.draining = False
        self.drops_trailers = True
        self.tunnel_id = NOBODY
        self.connector_id = NOBODY
        self.connection_id = NOBODY
        self.conn_index = 0
        self.client_info: ClientInfo | None = None
        self.details = UNKNOWN_DETAILS
        self.registration = LinkRegistration(
            registry,
            router,
            self,
            location=location,
            on_duplicate=_ask_whether_alive,
            on_local_configuration=self._keep_configuration,
        )
        self.configuration: bytes = b""
        self._turn = turn
        self._router = router
        self.timeouts = timeouts
        self._on_connected = on_connected
        self._on_registered = on_registered
        self._on_gone = on_gone
        self._side: PythonSide | None = None
        self._rpc: RegistrationServer | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._drain_seconds = DRAIN_SECONDS
        self._kept = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._farewell: asyncio.TimerHandle | None = None

    @property
    def registered(self) -> bool:
        """Whether it takes, or has taken, requests."""
        return self.client_info is not None

    def identify(
        self, tunnel_id: UUID, connection_id: UUID, conn_index: int, client: ClientInfo
    ) -> None:
        """Become connection `conn_index` of a connector."""
        self.tunnel_id = tunnel_id
        self.connection_id = connection_id
        self.conn_index = conn_index
        self.connector_id = client.client_id
        self.client_info = client
        self.drops_trailers = FEATURE_REQUEST_TRAILERS not in client.features
        self.details = LinkDetails.of(connection_id, self.peer_ip, client)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._on_connected(self)
        if self.is_closed:
            return
        self._turn.on_tick.add(self._sweep)
        self._deadline = asyncio.get_running_loop().call_later(
            REGISTRATION_SECONDS, self._registration_due
        )
        self._open_control_stream()

    def _open_control_stream(self) -> None:
        # Its method, path and authority mean nothing; the connector waits for it, without a limit.
        head = Fields(
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"control.underpass"),
                (b":path", b"/"),
                (PROXY_CONNECTION_UPGRADE, UPGRADE_CONTROL_STREAM),
                (EDGE_ACCEPTS, ACCEPTS_HINTS),
            ]
        )
        exchange = EdgeExchange(Counters())
        side = self._side = PythonSide()
        self._rpc = RegistrationServer(self.registration, side.write, on_end=self._rpc_ended)
        side.on_head = self._control_answered
        side.on_data = self._feed
        side.on_end = side.on_abandoned = self._control_ended
        side.request(exchange, head)
        self.forward(exchange)

    def _control_answered(self, status: int, fields: Fields) -> None:
        if status != 200:
            log.warning("the connector answered its control stream with status %d", status)
            self.close()

    def _feed(self, data: bytes) -> None:
        assert self._rpc is not None
        try:
            self._rpc.feed(data)
        except RpcProtocolError as error:
            log.warning("malformed control stream from %s: %s", self.peer, error)
            self.abort()
            return
        if self.registered and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            if self.registration.registered:
                self._on_registered(self)
        if self.registration.refused:
            # Connectors do not close by themselves: see `_control_ended`.
            if self._farewell is None:
                self._farewell = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self.close)
        elif self.registration.unregistered:
            self._finish_soon()

    def _rpc_ended(self, reason: str) -> None:
        log.debug("control stream of %s ended: %s", self.peer, reason)

    def _control_ended(self, code: int = 0) -> None:
        if self._side is not None:
            self._side.end()
        if self._rpc is not None:
            self._rpc.closed(None)
        if self.registration.refused:
            self.close()
        elif self.registered and not self.is_closed:
            # Nobody answers for this link any more, though it may still work off what it has.
            if not self.draining:
                self._router.drain(self)
            self._finish_soon()

    def _finish_soon(self, kept: int = 0) -> None:
        if self._finishing is not None:
            if kept >= self._kept:
                return
            # The stream that was to be left over is none that stays any more.
            self._finishing.cancel()
        self._kept = kept
        self._finishing = asyncio.get_running_loop().create_task(self._finish(kept))

    async def _finish(self, kept: int) -> None:
        """Wait until only `kept` streams are left, then close: the connector waits for that."""
        try:
            await asyncio.wait_for(self.until_at_most(kept), self._drain_seconds)
        except asyncio.TimeoutError:
            log.info("link %d of %s still busy after its drain", self.conn_index, self.connector_id)
        self.close()

    def _registration_due(self) -> None:
        self._deadline = None
        if not self.registered:
            log.info("%s connected and did not register", self.peer)
            self.abort()

    async def push_configuration(self, version: int, config: bytes) -> int:
        """Have the connector put a configuration (a JSON object) in force; return the version that
        it has then, which may be newer. Raises ConfigurationNotTakenError."""
        from underpass.edge.configuration import push_configuration

        return await push_configuration(self.forward, ConfigurationUpdate(version, config))

    def _keep_configuration(self, document: bytes) -> None:
        self.configuration = document

    def _sweep(self) -> None:
        patience = self.timeouts
        self.sweep(patience.first_byte, patience.idle, patience.total)

    def connection_lost(self, reason: Exception | None) -> None:
        # First of all: requests that may be asked again must not find this link.
        self._router.remove_link(self)
        super().connection_lost(reason)

    def disconnected(self, reason: Exception | None) -> None:
        self._turn.on_tick.discard(self._sweep)
        for timer in (self._deadline, self._farewell):
            if timer is not None:
                timer.cancel()
        self._deadline = self._farewell = None
        if self._leaving is not None:
            self._leaving.cancel()
        if self._rpc is not None:
            self._rpc.closed(reason)
        super().disconnected(reason)
        if self.registered:
            log.info(
                "connection %d of connector %s is gone%s",
                self.conn_index,
                self.connector_id,
                f": {reason}" if reason is not None else "",
            )
        self._on_gone(self)

    def move(self, way: Way, drain_seconds: float) -> None:
        """Bring the connector to have this link elsewhere, and what is under way to end in so
        long."""
        self._drain_seconds = drain_seconds
        if way is Way.ASK:
            self.announce_end(drain_words(drain_seconds))
        elif way is Way.DRAIN:
            self.prepare_stop()
        elif self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._leave_when_idle())

    async def _leave_when_idle(self) -> None:
        # The control stream stays; and a request may come between the last one's end and our turn.
        await self.until_at_most(1)
        while not self.is_closed and self.active > 1:
            await self.until_at_most(1)
        if not self.is_closed:
            self.prepare_stop()

    def prepare_stop(self) -> None:
        """Take no new requests; `ended` is done once the last is answered, or the drain is over."""
        if self.registered:
            self._router.drain(self)
        self.shut_down()
        # The control stream would stay for ever.
        self._finish_soon(kept=1)


def _ask_whether_alive(holder: Link) -> None:
    """A connector has come back for an index whose link still seems to live."""
    if isinstance(holder, EdgeLink | RemoteLink):
        holder.probe()
