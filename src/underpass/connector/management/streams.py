"""Where streamed log records come from: one session at a time is handed those of the program.

While nobody listens nothing is here: no handler, and the log's level is the configured one. A
session that wants more than that lowers the level for as long as it lasts; the other handlers have
a level of their own, and go on writing what they were told to.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from underpass.ops.logging import record_fields, timestamp
from underpass.wire.log_streaming import (
    LogEvent,
    LogFilters,
    LogLevel,
    StreamedLog,
    encode_log,
)

__all__ = ["LogListener", "LogSource", "LogStreams"]

_log = logging.getLogger(__name__)

_PYTHONS: Final = {
    LogLevel.debug: logging.DEBUG,
    LogLevel.info: logging.INFO,
    LogLevel.warn: logging.WARNING,
    LogLevel.error: logging.ERROR,
}


class LogListener(Protocol):
    """A session that wants records."""

    actor: str
    """Whose it is: the same actor's next session takes its place."""
    filters: LogFilters

    def take(self, message: bytes) -> None:
        """A record, as the message that carries it."""

    def preempted(self) -> None:
        """Another session of the same actor has begun; no more will come."""


class LogSource(Protocol):
    """Hands out records, from this process or from others."""

    async def begin(self, listener: LogListener) -> bool:
        """Hand records to `listener` from now on; False when somebody else's session is open.

        One that listens already is handed what its filters of now ask for.
        """

    def end(self, listener: LogListener) -> None:
        """No more for it. Harmless if it does not listen."""


class LogStreams:
    """The log of this process, and of those whose records come here to be written.

    Args:
        on_level: told the level from which records have to be made, whenever it changes.
    """

    def __init__(self, on_level: Callable[[int], None] | None = None) -> None:
        self._on_level = on_level
        self._root = logging.getLogger("underpass")
        self._handler = _Handler(self._hand_out)
        self._listener: LogListener | None = None
        self._usual_level = logging.NOTSET

    async def begin(self, listener: LogListener) -> bool:
        former = self._listener
        if former is not None and former is not listener:
            if former.actor != listener.actor:
                _log.warning(
                    "Another management session request was attempted but one session already "
                    "being served; there is a limit of streaming log sessions to reduce overall "
                    "performance impact."
                )
                return False
            _log.info(
                "Another management session request for the same actor was requested; the other "
                "session will be disconnected to handle the new request."
            )
            self.end(former)
            former.preempted()
        if self._listener is None:
            self._usual_level = self._root.level
            self._root.addHandler(self._handler)
        self._listener = listener
        self._set_level(min(self._usual_level, _PYTHONS[listener.filters.level]))
        return True

    def end(self, listener: LogListener) -> None:
        if self._listener is listener:
            self._listener = None
            self._root.removeHandler(self._handler)
            self._set_level(self._usual_level)

    def _set_level(self, level: int) -> None:
        if level != self._root.level:
            self._root.setLevel(level)
            if self._on_level is not None:
                self._on_level(level)

    def _hand_out(self, record: logging.LogRecord) -> None:
        listener = self._listener
        if listener is None:
            return
        message, fields = record_fields(record)
        # An error in it makes a record one, whatever its own level is.
        level = LogLevel.error if "error" in fields else _level(record.levelno)
        event = _event(fields.pop("event", None))
        filters = listener.filters
        if level < filters.level or (filters.events and event not in filters.events):
            return
        if 0 < filters.sampling < 1 and random.random() >= filters.sampling:  # noqa: S311
            return
        listener.take(
            encode_log(StreamedLog(timestamp(record.created), level, event, message, fields))
        )


def _level(number: int) -> LogLevel:
    for level in (LogLevel.error, LogLevel.warn, LogLevel.info):
        if number >= _PYTHONS[level]:
            return level
    return LogLevel.debug


def _event(value: Any) -> LogEvent:
    try:
        return LogEvent(value)
    except ValueError:
        return LogEvent.cloudflared


class _Handler(logging.Handler):
    """Brings records to the event loop, whichever thread they are from."""

    def __init__(self, hand_out: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._hand_out = hand_out
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if threading.get_ident() == self._thread:
                self._hand_out(record)
            else:
                self._loop.call_soon_threadsafe(self._hand_out, record)
        except Exception:  # noqa: BLE001 - as every handler of logging does: tell on standard error
            self.handleError(record)
