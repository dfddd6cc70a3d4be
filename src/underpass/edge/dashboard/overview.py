"""What there is to look at: the whole, requests, certificates, the audit log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from underpass.edge.api.endpoint import refusing
from underpass.edge.api.requests import Refusal
from underpass.edge.dashboard.visits import Visit
from underpass.edge.hostname_claims import is_owner
from underpass.edge.hostnames import covers, hostname_of
from underpass.edge.recent import Recent, RequestRecord
from underpass.edge.store import Account
from underpass.wire.causes import CAUSES

__all__ = [
    "recent_of",
    "show_audit",
    "show_certificates",
    "show_overview",
    "show_request",
    "show_requests",
]

SHOWN_AT_ONCE: Final = 100
"""Rows of a page."""

SHOWN_IN_OVERVIEW: Final = 8

_TOTALS: Final = {
    "requests": "underpass_edge_requests_total",
    "under_way": "underpass_edge_active_requests",
    "failures": "underpass_request_failures_total",
    "connections": "underpass_edge_visitor_connections",
    "handshakes": "underpass_edge_tls_handshake_failures_total",
}


async def show_overview(visit: Visit) -> Response:
    """How the account's tunnels are, and what went wrong last."""
    dashboard, account = visit.dashboard, visit.signed_in.account
    registry = dashboard.control.registry
    tunnels = sorted(registry.tunnels_of(account.id), key=lambda tunnel: tunnel.name)
    links = {tunnel.id: registry.links_of(tunnel.id) for tunnel in tunnels}
    connectors = {link.connector_id for several in links.values() for link in several}
    recent = await recent_of(visit)
    return visit.page(
        "overview.html",
        tunnels=tunnels,
        down=[tunnel for tunnel in tunnels if not links[tunnel.id]],
        links=sum(map(len, links.values())),
        connectors=len(connectors),
        hostnames=sum(is_owner(registry, account, route) for route in registry.routes),
        totals=await _totals(visit) if len(registry.accounts) == 1 else None,
        failures=None if recent is None else recent.failures[:SHOWN_IN_OVERVIEW],
        ends=next(iter(sorted(_certificates(visit), key=lambda row: row.ends)), None),
        names={tunnel.id: tunnel.name for tunnel in tunnels},
        causes=CAUSES,
    )


async def show_requests(visit: Visit) -> Response:
    """The last requests to the account's tunnels, or those that failed."""
    only_failed = visit.query("failed") == "1"
    tunnel = visit.query("tunnel")
    recent = await recent_of(visit)
    rows: list[RequestRecord] = []
    if recent is not None:
        rows = recent.failures if only_failed else recent.requests
    if tunnel:
        rows = [row for row in rows if str(row.tunnel_id) == tunnel]
    return visit.page(
        "requests.html",
        rows=rows[:SHOWN_AT_ONCE],
        remembers=recent is not None,
        only_failed=only_failed,
        paused=visit.query("paused") == "1",
        tunnel=tunnel,
        names=_names(visit),
        causes=CAUSES,
    )


async def show_request(visit: Visit) -> Response:
    """One of them."""
    ray = visit.request.path_params["ray"]
    recent = await recent_of(visit)
    rows = () if recent is None else (*recent.failures, *recent.requests)
    row = next((row for row in rows if row.ray == ray), None)
    if row is None:
        raise Refusal(404, "this request is not remembered any more, or was never yours")
    return visit.page("request.html", row=row, names=_names(visit), cause=CAUSES.get(row.cause))


async def show_certificates(visit: Visit) -> Response:
    """Those of the account's hostnames, and when they end."""
    rows = sorted(_certificates(visit), key=lambda row: row.ends)
    return visit.page("certificates.html", rows=rows)


async def show_audit(visit: Visit) -> Response:
    """Who changed what in the account."""
    before = visit.query("before")
    with refusing("read the audit log"):
        records = await visit.dashboard.parts.audit(
            limit=SHOWN_AT_ONCE,
            before=int(before)
            if before.isascii() and before.isdecimal() and len(before) < 16
            else None,
            account_id=visit.signed_in.account.id,
        )
    return visit.page("audit.html", records=records, more=len(records) == SHOWN_AT_ONCE)


async def recent_of(visit: Visit, tunnel_id: UUID | None = None) -> Recent | None:
    """The last requests to the account's tunnels, or to one of them; and those for names in its
    domain that led nowhere. None: they are not remembered."""
    recent = await visit.dashboard.parts.recent()
    if recent is None:
        return None
    account = visit.signed_in.account
    own = {tunnel.id for tunnel in visit.dashboard.control.registry.tunnels_of(account.id)}

    def is_shown(record: RequestRecord) -> bool:
        if tunnel_id is not None:
            return record.tunnel_id == tunnel_id
        if record.tunnel_id is None:
            return _is_in_domain(record.host, account)
        return record.tunnel_id in own

    return Recent(
        [record for record in recent.requests if is_shown(record)],
        [record for record in recent.failures if is_shown(record)],
    )


def _is_in_domain(host: str, account: Account) -> bool:
    name = hostname_of(host)
    return (
        bool(account.domain)
        and name is not None
        and (name == account.domain or covers(f"*.{account.domain}", name))
    )


@dataclass(frozen=True, slots=True)
class _Certificate:
    name: str
    ends: datetime
    hostnames: list[str]


def _certificates(visit: Visit) -> Iterator[_Certificate]:
    """Certificates that are there for hostnames of the account; others are made when needed."""
    registry = visit.dashboard.control.registry
    account = visit.signed_in.account
    hostnames = sorted(
        route.hostname for route in registry.routes if is_owner(registry, account, route)
    )
    for name, ends in visit.dashboard.parts.certificates().items():
        served = [hostname for hostname in hostnames if _serves(name, hostname)]
        if served or name == "ca":
            yield _Certificate(name, ends, served)


def _serves(name: str, hostname: str) -> bool:
    """Whether a certificate for `name` is one for `hostname`: a wildcard is for one label."""
    if name == hostname:
        return True
    return name.startswith("*.") and hostname.partition(".")[2] == name[2:]


async def _totals(visit: Visit) -> dict[str, Any]:
    """What the whole edge has carried: for whoever has all of it."""
    figures = await visit.dashboard.parts.figures()
    return {name: _sum(figures.get(family, 0)) for name, family in _TOTALS.items()}


def _sum(value: Any) -> int:
    values: Iterable[Any] = value.values() if isinstance(value, dict) else (value,)
    return int(sum(values))


def _names(visit: Visit) -> dict[UUID, str]:
    registry = visit.dashboard.control.registry
    return {tunnel.id: tunnel.name for tunnel in registry.tunnels_of(visit.signed_in.account.id)}
