"""The visitor's address ahead of a stream: HAProxy's PROXY protocol, versions 1 and 2.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt §2.1 and §2.2. The source is the address
that the edge says the visitor has, its port 0 because nobody says it. The destination is what was
connected to.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, TypeAlias

__all__ = ["proxy_header", "visitor_address"]

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_LOCAL: Final = _SIGNATURE + b"\x20\0\0\0"
_TCP4: Final = b"\x21\x11"
_TCP6: Final = b"\x21\x21"

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def visitor_address(value: bytes | None) -> Address | None:
    """The address in `Cf-Connecting-Ip`; None if there is none, or it is something else."""
    if value is None:
        return None
    try:
        address = ipaddress.ip_address(value.decode("ascii").strip())
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id:
            return None
    return address


def proxy_header(version: str, source: Address | None, host: str, port: int) -> bytes:
    """What goes first on a connection to `host` (an address) and `port`; `version` is v1 or v2.

    Without a source it says that there is nothing to say.
    """
    if source is None:
        return _LOCAL if version == "v2" else b"PROXY UNKNOWN\r\n"
    destination = _in_family(ipaddress.ip_address(host.partition("%")[0]), source)
    if version == "v2":
        kind = _TCP4 if source.version == 4 else _TCP6
        addresses = source.packed + destination.packed
        ports = struct.pack("!HH", 0, port)
        length = struct.pack("!H", len(addresses) + len(ports))
        return _SIGNATURE + kind + length + addresses + ports
    family = "TCP4" if source.version == 4 else "TCP6"
    return f"PROXY {family} {source} {destination} 0 {port}\r\n".encode("ascii")


def _in_family(destination: Address, source: Address) -> Address:
    """One header holds one family; the source's is the one that matters."""
    if isinstance(destination, ipaddress.IPv4Address):
        if source.version == 6:
            return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + destination.packed)
        return destination
    if source.version == 4:
        return destination.ipv4_mapped or ipaddress.IPv4Address(0)
    return destination
