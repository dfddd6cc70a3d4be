"""The server's words of SOCKS5 (RFC 1928), as far as a tunnel speaks it: CONNECT without
authentication (docs: visitors' side §8)."""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final, TypeAlias

from msgspec import Struct

__all__ = [
    "NO_ACCEPTABLE_METHOD",
    "Reply",
    "Socks5Error",
    "SocksTarget",
    "read_request",
    "reply",
    "reply_to_failure",
]

_VERSION: Final = 5
_NO_AUTHENTICATION: Final = 0
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4

METHOD_CHOSEN: Final = bytes((_VERSION, _NO_AUTHENTICATION))
NO_ACCEPTABLE_METHOD: Final = bytes((_VERSION, 0xFF))

Read: TypeAlias = Callable[[int], Awaitable[bytes]]


class Reply(IntEnum):
    """RFC 1928 §6."""

    SUCCEEDED = 0
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8


class Socks5Error(Exception):
    """The client cannot be served. `answer` is what it is sent before the end, maybe nothing."""

    def __init__(self, text: str, answer: bytes = b"") -> None:
        super().__init__(text)
        self.answer = answer


class SocksTarget(Struct, frozen=True):
    """What the client wants connected: a name or an address, and how it wrote it."""

    host: str
    port: int
    encoded: bytes
    """Address type, address and port."""


async def read_request(read: Read, say: Callable[[bytes], object]) -> SocksTarget:
    """Greet the client and hear what it wants. `read(n)` gives n bytes, `say` sends some.

    At most 519 bytes are read. Raises Socks5Error.
    """
    version, count = await read(2)
    if version != _VERSION:
        raise Socks5Error(f"the client speaks SOCKS version {version}, not {_VERSION}")
    if _NO_AUTHENTICATION not in await read(count):
        raise Socks5Error("the client insists on authentication", NO_ACCEPTABLE_METHOD)
    say(METHOD_CHOSEN)
    version, command, _, kind = await read(4)
    if version != _VERSION:
        raise Socks5Error(f"the request has version {version}, not {_VERSION}")
    if kind == _IPV4:
        address = await read(4)
        host = str(ipaddress.IPv4Address(address))
    elif kind == _IPV6:
        address = await read(16)
        host = str(ipaddress.IPv6Address(address))
    elif kind == _NAME:
        length = await read(1)
        name = await read(length[0])
        address = length + name
        host = name.decode("utf-8", "replace")
    else:
        answer = reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        raise Socks5Error(f"the request has an address of unknown type {kind}", answer)
    port = await read(2)
    if command != _CONNECT:
        answer = reply(Reply.COMMAND_NOT_SUPPORTED)
        raise Socks5Error(f"command {command} is not CONNECT", answer)
    return SocksTarget(host, int.from_bytes(port, "big"), bytes((kind,)) + address + port)


def reply(code: Reply, encoded: bytes | None = None) -> bytes:
    """A reply; `encoded` is the address it names, without one 0.0.0.0:0."""
    return bytes((_VERSION, code, 0)) + (encoded or b"\x01\0\0\0\0\0\0")


def encode_address(host: str, port: int) -> bytes:
    """An IP address and a port as a reply has them."""
    address = ipaddress.ip_address(host.partition("%")[0])
    kind = _IPV4 if address.version == 4 else _IPV6
    return bytes((kind,)) + address.packed + struct.pack("!H", port)


def reply_to_failure(cause: str, number: int, target: SocksTarget) -> bytes:
    """The reply when dialling failed: `cause` is OriginDialError's, `number` the system's."""
    if cause in ("denied", "dns"):
        return reply(Reply.NOT_ALLOWED, target.encoded)
    if number == errno.ECONNREFUSED:
        return reply(Reply.REFUSED)
    if number == errno.ENETUNREACH:
        return reply(Reply.NETWORK_UNREACHABLE)
    return reply(Reply.HOST_UNREACHABLE)
