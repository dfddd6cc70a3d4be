"""What clients send, made sure of: bounded, of the right types, or refused with a reason."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request

__all__ = [
    "BODY_SECONDS",
    "MAX_BODY_BYTES",
    "Refusal",
    "decode_body",
    "decode_query",
    "parse_uuid",
    "read_body",
    "require_printable",
]

MAX_BODY_BYTES: Final = 16 * 1024
"""Of a request's body, where an endpoint does not say otherwise."""

BODY_SECONDS: Final = 10.0
"""For a request's body to arrive."""

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request is answered with this instead of a result. `code` as in envelope.failure."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The request's body. Raises Refusal when it is too large, too slow, or ends early."""
    try:
        return await asyncio.wait_for(_read_within(request, limit), BODY_SECONDS)
    except asyncio.TimeoutError:
        message = f"the request's body did not arrive within {BODY_SECONDS:.0f} seconds"
        raise Refusal(408, message, headers={"connection": "close"}) from None
    except ClientDisconnect:
        # Nobody is left to read this, and nothing is changed for nobody.
        raise Refusal(400, "the request ended early") from None


async def _read_within(request: Request, limit: int) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            message = f"the request's body is larger than {limit} bytes"
            raise Refusal(413, message, headers={"connection": "close"})
    return bytes(received)


def decode_body(body: bytes, kind: type[T]) -> T:
    """The body as `kind`; fields that it does not know are passed over. Raises Refusal."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        # msgspec's own errors are ValueErrors too.
        raise Refusal(400, f"the request's body: {error}") from None


def decode_query(query: QueryParams, kind: type[StructT]) -> StructT:
    """The query as `kind`; parameters that it does not know are passed over. Raises Refusal.

    What may be left out has to be `| UnsetType` there: in a query `null` is text, which would turn
    into None.
    """
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    given: dict[str, Any] = {}
    for name, value in query.multi_items():
        if name in known:
            if name in given:
                raise Refusal(400, f"the query has {name} twice")
            given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except ValueError as error:
        raise Refusal(400, f"the query: {error}") from None


def parse_uuid(text: str, what: str) -> UUID:
    """A UUID in its usual spelling. Raises Refusal."""
    if _UUID.fullmatch(text) is None:
        raise Refusal(400, f"{what}: this is no UUID")
    return UUID(text)


def require_printable(text: str, what: str) -> str:
    """`text`, which will be shown on terminals. Raises Refusal."""
    if not text.isprintable():
        raise Refusal(400, f"{what} may not have control characters")
    return text
