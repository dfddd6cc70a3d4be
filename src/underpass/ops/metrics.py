"""Prometheus metrics under cloudflared's names (docs: observability §2).

Counters live where the counting is done, as plain integers, and are read when somebody scrapes: a
source is a callable that returns a snapshot, a mapping from metric name to a number, or for a
metric with labels to a mapping from label values to numbers. A histogram has one label value more,
the last: a bucket's bound, "+Inf" for the last, or "sum". Its buckets are cumulative, so what
several processes counted is added up as for the other kinds.

prometheus_client is imported at the first scrape, so a connector nobody scrapes does not carry it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from underpass.version import VERSION

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from underpass.core.histogram import Histogram

__all__ = [
    "CONTENT_TYPE",
    "FAMILIES",
    "Family",
    "Metrics",
    "Snapshot",
    "SnapshotSource",
    "histogram_values",
]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Number = int | float
# One label value, or a tuple of them, to a number.
Labelled = Mapping[Any, Number]
Snapshot = Mapping[str, Number | Labelled]
SnapshotSource = Callable[[], Snapshot]


class Family(Struct, frozen=True):
    """One metric: its full name, kind, help text and label names."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_TUNNEL = "cloudflared_tunnel"
_EDGE = "underpass_edge"
_RULE = ("rule", "hostname")
_CALL = ("handler", "method")

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "build_info",
            "gauge",
            "Build and version information",
            ("goversion", "type", "revision", "version"),
        ),
        Family(f"{_TUNNEL}_total_requests", "counter", "Requests proxied through the tunnel"),
        Family(
            f"{_TUNNEL}_concurrent_requests_per_tunnel", "gauge", "Requests in flight in the tunnel"
        ),
        Family(
            f"{_TUNNEL}_response_by_code",
            "counter",
            "Origin responses by status code",
            ("status_code",),
        ),
        Family(f"{_TUNNEL}_request_errors", "counter", "Requests that failed before the origin"),
        Family("cloudflared_tcp_active_sessions", "gauge", "TCP sessions in flight"),
        Family("cloudflared_tcp_total_sessions", "counter", "TCP sessions proxied"),
        Family(
            "cloudflared_proxy_connect_streams_errors", "counter", "Failed dials of TCP streams"
        ),
        Family(
            "cloudflared_proxy_connect_latency",
            "histogram",
            "Milliseconds to connect to an origin that speaks no HTTP, and to acknowledge it",
        ),
        Family(
            "flow_client_registrations_rate_limited_total",
            "counter",
            "Private-network flows turned away because there were too many",
            ("flow_type",),
        ),
        Family("cloudflared_rpc_client_operations", "counter", "Calls to the edge", _CALL),
        Family(
            "cloudflared_rpc_client_failures", "counter", "Calls to the edge that failed", _CALL
        ),
        Family(
            "cloudflared_rpc_client_latency_secs", "histogram", "Seconds that calls took", _CALL
        ),
        Family(f"{_TUNNEL}_ha_connections", "gauge", "Links that are up or being made"),
        Family(
            f"{_TUNNEL}_server_locations",
            "gauge",
            "Where each link ends: 1 current, 0 former",
            ("connection_id", "edge_location"),
        ),
        Family(
            f"{_TUNNEL}_tunnel_register_success",
            "counter",
            "Successful registrations",
            ("rpcName",),
        ),
        Family(
            f"{_TUNNEL}_tunnel_register_fail",
            "counter",
            "Failed registrations",
            ("error", "rpcName"),
        ),
        Family(
            f"{_TUNNEL}_user_hostnames_counts",
            "counter",
            "Quick tunnel hostnames",
            ("userHostname",),
        ),
        Family(
            "underpass_configuration_refused",
            "counter",
            "Configurations that could not be used, by where they came from",
            ("source",),
        ),
        Family(
            "underpass_configuration_last_success_timestamp_seconds",
            "gauge",
            "When the configuration in force was put in force, in seconds of Unix time",
        ),
        Family(
            "cloudflared_config_local_config_pushes",
            "counter",
            "Local configurations sent to the edge",
        ),
        Family(
            "cloudflared_config_local_config_pushes_errors",
            "counter",
            "Local configurations that could not be sent to the edge",
        ),
        Family(
            "cloudflared_orchestration_config_version",
            "gauge",
            "Version of the configuration in force",
        ),
        Family(
            "underpass_request_failures_total",
            "counter",
            "Requests that failed, by cause (see `underpass explain`) and by where on their way",
            ("cause", "hop"),
        ),
        Family("underpass_rule_requests_total", "counter", "Requests of an ingress rule", _RULE),
        Family("underpass_rule_active_requests", "gauge", "Requests in flight", _RULE),
        Family("underpass_rule_failures_total", "counter", "Requests that failed", _RULE),
        Family(
            "underpass_rule_responses_total",
            "counter",
            "Responses by the class of their status",
            (*_RULE, "class"),
        ),
        Family("underpass_rule_request_bytes_total", "counter", "Request content", _RULE),
        Family("underpass_rule_response_bytes_total", "counter", "Response content", _RULE),
        Family(
            "underpass_rule_first_byte_seconds",
            "histogram",
            "From a request's head to its response's",
            _RULE,
        ),
        Family(
            "underpass_rule_duration_seconds",
            "histogram",
            "From a request's head to the end of its response; WebSockets and streams not counted",
            _RULE,
        ),
        Family(f"{_EDGE}_visitor_connections", "gauge", "Visitors' connections"),
        Family(
            f"{_EDGE}_visitor_connections_total",
            "counter",
            "Visitors' connections accepted, by listener",
            ("listener",),
        ),
        Family(f"{_EDGE}_requests_total", "counter", "Visitors' requests"),
        Family(f"{_EDGE}_active_requests", "gauge", "Visitors' requests in flight"),
        Family(
            f"{_EDGE}_responses_total",
            "counter",
            "Responses to visitors by status code",
            ("status_code",),
        ),
        Family(f"{_EDGE}_request_bytes_total", "counter", "Content of visitors' requests"),
        Family(f"{_EDGE}_response_bytes_total", "counter", "Content of responses to visitors"),
        Family(
            f"{_EDGE}_first_byte_seconds",
            "histogram",
            "From a visitor's request head to the response's",
        ),
        Family(
            f"{_EDGE}_duration_seconds",
            "histogram",
            "From a visitor's request head to the end of its response; WebSockets not counted",
        ),
        Family(f"{_EDGE}_tcp_streams_total", "counter", "Streams of a public port", ("route",)),
        Family(f"{_EDGE}_tcp_active_streams", "gauge", "Streams of a public port now", ("route",)),
        Family(
            f"{_EDGE}_tcp_bytes_total",
            "counter",
            "What a public port's visitors sent (in) and were sent (out)",
            ("route", "direction"),
        ),
        Family(
            f"{_EDGE}_tcp_refused_total",
            "counter",
            "Connections turned away at a public port's limits",
            ("route",),
        ),
        Family(
            f"{_EDGE}_tls_handshake_failures_total",
            "counter",
            "Connections whose TLS handshake never came to its end, by listener",
            ("listener",),
        ),
        Family(
            f"{_EDGE}_spared_connectors",
            "gauge",
            "Connectors that are spared because they cannot reach an application, once a hostname",
        ),
        Family(
            f"{_EDGE}_connector_spells_total",
            "counter",
            "How often a connector began to be spared",
        ),
        Family(f"{_EDGE}_links", "gauge", "Links that connectors hold"),
        Family(f"{_EDGE}_draining_links", "gauge", "Links that get nothing new, as was asked for"),
        Family(f"{_EDGE}_tunnels", "gauge", "Tunnels, named or quick", ("kind",)),
        Family(f"{_EDGE}_tunnels_with_links", "gauge", "Tunnels that a connector serves"),
        Family(f"{_EDGE}_routes", "gauge", "Hostnames that lead to a tunnel"),
        Family(
            f"{_EDGE}_certificate_expiry_timestamp_seconds",
            "gauge",
            "When a certificate ends, in seconds of Unix time, by its first name",
            ("name",),
        ),
        Family(f"{_EDGE}_store_revision", "gauge", "Revision of the store that is served"),
        Family(
            f"{_EDGE}_api_requests_total",
            "counter",
            "Requests to the API by method and status code",
            ("method", "status_code"),
        ),
    )
}


def histogram_values(histograms: Iterable[tuple[Sequence[str], Histogram]]) -> Labelled:
    """Histograms, by the values of their labels, as snapshots have them."""
    values: dict[tuple[str, ...], float] = {}
    for labels, histogram in histograms:
        bounds = (*map(_bound, histogram.bounds), "+Inf")
        for bound, count in zip(bounds, histogram.cumulative(), strict=True):
            values[(*labels, bound)] = count
        values[(*labels, "sum")] = histogram.sum
    return values


def _bound(bound: float) -> str:
    """As Go writes it: a series is found by this text."""
    return str(int(bound)) if bound == int(bound) else repr(bound)


def build_info() -> Snapshot:
    """The one constant metric: which program this is."""
    python = "python" + ".".join(map(str, sys.version_info[:3]))
    return {"build_info": {(python, "underpass", "", VERSION): 1}}


async def _nothing() -> None:
    """There is nothing to bring up to date."""


class Metrics:
    """The exposition of some sources. Later sources win where two give the same metric.

    `refresh` is awaited before each scrape, for sources that have to ask somebody. `workers` gives
    the ids of processes whose use of the machine counts as this program's.
    """

    def __init__(
        self,
        sources: Sequence[SnapshotSource],
        *,
        refresh: Callable[[], Awaitable[None]] = _nothing,
        workers: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        self._sources = (build_info, *sources)
        self.refresh = refresh
        self._workers = workers
        self._registry: CollectorRegistry | None = None

    @property
    def is_ready(self) -> bool:
        """Whether `render` will be quick: prometheus_client has been imported."""
        return self._registry is not None

    def prepare(self) -> None:
        """Do the slow part of the first scrape; may run in another thread than `render`."""
        if self._registry is None:
            from prometheus_client import CollectorRegistry

            registry = CollectorRegistry(auto_describe=False)
            registry.register(_ProcessCollector(self._workers))
            registry.register(_SnapshotCollector(self._sources))
            self._registry = registry

    async def scrape(self) -> bytes:
        """All metrics in the text format, brought up to date."""
        if not self.is_ready:
            await asyncio.to_thread(self.prepare)  # an import; requests go on meanwhile
        await self.refresh()
        return self.render()

    def render(self) -> bytes:
        """All metrics in the text format."""
        self.prepare()
        assert self._registry is not None
        lines: list[str] = []
        for metric in self._registry.collect():
            lines.extend(_exposition(metric))
        return "".join(lines).encode("utf-8")


class _ProcessCollector:
    """What the processes of the program use together: this one, and its workers.

    Processor time of workers that have ended is in the system's account of this one's children.
    Where there is no /proc this gives nothing.
    """

    def __init__(self, workers: Callable[[], Sequence[int]]) -> None:
        self._workers = workers

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        times = os.times()
        others = {"process_cpu_seconds_total": times.children_user + times.children_system}
        for pid in self._workers():
            for metric in _process_metrics(pid):
                for sample in metric.samples:
                    if sample.name in _SUMMED:
                        others[sample.name] = others.get(sample.name, 0.0) + sample.value
        for metric in _process_metrics(os.getpid()):
            metric.samples = [
                sample._replace(value=sample.value + others.get(sample.name, 0.0))
                for sample in metric.samples
            ]
            yield metric


_SUMMED = frozenset(
    {
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    }
)
"""Not the time of the start, nor the limit of open files, which is each process's own."""


def _process_metrics(pid: int) -> Iterable[Metric]:
    """Nothing for a process that has ended."""
    from prometheus_client import ProcessCollector

    return ProcessCollector(pid=lambda: pid, registry=None).collect()


class _SnapshotCollector:
    """What prometheus_client asks for the metrics of the sources."""

    def __init__(self, sources: Sequence[SnapshotSource]) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.metrics_core import Metric

        merged: dict[str, Number | Labelled] = {}
        for source in self._sources:
            merged.update(source())
        for name, values in merged.items():
            family = FAMILIES[name]
            metric = Metric(name, family.help, family.kind)
            for suffix, labels, value in _samples(family, values):
                metric.add_sample(name + suffix, labels, value)
            yield metric


def _samples(
    family: Family, values: Number | Labelled
) -> Iterable[tuple[str, dict[str, str], Number]]:
    """What follows the family's name, labels, value."""
    if isinstance(values, (int, float)):
        yield "", {}, values
        return
    for label_values, value in values.items():
        if isinstance(label_values, str):
            label_values = (label_values,)
        if family.kind != "histogram":
            yield "", dict(zip(family.labels, label_values, strict=True)), value
            continue
        labels = dict(zip(family.labels, label_values[:-1], strict=True))
        bound = label_values[-1]
        if bound == "sum":
            yield "_sum", labels, value
        else:
            yield "_bucket", {**labels, "le": bound}, value
            if bound == "+Inf":
                yield "_count", labels, value


def _exposition(metric: Any) -> Iterable[str]:
    """One family in text format 0.0.4.

    Written here because prometheus_client puts `_total` behind the name of every counter, and
    cloudflared's dashboards ask for names without it.
    """
    samples = metric.samples
    if not samples:
        return
    name = metric.name
    if metric.type == "counter" and samples[0].name == f"{name}_total":
        name = f"{name}_total"
    yield f"# HELP {name} {_escape(metric.documentation)}\n"
    yield f"# TYPE {name} {metric.type}\n"
    for sample in samples:
        labels = ",".join(
            f'{label}="{_escape_label(value)}"' for label, value in sample.labels.items()
        )
        braces = f"{{{labels}}}" if labels else ""
        yield f"{sample.name}{braces} {_number(sample.value)}\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_label(text: str) -> str:
    return _escape(text).replace('"', '\\"')


def _number(value: Number) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
