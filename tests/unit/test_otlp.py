"""Spans in OpenTelemetry's form: read back with its own messages, where they are installed."""

from __future__ import annotations

from typing import Any

import pytest

from underpass.wire.otlp import (
    MAX_DESCRIPTION,
    STATUS_ERROR,
    STATUS_OK,
    Span,
    TraceIdentity,
    encode_export_request,
    parse_trace_identity,
)

TRACE = bytes(range(16))
SPAN = bytes(range(100, 108))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b"000102030405060708090a0b0c0d0e0f:6465666768696a6b:0:1",
            TraceIdentity(TRACE, SPAN, True),
        ),
        (b"1:2:3:0", TraceIdentity(bytes(15) + b"\1", bytes(7) + b"\2", False)),
        (b"1:2:0:3", TraceIdentity(bytes(15) + b"\1", bytes(7) + b"\2", True)),
    ],
)
def test_jaegers_form(text: bytes, expected: TraceIdentity) -> None:
    assert parse_trace_identity(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b":::", b"1:2:3", b"1:2:3:1:5", b"g:2:0:1", b"1:x:0:1", b"1:2:0:x", b"0:2:0:1"),
        *(b"1:0:0:1", b"1" * 33 + b":2:0:1", b"1:" + b"2" * 17 + b":0:1", b"1:2:0:100"),
        *(b"\xff:2:0:1", b" 1 1:2:0:1", b"1:2:0:"),
    ],
)
def test_what_is_not_jaegers_form(text: bytes) -> None:
    assert parse_trace_identity(text) is None


def decoded(document: bytes) -> Any:
    messages = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        reason="opentelemetry-proto is not installed",
    )
    return messages.ExportTraceServiceRequest.FromString(document)


def test_a_request_of_spans() -> None:
    first = Span(TRACE, SPAN, b"p" * 8, "ingress_match", 10**18, 10**18 + 5, {"rule-num": 3})
    failed = Span(TRACE, SPAN, b"p" * 8, "ttfb", 1, 2, {}, STATUS_ERROR, "x" * 200)
    good = Span(TRACE, SPAN, b"p" * 8, "ttfb", 1, 2, {"a": "b" * 300, "n": -1}, STATUS_OK)
    document = encode_export_request({"service.name": "underpass"}, "origin", [first, failed, good])
    (of_resource,) = decoded(document).resource_spans
    (attribute,) = of_resource.resource.attributes
    assert (attribute.key, attribute.value.string_value) == ("service.name", "underpass")
    (of_scope,) = of_resource.scope_spans
    assert of_scope.scope.name == "origin"
    one, two, three = of_scope.spans
    assert (one.trace_id, one.span_id, one.parent_span_id) == (TRACE, SPAN, b"p" * 8)
    assert (one.name, one.kind) == ("ingress_match", 1)
    assert (one.start_time_unix_nano, one.end_time_unix_nano) == (10**18, 10**18 + 5)
    assert [(each.key, each.value.int_value) for each in one.attributes] == [("rule-num", 3)]
    assert one.status.code == 0
    assert (two.status.code, two.status.message) == (2, "x" * MAX_DESCRIPTION)
    assert three.status.code == 1
    assert three.attributes[0].value.string_value == "b" * 300
    assert three.attributes[1].value.int_value == -1
