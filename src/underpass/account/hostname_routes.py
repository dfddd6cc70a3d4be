"""Hostnames that lead to a tunnel: which are acceptable, and what became of a route
(docs: API §4)."""

from __future__ import annotations

import re
import uuid
from typing import Final

from underpass.account.client import AccountClient
from underpass.account.errors import AccountError
from underpass.wire.printable import printable

__all__ = ["check_hostname", "check_pool", "lead_by_load_balancer", "lead_hostname"]

_HOSTNAME: Final = re.compile(r"[*_a-zA-Z0-9][-_.a-zA-Z0-9]*")
_POOL: Final = re.compile(r"[_a-zA-Z0-9][-_.a-zA-Z0-9]*")
_MAX_NAME: Final = 253
_MAX_LABEL: Final = 63

_DNS: Final = {
    "new": "Added CNAME {name} which will route to this tunnel",
    "updated": "{name} updated to route to your tunnel",
    "unchanged": "{name} is already configured to route to your tunnel",
}
# By what became of the load balancer and of the pool.
_LOAD_BALANCER: Final = {
    ("new", "new"): (
        "Created load balancer {lb} and added a new pool {pool} with this tunnel as an origin"
    ),
    ("new", "updated"): (
        "Created load balancer {lb} with an existing pool {pool} which was updated to use this "
        "tunnel as an origin"
    ),
    ("new", "unchanged"): (
        "Created load balancer {lb} with an existing pool {pool} which already has this tunnel as "
        "an origin"
    ),
    ("updated", "new"): (
        "Added new pool {pool} with this tunnel as an origin to load balancer {lb}"
    ),
    ("updated", "updated"): (
        "Updated pool {pool} to use this tunnel as an origin and added it to load balancer {lb}"
    ),
    ("updated", "unchanged"): (
        "Added pool {pool}, which already has this tunnel as an origin, to load balancer {lb}"
    ),
    ("unchanged", "updated"): (
        "Added this tunnel as an origin in pool {pool} which is already used by load balancer {lb}"
    ),
    ("unchanged", "unchanged"): (
        "Load balancer {lb} already uses pool {pool} which has this tunnel as an origin"
    ),
}


def lead_hostname(
    client: AccountClient, tunnel_id: uuid.UUID, hostname: str, *, overwrite: bool
) -> str:
    """Make a DNS route; what became of it, in a sentence. Raises AccountError."""
    check_hostname(hostname)
    route = client.route_dns(tunnel_id, hostname, overwrite=overwrite)
    sentence = _DNS.get(route.cname, "{name} was routed to this tunnel")
    return sentence.format(name=printable(route.name) or hostname)


def lead_by_load_balancer(
    client: AccountClient, tunnel_id: uuid.UUID, hostname: str, pool: str
) -> str:
    """Make a load balancer's route; what became of it, in a sentence. Raises AccountError."""
    check_hostname(hostname)
    check_pool(pool)
    route = client.route_load_balancer(tunnel_id, hostname, pool)
    sentence = _LOAD_BALANCER.get((route.load_balancer, route.pool))
    if sentence is None:
        raise AccountError(
            f"something went wrong with load balancer {hostname} and pool {pool}: the API says "
            f"{printable(route.load_balancer)!r} and {printable(route.pool)!r}; check them in the "
            "dashboard"
        )
    return sentence.format(lb=hostname, pool=pool)


def check_hostname(hostname: str) -> None:
    """Refuse what cannot be a hostname, or a wildcard of one. Raises AccountError."""
    labels = hostname.removesuffix(".").split(".")
    encoded = [_encode(label) for label in labels]
    name = ".".join(encoded)
    if (
        not all(encoded)
        or len(name) > _MAX_NAME
        or _HOSTNAME.fullmatch(name) is None
        or any(_is_bad(label) for label in encoded)
    ):
        raise AccountError(f"{hostname!r} is not a valid hostname")


def check_pool(pool: str) -> None:
    """Refuse what cannot be the name of a pool. Raises AccountError."""
    if _POOL.fullmatch(pool) is None:
        raise AccountError(f"{pool!r} is not a valid pool name")


def _encode(label: str) -> str:
    """The label as DNS has it, or "" if there is no such thing."""
    if label.isascii():
        return label
    try:
        return label.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def _is_bad(label: str) -> bool:
    return (
        len(label) > _MAX_LABEL
        or label.startswith("-")
        or label.endswith("-")
        or (label[2:4] == "--" and not label.lower().startswith("xn--"))
    )
