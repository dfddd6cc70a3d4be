"""Asking a service for a quick tunnel: one POST, one JSON answer (docs: API §8)."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

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

_CHUNK = 4096


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
    """The same, for a caller without an event loop.

    `timeout` is for connecting, for each part of the head, and for the body as a whole.
    """
    try:
        url = urlsplit(service)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise QuickTunnelError(f"--quick-service {service!r} is not an address: {error}") from None
    if url.scheme not in ("http", "https") or not host:
        raise QuickTunnelError(f"--quick-service {service!r} is not an http or https address")
    path = url.path.rstrip("/") + QUICK_TUNNEL_PATH
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, port, timeout=timeout, context=_tls_context(cacert)
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        status, body = _post(connection, path, time.monotonic() + timeout)
    except (OSError, http.client.HTTPException) as error:
        raise QuickTunnelError(
            f"the quick tunnel service {service} cannot be asked: {error or type(error).__name__}"
        ) from error
    finally:
        connection.close()
    return decode_quick_tunnel(status, body)


def _post(connection: http.client.HTTPConnection, path: str, deadline: float) -> tuple[int, bytes]:
    headers = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": "0",
        "User-Agent": f"underpass/{VERSION}",
    }
    connection.request("POST", path, headers=headers)
    response = connection.getresponse()
    body = bytearray()
    while len(body) <= MAX_RESPONSE_BYTES:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer takes too long")
        if connection.sock is not None:
            connection.sock.settimeout(remaining)
        chunk = response.read1(_CHUNK)
        if not chunk:
            break
        body += chunk
    return response.status, bytes(body)


def _tls_context(cacert: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cacert is not None:
        try:
            context.load_verify_locations(cacert)
        except OSError as error:
            raise QuickTunnelError(f"--cacert {cacert}: {error}") from error
    return context
