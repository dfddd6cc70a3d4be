"""The management service in a worker: records, metrics and reports come from its supervisor.

Every record of the program goes to the supervisor to be written, so that is where one is handed out
from; it goes back to whichever worker has the session.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from underpass.connector import worker_messages as messages
from underpass.connector.management.streams import LogListener, LogSource, LogStreams
from underpass.ops.workers.channel import Channel, ChannelError
from underpass.wire.log_streaming import LogEvent, LogFilters, LogLevel

if TYPE_CHECKING:
    from underpass.connector.status import ConnectorStatus
    from underpass.ops.process_report import Subject

T = TypeVar("T")

__all__ = ["RemoteHost", "StreamingDesk"]

MAX_UNSENT: Final = 1048576
"""Bytes that may wait for a worker before records for its session are dropped."""


class RemoteHost:
    """In a worker: a `Host` at the other end of its channel, and a `LogSource`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._listeners: dict[int, LogListener] = {}

    @property
    def log_source(self) -> LogSource:
        return self

    async def metrics(self) -> bytes:
        return await self._ask(messages.ReadMetrics(), bytes)

    async def report(self, subject: Subject) -> str:
        return await self._ask(messages.ReadReports(subject), str)

    async def begin(self, listener: LogListener) -> bool:
        number = self._number(listener) or next(self._numbers)
        self._listeners[number] = listener
        filters = listener.filters
        request = messages.BeginStreaming(
            number,
            listener.actor,
            filters.level,
            tuple(filters.events),
            filters.sampling,
        )
        try:
            accepted = await self._ask(request, bool)
        except BaseException:
            self.end(listener)
            raise
        if not accepted:
            self._listeners.pop(number, None)
        return accepted

    def end(self, listener: LogListener) -> None:
        number = self._number(listener)
        if number is not None:
            del self._listeners[number]
            self._channel.tell(messages.EndStreaming(number))

    def streamed(self, notice: messages.Streamed) -> None:
        """The supervisor hands out a record."""
        listener = self._listeners.get(notice.session)
        if listener is not None:
            listener.take(notice.message)

    def preempted(self, notice: messages.Preempted) -> None:
        """The supervisor has given the stream to another session."""
        listener = self._listeners.pop(notice.session, None)
        if listener is not None:
            listener.preempted()

    def _number(self, listener: LogListener) -> int | None:
        return next((key for key, each in self._listeners.items() if each is listener), None)

    async def _ask(self, request: Struct, answer: type[T]) -> T:
        try:
            return await self._channel.call(request, answer)
        except ChannelError as error:
            raise ConnectionError(str(error)) from error


class _WorkersListener:
    """In the supervisor: a session that is in a worker."""

    def __init__(self, channel: Channel, request: messages.BeginStreaming) -> None:
        self.channel = channel
        self.session = request.session
        self.actor = request.actor
        self.filters = LogFilters()

    def take(self, message: bytes) -> None:
        if self.channel.unsent <= MAX_UNSENT:
            self.channel.tell(messages.Streamed(self.session, message))

    def preempted(self) -> None:
        self.channel.tell(messages.Preempted(self.session))


class StreamingDesk:
    """In the supervisor: what the workers' management services ask for.

    Args:
        on_level: told from which level on the workers have to hand over records.
    """

    def __init__(self, status: ConnectorStatus, on_level: Callable[[int], None]) -> None:
        self._status = status
        self._streams = LogStreams(on_level)
        self._listeners: dict[tuple[Channel, int], _WorkersListener] = {}

    async def answer(self, channel: Channel, request: Any) -> Any:
        """Answer a worker; see `worker_messages` for what each request is answered with."""
        if isinstance(request, messages.ReadMetrics):
            return await self._status.metrics()
        if isinstance(request, messages.ReadReports):
            return await self._status.report(request.subject)
        assert isinstance(request, messages.BeginStreaming)
        key = channel, request.session
        listener = self._listeners.get(key) or _WorkersListener(channel, request)
        listener.filters = LogFilters(
            LogLevel(request.level),
            tuple(map(LogEvent, request.events)),
            request.sampling,
        )
        accepted = await self._streams.begin(listener)
        if accepted:
            self._listeners[key] = listener
        return accepted

    def end(self, channel: Channel, session: int) -> None:
        """A worker's session wants no more."""
        listener = self._listeners.pop((channel, session), None)
        if listener is not None:
            self._streams.end(listener)

    def lost(self, channel: Channel) -> None:
        """A worker is gone, its sessions with it."""
        for session in [key[1] for key in self._listeners if key[0] is channel]:
            self.end(channel, session)
