"""The connector's end of a link: dial the edge, answer its control stream, register, serve.

Implements `connector.links`. Docs: wire protocol §1.7, §1.8, §2.1, §2.3, §2.11.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import platform
import ssl
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from underpass.connector.dispatch import Dispatcher, Plan, Service
from underpass.connector.edges import EdgeSlot
from underpass.connector.ingress import Ingress
from underpass.connector.links import DialError, DialErrorKind
from underpass.connector.local_configuration import local_configuration_of
from underpass.connector.options import ConnectorOptions
from underpass.connector.status import ConnectorStatus
from underpass.connector.trust import certificate_trouble, edge_context
from underpass.core.relay import Counters, PythonSide
from underpass.core.tunnel import Kind, OriginAcceptor, OriginExchange
from underpass.ops.metrics import Snapshot
from underpass.version import VERSION
from underpass.wire.credentials import Credentials
from underpass.wire.headers import (
    EDGE_SERVER_NAME_HTTP2,
    FEATURE_MANAGEMENT_LOGS,
    FEATURE_SERIALIZED_HEADERS,
)
from underpass.wire.link import LinkConnection
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
    from underpass.connector.management.host import Host

__all__ = ["ConnectorLink", "HttpLinkDialer"]

log = logging.getLogger("underpass.connector.link")

DIAL_TIMEOUT: Final = 15.0
"""Seconds for the TCP connection, and again for the TLS handshake."""

CONTROL_STREAM_TIMEOUT: Final = 15.0
"""Seconds the edge has to open the control stream; cloudflared would wait for ever."""

FEATURES: Final = (FEATURE_SERIALIZED_HEADERS, FEATURE_MANAGEMENT_LOGS)
"""Only what is implemented: an edge may act on any of them."""


class ConnectorLink(LinkConnection):
    """One link. It is registered once `register` has returned."""

    def __init__(self, turn: LoopTurn, acceptor: OriginAcceptor) -> None:
        super().__init__(turn, acceptor)
        self._control: asyncio.Future[PythonSide] = asyncio.get_running_loop().create_future()
        self._side: PythonSide | None = None
        self._rpc: RegistrationClient | None = None
        self._details: ConnectionDetails | None = None

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
        side = self._side = exchange.open_python_side()
        self._rpc = RegistrationClient(side.write)
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

    async def register(
        self, credentials: Credentials, conn_index: int, options: ConnectionOptions, timeout: float
    ) -> None:
        """Wait for the control stream and register. Raises RegistrationRefused or DialError."""
        try:
            await asyncio.wait_for(asyncio.shield(self._control), CONTROL_STREAM_TIMEOUT)
            assert self._rpc is not None
            self._details = await asyncio.wait_for(
                self._rpc.register_connection(
                    credentials.auth, credentials.tunnel_id, conn_index, options
                ),
                timeout,
            )
        except asyncio.TimeoutError:
            what = "answer the registration" if self._control.done() else "open the control stream"
            raise DialError(DialErrorKind.REGISTER, f"the edge did not {what} in time") from None
        except asyncio.CancelledError:
            if self._control.cancelled():
                reason = self.ended.result() if self.ended.done() else None
                raise DialError(
                    DialErrorKind.HANDSHAKE,
                    f"the edge closed the connection before registration: {reason or 'no reason'}",
                ) from None
            raise
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
        if options.credentials is None:
            raise ValueError("a connector needs credentials")
        self._options = options
        self._credentials = options.credentials
        self._status = status
        self._loop = asyncio.get_running_loop()
        self._turn = LoopTurn(self._loop)
        self._turn.start()
        self._context = edge_context(options.cacert)
        self._counters = Counters()
        # The link that tells the edge of the configuration in force, while there is one.
        self._reporter: ConnectorLink | None = None
        self._ingress = options.ingress
        self._host = host
        self._dispatcher = Dispatcher(
            self._turn,
            options.ingress,
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

    async def dial(self, slot: EdgeSlot, conn_index: int, previous_attempts: int) -> ConnectorLink:
        """Connect to `slot` and register. See `links.LinkDialer`."""
        link = await self._connect(slot)
        try:
            options = ConnectionOptions(
                self._client,
                _local_address(link),
                num_previous_attempts=previous_attempts,
            )
            await link.register(self._credentials, conn_index, options, self._options.rpc_timeout)
            if conn_index == 0 and not link.details.tunnel_is_remotely_managed:
                self._reporter = link
                await self._report_configuration(link)
        except BaseException:
            link.abort()
            raise
        return link

    async def _connect(self, slot: EdgeSlot) -> ConnectorLink:
        link: ConnectorLink | None = None

        def make_link() -> ConnectorLink:
            nonlocal link

            def control(exchange: OriginExchange) -> None:
                assert link is not None
                link.control_stream(exchange)

            acceptor = OriginAcceptor(
                self._dispatcher.handler({Kind.CONTROL: control}),
                self._counters,
                self._dispatcher.unexpected,
                self._tag,
                self._tags,
                self._dispatcher.failed,
            )
            link = ConnectorLink(self._turn, acceptor)
            return link

        bind = self._options.edge_bind_address
        try:
            await asyncio.wait_for(
                self._loop.create_connection(
                    make_link,
                    slot.host,
                    slot.port,
                    ssl=self._context,
                    server_hostname=EDGE_SERVER_NAME_HTTP2,
                    ssl_handshake_timeout=DIAL_TIMEOUT,
                    local_addr=(bind, 0) if bind else None,
                ),
                2 * DIAL_TIMEOUT,
            )
        except ssl.SSLCertVerificationError as error:
            raise DialError(
                DialErrorKind.TLS, certificate_trouble(error, self._options.cacert)
            ) from error
        except ssl.SSLError as error:
            raise DialError(DialErrorKind.TLS, f"TLS with {slot}: {error}") from error
        except asyncio.TimeoutError:
            raise DialError(DialErrorKind.CONNECT, f"{slot} did not answer in time") from None
        except OSError as error:
            raise DialError(DialErrorKind.CONNECT, f"cannot connect to {slot}: {error}") from error
        assert link is not None
        return link

    async def _report_configuration(self, link: ConnectorLink) -> None:
        document = local_configuration_of(self._ingress, self._options.protocol)
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

    def log_level_changed(self, _: int = 0) -> None:
        """The level of the log is another one."""
        self._dispatcher.look_at_log_level()

    def prepare(self, ingress: Ingress) -> Plan:
        """Make what other ingress rules need. Raises ServiceNotSupportedError or TrustError."""
        return self._dispatcher.prepare(ingress)

    async def apply(self, plan: Plan) -> None:
        """Put prepared rules in force, and tell the edge."""
        self._dispatcher.apply(plan)
        self._ingress = plan.ingress
        if self._reporter is not None and not self._reporter.is_closed:
            await self._report_configuration(self._reporter)

    def counters(self) -> Snapshot:
        """Request metrics by their full names."""
        counters = self._counters
        return {
            "cloudflared_tunnel_total_requests": counters.opened,
            "cloudflared_tunnel_concurrent_requests_per_tunnel": counters.active,
            "cloudflared_tunnel_request_errors": counters.failed,
            "cloudflared_tunnel_response_by_code": {
                (str(status),): count for status, count in counters.statuses().items()
            },
            "cloudflared_tcp_active_sessions": self._dispatcher.streams_active,
            "cloudflared_tcp_total_sessions": self._dispatcher.streams_total,
        }

    def close(self) -> None:
        """End what is left open, after the last link is gone."""
        self._dispatcher.close()
        self._turn.stop()


def _local_address(
    link: ConnectorLink,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    name = link.transport.get_extra_info("sockname") if link.transport is not None else None
    try:
        return ipaddress.ip_address(name[0].partition("%")[0]) if name else None
    except ValueError:
        return None
