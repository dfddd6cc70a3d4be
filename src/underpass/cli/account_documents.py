"""The account's things as documents, with cloudflared's keys in its order.

A JSON document has the API's keys; a YAML one the names that cloudflared's source code has for
them, in lower case. A list that there is none of is `null` in JSON, and empty in YAML.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from msgspec import Struct

from underpass.account.models import (
    Connection,
    Connector,
    CreatedTunnel,
    IpRoute,
    Pool,
    Tunnel,
    VirtualNetwork,
)
from underpass.account.moment import Moment

__all__ = ["JSON", "YAML", "Form", "TunnelInfo", "document"]

Document = Any


class Form(Struct, frozen=True):
    """A kind of document: JSON or YAML."""

    is_json: bool

    def __call__(self, json_key: str, yaml_key: str) -> str:
        return json_key if self.is_json else yaml_key


JSON: Final = Form(True)
YAML: Final = Form(False)


class TunnelInfo(Struct, frozen=True):
    """What `tunnel info` tells."""

    tunnel: Tunnel
    connectors: list[Connector]


def document(value: Any, form: Form) -> Document:
    """A model, or a list of them, as a document of text, numbers, truth values, lists, dicts."""
    if value is None:
        return None if form.is_json else []
    if isinstance(value, list):
        return [document(each, form) for each in value]
    if isinstance(value, CreatedTunnel):
        tunnel = _tunnel(value, form)
        if form.is_json:
            return {**tunnel, "token": value.token}
        return {"tunnel": tunnel, "token": value.token}
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value, form)
    raise TypeError(f"there is no document for {type(value).__name__}")


def _tunnel(tunnel: Tunnel, form: Form) -> Document:
    return {
        "id": str(tunnel.id),
        "name": tunnel.name,
        form("created_at", "createdat"): tunnel.created_at,
        form("deleted_at", "deletedat"): tunnel.deleted_at,
        "connections": document(tunnel.connections, form),
    }


def _connection(connection: Connection, form: Form) -> Document:
    # What cloudflared has no word for is said only where there is something to say.
    draining = {form("is_draining", "isdraining"): True} if connection.is_draining else {}
    return {
        form("colo_name", "coloname"): connection.colo_name,
        "id": str(connection.id),
        form("is_pending_reconnect", "ispendingreconnect"): connection.is_pending_reconnect,
        form("origin_ip", "originip"): connection.origin_ip,
        form("opened_at", "openedat"): connection.opened_at,
        **draining,
    }


def _connector(connector: Connector, form: Form) -> Document:
    return {
        "id": str(connector.id),
        "features": document(connector.features, form),
        "version": connector.version,
        "arch": connector.arch,
        form("run_at", "runat"): connector.run_at,
        form("conns", "connections"): document(connector.connections, form),
    }


def _info(info: TunnelInfo, form: Form) -> Document:
    return {
        "id": str(info.tunnel.id),
        "name": info.tunnel.name,
        form("createdAt", "createdat"): info.tunnel.created_at,
        form("conns", "connectors"): document(info.connectors, form),
    }


def _route(route: IpRoute, form: Form) -> Document:
    network: Document = route.network
    if not form.is_json:
        parsed = ipaddress.ip_network(route.network)
        network = {"ip": str(parsed.network_address), "mask": list(parsed.netmask.packed)}
    written = {
        "id": str(route.id),
        "network": network,
        form("tunnel_id", "tunnelid"): str(route.tunnel_id),
        form("virtual_network_id", "vnetid"): (
            str(route.virtual_network_id) if route.virtual_network_id is not None else None
        ),
        "comment": route.comment,
        form("created_at", "createdat"): route.created_at,
        form("deleted_at", "deletedat"): route.deleted_at,
        form("tunnel_name", "tunnelname"): route.tunnel_name,
    }
    if form.is_json and route.virtual_network_id is None:
        del written["virtual_network_id"]
    return written


def _pool(pool: Pool, _: Form) -> Document:
    # cloudflared has no such thing, and so no other names for it in YAML.
    return {
        "hostname": pool.hostname,
        "revision": pool.revision,
        "pool": pool.pool,
        "sticky": pool.sticky,
        "targets": [
            {
                "tunnel_id": str(target.tunnel_id),
                "tunnel_name": target.tunnel_name,
                "weight": target.weight,
                "connections": target.connections,
                "draining": target.draining,
            }
            for target in pool.targets
        ],
        "trouble": [
            {
                "client_id": str(each.client_id),
                "failures": each.failures,
                "is_spared": each.is_spared,
            }
            for each in pool.trouble
        ],
    }


def _virtual_network(network: VirtualNetwork, form: Form) -> Document:
    return {
        "id": str(network.id),
        "comment": network.comment,
        "name": network.name,
        form("is_default_network", "isdefault"): network.is_default_network,
        form("created_at", "createdat"): network.created_at,
        form("deleted_at", "deletedat"): network.deleted_at,
    }


def _text(text: str, _: Form) -> Document:
    return text


_WRITERS: Final[list[tuple[type[Any], Any]]] = [
    (Tunnel, _tunnel),
    (Connection, _connection),
    (Connector, _connector),
    (TunnelInfo, _info),
    (IpRoute, _route),
    (Pool, _pool),
    (VirtualNetwork, _virtual_network),
    (Moment, _text),
    (str, _text),
]
