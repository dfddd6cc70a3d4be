"""Runs an edge as a process: event loop, signals, messages; returns the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from underpass.edge.errors import EdgeError
from underpass.edge.listening import take_inherited
from underpass.edge.options import EdgeOptions
from underpass.edge.reload import ConfiguredBy, Reloader
from underpass.edge.server import Edge
from underpass.ops import event_loop, service_manager
from underpass.ops.signals import ShutdownSignals

__all__ = ["run_edge"]

log = logging.getLogger("underpass.edge")


def run_edge(options: EdgeOptions, source: ConfiguredBy | None = None) -> int:
    """Serve until a signal; what `source` reads is put in force when it has changed. The exit code:
    0 for a graceful end, 1 for an error, 128 + N when a second signal N cut the end short."""
    return event_loop.run(_serve(options, source or ConfiguredBy(lambda: options)))


async def _serve(options: EdgeOptions, source: ConfiguredBy) -> int:
    with ShutdownSignals() as signals:
        try:
            edge = Edge(options, inherited=take_inherited())
            await edge.start()
        except EdgeError as error:
            log.error("Cannot start the edge", extra={"error": str(error)})
            return 1
        reloader = Reloader(edge, source)
        try:
            signals.reload_with(reloader.ask)
            if source.path is not None:
                log.info("Configuration from %s", source.path)
            tunnels = ", ".join(map(str, edge.tunnels))
            log.info("Edge is running, data in %s", options.data_dir)
            log.info("Visitors:   https://%s  http://%s", edge.https, edge.http)
            log.info(
                "Connectors: %s  (their --edge, with --cacert %s/ca.pem)", tunnels, options.data_dir
            )
            log.info("API:        http://%s  (their --api-url, --quick-service)", edge.api)
            log.info("Dashboard:  %s  (to sign in: underpass edge sign-in)", edge.dashboard)
            if edge.metrics is not None:
                log.info("Operators:  http://%s/metrics  /healthz  /readyz", edge.metrics)
            reloader.start()
            service_manager.ready()
            await signals.stopping.wait()
            service_manager.stopping()
            log.info("Stopping: requests under way may finish")
        finally:
            reloader.close()
            stopping = asyncio.ensure_future(edge.stop())
            signals.on_abort = stopping.cancel
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
    return signals.exit_code
