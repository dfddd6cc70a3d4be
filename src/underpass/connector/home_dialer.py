"""A connection to the edge of one home: TCP, and TLS for the names that the edge answers to
(docs: wire protocol §1.7, §1.8)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

from underpass.connector.edges import EdgeSlot
from underpass.connector.homes import Home
from underpass.connector.links import DialError, DialErrorKind
from underpass.connector.trust import certificate_trouble, edge_context
from underpass.wire.headers import EDGE_SERVER_NAME_HTTP2

__all__ = ["DIAL_TIMEOUT", "HomeDialer"]

DIAL_TIMEOUT: Final = 15.0
"""Seconds for the TCP connection, and again for the TLS handshake."""

P = TypeVar("P", bound=asyncio.BaseProtocol)


class HomeDialer:
    """Connects to one home. Raises TrustError when its certificates cannot be read."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._context = edge_context(home.cacert)

    async def connect(self, slot: EdgeSlot, make: Callable[[], P]) -> P:
        """A protocol of `make`'s, connected to the edge. Raises DialError."""
        loop = asyncio.get_running_loop()
        bind = self._home.edge_bind_address
        try:
            _, protocol = await asyncio.wait_for(
                loop.create_connection(
                    make,
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
            trouble = certificate_trouble(error, self._home.cacert)
            raise DialError(DialErrorKind.TLS, trouble, is_lasting=True) from error
        except ssl.SSLError as error:
            raise DialError(DialErrorKind.TLS, f"TLS with {slot}: {error}") from error
        except asyncio.TimeoutError:
            raise DialError(DialErrorKind.CONNECT, f"{slot} did not answer in time") from None
        except OSError as error:
            raise DialError(DialErrorKind.CONNECT, f"cannot connect to {slot}: {error}") from error
        return protocol
