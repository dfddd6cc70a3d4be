"""A tunnel's configuration, kept here for its connectors."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from underpass.edge.api.endpoint import Call, Endpoint
from underpass.edge.api.requests import Refusal
from underpass.edge.store import Configuration
from underpass.wire.remote_config import MAX_UPDATE_BYTES

__all__ = ["ENDPOINTS", "MAX_CONFIGURATION_BYTES"]

MAX_CONFIGURATION_BYTES: Final = MAX_UPDATE_BYTES - 1024
"""Of the document, which has to fit into an update with its envelope."""

_MAX_BODY: Final = MAX_UPDATE_BYTES
_MAX_VERSION: Final = (1 << 31) - 1


class NewConfiguration(Struct, frozen=True):
    """`config` as in cloudflared's remote configuration: `ingress`, `originRequest`,
    `warp-routing`. What it means is judged by the connectors."""

    config: dict[str, msgspec.Raw]


class ConfigurationResult(Struct, frozen=True):
    """Version 0 without a configuration: none was ever put."""

    account_id: str
    tunnel_id: UUID
    version: int
    config: Any
    created_at: datetime | None
    source: str = "edge"


async def _get(call: Call) -> ConfigurationResult:
    tunnel = call.tunnel()
    return _shown(call, tunnel.id, await call.control.registry.configuration(tunnel.id))


async def _put(call: Call) -> ConfigurationResult:
    tunnel = call.tunnel()
    document = msgspec.json.encode(call.body.config)
    if len(document) > MAX_CONFIGURATION_BYTES:
        raise Refusal(
            413,
            f"the configuration has {len(document)} bytes; at most {MAX_CONFIGURATION_BYTES} "
            "can be sent to connectors",
        )
    registry = call.control.registry
    known = registry.configurations.get(tunnel.id)
    if known is None:
        configuration = Configuration(tunnel.id, 1, document, datetime.now(timezone.utc))
    elif known.version >= _MAX_VERSION:
        raise Refusal(409, "this configuration was changed too often; make a new tunnel")
    else:
        configuration = replace(known, version=known.version + 1, document=document)
    entry = call.author.did(
        "configuration.put", tunnel.id, call.account.id, f"version {configuration.version}"
    )
    await registry.commit((configuration,), entry)
    return _shown(call, tunnel.id, configuration)


def _shown(call: Call, tunnel_id: UUID, kept: Configuration | None) -> ConfigurationResult:
    if kept is None:
        return ConfigurationResult(call.account.id, tunnel_id, 0, None, None)
    return ConfigurationResult(
        call.account.id, tunnel_id, kept.version, msgspec.Raw(kept.document), kept.created_at
    )


_PATH: Final = "/accounts/{account_id}/cfd_tunnel/{tunnel_id}/configurations"

ENDPOINTS: Final = (
    # Origins and their addresses are nobody's business who may only look at tunnels.
    Endpoint("GET", _PATH, "tunnels", "get a configuration", _get, ConfigurationResult),
    Endpoint(
        "PUT",
        _PATH,
        "tunnels",
        "put a configuration",
        _put,
        ConfigurationResult,
        body=NewConfiguration,
        max_body=_MAX_BODY,
    ),
)
