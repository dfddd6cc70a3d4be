"""A span for each request, exported by OpenTelemetry's SDK (the extra `underpass[otel]`).

Where to, how often and under which name is told by OpenTelemetry's own environment variables;
OTEL_EXPORTER_OTLP_ENDPOINT turns it on, and only then is this module imported. Requests continue
the visitor's trace (W3C Trace Context), and origins continue the request's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from underpass.connector.observers import chained
from underpass.connector.routes import PRIVATE_NETWORK, RouteInfo
from underpass.core.fields import Fields, Token
from underpass.core.tunnel import Kind, OriginExchange
from underpass.version import VERSION
from underpass.wire.causes import Speaker, hop_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Tracing"]

CLOSE_SECONDS: Final = 3.0
"""For the last spans to be exported, before the program ends without them."""

MAX_TEXT: Final = 2048
"""Characters of a path or a host in a span."""

MAX_CONTEXT: Final = 512
"""Bytes of a `tracestate`, as W3C has it, and of any `traceparent`."""

_PROPAGATED: Final = ("traceparent", "tracestate")
_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
_KINDS: Final = {Kind.HTTP: "http", Kind.WEBSOCKET: "websocket", Kind.STREAM: "stream"}


class Tracing:
    """Observes requests. `exporter` is for tests; the environment names another."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        # Its warnings, of a collector that cannot be reached, belong into our log.
        logging.getLogger("opentelemetry").parent = logging.getLogger("underpass")
        attributes: dict[str, Any] = {"service.version": VERSION}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            attributes["service.name"] = "underpass"
        self._provider = TracerProvider(
            resource=Resource.create(attributes), shutdown_on_exit=False
        )
        exporter = exporter if exporter is not None else OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("underpass", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def observe(self, exchange: OriginExchange) -> None:
        """Called with each request before it is carried on."""
        request = exchange.request
        if request is None:
            return
        now = time.time_ns()
        method = _text(exchange.method)
        span = self._tracer.start_span(
            method if method in _METHODS else "HTTP",
            context=self._propagator.extract(_carrier(request)),
            kind=SpanKind.SERVER,
            start_time=now - int(exchange.seconds * 1e9),
        )
        self._hand_on(request, span)
        if not span.is_recording():
            return
        span.set_attributes(_attributes(exchange, method))
        exchange.on_answer = chained(
            exchange.on_answer, lambda _, status, __: _answered(span, status)
        )
        exchange.on_over = chained(exchange.on_over, lambda ended: _over(span, ended))

    def close(self) -> None:
        """Export what is left."""
        # In a thread, because a collector that is gone would hold up the end.
        last = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)

    def _hand_on(self, request: Fields, span: trace.Span) -> None:
        """Have the origin continue from here."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        for name in _PROPAGATED:
            request.remove(name.encode())
            if name in carrier:
                request.append(name.encode(), carrier[name].encode("ascii", "ignore"))


def _carrier(request: Fields) -> dict[str, str]:
    """The visitor's trace. Of several `tracestate` the parts are one list."""
    carrier = {}
    for name in _PROPAGATED:
        value = b",".join(request.get_all(name.encode()))
        if value and len(value) <= MAX_CONTEXT:
            carrier[name] = value.decode("ascii", "replace")
    return carrier


def _attributes(exchange: OriginExchange, method: str) -> dict[str, str | int]:
    """Named by OpenTelemetry's conventions for HTTP servers, as far as they go."""
    attributes: dict[str, str | int] = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "url.scheme": _text(exchange.scheme),
        "url.path": _text(exchange.path.partition(b"?")[0]),
        "server.address": _text(exchange.authority),
        "client.address": _text(exchange.header(Token.T_CF_CONNECTING_IP)),
        "user_agent.original": _text(exchange.header(Token.T_USER_AGENT)),
        "underpass.ray": _text(exchange.header(Token.T_CF_RAY)),
        "underpass.kind": _KINDS[Kind(exchange.kind)],
        "underpass.conn_index": exchange.acceptor.conn_index,
    }
    if exchange.route is not None:
        info: RouteInfo = exchange.route.info
        attributes["underpass.service"] = info.service
        if info is not PRIVATE_NETWORK:
            attributes["underpass.rule"] = info.rule
    return {name: value for name, value in attributes.items() if value != ""}


def _answered(span: trace.Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    span.add_event("response head")
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _over(span: trace.Span, exchange: OriginExchange) -> None:
    span.set_attributes(
        {
            "http.request.body.size": exchange.request_bytes,
            "http.response.body.size": exchange.response_bytes,
        }
    )
    if exchange.cause is not None:
        hop = hop_of(exchange.cause, Speaker.CONNECTOR).value
        span.set_attributes({"error.type": exchange.cause, "underpass.hop": hop})
        span.set_status(
            Status(StatusCode.ERROR, str(exchange.context or exchange.cause)[:MAX_TEXT])
        )
    span.end()


def _text(value: bytes | None) -> str:
    return value[:MAX_TEXT].decode("ascii", "backslashreplace") if value else ""
