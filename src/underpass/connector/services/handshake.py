"""The opening of a WebSocket, as far as a connector answers it itself (RFC 6455 §4.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from msgspec import Struct

__all__ = ["MALFORMED_KEY", "Acknowledgement", "accept_key", "acknowledge"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16


def accept_key(key: bytes) -> bytes:
    """The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (§4.2.2).

    Raises ValueError if the key is not sixteen bytes in base64.
    """
    try:
        nonce = base64.b64decode(key, validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != _KEY_BYTES:
        raise ValueError("Sec-WebSocket-Key is not sixteen bytes in base64")
    # SHA-1 is the protocol's choice and protects nothing here.
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


MALFORMED_KEY: Final = (
    400,
    ((b"content-type", b"text/plain"),),
    b"malformed Sec-WebSocket-Key\n",
)
"""Status, fields and content of the answer to a handshake that cannot be accepted."""


class Acknowledgement(Struct, frozen=True):
    """What a stream's opening is answered with."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]

    def agreeing(self, subprotocol: bytes) -> Acknowledgement:
        """The same, with one of the subprotocols that were offered."""
        field = (b"sec-websocket-protocol", subprotocol)
        return Acknowledgement(self.status, (*self.fields, field))


def acknowledge(key: bytes | None) -> Acknowledgement:
    """The answer to a client that sent `key`, or none because it wants no WebSocket handshake
    (RFC 6455 §4.2.2). Raises ValueError if the key is malformed."""
    if key is None:
        return Acknowledgement(200, ())
    accept = accept_key(key)
    return Acknowledgement(101, ((b"upgrade", b"websocket"), (b"sec-websocket-accept", accept)))
