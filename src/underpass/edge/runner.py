"""Runs an edge as a process: event loop, signals, messages; returns the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from underpass.edge.errors import EdgeError, HandoverError
from underpass.edge.handover import VARIABLE
from underpass.edge.listening import take_inherited
from underpass.edge.options import EdgeOptions
from underpass.edge.reload import ConfiguredBy, Reloader
from underpass.edge.server import Edge
from underpass.ops import event_loop, service_manager
from underpass.ops.signals import ShutdownSignals

__all__ = ["run_edge"]

log = logging.getLogger("underpass.edge")


def run_edge(options: EdgeOptions, source: ConfiguredBy | None = None) -> int:
    """Serve until a signal, or until another process has taken over; what `source` reads is put in
    force when it has changed. The exit code: 0 for a graceful end, 1 for an error, 128 + N when a
    second signal N cut the end short."""
    return event_loop.run(_serve(options, source or ConfiguredBy(lambda: options)))


async def _serve(options: EdgeOptions, source: ConfiguredBy) -> int:
    with ShutdownSignals() as signals:
        replacement = _Replacement()
        # From the beginning: a signal that nobody expects ends a process.
        signals.upgrade_with(replacement.begin)
        edge = await _start(options)
        if edge is None:
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
            service_manager.ready(is_told=edge.follows_another)
            replacement.started(edge)
            if await signals.unless_stopped(replacement.done.wait()):
                reloader.close()
                await signals.unless_stopped(edge.retire())
                log.info("All that was under way has ended; another process serves")
            else:
                await replacement.cancel()
                service_manager.stopping()
                log.info("Stopping: requests under way may finish")
        finally:
            reloader.close()
            stopping = asyncio.ensure_future(edge.stop())
            signals.on_abort = stopping.cancel
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
    return signals.exit_code


async def _start(options: EdgeOptions) -> Edge | None:
    predecessor = None
    try:
        inherited = take_inherited()
        if VARIABLE in os.environ:
            from underpass.edge.handover.predecessor import Predecessor  # most edges have none

            predecessor = await Predecessor.find()
        edge = Edge(options, inherited=inherited, predecessor=predecessor)
        await edge.start()
    except EdgeError as error:
        log.error("Cannot start the edge", extra={"error": str(error)})
        if predecessor is not None:
            await predecessor.failed(str(error))
        return None
    return edge


class _Replacement:
    """Of this process by a new one, whenever somebody asks for it. `done` when one serves."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self._edge: Edge | None = None
        self._is_wanted = False
        self._task: asyncio.Task[None] | None = None

    def started(self, edge: Edge) -> None:
        """There is something to be replaced."""
        self._edge = edge
        if self._is_wanted:
            self.begin()

    def begin(self) -> None:
        """Have a new process take over, unless one is about to; as soon as this one serves."""
        if self._edge is None:
            self._is_wanted = True
            return
        if self.done.is_set() or (self._task is not None and not self._task.done()):
            log.info("Another process is about to take over already")
            return
        self._task = asyncio.get_running_loop().create_task(self._replace(self._edge))

    async def cancel(self) -> None:
        """Give the attempt up that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _replace(self, edge: Edge) -> None:
        from underpass.edge.handover.command import own_command
        from underpass.edge.upgrades import Upgrade

        try:
            directory = edge.directory
            attempt = Upgrade.begin(directory)
            try:
                pid = await edge.hand_over(own_command())
            except HandoverError as error:
                log.error("No other process takes over", extra={"error": str(error)})
                attempt.failed(directory, str(error))
                return
            except asyncio.CancelledError:
                attempt.failed(directory, "the edge was stopped meanwhile")
                raise
            self.done.set()
            log.info("Process %d has taken over; finishing what is under way", pid)
            service_manager.succeeded_by(pid)
            attempt.done(directory, pid)
        except EdgeError as error:
            log.error("Cannot write down what became of the upgrade", extra={"error": str(error)})
