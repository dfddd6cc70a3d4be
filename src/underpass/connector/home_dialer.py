"""A connection to the edge of one home: TCP, through a proxy if there is one, and TLS for the
names that the edge answers to (docs: wire protocol §1.7, §1.8)."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from underpass.connector.edges import EdgeSlot
from underpass.connector.homes import Home
from underpass.connector.links import DialError, DialErrorKind
from underpass.connector.trust import certificate_trouble, edge_context
from underpass.wire.headers import EDGE_SERVER_NAME_HTTP2

if TYPE_CHECKING:
    from underpass.connector.edge_proxy import ProxyUrl  # most connectors need no proxy

__all__ = ["DIAL_TIMEOUT", "HomeDialer", "proxy_to"]

DIAL_TIMEOUT: Final = 15.0
"""Seconds for the TCP connection, and again for the TLS handshake."""

P = TypeVar("P", bound=asyncio.BaseProtocol)


class HomeDialer:
    """Connects to one home. Raises TrustError when its certificates cannot be read."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._context = edge_context(home.cacert)

    async def connect(
        self, slot: EdgeSlot, make: Callable[[], P], server_name: str = EDGE_SERVER_NAME_HTTP2
    ) -> P:
        """A protocol of `make`'s, connected to the edge. Raises DialError."""
        try:
            protocol = await self._dial(slot, make, server_name)
        except ssl.SSLCertVerificationError as error:
            trouble = certificate_trouble(error, self._home.cacert)
            raise DialError(DialErrorKind.TLS, trouble, is_lasting=True) from error
        except ssl.SSLError as error:
            raise DialError(DialErrorKind.TLS, f"TLS with {slot}: {error}") from error
        except asyncio.TimeoutError:
            raise DialError(DialErrorKind.CONNECT, f"{slot} did not answer in time") from None
        except OSError as error:
            raise DialError(DialErrorKind.CONNECT, f"cannot connect to {slot}: {error}") from error
        return protocol

    async def _dial(self, slot: EdgeSlot, make: Callable[[], P], server_name: str) -> P:
        bind = (self._home.edge_bind_address, 0) if self._home.edge_bind_address else None
        proxy = self._proxy_for(slot)
        if proxy is None:
            _, protocol = await asyncio.wait_for(
                asyncio.get_running_loop().create_connection(
                    make,
                    slot.host,
                    slot.port,
                    ssl=self._context,
                    server_hostname=server_name,
                    ssl_handshake_timeout=DIAL_TIMEOUT,
                    local_addr=bind,
                ),
                2 * DIAL_TIMEOUT,
            )
            return protocol
        from underpass.connector.proxy_dialer import ProxyError, connect_through

        try:
            return await connect_through(
                proxy,
                slot.host,
                slot.port,
                make,
                self._context,
                server_name,
                timeout=DIAL_TIMEOUT,
                local_address=bind,
            )
        except ProxyError as error:
            raise DialError(DialErrorKind.PROXY, str(error)) from error

    def _proxy_for(self, slot: EdgeSlot) -> ProxyUrl | None:
        try:
            return proxy_to(self._home, slot.host, slot.port)
        except ValueError as error:
            raise DialError(DialErrorKind.PROXY, str(error), is_lasting=True) from None


def proxy_to(home: Home, host: str, port: int) -> ProxyUrl | None:
    """The proxy on the way to an edge of `home`. Raises ValueError for one that cannot be used."""
    if not home.may_have_proxy(os.environ):
        return None
    from underpass.connector.edge_proxy import proxy_of

    return proxy_of(home, os.environ, host, port)
