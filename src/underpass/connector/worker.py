"""A connector's worker process: a data path whose links the supervisor asks for, one by one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from underpass.connector import worker_messages as messages
from underpass.connector.dispatch import Plan, ServiceNotSupportedError
from underpass.connector.edges import EdgeSlot
from underpass.connector.link import ConnectorLink, HttpLinkDialer
from underpass.connector.links import DialError
from underpass.connector.observers import ObserverError
from underpass.connector.status import ConnectorStatus
from underpass.connector.trust import TrustError
from underpass.ops.metrics import Snapshot
from underpass.ops.workers.inside import Inside, run_worker
from underpass.wire.registration import RegistrationRefused
from underpass.wire.remote_config import ConfigurationReply, ConfigurationUpdate
from underpass.wire.rpc import RpcError

if TYPE_CHECKING:
    from underpass.connector.management.between_processes import RemoteHost

__all__ = ["ConnectorWorker", "main"]


class ConnectorWorker(Inside):
    """Serves one channel."""

    requests = messages.WorkerRequest
    notices = messages.SupervisorNotice

    def __init__(self) -> None:
        super().__init__()
        self._status: ConnectorStatus
        self._dialer: HttpLinkDialer
        self._host: RemoteHost | None = None
        self._plan: Plan | None = None
        self._links: dict[int, ConnectorLink] = {}
        self._watching: set[asyncio.Task[None]] = set()

    async def answer(self, request: Any) -> Any:
        """Do what is asked; see `worker_messages` for what each request is answered with."""
        if isinstance(request, messages.Dial):
            return await self._dial(request)
        if isinstance(request, messages.Unregister):
            return await self._unregister(request)
        if isinstance(request, messages.Drain):
            link = self._links.get(request.link)
            return None if link is None else await link.drained()
        if isinstance(request, messages.InFlight):
            link = self._links.get(request.link)
            return 0 if link is None else await link.in_flight()
        if isinstance(request, messages.ReadCounters):
            return self._counters()
        if isinstance(request, messages.Configure):
            return self._configure(request)
        if isinstance(request, messages.Prepare):
            return self._prepare(request)
        if isinstance(request, messages.Apply):
            return await self._apply(request)
        if isinstance(request, messages.Report):
            from underpass.ops.process_report import report

            return report(request.subject)
        assert isinstance(request, messages.Finish)
        return self._finish()

    def notice(self, notice: Any) -> None:
        if isinstance(notice, messages.LogFrom):
            logging.getLogger("underpass").setLevel(notice.level)
            self._dialer.log_level_changed()
            return
        if isinstance(notice, messages.Streamed):
            if self._host is not None:
                self._host.streamed(notice)
            return
        if isinstance(notice, messages.Preempted):
            if self._host is not None:
                self._host.preempted(notice)
            return
        link = self._links.get(notice.link)
        if link is None:
            return
        if isinstance(notice, messages.Probe):
            link.probe()
        else:
            assert isinstance(notice, messages.Abort)
            link.abort()

    def _configure(self, request: messages.Configure) -> messages.Done:
        self.log_from(request.log_level)
        options = messages.options_of(request)
        self._status = ConnectorStatus(options.connector_id)
        try:
            self._dialer = HttpLinkDialer(options, self._status, self._make_host)
            self._dialer.take_updates(self._update)
        except (ServiceNotSupportedError, TrustError, ObserverError) as error:
            return messages.Done(str(error))
        return messages.Done()

    async def _update(self, update: ConfigurationUpdate) -> ConfigurationReply:
        """Hand a configuration of the edge to the supervisor, who has it applied everywhere."""
        request = messages.Update(update.version, update.config)
        done = await self.channel.call(request, messages.Updated)
        return ConfigurationReply(done.version, done.error)

    def _make_host(self) -> RemoteHost:
        from underpass.connector.management.between_processes import RemoteHost

        self._host = RemoteHost(self.channel)
        return self._host

    async def _dial(self, request: messages.Dial) -> messages.DialAnswer:
        slot = EdgeSlot(request.host, request.port, region=0, home=request.home)
        try:
            link = await self._dialer.dial(
                slot,
                request.conn_index,
                request.previous_attempts,
                self._links.get(request.replacing),
            )
        except DialError as error:
            return messages.DialFailed(error.kind.value, str(error), error.is_lasting)
        except RegistrationRefused as error:
            return messages.Refused(error.cause, error.retry_after_ns, error.should_retry)
        self._links[request.link] = link
        for watch in (self._watch(request.link, link), self._watch_going_away(request.link, link)):
            watching = asyncio.create_task(watch)
            self._watching.add(watching)
            watching.add_done_callback(self._watching.discard)
        details = link.details
        return messages.Dialled(
            details.connection_id, details.location_name, details.tunnel_is_remotely_managed
        )

    async def _watch(self, number: int, link: ConnectorLink) -> None:
        error = await link.wait_closed()
        del self._links[number]
        self.channel.tell(messages.LinkClosed(number, None if error is None else _words(error)))

    async def _watch_going_away(self, number: int, link: ConnectorLink) -> None:
        going = asyncio.ensure_future(link.wait_going_away())
        closed = asyncio.ensure_future(link.wait_closed())
        try:
            await asyncio.wait({going, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not closed.done():
                self.channel.tell(messages.LinkGoingAway(number, link.drain_seconds))
        finally:
            going.cancel()
            closed.cancel()

    async def _unregister(self, request: messages.Unregister) -> messages.Done:
        link = self._links.get(request.link)
        if link is None:
            return messages.Done("the link has closed")
        try:
            await link.unregister(request.timeout)
        except (OSError, RpcError, asyncio.TimeoutError) as error:
            return messages.Done(_words(error))
        return messages.Done()

    def _prepare(self, request: messages.Prepare) -> messages.Done:
        self._give_up_plan()
        try:
            self._plan = self._dialer.prepare(messages.rules_to_ingress(request))
        except (ServiceNotSupportedError, TrustError) as error:
            return messages.Done(str(error))
        return messages.Done()

    async def _apply(self, request: messages.Apply) -> messages.Done:
        if request.give_up:
            self._give_up_plan()
        elif self._plan is not None:
            plan, self._plan = self._plan, None
            await self._dialer.apply(plan)
        return messages.Done()

    def _give_up_plan(self) -> None:
        if self._plan is not None:
            self._plan.discard()
            self._plan = None

    def _counters(self) -> Snapshot:
        pushes = {
            name: value
            for name, value in self._status.snapshot().items()
            if name.startswith("cloudflared_config_")
        }
        return {**self._dialer.counters(), **pushes}

    def _finish(self) -> None:
        self._give_up_plan()
        for link in tuple(self._links.values()):
            link.abort()
        self._dialer.close()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def main() -> None:
    """What a fresh interpreter is started for."""
    run_worker(ConnectorWorker)
