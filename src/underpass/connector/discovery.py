"""Finding the edge by DNS (docs: wire protocol §1.2).

An SRV record set names the regions; every address of the first two targets becomes a slot. When the
system's resolver cannot answer, the question is asked once more over DNS-over-TLS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from underpass.connector.edges import EdgeSlot, Region

__all__ = [
    "EDGE_DOMAIN",
    "EDGE_PORT",
    "DiscoveryError",
    "DnsResolver",
    "NoSuchNameError",
    "Resolver",
    "SrvTarget",
    "discover_regions",
    "is_address",
    "order_targets",
    "regions_by_name",
    "service_name",
]

_SERVICE = "v2-origintunneld"
EDGE_DOMAIN = "argotunnel.com"
_REGIONS = 2
EDGE_PORT = 7844
# DNS-over-TLS, asked when the system's resolver fails.
_DOT_ADDRESS = "1.1.1.1"
_DOT_PORT = 853
_DOT_NAME = "cloudflare-dns.com"
_DOT_TIMEOUT = 15.0
_SRV_TIMEOUT = 10.0
# Addresses of one target that are used; an answer is not trusted to be short.
MAX_ADDRESSES = 64

_log = logging.getLogger(__name__)


class DiscoveryError(Exception):
    """The edge cannot be found; the text says which lookup failed and what to do.

    `is_final` when asking again would lead to the same.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class NoSuchNameError(OSError):
    """DNS has answered that there is no such name."""


class SrvTarget(Struct, frozen=True):
    """One SRV record."""

    host: str
    port: int
    priority: int = 0
    weight: int = 0


class Resolver(Protocol):
    """What discovery asks of DNS. Failures are OSError."""

    async def targets(self, name: str) -> Sequence[SrvTarget]:
        """The SRV records of `name`."""

    async def fallback_targets(self, name: str) -> Sequence[SrvTarget]:
        """The same, by another way."""

    async def addresses(self, host: str) -> Sequence[str]:
        """All addresses of `host`, in the order the system prefers them."""


def service_name(region: str) -> str:
    """The SRV name for `region`, which may be empty."""
    prefix = f"{region}-" if region else ""
    return f"_{prefix}{_SERVICE}._tcp.{EDGE_DOMAIN}"


async def discover_regions(
    resolver: Resolver,
    *,
    region: str = "",
    ip_version: str = "auto",
    home: int = 0,
    uniform: Callable[[float, float], float] = random.uniform,
) -> list[Region]:
    """Look the edge up; `ip_version` is `auto`, `4` or `6`. Raises DiscoveryError."""
    name = service_name(region)
    try:
        targets = await resolver.targets(name)
    except OSError as error:
        _log.warning("Edge lookup failed, trying DNS over TLS", extra={"error": str(error)})
        try:
            targets = await resolver.fallback_targets(name)
        except OSError as second:
            nowhere = isinstance(error, NoSuchNameError) and isinstance(second, NoSuchNameError)
            if region and nowhere:
                raise DiscoveryError(
                    f"there is no edge region {region!r}: DNS has no {name}", is_final=True
                ) from error
            raise DiscoveryError(
                f"cannot look up the edge ({name}): {error}; check this machine's DNS, or name the "
                "edge with --edge host:port"
            ) from error
    ordered = order_targets(targets, uniform)
    if len(ordered) < _REGIONS:
        raise DiscoveryError(f"{name} names {len(ordered)} edge regions; {_REGIONS} are needed")
    return [
        await _resolve(resolver, target, index, ip_version, home)
        for index, target in enumerate(ordered[:_REGIONS])
    ]


async def _resolve(
    resolver: Resolver, target: SrvTarget, index: int, ip_version: str, home: int
) -> Region:
    try:
        addresses = await resolver.addresses(target.host)
    except OSError as error:
        raise DiscoveryError(f"cannot look up the edge region {target.host}: {error}") from error
    slots = [EdgeSlot(address, target.port, index, home) for address in addresses[:MAX_ADDRESSES]]
    if ip_version != "auto":
        wanted = ip_version == "6"
        kept = [slot for slot in slots if slot.is_ipv6 == wanted]
        if not kept:
            raise DiscoveryError(f"the edge region {target.host} has no IPv{ip_version} address")
        return Region(kept)
    if not slots:
        raise DiscoveryError(f"the edge region {target.host} has no address")
    first = slots[0].is_ipv6
    return Region(
        [slot for slot in slots if slot.is_ipv6 == first],
        [slot for slot in slots if slot.is_ipv6 != first],
    )


def regions_by_name(region: str = "", home: int = 0) -> list[Region]:
    """The edge by its well-known names, for where only a proxy can look names up.

    Each name stands for many addresses, so it makes two slots.
    """
    prefix = f"{region}-" if region else ""
    return [
        Region(
            [
                EdgeSlot(f"{prefix}region{index + 1}.v2.{EDGE_DOMAIN}", EDGE_PORT, index, home)
                for _ in range(2)
            ]
        )
        for index in range(_REGIONS)
    ]


def order_targets(
    targets: Sequence[SrvTarget], uniform: Callable[[float, float], float] = random.uniform
) -> list[SrvTarget]:
    """RFC 2782 order: by priority, then drawn by weight."""
    ordered = []
    for priority in sorted({target.priority for target in targets}):
        waiting = sorted(
            (target for target in targets if target.priority == priority),
            key=lambda target: target.weight,
        )
        while waiting:
            draw = uniform(0.0, float(sum(target.weight for target in waiting)))
            for target in waiting:
                draw -= target.weight
                if draw <= 0:
                    break
            ordered.append(target)
            waiting.remove(target)
    return ordered


class DnsResolver:
    """The system's resolver, with DNS-over-TLS behind it for SRV records."""

    async def targets(self, name: str) -> Sequence[SrvTarget]:
        # dnspython is imported here because a connector with --edge never needs it.
        import dns.asyncresolver
        import dns.exception
        import dns.resolver

        try:
            answer = await dns.asyncresolver.resolve(name, "SRV", lifetime=_SRV_TIMEOUT)
        except dns.resolver.NXDOMAIN as error:
            raise NoSuchNameError(str(error)) from error
        except dns.exception.DNSException as error:
            raise OSError(str(error) or type(error).__name__) from error
        return [_target(record) for record in answer]

    async def fallback_targets(self, name: str) -> Sequence[SrvTarget]:
        import dns.asyncquery
        import dns.exception
        import dns.message
        import dns.rcode
        import dns.rdatatype

        query = dns.message.make_query(name, "SRV")
        try:
            reply = await dns.asyncquery.tls(
                query,
                _DOT_ADDRESS,
                timeout=_DOT_TIMEOUT,
                port=_DOT_PORT,
                server_hostname=_DOT_NAME,
            )
        except (dns.exception.DNSException, EOFError) as error:
            raise OSError(str(error) or type(error).__name__) from error
        if reply.rcode() == dns.rcode.NXDOMAIN:
            raise NoSuchNameError(f"{name} does not exist")
        return [
            _target(record)
            for answer in reply.answer
            if answer.rdtype == dns.rdatatype.SRV
            for record in answer
        ]

    async def addresses(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
        return [address for address in addresses if is_address(address)]


def _target(record: Any) -> SrvTarget:
    return SrvTarget(str(record.target).rstrip("."), record.port, record.priority, record.weight)


def is_address(text: str) -> bool:
    """Whether a host is an address rather than a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
