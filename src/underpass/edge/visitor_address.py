"""A visitor's address as it is told to applications and logs."""

from __future__ import annotations

__all__ = ["plain_address"]


def plain_address(address: str) -> str:
    """Without the zone of a link-local address, and in IPv4's own form where a listener for both
    families has put it into IPv6's (RFC 4291 §2.5.5.2)."""
    plain = address.partition("%")[0]
    return plain.removeprefix("::ffff:") if "." in plain else plain
