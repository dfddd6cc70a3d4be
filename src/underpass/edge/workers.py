"""An edge's data path in worker processes, which share its listening sockets.

The supervisor keeps what there is one of: data directory, store, API, signals. Each worker has a
replica of the registry, visitors, and links. The supervisor's router holds no link that carries
anything: it is the table of all workers' links, by which a second one with the same index is
noticed wherever it comes in.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from underpass.edge import worker_messages as messages
from underpass.edge.dashboard.public import Ask, AskDashboard
from underpass.edge.data_path import Service
from underpass.edge.errors import EdgeError
from underpass.edge.moving import Way
from underpass.edge.origin_health import ConnectorHealth
from underpass.edge.peers import path_from_beyond
from underpass.edge.recent import Recent, merged
from underpass.edge.remote import Presence, RemoteLink
from underpass.edge.router import DuplicateLink, Link, Router, TooManyLinks
from underpass.edge.store import Store
from underpass.edge.tcp_routes import TcpRoute
from underpass.ops.metrics import Snapshot
from underpass.ops.workers.channel import ChannelError
from underpass.ops.workers.descriptors import DescriptorSender
from underpass.ops.workers.logs import LogLine, LogLinesLost, write_line, write_loss
from underpass.ops.workers.process import WorkerProcess
from underpass.ops.workers.seat import Process, Seat, WorkerRefusedError
from underpass.ops.workers.tally import Readings, Tally, total

__all__ = ["EdgeWorkers"]

REFRESH_SECONDS: Final = 15.0
"""For a worker to take over a change; else it is replaced: it would serve what is no more."""

SCRAPE_SECONDS: Final = 2.0
"""For a worker to tell its figures."""

STOP_MARGIN: Final = 2.0
"""Seconds a worker may take beyond what its requests were given; then it is ended as it is."""

_log = logging.getLogger(__name__)


class _Ear:
    """What the supervisor hears from one worker process."""

    requests = messages.SupervisorRequest
    notices = messages.WorkerNotice

    def __init__(self, workers: EdgeWorkers, seat: int) -> None:
        self._workers = workers
        self._seat = seat

    async def answer(self, request: Any) -> Any:
        store = self._workers.store
        if isinstance(request, messages.ReadChanges):
            changes = await store.changes_since(request.revision)
            return None if changes is None else replace(changes, tokens=())
        if isinstance(request, messages.ReadConfiguration):
            return await store.configuration(request.tunnel_id)
        if isinstance(request, AskDashboard):
            assert self._workers.ask_dashboard is not None
            return await self._workers.ask_dashboard(request)
        assert isinstance(request, messages.ReadSnapshot)
        # The API is not theirs.
        return replace(await store.snapshot(), tokens=())

    def notice(self, notice: Any) -> None:
        if isinstance(notice, LogLine):
            write_line(notice, self._seat)
        elif isinstance(notice, LogLinesLost):
            write_loss(notice, self._seat)
        elif isinstance(notice, messages.LinkCame):
            self._workers.link_came(notice)
        elif isinstance(notice, messages.LinkWent):
            self._workers.link_went(notice)
        elif isinstance(notice, messages.PeerIsUp):
            self._workers.peer_is_up(notice)
        else:
            self._workers.probe(notice)

    def drained(self) -> None:
        """Nothing waits for that here."""

    def closed(self) -> None:
        """The seat notices that the process ends."""


class EdgeWorkers:
    """`data_path.DataPath` over `count` processes.

    Args:
        store: what workers read.
        router: gets the links of all workers, for whoever asks whether a tunnel has some.
        ask_dashboard: answers what visitors of the dashboard's hostname ask.
        first: what the first worker is called by the others; the next one comes after it. The
            edge that this one follows has called its own by other numbers.
    """

    def __init__(
        self,
        count: int,
        service: Service,
        data_dir: Path,
        store: Store,
        router: Router,
        *,
        http: socket.socket,
        https: socket.socket,
        tunnels: list[socket.socket],
        ask_dashboard: Ask | None = None,
        first: int = 0,
        tcp: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self.store = store
        self.ask_dashboard = ask_dashboard
        self.numbers = range(first, first + count)
        self._service = service
        self._data_dir = data_dir
        self._router = router
        self._http = http
        self._https = https
        self._tunnels = tunnels
        self._tcp = dict(tcp or {})
        self._presence = Presence()
        self._stopping = False
        # Told of everything: those that run, and those that are about to.
        self._processes: dict[int, Process] = {}
        self._ways: dict[int, messages.PeerIsUp] = {}
        self._others: list[Callable[[Any], object]] = []
        """The edge's processes that this one follows, or is followed by."""
        self._senders = [DescriptorSender() for _ in range(count)]
        self._tallies = [Tally() for _ in range(count)]
        # Not in the data directory: a path of more than about 100 bytes is none to a socket.
        self._sockets = Path(tempfile.mkdtemp(prefix="underpass-"))
        self._seats = [
            Seat(
                seat,
                start=partial(self.start_process, seat),
                prepare=partial(self._configure, seat),
                watch=self._watch,
                on_end=partial(self._ended, first + seat),
            )
            for seat in range(count)
        ]

    async def start_process(self, seat: int) -> Process:
        """A new process for a seat. Raises OSError."""
        if self._stopping:
            raise OSError("the edge is stopping")
        # What its predecessor has not taken is not for this one.
        self._senders[seat].close()
        sender = self._senders[seat] = DescriptorSender()
        return await WorkerProcess.start(
            "underpass.edge.worker",
            _Ear(self, seat),
            [end.fileno() for end in (self._http, self._https, *self._tunnels, sender.theirs)],
        )

    async def open(self) -> None:
        """Start the processes. Raises EdgeError, and then there is none."""
        opened = await asyncio.gather(
            *(seat.open() for seat in self._seats), return_exceptions=True
        )
        for outcome in opened:
            if isinstance(outcome, BaseException):
                await self.close()
                if isinstance(outcome, WorkerRefusedError):
                    raise EdgeError(str(outcome)) from outcome
                raise outcome
        _log.info("Running %d worker processes", len(self._seats), extra={"pids": self.processes()})

    def processes(self) -> list[int]:
        """The ids of the workers that run."""
        return [seat.current.pid for seat in self._seats if seat.current is not None]

    async def refresh(self) -> None:
        """See DataPath; one that is slow contributes what it told last."""
        await asyncio.gather(
            *(self._read_figures(worker, process) for worker, process in self._processes.items())
        )

    async def _read_figures(self, worker: int, process: Process) -> None:
        try:
            readings: Any = await asyncio.wait_for(
                process.channel.call(messages.ReadFigures(), Readings), SCRAPE_SECONDS
            )
        except (ChannelError, asyncio.TimeoutError) as error:
            _log.debug("worker %d did not tell its figures: %s", worker, error)
            return
        if self._processes.get(worker) is process:
            self._tallies[worker - self.numbers.start].told(readings)

    def figures(self) -> Snapshot:
        """See DataPath: the sums of all workers, dead ones included, as of the last `refresh`."""
        return total(tally.readings for tally in self._tallies)

    async def recent(self) -> Recent | None:
        """See DataPath; what a slow worker remembers is left out."""
        if not self._service.dashboard.recent_requests:
            return None
        read = await asyncio.gather(
            *(self._read_recent(worker, process) for worker, process in self._processes.items())
        )
        return merged(recent for recent in read if recent is not None)

    async def _read_recent(self, worker: int, process: Process) -> Recent | None:
        try:
            recent: Any = await asyncio.wait_for(
                process.channel.call(
                    messages.ReadRecent(),
                    Recent | None,  # type: ignore[arg-type]  # a union is no type to mypy
                ),
                SCRAPE_SECONDS,
            )
        except (ChannelError, asyncio.TimeoutError) as error:
            _log.debug("worker %d did not tell its last requests: %s", worker, error)
            return None
        return recent  # type: ignore[no-any-return]

    async def take_over(self) -> None:
        """Have every worker take over what has changed in the store."""
        await asyncio.gather(
            *(
                self._have_taken_over(worker, process, messages.Refresh())
                for worker, process in self._processes.items()
            )
        )

    async def apply(self, service: Service) -> None:
        """See DataPath; who starts later is told the same."""
        self._service = service
        await asyncio.gather(
            *(
                self._have_taken_over(worker, process, messages.Apply(service))
                for worker, process in self._processes.items()
            )
        )

    async def _have_taken_over(
        self, worker: int, process: Process, change: messages.Refresh | messages.Apply
    ) -> None:
        try:
            done = await asyncio.wait_for(
                process.channel.call(change, messages.Done), REFRESH_SECONDS
            )
            error = done.error
        except (ChannelError, asyncio.TimeoutError) as raised:
            error = str(raised) or type(raised).__name__
        if error:
            _log.error(
                "A worker process did not take over a change, and is ended",
                extra={"worker": worker, "error": error},
            )
            process.kill()

    async def apply_tcp(
        self, routes: Sequence[TcpRoute], sockets: Mapping[str, socket.socket]
    ) -> None:
        """See DataPath. A worker that cannot is replaced by one that begins with them."""
        new = {name: sockets[name] for name in sockets if sockets[name] is not self._tcp.get(name)}
        self._tcp = dict(sockets)
        self._service = replace(self._service, tcp=tuple(routes))
        request = messages.ApplyTcp(self._service.tcp)
        await asyncio.gather(
            *(
                self._apply_tcp(worker, process, request, new)
                for worker, process in self._processes.items()
            )
        )

    async def _apply_tcp(
        self,
        worker: int,
        process: Process,
        request: messages.ApplyTcp,
        new: Mapping[str, socket.socket],
    ) -> None:
        try:
            self._senders[worker - self.numbers.start].send(new)
            done = await asyncio.wait_for(
                process.channel.call(request, messages.Done), REFRESH_SECONDS
            )
            error = done.error
        except (ChannelError, OSError, asyncio.TimeoutError) as raised:
            error = str(raised) or type(raised).__name__
        if error:
            _log.error(
                "A worker process did not take over public ports, and is ended",
                extra={"worker": worker, "error": error},
            )
            process.kill()

    async def close_links(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        """See DataPath."""
        await self._tell_all(messages.CloseLinks(tunnel_id, connector_id))

    async def set_aside(self, tunnel_id: UUID, key: UUID, aside: bool) -> int:
        """See DataPath."""
        # Here first: a worker that starts meanwhile is told what is known here.
        count = self._router.set_aside(tunnel_id, key, aside=aside)
        await self._tell_all(messages.SetAside(tunnel_id, key, aside))
        return count

    async def _tell_all(self, request: messages.CloseLinks | messages.SetAside) -> None:
        await asyncio.gather(
            *(self._have_done(process, request) for process in self._processes.values())
        )

    async def _have_done(
        self, process: Process, request: messages.CloseLinks | messages.SetAside
    ) -> None:
        try:
            await asyncio.wait_for(process.channel.call(request, type(None)), REFRESH_SECONDS)
        except ChannelError as error:
            _log.debug("a worker ended, and its links with it: %s", error)
        except asyncio.TimeoutError:
            _log.warning(
                "A worker process does not do as it is told",
                extra={"pid": process.pid, "request": type(request).__name__},
            )

    async def health(self, hostname: str) -> list[ConnectorHealth]:
        """See DataPath: of each connector what the worker says that knows the worst."""
        told = await asyncio.gather(
            *(self._read_health(process, hostname) for process in self._processes.values())
        )
        worst: dict[UUID, ConnectorHealth] = {}
        for each in sorted((each for known in told for each in known), key=_badness):
            worst[each.connector_id] = each
        return list(worst.values())

    async def _read_health(self, process: Process, hostname: str) -> list[ConnectorHealth]:
        request = messages.ReadHealth(hostname)
        try:
            return await asyncio.wait_for(
                process.channel.call(request, list[ConnectorHealth]), SCRAPE_SECONDS
            )
        except (ChannelError, asyncio.TimeoutError) as error:
            _log.debug("a worker did not tell how connectors are: %s", error)
            return []

    # Links.

    def link_came(self, notice: messages.LinkCame) -> None:
        """A worker has registered a link: tell the others, or have it closed."""
        link = RemoteLink(
            notice.worker,
            notice.number,
            notice.tunnel_id,
            notice.connector_id,
            notice.conn_index,
            details=notice.details,
        )
        try:
            self._router.add_link(link.tunnel_id, link)
        except (DuplicateLink, TooManyLinks) as error:
            # Two registered in two workers before either had heard of the other.
            _log.info("closing a connection to tunnel %s: %s", link.tunnel_id, error)
            self._tell(notice.worker, messages.Abort(notice.number))
            return
        self._presence.add(link)
        self._tell_others(notice.worker, notice)
        self._tell_other_edges(notice)

    def link_went(self, notice: messages.LinkWent) -> None:
        """A link takes no requests any more."""
        link = self._presence.pop(notice.worker, notice.number)
        if link is not None:
            self._router.remove_link(link)
            self._tell_others(notice.worker, notice)
            self._tell_other_edges(notice)

    def probe(self, notice: messages.Probe) -> None:
        """A worker doubts a link of another one."""
        self._tell(notice.worker, notice)

    def _tell(self, worker: int, notice: Any) -> None:
        process = self._processes.get(worker)
        if process is not None:
            process.channel.tell(notice)

    def _tell_others(self, worker: int, notice: Any) -> None:
        for other in self._processes:
            if other != worker:
                self._tell(other, notice)

    def peer_is_up(self, notice: messages.PeerIsUp) -> None:
        """A worker takes requests of the others."""
        self._ways[notice.worker] = notice
        self._tell_others(notice.worker, notice)
        self._tell_other_edges(notice)

    # Another edge's process, of which this one takes the place, or which takes this one's.

    async def introduce(self, tell: Callable[[Any], object]) -> None:
        """See DataPath."""
        for way in self._ways.values():
            if not way.beyond:
                tell(way)
        for link in self._presence:
            if not link.beyond:
                tell(_came(link))
        self._others.append(tell)

    def notice(self, notice: Any) -> None:
        """See DataPath."""
        if isinstance(notice, messages.LinkCame):
            link = RemoteLink(
                notice.worker,
                notice.number,
                notice.tunnel_id,
                notice.connector_id,
                notice.conn_index,
                details=notice.details,
                beyond=True,
            )
            self._presence.add(link)
            self._router.add_beyond(link)
            notice = _came(link)
        elif isinstance(notice, messages.LinkWent):
            gone = self._presence.pop(notice.worker, notice.number)
            if gone is not None:
                self._router.remove_link(gone)
        elif isinstance(notice, messages.PeerIsUp):
            notice = self._ways[notice.worker] = messages.PeerIsUp(
                notice.worker, path_from_beyond(notice.path), beyond=True
            )
        for process in self._processes.values():
            process.channel.tell(notice)

    def leave(self, workers: Iterable[int]) -> None:
        """See DataPath."""
        for worker in workers:
            self._ways.pop(worker, None)
            for process in self._processes.values():
                process.channel.tell(messages.PeerLeaves(worker))

    def part(self, tell: Callable[[Any], object], workers: Iterable[int]) -> None:
        """See DataPath."""
        self._others.remove(tell)
        for worker in workers:
            self._ways.pop(worker, None)
            for link in self._presence.pop_all(worker):
                self._router.remove_link(link)
            for process in self._processes.values():
                process.channel.tell(messages.PeerWent(worker))

    def move(self, link: Link, way: Way, drain_seconds: float) -> None:
        """See DataPath."""
        if isinstance(link, RemoteLink):
            self._tell(link.worker, messages.MoveLink(link.number, way, drain_seconds))

    async def give_way(self) -> None:
        """See DataPath."""
        for listener in self._tunnels:
            listener.close()
        self._stopping = True  # a new worker would have nothing to listen on
        await self._ask_all(messages.GiveWay(), REFRESH_SECONDS)

    async def drain_visitors(self, seconds: float) -> None:
        """See DataPath."""
        for listener in (self._http, self._https, *self._tcp.values()):
            listener.close()
        await self._ask_all(messages.DrainVisitors(seconds), seconds + STOP_MARGIN)

    async def _ask_all(self, request: Any, seconds: float) -> None:
        await asyncio.gather(
            *(self._ask(process, request, seconds) for process in self._processes.values())
        )

    def _tell_other_edges(self, notice: Any) -> None:
        for tell in self._others:
            tell(notice)

    # Processes.

    async def _configure(self, seat: int, process: Process) -> None:
        """Make a new process what it is for."""
        worker = self.numbers[seat]
        self._processes[worker] = process
        for way in self._ways.values():
            if way.worker != worker:
                process.channel.tell(way)
        for link in self._presence:
            process.channel.tell(_came(link))
        for tunnel_id, key in tuple(self._router.kept_aside()):
            await process.channel.call(messages.SetAside(tunnel_id, key, True), type(None))
        request = messages.Configure(
            number=worker,
            log_level=logging.getLogger("underpass").getEffectiveLevel(),
            data_dir=str(self._data_dir),
            peers=str(self._sockets),
            http=self._http.fileno(),
            https=self._https.fileno(),
            tunnels=tuple(listener.fileno() for listener in self._tunnels),
            descriptors=self._senders[seat].theirs.fileno(),
            service=self._service,
        )
        try:
            self._senders[seat].send(self._tcp)
            done = await process.channel.call(request, messages.Done)
            if done.error:
                raise WorkerRefusedError(done.error)
        except BaseException:
            self._forget(worker)
            raise

    async def _watch(self, process: Process) -> None:
        await process.channel.call(messages.Alive(), type(None))

    def _ended(self, worker: int, process: Process, how: str) -> None:
        self._forget(worker)

    def _forget(self, worker: int) -> None:
        self._processes.pop(worker, None)
        self._tallies[worker - self.numbers.start].ended()
        for link in self._presence.pop_all(worker):
            self._router.remove_link(link)
            went = messages.LinkWent(link.worker, link.number)
            self._tell_others(worker, went)
            self._tell_other_edges(went)

    # The end.

    async def stop_visitors(self, seconds: float) -> None:
        """See DataPath."""
        self._stopping = True
        for listener in (self._http, self._https, *self._tcp.values()):
            listener.close()
        await self._stop(messages.StopVisitors(seconds), seconds)

    async def stop_links(self, seconds: float) -> None:
        """See DataPath."""
        for listener in self._tunnels:
            listener.close()
        await self._stop(messages.StopLinks(seconds), seconds)

    async def close(self) -> None:
        """End every worker."""
        self._stopping = True
        await asyncio.gather(*(seat.close(self._finish) for seat in self._seats))
        for sender in self._senders:
            sender.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    async def _finish(self, process: Process) -> None:
        """Nothing is left to say: what a worker still has ends with it."""

    async def _stop(
        self, request: messages.StopVisitors | messages.StopLinks, seconds: float
    ) -> None:
        if not seconds:
            await self.close()
            return
        await self._ask_all(request, seconds + STOP_MARGIN)

    async def _ask(self, process: Process, request: Any, seconds: float) -> None:
        try:
            await asyncio.wait_for(process.channel.call(request, type(None)), seconds)
        except ChannelError as error:
            _log.debug("a worker ended while it was stopping: %s", error)
        except asyncio.TimeoutError:
            _log.warning("A worker process is ended as it is", extra={"pid": process.pid})
            process.kill()


def _came(link: RemoteLink) -> messages.LinkCame:
    return messages.LinkCame(
        link.worker,
        link.number,
        link.tunnel_id,
        link.connector_id,
        link.conn_index,
        link.details,
        link.beyond,
    )


def _badness(health: ConnectorHealth) -> tuple[bool, int]:
    return health.is_spared, health.failures
