"""The envelope around every answer of the API. Docs: API §2.

Clients compare the content type with exactly `application/json`, and read the errors only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.responses import Response

__all__ = ["CONTENT_TYPE", "Failure", "ResultInfo", "failure", "success"]

CONTENT_TYPE: Final = "application/json"


class ApiError(Struct, frozen=True):
    """One thing that is wrong. `code` is for programs."""

    code: int
    message: str


class ResultInfo(Struct, frozen=True):
    """Which part of a list an answer has. `count` rows of `total_count`."""

    count: int
    page: int
    per_page: int
    total_count: int


class Failure(Struct, frozen=True):
    """An answer that says what is wrong."""

    errors: list[ApiError]
    success: bool = False
    messages: list[str] = msgspec.field(default_factory=list)
    result: None = None


class _Success(Struct, frozen=True, omit_defaults=False):
    result: Any
    success: bool = True
    errors: list[ApiError] = msgspec.field(default_factory=list)
    messages: list[str] = msgspec.field(default_factory=list)


class _Page(_Success, frozen=True, kw_only=True):
    result_info: ResultInfo


def failure(
    status: int, message: str, *, code: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer that says what is wrong. `code` is the HTTP status when not given."""
    error = ApiError(status if code is None else code, message)
    return _response(Failure([error]), status, headers)


def success(result: object, info: ResultInfo | None = None) -> Response:
    """An answer with a result; status 200, the only one that clients take for success."""
    answer = _Success(result) if info is None else _Page(result, result_info=info)
    return _response(answer, 200)


def _response(answer: Struct, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(answer),
        status,
        {"content-type": CONTENT_TYPE, "cache-control": "no-store", **(headers or {})},
    )
