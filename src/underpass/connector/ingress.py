"""Ingress rules: which service answers which request (docs: configuration §3).

Rules are read once, checked as a whole, and compiled. Matching keeps the first-match meaning of the
list exactly, port and case included: the first rule whose hostname and path both match decides, and
the last rule matches everything.

A request costs one dictionary lookup when no rule of its host has a path.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct, field

from underpass.connector.document import ConfigError, Document, Section
from underpass.connector.origin_request import OriginRequest, read_origin_request
from underpass.connector.origins import (
    Bastion,
    HelloWorld,
    HttpService,
    HttpStatus,
    Service,
    SocksProxy,
    StreamService,
    UnixService,
    parse_service,
)

if TYPE_CHECKING:
    from underpass.connector.path_pattern import PathPattern

__all__ = [
    "Bastion",
    "HelloWorld",
    "HttpService",
    "HttpStatus",
    "Ingress",
    "Rule",
    "Service",
    "SocksProxy",
    "StreamService",
    "UnixService",
    "read_ingress",
    "single_rule",
    "split_host_port",
]

# Hosts whose candidate rules are remembered; wildcards let visitors invent as many as they like.
MAX_REMEMBERED_HOSTS = 4096
# Bytes. The longest DNS name plus a port; longer ones are matched but not remembered.
MAX_REMEMBERED_HOST = 262

_RULE_KEYS = frozenset({"hostname", "path", "service", "originRequest"})


RESERVED: Final = -1
"""What `Ingress.match` returns for a host that is not the rules' business."""


class Rule(Struct, frozen=True):
    """One rule. `hostname` "" or "*" matches every host, `path` None every path."""

    service: Service
    hostname: str = ""
    path: PathPattern | None = None
    origin_request: OriginRequest = field(default_factory=OriginRequest)

    @property
    def is_catch_all(self) -> bool:
        return self.hostname in ("", "*") and self.path is None


# One host's candidates: rules with a path in order, then the first rule without one.
_PathCheck = tuple[int, Callable[[str], bool]]
_Candidates = tuple[tuple[_PathCheck, ...], int]


class Ingress:
    """Compiled rules. `match` is called once per request.

    `rules` must end in a catch-all; `read_ingress` and `single_rule` see to it. `defaults` are what
    rules without settings of their own have, for whoever shows the rules.
    """

    def __init__(self, rules: Sequence[Rule], defaults: OriginRequest | None = None) -> None:
        if not rules or not rules[-1].is_catch_all:
            raise ValueError("the last rule must match every host and path")
        self.rules = tuple(rules)
        self.defaults = defaults or OriginRequest()
        self._any: list[int] = []
        self._exact: dict[bytes, list[int]] = {}
        self._suffixes: dict[bytes, list[int]] = {}
        for index, rule in enumerate(self.rules):
            if rule.hostname in ("", "*"):
                self._any.append(index)
                continue
            for name in (rule.hostname, _idna(rule.hostname)):
                host = name.encode("utf-8", "surrogateescape")
                self._exact.setdefault(host, []).append(index)
                if host.startswith(b"*."):
                    self._suffixes.setdefault(host[1:], []).append(index)
        self._suffix_lengths = sorted({len(suffix) for suffix in self._suffixes})
        self._by_host: dict[bytes, int | _Candidates] = {}
        self._reserved = b""

    def reserve(self, host: bytes) -> None:
        """Have `match` return RESERVED for a host, in lower case, whatever the rules say."""
        self._reserved = host
        self._by_host.clear()

    def match(self, host: bytes, path: bytes) -> int:
        """The index of the first rule that matches.

        `host` is the Host header or `:authority`, with or without a port; `path` is the raw path, a
        query included or not.
        """
        found = self._by_host.get(host)
        if found is None:
            found = self._look_up(host)
        if type(found) is int:
            return found
        return _match_path(found, path)  # type: ignore[arg-type]

    def _look_up(self, host: bytes) -> int | _Candidates:
        name = split_host_port(host)
        if self._reserved and name.lower() == self._reserved:
            return RESERVED
        indexes = set(self._any)
        indexes.update(self._exact.get(name, ()))
        for length in self._suffix_lengths:
            if length > len(name):
                break
            indexes.update(self._suffixes.get(name[-length:], ()))
        found = self._candidates(sorted(indexes))
        if len(host) <= MAX_REMEMBERED_HOST:
            if len(self._by_host) >= MAX_REMEMBERED_HOSTS:
                self._by_host.clear()
            self._by_host[host] = found
        return found

    def _candidates(self, indexes: list[int]) -> int | _Candidates:
        checks: list[_PathCheck] = []
        for index in indexes:
            path = self.rules[index].path
            if path is None:
                return (tuple(checks), index) if checks else index
            checks.append((index, path.matches))
        raise AssertionError("the catch-all is a candidate for every host")


def _match_path(candidates: _Candidates, path: bytes) -> int:
    raw = path.partition(b"?")[0]
    text = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8", "surrogateescape")
    checks, otherwise = candidates
    for index, matches in checks:
        if matches(text):
            return index
    return otherwise


def split_host_port(host: bytes) -> bytes:
    """`host` without its port and brackets; unchanged when it is not `host:port`, as Go has it."""
    colon = host.rfind(b":")
    if colon < 0:
        return host
    if host.startswith(b"["):
        end = host.find(b"]")
        name, rest = host[1:end], host[end + 1 :]
        if end < 0 or end + 1 != colon or b"[" in host[1:] or b"]" in rest:
            return host
        return name
    name = host[:colon]
    if b":" in name or b"[" in host or b"]" in host:
        return host
    return name


def single_rule(service: Service, origin_request: OriginRequest | None = None) -> Ingress:
    """The rules of a tunnel with one origin."""
    settings = origin_request or OriginRequest()
    return Ingress([Rule(service, origin_request=settings)], settings)


def read_ingress(document: Document) -> Ingress | None:
    """The rules of a configuration; None when it has no `ingress` key. Raises ConfigError."""
    root = document.root
    if root.values.get("ingress") is None:
        return None
    defaults = read_origin_request(root.section("originRequest"))
    sections = list(root.sections("ingress"))
    if not sections:
        raise root.error("ingress", "the list is empty; its last rule must match everything")
    return Ingress(
        [
            _read_rule(section, number, len(sections), defaults)
            for number, section in enumerate(sections, 1)
        ],
        OriginRequest(**{**defaults, "ip_rules": (), "access": None}),
    )


def _read_rule(section: Section, number: int, count: int, defaults: dict[str, Any]) -> Rule:
    """Read rule `number` (1-based) of `count`."""
    section.refuse_unknown(_RULE_KEYS)
    own = read_origin_request(section.section("originRequest"))
    fields = {**defaults, "ip_rules": (), "access": None, **own}
    origin_request = OriginRequest(**fields)
    service = section.string("service") or ""
    try:
        parsed = parse_service(
            service, bastion_mode=origin_request.bastion_mode, ip_rules=origin_request.ip_rules
        )
    except ValueError as error:
        why = str(error) if service else "a rule needs a service, like http://localhost:8000"
        raise section.error("service", f"rule #{number}: {why}") from None
    hostname = section.string("hostname") or ""
    path_text = section.string("path") or ""
    _check_hostname(section, hostname, number)
    path = _path_pattern(section, path_text, number) if path_text else None
    rule = Rule(parsed, hostname, path, origin_request)
    if rule.is_catch_all and number < count:
        raise _order_error(
            section,
            f"rule #{number} matches every host and path, so the rules after it never apply",
        )
    if not rule.is_catch_all and number == count:
        raise _order_error(
            section,
            f"rule #{number} is the last one and must match everything: give it no hostname and no "
            "path, for example `- service: http_status:404`",
        )
    return rule


def _path_pattern(section: Section, text: str, number: int) -> PathPattern:
    # Imported here because most configurations have no path, and start faster without.
    from underpass.connector.path_pattern import PathPattern, PatternError

    try:
        return PathPattern(text)
    except PatternError as error:
        raise section.error(
            "path", f"rule #{number} has an invalid regular expression {text!r}: {error}"
        ) from None


def _check_hostname(section: Section, hostname: str, number: int) -> None:
    host = hostname.encode("utf-8", "surrogateescape")
    if split_host_port(host) != host:
        raise section.error(
            "hostname", f"rule #{number}: {hostname!r} contains a port; leave it out"
        )
    if hostname.rfind("*") > 0:
        raise section.error(
            "hostname",
            f"rule #{number}: {hostname!r} has a '*' that is not its first character; "
            "write it like *.example.com",
        )


def _order_error(section: Section, why: str) -> ConfigError:
    return section.document.error(section.path, why)


# UTS #46 keeps these where Unicode case folding would not.
_KEPT = frozenset("ßς\u200c\u200d")
_MAX_LABEL = 63


def _idna(hostname: str) -> str:
    """The ASCII form clients send (IDNA lookup, UTS #46 mapping); unchanged if it has none."""
    wildcard = "*." if hostname.startswith("*.") else ""
    folded = "".join(
        char if char in _KEPT else unicodedata.normalize("NFKC", char).casefold()
        for char in hostname.removeprefix(wildcard)
    )
    labels = []
    for label in unicodedata.normalize("NFC", folded).replace("\u3002", ".").split("."):
        try:
            ascii_label = label if label.isascii() else "xn--" + label.encode("punycode").decode()
        except UnicodeError:
            return hostname
        if len(ascii_label) > _MAX_LABEL:
            return hostname
        labels.append(ascii_label)
    return wildcard + ".".join(labels)
