"""Every setting of a connector: flag, kind, default, environment variables, configuration key.

Names are cloudflared's (docs: command line §4, §5), so its command lines, environments and files
keep working. Settings which that program accepts without effect, or which belong to what this one
does differently, are accepted too. What would silently do less than asked is refused by name.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from underpass.ops.durations import format_duration, parse_duration

__all__ = ["AUTO", "SETTINGS", "Group", "Kind", "Setting", "Value", "parse_boolean", "spell"]

# A `count` is a whole number, or AUTO.
Kind = Literal["text", "integer", "count", "boolean", "duration", "list"]
Value = str | int | bool | float | tuple[str, ...]

AUTO = "auto"

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_EMPTY: dict[Kind, Value] = {
    "text": "",
    "integer": 0,
    "count": 1,
    "boolean": False,
    "duration": 0.0,
    "list": (),
}


class Group(enum.Enum):
    """Under which heading the help shows a setting."""

    SERVICE = "What to publish"
    IDENTITY = "Which tunnel"
    ACCOUNT = "Account, for commands that manage tunnels"
    EDGE = "Connection to the edge"
    OPERATION = "Running, logging and metrics"
    ORIGIN = "Requests to the origin (without ingress rules)"
    COMPATIBILITY = "Accepted for compatibility, without effect"


class Setting(Struct, frozen=True):
    """One setting. `name` is its flag and its key in the file; durations are seconds.

    `unsupported` says why giving it is an error. `secret` values are never shown.
    """

    name: str
    kind: Kind
    default: Value
    group: Group
    help: str = ""
    environment: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    in_config: bool = True
    hidden: bool = False
    secret: bool = False
    unsupported: str = ""

    def parse(self, text: str) -> Value:
        """Read the text of one flag or variable. Raises ValueError."""
        if self.kind == "boolean":
            return parse_boolean(text)
        if self.kind == "integer":
            try:
                return int(text, 10)
            except ValueError:
                raise ValueError(f"{text!r} is not a whole number") from None
        if self.kind == "count":
            try:
                return text if text == AUTO else int(text, 10)
            except ValueError:
                raise ValueError(f"{text!r} is not a whole number or {AUTO}") from None
        if self.kind == "duration":
            return parse_duration(text)
        return text


def _setting(
    name: str,
    kind: Kind,
    group: Group,
    text: str = "",
    *,
    default: Value | None = None,
    env: str = "",
    aliases: str = "",
    in_config: bool = True,
    hidden: bool = False,
    secret: bool = False,
    unsupported: str = "",
) -> Setting:
    return Setting(
        name=name,
        kind=kind,
        default=_EMPTY[kind] if default is None else default,
        group=group,
        help=text,
        environment=tuple(env.split()),
        aliases=tuple(aliases.split()),
        in_config=in_config,
        hidden=hidden,
        secret=secret,
        unsupported=unsupported,
    )


def _service() -> Iterable[Setting]:
    group = Group.SERVICE
    yield _setting("url", "text", group, "Address of the origin.", env="TUNNEL_URL")
    yield _setting(
        "unix-socket", "text", group, "Origin on a unix socket.", env="TUNNEL_UNIX_SOCKET"
    )
    yield _setting(
        "hello-world", "boolean", group, "Built-in test origin.", env="TUNNEL_HELLO_WORLD"
    )
    yield _setting(
        "bastion", "boolean", group, "Jump host for the visitor's client.", env="TUNNEL_BASTION"
    )
    yield _setting(
        "socks5", "boolean", group, "SOCKS5 in front of a TCP origin.", env="TUNNEL_SOCKS"
    )
    yield _setting(
        "max-active-flows",
        "integer",
        group,
        "Most streams to private networks at once; 0 for any number.",
        env="TUNNEL_MAX_ACTIVE_FLOWS",
    )
    yield _setting(
        "quick-service",
        "text",
        group,
        "Service that creates quick tunnels; without it an edge runs inside this process.",
    )


def _identity() -> Iterable[Setting]:
    group = Group.IDENTITY
    yield _setting(
        "config",
        "text",
        group,
        "Configuration file.",
        in_config=False,
    )
    yield _setting(
        "token", "text", group, "Token of the tunnel to run.", env="TUNNEL_TOKEN", secret=True
    )
    yield _setting(
        "token-file", "text", group, "File that holds the token.", env="TUNNEL_TOKEN_FILE"
    )
    yield _setting(
        "credentials-file",
        "text",
        group,
        "Credentials file of the tunnel.",
        env="TUNNEL_CRED_FILE",
        aliases="cred-file",
    )
    yield _setting(
        "credentials-contents",
        "text",
        group,
        "Contents of the credentials file.",
        env="TUNNEL_CRED_CONTENTS",
        secret=True,
    )


def _account() -> Iterable[Setting]:
    group = Group.ACCOUNT
    yield _setting(
        "origincert",
        "text",
        group,
        "Account certificate; by default the first cert.pem found.",
        env="TUNNEL_ORIGIN_CERT",
    )
    yield _setting(
        "api-url",
        "text",
        group,
        "Address of the account API.",
        default="https://api.cloudflare.com/client/v4",
        env="TUNNEL_API_URL",
    )
    yield _setting("max-fetch-size", "integer", group, env="TUNNEL_MAX_FETCH_SIZE", hidden=True)
    yield _setting(
        "name",
        "text",
        group,
        "Make the tunnel of this name unless there is one, and run it.",
        env="TUNNEL_NAME",
        aliases="n",
    )
    yield _setting(
        "hostname", "text", group, "With --name: lead this hostname to it.", env="TUNNEL_HOSTNAME"
    )
    yield _setting(
        "lb-pool",
        "text",
        group,
        "With --hostname: by a load balancer with this pool.",
        env="TUNNEL_LB_POOL",
    )
    yield _setting(
        "overwrite-dns",
        "boolean",
        group,
        "With --hostname: replace a DNS record that exists.",
        env="TUNNEL_FORCE_PROVISIONING_DNS",
        aliases="f",
        in_config=False,
    )


def _edge() -> Iterable[Setting]:
    group = Group.EDGE
    yield _setting("edge", "list", group, "Edge address host:port; repeatable.", env="TUNNEL_EDGE")
    yield _setting(
        "cacert", "text", group, "Certificates the edge is verified against.", env="TUNNEL_CACERT"
    )
    yield _setting(
        "protocol",
        "text",
        group,
        "Link transport: auto or http2.",
        default="auto",
        env="TUNNEL_TRANSPORT_PROTOCOL",
        aliases="p",
    )
    yield _setting("region", "text", group, "Edge region.", env="TUNNEL_REGION")
    yield _setting(
        "edge-ip-version",
        "text",
        group,
        "Address family of a discovered edge: auto, 4 or 6.",
        default="auto",
        env="TUNNEL_EDGE_IP_VERSION",
    )
    yield _setting(
        "edge-bind-address",
        "text",
        group,
        "Local address to dial the edge from.",
        env="TUNNEL_EDGE_BIND_ADDRESS",
    )
    yield _setting(
        "edge-proxy",
        "text",
        group,
        "Proxy to dial the edge through: http, https, socks5 or socks5h URL; none for no proxy.",
        env="TUNNEL_EDGE_PROXY",
        secret=True,
    )
    yield _setting("ha-connections", "integer", group, "Number of links.", default=4)
    yield _setting(
        "retries",
        "integer",
        group,
        "Waits between attempts grow up to 2^N seconds.",
        default=5,
        env="TUNNEL_RETRIES",
    )
    yield _setting(
        "max-edge-addr-retries",
        "integer",
        group,
        "So many failed addresses count as all of them.",
        default=8,
        hidden=True,
    )
    yield _setting(
        "grace-period",
        "duration",
        group,
        "Longest wait for requests in flight at shutdown.",
        default=30.0,
        env="TUNNEL_GRACE_PERIOD",
    )
    yield _setting("rpc-timeout", "duration", group, "Timeout of registration.", default=5.0)
    yield _setting("tag", "list", group, "KEY=VALUE sent to origins; repeatable.", env="TUNNEL_TAG")
    yield _setting(
        "post-quantum",
        "boolean",
        group,
        env="TUNNEL_POST_QUANTUM",
        aliases="pq",
        hidden=True,
        unsupported="links cannot be restricted to post-quantum key agreement yet",
    )
    yield _setting(
        "stdin-control",
        "boolean",
        group,
        env="STDIN_CONTROL",
        hidden=True,
    )


def _operation() -> Iterable[Setting]:
    group = Group.OPERATION
    yield _setting(
        "workers",
        "count",
        group,
        "Processes that share the links; auto for one a processor.",
        env="TUNNEL_WORKERS",
    )
    yield _setting(
        "metrics",
        "text",
        group,
        "Address of /metrics and /ready; by default the first free port from 20241.",
        default="localhost:0",
        env="TUNNEL_METRICS",
    )
    yield _setting(
        "loglevel",
        "text",
        group,
        "debug, info, warn, error or fatal.",
        default="info",
        env="TUNNEL_LOGLEVEL",
    )
    yield _setting("logfile", "text", group, "Also log to this file.", env="TUNNEL_LOGFILE")
    yield _setting(
        "log-directory",
        "text",
        group,
        "Also log to rotated files in this directory.",
        env="TUNNEL_LOGDIRECTORY",
    )
    yield _setting(
        "output",
        "text",
        group,
        "Log format: default or json.",
        default="default",
        env="TUNNEL_MANAGEMENT_OUTPUT TUNNEL_LOG_OUTPUT",
        in_config=False,
    )
    yield _setting(
        "access-log",
        "text",
        group,
        "Write a line for each request to this file; - for standard output.",
        env="TUNNEL_ACCESS_LOG",
    )
    yield _setting(
        "access-log-format",
        "text",
        group,
        "json or combined.",
        default="json",
        env="TUNNEL_ACCESS_LOG_FORMAT",
    )
    yield _setting(
        "access-log-query",
        "text",
        group,
        "What the access log has of queries: omit, mask or keep.",
        default="omit",
        env="TUNNEL_ACCESS_LOG_QUERY",
    )
    yield _setting(
        "pidfile",
        "text",
        group,
        "File that gets the process id once a link is up.",
        env="TUNNEL_PIDFILE",
    )
    yield _setting(
        "no-config-watch",
        "boolean",
        group,
        "Read a changed configuration file on SIGHUP only.",
        env="TUNNEL_NO_CONFIG_WATCH",
    )
    yield _setting(
        "no-prechecks",
        "boolean",
        group,
        "Do not check at the start which ways to the edge are open.",
        env="TUNNEL_NO_PRECHECKS",
    )
    yield _setting("label", "text", group, "Name of this connector, for whoever manages it.")
    yield _setting(
        "management-hostname",
        "text",
        group,
        "Hostname of the management service inside the tunnel; empty for none.",
        default="management.argotunnel.com",
        env="TUNNEL_MANAGEMENT_HOSTNAME",
    )
    yield _setting(
        "management-diagnostics",
        "boolean",
        group,
        "Metrics and diagnostics on the management hostname, =false for none.",
        default=True,
        env="TUNNEL_MANAGEMENT_DIAGNOSTICS",
    )
    yield _setting(
        "service-op-ip",
        "text",
        group,
        env="TUNNEL_SERVICE_OP_IP",
        hidden=True,
    )


def _origin() -> Iterable[Setting]:
    group = Group.ORIGIN
    for name, default, text in (
        ("proxy-connect-timeout", 30.0, "Timeout of connecting."),
        ("proxy-tls-timeout", 10.0, "Timeout of the TLS handshake."),
        ("proxy-tcp-keepalive", 30.0, "TCP keep-alive period."),
        ("proxy-keepalive-timeout", 90.0, "How long an idle connection is kept."),
    ):
        yield _setting(name, "duration", group, text, default=default)
    yield _setting(
        "proxy-keepalive-connections", "integer", group, "Idle connections kept.", default=100
    )
    yield _setting("proxy-no-happy-eyeballs", "boolean", group, "Do not race IPv4 against IPv6.")
    yield _setting(
        "http-host-header",
        "text",
        group,
        "Host header sent to the origin.",
        env="TUNNEL_HTTP_HOST_HEADER",
    )
    yield _setting(
        "origin-server-name",
        "text",
        group,
        "Name on the origin's certificate.",
        env="TUNNEL_ORIGIN_SERVER_NAME",
    )
    yield _setting(
        "origin-ca-pool",
        "text",
        group,
        "More certificates origins are verified against.",
        env="TUNNEL_ORIGIN_CA_POOL",
    )
    yield _setting(
        "no-tls-verify",
        "boolean",
        group,
        "Do not verify the origin's certificate.",
        env="NO_TLS_VERIFY",
    )
    yield _setting(
        "no-chunked-encoding",
        "boolean",
        group,
        "Never send chunked bodies.",
        env="TUNNEL_NO_CHUNKED_ENCODING",
    )
    yield _setting(
        "http2-origin",
        "boolean",
        group,
        "Offer HTTP/2 to the origin.",
        env="TUNNEL_ORIGIN_ENABLE_HTTP2",
    )
    yield _setting(
        "proxy-address",
        "text",
        group,
        default="127.0.0.1",
        env="TUNNEL_PROXY_ADDRESS",
        hidden=True,
    )
    yield _setting("proxy-port", "integer", group, env="TUNNEL_PROXY_PORT", hidden=True)


# Name, kind, environment, aliases. Parsed, then never looked at.
_ACCEPTED: tuple[tuple[str, Kind, str, str], ...] = (
    ("autoupdate-freq", "duration", "", ""),
    ("no-autoupdate", "boolean", "NO_AUTOUPDATE", ""),
    ("transport-loglevel", "text", "TUNNEL_PROTO_LOGLEVEL TUNNEL_TRANSPORT_LOGLEVEL",
     "proto-loglevel"),
    ("trace-output", "text", "TUNNEL_TRACE_OUTPUT", ""),
    ("id", "text", "TUNNEL_ID", ""),
    ("api-key", "text", "TUNNEL_API_KEY", ""),
    ("api-email", "text", "TUNNEL_API_EMAIL", ""),
    ("api-ca-key", "text", "TUNNEL_API_CA_KEY", ""),
    ("is-autoupdated", "boolean", "", ""),
    ("ui", "boolean", "", ""),
    ("proxy-dns", "boolean", "", ""),
    ("proxy-dns-port", "integer", "", ""),
    ("proxy-dns-address", "text", "", ""),
    ("proxy-dns-upstream", "list", "", ""),
    ("proxy-dns-max-upstream-conns", "integer", "", ""),
    ("proxy-dns-bootstrap", "list", "", ""),
    ("write-stream-timeout", "duration", "TUNNEL_STREAM_WRITE_TIMEOUT", ""),
    ("quic-disable-pmtu-discovery", "boolean", "TUNNEL_DISABLE_QUIC_PMTU", ""),
    ("quic-connection-level-flow-control-limit", "integer",
     "TUNNEL_QUIC_CONN_LEVEL_FLOW_CONTROL_LIMIT", ""),
    ("quic-stream-level-flow-control-limit", "integer",
     "TUNNEL_QUIC_STREAM_LEVEL_FLOW_CONTROL_LIMIT", ""),
    ("metrics-update-freq", "duration", "TUNNEL_METRICS_UPDATE_FREQ", ""),
    ("compression-quality", "integer", "TUNNEL_COMPRESSION_LEVEL", ""),
    ("heartbeat-interval", "duration", "", ""),
    ("heartbeat-count", "integer", "", ""),
    ("use-reconnect-token", "boolean", "TUNNEL_USE_RECONNECT_TOKEN", ""),
    ("dial-edge-timeout", "duration", "DIAL_EDGE_TIMEOUT", ""),
    ("features", "list", "", "F"),
    ("icmpv4-src", "text", "TUNNEL_ICMPV4_SRC", ""),
    ("icmpv6-src", "text", "TUNNEL_ICMPV6_SRC", ""),
    ("dns-resolver-addrs", "list", "TUNNEL_DNS_RESOLVER_ADDRS", ""),
    ("proxy-connection-timeout", "duration", "", ""),
    ("proxy-expect-continue-timeout", "duration", "", ""),
    ("ssh-server", "boolean", "TUNNEL_SSH_SERVER", ""),
    ("local-ssh-port", "text", "LOCAL_SSH_PORT", ""),
    ("ssh-idle-timeout", "duration", "SSH_IDLE_TIMEOUT", ""),
    ("ssh-max-timeout", "duration", "SSH_MAX_TIMEOUT", ""),
    ("bucket-name", "text", "BUCKET_ID", ""),
    ("region-name", "text", "REGION_ID", ""),
    ("secret-id", "text", "SECRET_ID", ""),
    ("access-key-id", "text", "ACCESS_CLIENT_ID", ""),
    ("session-token", "text", "SESSION_TOKEN_ID", ""),
    ("s3-url-host", "text", "S3_URL", ""),
    ("host-key-path", "text", "HOST_KEY_PATH", ""),
)  # fmt: skip
# Shown in the help although without effect, because people look for them.
_SHOWN = frozenset({"autoupdate-freq", "no-autoupdate"})


def _accepted() -> Iterable[Setting]:
    for name, kind, env, aliases in _ACCEPTED:
        yield _setting(
            name,
            kind,
            Group.COMPATIBILITY,
            env=env,
            aliases=aliases,
            hidden=name not in _SHOWN,
            secret=name.startswith(("api-", "secret-", "access-key", "session-token")),
        )


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for settings in (
        _service(),
        _identity(),
        _account(),
        _edge(),
        _operation(),
        _origin(),
        _accepted(),
    )
    for setting in settings
}


def parse_boolean(text: str) -> bool:
    """Read true or false in the spellings Go knows. Raises ValueError."""
    if text not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is not true or false")
    return text in _TRUE


def spell(value: Value) -> str:
    """A value as an operator writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{' '.join(value)}]"
    if isinstance(value, float):
        return format_duration(value)
    return str(value)
