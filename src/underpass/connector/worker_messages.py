"""What a connector's supervisor and its workers say to each other (see `ops.workers.channel`)."""

from __future__ import annotations

import ipaddress
import uuid
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from underpass.connector.homes import Home
from underpass.connector.ingress import Ingress, Rule
from underpass.connector.options import ConnectorOptions
from underpass.connector.origin_request import AccessRequirement, IPRule, OriginRequest
from underpass.connector.origins import parse_service
from underpass.connector.warp_routing import WarpRouting
from underpass.ops.access_log_options import AccessLogOptions
from underpass.ops.workers.logs import LogLine, LogLinesLost
from underpass.wire.credentials import Credentials

__all__ = [
    "Abort",
    "Apply",
    "BeginStreaming",
    "Configure",
    "Dial",
    "DialAnswer",
    "DialFailed",
    "Dialled",
    "Done",
    "Drain",
    "EndStreaming",
    "Finish",
    "HomeMessage",
    "InFlight",
    "LinkClosed",
    "LinkGoingAway",
    "LogFrom",
    "Preempted",
    "Prepare",
    "Probe",
    "ReadCounters",
    "ReadMetrics",
    "ReadReports",
    "Refused",
    "Report",
    "RuleMessage",
    "Streamed",
    "SupervisorNotice",
    "SupervisorRequest",
    "Unregister",
    "Update",
    "Updated",
    "WorkerNotice",
    "WorkerRequest",
    "configure_message",
    "options_of",
    "prepare_message",
    "rules_of",
    "rules_to_ingress",
]


class RuleMessage(Struct, array_like=True, frozen=True):
    """An ingress rule: its texts, and the fields of its OriginRequest that are not the default."""

    service: str
    hostname: str
    path: str
    origin_request: dict[str, Any]


# Asked by the supervisor.


class HomeMessage(Struct, frozen=True):
    """As homes.Home, without what only the supervisor needs."""

    account_tag: str
    tunnel_secret: bytes
    tunnel_id: uuid.UUID
    name: str
    cacert: str
    protocol: str
    edge_bind_address: str
    edge_proxy: str

    def __repr__(self) -> str:
        return f"<HomeMessage for tunnel {self.tunnel_id}>"


class Configure(Struct, frozen=True, tag=True):
    """Become a connector's data path. The first request, and the only one with secrets. -> Done"""

    log_level: int
    homes: tuple[HomeMessage, ...]
    connector_id: uuid.UUID
    rules: tuple[RuleMessage, ...]
    warp_routing: WarpRouting
    rpc_timeout: float
    tags: tuple[tuple[str, str], ...]
    workers: int
    access_log: AccessLogOptions | None
    label: str
    management_hostname: str
    management_diagnostics: bool
    service_op_ip: tuple[str, int] | None


class Dial(Struct, frozen=True, tag=True):
    """Dial `host`:`port` of a home and register; `link` names the link from now on, and replaces
    `replacing`, 0 for none. -> DialAnswer"""

    link: int
    host: str
    port: int
    home: int
    conn_index: int
    previous_attempts: int
    replacing: int = 0


class Unregister(Struct, frozen=True, tag=True):
    """Ask the edge to send no new requests. -> Done"""

    link: int
    timeout: float


class Drain(Struct, frozen=True, tag=True):
    """Wait until nothing is in flight. -> None"""

    link: int


class InFlight(Struct, frozen=True, tag=True):
    """How many exchanges are in flight. -> int"""

    link: int


class Prepare(Struct, frozen=True, tag=True):
    """Make what new ingress rules need, and keep it beside what is in force. -> Done"""

    rules: tuple[RuleMessage, ...]
    warp_routing: WarpRouting


class Apply(Struct, frozen=True, tag=True):
    """Put what was prepared in force, or with `give_up` forget it. -> Done"""

    give_up: bool = False


class ReadCounters(Struct, frozen=True, tag=True):
    """-> ops.workers.tally.Readings"""


class Report(Struct, frozen=True, tag=True):
    """Say what the process does or holds (`ops.process_report`). -> str"""

    subject: Literal["stacks", "memory"]


class Finish(Struct, frozen=True, tag=True):
    """Close what is left open, and say what is left to say. -> None"""


WorkerRequest = (
    Configure
    | Dial
    | Unregister
    | Drain
    | InFlight
    | Prepare
    | Apply
    | ReadCounters
    | Report
    | Finish
)


# Asked by a worker.


class Update(Struct, frozen=True, tag=True):
    """The edge has pushed this configuration, a JSON value. -> Updated"""

    version: int
    config: bytes


class Updated(Struct, frozen=True):
    """As wire.remote_config.ConfigurationReply."""

    version: int
    error: str | None


# Answered by a worker.


class Done(Struct, frozen=True):
    """`error` says what went wrong, "" that nothing did."""

    error: str = ""


class Dialled(Struct, frozen=True, tag=True):
    """The link is registered."""

    connection_id: uuid.UUID
    location_name: str
    tunnel_is_remotely_managed: bool


class DialFailed(Struct, frozen=True, tag=True):
    """As links.DialError."""

    kind: str
    message: str
    is_lasting: bool = False


class Refused(Struct, frozen=True, tag=True):
    """As wire.registration.RegistrationRefused."""

    cause: str
    retry_after_ns: int
    should_retry: bool


DialAnswer = Dialled | DialFailed | Refused


# Told.


class LinkClosed(Struct, array_like=True, frozen=True, tag=True):
    """A dialled link is gone; `error` is None for a clean end."""

    link: int
    error: str | None


class LinkGoingAway(Struct, array_like=True, frozen=True, tag=True):
    """The edge wants a link to end, and gives it `drain_seconds` to finish; 0 if it does not
    say."""

    link: int
    drain_seconds: float = 0.0


class EndStreaming(Struct, array_like=True, frozen=True, tag=True):
    """A management session wants no more records."""

    session: int


WorkerNotice = LinkClosed | LinkGoingAway | LogLine | LogLinesLost | EndStreaming


class Abort(Struct, array_like=True, frozen=True, tag=True):
    """Close a link at once. One that does not exist is no error: it may have closed by itself."""

    link: int


class Probe(Struct, array_like=True, frozen=True, tag=True):
    """Find out whether a link lives. One that does not exist is no error here either."""

    link: int


class LogFrom(Struct, array_like=True, frozen=True, tag=True):
    """Hand over log records from this level on."""

    level: int


class Streamed(Struct, array_like=True, frozen=True, tag=True):
    """A log record for a management session, as the message that carries it."""

    session: int
    message: bytes


class Preempted(Struct, array_like=True, frozen=True, tag=True):
    """A management session gets no more records: the same actor has another one."""

    session: int


SupervisorNotice = Abort | Probe | LogFrom | Streamed | Preempted


# Asked by a worker, whose management service knows only itself.


class BeginStreaming(Struct, frozen=True, tag=True):
    """Hand log records to a session from now on; `wire.log_streaming` has the enums. -> bool"""

    session: int
    actor: str
    level: int
    events: tuple[int, ...]
    sampling: float


class ReadMetrics(Struct, frozen=True, tag=True):
    """The metrics of the whole connector. -> bytes"""


class ReadReports(Struct, frozen=True, tag=True):
    """What all processes do or hold. -> str"""

    subject: Literal["stacks", "memory"]


SupervisorRequest = Update | BeginStreaming | ReadMetrics | ReadReports


# Between the messages and what they stand for.


def configure_message(options: ConnectorOptions, log_level: int) -> Configure:
    """What a worker has to know of the options, whose homes must have credentials."""
    return Configure(
        log_level=log_level,
        homes=tuple(_home_message(home) for home in options.all_homes),
        connector_id=options.connector_id,
        rules=rules_of(options.ingress),
        warp_routing=options.ingress.warp_routing,
        rpc_timeout=options.rpc_timeout,
        tags=options.tags,
        workers=options.workers,
        access_log=options.access_log,
        label=options.label,
        management_hostname=options.management_hostname,
        management_diagnostics=options.management_diagnostics,
        service_op_ip=options.service_op_ip or next(iter(options.edges), None),
    )


def _home_message(home: Home) -> HomeMessage:
    credentials = home.credentials
    assert credentials is not None
    return HomeMessage(
        account_tag=credentials.account_tag,
        tunnel_secret=bytes(credentials.tunnel_secret),
        tunnel_id=credentials.tunnel_id,
        name=home.name,
        cacert="" if home.cacert is None else str(home.cacert),
        protocol=home.protocol,
        edge_bind_address=home.edge_bind_address,
        edge_proxy=home.edge_proxy,
    )


def options_of(message: Configure) -> ConnectorOptions:
    """The options a worker builds its data path from."""
    return ConnectorOptions(
        ingress=rules_to_ingress(message),
        homes=tuple(_home(home) for home in message.homes),
        rpc_timeout=message.rpc_timeout,
        tags=message.tags,
        workers=message.workers,
        access_log=message.access_log,
        label=message.label,
        management_hostname=message.management_hostname,
        management_diagnostics=message.management_diagnostics,
        service_op_ip=message.service_op_ip,
        connector_id=message.connector_id,
    )


def _home(message: HomeMessage) -> Home:
    return Home(
        name=message.name,
        credentials=Credentials(message.account_tag, message.tunnel_secret, message.tunnel_id),
        cacert=Path(message.cacert) if message.cacert else None,
        protocol=message.protocol,
        edge_bind_address=message.edge_bind_address,
        edge_proxy=message.edge_proxy,
    )


_DEFAULTS = OriginRequest()


def rules_of(ingress: Ingress) -> tuple[RuleMessage, ...]:
    """The rules as they are sent."""
    return tuple(
        RuleMessage(
            rule.service_text,
            rule.hostname,
            rule.path.text if rule.path is not None else "",
            _given(rule.origin_request),
        )
        for rule in ingress.rules
    )


def _given(settings: OriginRequest) -> dict[str, Any]:
    fields = {
        name: value
        for name in settings.__struct_fields__
        if (value := getattr(settings, name)) != getattr(_DEFAULTS, name)
    }
    plain: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=str)
    return plain


def prepare_message(ingress: Ingress) -> Prepare:
    """All that a worker has to know of a configuration."""
    return Prepare(rules_of(ingress), ingress.warp_routing)


def rules_to_ingress(message: Prepare | Configure) -> Ingress:
    """The configuration as it was before it was sent."""
    return Ingress([_rule(rule) for rule in message.rules], message.warp_routing)


def _rule(message: RuleMessage) -> Rule:
    fields = dict(message.origin_request)
    if "ip_rules" in fields:
        fields["ip_rules"] = tuple(
            IPRule(ipaddress.ip_network(line["network"]), tuple(line["ports"]), line["allow"])
            for line in fields["ip_rules"]
        )
    if "access" in fields:
        fields["access"] = msgspec.convert(fields["access"], AccessRequirement)
    settings = OriginRequest(**fields)
    path = None
    if message.path:
        from underpass.connector.path_pattern import PathPattern  # most rules have none

        path = PathPattern(message.path)
    service = parse_service(message.service, ip_rules=settings.ip_rules)
    return Rule(service, message.hostname, path, settings, message.service)
