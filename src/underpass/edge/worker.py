"""An edge's worker process: a data path of its own on listening sockets that all workers share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from underpass.edge import worker_messages as messages
from underpass.edge.certificates import CertificateAuthority
from underpass.edge.dashboard.public import AskDashboard, DashboardAnswer
from underpass.edge.data_directory import DataDirectory
from underpass.edge.data_path import LocalDataPath, Service
from underpass.edge.errors import EdgeError
from underpass.edge.neighbours import Neighbours
from underpass.edge.registry import Registry
from underpass.edge.router import Router
from underpass.edge.store import (
    AuditEntry,
    Changes,
    Configuration,
    Record,
    Snapshot,
    StoreUnavailable,
)
from underpass.edge.waiting import WaitingRoom
from underpass.ops.workers.channel import Channel, ChannelError
from underpass.ops.workers.descriptors import receive_sockets
from underpass.ops.workers.inside import Inside, run_worker

__all__ = ["EdgeWorker", "main"]


class SupervisorsStore:
    """`store.Store` for reading what the supervisor's holds; changes are made there alone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def snapshot(self) -> Snapshot:
        """See Store."""
        try:
            return await self._channel.call(messages.ReadSnapshot(), Snapshot)
        except ChannelError as error:
            raise StoreUnavailable(str(error)) from error

    async def changes_since(self, revision: int) -> Changes | None:
        """See Store."""
        try:
            changes: Any = await self._channel.call(
                messages.ReadChanges(revision),
                Changes | None,  # type: ignore[arg-type]  # a union is no type to mypy
            )
        except ChannelError as error:
            raise StoreUnavailable(str(error)) from error
        return changes  # type: ignore[no-any-return]

    async def configuration(self, tunnel_id: UUID) -> Configuration | None:
        """See Store."""
        try:
            found: Any = await self._channel.call(
                messages.ReadConfiguration(tunnel_id),
                Configuration | None,  # type: ignore[arg-type]  # a union is no type to mypy
            )
        except ChannelError as error:
            raise StoreUnavailable(str(error)) from error
        return found  # type: ignore[no-any-return]

    async def deleted(self, account_id: str) -> NoReturn:
        """Refused, as all that the API alone asks."""
        self._refuse()

    async def commit(self, records: Sequence[Record], entry: AuditEntry) -> NoReturn:
        """Refused."""
        self._refuse()

    async def audit(
        self, *, limit: int, before: int | None = None, account_id: str | None = None
    ) -> NoReturn:
        """Refused."""
        self._refuse()

    async def purge(self, deleted_before: object) -> NoReturn:
        """Refused."""
        self._refuse()

    async def close(self) -> None:
        """There is nothing to close."""

    def _refuse(self) -> NoReturn:
        raise StoreUnavailable("a worker process changes nothing")


class EdgeWorker(Inside):
    """Serves one channel."""

    requests = messages.WorkerRequest
    notices = messages.SupervisorNotice

    def __init__(self) -> None:
        super().__init__()
        self._router = Router()
        self._room = WaitingRoom(self._router)
        # Told of links before anything else, and of changes while it starts.
        self._neighbours = Neighbours(self._router, self._room, self.channel.tell)
        self._registry = Registry(
            SupervisorsStore(self.channel), self._router, on_tunnel_deleted=self._close_links_of
        )
        self._data_path: LocalDataPath | None = None
        self._descriptors: socket.socket | None = None
        self._changing = asyncio.Lock()

    async def answer(self, request: Any) -> Any:
        """Do what is asked; see `worker_messages` for what each request is answered with."""
        if isinstance(request, messages.Configure):
            async with self._changing:
                return await self._configure(request)
        if isinstance(request, messages.ApplyTcp):
            async with self._changing:
                return await self._apply_tcp(request)
        if isinstance(request, messages.Refresh):
            return await self._refresh()
        if isinstance(request, messages.Apply):
            return await self._apply(request.service)
        if isinstance(request, messages.CloseLinks):
            self._close_links_of(request.tunnel_id, request.connector_id)
            return None
        if isinstance(request, messages.GiveWay):
            self._neighbours.hands_over = True
            if self._data_path is not None:
                await self._data_path.give_way()
            return None
        if isinstance(request, messages.DrainVisitors):
            if self._data_path is not None:
                await self._data_path.drain_visitors(request.seconds)
            return None
        if isinstance(request, messages.SetAside):
            self._router.set_aside(request.tunnel_id, request.key, aside=request.aside)
            return None
        if isinstance(request, messages.ReadHealth):
            return self._router.health(request.hostname)
        if isinstance(request, messages.StopVisitors):
            if self._data_path is not None:
                await self._data_path.stop_visitors(request.seconds)
            return None
        if isinstance(request, messages.StopLinks):
            return await self._stop_links(request.seconds)
        if isinstance(request, messages.ReadFigures):
            return {} if self._data_path is None else self._data_path.figures()
        if isinstance(request, messages.ReadRecent):
            return None if self._data_path is None else self._data_path.recent_here()
        assert isinstance(request, messages.Alive)
        return None

    def notice(self, notice: Any) -> None:
        if self._neighbours.notice(notice):
            return
        own = self._neighbours.own(notice.number)
        if own is None:  # gone meanwhile
            return
        if isinstance(notice, messages.Probe):
            own.probe()
        elif isinstance(notice, messages.MoveLink):
            own.move(notice.way, notice.drain_seconds)
        else:
            own.abort()

    def closed(self) -> None:
        """The edge ends, or this process does: leave no socket behind."""
        self._neighbours.close_listener()
        if self._data_path is not None:
            self._data_path.close_access_log()
        super().closed()

    async def _configure(self, request: messages.Configure) -> messages.Done:
        self.log_from(request.log_level)
        self._neighbours.number = request.number
        service = request.service
        try:
            directory = DataDirectory.of_running_edge(Path(request.data_dir))
            authority = CertificateAuthority.open(directory)
            await self._registry.refresh()
            data_path = self._data_path = LocalDataPath(
                service,
                self._registry,
                self._router,
                authority,
                directory,
                self._ask_dashboard,
                self._room,
            )
            await self._neighbours.open(data_path, Path(request.peers))
            await self._neighbours.reach_those_beyond()
            await data_path.start_links([_inherited(number) for number in request.tunnels])
            self._descriptors = socket.socket(fileno=request.descriptors)
            await data_path.start_visitors(
                _inherited(request.http),
                _inherited(request.https),
                receive_sockets(self._descriptors),
            )
        except (EdgeError, OSError) as error:
            return messages.Done(str(error) or type(error).__name__)
        return messages.Done()

    async def _apply_tcp(self, request: messages.ApplyTcp) -> messages.Done:
        # One that could not be configured is replaced.
        if self._data_path is not None and self._descriptors is not None:
            try:
                await self._data_path.apply_tcp(request.routes, receive_sockets(self._descriptors))
            except OSError as error:
                return messages.Done(str(error))
        return messages.Done()

    async def _stop_links(self, seconds: float) -> None:
        if self._data_path is not None:
            await self._data_path.stop_links(seconds)
        await self._neighbours.drain(seconds)
        # Nothing comes from there, or is to go there, now that all visitors are gone.
        await self._neighbours.close()

    async def _apply(self, service: Service) -> messages.Done:
        try:
            if self._data_path is not None:
                await self._data_path.apply(service)
        except EdgeError as error:
            return messages.Done(str(error))
        self._neighbours.allow(service.common.timeouts)
        return messages.Done()

    async def _ask_dashboard(self, request: AskDashboard) -> DashboardAnswer:
        """Of the supervisor, where the API is."""
        return await self.channel.call(request, DashboardAnswer)

    async def _refresh(self) -> messages.Done:
        try:
            await self._registry.refresh()
        except EdgeError as error:
            return messages.Done(str(error))
        return messages.Done()

    def _close_links_of(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        if self._data_path is not None:
            self._data_path.close_links_of(tunnel_id, connector_id)


def _inherited(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


def main() -> None:
    """What a fresh interpreter is started for."""
    run_worker(EdgeWorker)
