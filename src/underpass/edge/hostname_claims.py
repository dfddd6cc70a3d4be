"""Which hostnames an account may lead to its tunnels."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import UUID

from underpass.edge.errors import HostnameError, HostnameTaken
from underpass.edge.hostnames import covers, idna_hostname
from underpass.edge.registry import Registry
from underpass.edge.router import MANAGEMENT_HOSTS
from underpass.edge.store import Account, ApiToken, Route

__all__ = ["MAX_HOSTNAMES", "check_claim", "check_confinement", "full_hostname", "is_owner"]

MAX_HOSTNAMES: Final = 50_000
"""Hostnames of all accounts together."""

_RESERVED: Final = (*sorted(MANAGEMENT_HOSTS), "*.cftunnel.com")
"""Names by which connectors know edges."""


def full_hostname(hostname: str, account: Account) -> str:
    """`hostname` normalized; below the account's domain if it is a single word.

    Raises:
        HostnameError: it is not one that can be served.
    """
    name = idna_hostname(hostname, wildcard=True)
    if account.domain and "." not in name and name != account.domain:
        name = idna_hostname(f"{name}.{account.domain}")
    return name


def is_owner(registry: Registry, account: Account, route: Route) -> bool:
    """Whether a hostname is an account's: its tunnels are."""
    tunnel = registry.tunnel(route.tunnel_id)
    return tunnel is not None and tunnel.account_tag == account.id


def check_confinement(token: ApiToken, hostname: str) -> None:
    """Raise HostnameError unless a token is for `hostname`."""
    if token.hostnames and not any(covers(allowed, hostname) for allowed in token.hostnames):
        raise HostnameError(
            f"this API token is confined to {', '.join(token.hostnames[:5])}, and may not bind "
            f"{hostname}"
        )


def check_claim(
    registry: Registry,
    account: Account,
    token: ApiToken,
    hostname: str,
    tunnels: Collection[UUID],
    *,
    overwrite: bool,
    quick_domain: str,
    management_hostname: str,
    dashboard_hostname: str = "",
) -> Route | None:
    """Whether `hostname` (normalized, or `*.suffix`) may be led to the account's `tunnels`; the
    route that there is already, if any. Quick tunnels have their names below `quick_domain`, and
    the edge itself answers for `management_hostname` and `dashboard_hostname`.

    Raises:
        HostnameError: this account, or this token, may not have it.
        HostnameTaken: it leads elsewhere, to a tunnel that is none of those, and may not be
            overwritten.
    """
    reserved_here = (*_RESERVED, f"management.{quick_domain}")
    if any(covers(reserved, hostname) for reserved in reserved_here):
        raise HostnameError(f"{hostname} is reserved")
    if hostname == management_hostname:
        raise HostnameError(
            f"{hostname} is reserved: this edge answers for it itself (--management-hostname)"
        )
    if hostname == dashboard_hostname:
        raise HostnameError(f"{hostname} is reserved: it is this edge's own dashboard")
    if hostname.startswith("*.") and covers(hostname, f"quick.{quick_domain}"):
        # It would get the visitors of quick tunnels that are no more.
        raise HostnameError(f"{hostname} takes in {quick_domain}, where quick tunnels have names")
    check_confinement(token, hostname)
    _check_domain(registry, account, hostname)
    route = registry.route(hostname)
    if route is None:
        if len(registry.routes) >= MAX_HOSTNAMES:
            raise HostnameError(f"this edge has {MAX_HOSTNAMES} hostnames, as many as it may")
        _check_wildcards(registry, account, hostname)
    else:
        if not is_owner(registry, account, route):
            raise HostnameTaken(f"{hostname} belongs to another account")
        if not overwrite:
            _check_elsewhere(registry, route, tunnels)
    return route


def _check_elsewhere(registry: Registry, route: Route, tunnels: Collection[UUID]) -> None:
    found = (registry.tunnel(target.tunnel_id) for target in route.targets)
    others = [tunnel for tunnel in found if tunnel is not None and tunnel.id not in tunnels]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise HostnameTaken(
            f"{route.hostname} leads to tunnel {others[0].name} ({others[0].id}){more}: overwrite "
            "it, or delete that route first"
        )


def _check_domain(registry: Registry, account: Account, hostname: str) -> None:
    if account.domain:
        if hostname != account.domain and not covers(f"*.{account.domain}", hostname):
            raise HostnameError(
                f"{hostname} is not in {account.domain}, the domain of this account"
            )
        return
    for other in registry.accounts.values():
        domain = other.domain
        # Either it lies in the other's domain, or it is a wildcard that takes in that domain.
        if domain and (
            hostname.removeprefix("*.") == domain
            or covers(f"*.{domain}", hostname)
            or covers(hostname, domain)
        ):
            raise HostnameError(f"{hostname} is in the domain of another account")


def _check_wildcards(registry: Registry, account: Account, hostname: str) -> None:
    """A name that is served by another account's wildcard is not free."""
    _, dot, suffix = hostname.removeprefix("*.").partition(".")
    while dot:
        route = registry.route(f"*.{suffix}")
        if route is not None and not is_owner(registry, account, route):
            raise HostnameTaken(f"{hostname} belongs to another account, by *.{suffix}")
        _, dot, suffix = suffix.partition(".")
