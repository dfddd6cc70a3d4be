"""What a running connector is told: one frozen value, made from settings and configuration."""

from __future__ import annotations

import ipaddress
import logging
import re
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import field
from msgspec.structs import replace

from underpass.connector.config import Config
from underpass.connector.edges import parse_edge
from underpass.connector.homes import Home, HomeEntry
from underpass.connector.ingress import Ingress, single_rule
from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import (
    Bastion,
    HelloWorld,
    HttpStatus,
    Service,
    UnixService,
    parse_url_flag,
)
from underpass.connector.settings import SettingError, Settings
from underpass.ops.access_log_options import AccessLogOptions
from underpass.ops.durations import format_duration
from underpass.ops.processors import available_processors
from underpass.wire.credentials import Credentials

__all__ = ["DEFAULT_METRICS", "ORIGINS", "ConnectorOptions", "build_homes", "build_options"]

ORIGINS = ("url", "unix-socket", "hello-world", "bastion")
"""The settings that name the one origin of a tunnel without rules."""

DEFAULT_METRICS = "localhost:0"

DEFAULT_MANAGEMENT_HOSTNAME = "management.argotunnel.com"

DEFAULT_SERVICE_ADDRESS = ("198.41.200.113", 80)
"""An address that lies where the edge does, when the edge's own are not known beforehand."""

# Seconds; cloudflared's own limit.
LONGEST_GRACE_PERIOD = 180.0
# Links of one connector; conn_index is eight bits on the wire, and no edge wants that many.
MAX_HA_CONNECTIONS = 64
# Each has at least one link.
MAX_WORKERS = MAX_HA_CONNECTIONS
# 2^20 seconds are twelve days.
MAX_RETRIES = 20
MAX_TAGS = 64
# What `max-active-flows` can say; more streams than that nobody has.
MAX_FLOWS = (1 << 63) - 1

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_TAG_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_TAG_VALUE = re.compile(r"[\x20-\x7e]*\Z")


class ConnectorOptions(Home, frozen=True):
    """Everything a connector needs. Durations are seconds.

    It is its own home, unless `homes` are named. `quick_hostname` is the name a quick tunnel got,
    without a scheme. `credentials` None is allowed only until a quick tunnel has supplied them.
    `max_active_flows` wins over every configuration; None when it was not given.
    `management_hostname` "" means no management service.
    """

    ingress: Ingress
    homes: tuple[Home, ...] = ()
    workers: int = 1
    retries: int = 5
    max_edge_addr_retries: int = 8
    grace_period: float = 30.0
    rpc_timeout: float = 5.0
    tags: tuple[tuple[str, str], ...] = ()
    max_active_flows: int | None = None
    metrics: str = DEFAULT_METRICS
    pidfile: Path | None = None
    access_log: AccessLogOptions | None = None
    label: str = ""
    stdin_control: bool = False
    management_hostname: str = DEFAULT_MANAGEMENT_HOSTNAME
    management_diagnostics: bool = True
    service_op_ip: tuple[str, int] | None = None
    quick_hostname: str = ""
    prechecks: bool = False
    connector_id: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def all_homes(self) -> tuple[Home, ...]:
        """The homes named, or the one that has no name."""
        return self.homes or (self,)


def build_options(settings: Settings, config: Config) -> ConnectorOptions:
    """Check and gather everything but the credentials. Raises SettingError."""
    cacert = settings.text("cacert")
    pidfile = settings.text("pidfile")
    ha_connections = _within(settings, "ha-connections", 1, MAX_HA_CONNECTIONS)
    max_active_flows = _max_active_flows(settings)
    routing = config.warp_routing
    if max_active_flows is not None:
        routing = replace(routing, max_active_flows=max_active_flows)
    ingress = config.ingress or _single_origin(settings)
    bind = _bind_address(settings.text("edge-bind-address"))
    return ConnectorOptions(
        ingress=ingress.with_warp_routing(routing),
        edges=_edges(settings.list("edge")),
        cacert=Path(cacert).expanduser() if cacert else None,
        protocol=_protocol(settings.text("protocol")),
        region=settings.text("region"),
        edge_ip_version=_family(_ip_version(settings.text("edge-ip-version")), bind),
        edge_bind_address=bind,
        edge_proxy=_edge_proxy(settings.text("edge-proxy")),
        ha_connections=ha_connections,
        workers=_workers(settings, ha_connections),
        retries=_within(settings, "retries", 0, MAX_RETRIES),
        max_edge_addr_retries=_within(settings, "max-edge-addr-retries", 0, 255),
        grace_period=_grace_period(settings.seconds("grace-period")),
        rpc_timeout=_positive(settings, "rpc-timeout"),
        tags=_tags(settings.list("tag")),
        max_active_flows=max_active_flows,
        metrics=settings.text("metrics") or DEFAULT_METRICS,
        pidfile=Path(pidfile).expanduser() if pidfile else None,
        access_log=_access_log(settings),
        label=settings.text("label"),
        stdin_control=settings.boolean("stdin-control"),
        management_hostname=_management_hostname(settings),
        management_diagnostics=settings.boolean("management-diagnostics"),
        service_op_ip=_service_address(settings),
        prechecks=not settings.boolean("no-prechecks"),
    )


def build_homes(
    entries: Sequence[HomeEntry],
    options: ConnectorOptions,
    credentials_of: Callable[[HomeEntry], Credentials],
) -> tuple[Home, ...]:
    """The homes of a configuration file. What an entry does not say is as `options` have it, but
    for addresses and trust, which are each home's own.

    Raises SettingError, and what `credentials_of` and the entries' `error` make.
    """
    for name, value in (
        ("edge", options.edges),
        ("cacert", options.cacert),
        ("region", options.region),
    ):
        if value:
            raise SettingError(
                f"{name} is given beside `homes`: write it into the home that it is meant for"
            )
    homes = tuple(_home(entry, options, credentials_of(entry)) for entry in entries)
    links = sum(home.ha_connections for home in homes)
    if links > MAX_HA_CONNECTIONS:
        raise SettingError(f"the homes have {links} connections, more than {MAX_HA_CONNECTIONS}")
    return homes


def _home(entry: HomeEntry, options: ConnectorOptions, credentials: Credentials) -> Home:
    def checked(key: str, check: Callable[[str], _T], value: str | None, default: _T) -> _T:
        if value is None:
            return default
        try:
            return check(value)
        except ValueError as error:
            raise entry.error(key, str(error)) from None

    region = entry.region or ""
    if region and credentials.endpoint:
        raise entry.error("region", "cannot be used with credentials that name their own endpoint")
    links = options.ha_connections if entry.ha_connections is None else entry.ha_connections
    if not 1 <= links <= MAX_HA_CONNECTIONS:
        raise entry.error("ha-connections", f"{links} is not between 1 and {MAX_HA_CONNECTIONS}")
    try:
        edges = _edges(entry.edge)
    except SettingError as error:
        raise entry.error("edge", str(error)) from None
    bind = checked(
        "edge-bind-address", _bind_address, entry.edge_bind_address, options.edge_bind_address
    )
    wanted = checked("edge-ip-version", _ip_version, entry.edge_ip_version, options.edge_ip_version)
    return Home(
        name=entry.name,
        credentials=credentials,
        edges=edges,
        cacert=Path(entry.cacert).expanduser() if entry.cacert else None,
        protocol=checked("protocol", _protocol, entry.protocol, options.protocol),
        region=region,
        edge_ip_version=_family(wanted, bind),
        edge_bind_address=bind,
        edge_proxy=checked("edge-proxy", _edge_proxy, entry.edge_proxy, options.edge_proxy),
        ha_connections=links,
    )


def _access_log(settings: Settings) -> AccessLogOptions | None:
    target, form, query = map(
        settings.text, ("access-log", "access-log-format", "access-log-query")
    )
    try:
        return AccessLogOptions.parse(target, form, query)
    except ValueError as error:
        raise SettingError(str(error)) from None


def _single_origin(settings: Settings) -> Ingress:
    """The origin given by flags; without one, every request is answered with 503."""
    return single_rule(_single_service(settings), _origin_request(settings))


def _single_service(settings: Settings) -> Service:
    if settings.is_set("hello-world"):
        return HelloWorld()
    if settings.is_set("bastion"):
        return Bastion()
    if settings.is_set("url"):
        try:
            return parse_url_flag(settings.text("url"))
        except ValueError as error:
            raise SettingError(f"--url: {error}") from None
    if settings.is_set("unix-socket"):
        path = settings.text("unix-socket")
        if not path:
            raise SettingError("--unix-socket: the path is empty")
        return UnixService(path)
    return HttpStatus(503)


def _origin_request(settings: Settings) -> OriginRequest:
    connections = settings.integer("proxy-keepalive-connections")
    if connections < 0:
        raise SettingError("--proxy-keepalive-connections: cannot be smaller than 0")
    return OriginRequest(
        connect_timeout=settings.seconds("proxy-connect-timeout"),
        tls_timeout=settings.seconds("proxy-tls-timeout"),
        tcp_keep_alive=settings.seconds("proxy-tcp-keepalive"),
        no_happy_eyeballs=settings.boolean("proxy-no-happy-eyeballs"),
        keep_alive_connections=connections,
        keep_alive_timeout=settings.seconds("proxy-keepalive-timeout"),
        http_host_header=settings.text("http-host-header"),
        origin_server_name=settings.text("origin-server-name"),
        ca_pool=settings.text("origin-ca-pool"),
        no_tls_verify=settings.boolean("no-tls-verify"),
        disable_chunked_encoding=settings.boolean("no-chunked-encoding"),
        http2_origin=settings.boolean("http2-origin"),
        bastion_mode=settings.is_set("bastion"),
        proxy_address=settings.text("proxy-address"),
        proxy_port=_within(settings, "proxy-port", 0, 65535),
        proxy_type="socks" if settings.boolean("socks5") else "",
    )


def _edges(entries: Sequence[str]) -> tuple[tuple[str, int], ...]:
    try:
        return tuple(parse_edge(part) for entry in entries for part in entry.split(","))
    except ValueError as error:
        raise SettingError(str(error)) from None


def _protocol(text: str) -> str:
    if text in ("auto", "http2", "h2mux"):
        return "http2"
    if text == "quic":
        raise SettingError(
            "--protocol quic is not supported yet; leave --protocol out or use --protocol http2"
        )
    raise SettingError(f"--protocol {text!r} is unknown; use auto or http2")


def _management_hostname(settings: Settings) -> str:
    name = settings.text("management-hostname")
    if not name.isascii() or ":" in name:
        raise SettingError(f"--management-hostname {name!r} is not a hostname in ASCII, or empty")
    return name.lower()


def _service_address(settings: Settings) -> tuple[str, int] | None:
    """Where `host_details` looks for the way to the edge; None for the edge that is given."""
    text = settings.text("service-op-ip")
    try:
        return parse_edge(text) if text else None
    except ValueError as error:
        raise SettingError(f"--service-op-ip: {error}") from None


def _ip_version(text: str) -> str:
    if text not in ("auto", "4", "6"):
        raise SettingError(f"--edge-ip-version {text!r} is not auto, 4 or 6")
    return text


def _bind_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise SettingError(f"--edge-bind-address {text!r} is not an IP address") from None


def _edge_proxy(text: str) -> str:
    if text:
        from underpass.connector.edge_proxy import NO_PROXY_AT_ALL, parse_proxy

        try:
            if text != NO_PROXY_AT_ALL:
                parse_proxy(text)
        except ValueError as error:
            raise SettingError(str(error)) from None
    return text


def _family(ip_version: str, bind: str) -> str:
    """The address family to look for: that of the address to dial from, if there is one."""
    if not bind:
        return ip_version
    bound = str(ipaddress.ip_address(bind).version)
    if ip_version not in ("auto", bound):
        _log.warning(
            "The address to dial the edge from is of another IP version, which counts",
            extra={"edge-bind-address": bind, "edge-ip-version": ip_version},
        )
    return bound


def _grace_period(seconds: float) -> float:
    if not 0 <= seconds <= LONGEST_GRACE_PERIOD:
        longest = format_duration(LONGEST_GRACE_PERIOD)
        raise SettingError(
            f"--grace-period {format_duration(seconds)} is not between 0s and {longest}"
        )
    return seconds


def _positive(settings: Settings, name: str) -> float:
    seconds = settings.seconds(name)
    if seconds <= 0:
        raise SettingError(f"--{name} must be longer than 0s")
    return seconds


def _within(settings: Settings, name: str, low: int, high: int) -> int:
    value = settings.integer(name)
    if not low <= value <= high:
        raise SettingError(f"--{name} {value} is not between {low} and {high}")
    return value


def _max_active_flows(settings: Settings) -> int | None:
    if not settings.is_set("max-active-flows"):
        return None
    return _within(settings, "max-active-flows", 0, MAX_FLOWS)


def _workers(settings: Settings, ha_connections: int) -> int:
    """Worker processes; more than links are brought down when the links are counted."""
    count = settings.count("workers")
    if count is None:
        if sys.platform == "win32":
            return 1
        return min(available_processors(), ha_connections)
    if not 1 <= count <= MAX_WORKERS:
        raise SettingError(f"--workers {count} is not auto or between 1 and {MAX_WORKERS}")
    if count > 1 and sys.platform == "win32":
        raise SettingError("--workers: more than one is not supported on Windows")
    return count


def _tags(entries: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if len(entries) > MAX_TAGS:
        raise SettingError(f"more than {MAX_TAGS} tags")
    tags = []
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not _TAG_NAME.match(name) or not _TAG_VALUE.match(value):
            raise SettingError(
                f"--tag {entry!r} is not KEY=VALUE with a KEY of letters, digits and hyphens"
            )
        tags.append((name, value))
    return tuple(tags)
