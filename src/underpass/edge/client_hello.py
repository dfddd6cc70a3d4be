"""What a TLS client says first: the name it asks for, and the protocols it offers.

RFC 8446 §4.1.2 and §5.1, RFC 6066 §3, RFC 7301 §3.1. As strict as OpenSSL, which gets the same
bytes afterwards: what is refused here is refused there, or is at least nobody's ordinary hello.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_BEGINNING", "MAX_HELLO", "MAX_RECORDS", "ClientHello", "HelloError"]

MAX_HELLO: Final = 32768
"""Bytes of the message. Browsers send below 2 kB, with session tickets and large keys below 8."""

MAX_RECORDS: Final = 64
"""That it may be spread over. One or two are usual; with the smallest that clients may ask for
(RFC 6066 §4: 512 bytes) it is these."""

_RECORD_HEAD: Final = 5
_MAX_FRAGMENT: Final = 16384

MAX_BEGINNING: Final = MAX_HELLO + MAX_RECORDS * _RECORD_HEAD
"""Bytes that may have to be looked at."""

_HANDSHAKE: Final = 22
_MAJOR: Final = 3
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_HOST_NAME: Final = 0
_MAX_NAME: Final = 255


class HelloError(ValueError):
    """This is no ClientHello, or not one that is waited for."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """As far as anybody wants to know."""

    server_name: str | None = None
    """Lower-case, without a trailing dot. With Encrypted Client Hello it is the outer one."""
    protocols: tuple[bytes, ...] = ()
    """ALPN names, as offered."""

    @classmethod
    def read(cls, data: bytes) -> ClientHello | int:
        """The hello that `data` begins with, or how many bytes there have to be at least to know
        more: always more than there are, and no more than MAX_BEGINNING.

        Raises HelloError.
        """
        message = bytearray()
        wanted = 4
        at = 0
        for _ in range(MAX_RECORDS):
            head = data[at : at + _RECORD_HEAD]
            if head[:1] not in (b"", b"\x16") or head[1:2] not in (b"", b"\x03"):
                raise HelloError("no TLS handshake record")
            if len(head) < _RECORD_HEAD:
                return _at_most(at + _RECORD_HEAD)
            size = int.from_bytes(head[3:], "big")
            if not 0 < size <= _MAX_FRAGMENT:
                raise HelloError(f"a record of {size} bytes")
            at += _RECORD_HEAD
            message += data[at : at + size]
            if message and message[0] != _CLIENT_HELLO:
                raise HelloError("not a ClientHello")
            if len(message) >= 4:
                wanted = 4 + int.from_bytes(message[1:4], "big")
                if wanted > MAX_HELLO:
                    raise HelloError(f"a hello of {wanted} bytes")
            at += size
            if len(data) < at:
                return _at_most(at)
            if len(message) > wanted:
                raise HelloError("more than a hello")
            if len(message) >= 4 and len(message) == wanted:
                return cls._of_body(_Reader(bytes(message[4:])))
        raise HelloError(f"a hello in more than {MAX_RECORDS} records")

    @classmethod
    def _of_body(cls, body: _Reader) -> ClientHello:
        if body.number(1) != _MAJOR:
            raise HelloError("not TLS")
        body.take(1 + 32)
        if len(body.vector(1)) > 32:
            raise HelloError("a session id of more than 32 bytes")
        suites = body.vector(2)
        if len(suites) < 2 or len(suites) % 2:
            raise HelloError("a malformed list of cipher suites")
        if 0 not in body.vector(1):
            raise HelloError("no way to leave it uncompressed")
        server_name: str | None = None
        protocols: tuple[bytes, ...] = ()
        if body.is_at_end:
            return cls()
        extensions = _Reader(body.vector(2))
        body.end()
        seen: set[int] = set()
        while not extensions.is_at_end:
            kind = extensions.number(2)
            content = extensions.vector(2)
            if kind in seen:
                raise HelloError(f"extension {kind} twice")
            seen.add(kind)
            if kind == _SERVER_NAME:
                server_name = _server_name(content)
            elif kind == _ALPN:
                protocols = _protocols(content)
        return cls(server_name, protocols)


class _Reader:
    """What is left of some bytes. Every method raises HelloError where they are too few."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise HelloError("it ends too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        """Bytes with their number before them."""
        return self.take(self.number(length_size))

    def end(self) -> None:
        if not self.is_at_end:
            raise HelloError("it is longer than it says")


def _at_most(needed: int) -> int:
    if needed > MAX_BEGINNING:
        raise HelloError(f"a hello of more than {MAX_BEGINNING} bytes")
    return needed


def _server_name(extension: bytes) -> str:
    # The list has one entry and always will: other kinds of names cannot be added any more.
    reader = _Reader(extension)
    names = _Reader(reader.vector(2))
    reader.end()
    kind = names.number(1)
    name = names.vector(2)
    names.end()
    if kind != _HOST_NAME or not 0 < len(name) <= _MAX_NAME or 0 in name or not name.isascii():
        raise HelloError("a server name that is no hostname")
    return name.decode("ascii").lower().removesuffix(".")


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    reader = _Reader(extension)
    names = _Reader(reader.vector(2))
    reader.end()
    found: list[bytes] = []
    while not names.is_at_end:
        name = names.vector(1)
        if not name:
            raise HelloError("a protocol without a name")
        found.append(name)
    if not found:
        raise HelloError("no protocol is offered")
    return tuple(found)
