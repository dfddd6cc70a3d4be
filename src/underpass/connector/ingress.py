"""Ingress rules: which service answers which request (docs: configuration §3).

Rules are read once, checked as a whole, and compiled. Matching keeps the first-match meaning of the
list exactly: the first rule whose hostname and path both match decides, and the last rule matches
everything. Hosts are compared as DNS does, without case, trailing dot and port. Where a path is to
be matched and what it means is not certain, no rule is chosen (`connector.request_path`).

A request costs one dictionary lookup when no rule of its host has a path.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

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
from underpass.connector.warp_routing import DEFAULT_ROUTING, WarpRouting
from underpass.ops.document import ConfigError, Document, Section

if TYPE_CHECKING:
    from underpass.connector.path_pattern import PathPattern

__all__ = [
    "AMBIGUOUS",
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

AMBIGUOUS = -1
"""In the place of a rule's index: the path may mean several things, which different rules match."""

PERCENT, BACKSLASH = b"%\\"

# Hosts whose candidate rules are remembered, beside those that rules name: wildcards let visitors
# invent as many as they like.
MAX_REMEMBERED_HOSTS = 4096
# Bytes. The longest DNS name plus a port; longer ones are matched but not remembered.
MAX_REMEMBERED_HOST = 262

RULE_KEYS = frozenset({"hostname", "path", "service", "originRequest"})
# What an edge adds for its own bookkeeping.
EDGE_KEYS = frozenset({"id"})


RESERVED: Final = -2
"""What `Ingress.match` returns for a host that is not the rules' business."""


class Rule(Struct, frozen=True):
    """One rule. `hostname` "" or "*" matches every host, `path` None every path.

    `written` is the service as somebody wrote it, where that says more than the service itself.
    """

    service: Service
    hostname: str = ""
    path: PathPattern | None = None
    origin_request: OriginRequest = field(default_factory=OriginRequest)
    written: str = ""

    @property
    def service_text(self) -> str:
        """The service for people, and for the edge; read again it is the same service."""
        return self.written or str(self.service)

    @property
    def is_catch_all(self) -> bool:
        return self.hostname in ("", "*") and self.path is None


# Chooses among one host's candidates by the path.
_Choice = Callable[[bytes], int]


class Ingress:
    """Compiled rules. `match` is called once per request.

    `rules` must end in a catch-all; `read_ingress` and `single_rule` see to it. What the same
    configuration says of private networks, which no rule is about, goes along as `warp_routing`.
    `defaults` are what rules without settings of their own have, for whoever shows the rules.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        warp_routing: WarpRouting = DEFAULT_ROUTING,
        defaults: OriginRequest | None = None,
    ) -> None:
        if not rules or not rules[-1].is_catch_all:
            raise ValueError("the last rule must match every host and path")
        self.rules = tuple(rules)
        self.warp_routing = warp_routing
        self.defaults = defaults or OriginRequest()
        self._any: list[int] = []
        self._exact: dict[bytes, list[int]] = {}
        self._suffixes: dict[bytes, list[int]] = {}
        for index, rule in enumerate(self.rules):
            if rule.hostname in ("", "*"):
                self._any.append(index)
                continue
            for name in dict.fromkeys((rule.hostname, _idna(rule.hostname))):
                host = _folded(name.encode("utf-8", "surrogateescape"))
                self._exact.setdefault(host, []).append(index)
                if host.startswith(b"*."):
                    self._suffixes.setdefault(host[1:], []).append(index)
        self._suffix_lengths = sorted({len(suffix) for suffix in self._suffixes})
        self._by_host: dict[bytes, int | _Choice] = {}
        self._reserved = b""

    def reserve(self, host: bytes) -> None:
        """Have `match` return RESERVED for a host, in lower case, whatever the rules say."""
        self._reserved = host
        self._by_host.clear()

    def with_warp_routing(self, warp_routing: WarpRouting) -> Ingress:
        """The same rules, with other settings of private networks."""
        if warp_routing == self.warp_routing:
            return self
        other = copy.copy(self)
        other.warp_routing = warp_routing
        return other

    def match(self, host: bytes, path: bytes) -> int:
        """The index of the first rule that matches, or AMBIGUOUS.

        `host` is the Host header or `:authority`, with or without a port; `path` is the raw path, a
        query included or not.
        """
        found = self._by_host.get(host)
        if found is None:
            found = self._look_up(host)
        if type(found) is int:
            return found
        return found(path)  # type: ignore[operator]

    def _look_up(self, host: bytes) -> int | _Choice:
        name = _folded(split_host_port(host))
        if self._reserved and name == self._reserved:
            return RESERVED
        indexes = set(self._any)
        indexes.update(self._exact.get(name, ()))
        for length in self._suffix_lengths:
            if length > len(name):
                break
            indexes.update(self._suffixes.get(name[-length:], ()))
        found = self._candidates(sorted(indexes))
        if len(host) <= MAX_REMEMBERED_HOST:
            if len(self._by_host) >= MAX_REMEMBERED_HOSTS + len(self._exact):
                self._by_host.clear()
            self._by_host[host] = found
        return found

    def _candidates(self, indexes: list[int]) -> int | _Choice:
        checks: list[tuple[int, Callable[[str], bool]]] = []
        for index in indexes:
            path = self.rules[index].path
            if path is None:
                return _choice(checks, index) if checks else index
            checks.append((index, path.matches))
        raise AssertionError("the catch-all is a candidate for every host")


def _choice(checks: list[tuple[int, Callable[[str], bool]]], otherwise: int) -> _Choice:
    """Choose among rules with a path, in order, and the first one without."""
    from underpass.connector.request_path import readings  # most rules have no path

    def first(text: str) -> int:
        for index, matches in checks:
            if matches(text):
                return index
        return otherwise

    def choose(target: bytes) -> int:
        path = target.partition(b"?")[0]
        # `in` is quick for numbers only: for bytes it fails to make one of them first.
        if PERCENT in path or BACKSLASH in path or path.find(b"/.") >= 0:
            chosen = set(map(first, readings(path)))
            return chosen.pop() if len(chosen) == 1 else AMBIGUOUS
        # Almost every request. As in `first`, without a call for each.
        text = path.decode("utf-8", "surrogateescape")
        for index, matches in checks:
            if matches(text):
                return index
        return otherwise

    return choose


def _folded(host: bytes) -> bytes:
    """A name as it is compared (RFC 4343, and a root label that may be written or not)."""
    return host.lower().removesuffix(b".")


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
    return Ingress([Rule(service, origin_request=settings)], defaults=settings)


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
        [_read_rule(section, section is sections[-1], defaults) for section in sections],
        defaults=OriginRequest(**{**defaults, "ip_rules": ()}),
    )


def _read_rule(section: Section, is_last: bool, defaults: dict[str, Any]) -> Rule:
    section.refuse_unknown(RULE_KEYS, EDGE_KEYS)
    own = read_origin_request(section.section("originRequest"))
    fields = {**defaults, "ip_rules": (), **own}
    origin_request = OriginRequest(**fields)
    service = section.string("service") or ""
    try:
        parsed = parse_service(
            service, bastion_mode=origin_request.bastion_mode, ip_rules=origin_request.ip_rules
        )
    except ValueError as error:
        why = str(error) if service else "a rule needs a service, like http://localhost:8000"
        raise section.error("service", why) from None
    if origin_request.proxy_protocol and isinstance(parsed, HttpService | UnixService):
        raise section.error(
            "service",
            f"{parsed} takes no proxyProtocol: its connections are shared by visitors, who are "
            "named in Cf-Connecting-Ip; set it on rules for tcp:// and its like",
        )
    hostname = section.string("hostname") or ""
    path_text = section.string("path") or ""
    _check_hostname(section, hostname)
    path = _path_pattern(section, path_text) if path_text else None
    written = _as_written(service) if isinstance(parsed, HttpService) else ""
    rule = Rule(parsed, hostname, path, origin_request, written)
    if rule.is_catch_all and not is_last:
        raise _order_error(
            section,
            "it matches every host and path, so the rules after it never apply; move it to the end",
        )
    if is_last and not rule.is_catch_all:
        raise _order_error(
            section,
            "it is the last one and must match everything: give it no hostname and no path, or add "
            "`- service: http_status:404` after it",
        )
    return rule


def _as_written(url: str) -> str:
    """A URL without user name and password, which no origin gets and nobody is to read."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return f"{scheme.lower()}://{rest[authority.rfind('@') + 1 :]}"


def _path_pattern(section: Section, text: str) -> PathPattern:
    # Imported here because most configurations have no path, and start faster without.
    from underpass.connector.path_pattern import PathPattern, PatternError

    try:
        return PathPattern(text)
    except PatternError as error:
        raise section.error(
            "path", f"{text!r} is not a valid regular expression: {error}"
        ) from None


def _check_hostname(section: Section, hostname: str) -> None:
    host = hostname.encode("utf-8", "surrogateescape")
    if split_host_port(host) != host:
        raise section.error("hostname", f"{hostname!r} contains a port; leave it out")
    if hostname.rfind("*") > 0:
        raise section.error(
            "hostname",
            f"{hostname!r} has a '*' that is not its first character; write it like *.example.com",
        )


def _order_error(section: Section, why: str) -> ConfigError:
    return section.document.error(section.path, why)


# UTS #46 keeps these where Unicode case folding would not.
_KEPT = frozenset("ßς\u200c\u200d")
_MAX_LABEL = 63


def _idna(hostname: str) -> str:
    """The ASCII form clients send (IDNA lookup, UTS #46 mapping); unchanged if it has none."""
    if hostname.isascii():
        return hostname
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
