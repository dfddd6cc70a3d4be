"""Runs a connector: event loop, signals, metrics server, supervisor; returns the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from underpass.connector.configuration import Configuration
from underpass.connector.data_path import DataPath, DataPathError, build_data_path
from underpass.connector.discovery import (
    EDGE_DOMAIN,
    EDGE_PORT,
    DiscoveryError,
    DnsResolver,
    discover_regions,
    regions_by_name,
)
from underpass.connector.edges import EdgePool, Region, static_regions
from underpass.connector.homes import Home
from underpass.connector.in_force import InForce
from underpass.connector.links import HomeEvent, LinkConnected, LinkEvent
from underpass.connector.network_watch import NetworkWatch
from underpass.connector.operator_pages import OperatorPages
from underpass.connector.options import ConnectorOptions
from underpass.connector.reload import Reloader
from underpass.connector.report import LinkReport
from underpass.connector.status import ConnectorStatus
from underpass.connector.supervisor import Supervisor, TunnelRefusedError
from underpass.connector.supervisors import Supervisors
from underpass.ops import event_loop, service_manager
from underpass.ops.metrics import Metrics, Snapshot
from underpass.ops.metrics_server import (
    MetricsAddressError,
    MetricsServer,
    serve_metrics,
)
from underpass.ops.signals import ShutdownSignals
from underpass.version import VERSION

if TYPE_CHECKING:
    pass

__all__ = ["run_connector", "serve_connector"]

# Seconds after which pre-checks begin although no link is up.
PRECHECK_DELAY = 2.0

_log = logging.getLogger(__name__)


def run_connector(options: ConnectorOptions, configuration: Configuration | None = None) -> int:
    """Run until a signal or a final refusal. The exit code: 0 for a graceful end, 1 for an error,
    128 + N when a second signal N cut the end short."""
    return event_loop.run(serve_connector(options, configuration=configuration))


async def serve_connector(
    options: ConnectorOptions,
    *,
    ready: Callable[[], None] | None = None,
    configuration: Configuration | None = None,
    build: Callable[[ConnectorOptions, ConnectorStatus], Awaitable[DataPath]] = build_data_path,
) -> int:
    """The connector as a coroutine on the running loop; cancelling it closes everything at once.

    `ready` is called once, when the first link is registered. `configuration` is what `options`
    were made of, for SIGHUP to read again.
    """
    if any(home.credentials is None for home in options.all_homes):
        raise ValueError("a connector needs credentials")
    _announce(options)
    in_force = InForce(options.max_active_flows)
    reloader = Reloader(configuration, in_force)
    with ShutdownSignals() as signals:
        signals.reload_with(reloader.ask)
        options = _with_useful_workers(options)
        homes = options.all_homes
        status = ConnectorStatus(
            options.connector_id, options.quick_hostname, [home.name for home in homes]
        )
        try:
            data_path = await signals.unless_stopped(build(options, status))
        except DataPathError as error:
            _log.error("Cannot start", extra={"error": str(error)})
            return 1
        if data_path is None:
            return signals.exit_code
        try:
            in_force.start(data_path.apply, options.ingress)
            data_path.take_updates(in_force.update)
            reloader.start()
            pages = OperatorPages(options, status, data_path, in_force, configuration)
            return await _serve(options, status, data_path, signals, in_force, ready, pages)
        finally:
            reloader.close()
            in_force.close()
            await data_path.close()


async def _serve(
    options: ConnectorOptions,
    status: ConnectorStatus,
    data_path: DataPath,
    signals: ShutdownSignals,
    in_force: InForce,
    ready: Callable[[], None] | None,
    pages: OperatorPages,
) -> int:
    homes = options.all_homes
    report = LinkReport(homes, lambda: status.ready_connections)
    first = _FirstLink(options.pidfile, ready)

    def observe(event: LinkEvent | HomeEvent) -> None:
        if isinstance(event, HomeEvent):
            report.observe_home(event)
            return
        status.observe(event)
        report.observe(event)
        first.observe(event)

    supervisor = Supervisors(
        [
            _supervisor(number, home, options, data_path, observe)
            for number, home in enumerate(homes)
        ],
        report.observe_home,
    )

    def stop() -> None:
        service_manager.stopping()
        supervisor.stop()

    signals.on_stop, signals.on_abort = stop, supervisor.abort
    if signals.stopping.is_set():
        supervisor.stop()

    if options.stdin_control:
        from underpass.connector.stdin_control import StdinControl

        StdinControl(supervisor.reconnect, supervisor.count).start()

    def links() -> Snapshot:
        return {"cloudflared_tunnel_ha_connections": supervisor.running}

    def doubt(reason: str) -> None:
        _log.info("Asking every link for a sign of life", extra={"reason": reason})
        supervisor.probe()
        supervisor.wake()

    watch = NetworkWatch(doubt)
    watch.start()
    checking = asyncio.create_task(_check(homes, first)) if options.prechecks else None
    if checking is not None:
        checking.add_done_callback(_note_unexpected)
    exposition = Metrics(
        [status.snapshot, data_path.counters, links, in_force.snapshot],
        refresh=data_path.refresh,
        workers=data_path.workers,
    )
    status.metrics, status.report = exposition.scrape, pages.report
    metrics = MetricsServer(
        exposition,
        status.readiness,
        lambda: status.quick_hostname,
        pages.routes,
    )
    try:
        await serve_metrics(metrics, options.metrics)
        await supervisor.run()
        _log.info("Tunnel server stopped")
    except (TunnelRefusedError, MetricsAddressError) as error:
        _log.error("Initiating shutdown", extra={"error": str(error)})
        return 1
    finally:
        watch.stop()
        if checking is not None:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
        await metrics.stop()
        _log.info("Metrics server stopped")
    return signals.exit_code


def _supervisor(
    number: int,
    home: Home,
    options: ConnectorOptions,
    data_path: DataPath,
    observe: Callable[[LinkEvent | HomeEvent], None],
) -> Supervisor:
    return Supervisor(
        data_path.dialer,
        EdgePool(static_regions(home.edges, number) if home.edges else ()),
        ha_connections=home.ha_connections,
        retries=options.retries,
        address_retries=options.max_edge_addr_retries,
        grace_period=options.grace_period,
        observe=observe,
        find=None if home.edges else partial(_find, home, number),
        home=number,
    )


async def _find(home: Home, number: int) -> list[Region]:
    """Look up where a home is. Raises DiscoveryError."""
    assert home.credentials is not None
    region = home.region or home.credentials.endpoint
    try:
        return await discover_regions(
            DnsResolver(), region=region, ip_version=home.edge_ip_version, home=number
        )
    except DiscoveryError as error:
        if error.is_final or not _has_proxy(home):
            raise
        _log.warning("Leaving it to the proxy to find the edge", extra={"error": str(error)})
        return regions_by_name(region, number)


async def _check(homes: Sequence[Home], first: _FirstLink) -> None:
    """Run the pre-checks, not before the first link is up or has had its time."""
    await first.wait(PRECHECK_DELAY)
    # Much later than what the first link needs.
    from underpass.connector import prechecks
    from underpass.core import allocator

    report = await prechecks.check(homes)
    has_terminal = sys.stderr.isatty()
    if has_terminal:
        sys.stderr.write(f"{prechecks.table(report)}\n")
    prechecks.log_report(report, logging.DEBUG if has_terminal else logging.INFO)
    # Handshakes and certificates took memory that nothing else will need.
    allocator.give_back()


def _note_unexpected(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("unexpected error in the pre-checks", exc_info=error)


def _has_proxy(home: Home) -> bool:
    """Whether an edge that is found by DNS would be dialled through a proxy."""
    from underpass.connector.home_dialer import proxy_to

    try:
        return proxy_to(home, EDGE_DOMAIN, EDGE_PORT) is not None
    except ValueError:
        return False  # dialling will tell


def _with_useful_workers(options: ConnectorOptions) -> ConnectorOptions:
    """The options with no more workers than links: one without a link would have nothing to do."""
    links = sum(home.most_links for home in options.all_homes)
    if options.workers > links:
        _log.info(
            "There are fewer connections than workers asked for",
            extra={"workers": links, "asked": options.workers},
        )
    return replace(options, workers=min(options.workers, links))


def _announce(options: ConnectorOptions) -> None:
    for home in options.all_homes:
        assert home.credentials is not None
        fields = {"tunnelID": str(home.credentials.tunnel_id)}
        if home.name:
            fields["home"] = home.name
        _log.info("Starting tunnel", extra=fields)
    python = ".".join(map(str, sys.version_info[:3]))
    _log.info("Version %s (Python %s, %s)", VERSION, python, sys.platform)
    _log.info("Generated Connector ID: %s", options.connector_id)
    for protocol in dict.fromkeys(home.protocol for home in options.all_homes):
        _log.info("Initial protocol %s", protocol)


class _FirstLink:
    """What happens once, when the first link is up: pid file, systemd, the caller's `ready`."""

    def __init__(self, pidfile: Path | None, ready: Callable[[], None] | None) -> None:
        self._pidfile = pidfile
        self._ready = ready
        self._is_done = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return when it is up, or after so long."""
        try:
            await asyncio.wait_for(self._is_done.wait(), seconds)
        except asyncio.TimeoutError:
            return

    def observe(self, event: LinkEvent) -> None:
        if self._is_done.is_set() or not isinstance(event, LinkConnected):
            return
        self._is_done.set()
        if self._pidfile is not None:
            _write_pid(self._pidfile)
        service_manager.ready()
        if self._ready is not None:
            self._ready()


def _write_pid(path: Path) -> None:
    try:
        path.write_text(str(os.getpid()), encoding="ascii")
    except OSError as error:
        _log.error("Unable to write the pid file", extra={"path": str(path), "error": str(error)})
