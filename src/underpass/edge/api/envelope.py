"""The envelope around every answer of the API. Docs: API §2.

Clients compare the content type with exactly `application/json`, and read the errors only then.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse


def failure(
    status: int, message: str, *, code: int | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An answer that says what is wrong. `code` is for programs; the HTTP status when not given."""
    error = {"code": status if code is None else code, "message": message}
    return JSONResponse(
        {"success": False, "errors": [error], "messages": [], "result": None},
        status_code=status,
        headers={"cache-control": "no-store", **(headers or {})},
    )


def success(result: object) -> JSONResponse:
    """An answer with a result; status 200, the only one that clients take for success."""
    return JSONResponse(
        {"success": True, "errors": [], "messages": [], "result": result},
        headers={"cache-control": "no-store"},
    )
