"""From what people call a tunnel or a virtual network to its id: a UUID is one, a name is asked
for."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Protocol

from underpass.account.client import AccountClient
from underpass.account.errors import AccountError
from underpass.account.models import Tunnel

__all__ = ["active_tunnels", "find_tunnel", "find_virtual_network", "parse_id"]


class _Named(Protocol):
    @property
    def id(self) -> uuid.UUID: ...


def parse_id(text: str) -> uuid.UUID | None:
    """The UUID that `text` is, if it is one."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def active_tunnels(client: AccountClient, name: str) -> list[Tunnel]:
    """The tunnels of that name that are not deleted: one at most, if the API is sane."""
    return client.tunnels({"is_deleted": "false", "name": name})


def find_tunnel(client: AccountClient, reference: str) -> uuid.UUID:
    """The tunnel that `reference`, a UUID or a name, means. Raises AccountError."""
    return parse_id(reference) or _only(
        active_tunnels(client, reference), "tunnel", reference, "underpass tunnel list"
    )


def find_virtual_network(client: AccountClient, reference: str) -> uuid.UUID:
    """The virtual network that `reference`, a UUID or a name, means. Raises AccountError."""
    return parse_id(reference) or _only(
        client.virtual_networks({"is_deleted": "false", "name": reference}),
        "virtual network",
        reference,
        "underpass tunnel vnet list",
    )


def _only(found: Sequence[_Named], kind: str, name: str, listing: str) -> uuid.UUID:
    if len(found) == 1:
        return found[0].id
    if not found:
        raise AccountError(f"there is no {kind} named {name!r}; `{listing}` shows those there are")
    raise AccountError(f"there are {len(found)} {kind}s named {name!r}; give the id of one")
