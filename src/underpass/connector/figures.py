"""Figures that cloudflared keeps and the core does not: dials of streams, calls to the edge."""

from __future__ import annotations

from collections import Counter
from typing import Final

from underpass.connector.observers import chained
from underpass.core.fields import Fields
from underpass.core.histogram import Histogram
from underpass.core.tunnel import OriginExchange
from underpass.ops.metrics import Snapshot, histogram_values

__all__ = ["CALL_BOUNDS", "CONNECT_BOUNDS", "EdgeCalls", "StreamConnects"]

CONNECT_BOUNDS: Final = (1, 10, 25, 50, 100, 500, 1000, 5000)
"""Milliseconds."""

CALL_BOUNDS: Final = (0.05, 0.15000000000000002, 0.45000000000000007, 1.35, 4.050000000000001)
"""Seconds. cloudflared multiplies by three, and labels the buckets with what comes of that."""

_HANDLER: Final = "registration"


class StreamConnects:
    """How long origins that speak no HTTP took to be connected to, and how often they were not."""

    def __init__(self) -> None:
        self.errors = 0
        self._latency = Histogram(CONNECT_BOUNDS)

    def observe(self, exchange: OriginExchange) -> None:
        """Called with each stream before it is carried on."""
        exchange.on_answer = chained(exchange.on_answer, self._answered)

    def _answered(self, exchange: OriginExchange, status: int, head: Fields) -> None:
        if exchange.cause is not None:
            self.errors += 1
        elif status in (101, 200):  # which a stream begins with
            self._latency.add(exchange.seconds * 1000)

    def snapshot(self) -> Snapshot:
        latency = self._latency
        return {
            "cloudflared_proxy_connect_latency": histogram_values([((), latency)]),
            "cloudflared_proxy_connect_streams_errors": self.errors,
        }


class EdgeCalls:
    """Calls to the edge over control streams."""

    def __init__(self) -> None:
        self._latencies: dict[str, Histogram] = {}
        self._failures: Counter[str] = Counter()

    def note(self, method: str, seconds: float, failed: bool) -> None:
        """One call has ended."""
        if method not in self._latencies:
            self._latencies[method] = Histogram(CALL_BOUNDS)
        self._latencies[method].add(seconds)
        if failed:
            self._failures[method] += 1

    def snapshot(self) -> Snapshot:
        latencies = {(_HANDLER, method): each for method, each in self._latencies.items()}
        return {
            "cloudflared_rpc_client_operations": {
                labels: latency.count for labels, latency in latencies.items()
            },
            "cloudflared_rpc_client_failures": {
                (_HANDLER, method): count for method, count in self._failures.items()
            },
            "cloudflared_rpc_client_latency_secs": histogram_values(latencies.items()),
        }
