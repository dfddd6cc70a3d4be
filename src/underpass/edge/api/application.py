"""The API's ASGI application: the endpoints that tokens are for, quick tunnels, a health check.

Whatever happens, the answer is the envelope: clients parse nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from underpass.edge.api import configurations, hostnames, networks, tunnels
from underpass.edge.api.authorization import Guesses
from underpass.edge.api.control import Control
from underpass.edge.api.endpoint import Endpoint, answer
from underpass.edge.api.envelope import CONTENT_TYPE, failure, success
from underpass.edge.api.openapi import openapi_document
from underpass.edge.api.quick_tunnels import create_quick_tunnel
from underpass.edge.dashboard.mounting import dashboard_routes
from underpass.wire.quick_tunnel import QUICK_TUNNEL_PATH

if TYPE_CHECKING:
    from underpass.edge.dashboard.parts import Parts

__all__ = ["ENDPOINTS", "create_application"]

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *tunnels.ENDPOINTS,
    *hostnames.ENDPOINTS,
    *networks.ENDPOINTS,
    *configurations.ENDPOINTS,
)


def create_application(
    control: Control, guesses: Guesses | None = None, dashboard: Parts | None = None
) -> Starlette:
    """The application that shows and changes one edge; with pages for people if there is what they
    show."""
    guesses = guesses or Guesses()
    document = openapi_document(ENDPOINTS)

    async def health(request: Request) -> Response:
        return success({"status": "ok", "revision": control.registry.revision})

    async def describe(request: Request) -> Response:
        return Response(document, headers={"content-type": CONTENT_TYPE})

    app = Starlette(
        routes=[
            *_routes(control, guesses),
            Route(QUICK_TUNNEL_PATH, partial(create_quick_tunnel, control), methods=["POST"]),
            Route("/healthz", health, methods=["GET"]),
            Route("/openapi.json", describe, methods=["GET"]),
            *(() if dashboard is None else dashboard_routes(control, guesses, dashboard)),
        ],
        exception_handlers={HTTPException: _http_failure, Exception: _unexpected},
    )
    # A redirect is no envelope, and no client follows one here.
    app.router.redirect_slashes = False
    return app


def _routes(control: Control, guesses: Guesses) -> Iterator[Route]:
    """One route a path: an endpoint that there is must not hide the method of another."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in ENDPOINTS:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    for path, endpoints in by_path.items():
        yield Route(path, partial(_dispatch, endpoints, control, guesses), methods=[*endpoints])


async def _dispatch(
    endpoints: dict[str, Endpoint], control: Control, guesses: Guesses, request: Request
) -> Response:
    method = "GET" if request.method == "HEAD" else request.method
    return await answer(endpoints[method], control, guesses, request)


_HTTP_MESSAGES: Final[dict[int, Callable[[Request], str]]] = {
    404: lambda request: f"there is nothing at {request.url.path}",
    405: lambda request: f"{request.method} is not a method of {request.url.path}",
}


async def _http_failure(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    describe = _HTTP_MESSAGES.get(error.status_code)
    message = error.detail if describe is None else describe(request)
    return failure(error.status_code, message, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    # The server logs it whole; the client learns nothing of the inside.
    return failure(500, "an unexpected error happened in the edge; its log says more")
