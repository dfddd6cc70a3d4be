"""Where the dashboard is in the API's application, and that nothing of it is loaded before somebody
comes: most edges are run by commands and programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from underpass.edge.api.authorization import Guesses
    from underpass.edge.api.control import Control
    from underpass.edge.dashboard.parts import Parts

__all__ = ["PREFIXES", "dashboard_routes"]

PREFIXES = ("/dashboard", "/login")


class _OnceAsked:
    """An ASGI application that is made for the first request to it."""

    def __init__(self, control: Control, guesses: Guesses, parts: Parts) -> None:
        self._made_of = control, guesses, parts
        self._application: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._application is None:
            from underpass.edge.dashboard.application import create_dashboard
            from underpass.edge.dashboard.visits import Dashboard

            self._application = create_dashboard(Dashboard(*self._made_of))
        await self._application(scope, receive, send)


def dashboard_routes(control: Control, guesses: Guesses, parts: Parts) -> Iterator[Route]:
    """The routes that lead there."""
    application = _OnceAsked(control, guesses, parts)
    for prefix in PREFIXES:
        yield Route(prefix, application)
        yield Route(f"{prefix}/{{rest:path}}", application)
    yield Route("/", _to_dashboard, methods=["GET"])


async def _to_dashboard(request: Request) -> Response:
    """Whoever types the address alone."""
    return RedirectResponse("/dashboard", 303, {"cache-control": "no-store"})
