"""Logging a command line in: the page that confirms it, and where it gets its cert.pem."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from underpass.edge.accounts import DEFAULT_SCOPES
from underpass.edge.api.endpoint import refusing
from underpass.edge.api.requests import Refusal
from underpass.edge.dashboard.tokens import certificate_for, make_token, may_grant
from underpass.edge.dashboard.transfers import (
    WAITING_SECONDS,
    TransferRefused,
)
from underpass.edge.dashboard.visits import SECURITY_HEADERS, Dashboard, Visit
from underpass.edge.registry import Author
from underpass.wire.login_transfer import TRANSFER_PATH, confirmation_code, is_login_key

__all__ = ["confirm_login", "hand_over", "show_login"]

MAX_CALLBACK: Final = 512
"""Characters; one has a hostname and a key."""


async def show_login(visit: Visit) -> Response:
    """Ask whoever is signed in whether a command line may have a token of the account."""
    key = _key(visit, visit.query("callback"))
    return visit.page(
        "login.html",
        callback=visit.query("callback"),
        code=confirmation_code(key),
        scopes=[scope for scope in DEFAULT_SCOPES if may_grant(visit, scope)],
        may=visit.may("tokens"),
    )


async def confirm_login(visit: Visit) -> Response:
    """Make the token, and put it where the command line asks for it."""
    key = _key(visit, visit.field("callback"))
    transfers = visit.dashboard.parts.transfers
    try:
        transfers.check(key)
        if "tokens" in visit.form.get("scope", ()):
            raise Refusal(403, "what a login brings makes no tokens")
        code = confirmation_code(key)
        token, text = await make_token(
            visit,
            visit.field("name") or f"login {code}",
            visit.form.get("scope", ()),
            visit.field("hostnames"),
        )

        async def take_back() -> None:
            with refusing("revoke the API token of a login that nobody fetched"):
                await visit.dashboard.control.accounts.revoke_token(token.id, Author("edge"))

        try:
            transfers.deposit(key, certificate_for(visit, text), take_back)
        except TransferRefused:
            await take_back()
            raise
    except TransferRefused as error:
        raise Refusal(409, str(error)) from None
    return visit.page("login_done.html", token=token, code=code, minutes=int(WAITING_SECONDS // 60))


async def hand_over(dashboard: Dashboard, request: Request) -> Response:
    """The certificate, to whoever knows the key; an answer without content says: not yet."""
    key = request.path_params["key"]
    if not is_login_key(key):
        return PlainTextResponse("this is no login\n", 404, SECURITY_HEADERS)
    certificate = await dashboard.parts.transfers.fetch(key)
    if certificate is None:
        return Response(b"", 202, SECURITY_HEADERS)
    return Response(
        certificate, 200, {**SECURITY_HEADERS, "content-type": "application/x-pem-file"}
    )


def _key(visit: Visit, callback: str) -> str:
    """The key of the command line that waits. Nothing is ever sent to where `callback` leads, and
    nobody is: it has to be here.

    Raises:
        Refusal: it is not.
    """
    try:
        url = urlsplit(callback) if len(callback) <= MAX_CALLBACK else None
    except ValueError:
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.path.startswith(TRANSFER_PATH):
        raise Refusal(
            400,
            "this page is opened by `underpass tunnel login`, which says where it waits; to get a "
            "cert.pem by hand, make a token",
        )
    if url.netloc.lower() != visit.request.headers.get("host", "").lower():
        raise Refusal(
            400, f"the command line waits at {url.netloc}, which is not the edge you are asking"
        )
    key = url.path.removeprefix(TRANSFER_PATH)
    if url.query or url.fragment or not is_login_key(key):
        raise Refusal(400, "the address at which the command line waits is malformed")
    return key
