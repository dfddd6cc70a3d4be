"""Quick tunnels: made for anybody who asks (docs: API §8)."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import Response

from underpass.edge.api.authorization import source_of
from underpass.edge.api.control import Control
from underpass.edge.api.endpoint import refused, unavailable
from underpass.edge.api.envelope import failure
from underpass.edge.api.requests import Refusal, read_body
from underpass.edge.errors import QuickTunnelLimit, StoreError
from underpass.edge.registry import Author
from underpass.wire.quick_tunnel import CONTENT_TYPE, QuickTunnel, encode_quick_tunnel

__all__ = ["create_quick_tunnel"]


async def create_quick_tunnel(control: Control, request: Request) -> Response:
    """Make a tunnel with a name of the edge's choice."""
    if "origin" in request.headers:
        # Connectors are no browsers. A page anywhere on the Internet could otherwise make a
        # visitor's browser ask an edge that listens on loopback.
        return failure(403, "quick tunnels cannot be created by a web page")
    try:
        # cloudflared sends none, other clients perhaps `{}`.
        await read_body(request)
    except Refusal as refusal:
        return refused(refusal)
    wait = control.quick_tunnel_rate.take()
    if wait:
        return failure(
            429,
            "too many quick tunnels are being created; try again shortly",
            headers={"retry-after": str(math.ceil(wait))},
        )
    try:
        created = await control.registry.create_quick_tunnel(
            control.domain, Author("anyone", source_of(request))
        )
    except QuickTunnelLimit as error:
        return failure(503, str(error))
    except StoreError as error:
        return unavailable("create a quick tunnel", error)
    if control.tells_port:
        created = QuickTunnel(
            created.credentials, f"{created.hostname}:{control.public_port}", created.name
        )
    return Response(
        encode_quick_tunnel(created),
        headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"},
    )
