"""Configuration that the edge pushes: ingress rules and all that goes with them.

Docs: configuration §8, wire protocol §2.9. A version is put in force only when it is newer than the
last one, by the same two steps as a changed file; one that cannot be used changes nothing, and the
edge is told why. Keys that are not known here are passed over: the edge may be newer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from underpass.connector.data_path import DataPathError
from underpass.connector.in_force import InForce
from underpass.connector.ingress import HttpStatus, Ingress, read_ingress, single_rule
from underpass.connector.warp_routing import read_warp_routing
from underpass.ops.document import ConfigError, parse_json
from underpass.wire.remote_config import ConfigurationReply, ConfigurationUpdate

__all__ = ["RemoteRules", "apply_update", "read_remote"]

KEYS: Final = frozenset({"ingress", "originRequest", "warp-routing"})

MAX_LOGGED: Final = 4096
"""Characters of a configuration that go into the log."""

_log = logging.getLogger(__name__)


class RemoteRules(Struct, frozen=True):
    """What a pushed configuration says; `ignored` are the keys that were passed over."""

    ingress: Ingress
    ignored: tuple[str, ...] = ()


def read_remote(update: ConfigurationUpdate, max_active_flows: int | None = None) -> RemoteRules:
    """Read and check a pushed configuration. Raises ConfigError.

    `max_active_flows` wins over what it says. Without rules every request is answered with 503.
    """
    ignored: list[str] = []
    name = f"configuration {update.version} from the edge"
    document = parse_json(update.config, name, ignored)
    root = document.root
    root.refuse_unknown(KEYS)
    routing = read_warp_routing(root.section("warp-routing"))
    if max_active_flows is not None:
        routing = replace(routing, max_active_flows=max_active_flows)
    ingress = read_ingress(document) if root.values.get("ingress") != [] else None
    if ingress is None:
        ingress = single_rule(HttpStatus(503))
    return RemoteRules(ingress.with_warp_routing(routing), tuple(ignored))


async def apply_update(in_force: InForce, update: ConfigurationUpdate) -> ConfigurationReply:
    """Put a pushed configuration in force. The reply has the version that is in force then."""
    async with in_force.turn:
        if update.version <= in_force.remote_version:
            _log.debug(
                "Configuration from the edge is not newer than the one in force",
                extra={"version": update.version, "current": in_force.remote_version},
            )
            return ConfigurationReply(in_force.remote_version)
        try:
            # In a thread: ten thousand rules take their time, and requests go on.
            rules = await asyncio.to_thread(read_remote, update, in_force.max_active_flows)
            await in_force.put(rules.ingress)
        except Exception as error:  # noqa: BLE001 - no fault here is a reason to stop serving
            refusal = update.version, str(error)
            if refusal != in_force.last_refusal:  # an edge pushes the same on every link
                in_force.last_refusal = refusal
                in_force.refused("edge")
                if not isinstance(error, (ConfigError, DataPathError)):
                    _log.error("unexpected error while applying a configuration", exc_info=error)
                _log.error(
                    "Configuration refused, the one in force stays",
                    extra={
                        "error": str(error),
                        "refused": update.version,
                        "version": in_force.remote_version,
                        "config": _shown(update),
                    },
                )
            return ConfigurationReply(in_force.remote_version, str(error) or "an internal error")
        in_force.remote_version = update.version
    if rules.ignored:
        _log.warning(
            "Keys of the configuration from the edge are unknown here, and passed over",
            extra={"version": update.version, "keys": rules.ignored},
        )
    _log.info(
        "Updated to new configuration",
        extra={
            "version": update.version,
            "rules": len(rules.ingress.rules),
            "config": _shown(update),
        },
    )
    return ConfigurationReply(update.version)


def _shown(update: ConfigurationUpdate) -> str:
    return update.config[:MAX_LOGGED].decode("utf-8", "replace")
