"""How requests are made to an origin: the `originRequest` settings (docs: configuration §5).

A field's value comes from the rule, else from the top-level `originRequest`, else from the defaults
here. `ipRules` count only where they stand on the rule itself.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from msgspec import Struct

from underpass.ops.document import Section

__all__ = ["AccessRequirement", "IPRule", "OriginRequest", "read_origin_request"]


class IPRule(Struct, frozen=True):
    """One line of the SOCKS proxy's access list; empty `ports` means every port."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    ports: tuple[int, ...]
    allow: bool


class AccessRequirement(Struct, frozen=True):
    """The rule lets a request through only with a valid Access token."""

    team_name: str
    audience_tags: tuple[str, ...]
    environment: str


class OriginRequest(Struct, frozen=True):
    """Settings in force for one rule. Durations are seconds.

    `connect_timeout` and `tls_timeout`: 0 means none. `tcp_keep_alive`: 0 means the system's own,
    negative means off. `keep_alive_timeout`: 0 means for ever. `keep_alive_connections`: 0 means no
    total limit. `proxy_protocol` is `v1`, `v2` or nothing.
    """

    connect_timeout: float = 30.0
    tls_timeout: float = 10.0
    tcp_keep_alive: float = 30.0
    no_happy_eyeballs: bool = False
    keep_alive_connections: int = 100
    keep_alive_timeout: float = 90.0
    http_host_header: str = ""
    origin_server_name: str = ""
    match_sni_to_host: bool = False
    ca_pool: str = ""
    no_tls_verify: bool = False
    disable_chunked_encoding: bool = False
    http2_origin: bool = False
    bastion_mode: bool = False
    proxy_address: str = "127.0.0.1"
    proxy_port: int = 0
    proxy_type: str = ""
    proxy_protocol: str = ""
    ip_rules: tuple[IPRule, ...] = ()
    access: AccessRequirement | None = None


# Key in the file -> (field, reader of Section).
FIELDS = {
    "connectTimeout": ("connect_timeout", Section.duration),
    "tlsTimeout": ("tls_timeout", Section.duration),
    "tcpKeepAlive": ("tcp_keep_alive", Section.duration),
    "noHappyEyeballs": ("no_happy_eyeballs", Section.boolean),
    "keepAliveConnections": ("keep_alive_connections", Section.integer),
    "keepAliveTimeout": ("keep_alive_timeout", Section.duration),
    "httpHostHeader": ("http_host_header", Section.string),
    "originServerName": ("origin_server_name", Section.string),
    "matchSNItoHost": ("match_sni_to_host", Section.boolean),
    "caPool": ("ca_pool", Section.string),
    "noTLSVerify": ("no_tls_verify", Section.boolean),
    "disableChunkedEncoding": ("disable_chunked_encoding", Section.boolean),
    "http2Origin": ("http2_origin", Section.boolean),
    "bastionMode": ("bastion_mode", Section.boolean),
    "proxyAddress": ("proxy_address", Section.string),
    "proxyPort": ("proxy_port", Section.integer),
    "proxyType": ("proxy_type", Section.string),
    "proxyProtocol": ("proxy_protocol", Section.string),
}
KEYS = frozenset(FIELDS) | {"ipRules", "access"}
_IP_RULE_KEYS = frozenset({"prefix", "ports", "allow"})
_ACCESS_KEYS = frozenset({"required", "teamName", "audTag", "environment"})
_MAX_PORT = 65535
# It becomes part of a host name that keys are fetched from.
_TEAM_NAME = re.compile(r"[A-Za-z0-9-]{0,63}\Z")


def read_origin_request(section: Section) -> dict[str, Any]:
    """The fields given in `section`, by their names in OriginRequest. Raises ConfigError."""
    if not section.values:
        return {}
    section.refuse_unknown(KEYS)
    fields: dict[str, Any] = {}
    for key, (name, read) in FIELDS.items():
        value = read(section, key)
        if value is not None:
            fields[name] = value
    if fields.get("proxy_type", "") not in ("", "socks"):
        raise section.error("proxyType", f"{fields['proxy_type']!r} is not '' or 'socks'")
    if fields.get("proxy_protocol", "") not in ("", "v1", "v2"):
        raise section.error("proxyProtocol", f"{fields['proxy_protocol']!r} is not 'v1' or 'v2'")
    if not 0 <= fields.get("proxy_port", 0) <= _MAX_PORT:
        raise section.error("proxyPort", f"{fields['proxy_port']} is not a port")
    if fields.get("keep_alive_connections", 0) < 0:
        raise section.error("keepAliveConnections", "the pool cannot be smaller than 0")
    for name in ("http_host_header", "origin_server_name"):
        if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in fields.get(name, "")):
            key = next(key for key, (field, _) in FIELDS.items() if field == name)
            raise section.error(key, "a space or control character cannot be sent in a host name")
    if "ipRules" in section.values:
        fields["ip_rules"] = tuple(_ip_rule(item) for item in section.sections("ipRules"))
    if section.values.get("access") is not None:
        fields["access"] = _access(section.section("access"))
    return fields


def _ip_rule(section: Section) -> IPRule:
    section.refuse_unknown(_IP_RULE_KEYS)
    prefix = section.string("prefix")
    if not prefix:
        raise section.error("prefix", "an IP rule needs a prefix such as 192.168.0.0/16")
    try:
        if "/" not in prefix:
            raise ValueError
        network = ipaddress.ip_network(prefix, strict=False)
    except ValueError:
        raise section.error("prefix", f"{prefix!r} is not a network such as 10.0.0.0/8") from None
    ports = section.integers("ports") or ()
    for port in ports:
        if not 1 <= port <= _MAX_PORT:
            raise section.error("ports", f"{port} is not a port between 1 and {_MAX_PORT}")
    return IPRule(network, ports, section.boolean("allow") or False)


def _access(section: Section) -> AccessRequirement | None:
    section.refuse_unknown(_ACCESS_KEYS)
    required = section.boolean("required")
    team_name = section.string("teamName") or ""
    audience_tags = section.strings("audTag") or ()
    environment = section.string("environment") or ""
    if not _TEAM_NAME.match(team_name):
        raise section.error("teamName", f"{team_name!r} is not the name of a team, like `example`")
    if environment not in ("", "fed"):
        raise section.error("environment", f"{environment!r} is not '' or 'fed'")
    if not required:
        return None
    if audience_tags and not team_name:
        raise section.error("teamName", "cannot be blank when audTag is given")
    if not audience_tags:
        raise section.error("audTag", "is missing; without one every request would be refused")
    return AccessRequirement(team_name, audience_tags, environment)
