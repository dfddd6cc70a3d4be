"""Tunnels: create, list, delete, their tokens and their connections (docs: API §3)."""

from __future__ import annotations

import base64
import secrets
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated, Final
from uuid import UUID, uuid4

from msgspec import UNSET, Meta, Struct, UnsetType

from underpass.edge.accounts import MAX_NAME, check_name
from underpass.edge.api.endpoint import Call, Endpoint, Page, Paging
from underpass.edge.api.requests import Refusal
from underpass.edge.destinations import ids_of
from underpass.edge.management_token import RESOURCES
from underpass.edge.registry import TUNNEL_SECRET_BYTES
from underpass.edge.router import Link, TooManyLinks
from underpass.edge.store import Tunnel
from underpass.wire.credentials import Credentials

__all__ = ["ENDPOINTS", "MAX_TUNNELS"]

MAX_TUNNELS: Final = 10_000
"""Tunnels of all accounts together, quick ones not counted."""

MAX_SECRET_BYTES: Final = 256
"""Of a tunnel's secret; it has at least TUNNEL_SECRET_BYTES."""

_HAS_CONNECTIONS: Final = 1022
"""Cloudflare's code for it."""

_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Filter = Annotated[str, Meta(max_length=MAX_NAME)]


class NewTunnel(Struct, frozen=True):
    """Without a secret, base64 of 32 bytes or more, the edge makes one."""

    name: _Name
    tunnel_secret: Annotated[str, Meta(max_length=2 * MAX_SECRET_BYTES)] = ""


class TunnelFilter(Paging, kw_only=True):
    """Which tunnels to list. Without `is_deleted` also those that were deleted a while ago."""

    is_deleted: bool | UnsetType = UNSET
    name: _Filter | UnsetType = UNSET
    name_prefix: _Filter | UnsetType = UNSET
    exclude_prefix: _Filter | UnsetType = UNSET
    uuid: UUID | UnsetType = UNSET


class Deletion(Struct, frozen=True):
    """With `cascade` a tunnel is deleted though it has connections, which are closed."""

    cascade: bool = False


class Cleanup(Struct, frozen=True):
    """Of one connector only, if its id is given."""

    client_id: UUID | UnsetType = UNSET


class ConnectionResult(Struct, frozen=True):
    """A link. `id` names it in the connector's log, too. One that is draining gets no requests."""

    id: UUID
    colo_name: str
    is_pending_reconnect: bool
    origin_ip: str
    opened_at: datetime
    client_id: UUID
    client_version: str
    is_draining: bool


class Drained(Struct, frozen=True):
    """A connector or a connection, and how many connections that are."""

    id: UUID
    is_draining: bool
    connections: int


class TunnelResult(Struct, frozen=True, kw_only=True):
    """A tunnel."""

    id: UUID
    account_tag: str
    name: str
    created_at: datetime
    deleted_at: datetime | None
    connections: list[ConnectionResult]
    status: str
    """`healthy` with connections, else `inactive`."""
    tun_type: str = "cfd_tunnel"


class CreatedTunnel(TunnelResult, frozen=True, kw_only=True):
    """A tunnel with what it is run with."""

    token: str


class ClientResult(Struct, frozen=True):
    """A connector and its links."""

    id: UUID
    features: list[str]
    version: str
    arch: str
    run_at: datetime
    conns: list[ConnectionResult]


async def _create(call: Call) -> CreatedTunnel:
    body: NewTunnel = call.body
    name = unicodedata.normalize("NFC", body.name)
    check_name(name, "the tunnel's name")
    if _is_uuid(name):
        raise Refusal(400, "a tunnel's name cannot be a UUID: it would be taken for an id")
    registry = call.control.registry
    if registry.tunnel_count >= MAX_TUNNELS:
        raise Refusal(409, f"this edge has {MAX_TUNNELS} tunnels, as many as it may")
    tunnel = Tunnel(
        uuid4(), call.account.id, name, _secret(body.tunnel_secret), datetime.now(timezone.utc)
    )
    await registry.create_tunnel(tunnel, (), call.author)
    shown = _shown(call, tunnel)
    return CreatedTunnel(
        **{name: getattr(shown, name) for name in shown.__struct_fields__}, token=_token(tunnel)
    )


def _secret(text: str) -> bytes:
    if not text:
        return secrets.token_bytes(TUNNEL_SECRET_BYTES)
    try:
        secret = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refusal(400, "tunnel_secret is not base64") from None
    if not TUNNEL_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise Refusal(
            400,
            f"tunnel_secret has {len(secret)} bytes; it needs {TUNNEL_SECRET_BYTES} to "
            f"{MAX_SECRET_BYTES}, random ones",
        )
    return secret


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


async def _list(call: Call) -> Page:
    query: TunnelFilter = call.query
    registry = call.control.registry
    found: list[Tunnel] = []
    if query.is_deleted is not True:
        found += registry.tunnels_of(call.account.id)
    if query.is_deleted is not False:
        found += (await registry.deleted(call.account.id)).tunnels
    matching = [tunnel for tunnel in found if _matches(tunnel, query)]
    matching.sort(key=lambda tunnel: (tunnel.created_at, tunnel.id))
    return call.page(matching, lambda tunnel: _shown(call, tunnel))


def _matches(tunnel: Tunnel, query: TunnelFilter) -> bool:
    return (
        (query.name is UNSET or tunnel.name == query.name)
        and (query.name_prefix is UNSET or tunnel.name.startswith(query.name_prefix))
        and (query.exclude_prefix is UNSET or not tunnel.name.startswith(query.exclude_prefix))
        and (query.uuid is UNSET or tunnel.id == query.uuid)
    )


async def _get(call: Call) -> TunnelResult:
    return _shown(call, await _living_or_deleted(call))


async def _living_or_deleted(call: Call) -> Tunnel:
    tunnel_id = call.uuid("tunnel_id")
    tunnel = call.control.registry.tunnel(tunnel_id)
    if tunnel is not None and tunnel.account_tag == call.account.id:
        return tunnel
    for deleted in (await call.control.registry.deleted(call.account.id)).tunnels:
        if deleted.id == tunnel_id:
            return deleted
    raise Refusal(404, f"there is no tunnel {tunnel_id}")


async def _delete(call: Call) -> TunnelResult:
    tunnel = call.tunnel()
    links = call.control.registry.links_of(tunnel.id)
    if links and not call.query.cascade:
        raise Refusal(
            400,
            f"tunnel {tunnel.name} has {len(links)} connections: stop its connectors first, or "
            "force the deletion",
            code=_HAS_CONNECTIONS,
        )
    deleted = await call.control.registry.delete_tunnel(tunnel.id, call.author)
    if deleted is None:
        raise Refusal(404, f"there is no tunnel {tunnel.id}")
    return _shown(call, deleted)


async def _get_token(call: Call) -> str:
    tunnel = call.tunnel()
    await call.record("tunnel.token", tunnel.id, tunnel.name)
    return _token(tunnel)


def _token(tunnel: Tunnel) -> str:
    return Credentials(tunnel.account_tag, tunnel.secret, tunnel.id).to_token()


async def _list_connections(call: Call) -> list[ClientResult]:
    connectors: dict[UUID, list[Link]] = {}
    for link in call.control.registry.links_of(call.tunnel().id):
        connectors.setdefault(link.connector_id, []).append(link)
    return [_client(call, connector, links) for connector, links in connectors.items()]


def _client(call: Call, connector: UUID, links: list[Link]) -> ClientResult:
    details = links[0].details
    return ClientResult(
        connector,
        list(details.features),
        details.version,
        details.arch,
        min(link.details.opened_at for link in links),
        _connections(call, links),
    )


async def _cleanup(call: Call) -> None:
    tunnel = call.tunnel()
    connector_id: UUID | None = call.query.client_id or None
    which = "" if connector_id is None else f"of connector {connector_id}"
    await call.record("tunnel.cleanup", tunnel.id, which)
    await call.control.close_links(tunnel.id, connector_id)


async def _drain(call: Call) -> Drained:
    return await _set_aside(call, True)


async def _undrain(call: Call) -> Drained:
    return await _set_aside(call, False)


async def _set_aside(call: Call, aside: bool) -> Drained:
    tunnel, key = call.tunnel(), call.uuid("connection_id")
    links = [link for link in call.control.registry.links_of(tunnel.id) if key in ids_of(link)]
    # One that is not connected right now is let back in all the same.
    if aside and not links:
        raise Refusal(404, f"tunnel {tunnel.name} has no connector and no connection {key}")
    await call.record(f"tunnel.{'drain' if aside else 'undrain'}", tunnel.id, str(key))
    try:
        count = await call.control.set_aside(tunnel.id, key, aside)
    except TooManyLinks as error:
        raise Refusal(409, str(error)) from None
    return Drained(key, aside, count)


async def _management_token(call: Call) -> str:
    tunnel = call.tunnel()
    resource = call.path["resource"]
    if resource not in RESOURCES:
        raise Refusal(404, f"management tokens are for {', '.join(RESOURCES)}")
    await call.record("tunnel.management_token", tunnel.id, resource)
    return call.control.management_key.issue(tunnel.id, call.account.id, call.token.id, resource)


def _shown(call: Call, tunnel: Tunnel) -> TunnelResult:
    links = call.control.registry.links_of(tunnel.id)
    return TunnelResult(
        id=tunnel.id,
        account_tag=tunnel.account_tag,
        name=tunnel.name,
        created_at=tunnel.created_at,
        deleted_at=tunnel.deleted_at,
        connections=_connections(call, links),
        status="healthy" if links else "inactive",
    )


def _connections(call: Call, links: Sequence[Link]) -> list[ConnectionResult]:
    registry = call.control.registry
    aside = {link.tunnel_id: registry.aside(link.tunnel_id) for link in links}
    return [
        ConnectionResult(
            link.details.connection_id,
            call.control.location,
            False,
            link.details.origin_ip,
            link.details.opened_at,
            link.connector_id,
            link.details.version,
            any(link is each for each in aside[link.tunnel_id]),
        )
        for link in links
    ]


_BASE: Final = "/accounts/{account_id}/cfd_tunnel"
_ONE: Final = _BASE + "/{tunnel_id}"

ENDPOINTS: Final = (
    Endpoint("POST", _BASE, "tunnels", "create a tunnel", _create, CreatedTunnel, body=NewTunnel),
    Endpoint("GET", _BASE, "read", "list tunnels", _list, list[TunnelResult], query=TunnelFilter),
    Endpoint("GET", _ONE, "read", "get a tunnel", _get, TunnelResult),
    Endpoint("DELETE", _ONE, "tunnels", "delete a tunnel", _delete, TunnelResult, query=Deletion),
    Endpoint("GET", _ONE + "/token", "tunnels", "get a tunnel's token", _get_token, str),
    Endpoint(
        "GET",
        _ONE + "/connections",
        "read",
        "list a tunnel's connectors",
        _list_connections,
        list[ClientResult],
    ),
    Endpoint(
        "DELETE",
        _ONE + "/connections",
        "tunnels",
        "close a tunnel's connections",
        _cleanup,
        type(None),
        query=Cleanup,
    ),
    Endpoint(
        "POST",
        _ONE + "/connections/{connection_id}/drain",
        "tunnels",
        "drain a connector or a connection",
        _drain,
        Drained,
    ),
    Endpoint(
        "DELETE",
        _ONE + "/connections/{connection_id}/drain",
        "tunnels",
        "end the draining of a connector or a connection",
        _undrain,
        Drained,
    ),
    Endpoint(
        "POST",
        _ONE + "/management/{resource}",
        "tunnels",
        "get a management token",
        _management_token,
        str,
    ),
)
