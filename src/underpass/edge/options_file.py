"""The edge's configuration file, `edge.yml`: where it is looked for, and what it says.

Strict: what is not known is an error with its line, and the nearest key that is. Paths are relative
to the file. What a flag says goes before it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from underpass.edge.dashboard.options import DEFAULT_DASHBOARD, DashboardOptions
from underpass.edge.error_pages import ErrorPages
from underpass.edge.errors import EdgeError, HostnameError, OptionsError
from underpass.edge.handover.options import HandoverOptions
from underpass.edge.hostnames import normalize_hostname
from underpass.edge.options import (
    LETS_ENCRYPT,
    AcmeOptions,
    Address,
    EdgeOptions,
    check_hsts,
    parse_workers,
)
from underpass.edge.passthrough import Passthrough
from underpass.edge.sites import COMMON, Site
from underpass.edge.tcp_routes import StreamLimits, TcpRoute
from underpass.edge.timeouts import Timeouts
from underpass.edge.trusted_hops import TrustedHops
from underpass.ops.access_log_options import CHOICES, AccessLogOptions
from underpass.ops.directories import config_directories
from underpass.ops.document import ConfigError, Document, FileState, Section, load_yaml
from underpass.ops.sizes import parse_size

__all__ = ["EdgeFile", "find_edge_file", "load_edge_file", "read_edge_file"]

MAX_SITES: Final = 10_000
"""Hostnames with settings of their own."""

_NAME: Final = "edge.yml"
_KEYS: Final = frozenset(
    {
        *("data-dir", "domain", "location", "management-hostname", "workers", "listen", "log"),
        *("access-log", "certificates", "acme", "redirect", "hsts", "max-body", "timeouts"),
        *("error-pages", "compress", "drain", "hostnames", "tcp", "trusted-hops", "passthrough"),
        "dashboard",
    }
)
_TCP_KEYS: Final = frozenset(
    {
        *("listen", "hostname", "proxy-protocol", "connections", "connections-per-client"),
        *("connect-timeout", "idle-timeout"),
    }
)
_SITE_KEYS: Final = frozenset(
    {"redirect", "hsts", "max-body", "timeouts", "error-pages", "compress"}
)
_LOG_KEYS: Final = {
    "level": "loglevel",
    "format": "output",
    "file": "logfile",
    "directory": "log-directory",
}
_ACCESS_LOG_KEYS: Final = {
    "file": "access-log",
    "format": "access-log-format",
    "query": "access-log-query",
}

T = TypeVar("T")


class EdgeFile(Struct, frozen=True):
    """What a file says: fields of `EdgeOptions`, and by the names of flags what is about logs.

    `state` is the file's just before it was read.
    """

    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    logging: Mapping[str, str] = field(default_factory=dict)
    state: FileState | None = None


def find_edge_file() -> Path | None:
    """The first `edge.yml` where files are looked for, and in /etc/underpass."""
    directories = [*config_directories()[:1]]
    if os.name != "nt":
        directories.append(Path("/etc/underpass"))
    for directory in directories:
        path = directory / _NAME
        if path.is_file() and os.access(path, os.R_OK):
            return path
    return None


def load_edge_file(path: Path) -> EdgeFile:
    """Read and check a file. Raises ConfigError."""
    document, state = load_yaml(path)
    return read_edge_file(document, path.absolute(), state)


def read_edge_file(document: Document, path: Path, state: FileState | None = None) -> EdgeFile:
    """What a document says. Raises ConfigError."""
    root = document.root
    root.refuse_unknown(_KEYS)
    reader = _Reader(path.parent)
    logging = {
        **_texts(root.section("log"), _LOG_KEYS),
        **_texts(root.section("access-log"), _ACCESS_LOG_KEYS),
    }
    values = {name: value for name, value in reader.options(root) if value is not None}
    try:
        # What is wrong only together with something else.
        EdgeOptions(**values)
        AccessLogOptions.parse(
            logging.get("access-log", ""),
            *(logging.get(name, choices[0]) for name, choices in CHOICES.items()),
        )
    except (OptionsError, ValueError) as error:
        raise ConfigError(f"{document.name}: {error}") from None
    return EdgeFile(path, values, logging, state)


def _texts(section: Section, names: Mapping[str, str]) -> dict[str, str]:
    section.refuse_unknown(frozenset(names))
    texts = {name: section.string(key) for key, name in names.items()}
    return {name: text for name, text in texts.items() if text is not None}


class _Reader:
    """Reads the parts of a document in whose directory `base` is."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def options(self, root: Section) -> Iterator[tuple[str, Any]]:
        """Fields of `EdgeOptions` and their values, None for what is not there."""
        yield "data_dir", self._path(root, "data-dir")
        yield "domain", _parsed(root, "domain", normalize_hostname)
        yield "location", root.string("location")
        yield "management_hostname", _parsed(root, "management-hostname", normalize_hostname)
        yield "workers", _workers(root)
        yield from self._listeners(root.section("listen"))
        yield "certificates", self._certificates(root)
        yield "acme", self._acme(root)
        yield "trusted_hops", _list(root, "trusted-hops", TrustedHops)
        yield "passthrough", _list(root, "passthrough", Passthrough)
        common = Site("", **self._manners(root, COMMON))
        yield "timeouts", common.timeouts
        yield "max_body", common.max_body
        yield "redirect", common.redirect
        yield "hsts_seconds", common.hsts_seconds
        yield "error_pages", common.error_pages and Path(common.error_pages)
        yield "compress", common.compress
        yield "handover", _handover(root)
        yield "sites", self._sites(root, common)
        yield "dashboard", self._dashboard(root)
        yield "tcp", self._tcp(root)

    def _listeners(self, section: Section) -> Iterator[tuple[str, Any]]:
        section.refuse_unknown(frozenset({"https", "http", "tunnel", "api", "metrics"}))
        for name in ("https", "http", "api", "metrics"):
            yield name, _parsed(section, name, Address.parse)
        if isinstance(section.values.get("tunnel"), list):
            texts = section.strings("tunnel") or ()
            if not texts:
                raise section.error("tunnel", "an edge needs at least one address for connectors")
            yield "tunnels", tuple(_checked(section, "tunnel", Address.parse, it) for it in texts)
        else:
            address = _parsed(section, "tunnel", Address.parse)
            yield "tunnels", None if address is None else (address,)

    def _certificates(self, root: Section) -> tuple[tuple[Path, Path], ...] | None:
        found = []
        for entry in root.sections("certificates"):
            entry.refuse_unknown(frozenset({"chain", "key"}))
            chain = self._path(entry, "chain")
            if chain is None:
                raise entry.error("chain", "is missing: give the file with the certificates")
            found.append((chain, self._path(entry, "key") or chain))
        return tuple(found) or None

    def _acme(self, root: Section) -> AcmeOptions | None:
        if "acme" not in root.values:
            return None
        section = root.section("acme")
        section.refuse_unknown(frozenset({"email", "directory", "roots", "dns-hook", "challenge"}))
        directory = section.string("directory") or LETS_ENCRYPT
        if not directory.startswith("https://"):
            raise section.error("directory", f"{directory!r} is not an https address")
        roots, hook = self._path(section, "roots"), section.string("dns-hook") or ""
        challenge = section.string("challenge") or ""
        return _checked(
            section,
            "challenge",
            lambda way: AcmeOptions(directory, section.string("email") or "", roots, hook, way),
            challenge,
        )

    def _dashboard(self, root: Section) -> DashboardOptions | None:
        section = root.section("dashboard")
        section.refuse_unknown(frozenset({"hostname", "recent-requests"}))
        if "dashboard" not in root.values:
            return None
        recent = section.boolean("recent-requests")
        return DashboardOptions(
            _parsed(section, "hostname", normalize_hostname) or "",
            DEFAULT_DASHBOARD.recent_requests if recent is None else recent,
        )

    def _sites(self, root: Section, common: Site) -> tuple[Site, ...]:
        section = root.section("hostnames")
        if len(section.values) > MAX_SITES:
            raise root.error("hostnames", f"more than {MAX_SITES}")
        sites: dict[str, Site] = {}
        for text in section.values:
            name = _checked(section, text, lambda it: normalize_hostname(it, wildcard=True), text)
            if name in sites:
                raise section.error(text, "is there twice, in another spelling")
            entry = section.section(text)
            entry.refuse_unknown(_SITE_KEYS)
            sites[name] = Site(name, **self._manners(entry, common))
        return tuple(sites.values())

    def _tcp(self, root: Section) -> tuple[TcpRoute, ...] | None:
        """Public ports."""
        routes = []
        for entry in root.sections("tcp"):
            entry.refuse_unknown(_TCP_KEYS)
            address = _parsed(entry, "listen", Address.parse)
            hostname = entry.string("hostname")
            if address is None or hostname is None:
                missing = "hostname" if hostname is None else "listen"
                raise entry.error(
                    missing, "is missing: a public port has an address and a hostname"
                )
            limits = {
                "connections": entry.integer("connections"),
                "per_client": entry.integer("connections-per-client"),
                "connect_seconds": entry.duration("connect-timeout"),
                "idle_seconds": entry.duration("idle-timeout"),
            }
            told = {name: value for name, value in limits.items() if value is not None}
            proxy_protocol = entry.string("proxy-protocol") or ""
            try:
                limit = StreamLimits(**told)  # type: ignore[arg-type]  # integers and durations
                routes.append(TcpRoute(address, hostname, limit, proxy_protocol))
            except OptionsError as error:
                raise entry.error("listen", str(error)) from None
        return tuple(routes) or None

    def _manners(self, section: Section, common: Site) -> dict[str, Any]:
        """What can be set for all hostnames, and for one."""
        timeouts = section.section("timeouts")
        timeouts.refuse_unknown(frozenset({"first-byte", "idle", "total"}))
        patience = {
            name: common_value if given is None else given
            for name, common_value, given in (
                ("first_byte", common.timeouts.first_byte, timeouts.duration("first-byte")),
                ("idle", common.timeouts.idle, timeouts.duration("idle")),
                ("total", common.timeouts.total, timeouts.duration("total")),
            )
        }
        try:
            allowed = Timeouts(**patience)
        except OptionsError as error:
            raise section.error("timeouts", str(error)) from None
        hsts = section.integer("hsts")
        if hsts is not None:
            _checked(section, "hsts", check_hsts, hsts)
        redirect = section.boolean("redirect")
        compress = section.boolean("compress")
        size = _size(section)
        pages = self._path(section, "error-pages")
        if pages is not None:
            _checked(section, "error-pages", ErrorPages.load, pages)
        return {
            "timeouts": allowed,
            "max_body": common.max_body if size is None else size,
            "redirect": common.redirect if redirect is None else redirect,
            "hsts_seconds": common.hsts_seconds if hsts is None else hsts,
            "compress": common.compress if compress is None else compress,
            "error_pages": common.error_pages if pages is None else str(pages),
        }

    def _path(self, section: Section, key: str) -> Path | None:
        text = section.string(key)
        return None if not text else self._base / Path(text).expanduser()


def _parsed(section: Section, key: str, parse: Callable[[str], T]) -> T | None:
    text = section.string(key)
    return None if text is None else _checked(section, key, parse, text)


def _checked(section: Section, key: str, parse: Callable[[Any], T], value: object) -> T:
    try:
        return parse(value)
    except (EdgeError, HostnameError, ValueError) as error:
        raise section.error(key, str(error)) from None


def _list(section: Section, key: str, made: Callable[[tuple[str, ...]], T]) -> T | None:
    texts = section.strings(key)
    return None if texts is None else _checked(section, key, made, tuple(texts))


def _workers(root: Section) -> int | None:
    if isinstance(root.values.get("workers"), str):
        return _parsed(root, "workers", parse_workers)
    count = root.integer("workers")
    return None if count is None else _checked(root, "workers", parse_workers, str(count))


def _handover(root: Section) -> HandoverOptions | None:
    seconds = root.duration("drain")
    return None if seconds is None else _checked(root, "drain", HandoverOptions, seconds)


def _size(section: Section) -> int | None:
    if isinstance(section.values.get("max-body"), str):
        return _parsed(section, "max-body", parse_size)
    size = section.integer("max-body")
    return None if size is None else _checked(section, "max-body", parse_size, str(size))
