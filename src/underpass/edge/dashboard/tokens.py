"""API tokens in the dashboard: made, replaced and ended by whoever may."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Final

from starlette.responses import Response

from underpass.edge.accounts import DEFAULT_ROTATION_HOURS, DEFAULT_SCOPES, SCOPES
from underpass.edge.api.endpoint import refusing
from underpass.edge.api.requests import Refusal
from underpass.edge.dashboard.visits import HOME, SECURITY_HEADERS, Visit
from underpass.edge.hostnames import covers, normalize_hostname
from underpass.edge.store import ApiToken
from underpass.wire.origin_certificate import encode_origin_certificate

__all__ = [
    "MAX_DAYS",
    "certificate_for",
    "create_token",
    "make_token",
    "revoke_token",
    "rotate_token",
    "show_tokens",
]

MAX_DAYS: Final = 36500
MAX_HOURS: Final = 8760


async def show_tokens(visit: Visit) -> Response:
    """The account's, without their secrets."""
    account = visit.signed_in.account
    tokens = [
        token
        for token in visit.dashboard.control.registry.tokens.values()
        if token.account_id == account.id
    ]
    tokens.sort(key=lambda token: token.created_at, reverse=True)
    scopes = [scope for scope in SCOPES if may_grant(visit, scope)]
    return visit.page(
        "tokens.html", tokens=tokens, scopes=scopes, given=DEFAULT_SCOPES, account=account
    )


async def create_token(visit: Visit) -> Response:
    """Make one and show it, this once, or give it out as a cert.pem."""
    token, text = await make_token(
        visit, visit.field("name"), visit.form.get("scope", ()), visit.field("hostnames")
    )
    if visit.field("as") == "cert":
        return Response(
            certificate_for(visit, text),
            headers={
                **SECURITY_HEADERS,
                "content-type": "application/x-pem-file",
                "content-disposition": 'attachment; filename="cert.pem"',
            },
        )
    return visit.page("secret.html", token=token, text=text, what="made")


async def rotate_token(visit: Visit) -> Response:
    """A new secret; the old one stays good for a while."""
    token = _own_token(visit)
    _check_within(visit, token.scopes, token.hostnames)
    hours = _number(visit.field("hours") or f"{DEFAULT_ROTATION_HOURS:g}", MAX_HOURS, "hours")
    with refusing("rotate an API token"):
        rotated, text = await visit.dashboard.control.accounts.rotate_token(
            token.id, visit.author, hours=hours
        )
    return visit.page("secret.html", token=rotated, text=text, what="rotated")


async def revoke_token(visit: Visit) -> Response:
    """End one."""
    token = _own_token(visit)
    with refusing("revoke an API token"):
        await visit.dashboard.control.accounts.revoke_token(token.id, visit.author)
    return visit.redirect(f"{HOME}/tokens")


async def make_token(
    visit: Visit, name: str, scopes: Sequence[str], hostnames: str
) -> tuple[ApiToken, str]:
    """A token that allows no more than its maker's session, and its text. `hostnames` are words.

    Raises:
        Refusal: the session may not, or it cannot be.
    """
    visit.require("tokens")
    with refusing("make an API token"):
        named = tuple(
            normalize_hostname(hostname, wildcard=True)
            for hostname in hostnames.replace(",", " ").split()
        )
        named = named or visit.signed_in.token.hostnames
        _check_within(visit, scopes, named)
        return await visit.dashboard.control.accounts.create_token(
            visit.signed_in.account,
            name,
            visit.author,
            scopes=scopes,
            hostnames=named,
            expires_at=_end(visit),
        )


def may_grant(visit: Visit, scope: str) -> bool:
    """Whether a token made in this session may have a scope. Who makes tokens is decided on the
    edge's machine: by links that come from there."""
    return visit.may(scope) and (scope != "tokens" or visit.signed_in.by_link)


def _check_within(visit: Visit, scopes: Sequence[str], hostnames: Sequence[str]) -> None:
    """Raise Refusal unless a token with these allows no more than the session."""
    for scope in scopes:
        if scope in SCOPES and not may_grant(visit, scope):
            raise Refusal(403, f"this session may give nobody a token with the scope {scope!r}")
    own = visit.signed_in.token.hostnames
    if own and not hostnames:
        raise Refusal(403, f"this session may give nobody a token that is not for {own[0]}")
    for hostname in hostnames:
        if own and not any(covers(allowed, hostname) for allowed in own):
            raise Refusal(403, f"this session may give nobody a token for {hostname}")


def certificate_for(visit: Visit, text: str) -> bytes:
    """The cert.pem by which command lines use a token."""
    account = visit.signed_in.account
    return encode_origin_certificate(account.zone_id, account.id, text)


def _end(visit: Visit) -> datetime | None:
    """When the new token ends: not after the one that its maker has."""
    own = visit.signed_in.token.expires_at
    days = visit.field("days")
    if not days:
        return own
    end = datetime.now(timezone.utc) + timedelta(days=_number(days, MAX_DAYS, "days"))
    return end if own is None else min(own, end)


def _number(text: str, most: int, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= most:
        raise Refusal(400, f"{what}: give a number above 0, at most {most}")
    return number


def _own_token(visit: Visit) -> ApiToken:
    """The account's that the path names, if the session may end it. Raises Refusal."""
    visit.require("tokens")
    token = visit.dashboard.control.registry.tokens.get(visit.request.path_params["token_id"])
    if token is None or token.account_id != visit.signed_in.account.id:
        raise Refusal(404, "there is no such API token")
    if (
        not visit.signed_in.by_link
        and "tokens" in token.scopes
        and token.id != (visit.signed_in.token.id)
    ):
        raise Refusal(403, "who makes tokens is decided on the edge's machine: sign in by a link")
    return token
