"""The connector's end of a link: dial the edge, answer its control stream, register, serve.

Implements `connector.links`. Docs: wire protocol §1.7, §1.8, §2.1, §2.3, §2.11.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import platform
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from underpass.connector.dispatch import Dispatcher, Plan, Service
from underpass.connector.edges import EdgeSlot
from underpass.connector.figures import EdgeCalls
from underpass.connector.home_dialer import HomeDialer
from underpass.connector.homes import Home
from underpass.connector.in_force import Updates
from underpass.connector.ingress import Ingress
from underpass.connector.links import DialError, DialErrorKind, Link
from underpass.connector.local_configuration import local_configuration_of
from underpass.connector.observers import Observers
from underpass.connector.options import ConnectorOptions
from underpass.connector.status import ConnectorStatus
from underpass.core.relay import PythonSide
from underpass.core.tunnel import Kind, OriginAcceptor, OriginExchange
from underpass.ops.metrics import Snapshot
from underpass.version import VERSION
from underpass.wire.credentials import Credentials
from underpass.wire.headers import (
    ACCEPTS_HINTS,
    EDGE_ACCEPTS,
    FEATURE_ALLOW_REMOTE_CONFIG,
    FEATURE_MANAGEMENT_LOGS,
    FEATURE_REPLACES_LINKS,
    FEATURE_REQUEST_TRAILERS,
    FEATURE_SERIALIZED_HEADERS,
)
from underpass.wire.link import LinkConnection, drain_seconds
from underpass.wire.registration import (
    MAX_CONFIGURATION_BYTES,
    ClientInfo,
    ConnectionDetails,
    ConnectionOptions,
    RegistrationClient,
)
from underpass.wire.rpc import RpcError, RpcProtocolError
from underpass.wire.turns import LoopTurn

if TYPE_CHECKING:
    from underpass.connector.configuration_stream import ConfigurationStreams
    from underpass.connector.management.host import Host

__all__ = ["ConnectorLink", "HttpLinkDialer"]

log = logging.getLogger("underpass.connector.link")

CONTROL_STREAM_TIMEOUT: Final = 15.0
"""Seconds the edge has to open the control stream; cloudflared would wait for ever."""

FEATURES: Final = (
    FEATURE_ALLOW_REMOTE_CONFIG,
    FEATURE_SERIALIZED_HEADERS,
    FEATURE_MANAGEMENT_LOGS,
    FEATURE_REQUEST_TRAILERS,
    FEATURE_REPLACES_LINKS,
)
"""Only what is implemented: an edge may act on any of them."""


class ConnectorLink(LinkConnection):
    """One link. It is registered once `register` has returned."""

    def __init__(
        self, turn: LoopTurn, acceptor: OriginAcceptor, calls: EdgeCalls | None = None
    ) -> None:
        super().__init__(turn, acceptor)
        self._calls = calls if calls is not None else EdgeCalls()
        self._control: asyncio.Future[PythonSide] = asyncio.get_running_loop().create_future()
        self._side: PythonSide | None = None
        self._rpc: RegistrationClient | None = None
        self._details: ConnectionDetails | None = None
        self._going_away = asyncio.Event()
        self.drain_seconds = 0.0

    @property
    def details(self) -> ConnectionDetails:
        """What the edge answered to the registration."""
        assert self._details is not None
        return self._details

    def control_stream(self, exchange: OriginExchange) -> None:
        """The edge has opened the control stream: answer, and let `register` go on."""
        if self._side is not None:
            # A second registration on one link would have no meaning.
            exchange.respond(409, ())
            return
        request = exchange.request
        if request is not None and request.get(EDGE_ACCEPTS) == ACCEPTS_HINTS:
            exchange.acceptor.passes_hints = True
        side = self._side = exchange.open_python_side()
        self._rpc = RegistrationClient(side.write, on_called=self._calls.note)
        side.on_data = self._feed
        side.on_end = side.on_abandoned = self._control_ended
        side.send_response(200, [(b"content-type", b"application/octet-stream")])
        if not self._control.done():
            self._control.set_result(side)
        exchange.deliver_waiting()

    def _feed(self, data: bytes) -> None:
        assert self._rpc is not None
        try:
            self._rpc.feed(data)
        except RpcProtocolError as error:
            log.error("the edge's control stream is malformed", extra={"error": str(error)})
            self.abort()

    def _control_ended(self, code: int = 0) -> None:
        if self._rpc is not None:
            self._rpc.closed(None)

    def disconnected(self, reason: Exception | None) -> None:
        if not self._control.done():
            self._control.cancel()
        if self._rpc is not None:
            self._rpc.closed(reason)
        super().disconnected(reason)

    async def control_stream_opened(self) -> None:
        """Return when the edge has opened the control stream. Raises DialError."""
        try:
            await asyncio.wait_for(asyncio.shield(self._control), CONTROL_STREAM_TIMEOUT)
        except asyncio.TimeoutError:
            raise DialError(
                DialErrorKind.HANDSHAKE, "the edge did not open the control stream in time"
            ) from None
        except asyncio.CancelledError:
            if self._control.cancelled():
                reason = self.ended.result() if self.ended.done() else None
                raise DialError(
                    DialErrorKind.HANDSHAKE,
                    f"the edge closed the connection before registration: {reason or 'no reason'}",
                ) from None
            raise

    async def register(
        self, credentials: Credentials, conn_index: int, options: ConnectionOptions, timeout: float
    ) -> None:
        """Register over the open control stream. Raises RegistrationRefused or DialError."""
        assert self._rpc is not None
        try:
            self._details = await asyncio.wait_for(
                self._rpc.register_connection(
                    credentials.auth, credentials.tunnel_id, conn_index, options
                ),
                timeout,
            )
        except asyncio.TimeoutError:
            raise DialError(
                DialErrorKind.REGISTER, "the edge did not answer the registration in time"
            ) from None
        except RpcError as error:
            raise DialError(DialErrorKind.REGISTER, f"registration failed: {error}") from error

    async def report_configuration(self, document: bytes, timeout: float) -> None:
        """Tell the edge what is configured here. Raises RpcError or asyncio.TimeoutError."""
        assert self._rpc is not None
        await asyncio.wait_for(self._rpc.update_local_configuration(document), timeout)

    async def wait_closed(self) -> Exception | None:
        """Return when the connection is gone, with the reason if it was not a clean end."""
        return await asyncio.shield(self.ended)

    async def unregister(self, timeout: float) -> None:
        """Ask the edge to send no new requests, then end the control stream."""
        assert self._rpc is not None
        await asyncio.wait_for(self._rpc.unregister_connection(), timeout)
        self._rpc.close()
        if self._side is not None:
            self._side.end()

    def going_away(self, code: int, debug: bytes) -> None:
        super().going_away(code, debug)
        self.drain_seconds = drain_seconds(debug)
        self._going_away.set()

    async def wait_going_away(self) -> None:
        """Return when the edge has said that it wants the connection to end."""
        await self._going_away.wait()

    async def drained(self) -> None:
        """Return when no exchange is in flight and all that was answered has been written."""
        await self.until_at_most(0)

    async def in_flight(self) -> int:
        """Exchanges in flight."""
        return self.active


class HttpLinkDialer:
    """Dials links and owns what they share: the turn, the dispatcher, the counters.

    `host` is what the management service is made for, once it is asked something; without it
    there is none.
    """

    def __init__(
        self,
        options: ConnectorOptions,
        status: ConnectorStatus,
        host: Callable[[], Host] | None = None,
    ) -> None:
        self._options = options
        self._homes = options.all_homes
        self._status = status
        self._loop = asyncio.get_running_loop()
        self._turn = LoopTurn(self._loop)
        self._turn.start()
        self._dialers = [HomeDialer(home) for home in self._homes]
        # The links that tell each home of the configuration in force.
        self._reporters: dict[int, ConnectorLink] = {}
        self._ingress = options.ingress
        self._host = host
        self._updates: Updates | None = None
        self._configuration_streams: ConfigurationStreams | None = None
        self._calls = EdgeCalls()
        self._observers = Observers(options)
        self._turn.on_tick.add(self._observers.tick)
        self._dispatcher = Dispatcher(
            self._turn,
            options.ingress,
            options.workers,
            self._observers,
            options.management_hostname.encode("ascii") if host is not None else b"",
            self._management,
        )
        self._tag = str(options.connector_id).encode()
        self._tags = [
            (b"cf-warp-tag-" + name.lower().encode(), value.encode())
            for name, value in options.tags
        ]
        self._client = ClientInfo(
            options.connector_id,
            FEATURES,
            VERSION,
            f"{sys.platform}_{platform.machine()}",
        )

    def _management(self) -> Service:
        from underpass.connector.management.service import ManagementService

        assert self._host is not None
        return ManagementService(self._options, self._host())

    async def dial(
        self,
        slot: EdgeSlot,
        conn_index: int,
        previous_attempts: int,
        replacing: Link | None = None,
    ) -> ConnectorLink:
        """Connect to `slot` and register. See `links.LinkDialer`."""
        home = self._homes[slot.home]
        assert home.credentials is not None
        link = await self._dialers[slot.home].connect(slot, lambda: self._make_link(conn_index))
        try:
            await link.control_stream_opened()
            if replacing is not None:
                await self._take_over(replacing)
            options = ConnectionOptions(
                self._client,
                _local_address(link),
                num_previous_attempts=previous_attempts,
            )
            await link.register(home.credentials, conn_index, options, self._options.rpc_timeout)
            if conn_index == 0 and not link.details.tunnel_is_remotely_managed:
                self._reporters[slot.home] = link
                await self._report_configuration(link, home)
        except BaseException:
            link.abort()
            raise
        return link

    def _make_link(self, conn_index: int) -> ConnectorLink:
        link: ConnectorLink

        def control(exchange: OriginExchange) -> None:
            link.control_stream(exchange)

        acceptor = OriginAcceptor(
            self._dispatcher.handler(
                {Kind.CONTROL: control, Kind.CONFIGURATION: self._take_update}
            ),
            self._dispatcher.routes.unrouted,
            self._dispatcher.unexpected,
            self._tag,
            self._tags,
            self._dispatcher.failed,
            conn_index,
        )
        link = ConnectorLink(self._turn, acceptor, self._calls)
        return link

    async def _take_over(self, old: Link) -> None:
        """Have the edge take the index from a link that is being replaced."""
        try:
            await old.unregister(self._options.rpc_timeout)
        except (OSError, RpcError, asyncio.TimeoutError) as error:
            # It may be gone already. If not, the edge will say so.
            log.debug("the old link did not unregister", extra={"error": str(error)})

    async def _report_configuration(self, link: ConnectorLink, home: Home) -> None:
        document = local_configuration_of(self._ingress, home.protocol)
        if len(document) > MAX_CONFIGURATION_BYTES:
            log.warning(
                "The configuration is too large to be reported to the edge, and works all the same",
                extra={"bytes": len(document), "most": MAX_CONFIGURATION_BYTES},
            )
            return
        self._status.local_config_pushes += 1
        try:
            await link.report_configuration(document, self._options.rpc_timeout)
        except (RpcError, asyncio.TimeoutError) as error:
            self._status.local_config_push_errors += 1
            log.warning("unable to report the configuration", extra={"error": str(error)})

    def take_updates(self, updates: Updates) -> None:
        """Say who takes configurations that the edge pushes."""
        self._updates = updates

    def _take_update(self, exchange: OriginExchange) -> None:
        if self._configuration_streams is None:
            # Here, because most connectors are never sent a configuration.
            from underpass.connector.configuration_stream import ConfigurationStreams

            if self._updates is None:
                raise RuntimeError("nobody takes configurations of the edge")
            self._configuration_streams = ConfigurationStreams(self._updates)
        self._configuration_streams.receive(exchange)

    def log_level_changed(self, _: int = 0) -> None:
        """The level of the log is another one."""
        self._observers.look_at_log_level()
        self._dispatcher.look_again()

    def prepare(self, ingress: Ingress) -> Plan:
        """Make what other ingress rules need. Raises ServiceNotSupportedError or TrustError."""
        return self._dispatcher.prepare(ingress)

    async def apply(self, plan: Plan) -> None:
        """Put prepared rules in force, and tell the edge."""
        self._dispatcher.apply(plan)
        self._ingress = plan.ingress
        for number, reporter in self._reporters.items():
            if not reporter.is_closed:
                await self._report_configuration(reporter, self._homes[number])

    def counters(self) -> Snapshot:
        """Request metrics by their full names."""
        return {
            **self._dispatcher.routes.snapshot(),
            **self._dispatcher.stream_connects.snapshot(),
            **self._calls.snapshot(),
            "cloudflared_tcp_active_sessions": self._dispatcher.streams_active,
            "cloudflared_tcp_total_sessions": self._dispatcher.streams_total,
        }

    def close(self) -> None:
        """End what is left open, after the last link is gone."""
        if self._configuration_streams is not None:
            self._configuration_streams.close()
        self._dispatcher.close()
        self._turn.stop()
        self._observers.close()


def _local_address(
    link: ConnectorLink,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    name = link.transport.get_extra_info("sockname") if link.transport is not None else None
    try:
        return ipaddress.ip_address(name[0].partition("%")[0]) if name else None
    except ValueError:
        return None
