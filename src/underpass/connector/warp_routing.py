"""Streams to private networks: the `warp-routing` settings (docs: configuration §6)."""

from __future__ import annotations

from msgspec import Struct

from underpass.ops.document import Section

__all__ = ["DEFAULT_ROUTING", "KEYS", "WarpRouting", "read_warp_routing"]

KEYS = frozenset({"connectTimeout", "tcpKeepAlive", "maxActiveFlows", "enabled"})


class WarpRouting(Struct, frozen=True):
    """Settings in force. Durations are seconds. `max_active_flows`: 0 means any number."""

    connect_timeout: float = 5.0
    tcp_keep_alive: float = 30.0
    max_active_flows: int = 0


DEFAULT_ROUTING = WarpRouting()


def read_warp_routing(section: Section) -> WarpRouting:
    """The settings given in `section`, with defaults for the others. Raises ConfigError."""
    section.refuse_unknown(KEYS)
    section.boolean("enabled")  # of old; streams are always taken
    flows = section.integer("maxActiveFlows") or 0
    if flows < 0:
        raise section.error("maxActiveFlows", "cannot be negative; 0 is any number")
    defaults = DEFAULT_ROUTING
    timeout = section.duration("connectTimeout")
    keep_alive = section.duration("tcpKeepAlive")
    return WarpRouting(
        defaults.connect_timeout if timeout is None else timeout,
        defaults.tcp_keep_alive if keep_alive is None else keep_alive,
        flows,
    )
