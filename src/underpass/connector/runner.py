"""Runs a connector: event loop, signals, metrics server, supervisor; returns the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from underpass.connector.configuration import Configuration
from underpass.connector.data_path import DataPath, DataPathError, build_data_path
from underpass.connector.discovery import DiscoveryError, DnsResolver, discover_regions
from underpass.connector.edges import EdgePool, static_regions
from underpass.connector.ingress import Ingress
from underpass.connector.links import LinkConnected, LinkEvent
from underpass.connector.options import ConnectorOptions
from underpass.connector.reload import Reloader
from underpass.connector.report import LinkReport
from underpass.connector.settings import Settings
from underpass.connector.status import ConnectorStatus
from underpass.connector.supervisor import Supervisor, TunnelRefusedError
from underpass.ops import event_loop, service_manager
from underpass.ops.metrics import Metrics, Snapshot
from underpass.ops.metrics_server import (
    MetricsAddressError,
    MetricsServer,
    Page,
    json_page,
    serve_metrics,
    text_page,
)
from underpass.ops.signals import ShutdownSignals
from underpass.version import VERSION

if TYPE_CHECKING:
    from underpass.ops.process_report import Subject

__all__ = ["run_connector", "serve_connector"]

_LOCAL_CONFIGURATION: Final = -1
"""The version of rules that no edge has sent."""

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
    if options.credentials is None:
        raise ValueError("a connector needs credentials")
    _announce(options)
    reloader = Reloader(configuration)
    with ShutdownSignals() as signals:
        signals.reload_with(reloader.ask)
        try:
            pool = await signals.unless_stopped(_edge_pool(options))
        except DiscoveryError as error:
            _log.error("Cannot find the edge", extra={"error": str(error)})
            return 1
        if pool is None:
            return 0
        options = _with_useful_workers(options, pool)
        status = ConnectorStatus(options.connector_id, options.quick_hostname)
        try:
            data_path = await signals.unless_stopped(build(options, status))
        except DataPathError as error:
            _log.error("Cannot start", extra={"error": str(error)})
            return 1
        if data_path is None:
            return signals.exit_code
        try:
            pages = _Pages(options, status, data_path, configuration)
            reloader.start(pages.apply)
            return await _serve(options, pool, status, data_path, signals, reloader, ready, pages)
        finally:
            reloader.close()
            await data_path.close()


async def _serve(
    options: ConnectorOptions,
    pool: EdgePool,
    status: ConnectorStatus,
    data_path: DataPath,
    signals: ShutdownSignals,
    reloader: Reloader,
    ready: Callable[[], None] | None,
    pages: _Pages,
) -> int:
    report = LinkReport(options.protocol, lambda: status.ready_connections)
    first = _FirstLink(options.pidfile, ready)

    def observe(event: LinkEvent) -> None:
        status.observe(event)
        report.observe(event)
        first.observe(event)

    supervisor = Supervisor(
        data_path.dialer,
        pool,
        ha_connections=options.ha_connections,
        retries=options.retries,
        grace_period=options.grace_period,
        observe=observe,
    )
    if supervisor.count < options.ha_connections:
        _log.info(
            "There are fewer edge addresses than connections asked for",
            extra={"connections": supervisor.count, "asked": options.ha_connections},
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

    exposition = Metrics(
        [status.snapshot, data_path.counters, links, reloader.snapshot],
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
        await metrics.stop()
        _log.info("Metrics server stopped")
    return signals.exit_code


def _with_useful_workers(options: ConnectorOptions, pool: EdgePool) -> ConnectorOptions:
    """The options with no more workers than links: one without a link would have nothing to do."""
    links = min(options.ha_connections, pool.capacity)
    if options.workers > links:
        _log.info(
            "There are fewer connections than workers asked for",
            extra={"workers": links, "asked": options.workers},
        )
    return replace(options, workers=min(options.workers, links))


async def _edge_pool(options: ConnectorOptions) -> EdgePool:
    if options.edges:
        return EdgePool(static_regions(options.edges))
    credentials = options.credentials
    region = options.region or (credentials.endpoint if credentials is not None else "")
    return EdgePool(
        await discover_regions(DnsResolver(), region=region, ip_version=options.edge_ip_version)
    )


def _announce(options: ConnectorOptions) -> None:
    assert options.credentials is not None
    _log.info("Starting tunnel", extra={"tunnelID": str(options.credentials.tunnel_id)})
    python = ".".join(map(str, sys.version_info[:3]))
    _log.info("Version %s (Python %s, %s)", VERSION, python, sys.platform)
    _log.info("Generated Connector ID: %s", options.connector_id)
    _log.info("Initial protocol %s", options.protocol)


class _Pages:
    """What operators can ask beside metrics and readiness. See `inspection`."""

    def __init__(
        self,
        options: ConnectorOptions,
        status: ConnectorStatus,
        data_path: DataPath,
        configuration: Configuration | None,
    ) -> None:
        assert options.credentials is not None
        self._tunnel_id = str(options.credentials.tunnel_id)
        self._status = status
        self._data_path = data_path
        self._ingress = options.ingress
        self._settings: Settings | None = None if configuration is None else configuration.settings
        self.routes: dict[bytes, Callable[[], Awaitable[Page]]] = {
            b"/config": self._config,
            b"/diag/tunnel": self._tunnel,
            b"/diag/configuration": self._configuration,
            b"/diag/system": self._system,
            b"/debug/stacks": self._stacks,
            b"/debug/memory": self._memory,
        }

    async def apply(self, ingress: Ingress) -> None:
        """Put other rules in force, and show those. Raises DataPathError."""
        await self._data_path.apply(ingress)
        self._ingress = ingress

    async def _config(self) -> Page:
        from underpass.connector.inspection import configuration_document

        return json_page(configuration_document(self._ingress, _LOCAL_CONFIGURATION))

    async def _tunnel(self) -> Page:
        document: dict[str, Any] = {
            "tunnelID": self._tunnel_id,
            "connectorID": str(self._status.connector_id),
        }
        connections = self._status.connections()
        return json_page(document | ({"connections": connections} if connections else {}))

    async def _configuration(self) -> Page:
        from underpass.connector.inspection import settings_document

        return json_page(settings_document(self._settings))

    async def _system(self) -> Page:
        from underpass.ops.system_information import collect_system_information

        return json_page(await asyncio.to_thread(collect_system_information))

    async def _stacks(self) -> Page:
        return text_page(await self.report("stacks"))

    async def _memory(self) -> Page:
        return text_page(await self.report("memory"))

    async def report(self, subject: Subject) -> str:
        """What all processes of the connector do or hold."""
        from underpass.ops.process_report import report

        return report(subject) + await self._data_path.reports(subject)


class _FirstLink:
    """What happens once, when the first link is up: pid file, systemd, the caller's `ready`."""

    def __init__(self, pidfile: Path | None, ready: Callable[[], None] | None) -> None:
        self._pidfile = pidfile
        self._ready = ready
        self._is_done = False

    def observe(self, event: LinkEvent) -> None:
        if self._is_done or not isinstance(event, LinkConnected):
            return
        self._is_done = True
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
