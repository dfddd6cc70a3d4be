"""The last requests that an edge has carried, and the last that failed, to be looked at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from msgspec import Struct

from underpass.core.recent import RecentRequests
from underpass.wire.causes import Speaker, hop_of

__all__ = ["MAX_SHOWN", "Recent", "RequestRecord", "merged", "read_recent"]

MAX_SHOWN = 512
"""Of each kind, of all workers together."""


class RequestRecord(Struct, array_like=True, frozen=True):
    """One request. Text is as the visitor sent it, cut, and without the query."""

    at: float
    """When its head had come, seconds since 1970."""
    method: str
    host: str
    path: str
    status: int
    """0: nothing was answered, or not yet."""
    seconds: float | None
    """Until all was over; None: it is under way."""
    request_bytes: int
    response_bytes: int
    ray: str
    attempts: int
    """Links tried."""
    cause: str
    """Why it failed; "": it did not."""
    hop: str
    """Where, as `underpass explain` has it."""
    tunnel_id: UUID | None
    connector_id: UUID | None
    conn_index: int


class Recent(Struct, frozen=True):
    """The newest first."""

    requests: list[RequestRecord]
    failures: list[RequestRecord]


def read_recent(kept: RecentRequests) -> Recent:
    """What one process remembers."""
    return Recent(
        [_record(record) for record in kept.requests()],
        [_record(record) for record in kept.failures()],
    )


def _record(kept: tuple[Any, ...]) -> RequestRecord:
    at, method, host, path, status, seconds, sent, received, ray, attempts, cause, told, by = kept
    speaker = Speaker.CONNECTOR if told else Speaker.EDGE
    return RequestRecord(
        at,
        _text(method),
        _text(host),
        _text(path),
        status,
        None if seconds is None else max(0.0, seconds),
        sent,
        received,
        _text(ray),
        attempts,
        cause or "",
        hop_of(cause, speaker).value if cause else "",
        None if by is None else by.tunnel_id,
        None if by is None else by.connector_id,
        -1 if by is None else by.conn_index,
    )


def _text(kept: bytes) -> str:
    """Bytes from the network, shown to people: what is no text is made visible."""
    text = kept.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else f"\\u{ord(character):04x}" for character in text
    )


def merged(several: Iterable[Recent]) -> Recent:
    """What several processes remember, as if it were one."""
    every = list(several)
    return Recent(
        _newest(record for recent in every for record in recent.requests),
        _newest(record for recent in every for record in recent.failures),
    )


def _newest(records: Iterable[RequestRecord]) -> list[RequestRecord]:
    return sorted(records, key=lambda record: record.at, reverse=True)[:MAX_SHOWN]
