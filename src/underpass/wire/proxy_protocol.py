"""The visitor's address ahead of a stream: HAProxy's PROXY protocol, versions 1 and 2.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt §2.1 and §2.2. A connector writes it to
its origins: the source is the address that the edge says the visitor has, its port 0 because nobody
says it, the destination what was connected to. An edge reads it from what stands before it.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["MAX_HEADER", "ProxyHeader", "ProxyHeaderError", "proxy_header", "visitor_address"]

MAX_HEADER: Final = 4096
"""Bytes of a header of version 2 that is read. The longest address takes 232, HAProxy's additions
about a client's certificate a few hundred; the specification advises against more than a packet."""

MAX_LINE: Final = 107
"""Bytes of a header of version 1 (§2.1)."""

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_LINE_SIGNATURE: Final = b"PROXY "
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


def proxy_header(
    version: str, source: Address | None, host: str, port: int, *, source_port: int = 0
) -> bytes:
    """What goes first on a connection to `host` (an address) and `port`; `version` is v1 or v2.

    Without a source it says that there is nothing to say.
    """
    if source is None:
        return _LOCAL if version == "v2" else b"PROXY UNKNOWN\r\n"
    destination = _in_family(ipaddress.ip_address(host.partition("%")[0]), source)
    if version == "v2":
        kind = _TCP4 if source.version == 4 else _TCP6
        addresses = source.packed + destination.packed
        ports = struct.pack("!HH", source_port, port)
        length = struct.pack("!H", len(addresses) + len(ports))
        return _SIGNATURE + kind + length + addresses + ports
    family = "TCP4" if source.version == 4 else "TCP6"
    return f"PROXY {family} {source} {destination} {source_port} {port}\r\n".encode("ascii")


def _in_family(destination: Address, source: Address) -> Address:
    """One header holds one family; the source's is the one that matters."""
    if isinstance(destination, ipaddress.IPv4Address):
        if source.version == 6:
            return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + destination.packed)
        return destination
    if source.version == 4:
        return destination.ipv4_mapped or ipaddress.IPv4Address(0)
    return destination


class ProxyHeaderError(ValueError):
    """There is no header, or none that can be understood."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What was read."""

    length: int
    """Bytes that it takes."""
    source: Address | None
    """Of whom the sender speaks; None where it speaks for itself, or names nobody."""

    @classmethod
    def read(cls, data: bytes) -> ProxyHeader | int:
        """The header that `data` begins with, or how many bytes there have to be at least to know
        more: always more than there are, and no more than MAX_HEADER.

        Raises ProxyHeaderError.
        """
        if not data:
            return 1
        if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
            return _read_version_2(data)
        if data[: len(_LINE_SIGNATURE)] == _LINE_SIGNATURE[: len(data)]:
            return _read_version_1(data)
        raise ProxyHeaderError("no PROXY header")


def _read_version_1(data: bytes) -> ProxyHeader | int:
    line, end, _ = data[:MAX_LINE].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_LINE:
            raise ProxyHeaderError(f"a PROXY line of more than {MAX_LINE} bytes")
        return len(data) + 1
    length = len(line) + len(end)
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(length, None)
    if len(words) != 6 or not (_is_port(words[4]) and _is_port(words[5])):
        raise ProxyHeaderError("a malformed PROXY line")
    family: type[Address]
    if words[1] == b"TCP4":
        family = ipaddress.IPv4Address
    elif words[1] == b"TCP6":
        family = ipaddress.IPv6Address
    else:
        raise ProxyHeaderError("a PROXY line about something else than TCP")
    try:
        source: Address = family(words[2].decode("ascii"))
        family(words[3].decode("ascii"))
    except ValueError:
        raise ProxyHeaderError("a malformed address in a PROXY line") from None
    return ProxyHeader(length, _unmapped(source))


_HEAD: Final = struct.Struct("!12sBBH")
_ADDRESSES: Final[dict[int, tuple[int, slice | None]]] = {
    0x00: (0, None),  # not said
    0x11: (12, slice(0, 4)),  # TCP over IPv4
    0x21: (36, slice(0, 16)),  # TCP over IPv6
    0x31: (216, None),  # a unix socket: nobody's address
}
"""By family and protocol: how many bytes they have, and which are the source's address."""


def _read_version_2(data: bytes) -> ProxyHeader | int:
    if len(data) < _HEAD.size:
        return _HEAD.size
    _, kind, family, size = _HEAD.unpack_from(data)
    length: int = _HEAD.size + size
    if kind not in (0x20, 0x21):
        raise ProxyHeaderError(f"version and command {kind:#04x} in a PROXY header")
    if length > MAX_HEADER:
        raise ProxyHeaderError(f"a PROXY header of {length} bytes")
    if len(data) < length:
        return length
    if kind == 0x20:  # LOCAL: whatever addresses there are mean nothing
        return ProxyHeader(length, None)
    known = _ADDRESSES.get(family)
    if known is None or size < known[0]:
        raise ProxyHeaderError(f"family {family:#04x} with {size} bytes in a PROXY header")
    # What follows the addresses are additions (TLVs) that nobody here asks for.
    if known[1] is None:
        return ProxyHeader(length, None)
    packed: bytes = data[_HEAD.size : length][known[1]]
    return ProxyHeader(length, _unmapped(ipaddress.ip_address(packed)))


def _unmapped(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            raise ProxyHeaderError("an address with a zone in a PROXY line")
        return address.ipv4_mapped or address
    return address


def _is_port(word: bytes) -> bool:
    return word.isdigit() and len(word) <= 5 and int(word) <= 65535
