"""Traces that an edge asks for."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from rig.http2 import RawClient
from rig.transport import ManualLoop

from underpass.connector.ingress import single_rule
from underpass.connector.origins import parse_service
from underpass.connector.routes import RouteTable
from underpass.core.tunnel import OriginAcceptor, OriginExchange

TRACE_ID = b"0102030405060708090a0b0c0d0e0f10"
SAMPLED = (b"cf-trace-id", TRACE_ID + b":1112131415161718:0:1")
TRACING = b"cf-int-cloudflared-tracing"


def answer(
    *fields: tuple[bytes, bytes],
    forward: Callable[[OriginExchange], object] = lambda exchange: exchange.respond(404, ()),
    service: str = "http://localhost:8000",
) -> dict[bytes, bytes]:
    """The response head that the edge gets."""
    table = RouteTable()

    def carry(exchange: OriginExchange) -> None:
        forward(exchange)

    (handler,) = table.handlers(single_rule(parse_service(service)), (carry,))
    client = RawClient.over(ManualLoop(), OriginAcceptor(handler, table.unrouted))
    head = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"a.test"),
        (b":path", b"/"),
        *fields,
    ]
    client.feed(client.peer.headers(1, head, end=True))
    return next(dict(each.fields) for each in client.sent() if each.fields)


def spans(head: dict[bytes, bytes]) -> list[Any]:
    messages = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        reason="opentelemetry-proto is not installed",
    )
    document = base64.b64decode(head[TRACING], validate=True)
    (of_resource,) = messages.ExportTraceServiceRequest.FromString(document).resource_spans
    (of_scope,) = of_resource.scope_spans
    assert of_scope.scope.name == "origin"
    return list(of_scope.spans)


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_spans_go_back_with_the_response() -> None:
    match, origin = spans(answer(SAMPLED))
    assert match.name == "ingress_match"
    assert attributes(match) == {"req-host": "a.test", "rule-num": 0}
    assert origin.name == "ttfb_origin"
    assert attributes(origin) == {"upstreamStatusCode": 404}
    assert origin.status.code == 1
    for span in (match, origin):
        assert span.trace_id.hex().encode() == TRACE_ID
        assert span.parent_span_id.hex() == "1112131415161718"
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert match.span_id != origin.span_id


def test_a_stream_has_a_span_of_its_own() -> None:
    def connect(exchange: OriginExchange) -> None:
        exchange.open_python_side().send_response(200)

    head = answer(SAMPLED, forward=connect, service="tcp://localhost:22")
    assert [span.name for span in spans(head)] == ["ingress_match", "stream-connect"]


def test_the_last_of_several_counts() -> None:
    other = (b"cf-trace-id", b"a:b:0:1")
    assert spans(answer(SAMPLED, other))[0].trace_id.hex() == "a".rjust(32, "0")
    assert TRACING not in answer(SAMPLED, (b"cf-trace-id", b"a:b:0:0"))


@pytest.mark.parametrize("value", [b"", b"nonsense", TRACE_ID + b":1112131415161718:0:0"])
def test_no_spans_without_a_sampled_trace(value: bytes) -> None:
    assert TRACING not in answer((b"cf-trace-id", value))
    assert TRACING not in answer()


def test_no_spans_without_a_response_of_an_origin() -> None:
    head = answer(SAMPLED, forward=lambda exchange: exchange.fail(502, "dial"))
    assert head[b":status"] == b"502"
    assert TRACING not in head
