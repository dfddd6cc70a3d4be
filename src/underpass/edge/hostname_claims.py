"""Which hostnames an account may lead to its tunnels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from underpass.edge.errors import HostnameError, HostnameTaken
from underpass.edge.hostnames import covers, idna_hostname
from underpass.edge.registry import Registry
from underpass.edge.router import MANAGEMENT_HOSTS
from underpass.edge.store import Account, ApiToken, Route, Tunnel

__all__ = ["MAX_HOSTNAMES", "check_claim", "full_hostname"]

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


def check_claim(
    registry: Registry,
    account: Account,
    token: ApiToken,
    hostname: str,
    tunnel: Tunnel,
    *,
    overwrite: bool,
    quick_domain: str,
    reserved: Sequence[str] = (),
) -> Route | None:
    """Whether `hostname` (normalized, or `*.suffix`) may be led to the account's `tunnel`; the
    route that there is already, if any. Quick tunnels have their names below `quick_domain`; for
    the `reserved` ones the edge itself answers.

    Raises:
        HostnameError: this account, or this token, may not have it.
        HostnameTaken: it leads elsewhere.
    """
    reserved_here = (*_RESERVED, f"management.{quick_domain}", *reserved)
    if any(covers(name, hostname) for name in reserved_here):
        raise HostnameError(f"{hostname} is reserved")
    if hostname.startswith("*.") and covers(hostname, f"quick.{quick_domain}"):
        # It would get the visitors of quick tunnels that are no more.
        raise HostnameError(f"{hostname} takes in {quick_domain}, where quick tunnels have names")
    if token.hostnames and not any(covers(allowed, hostname) for allowed in token.hostnames):
        raise HostnameError(
            f"this API token is confined to {', '.join(token.hostnames[:5])}, and may not bind "
            f"{hostname}"
        )
    _check_domain(registry, account, hostname)
    route = registry.route(hostname)
    if route is None:
        if len(registry.routes) >= MAX_HOSTNAMES:
            raise HostnameError(f"this edge has {MAX_HOSTNAMES} hostnames, as many as it may")
        _check_wildcards(registry, account, hostname)
    elif route.tunnel_id != tunnel.id:
        owner = registry.tunnel(route.tunnel_id)
        if owner is None or owner.account_tag != account.id:
            raise HostnameTaken(f"{hostname} belongs to another account")
        if not overwrite:
            raise HostnameTaken(
                f"{hostname} leads to tunnel {owner.name} ({owner.id}): overwrite it, or delete "
                "that route first"
            )
    return route


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
        if route is not None:
            owner = registry.tunnel(route.tunnel_id)
            if owner is None or owner.account_tag != account.id:
                raise HostnameTaken(f"{hostname} belongs to another account, by *.{suffix}")
        _, dot, suffix = suffix.partition(".")
