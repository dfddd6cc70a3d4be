"""How TLS clients begin."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable

__all__ = ["hello_for", "in_records"]


def hello_for(
    name: str | None, *protocols: str, versions: tuple[ssl.TLSVersion, ssl.TLSVersion] | None = None
) -> bytes:
    """What Python's own client says first: one record, or more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if versions is not None:
        context.minimum_version, context.maximum_version = versions
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(message: bytes, sizes: Iterable[int]) -> bytes:
    """A handshake message in records of these sizes, the rest in a last one."""
    records = b""
    for size in sizes:
        piece, message = message[:size], message[size:]
        if piece:
            records += b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
    if message:
        records += b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
    return records
