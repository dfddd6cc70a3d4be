"""Where a bastion is asked to connect to: `Cf-Access-Jump-Destination`
(docs: visitors' side §7)."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

__all__ = ["jump_destination"]

MAX_DESTINATION: Final = 1024
"""Bytes of the field; four times the longest name."""


def jump_destination(value: bytes) -> tuple[str, int]:
    """Host and port of `host:port`, a scheme before and a path behind it left out.

    Raises ValueError saying what is wrong; there is no default port.
    """
    text = value.decode("utf-8", "replace")
    if len(value) > MAX_DESTINATION:
        raise ValueError(f"the destination is longer than {MAX_DESTINATION} bytes")
    address = _authority(text).partition("/")[0]
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or not colon:
        raise ValueError(f"the destination {text!r} has no port; it is given as host:port")
    if not host or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in host):
        raise ValueError(f"the destination {text!r} names no host")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise ValueError(f"the port of the destination {text!r} is no number from 1 to 65535")
    return host, int(port)


def _authority(text: str) -> str:
    try:
        url = urlsplit(text)
    except ValueError:
        return text
    return url.netloc.rpartition("@")[2] or text
