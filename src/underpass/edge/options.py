"""What `underpass edge run` is told: addresses, domain, data directory. Values only, no effects."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from underpass.edge.dashboard.options import DEFAULT_DASHBOARD, DashboardOptions
from underpass.edge.errors import EdgeError, OptionsError
from underpass.edge.handover.options import DEFAULT_HANDOVER, HandoverOptions
from underpass.edge.hostnames import normalize_hostname
from underpass.edge.passthrough import NO_PASSTHROUGH, Passthrough
from underpass.edge.sites import Site
from underpass.edge.timeouts import DEFAULT_TIMEOUTS, Timeouts
from underpass.edge.trusted_hops import NO_HOPS, TrustedHops
from underpass.ops.access_log_options import AccessLogOptions
from underpass.ops.processors import available_processors
from underpass.ops.sizes import parse_size

if TYPE_CHECKING:
    from underpass.edge.tcp_routes import TcpRoute

DEFAULT_DOMAIN = "localhost"
"""Browsers, curl and systemd-resolved resolve every name below it to loopback (RFC 6761 §6.3)."""
DEFAULT_LOCATION = "local01"
"""Told to connectors at registration, which log it and use it as a metric label."""

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
"""The authority that is asked unless another is named (RFC 8555 §7.1.1)."""

HTTP_01, TLS_ALPN_01, DNS_01 = CHALLENGES = ("http-01", "tls-alpn-01", "dns-01")
"""How an authority can be shown that a name is ours (RFC 8555 §8, RFC 8737)."""

MAX_WORKERS = 64
"""Worker processes; each is connected to all others."""

MAX_HSTS_SECONDS = 10 * 365 * 86400
"""Browsers keep what they were told, so what is longer is a slip of the hand."""

_MAX_PORT = 65535
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_LOCATION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: `host` (a name, IPv4 or IPv6 without brackets; empty: every interface) and
    `port` (0: the system picks one).
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (every interface).

        Raises:
            OptionsError: the text has another form, or the port is not within 0..65535.
        """
        shape = "write HOST:PORT, [IPV6]:PORT or :PORT"
        host, colon, port = text.rpartition(":")
        if not colon:
            raise OptionsError(f"address {text!r} has no port: {shape}")
        if host.startswith("[") or host.endswith("]"):
            host = host.removeprefix("[").removesuffix("]")
            if f"[{host}]:{port}" != text or not _is_ipv6(host):
                raise OptionsError(f"address {text!r} has no IPv6 address in its brackets: {shape}")
        elif ":" in host:
            raise OptionsError(f"address {text!r}: put an IPv6 address in brackets, [IPV6]:PORT")
        elif host and not _HOST.fullmatch(host):
            raise OptionsError(f"address {text!r} has a malformed host: {shape}")
        if not (port.isascii() and port.isdecimal()) or len(port) > 5 or int(port) > _MAX_PORT:
            raise OptionsError(f"address {text!r} has no port within 0..{_MAX_PORT}: {shape}")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_HTTPS = Address("127.0.0.1", 8443)
DEFAULT_HTTP = Address("127.0.0.1", 8080)
DEFAULT_TUNNEL = Address("127.0.0.1", 7844)
"""7844 is the port connectors dial in production (docs: wire protocol §1.1)."""
DEFAULT_API = Address("127.0.0.1", 8081)


@dataclass(frozen=True, slots=True)
class AcmeOptions:
    """Whom to ask, and how to prove that a name is ours.

    `email` may be empty. `authority_roots` is a PEM file that the authority itself is verified
    with, for one of one's own. `dns_hook` is a command line; without one, names are proved by
    HTTP, which cannot be done for wildcards. `challenge` chooses otherwise, for all but those.

    Raises:
        OptionsError: there is no such challenge, or one by DNS without a hook.
    """

    directory: str = LETS_ENCRYPT
    email: str = ""
    authority_roots: Path | None = None
    dns_hook: str = ""
    challenge: str = ""
    """One of CHALLENGES; empty: by DNS if there is a hook, else by HTTP."""

    def __post_init__(self) -> None:
        if self.challenge not in ("", *CHALLENGES):
            raise OptionsError(
                f"ACME challenge {self.challenge!r}: choose one of {', '.join(CHALLENGES)}"
            )
        if self.challenge == DNS_01 and not self.dns_hook:
            raise OptionsError(f"ACME challenge {DNS_01} needs a DNS hook")

    @property
    def way(self) -> str:
        """How names that are no wildcards are proved: one of CHALLENGES."""
        return self.challenge or (DNS_01 if self.dns_hook else HTTP_01)


def default_data_dir() -> Path:
    """The user's place for application data: XDG, or what macOS and Windows have instead."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        base = Path(local) if local else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        # The specification has relative values ignored.
        configured = Path(os.environ.get("XDG_DATA_HOME", ""))
        base = configured if configured.is_absolute() else Path.home() / ".local" / "share"
    return base / "underpass" / "edge"


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """Everything an edge is told."""

    data_dir: Path = field(default_factory=default_data_dir)
    """Holds the store, the certificate authority and the lock; made when missing."""
    https: Address = DEFAULT_HTTPS
    """Public listener with TLS (HTTP/1.1 and HTTP/2 by ALPN)."""
    http: Address = DEFAULT_HTTP
    """Public listener without TLS."""
    tunnels: tuple[Address, ...] = (DEFAULT_TUNNEL,)
    """Where connectors dial in; at least one."""
    api: Address = DEFAULT_API
    """The control API."""
    domain: str = DEFAULT_DOMAIN
    """Quick tunnels get names below it."""
    location: str = DEFAULT_LOCATION
    """What connectors are told they are connected to."""
    max_body: int | None = None
    """Bytes of content a visitor's request may have; more is answered with 413. None: no limit."""
    workers: int = 1
    """Processes that serve visitors and links. With 1 it is this one."""
    certificates: tuple[tuple[Path, Path], ...] = ()
    """Certificate files for the public listener: chain and key."""
    acme: AcmeOptions | None = None
    """Have a public authority certify the public names; None: do not."""
    redirect: bool = False
    """Send visitors of the plain listener to the one with TLS."""
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    """How long requests may take."""
    hsts_seconds: int | None = None
    """How long browsers are to come with TLS only (Strict-Transport-Security), where the
    application does not say. None: nothing is said."""
    metrics: Address | None = None
    """For operators: metrics, health, readiness. None: there is no such listener."""
    access_log: AccessLogOptions | None = None
    """Write a line for each visitor's request."""
    management_hostname: str | None = None
    """Where connectors' management services are asked (`tail`). None: below `domain`."""
    error_pages: Path | None = None
    """A directory with pages of one's own: see ErrorPages. None: there are none."""
    compress: bool = False
    """Code responses with gzip, for visitors who accept that."""
    sites: tuple[Site, ...] = ()
    """Hostnames with settings of their own."""
    dashboard: DashboardOptions = DEFAULT_DASHBOARD
    """Pages for people."""
    handover: HandoverOptions = DEFAULT_HANDOVER
    """How it makes way for the next process."""
    trusted_hops: TrustedHops = NO_HOPS
    """Load balancers before the public listeners, which say by PROXY headers who visitors are."""
    passthrough: Passthrough = NO_PASSTHROUGH
    """Hostnames whose TLS ends at the application."""
    tcp: tuple[TcpRoute, ...] = ()
    """Public ports that carry bytes to a hostname's tunnel as they are."""

    def __post_init__(self) -> None:
        if not self.tunnels:
            raise OptionsError("an edge needs at least one tunnel address")
        fixed: set[Address] = set()
        others = [] if self.metrics is None else [self.metrics]
        if self.tcp:
            from underpass.edge.tcp_routes import check_routes  # they need Address

            check_routes(self.tcp)
            others.extend(route.address for route in self.tcp)
        for address in (self.https, self.http, self.api, *self.tunnels, *others):
            if address.port and address in fixed:
                raise OptionsError(f"address {address} is given to two listeners")
            fixed.add(address)
        if self.max_body is not None and self.max_body < 0:
            raise OptionsError(f"--max-body {self.max_body}: a size cannot be negative")
        if self.hsts_seconds is not None:
            check_hsts(self.hsts_seconds, "--hsts ")
        if not 1 <= self.workers <= MAX_WORKERS:
            raise OptionsError(
                f"--workers {self.workers} is not auto or between 1 and {MAX_WORKERS}"
            )
        if self.workers > 1 and sys.platform == "win32":
            raise OptionsError("--workers: more than one is not supported on Windows")
        if not _LOCATION.fullmatch(self.location):
            raise OptionsError(
                f"location {self.location!r}: use 1 to 32 lower-case letters, digits and hyphens"
            )

        name = self.dashboard.hostname
        if name and name == self.management:
            raise OptionsError(f"{name} is given to the dashboard and to management services")
        if name and self.passthrough.covers(name):
            raise OptionsError(
                f"{name} is given to the dashboard, whose TLS ends here, and passed through"
            )

    @property
    def common(self) -> Site:
        """How requests are dealt with whose hostname has no settings of its own."""
        return Site(
            "",
            self.timeouts,
            self.max_body,
            self.redirect,
            self.hsts_seconds,
            None if self.error_pages is None else str(self.error_pages),
            self.compress,
        )

    @property
    def management(self) -> str:
        """The hostname of connectors' management services."""
        return self.management_hostname or f"management.{self.domain}"

    @classmethod
    def parse(cls, base: Mapping[str, Any] = MappingProxyType({}), /, **values: Any) -> EdgeOptions:
        """Options from what a command line gives: fields, as text where _READERS knows how to read
        it. None is for what `base` has, a file's values by field, else the default.

        Raises:
            OptionsError: a value cannot be understood; the text names the option.
        """
        given = {
            name: _parse_option(name, value) if name in _READERS else value
            for name, value in values.items()
            if value is not None
        }
        return cls(**{**base, **given})


def _parse_option(name: str, value: Any) -> Any:
    option, read = _READERS[name]
    try:
        return tuple(map(read, value)) if isinstance(value, tuple) else read(value)
    except (EdgeError, ValueError) as error:
        raise OptionsError(f"{option}: {error}") from error


def _parse_certificate(text: str) -> tuple[Path, Path]:
    """`CHAIN,KEY`, or one file with both."""
    chain, _, key = text.partition(",")
    if not chain:
        raise OptionsError(f"{text!r}: write FILE, or CHAIN,KEY")
    path = Path(chain).expanduser().absolute()
    return path, Path(key).expanduser().absolute() if key else path


def parse_workers(text: str) -> int:
    """How many processes `auto`, or a number, is. Raises OptionsError."""
    if text == "auto":
        return 1 if sys.platform == "win32" else min(available_processors(), MAX_WORKERS)
    count = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else 0
    if not 1 <= count <= MAX_WORKERS:
        raise OptionsError(f"{text} is not auto or between 1 and {MAX_WORKERS}")
    return count


def check_hsts(seconds: int, name: str = "") -> None:
    """Raise OptionsError for what no browser should be told; `name` goes before the number."""
    if not 0 <= seconds <= MAX_HSTS_SECONDS:
        raise OptionsError(f"{name}{seconds}: give between 0 and {MAX_HSTS_SECONDS} seconds")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


_READERS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "data_dir": ("--data-dir", lambda text: Path(text).expanduser()),
    "https": ("--https", Address.parse),
    "http": ("--http", Address.parse),
    "tunnels": ("--tunnel", Address.parse),
    "api": ("--api", Address.parse),
    "metrics": ("--metrics", Address.parse),
    "domain": ("--domain", normalize_hostname),
    "management_hostname": ("--management-hostname", normalize_hostname),
    "max_body": ("--max-body", parse_size),
    "workers": ("--workers", parse_workers),
    "certificates": ("--certificate", _parse_certificate),
}
"""Fields that a command line gives as text, or several texts: the option, and how it is read."""
