"""Which addresses a visitor may have connected: `ipRules` (docs: configuration §5.2)."""

from __future__ import annotations

import ipaddress

from underpass.connector.origin_request import IPRule

__all__ = ["IpRules"]


class IpRules:
    """The first rule that holds the address and the port decides; without one it is denied."""

    def __init__(self, rules: tuple[IPRule, ...]) -> None:
        self._rules = rules

    def __call__(self, host: str, port: int) -> bool:
        """Whether the address `host` may be connected to on `port`."""
        address: ipaddress.IPv4Address | ipaddress.IPv6Address
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            # The same machine by another spelling.
            address = address.ipv4_mapped
        if address.is_unspecified:
            # Systems connect it to themselves, which a rule for 127.0.0.0/8 would not see.
            return False
        for rule in self._rules:
            if address in rule.network and (not rule.ports or port in rule.ports):
                return rule.allow
        return False
