"""What all pages have in common: who asks, what a form has to show, how a page is made."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

import jinja2
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from underpass.edge.api.application import ENDPOINTS
from underpass.edge.api.authorization import Guesses, source_of
from underpass.edge.api.control import Control
from underpass.edge.api.endpoint import Call, check_scope, perform
from underpass.edge.api.requests import Refusal, read_body
from underpass.edge.dashboard import shown
from underpass.edge.dashboard.parts import Parts
from underpass.edge.dashboard.sessions import Session, Sessions, SignInLinks
from underpass.edge.registry import Author

__all__ = ["HOME", "MAX_FORM_BYTES", "MAX_FORM_FIELDS", "SIGN_IN", "Dashboard", "Visit"]

HOME: Final = "/dashboard"
SIGN_IN: Final = "/dashboard/sign-in"

MAX_FORM_BYTES: Final = 16 * 1024
MAX_FORM_FIELDS: Final = 64
MAX_NEXT: Final = 1024
"""Characters of the address that signing in leads back to."""

_COOKIE: Final = "underpass-session"
_SECURE_COOKIE: Final = "__Host-underpass-session"

_FORM_TYPE: Final = "application/x-www-form-urlencoded"

SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # (With `no-referrer`, browsers would not say where a form comes from.)
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_ENDPOINTS: Final = {(endpoint.method, endpoint.path): endpoint for endpoint in ENDPOINTS}


@dataclass
class Dashboard:
    """The pages of one edge."""

    control: Control
    guesses: Guesses
    parts: Parts

    @cached_property
    def sessions(self) -> Sessions:
        """Who is signed in."""
        return Sessions(self.parts.sessions, self.control.registry)

    @cached_property
    def links(self) -> SignInLinks:
        """Links by which one can sign in."""
        return SignInLinks(self.parts.sign_in_links)

    @cached_property
    def templates(self) -> jinja2.Environment:
        """Escapes whatever it is given."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("underpass.edge.dashboard"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.filters |= shown.FILTERS
        return environment


@dataclass(slots=True)
class Visit:
    """One request for a page. `form` has the fields of a POST."""

    dashboard: Dashboard
    request: Request
    secret: str = ""
    session: Session | None = None
    form: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    async def of(cls, dashboard: Dashboard, request: Request) -> Visit:
        """With its session, if it has one. Raises Refusal for what is not to be answered."""
        visit = cls(dashboard, request)
        visit.secret = request.cookies.get(visit._cookie, "")
        visit.session = dashboard.sessions.find(visit.secret)
        if request.method == "POST":
            visit._check_origin()
            visit.form = await _read_form(request)
            if visit.session is not None and not secrets.compare_digest(
                visit.field("form_token").encode(), visit.session.form_token.encode()
            ):
                raise Refusal(403, "this form is from another session: load the page again")
        return visit

    @property
    def signed_in(self) -> Session:
        """The session of somebody who has one."""
        assert self.session is not None
        return self.session

    @property
    def author(self) -> Author:
        """Who makes changes, for the audit log."""
        return self.signed_in.author(source_of(self.request))

    @property
    def is_secure(self) -> bool:
        """Whether it came over TLS."""
        return self.request.url.scheme == "https"

    @property
    def origin(self) -> str:
        """By which address the browser knows this edge."""
        return f"{self.request.url.scheme}://{self.request.headers.get('host', '')}"

    def field(self, name: str) -> str:
        """A field of the form; "" if it is not there or there twice."""
        values = self.form.get(name, ())
        return values[0].strip() if len(values) == 1 else ""

    def query(self, name: str) -> str:
        """A parameter of the query; likewise."""
        values = self.request.query_params.getlist(name)
        return values[0] if len(values) == 1 else ""

    def may(self, scope: str) -> bool:
        """Whether the session may do what `scope` is for."""
        return self.session is not None and scope in self.session.token.scopes

    def require(self, scope: str) -> None:
        """Raise Refusal unless it may."""
        if not self.may(scope):
            raise Refusal(
                403,
                f"you signed in with an API token without the scope {scope!r}: ask whoever runs "
                "the edge for a sign-in link (underpass edge sign-in)",
            )

    async def do(
        self, method: str, path: str, *, query: Any = None, body: Any = None, **parts: str
    ) -> Any:
        """Have the API's endpoint do it, as the session. `query` and `body` are of its types.

        Raises:
            Refusal: the session may not, or it cannot be done.
        """
        endpoint = _ENDPOINTS[method, path]
        session = self.signed_in
        check_scope(endpoint, session.token)
        call = Call(
            self.dashboard.control, session.token, session.account, self.author, parts, query, body
        )
        return await perform(endpoint, call)

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """A page made of a template."""
        text = self.dashboard.templates.get_template(template).render(
            visit=self,
            session=self.session,
            parts=self.dashboard.parts,
            path=self.request.url.path,
            now=datetime.now(timezone.utc),
            **context,
        )
        return Response(
            text, status, {**SECURITY_HEADERS, "content-type": "text/html; charset=utf-8"}
        )

    def redirect(self, path: str) -> Response:
        """To another page of ours, by GET."""
        return RedirectResponse(path, 303, SECURITY_HEADERS)

    def to_sign_in(self) -> Response:
        """Whoever has to sign in first comes back here."""
        url = self.request.url
        target = url.path + (f"?{url.query}" if url.query else "")
        location = SIGN_IN
        if self.request.method == "GET" and len(target) <= MAX_NEXT:
            location = f"{SIGN_IN}?next={quote(target, safe='/')}"
        if self.request.headers.get("hx-request"):
            # A live part of a page: the browser has to leave the whole of it.
            return Response("", 401, {**SECURITY_HEADERS, "hx-redirect": SIGN_IN})
        return self.redirect(location)

    def open_session(self, response: Response, secret: str) -> None:
        """Have the browser keep a session, in the place of one it had."""
        self.dashboard.sessions.close(self.secret)
        response.set_cookie(
            self._cookie, secret, path="/", secure=self.is_secure, httponly=True, samesite="strict"
        )

    def close_session(self, response: Response) -> None:
        """End it, and have the browser forget it."""
        self.dashboard.sessions.close(self.secret)
        response.delete_cookie(
            self._cookie, path="/", secure=self.is_secure, httponly=True, samesite="strict"
        )

    @property
    def _cookie(self) -> str:
        return _SECURE_COOKIE if self.is_secure else _COOKIE

    def _check_origin(self) -> None:
        """A form of another site is none of ours, whatever cookies come with it."""
        headers = self.request.headers
        site = headers.get("sec-fetch-site")
        if site is not None:
            is_ours = site == "same-origin"
        else:
            # Browsers leave that out where there is no TLS; this they do not.
            is_ours = urlsplit_netloc(headers.get("origin", "")) == headers.get("host", "").lower()
        if not is_ours:
            raise Refusal(403, "forms are taken from this edge's own pages only")


def urlsplit_netloc(origin: str) -> str | None:
    """Host and port of an origin, None if it is none."""
    try:
        url = urlsplit(origin)
    except ValueError:
        return None
    return url.netloc.lower() if url.scheme in ("http", "https") and url.netloc else None


def own_path(text: str) -> str:
    """`text`, if it is a page here that one may be led back to after signing in; else the first."""
    is_ours = text.split("?")[0] in (HOME, "/login") or text.startswith(f"{HOME}/")
    if not is_ours or len(text) > MAX_NEXT or not text.isprintable() or "\\" in text:
        return HOME
    return text


def protect(headers: MutableHeaders) -> None:
    """Add what every answer of the dashboard says."""
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)


async def _read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a form. Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM_TYPE:
        raise Refusal(415, f"a form is sent as {_FORM_TYPE}")
    body = await read_body(request, MAX_FORM_BYTES)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_FORM_FIELDS,
        )
    except ValueError:
        raise Refusal(400, "this is no form as a page of this edge sends one") from None
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form
