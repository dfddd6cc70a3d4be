"""A data path in worker processes: each has whole links, and everything behind them.

Seen from the control plane nothing is different. A link is dialled by the worker whose turn its
index is, and a `WorkerLink` stands for it here. When a worker dies its links have ended, and the
supervisor dials them again as it does any lost link; by then there is another worker.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from underpass.connector import worker_messages as messages
from underpass.connector.data_path import DataPath, DataPathError
from underpass.connector.edges import EdgeSlot
from underpass.connector.in_force import Updates
from underpass.connector.ingress import Ingress
from underpass.connector.links import DialError, DialErrorKind, Link
from underpass.connector.options import ConnectorOptions
from underpass.connector.status import ConnectorStatus
from underpass.ops.workers.channel import ChannelError
from underpass.ops.workers.logs import LogLine, LogLinesLost, write_line, write_loss
from underpass.ops.workers.process import WorkerProcess
from underpass.ops.workers.seat import Process, Seat, WorkerRefusedError
from underpass.ops.workers.tally import Readings, Tally, total
from underpass.wire.registration import ConnectionDetails, RegistrationRefused
from underpass.wire.remote_config import ConfigurationUpdate

if TYPE_CHECKING:
    from underpass.connector.management.between_processes import StreamingDesk
    from underpass.ops.process_report import Subject

__all__ = ["WorkerDialer", "WorkerLink", "open_workers"]

SCRAPE_SECONDS: Final = 1.0
"""For a worker to tell its counters; else those it told last are shown."""

APPLY_SECONDS: Final = 15.0
"""For a worker to take other rules, the report to the edge included; else it is replaced."""

FINISH_SECONDS: Final = 2.0
"""For a worker to close what it has; else it is ended as it is."""

_log = logging.getLogger(__name__)


class WorkerLostError(ConnectionError):
    """A link ended because its worker process did."""


class WorkerLink:
    """`links.Link` for a link in a worker."""

    def __init__(self, number: int, process: Process) -> None:
        self._number = number
        self._process = process
        self._details: ConnectionDetails | None = None
        loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[Exception | None] = loop.create_future()
        self._going_away = asyncio.Event()
        self.drain_seconds = 0.0

    @property
    def number(self) -> int:
        """What the worker knows it by."""
        return self._number

    @property
    def process(self) -> Process:
        """The worker that has it."""
        return self._process

    @property
    def details(self) -> ConnectionDetails:
        """What the edge answered to the registration."""
        assert self._details is not None
        return self._details

    def registered(self, details: ConnectionDetails) -> None:
        self._details = details

    def closed(self, error: Exception | None) -> None:
        """The link is gone, with its worker or without."""
        if not self._closed.done():
            self._closed.set_result(error)

    async def wait_closed(self) -> Exception | None:
        """Return when the connection is gone, with the reason if it was not a clean end."""
        return await asyncio.shield(self._closed)

    def going_away(self, drain_seconds: float) -> None:
        """The edge wants it to end."""
        self.drain_seconds = drain_seconds
        self._going_away.set()

    async def wait_going_away(self) -> None:
        """Return when the edge has said that it wants the connection to end."""
        await self._going_away.wait()

    def probe(self) -> None:
        """Find out now whether the edge is still there."""
        if not self._closed.done():
            self._process.channel.tell(messages.Probe(self._number))

    async def unregister(self, timeout: float) -> None:
        """Ask the edge to send no new requests. Raises ConnectionError."""
        request = messages.Unregister(self._number, timeout)
        try:
            done = await self._process.channel.call(request, messages.Done)
        except ChannelError as error:
            raise WorkerLostError(str(error)) from error
        if done.error:
            raise ConnectionError(done.error)

    async def drained(self) -> None:
        """Return when no exchange is in flight and all that was answered has been written."""
        try:
            await self._process.channel.call(messages.Drain(self._number), type(None))
        except ChannelError:
            return  # nothing can be in flight any more

    async def in_flight(self) -> int:
        """How many exchanges are in flight."""
        try:
            return await self._process.channel.call(messages.InFlight(self._number), int)
        except ChannelError:
            return 0

    def abort(self) -> None:
        """Close at once."""
        if not self._closed.done():
            self._process.channel.tell(messages.Abort(self._number))


class _Ear:
    """What the supervisor hears from one worker process."""

    requests = messages.SupervisorRequest
    notices = messages.WorkerNotice

    def __init__(self, dialer: WorkerDialer, worker: int) -> None:
        self._dialer = dialer
        self._worker = worker

    async def answer(self, request: Any) -> Any:
        return await self._dialer.answer(self._worker, request)

    def notice(self, notice: Any) -> None:
        if isinstance(notice, LogLine):
            write_line(notice, self._worker)
        elif isinstance(notice, LogLinesLost):
            write_loss(notice, self._worker)
        elif isinstance(notice, messages.LinkGoingAway):
            self._dialer.link_going_away(notice)
        elif isinstance(notice, messages.EndStreaming):
            self._dialer.end_streaming(self._worker, notice.session)
        else:
            self._dialer.link_closed(notice)

    def drained(self) -> None:
        """Nothing waits for that here."""

    def closed(self) -> None:
        """The seat notices that the process ends."""


class WorkerDialer:
    """`links.LinkDialer` over `options.workers` processes, and the rest of a DataPath."""

    def __init__(self, options: ConnectorOptions, status: ConnectorStatus | None = None) -> None:
        self._options = options
        self._updates: Updates | None = None
        self._status = status or ConnectorStatus(options.connector_id)
        self._desk: StreamingDesk | None = None
        self._links: dict[int, WorkerLink] = {}
        self._numbers = itertools.count(1)
        # Links are counted through all homes, so that each worker has its share.
        counts = [home.ha_connections for home in options.all_homes]
        self._first_links = list(itertools.accumulate(counts, initial=0))
        self._tallies = [Tally() for _ in range(options.workers)]
        # Counts changes of the rules, so that a worker that starts meanwhile misses none.
        self._version = 0
        # The processes that have the rules of this version, with their seats' numbers. One that
        # is not there yet will look at the version before it is.
        self._configured: dict[Process, int] = {}
        self._seats: list[Seat[Process]] = [
            Seat(
                worker,
                start=partial(self.start_process, worker),
                prepare=partial(self._configure, worker),
                watch=partial(self._read_counters, worker),
                on_end=partial(self._ended, worker),
            )
            for worker in range(options.workers)
        ]

    async def start_process(self, worker: int) -> Process:
        """A new process for a seat. Raises OSError."""
        return await WorkerProcess.start("underpass.connector.worker", _Ear(self, worker))

    async def answer(self, worker: int, request: Any) -> Any:
        """Put a configuration in force that came down one of the worker's links, or answer its
        management service."""
        if isinstance(request, messages.Update):
            return await self.update(request)
        process = self._seats[worker].current
        if process is None:
            raise WorkerLostError(f"worker process {worker} is not ready")
        if self._desk is None:
            from underpass.connector.management.between_processes import StreamingDesk

            self._desk = StreamingDesk(self._status, self._log_from)
        return await self._desk.answer(process.channel, request)

    def end_streaming(self, worker: int, session: int) -> None:
        """A worker's session wants no more records."""
        process = self._seats[worker].current
        if self._desk is not None and process is not None:
            self._desk.end(process.channel, session)

    def _log_from(self, level: int) -> None:
        for process in self._configured:
            process.channel.tell(messages.LogFrom(level))

    async def open(self) -> None:
        """Start the processes. Raises DataPathError, and then there is none."""
        opened = await asyncio.gather(
            *(seat.open() for seat in self._seats), return_exceptions=True
        )
        for outcome in opened:
            if isinstance(outcome, BaseException):
                await self.close()
                if isinstance(outcome, WorkerRefusedError):
                    raise DataPathError(str(outcome)) from outcome
                raise outcome

    async def dial(
        self,
        slot: EdgeSlot,
        conn_index: int,
        previous_attempts: int,
        replacing: Link | None = None,
    ) -> WorkerLink:
        """Have a worker connect to `slot` and register. See `links.LinkDialer`."""
        worker = (self._first_links[slot.home] + conn_index) % len(self._seats)
        process = await self._seats[worker].process()
        number = next(self._numbers)
        link = self._links[number] = WorkerLink(number, process)
        # One in another worker has died with it, since an index always has the same seat.
        same = isinstance(replacing, WorkerLink) and replacing.process is process
        request = messages.Dial(
            number,
            slot.host,
            slot.port,
            slot.home,
            conn_index,
            previous_attempts,
            replacing.number if same and isinstance(replacing, WorkerLink) else 0,
        )
        try:
            answer: Any = await process.channel.call(
                request,
                messages.DialAnswer,  # type: ignore[arg-type]  # a union is no type to mypy
            )
            if isinstance(answer, messages.DialFailed):
                kind = DialErrorKind(answer.kind)
                raise DialError(kind, answer.message, is_lasting=answer.is_lasting)
            if isinstance(answer, messages.Refused):
                raise RegistrationRefused(answer.cause, answer.retry_after_ns, answer.should_retry)
        except ChannelError as error:
            self._links.pop(number, None)
            raise DialError(DialErrorKind.WORKER, f"worker process {worker}: {error}") from error
        except BaseException:
            self._links.pop(number, None)
            # Cancelled, it may be registered by now, with nobody here who would know of it.
            process.channel.tell(messages.Abort(number))
            raise
        link.registered(
            ConnectionDetails(
                answer.connection_id, answer.location_name, answer.tunnel_is_remotely_managed
            )
        )
        return link

    def take_updates(self, updates: Updates) -> None:
        """Say who takes configurations that the edge pushes."""
        self._updates = updates

    async def update(self, request: messages.Update) -> messages.Updated:
        """A worker has been sent a configuration, for all of them."""
        assert self._updates is not None
        reply = await self._updates(ConfigurationUpdate(request.version, request.config))
        return messages.Updated(reply.last_applied_version, reply.error)

    def link_closed(self, notice: messages.LinkClosed) -> None:
        """A worker tells that a link is gone."""
        link = self._links.pop(notice.link, None)
        if link is not None:
            link.closed(None if notice.error is None else ConnectionError(notice.error))

    def link_going_away(self, notice: messages.LinkGoingAway) -> None:
        """A worker tells that the edge wants a link to end."""
        link = self._links.get(notice.link)
        if link is not None:
            link.going_away(notice.drain_seconds)

    def counters(self) -> Readings:
        """The sums of all workers, dead ones included, as of the last `refresh`."""
        return total(tally.readings for tally in self._tallies)

    async def refresh(self) -> None:
        """Ask every worker for its counters; one that is slow contributes what it told last."""
        await asyncio.gather(*(self._refresh(seat) for seat in self._seats))

    async def _refresh(self, seat: Seat[Process]) -> None:
        if seat.current is None:
            return
        try:
            await asyncio.wait_for(self._read_counters(seat.number, seat.current), SCRAPE_SECONDS)
        except (ChannelError, asyncio.TimeoutError) as error:
            _log.debug(
                "A worker did not tell its counters",
                extra={"worker": seat.number, "error": str(error)},
            )

    async def reports(self, subject: Subject) -> str:
        """What the workers say of themselves; one that does not answer is passed over."""
        texts = await asyncio.gather(*(self._report(seat, subject) for seat in self._seats))
        return "".join(texts)

    async def _report(self, seat: Seat[Process], subject: Subject) -> str:
        if seat.current is None:
            return ""
        try:
            text = await asyncio.wait_for(
                seat.current.channel.call(messages.Report(subject), str), SCRAPE_SECONDS
            )
        except (ChannelError, asyncio.TimeoutError) as error:
            text = f"no answer: {str(error) or type(error).__name__}\n"
        return f"\nworker {seat.number}\n{text}"

    def processes(self) -> list[int]:
        """The ids of the workers that run."""
        return [seat.current.pid for seat in self._seats if seat.current is not None]

    async def apply(self, ingress: Ingress) -> None:
        """Put other rules in force in every worker, or in none. Raises DataPathError."""
        prepare = messages.prepare_message(ingress)
        asked = dict(self._configured)
        try:
            outcomes = await self._ask_all(asked, prepare)
        except BaseException:
            await self._ask_all(asked, messages.Apply(give_up=True))
            raise
        answers = [outcome for outcome in outcomes if outcome is not None]
        if not answers:
            raise DataPathError("no worker process is there to check it")
        refusal = next((answer.error for answer in answers if answer.error), "")
        if refusal:
            await self._ask_all(asked, messages.Apply(give_up=True))
            raise DataPathError(refusal)
        self._version += 1
        self._options = replace(self._options, ingress=ingress)
        # They became ready with the old rules while the others looked at the new ones.
        late = [each for each in self._configured.items() if each[0] not in asked]
        await asyncio.gather(
            self._ask_all(asked, messages.Apply()),
            *(self._bring_up_to_date(worker, process) for process, worker in late),
        )

    async def close(self) -> None:
        """End every worker."""
        await asyncio.gather(*(seat.close(self._finish) for seat in self._seats))

    async def _configure(self, worker: int, process: Process) -> None:
        """Make a new process what it is for."""
        version = self._version
        level = logging.getLogger("underpass").getEffectiveLevel()
        message = messages.configure_message(self._options, level)
        done = await process.channel.call(message, messages.Done)
        if done.error:
            raise WorkerRefusedError(done.error)
        while version != self._version:
            version = self._version
            await self._hand_over_rules(process)
        self._configured[process] = worker
        now = logging.getLogger("underpass").getEffectiveLevel()
        if now != level:
            process.channel.tell(messages.LogFrom(now))

    async def _hand_over_rules(self, process: Process) -> None:
        """Put the rules in force into one more worker. Raises WorkerRefusedError, ChannelError."""
        prepare = messages.prepare_message(self._options.ingress)
        done = await process.channel.call(prepare, messages.Done)
        if done.error:
            raise WorkerRefusedError(done.error)
        await process.channel.call(messages.Apply(), messages.Done)

    async def _bring_up_to_date(self, worker: int, process: Process) -> None:
        try:
            await asyncio.wait_for(self._hand_over_rules(process), APPLY_SECONDS)
        except (WorkerRefusedError, ChannelError, asyncio.TimeoutError) as error:
            _end(worker, process, error)

    async def _ask_all(
        self, asked: Mapping[Process, int], request: messages.Prepare | messages.Apply
    ) -> list[messages.Done | None]:
        return await asyncio.gather(
            *(self._ask(worker, process, request) for process, worker in asked.items())
        )

    async def _ask(
        self, worker: int, process: Process, request: messages.Prepare | messages.Apply
    ) -> messages.Done | None:
        """Have a worker change its rules. One that does not answer (None) is ended."""
        try:
            return await asyncio.wait_for(
                process.channel.call(request, messages.Done), APPLY_SECONDS
            )
        except (ChannelError, asyncio.TimeoutError) as error:
            _end(worker, process, error)
            return None

    async def _read_counters(self, worker: int, process: Process) -> None:
        readings: Any = await process.channel.call(
            messages.ReadCounters(),
            Readings,
        )
        if self._seats[worker].current is process:
            self._tallies[worker].told(readings)

    def _ended(self, worker: int, process: Process, how: str) -> None:
        self._tallies[worker].ended()
        if self._desk is not None:
            self._desk.lost(process.channel)
        self._configured.pop(process, None)
        for number, link in list(self._links.items()):
            if link.process is process:
                del self._links[number]
                link.closed(WorkerLostError(f"worker process {worker} has ended: {how}"))

    async def _finish(self, process: Process) -> None:
        try:
            await asyncio.wait_for(
                process.channel.call(messages.Finish(), type(None)), FINISH_SECONDS
            )
        except (ChannelError, asyncio.TimeoutError) as error:
            _log.warning(
                "A worker process is ended as it is",
                extra={"pid": process.pid, "error": str(error) or type(error).__name__},
            )
            process.kill()


def _end(worker: int, process: Process, error: Exception) -> None:
    """End a worker that has other rules than those in force: the next one in its seat begins with
    them."""
    _log.error(
        "A worker process did not take the configuration, and is ended",
        extra={"worker": worker, "error": str(error) or type(error).__name__},
    )
    process.kill()


async def open_workers(options: ConnectorOptions, status: ConnectorStatus) -> DataPath:
    """The data path of `options.workers` processes. Raises DataPathError."""
    dialer = WorkerDialer(options, status)
    try:
        await dialer.open()
    except asyncio.CancelledError:
        await dialer.close()
        raise
    _log.info("Running %d worker processes", options.workers, extra={"pids": dialer.processes()})
    return DataPath(
        dialer,
        dialer.counters,
        dialer.close,
        dialer.apply,
        dialer.refresh,
        dialer.take_updates,
        dialer.processes,
        dialer.reports,
    )
