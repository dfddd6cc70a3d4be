"""The dashboard's ASGI application: which page is where, and what surrounds each."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import cache, partial
from importlib.resources import files
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from underpass.edge.api.requests import Refusal
from underpass.edge.dashboard import login, overview, signing_in, tokens, tunnels
from underpass.edge.dashboard.visits import (
    HOME,
    SECURITY_HEADERS,
    SIGN_IN,
    Dashboard,
    Visit,
    protect,
)
from underpass.edge.store import StoreError
from underpass.wire.login_transfer import LOGIN_PATH, TRANSFER_PATH

log = logging.getLogger("underpass.edge.dashboard")

__all__ = ["PAGES", "create_dashboard"]

Show = Callable[[Visit], Awaitable[Response]]

_TUNNEL: Final = f"{HOME}/tunnels/{{tunnel_id}}"
_TOKEN: Final = f"{HOME}/tokens/{{token_id}}"

OPEN_PAGES: Final[tuple[tuple[str, str, Show], ...]] = (
    ("GET", SIGN_IN, signing_in.show_sign_in),
    ("POST", SIGN_IN, signing_in.sign_in),
)
"""For whoever is not signed in yet."""

PAGES: Final[tuple[tuple[str, str, Show], ...]] = (
    ("GET", HOME, overview.show_overview),
    ("POST", f"{HOME}/sign-out", signing_in.sign_out),
    ("GET", f"{HOME}/tunnels", tunnels.show_tunnels),
    ("POST", f"{HOME}/tunnels", tunnels.create_tunnel),
    ("GET", _TUNNEL, tunnels.show_tunnel),
    ("POST", f"{_TUNNEL}/delete", tunnels.delete_tunnel),
    ("POST", f"{_TUNNEL}/connections", tunnels.close_connections),
    ("POST", f"{_TUNNEL}/drain", tunnels.drain),
    ("POST", f"{_TUNNEL}/token", tunnels.show_run_command),
    ("GET", f"{HOME}/hostnames", tunnels.show_hostnames),
    ("POST", f"{HOME}/hostnames", tunnels.add_hostname),
    ("POST", f"{HOME}/hostnames/delete", tunnels.remove_hostname),
    ("GET", f"{HOME}/requests", overview.show_requests),
    ("GET", f"{HOME}/requests/{{ray}}", overview.show_request),
    ("GET", f"{HOME}/tokens", tokens.show_tokens),
    ("POST", f"{HOME}/tokens", tokens.create_token),
    ("POST", f"{_TOKEN}/rotate", tokens.rotate_token),
    ("POST", f"{_TOKEN}/revoke", tokens.revoke_token),
    ("GET", f"{HOME}/certificates", overview.show_certificates),
    ("GET", f"{HOME}/audit", overview.show_audit),
    ("GET", LOGIN_PATH, login.show_login),
    ("POST", LOGIN_PATH, login.confirm_login),
)
"""For whoever is."""

_STATIC: Final = {
    "style.css": "text/css; charset=utf-8",
    "htmx-2.0.11.min.js": "text/javascript; charset=utf-8",
    "htmx-LICENSE.txt": "text/plain; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def create_dashboard(dashboard: Dashboard) -> Starlette:
    """The application. It answers below HOME and LOGIN_PATH."""
    by_path: dict[str, dict[str, tuple[Show, bool]]] = {}
    for pages, is_open in ((OPEN_PAGES, True), (PAGES, False)):
        for method, path, show in pages:
            by_path.setdefault(path, {})[method] = (show, is_open)
    app = Starlette(
        routes=[
            Route(f"{HOME}/static/{{name}}", _static, methods=["GET"]),
            Route(TRANSFER_PATH + "{key}", partial(login.hand_over, dashboard), methods=["GET"]),
            *(
                Route(path, partial(_answer, dashboard, shows), methods=[*shows])
                for path, shows in by_path.items()
            ),
        ],
        exception_handlers={
            HTTPException: partial(_http_failure, dashboard),
            Exception: _unexpected,
        },
    )
    app.router.redirect_slashes = False
    return app


async def _answer(
    dashboard: Dashboard, shows: dict[str, tuple[Show, bool]], request: Request
) -> Response:
    show, is_open = shows["GET" if request.method == "HEAD" else request.method]
    visit = Visit(dashboard, request)
    try:
        visit = await Visit.of(dashboard, request)
        if visit.session is None and not is_open:
            return visit.to_sign_in()
        return await show(visit)
    except Refusal as refusal:
        response = visit.page("refused.html", refusal.status, message=refusal.message)
        for name, value in (refusal.headers or {}).items():
            response.headers[name] = value
        return response
    except StoreError as error:
        log.error("a page cannot be shown: %s", error)
        return visit.page("refused.html", 503, message="the edge's store cannot be read now")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        raise HTTPException(404)
    headers = {
        **SECURITY_HEADERS,
        "content-type": _STATIC[name],
        "cache-control": "public, max-age=3600",
    }
    return Response(_content(name), headers=headers)


@cache
def _content(name: str) -> bytes:
    return files("underpass.edge.dashboard").joinpath("static", name).read_bytes()


async def _http_failure(dashboard: Dashboard, request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = "there is nothing here" if error.status_code == 404 else error.detail
    visit = Visit(dashboard, request)
    response = visit.page("refused.html", error.status_code, message=message)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    # The server logs it whole; the browser learns nothing of the inside.
    response = Response("an unexpected error happened in the edge; its log says more\n", 500)
    protect(response.headers)
    return response
