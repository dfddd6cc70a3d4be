"""Asking a service for a quick tunnel: one POST, one JSON answer (docs: API §8)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from underpass.ops.http_request import RequestError, request, require_http_url
from underpass.version import VERSION
from underpass.wire.quick_tunnel import (
    CONTENT_TYPE,
    MAX_RESPONSE_BYTES,
    QUICK_TUNNEL_PATH,
    REQUEST_TIMEOUT,
    QuickTunnel,
    QuickTunnelError,
    decode_quick_tunnel,
)

__all__ = ["request_quick_tunnel", "request_quick_tunnel_blocking"]

_HEADERS = {
    "Content-Type": CONTENT_TYPE,
    "Content-Length": "0",
    "User-Agent": f"underpass/{VERSION}",
}


async def request_quick_tunnel(
    service: str, *, cacert: Path | None = None, timeout: float = REQUEST_TIMEOUT
) -> QuickTunnel:
    """Ask `service`, an http or https address, for a tunnel. Raises QuickTunnelError.

    `cacert` is trusted beside the system's certificates, so that an edge of one's own can answer.
    """
    return await asyncio.to_thread(request_quick_tunnel_blocking, service, cacert, timeout)


def request_quick_tunnel_blocking(
    service: str, cacert: Path | None = None, timeout: float = REQUEST_TIMEOUT
) -> QuickTunnel:
    """The same, for a caller without an event loop. `timeout` is for everything together."""
    try:
        require_http_url(service)
    except ValueError as error:
        raise QuickTunnelError(f"--quick-service {service!r}: {error}") from None
    try:
        answer = request(
            "POST",
            service.rstrip("/") + QUICK_TUNNEL_PATH,
            headers=_HEADERS,
            timeout=timeout,
            max_bytes=MAX_RESPONSE_BYTES,
            cacert=cacert,
        )
    except RequestError as error:
        raise QuickTunnelError(
            f"the quick tunnel service {service} cannot be asked: {error}"
        ) from error
    return decode_quick_tunnel(answer.status, answer.body)
