"""Virtual networks, and which private networks are reached through which tunnel."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Final
from uuid import UUID, uuid4

from underpass.edge.accounts import check_name
from underpass.edge.errors import NetworkError, NetworkInUse
from underpass.edge.registry import Author, Registry
from underpass.edge.store import NetworkRoute, Tunnel, VirtualNetwork

__all__ = [
    "MAX_COMMENT",
    "MAX_NETWORK_ROUTES",
    "MAX_VIRTUAL_NETWORKS",
    "IPAddress",
    "IPNetwork",
    "Networks",
    "parse_address",
    "parse_network",
]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_VIRTUAL_NETWORKS: Final = 1_000
"""Of one account: they are listed in one piece."""

MAX_NETWORK_ROUTES: Final = 1_000
"""Of one account; each look-up goes through them."""

MAX_COMMENT: Final = 256
_MAX_NETWORK_TEXT: Final = 49
"""Characters of the longest IPv6 network."""


def parse_network(text: str) -> IPNetwork:
    """The network in CIDR notation, host bits cleared. Raises NetworkError."""
    shown = repr(text[:_MAX_NETWORK_TEXT])
    if len(text) > _MAX_NETWORK_TEXT or "/" not in text or "%" in text or not text.isascii():
        raise NetworkError(f"{shown} is no network: write ADDRESS/BITS")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise NetworkError(f"{shown} is no network: {error}") from error
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
        raise NetworkError(f"{shown}: write IPv4 networks as such")
    return network


def parse_address(text: str) -> IPAddress:
    """An IP address. Raises NetworkError."""
    shown = repr(text[:_MAX_NETWORK_TEXT])
    if len(text) > _MAX_NETWORK_TEXT or "%" in text or not text.isascii():
        raise NetworkError(f"{shown} is no IP address")
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise NetworkError(f"{shown} is no IP address") from error
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


class Networks:
    """The virtual networks and network routes of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def networks_of(self, account_id: str) -> Iterator[VirtualNetwork]:
        """The account's virtual networks."""
        return (
            network
            for network in self._registry.virtual_networks.values()
            if network.account_id == account_id
        )

    def routes_of(self, account_id: str) -> Iterator[NetworkRoute]:
        """The account's routes."""
        return (
            route
            for route in self._registry.network_routes.values()
            if route.account_id == account_id
        )

    def default_of(self, account_id: str) -> VirtualNetwork | None:
        """The account's default network."""
        return next(
            (network for network in self.networks_of(account_id) if network.is_default), None
        )

    def find(self, account_id: str, address: IPAddress, network_id: UUID) -> NetworkRoute | None:
        """The route that `address` takes in a virtual network: the longest match."""
        best: tuple[int, NetworkRoute] | None = None
        for route in self.routes_of(account_id):
            if route.virtual_network_id == network_id:
                network = ipaddress.ip_network(route.network)
                if address in network and (best is None or network.prefixlen > best[0]):
                    best = network.prefixlen, route
        return None if best is None else best[1]

    async def create(
        self, account_id: str, name: str, comment: str, is_default: bool, by: Author
    ) -> VirtualNetwork:
        """A new virtual network; as the default it takes the place of the one there is.

        Raises:
            NetworkError, AccountError: it cannot be.
            StoreError: as `Store.commit`.
        """
        check_name(name, "the virtual network's name")
        existing = list(self.networks_of(account_id))
        if len(existing) >= MAX_VIRTUAL_NETWORKS:
            raise NetworkError(f"an account has at most {MAX_VIRTUAL_NETWORKS} virtual networks")
        # The first one has to be the default.
        is_default = is_default or not existing
        made = VirtualNetwork(uuid4(), account_id, name, comment, is_default, _now())
        demoted = self._demoted(account_id) if is_default else ()
        entry = by.did("virtual_network.create", made.id, account_id, name)
        await self._registry.commit((*demoted, made), entry)
        return made

    async def change(
        self,
        network: VirtualNetwork,
        by: Author,
        *,
        name: str | None = None,
        comment: str | None = None,
        is_default: bool | None = None,
    ) -> VirtualNetwork:
        """Change what is given.

        Raises:
            NetworkError: the default cannot be given up, only handed to another.
            AccountError, StoreError: as `create`.
        """
        if name is not None:
            check_name(name, "the virtual network's name")
            network = replace(network, name=name)
        if comment is not None:
            network = replace(network, comment=comment)
        demoted: tuple[VirtualNetwork, ...] = ()
        if is_default is False and network.is_default:
            raise NetworkError("make another virtual network the default; there has to be one")
        if is_default and not network.is_default:
            demoted = self._demoted(network.account_id)
            network = replace(network, is_default=True)
        entry = by.did("virtual_network.change", network.id, network.account_id, network.name)
        await self._registry.commit((*demoted, network), entry)
        return network

    async def delete(self, network: VirtualNetwork, force: bool, by: Author) -> VirtualNetwork:
        """Delete a virtual network, with `force` also one that has routes, and those with it.

        Raises:
            NetworkInUse: it is the default, or has routes.
            StoreError: as `Store.commit`.
        """
        if network.is_default:
            raise NetworkInUse("this is the default virtual network: make another one the default")
        count = sum(
            route.virtual_network_id == network.id for route in self.routes_of(network.account_id)
        )
        if count and not force:
            raise NetworkInUse(f"the virtual network has {count} routes: delete them, or force it")
        deleted = replace(network, deleted_at=_now())
        entry = by.did("virtual_network.delete", network.id, network.account_id, network.name)
        await self._registry.commit((deleted,), entry)
        return deleted

    async def add_route(
        self,
        tunnel: Tunnel,
        network: IPNetwork,
        virtual_network: VirtualNetwork,
        comment: str,
        by: Author,
    ) -> NetworkRoute:
        """Lead a network to a tunnel of the same account.

        Raises:
            NetworkError: it cannot be.
            NameTaken: the virtual network has a route for the very network.
            StoreError: as `Store.commit`.
        """
        account_id = tunnel.account_tag
        routes = list(self.routes_of(account_id))
        if len(routes) >= MAX_NETWORK_ROUTES:
            raise NetworkError(f"an account has at most {MAX_NETWORK_ROUTES} network routes")
        route = NetworkRoute(
            uuid4(), account_id, virtual_network.id, str(network), tunnel.id, comment, _now()
        )
        entry = by.did("network.put", network, account_id, f"to tunnel {tunnel.id}")
        await self._registry.commit((route,), entry)
        return route

    async def delete_route(self, route: NetworkRoute, by: Author) -> NetworkRoute:
        """Lead a network nowhere any more.

        Raises:
            StoreError: as `Store.commit`.
        """
        deleted = replace(route, deleted_at=_now())
        entry = by.did("network.delete", route.network, route.account_id)
        await self._registry.commit((deleted,), entry)
        return deleted

    def _demoted(self, account_id: str) -> tuple[VirtualNetwork, ...]:
        default = self.default_of(account_id)
        return () if default is None else (replace(default, is_default=False),)


def _now() -> datetime:
    return datetime.now(timezone.utc)
