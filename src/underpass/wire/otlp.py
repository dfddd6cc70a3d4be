"""Spans as OpenTelemetry's protocol has them, for the few that go back through a link.

Only as much of OTLP 1 (opentelemetry/proto/collector/trace/v1) as two spans with a handful of
attributes need; protobuf's wire format is a tag, a length and bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from msgspec import Struct

__all__ = ["Attributes", "Span", "TraceIdentity", "encode_export_request", "parse_trace_identity"]

Attributes: TypeAlias = Mapping[str, str | int]

MAX_DESCRIPTION: Final = 100
"""Characters of an error, as cloudflared has it."""

_KIND_INTERNAL: Final = 1
STATUS_UNSET, STATUS_OK, STATUS_ERROR = range(3)


class TraceIdentity(Struct, frozen=True):
    """What a span is to be part of."""

    trace_id: bytes  # 16
    span_id: bytes  # 8
    is_sampled: bool


def parse_trace_identity(text: bytes) -> TraceIdentity | None:
    """Jaeger's form, `trace:span:parent:flags` in hexadecimal digits; None if it is not that."""
    parts = text.split(b":")
    if len(parts) != 4:
        return None
    trace, span, _, flags = parts
    if not (0 < len(trace) <= 32 and 0 < len(span) <= 16 and 0 < len(flags) <= 2):
        return None
    try:
        trace_id = bytes.fromhex(trace.decode("ascii").rjust(32, "0"))
        span_id = bytes.fromhex(span.decode("ascii").rjust(16, "0"))
        sampled = bool(bytes.fromhex(flags.decode("ascii").rjust(2, "0"))[0] & 1)
    except ValueError:
        return None
    if len(trace_id) != 16 or len(span_id) != 8 or not any(trace_id) or not any(span_id):
        return None
    return TraceIdentity(trace_id, span_id, sampled)


class Span(Struct, frozen=True):
    """One span; times are nanoseconds since the epoch."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    start: int
    end: int
    attributes: Attributes
    status: int = STATUS_UNSET
    description: str = ""


def encode_export_request(resource: Attributes, scope: str, spans: Sequence[Span]) -> bytes:
    """An ExportTraceServiceRequest."""
    scope_spans = _bytes(1, _bytes(1, scope.encode()))
    for span in spans:
        scope_spans += _bytes(2, _span(span))
    resource_spans = _bytes(1, _attributes(1, resource)) + _bytes(2, scope_spans)
    return _bytes(1, resource_spans)


def _span(span: Span) -> bytes:
    status = b""
    if span.description:
        status += _bytes(2, span.description[:MAX_DESCRIPTION].encode())
    if span.status:
        status += _number(3, span.status)
    return b"".join(
        (
            _bytes(1, span.trace_id),
            _bytes(2, span.span_id),
            _bytes(4, span.parent_id),
            _bytes(5, span.name.encode()),
            _number(6, _KIND_INTERNAL),
            _fixed64(7, span.start),
            _fixed64(8, span.end),
            _attributes(9, span.attributes),
            _bytes(15, status),
        )
    )


def _attributes(field: int, attributes: Attributes) -> bytes:
    return b"".join(
        _bytes(field, _bytes(1, key.encode()) + _bytes(2, _value(value)))
        for key, value in attributes.items()
    )


def _value(value: str | int) -> bytes:
    if isinstance(value, str):
        return _bytes(1, value.encode("utf-8", "replace"))
    return _number(3, value & (1 << 64) - 1)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _fixed64(field: int, value: int) -> bytes:
    return _varint(field << 3 | 1) + value.to_bytes(8, "little")


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
