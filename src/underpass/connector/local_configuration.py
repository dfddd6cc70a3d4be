"""The configuration in force here, as the edge is told of it (docs: wire protocol §6.4)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from underpass.connector.ingress import Ingress, Rule
from underpass.connector.origin_request import OriginRequest
from underpass.connector.warp_routing import DEFAULT_ROUTING
from underpass.wire.remote_config import LocalRule, local_configuration

__all__ = ["local_configuration_of"]

_DEFAULTS = OriginRequest()
# Fields whose name in the document is not their own in camel case, or whose value is no plain one.
_NAMES = {
    "match_sni_to_host": "matchSNItoHost",
    "no_tls_verify": "noTLSVerify",
    "tcp_keep_alive": "tcpKeepAlive",
}
_STRUCTURED = frozenset({"ip_rules", "access"})


def local_configuration_of(ingress: Ingress, protocol: str) -> bytes:
    """The JSON document for updateLocalConfiguration."""
    rules = [_rule(rule) for rule in ingress.rules]
    routing = _differing(ingress.warp_routing, DEFAULT_ROUTING)
    return local_configuration(rules, warp_routing=routing, flags={"protocol": protocol})


def _rule(rule: Rule) -> LocalRule:
    return LocalRule(
        service=rule.service_text,
        hostname=rule.hostname,
        path=rule.path.text if rule.path is not None else "",
        origin_request=_origin_request(rule.origin_request),
    )


def _origin_request(settings: OriginRequest) -> dict[str, Any]:
    given = _differing(settings, _DEFAULTS)
    if settings.ip_rules:
        given["ipRules"] = [
            {"prefix": str(rule.network), "ports": list(rule.ports), "allow": rule.allow}
            for rule in settings.ip_rules
        ]
    if settings.access is not None:
        given["access"] = {
            "required": True,
            "teamName": settings.access.team_name,
            "audTag": list(settings.access.audience_tags),
        }
    return given


def _differing(settings: Struct, defaults: Struct) -> dict[str, Any]:
    """The plain values that are not the default."""
    return {
        _NAMES.get(name) or _camel(name): value
        for name in settings.__struct_fields__
        if name not in _STRUCTURED and (value := getattr(settings, name)) != getattr(defaults, name)
    }


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
