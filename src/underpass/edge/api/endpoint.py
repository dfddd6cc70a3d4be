"""An endpoint of the API: one table row, from which come its route, its checks and its page in the
OpenAPI document."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from underpass.edge.api import requests
from underpass.edge.api.authorization import Guesses, bearer, source_of
from underpass.edge.api.control import Control
from underpass.edge.api.envelope import ResultInfo, failure, success
from underpass.edge.api.requests import Refusal
from underpass.edge.errors import (
    AccountError,
    CertificateError,
    DataDirectoryError,
    HostnameError,
    HostnameTaken,
    NetworkError,
    NetworkInUse,
)
from underpass.edge.registry import Author
from underpass.edge.store import Account, ApiToken, Conflict, Missing, NameTaken, StoreError, Tunnel

__all__ = [
    "MAX_PER_PAGE",
    "Call",
    "Endpoint",
    "Page",
    "Paging",
    "answer",
    "check_scope",
    "perform",
    "refused",
    "refusing",
    "unavailable",
]

log = logging.getLogger("underpass.edge.api")

MAX_PER_PAGE: Final = 1000
"""Rows of a list in one answer; who asks for more is told how many it got."""

DEFAULT_PER_PAGE: Final = 100

_MAX_NUMBER: Final = 1_000_000

_HOSTNAME_EXISTS: Final = 1003
"""Cloudflare's code for it."""

_UNAVAILABLE: Final = "this edge cannot make changes now; try again later"


class Paging(Struct, kw_only=True):
    """Query parameters of every list."""

    page: Annotated[int, Meta(ge=1, le=_MAX_NUMBER)] = 1
    per_page: Annotated[int, Meta(ge=1, le=_MAX_NUMBER)] = DEFAULT_PER_PAGE


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list."""

    rows: list[Any]
    info: ResultInfo


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    control: Control
    token: ApiToken
    account: Account
    author: Author
    path: dict[str, str]
    query: Any
    body: Any

    def uuid(self, name: str) -> UUID:
        """A part of the path. Raises Refusal."""
        return requests.parse_uuid(self.path[name], name)

    def tunnel(self) -> Tunnel:
        """The account's tunnel that the path names. Raises Refusal."""
        tunnel_id = self.uuid("tunnel_id")
        tunnel = self.control.registry.tunnel(tunnel_id)
        if tunnel is None or tunnel.account_tag != self.account.id:
            raise Refusal(404, f"there is no tunnel {tunnel_id}")
        return tunnel

    def page(self, rows: Sequence[Any], convert: Callable[[Any], Any]) -> Page:
        """The rows that were asked for."""
        paging: Paging = self.query
        per_page = min(paging.per_page, MAX_PER_PAGE)
        first = (paging.page - 1) * per_page
        shown = [convert(row) for row in rows[first : first + per_page]]
        return Page(shown, ResultInfo(len(shown), paging.page, per_page, len(rows)))

    async def record(self, action: str, target: object, detail: str = "") -> None:
        """Write into the audit log what changes nothing in the store. Raises StoreError."""
        entry = self.author.did(action, target, self.account.id, detail)
        await self.control.registry.commit((), entry)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What can be asked. `path` has either {account_id} or {zone_id}, which the token has to be of.

    `scope` is one of accounts.SCOPES; `result` the type that a successful answer has.
    """

    method: str
    path: str
    scope: str
    summary: str
    handle: Callable[[Call], Awaitable[Any]]
    result: Any
    query: type[Struct] | None = None
    body: type[Struct] | Any = None
    max_body: int = requests.MAX_BODY_BYTES


async def answer(
    endpoint: Endpoint, control: Control, guesses: Guesses, request: Request
) -> Response:
    """Check a request, do it, and say what came of it."""
    try:
        call = await _checked(endpoint, control, guesses, request)
        result = await perform(endpoint, call)
    except Refusal as refusal:
        return refused(refusal)
    if isinstance(result, Page):
        return success(result.rows, result.info)
    return success(result)


async def perform(endpoint: Endpoint, call: Call) -> Any:
    """Do what was asked; the result. Raises Refusal for whatever keeps it from being done."""
    with refusing(endpoint.summary):
        return await endpoint.handle(call)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """What keeps `what` from being done is a Refusal, with its status and words."""
    try:
        yield
    except (HostnameError, AccountError, NetworkError) as error:
        raise Refusal(400, str(error)) from None
    except HostnameTaken as error:
        raise Refusal(409, str(error), code=_HOSTNAME_EXISTS) from None
    except (NameTaken, NetworkInUse) as error:
        raise Refusal(409, str(error)) from None
    except Missing as error:
        raise Refusal(404, str(error)) from None
    except Conflict:
        raise Refusal(
            409, "somebody else has changed this meanwhile; look, and try again"
        ) from None
    except (StoreError, CertificateError, DataDirectoryError) as error:
        # The text names paths of this machine: for the log alone.
        log.error("cannot %s: %s", what, error)
        raise Refusal(503, _UNAVAILABLE) from None


def check_scope(endpoint: Endpoint, token: ApiToken) -> None:
    """Raise Refusal unless the token allows it."""
    if endpoint.scope != "read" and endpoint.scope not in token.scopes:
        raise Refusal(403, f"this API token does not have the scope {endpoint.scope!r}")


def refused(refusal: Refusal) -> Response:
    """The answer to a request that was refused."""
    return failure(refusal.status, refusal.message, code=refusal.code, headers=refusal.headers)


def unavailable(what: str, error: Exception) -> Response:
    """The answer when the store fails. The text names paths of this machine: for the log alone."""
    log.error("cannot %s: %s", what, error)
    return failure(503, _UNAVAILABLE)


async def _checked(
    endpoint: Endpoint, control: Control, guesses: Guesses, request: Request
) -> Call:
    token = await bearer(request, control, guesses)
    account = control.registry.accounts.get(token.account_id)
    path = {name: str(value) for name, value in request.path_params.items()}
    if account is None or not _is_for(account, path):
        raise Refusal(403, "this API token is not of this account, or not of this zone")
    check_scope(endpoint, token)
    query = None
    if endpoint.query is not None:
        query = requests.decode_query(request.query_params, endpoint.query)
    content = await requests.read_body(request, endpoint.max_body)
    body = None
    if endpoint.body is not None:
        body = requests.decode_body(content, endpoint.body)
    author = Author(f"token {token.id}", source_of(request))
    return Call(control, token, account, author, path, query, body)


def _is_for(account: Account, path: dict[str, str]) -> bool:
    if "zone_id" in path:
        return path["zone_id"] == account.zone_id
    return path["account_id"] == account.id
