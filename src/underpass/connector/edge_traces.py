"""Traces that an edge asks for with `cf-trace-id`: the spans go back with the response, in a field
that no visitor sees (docs: observability §5).

Imported at the first such request; needs none of OpenTelemetry's packages.
"""

from __future__ import annotations

import base64
import os
import platform
import socket
import sys
import time
from typing import Final

from underpass.connector.observers import chained
from underpass.connector.routes import RouteInfo
from underpass.core.fields import Fields
from underpass.core.tunnel import OriginExchange
from underpass.version import VERSION
from underpass.wire.headers import CF_TRACE_ID, TRACING
from underpass.wire.otlp import (
    STATUS_OK,
    Attributes,
    Span,
    TraceIdentity,
    encode_export_request,
    parse_trace_identity,
)

__all__ = ["trace"]

SCOPE: Final = "origin"


def trace(exchange: OriginExchange) -> None:
    """Called with each request that has a `cf-trace-id`. The last one counts."""
    found = exchange.request.get_all(CF_TRACE_ID) if exchange.request is not None else []
    identity = parse_trace_identity(found[-1]) if found else None
    if identity is None or not identity.is_sampled:
        return
    now = time.time_ns()
    match = _span(
        identity,
        "ingress_match",
        now - int(exchange.seconds * 1e9),
        now,
        {"req-host": exchange.authority.decode("ascii", "replace"), "rule-num": _rule(exchange)},
    )

    def answered(exchange: OriginExchange, status: int, head: Fields) -> None:
        if exchange.cause is not None:
            return  # as cloudflared, whose spans go with responses of origins
        spans = [match, _of_the_origin(identity, exchange, now, status)]
        document = encode_export_request(_resource(), SCOPE, spans)
        head.append(TRACING, base64.b64encode(document))

    exchange.on_answer = chained(exchange.on_answer, answered)


def _of_the_origin(
    identity: TraceIdentity, exchange: OriginExchange, start: int, status: int
) -> Span:
    if _is_stream(exchange):
        return _span(identity, "stream-connect", start, time.time_ns(), {})
    upstream: Attributes = {"upstreamStatusCode": status}
    return _span(identity, "ttfb_origin", start, time.time_ns(), upstream, STATUS_OK)


def _span(
    identity: TraceIdentity,
    name: str,
    start: int,
    end: int,
    attributes: Attributes,
    status: int = 0,
) -> Span:
    return Span(
        identity.trace_id, os.urandom(8), identity.span_id, name, start, end, attributes, status
    )


def _rule(exchange: OriginExchange) -> int:
    info: RouteInfo | None = exchange.route.info if exchange.route is not None else None
    return info.rule if info is not None else -1


def _is_stream(exchange: OriginExchange) -> bool:
    info: RouteInfo | None = exchange.route.info if exchange.route is not None else None
    return info is not None and info.is_stream


def _resource() -> Attributes:
    return {
        "service.name": "underpass",
        "hostname": socket.gethostname(),
        "process.runtime.version": VERSION,
        "host.type": sys.platform,
        "host.arch": platform.machine(),
    }
