"""Who is believed about where a visitor comes from: load balancers before the public listeners."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from underpass.edge.errors import OptionsError

__all__ = ["NO_HOPS", "TrustedHops"]

MAX_NETWORKS: Final = 256
"""They are gone through for each connection, until one has it."""

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class TrustedHops:
    """Networks whose connections begin with a PROXY header.

    Raises:
        OptionsError: one is no network in CIDR notation, or there are too many.
    """

    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.networks) > MAX_NETWORKS:
            raise OptionsError(f"{len(self.networks)} networks, at most {MAX_NETWORKS} may be")
        for network in self.networks:
            _parse(network)

    def __bool__(self) -> bool:
        return bool(self.networks)

    def trusts(self, address: str) -> bool:
        """Whether an address, as a socket names its peer, is in one of them."""
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped  # on a socket for both families
        return any(peer in network for network in self._parsed)

    @cached_property
    def _parsed(self) -> tuple[_Network, ...]:
        return tuple(map(_parse, self.networks))


def _parse(network: str) -> _Network:
    try:
        return ipaddress.ip_network(network)
    except ValueError as error:
        raise OptionsError(
            f"{network!r} is no network: {error}; write 10.0.0.0/8, or an address"
        ) from None


NO_HOPS: Final = TrustedHops()
