"""What an edge counts, as metrics: what a data path carries, and what there is one of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from underpass.ops.metrics import Snapshot, histogram_values
from underpass.wire.causes import CAUSES, Speaker, hop_of

if TYPE_CHECKING:
    from underpass.core.relay import Counters
    from underpass.edge.data_path import LocalDataPath
    from underpass.edge.registry import Registry
    from underpass.edge.router import Router
    from underpass.edge.tcp_streams import TcpStreams

__all__ = ["MAX_CERTIFICATES", "ApiCalls", "TellingWho", "edge_figures", "traffic_figures"]

MAX_CERTIFICATES: Final = 200
"""Certificates whose end is told, those that end first."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
"""Label values must not be a stranger's choice."""


class TellingWho:
    """Failures whose cause is a connector's word, by cause: the counters do not tell them apart."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()

    def note(self, cause: str) -> None:
        """A connector has told why a request failed."""
        self._told[cause if cause in CAUSES else "other"] += 1

    def failures(self, counters: Counters) -> Counter[tuple[str, str]]:
        """All failures, by cause and hop."""
        failures: Counter[tuple[str, str]] = Counter()
        for cause, count in counters.causes().items():
            told = min(self._told[cause], count)
            for speaker, share in ((Speaker.CONNECTOR, told), (Speaker.EDGE, count - told)):
                if share:
                    failures[cause, hop_of(cause, speaker).value] += share
        return failures


def traffic_figures(path: LocalDataPath) -> Snapshot:
    """What one process has carried; workers' are added up."""
    gateway = path.gateway
    counters = gateway.counters
    spared, spells = path.router.count_spared()
    streams = path.streams
    failures = gateway.telling.failures(counters)
    failures.update(streams.telling.failures(streams.counters()))
    if streams.refused:
        cause = "too_many_connections"
        failures[cause, hop_of(cause, Speaker.EDGE).value] += streams.refused
    return {
        "underpass_edge_spared_connectors": spared,
        "underpass_edge_connector_spells_total": spells,
        "underpass_edge_visitor_connections": gateway.connections,
        "underpass_edge_visitor_connections_total": dict(gateway.accepted),
        "underpass_edge_requests_total": counters.opened,
        "underpass_edge_active_requests": counters.active,
        "underpass_edge_responses_total": {
            (str(status),): count for status, count in counters.statuses().items()
        },
        "underpass_request_failures_total": failures,
        "underpass_edge_request_bytes_total": counters.request_bytes,
        "underpass_edge_response_bytes_total": counters.response_bytes,
        "underpass_edge_first_byte_seconds": histogram_values([((), counters.first_byte)]),
        "underpass_edge_duration_seconds": histogram_values([((), counters.duration)]),
        "underpass_edge_tls_handshake_failures_total": {
            ("https",): gateway.handshakes.failed,
            ("tunnel",): path.listeners.handshakes.failed,
        },
        **_stream_figures(streams),
    }


def _stream_figures(streams: TcpStreams) -> Snapshot:
    """By public port: names are the operator's, and no more than MAX_ROUTES."""
    groups = streams.groups
    return {
        "underpass_edge_tcp_streams_total": {
            (group.name,): group.counters.opened for group in groups
        },
        "underpass_edge_tcp_active_streams": {
            (group.name,): group.counters.active for group in groups
        },
        "underpass_edge_tcp_refused_total": {(group.name,): group.refused for group in groups},
        "underpass_edge_tcp_bytes_total": {
            (group.name, direction): count
            for group in groups
            for direction, count in (
                ("in", group.counters.request_bytes),
                ("out", group.counters.response_bytes),
            )
        },
    }


def edge_figures(
    registry: Registry,
    router: Router,
    api: ApiCalls,
    certificates: Mapping[str, datetime],
) -> Snapshot:
    """What there is one of, however many workers there are."""
    links, tunnels_with_links = router.count_links()
    soonest = sorted(certificates.items(), key=lambda each: each[1])[:MAX_CERTIFICATES]
    return {
        "underpass_edge_links": links,
        "underpass_edge_draining_links": router.count_aside(),
        "underpass_edge_tunnels": {
            ("named",): registry.tunnel_count,
            ("quick",): registry.quick_tunnel_count,
        },
        "underpass_edge_tunnels_with_links": tunnels_with_links,
        "underpass_edge_routes": len(registry.hostnames),
        "underpass_edge_certificate_expiry_timestamp_seconds": {
            (name,): end.timestamp() for name, end in soonest
        },
        "underpass_edge_store_revision": registry.revision,
        "underpass_edge_api_requests_total": api.counts,
    }


class ApiCalls:
    """Counts what an ASGI application answers."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def counting(self, application: Any) -> Callable[[Any, Any, Any], Awaitable[None]]:
        """`application`, counted."""

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            async def noting(message: Any) -> None:
                if message["type"] == "http.response.start":
                    method = scope["method"] if scope["method"] in _METHODS else "other"
                    self.counts[method, str(message["status"])] += 1
                await send(message)

            await application(scope, receive, noting)

        return counted
