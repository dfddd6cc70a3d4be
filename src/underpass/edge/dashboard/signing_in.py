"""Signing in, by an API token or by a link, and out again."""

from __future__ import annotations

from starlette.responses import Response

from underpass.edge.api.authorization import authenticated, check_guesses, source_of
from underpass.edge.api.endpoint import refusing
from underpass.edge.api.requests import Refusal
from underpass.edge.dashboard.visits import SIGN_IN, Visit, own_path
from underpass.edge.registry import Author
from underpass.edge.store import Account, ApiToken

__all__ = ["show_sign_in", "sign_in", "sign_out"]


async def show_sign_in(visit: Visit) -> Response:
    """The form; with a link, a button: what only fetches addresses must not use the link up."""
    secret = visit.query("link")
    if not secret:
        return _form(visit)
    link = visit.dashboard.links.find(secret)
    account = (
        None if link is None else visit.dashboard.control.registry.accounts.get(link.account_id)
    )
    if account is None:
        check_guesses(source_of(visit.request), visit.dashboard.guesses)
        return _form(visit, 403, "This link was used already, or has expired: make a new one.")
    return visit.page("sign_in_link.html", account=account, secret=secret)


async def sign_in(visit: Visit) -> Response:
    """Open a session for whoever shows a token or a link that is good."""
    dashboard = visit.dashboard
    source = source_of(visit.request)
    secret = visit.field("link")
    token: ApiToken | None = None
    try:
        if secret:
            link = dashboard.links.use(secret)
            account = (
                None if link is None else dashboard.control.registry.accounts.get(link.account_id)
            )
            if account is None:
                check_guesses(source, dashboard.guesses)
                raise Refusal(403, "this link was used already, or has expired: make a new one")
        else:
            with refusing("sign somebody in"):
                token = await authenticated(
                    visit.field("token"), source, dashboard.control, dashboard.guesses
                )
            account = dashboard.control.registry.accounts.get(token.account_id)
            if account is None:
                raise Refusal(401, "the account of this API token is gone")
    except Refusal as refusal:
        return _form(visit, refusal.status, _sentence(refusal.message), refusal.headers)
    return await _open(visit, account, token)


async def _open(visit: Visit, account: Account, token: ApiToken | None) -> Response:
    dashboard = visit.dashboard
    with refusing("open a session"):
        secret = dashboard.sessions.open(account, token)
        session = dashboard.sessions.find(secret)
        assert session is not None
        author = session.author(source_of(visit.request))
        await dashboard.control.registry.commit(
            (), author.did("session.open", session.id, account.id)
        )
    response = visit.redirect(own_path(visit.field("next")))
    visit.open_session(response, secret)
    return response


async def sign_out(visit: Visit) -> Response:
    """End the session."""
    session = visit.signed_in
    response = visit.redirect(SIGN_IN)
    visit.close_session(response)
    author: Author = visit.author
    with refusing("write down that a session has ended"):
        await visit.dashboard.control.registry.commit(
            (), author.did("session.close", session.id, session.account.id)
        )
    return response


def _form(
    visit: Visit, status: int = 200, problem: str = "", headers: dict[str, str] | None = None
) -> Response:
    target = own_path(visit.query("next") or visit.field("next"))
    response = visit.page("sign_in.html", status, problem=problem, next=target)
    retry_after = (headers or {}).get("retry-after")
    if retry_after is not None:
        response.headers["retry-after"] = retry_after
    return response


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
