"""The last requests that an edge has carried, and the last that failed, to be looked at."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from msgspec import Struct

__all__ = ["MAX_SHOWN", "Recent", "RequestRecord", "merged"]

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


def merged(several: Iterable[Recent]) -> Recent:
    """What several processes remember, as if it were one."""
    every = list(several)
    return Recent(
        _newest(record for recent in every for record in recent.requests),
        _newest(record for recent in every for record in recent.failures),
    )


def _newest(records: Iterable[RequestRecord]) -> list[RequestRecord]:
    return sorted(records, key=lambda record: record.at, reverse=True)[:MAX_SHOWN]
