"""Connectivity pre-checks: what works of the way to the edge, and what to do about the rest
(docs: observability §7).

They run beside everything else and decide nothing. A target is looked up, connected to over TCP and
TLS by the name that probes go by, and left again.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct

from underpass.connector.discovery import (
    DnsResolver,
    Resolver,
    is_address,
    order_targets,
    service_name,
)
from underpass.connector.edges import EdgeSlot, parse_edge
from underpass.connector.home_dialer import HomeDialer, proxy_to
from underpass.connector.homes import Home
from underpass.connector.links import DialError
from underpass.connector.trust import TrustError
from underpass.wire.headers import EDGE_SERVER_NAME_PROBE

__all__ = ["Report", "Row", "check", "diagnose", "log_report", "table"]

SUITE_SECONDS: Final = 10.0
PROBE_SECONDS: Final = 5.0
RETRY_AFTER: Final = (1.0, 2.0)
"""Seconds before the second and the third attempt at a probe."""

MAX_TARGETS: Final = 16
"""Addresses of one home that are looked at."""

API: Final = ("api.cloudflare.com", 443)

DNS, TCP, CLOUDFLARE_API = "DNS Resolution", "TCP Connectivity", "Cloudflare API"
_TYPES: Final = {DNS: 0, TCP: 2, CLOUDFLARE_API: 3}
PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

Connect = Callable[[EdgeSlot], Awaitable[None]]


class Row(Struct, frozen=True):
    """What became of one probe. `action` says what to do about a failure."""

    component: str
    target: str
    status: str
    details: str
    action: str = ""


class Report(Struct, frozen=True):
    """All rows. It `is_hard_failure` when no link can be made."""

    run_id: uuid.UUID
    rows: tuple[Row, ...]

    @property
    def is_hard_failure(self) -> bool:
        transport = [row.status for row in self.rows if row.component == TCP]
        return any(row.component == DNS and row.status == FAIL for row in self.rows) or (
            FAIL in transport and PASS not in transport
        )


class _Closing(asyncio.Protocol):
    """A connection that was only to be made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def check(
    homes: Sequence[Home],
    *,
    resolver: Resolver | None = None,
    connect: Callable[[Home], Connect] | None = None,
    reach_api: Callable[[], Awaitable[None]] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Report:
    """Run all probes of all homes at once, within SUITE_SECONDS."""
    suite = _Suite(resolver or DnsResolver(), connect or _connect, reach_api or _reach_api, sleep)
    return Report(uuid.uuid4(), await suite.run(homes))


def diagnose(flags: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """The pre-checks of a connector that has these settings, as `prechecks.json` has them (docs:
    observability §6). Blocks for at most so long; raises asyncio.TimeoutError, or ValueError for
    settings that cannot be read.
    """
    cacert, bind = flags.get("cacert", ""), flags.get("edge-bind-address", "")
    home = Home(
        edges=tuple(parse_edge(edge) for edge in flags.get("edge", "").strip("[]").split()),
        cacert=Path(cacert) if cacert else None,
        region=flags.get("region", ""),
        edge_ip_version=flags.get("edge-ip-version", "auto"),
        edge_bind_address=bind,
        edge_proxy=flags.get("edge-proxy", ""),
    )
    report = asyncio.run(asyncio.wait_for(check([home]), seconds))
    return {
        "RunID": str(report.run_id),
        "Results": [
            {
                "Type": _TYPES[row.component],
                "Component": row.component,
                "Target": row.target,
                "ProbeStatus": (PASS, FAIL, SKIP).index(row.status),
                "Details": row.details,
                "Action": row.action,
            }
            for row in report.rows
        ],
        # HTTP/2, as cloudflared numbers it, if there is any way.
        "SuggestedProtocol": None if report.is_hard_failure else 0,
    }


class _Suite:
    def __init__(
        self,
        resolver: Resolver,
        connect: Callable[[Home], Connect],
        reach_api: Callable[[], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._resolver = resolver
        self._connect = connect
        self._reach_api = reach_api
        self._sleep = sleep
        loop = asyncio.get_running_loop()
        self._ends_at = loop.time() + SUITE_SECONDS

    async def run(self, homes: Sequence[Home]) -> tuple[Row, ...]:
        several = len(homes) > 1
        parts = [self._home(home, f"{home.name}: " if several else "") for home in homes]
        if any(not home.edges for home in homes):
            parts.append(self._api())
        rows = [row for part in await asyncio.gather(*parts) for row in part]
        order = {DNS: 0, TCP: 1, CLOUDFLARE_API: 2}
        return tuple(sorted(rows, key=lambda row: order[row.component]))

    async def _home(self, home: Home, prefix: str) -> list[Row]:
        names = await self._names(home, prefix)
        if isinstance(names, Row):
            return [names]
        try:
            connect = self._connect(home)
        except TrustError as error:
            return [Row(TCP, f"{prefix}edge", FAIL, str(error), "Mend the file or name another.")]
        parts = await asyncio.gather(
            *(self._name(home, host, port, connect, prefix) for host, port in names)
        )
        return [row for part in parts for row in part]

    async def _names(self, home: Home, prefix: str) -> list[tuple[str, int]] | Row:
        """The hosts of a home, or why they are not known."""
        if home.edges:
            return list(dict.fromkeys(home.edges))[:MAX_TARGETS]
        region = home.region or (home.credentials.endpoint if home.credentials else "")
        service = service_name(region)

        async def look_up() -> list[tuple[str, int]]:
            try:
                targets = await self._resolver.targets(service)
            except OSError as error:
                try:
                    targets = await self._resolver.fallback_targets(service)
                except OSError:
                    raise error from None
            return [(target.host, target.port) for target in order_targets(targets)[:2]]

        found = await self._attempt(look_up)
        if isinstance(found, Exception) or not found:
            details = _words(found) if isinstance(found, Exception) else "no records"
            return Row(DNS, prefix + service, FAIL, details, _DNS_ACTION)
        return found

    async def _name(
        self, home: Home, host: str, port: int, connect: Connect, prefix: str
    ) -> list[Row]:
        """The rows of one host: its lookup, and a connection to each kind of address it has."""

        target = f"{prefix}{host}"
        try:
            if proxy_to(home, host, port) is not None:
                row = await self._address(EdgeSlot(host, port, 0), connect, prefix)
                return [Row(DNS, target, SKIP, "left to the proxy"), row]
        except ValueError as error:
            return [Row(TCP, f"{target}:{port}", FAIL, str(error), "Mend what names the proxy.")]

        async def look_up() -> Sequence[str]:
            # An address needs no lookup, and no thread that makes one.
            return [host] if is_address(host) else await self._resolver.addresses(host)

        found = await self._attempt(look_up)
        if isinstance(found, Exception) or not found:
            details = _words(found) if isinstance(found, Exception) else "no addresses"
            return [
                Row(DNS, target, FAIL, details, _DNS_ACTION),
                Row(TCP, f"{target}:{port}", SKIP, "its address is not known"),
            ]
        slots = [EdgeSlot(address, port, 0) for address in found]
        if not home.edges and home.edge_ip_version != "auto":
            slots = [slot for slot in slots if slot.is_ipv6 == (home.edge_ip_version == "6")]
        chosen = [
            next((slot for slot in slots if slot.is_ipv6 == family), None)
            for family in (False, True)
        ]
        rows = []
        if host not in found:
            several = "es" if len(found) > 1 else ""
            rows.append(Row(DNS, target, PASS, f"{len(found)} address{several}"))
        rows += await asyncio.gather(
            *(self._address(slot, connect, prefix) for slot in chosen if slot is not None)
        )
        return rows

    async def _address(self, slot: EdgeSlot, connect: Connect, prefix: str) -> Row:
        error = await self._attempt(lambda: connect(slot))
        if error is None:
            return Row(TCP, f"{prefix}{slot}", PASS, "TCP and TLS handshakes succeeded")
        assert isinstance(error, Exception)
        return Row(TCP, f"{prefix}{slot}", FAIL, _words(error), _transport_action(error, slot))

    async def _api(self) -> list[Row]:
        host, port = API
        error = await self._attempt(self._reach_api)
        if error is None:
            return [Row(CLOUDFLARE_API, f"{host}:{port}", PASS, "reachable")]
        assert isinstance(error, Exception)
        action = (
            f"Allow TCP to {host} at port {port}. Links do without it; commands that create or "
            "change tunnels do not."
        )
        return [Row(CLOUDFLARE_API, f"{host}:{port}", FAIL, _words(error), action)]

    async def _attempt(self, probe: Callable[[], Awaitable[_T]]) -> _T | Exception:
        """What a probe returns, or the last error of three attempts."""
        for wait in (*RETRY_AFTER, None):
            result = await self._once(probe)
            if wait is None or not isinstance(result, Exception):
                break
            if asyncio.get_running_loop().time() + wait >= self._ends_at:
                break
            await self._sleep(wait)
        return result

    async def _once(self, probe: Callable[[], Awaitable[_T]]) -> _T | Exception:
        left = self._ends_at - asyncio.get_running_loop().time()
        try:
            return await asyncio.wait_for(probe(), max(0.0, min(PROBE_SECONDS, left)))
        except asyncio.TimeoutError:
            return TimeoutError("no answer in time")
        except (OSError, DialError) as error:
            return error


def _connect(home: Home) -> Connect:
    """Raises TrustError."""
    dialer = HomeDialer(home)

    async def connect(slot: EdgeSlot) -> None:
        await dialer.connect(slot, _Closing, EDGE_SERVER_NAME_PROBE)

    return connect


async def _reach_api() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_connection(_Closing, *API)


_DNS_ACTION: Final = (
    "Check which DNS servers this machine asks, and that they are reachable; or name the edge by "
    "address with --edge."
)


def _transport_action(error: Exception, slot: EdgeSlot) -> str:
    if isinstance(error, DialError) and error.kind.value in ("tls", "proxy"):
        return "See the details: the way is open, and what answers there is not what it should be."
    if isinstance(error.__cause__, ConnectionRefusedError):
        return f"See that the edge runs and listens at {slot}; or a firewall on the way refuses."
    return (
        f"Allow TCP from this machine to {slot.host} at port {slot.port}, in its firewall and in "
        "those before it; or reach the edge through a proxy with --edge-proxy."
    )


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def log_report(report: Report, level: int = logging.INFO) -> None:
    """One line for each row at `level`, and one for the whole."""
    run_id = str(report.run_id)
    for row in report.rows:
        fields = {
            "run_id": run_id,
            "component": row.component,
            "target": row.target,
            "status": row.status.lower(),
            "details": row.details,
        }
        if row.action:
            fields["action"] = row.action
        _log.log(level, "precheck", extra=fields)
    _log.info(
        "precheck complete",
        extra={
            "run_id": run_id,
            "hard_fail": report.is_hard_failure,
            "suggested_protocol": None if report.is_hard_failure else "http2",
        },
    )


_WIDEST: Final = 60


def table(report: Report) -> str:
    """The rows for a person, and what to do about those that failed."""
    heads = ("COMPONENT", "TARGET", "STATUS", "DETAILS")
    cells = [heads, *((r.component, r.target, r.status, _short(r.details)) for r in report.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    rule = f"+{'+'.join('-' * (width + 2) for width in widths)}+"
    lines = [
        rule,
        f"| {'CONNECTIVITY PRE-CHECKS'.ljust(len(rule) - 4)} |",
        rule,
        _line(heads, widths),
        rule,
        *(_line(row, widths) for row in cells[1:]),
        rule,
    ]
    failed = [row for row in report.rows if row.status == FAIL]
    for row in failed:
        whole = f" ({row.details})" if _short(row.details) != row.details else ""
        lines.append(f"{row.component}, {row.target}: {row.action}{whole}")
    lines.append(f"SUMMARY: {_summary(report, len(failed))}")
    return "\n".join(lines)


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def _summary(report: Report, failed: int) -> str:
    if report.is_hard_failure:
        return "no link can be made before the above is mended."
    if failed:
        return "links can be made, though not to everywhere."
    return "the way to the edge is open."


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
