"""One log for all processes: a worker's records are written by the supervisor's handlers.

So there is one file to rotate, one format, and no line inside another. The level is looked at in
the worker, before anything is made of a record. A worker never waits for the log: what does not fit
into MAX_UNSENT is dropped, and the number of dropped records is told once there is room again.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from msgspec import Struct

from underpass.ops.logging import record_fields
from underpass.ops.workers.channel import Channel

__all__ = ["LogForwarder", "LogLine", "LogLinesLost", "forward_logs", "write_line", "write_loss"]

MAX_UNSENT: Final = 1048576
"""Bytes that may wait for the supervisor before log records are dropped: some thousand lines."""

MAX_FIELDS: Final = 64
"""Fields of one record; the program's own have ten."""

_log = logging.getLogger(__name__)


class LogLine(Struct, array_like=True, frozen=True, tag=True):
    """A record: `created` in seconds since the epoch, `fields` as plain values without secrets."""

    created: float
    level: int
    logger: str
    message: str
    fields: dict[str, Any]


class LogLinesLost(Struct, array_like=True, frozen=True, tag=True):
    """So many records were dropped since this was last said."""

    count: int


class LogForwarder(logging.Handler):
    """The one handler of a worker."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._channel.unsent > MAX_UNSENT:
            self._lost += 1
            return
        self.report_loss()
        try:
            message, fields = record_fields(record)
            kept = dict(list(fields.items())[:MAX_FIELDS])
            self._channel.tell(LogLine(record.created, record.levelno, record.name, message, kept))
        except Exception:  # noqa: BLE001 - as every handler of logging does: tell on standard error
            self.handleError(record)

    def report_loss(self) -> None:
        """Say how many records were dropped, if any were."""
        if self._lost:
            lost, self._lost = self._lost, 0
            self._channel.tell(LogLinesLost(lost))


def forward_logs(channel: Channel, level: int) -> LogForwarder:
    """Send this process's log through `channel`, from `level` on."""
    root = logging.getLogger("underpass")
    forwarder = LogForwarder(channel)
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(forwarder)
    root.propagate = False
    root.setLevel(level)
    return forwarder


def write_line(line: LogLine, worker: int) -> None:
    """Write a worker's record here, with the worker's number among its fields."""
    record = logging.makeLogRecord(
        {
            **line.fields,
            "worker": worker,
            "name": line.logger,
            "levelno": line.level,
            "levelname": logging.getLevelName(line.level),
            "msg": line.message,
            "args": None,
            "created": line.created,
        }
    )
    logging.getLogger(line.logger).handle(record)


def write_loss(loss: LogLinesLost, worker: int) -> None:
    """Write that records are missing."""
    _log.warning(
        "Log records of a worker were dropped", extra={"worker": worker, "count": loss.count}
    )
