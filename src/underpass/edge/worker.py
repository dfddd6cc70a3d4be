"""An edge's worker process: a data path of its own on listening sockets that all workers share."""

from __future__ import annotations

import asyncio
import itertools
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
from underpass.edge.links import EdgeLink
from underpass.edge.peers import Peer, PeerListener, socket_path
from underpass.edge.registry import Registry
from underpass.edge.remote import Presence, RemoteLink
from underpass.edge.router import Link, Router
from underpass.edge.store import (
    AuditEntry,
    Changes,
    Configuration,
    Record,
    Snapshot,
    StoreUnavailable,
)
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
        self._number = -1
        self._router = Router(on_link_added=self._link_came, on_link_removed=self._link_went)
        # Told of links before anything else, and of changes while it starts.
        self._presence = Presence()
        self._peers: dict[int, Peer] = {}
        self._registry = Registry(
            SupervisorsStore(self.channel), self._router, on_tunnel_deleted=self._close_links_of
        )
        self._numbers = itertools.count(1)
        self._links: dict[Link, int] = {}
        self._data_path: LocalDataPath | None = None
        self._peer_listener: PeerListener | None = None
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
        if isinstance(notice, messages.LinkCame):
            link = RemoteLink(
                notice.worker,
                notice.number,
                notice.tunnel_id,
                notice.connector_id,
                notice.conn_index,
                details=notice.details,
                carry=lambda exchange: self._carry(notice.worker, exchange),
                ask=self._ask,
            )
            self._presence.add(link)
            self._router.add_remote(link)
        elif isinstance(notice, messages.LinkWent):
            gone = self._presence.pop(notice.worker, notice.number)
            if gone is not None:
                self._router.remove_link(gone)
        elif isinstance(notice, messages.PeerIsUp):
            peer = self._peers.get(notice.worker)
            if peer is not None:
                peer.is_up()
        else:
            own = next((own for own in self._links if self._links[own] == notice.number), None)
            if isinstance(own, EdgeLink):  # and not gone meanwhile
                if isinstance(notice, messages.Probe):
                    own.probe()
                else:
                    own.abort()

    def closed(self) -> None:
        """The edge ends, or this process does: leave no socket behind."""
        if self._peer_listener is not None:
            self._peer_listener.close()
        if self._data_path is not None:
            self._data_path.close_access_log()
        super().closed()

    async def _configure(self, request: messages.Configure) -> messages.Done:
        self.log_from(request.log_level)
        self._number = request.number
        service = request.service
        try:
            directory = DataDirectory.of_running_edge(Path(request.data_dir))
            authority = CertificateAuthority.open(directory)
            await self._registry.refresh()
            data_path = self._data_path = LocalDataPath(
                service, self._registry, self._router, authority, directory, self._ask_dashboard
            )
            peers = Path(request.peers)
            listener = self._peer_listener = PeerListener(data_path.turn, self._router)
            await listener.start(socket_path(peers, request.number))
            # Before there can be a link that others would want.
            self.channel.tell(messages.PeerIsUp(request.number))
            for worker in range(request.workers):
                if worker != request.number:
                    self._peers[worker] = Peer(
                        data_path.turn, socket_path(peers, worker), service.common.timeouts
                    )
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
        # Nothing comes from there, or is to go there, now that all visitors are gone.
        await asyncio.gather(*(peer.close() for peer in self._peers.values()))

    async def _apply(self, service: Service) -> messages.Done:
        try:
            if self._data_path is not None:
                await self._data_path.apply(service)
        except EdgeError as error:
            return messages.Done(str(error))
        for peer in self._peers.values():
            peer.allow(service.common.timeouts)
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

    def _carry(self, worker: int, exchange: Any) -> bool:
        peer = self._peers.get(worker)
        return peer is not None and peer.carry(exchange)

    def _ask(self, link: RemoteLink) -> None:
        self.channel.tell(messages.Probe(link.worker, link.number))

    def _link_came(self, link: Link) -> None:
        number = self._links[link] = next(self._numbers)
        self.channel.tell(
            messages.LinkCame(
                self._number,
                number,
                link.tunnel_id,
                link.connector_id,
                link.conn_index,
                link.details,
            )
        )

    def _link_went(self, link: Link) -> None:
        self.channel.tell(messages.LinkWent(self._number, self._links.pop(link)))


def _inherited(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


def main() -> None:
    """What a fresh interpreter is started for."""
    run_worker(EdgeWorker)
