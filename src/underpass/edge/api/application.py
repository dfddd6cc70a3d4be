"""The API's ASGI application: quick tunnels (docs: API §8) and a health check.

Whatever happens, the answer is the envelope: clients parse nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from underpass.edge.api.envelope import failure, success
from underpass.edge.api.token_bucket import TokenBucket
from underpass.edge.errors import QuickTunnelLimit, StoreError
from underpass.edge.registry import Registry
from underpass.wire.quick_tunnel import (
    CONTENT_TYPE,
    QUICK_TUNNEL_PATH,
    QuickTunnel,
    encode_quick_tunnel,
)

log = logging.getLogger("underpass.edge.api")

QUICK_TUNNEL_BURST: Final = 20
"""Quick tunnels that may be made at once: a classroom starting together."""

QUICK_TUNNELS_PER_SECOND: Final = 1.0
"""Quick tunnels that may be made in the long run; nobody types faster, and only a flood would."""

MAX_BODY_BYTES: Final = 16 * 1024
"""Of a request's body. cloudflared sends an empty one, other clients perhaps `{}`."""

BODY_SECONDS: Final = 10.0
"""For a request's body to arrive."""

_HTTPS_PORT: Final = 443


def create_application(
    registry: Registry,
    domain: str,
    *,
    public_port: int = _HTTPS_PORT,
    quick_tunnel_rate: TokenBucket | None = None,
) -> Starlette:
    """The application that serves one registry.

    Args:
        domain: quick tunnels get names below it.
        public_port: of the public TLS listener as visitors reach it. It is told with a quick
            tunnel's hostname unless it is 443, since connectors print `https://` and the hostname.
        quick_tunnel_rate: the limit to use instead of the constants above.
    """
    rate = quick_tunnel_rate or TokenBucket(QUICK_TUNNEL_BURST, QUICK_TUNNELS_PER_SECOND)

    async def create_quick_tunnel(request: Request) -> Response:
        if "origin" in request.headers:
            # Connectors are no browsers. A page anywhere on the Internet could otherwise make a
            # visitor's browser ask an edge that listens on loopback.
            return failure(403, "quick tunnels cannot be created by a web page")
        refused = await _refuse_body(request)
        if refused is not None:
            return refused
        wait = rate.take()
        if wait:
            return failure(
                429,
                "too many quick tunnels are being created; try again shortly",
                headers={"retry-after": str(math.ceil(wait))},
            )
        try:
            created = await registry.create_quick_tunnel(domain)
        except QuickTunnelLimit as error:
            return failure(503, str(error))
        except StoreError as error:
            # The text names paths of this machine, so it is for the log alone.
            log.error("cannot create a quick tunnel: %s", error)
            return failure(503, "this edge cannot make changes now; try again later")
        if public_port != _HTTPS_PORT:
            created = QuickTunnel(
                created.credentials, f"{created.hostname}:{public_port}", created.name
            )
        return Response(
            encode_quick_tunnel(created),
            headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"},
        )

    async def health(request: Request) -> Response:
        return success({"status": "ok", "revision": registry.revision})

    app = Starlette(
        routes=[
            Route(QUICK_TUNNEL_PATH, create_quick_tunnel, methods=["POST"]),
            Route("/healthz", health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_failure, Exception: _unexpected},
    )
    # A redirect is no envelope, and no client follows one here.
    app.router.redirect_slashes = False
    return app


async def _refuse_body(request: Request) -> Response | None:
    """Read and forget the body; an answer if it is too large or too slow."""
    try:
        await asyncio.wait_for(_read_within(request, MAX_BODY_BYTES), BODY_SECONDS)
    except _TooLarge:
        message = f"the request's body is larger than {MAX_BODY_BYTES} bytes"
        return failure(413, message, headers={"connection": "close"})
    except asyncio.TimeoutError:
        message = f"the request's body did not arrive within {BODY_SECONDS:.0f} seconds"
        return failure(408, message, headers={"connection": "close"})
    except ClientDisconnect:
        # Nobody is left to read this, and nothing is created for nobody.
        return failure(400, "the request ended early")
    return None


class _TooLarge(Exception):  # noqa: N818 - never leaves this module
    pass


async def _read_within(request: Request, limit: int) -> None:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _TooLarge


_HTTP_MESSAGES: Final[dict[int, Callable[[Request], str]]] = {
    404: lambda request: f"there is nothing at {request.url.path}",
    405: lambda request: f"{request.method} is not a method of {request.url.path}",
}


async def _http_failure(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    describe = _HTTP_MESSAGES.get(error.status_code)
    message = error.detail if describe is None else describe(request)
    return failure(error.status_code, message, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    # The server logs it whole; the client learns nothing of the inside.
    return failure(500, "an unexpected error happened in the edge; its log says more")
