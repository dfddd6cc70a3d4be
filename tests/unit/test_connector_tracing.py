"""A span for each request, with OpenTelemetry's own SDK."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from rig.http2 import RawClient, rst_stream
from rig.transport import ManualLoop

from underpass.connector.ingress import single_rule
from underpass.connector.observers import Observers
from underpass.connector.options import ConnectorOptions
from underpass.connector.origins import parse_service
from underpass.connector.routes import RouteTable
from underpass.core.fields import Fields
from underpass.core.frames import ErrorCode
from underpass.core.tunnel import OriginAcceptor, OriginExchange

memory = pytest.importorskip(
    "opentelemetry.sdk.trace.export.in_memory_span_exporter",
    reason="opentelemetry-sdk is not installed (the extra underpass[otel])",
)
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

if TYPE_CHECKING:
    from underpass.connector.tracing import Tracing

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Traced:
    """One link's requests; `spans` are what has been exported."""

    def __init__(self, tracing: Tracing, exporter: Any) -> None:
        self._tracing = tracing
        self._exporter = exporter
        self.sent_on: list[dict[bytes, bytes]] = []
        self.forward: Callable[[OriginExchange], object] = lambda exchange: exchange.respond(
            200, (), b"hello"
        )
        table = RouteTable(tracing.observe)
        service = single_rule(parse_service("http://localhost:8000"))
        (handler,) = table.handlers(service, (self._carry,))
        acceptor = OriginAcceptor(handler, table.unrouted, None, b"tag", (), None, 3)
        self.client = RawClient.over(ManualLoop(), acceptor)
        self._stream = -1

    def _carry(self, exchange: OriginExchange) -> None:
        assert isinstance(exchange.request, Fields)
        self.sent_on.append(dict(exchange.request))
        self.forward(exchange)

    def request(self, *fields: tuple[bytes, bytes], method: bytes = b"GET") -> None:
        self._stream += 2
        head = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", b"a.test"),
            (b":path", b"/p?token=secret"),
            *fields,
        ]
        self.client.feed(self.client.peer.headers(self._stream, head, end=True))

    @property
    def spans(self) -> list[Any]:
        self._tracing.close()
        return list(self._exporter.get_finished_spans())

    @property
    def span(self) -> Any:
        (span,) = self.spans
        return span


@pytest.fixture
def traced() -> Iterator[Traced]:
    from underpass.connector.tracing import Tracing

    exporter = memory.InMemorySpanExporter()
    tracing = Tracing(exporter)
    yield Traced(tracing, exporter)
    tracing.close()


def context(sampled: bool = True) -> tuple[bytes, bytes]:
    return b"traceparent", f"00-{TRACE_ID}-{PARENT}-0{int(sampled)}".encode()


def test_a_request(traced: Traced) -> None:
    traced.request((b"cf-connecting-ip", b"192.0.2.7"), (b"user-agent", b"curl/8"))
    span = traced.span
    assert span.name == "GET"
    assert span.kind.name == "SERVER"
    assert span.start_time <= span.end_time
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "url.scheme": "https",
        "url.path": "/p",
        "server.address": "a.test",
        "client.address": "192.0.2.7",
        "user_agent.original": "curl/8",
        "underpass.kind": "http",
        "underpass.conn_index": 3,
        "underpass.service": "http://localhost:8000",
        "underpass.rule": 0,
        "http.response.status_code": 200,
        "http.request.body.size": 0,
        "http.response.body.size": 5,
    }
    assert [event.name for event in span.events] == ["response head"]
    assert span.status.status_code.name == "UNSET"
    assert span.resource.attributes["service.name"] == "underpass"


def test_goes_on_with_the_visitors_trace_and_the_origin_with_it(traced: Traced) -> None:
    traced.request(context(), (b"tracestate", b"vendor=1"))
    span = traced.span
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert f"{span.parent.span_id:016x}" == PARENT
    (head,) = traced.sent_on
    assert head[b"traceparent"] == f"00-{TRACE_ID}-{span.context.span_id:016x}-01".encode()
    assert head[b"tracestate"] == b"vendor=1"


def test_begins_one_where_there_is_none(traced: Traced) -> None:
    traced.request()
    span = traced.span
    assert span.parent is None
    assert f"{span.context.trace_id:032x}".encode() in traced.sent_on[0][b"traceparent"]


def test_what_the_visitor_does_not_sample_is_passed_on_and_not_exported(traced: Traced) -> None:
    traced.request(context(sampled=False))
    assert traced.spans == []
    assert traced.sent_on[0][b"traceparent"].startswith(f"00-{TRACE_ID}-".encode())
    assert traced.sent_on[0][b"traceparent"].endswith(b"-00")


@pytest.mark.parametrize(
    "value", [b"", b"nonsense", b"\xff", b"00-0-0-01", b"00-" + b"f" * 9000 + b"-1-01"]
)
def test_a_context_that_is_none_begins_a_trace(traced: Traced, value: bytes) -> None:
    traced.request((b"traceparent", value))
    assert traced.span.parent is None
    assert len(traced.sent_on[0][b"traceparent"]) == 55


def test_a_failure(traced: Traced) -> None:
    traced.forward = lambda exchange: exchange.fail(502, "dial")
    traced.request()
    span = traced.span
    assert span.status.status_code.name == "ERROR"
    assert span.status.description == "dial"
    assert span.attributes["error.type"] == "dial"
    assert span.attributes["underpass.hop"] == "origin"
    assert span.attributes["http.response.status_code"] == 502


def test_a_visitor_that_left(traced: Traced) -> None:
    traced.forward = lambda _: None
    traced.request()
    traced.client.feed(rst_stream(1, ErrorCode.CANCEL))
    span = traced.span
    assert span.attributes["error.type"] == "reset_by_client"
    assert "http.response.status_code" not in span.attributes


def test_methods_that_anybody_invents_make_no_names(traced: Traced) -> None:
    traced.request(method=b"PWNED")
    assert traced.span.name == "HTTP"
    assert traced.spans[0].attributes["http.request.method"] == "_OTHER"


def options() -> ConnectorOptions:
    return ConnectorOptions(single_rule(parse_service("http://localhost:8000")))


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environment", "traces"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_environment_turns_it_on(
    environment: dict[str, str], traces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    observers = Observers(options())
    assert (observers.observe is not None) is traces
    observers.close()


def test_without_the_packages_it_says_so_and_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delitem(sys.modules, "underpass.connector.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    observers = Observers(options())
    assert observers.observe is None
    assert "underpass[otel]" in caplog.text
    observers.close()
