"""What `underpass edge run` is told: addresses, domain, data directory. Values only, no effects."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from underpass.edge.dashboard.options import DEFAULT_DASHBOARD, DashboardOptions
from underpass.edge.errors import HostnameError, OptionsError
from underpass.edge.hostnames import normalize_hostname
from underpass.edge.timeouts import DEFAULT_TIMEOUTS, Timeouts
from underpass.ops.access_log_options import AccessLogOptions
from underpass.ops.processors import available_processors

DEFAULT_HTTPS = "127.0.0.1:8443"
DEFAULT_HTTP = "127.0.0.1:8080"
DEFAULT_TUNNEL = "127.0.0.1:7844"
"""7844 is the port connectors dial in production (docs: wire protocol §1.1)."""
DEFAULT_API = "127.0.0.1:8081"
DEFAULT_DOMAIN = "localhost"
"""Browsers, curl and systemd-resolved resolve every name below it to loopback (RFC 6761 §6.3)."""
DEFAULT_LOCATION = "local01"
"""Told to connectors at registration, which log it and use it as a metric label."""

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
"""The authority that is asked unless another is named (RFC 8555 §7.1.1)."""

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


@dataclass(frozen=True, slots=True)
class AcmeOptions:
    """Whom to ask, and how to prove that a name is ours.

    `email` may be empty. `authority_roots` is a PEM file that the authority itself is verified
    with, for one of one's own. `dns_hook` is a command line; without one, names are proved by
    HTTP, which cannot be done for wildcards.
    """

    directory: str = LETS_ENCRYPT
    email: str = ""
    authority_roots: Path | None = None
    dns_hook: str = ""


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """Everything an edge is told at start."""

    data_dir: Path
    """Holds the store, the certificate authority and the lock; made when missing."""
    https: Address
    """Public listener with TLS (HTTP/1.1 and HTTP/2 by ALPN)."""
    http: Address
    """Public listener without TLS."""
    tunnels: tuple[Address, ...]
    """Where connectors dial in; at least one."""
    api: Address
    """The control API."""
    domain: str
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
    management_hostname: str = ""
    """Where connectors' management services are asked (`tail`). Empty: nowhere."""
    dashboard: DashboardOptions = DEFAULT_DASHBOARD
    """Pages for people."""

    def __post_init__(self) -> None:
        if not self.tunnels:
            raise OptionsError("an edge needs at least one tunnel address")
        fixed: set[Address] = set()
        metrics = () if self.metrics is None else (self.metrics,)
        for address in (self.https, self.http, self.api, *self.tunnels, *metrics):
            if address.port and address in fixed:
                raise OptionsError(f"address {address} is given to two listeners")
            fixed.add(address)
        if self.max_body is not None and self.max_body < 0:
            raise OptionsError(f"--max-body {self.max_body}: a size cannot be negative")
        if self.hsts_seconds is not None and not 0 <= self.hsts_seconds <= MAX_HSTS_SECONDS:
            raise OptionsError(
                f"--hsts {self.hsts_seconds}: give between 0 and {MAX_HSTS_SECONDS} seconds"
            )
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

    @classmethod
    def parse(
        cls,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        https: str = DEFAULT_HTTPS,
        http: str = DEFAULT_HTTP,
        tunnels: tuple[str, ...] = (DEFAULT_TUNNEL,),
        api: str = DEFAULT_API,
        domain: str = DEFAULT_DOMAIN,
        location: str = DEFAULT_LOCATION,
        max_body: int | None = None,
        workers: str = "1",
        certificates: tuple[str, ...] = (),
        acme: AcmeOptions | None = None,
        redirect: bool = False,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        hsts_seconds: int | None = None,
        metrics: str | None = None,
        access_log: AccessLogOptions | None = None,
        management_hostname: str | None = None,
        dashboard: DashboardOptions = DEFAULT_DASHBOARD,
    ) -> EdgeOptions:
        """Options from what a command line gives: text, or nothing for the default.

        Raises:
            OptionsError: a value cannot be understood; the text names the option.
        """
        try:
            domain = normalize_hostname(domain)
        except HostnameError as error:
            raise OptionsError(f"--domain: {error}") from error
        if management_hostname is None:
            management_hostname = f"management.{domain}"
        else:
            try:
                management_hostname = normalize_hostname(management_hostname)
            except HostnameError as error:
                raise OptionsError(f"--management-hostname: {error}") from error
        return cls(
            data_dir=Path(data_dir).expanduser() if data_dir else default_data_dir(),
            https=_parse_option("--https", https),
            http=_parse_option("--http", http),
            tunnels=tuple(_parse_option("--tunnel", text) for text in tunnels),
            api=_parse_option("--api", api),
            domain=domain,
            location=location,
            max_body=max_body,
            workers=_parse_workers(workers),
            certificates=tuple(map(_parse_certificate, certificates)),
            acme=acme,
            redirect=redirect,
            timeouts=timeouts,
            hsts_seconds=hsts_seconds,
            metrics=None if metrics is None else _parse_option("--metrics", metrics),
            access_log=access_log,
            management_hostname=management_hostname,
            dashboard=dashboard,
        )


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


def _parse_option(option: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except OptionsError as error:
        raise OptionsError(f"{option}: {error}") from error


def _parse_certificate(text: str) -> tuple[Path, Path]:
    """`CHAIN,KEY`, or one file with both."""
    chain, _, key = text.partition(",")
    if not chain:
        raise OptionsError(f"--certificate {text!r}: write FILE, or CHAIN,KEY")
    path = Path(chain).expanduser().absolute()
    return path, Path(key).expanduser().absolute() if key else path


def _parse_workers(text: str) -> int:
    if text == "auto":
        return 1 if sys.platform == "win32" else min(available_processors(), MAX_WORKERS)
    if not (text.isascii() and text.isdecimal()) or len(text) > 5:
        raise OptionsError(f"--workers {text} is not auto or between 1 and {MAX_WORKERS}")
    return int(text)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
