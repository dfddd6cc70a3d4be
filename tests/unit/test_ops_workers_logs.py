"""A worker's log lines in the supervisor's log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from underpass.ops.logging import LoggingOptions, configure_logging
from underpass.ops.workers import logs
from underpass.ops.workers.logs import (
    MAX_FIELDS,
    LogForwarder,
    LogLine,
    LogLinesLost,
    write_line,
    write_loss,
)


class FakeChannel:
    """Keeps what is told; `unsent` is the test's."""

    def __init__(self) -> None:
        self.unsent = 0
        self.told: list[Any] = []

    def tell(self, notice: Any) -> None:
        self.told.append(notice)


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
def log(channel: FakeChannel) -> logging.Logger:
    """A worker's logger."""
    logger = logging.Logger("underpass.connector.link")
    logger.addHandler(LogForwarder(channel))  # type: ignore[arg-type]
    return logger


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The supervisor's log, in JSON."""
    root = logging.getLogger("underpass")
    before = list(root.handlers), root.level, root.propagate
    stream = io.StringIO()
    configure_logging(LoggingOptions(format="json"), stream)
    yield stream
    root.handlers, root.level, root.propagate = before


def test_a_line_is_written_as_if_it_were_from_here(
    channel: FakeChannel, log: logging.Logger, written: io.StringIO
) -> None:
    log.warning("said %d times", 3, extra={"host": "x", "error": OSError("gone"), "token": "t"})
    (line,) = channel.told
    assert isinstance(line, LogLine)
    write_line(line, 1)
    entry = json.loads(written.getvalue())
    assert entry.pop("time")
    assert entry == {
        "level": "warn",
        "message": "said 3 times",
        "error": "gone",
        "host": "x",
        "token": "*****",
        "worker": 1,
    }


def test_the_level_is_the_supervisors(channel: FakeChannel, written: io.StringIO) -> None:
    write_line(LogLine(0.0, logging.INFO, "underpass.x", "shown", {}), 0)
    assert "shown" in written.getvalue()


def test_what_finds_no_room_is_dropped_and_counted(
    channel: FakeChannel, log: logging.Logger, written: io.StringIO
) -> None:
    log.warning("first")
    channel.unsent = logs.MAX_UNSENT + 1
    for _ in range(5):
        log.warning("dropped")
    channel.unsent = 0
    log.warning("last")
    first, loss, last = channel.told
    assert (first.message, loss, last.message) == ("first", LogLinesLost(5), "last")
    write_loss(loss, 0)
    entry = json.loads(written.getvalue())
    assert entry["message"] == "Log records of a worker were dropped"
    assert (entry["count"], entry["worker"]) == (5, 0)


def test_a_loss_is_told_when_there_is_room_again(channel: FakeChannel) -> None:
    forwarder = LogForwarder(channel)  # type: ignore[arg-type]
    channel.unsent = logs.MAX_UNSENT + 1
    forwarder.emit(logging.makeLogRecord({"msg": "dropped"}))
    channel.unsent = 0
    forwarder.report_loss()
    forwarder.report_loss()
    assert channel.told == [LogLinesLost(1)]


def test_fields_are_bounded(channel: FakeChannel, log: logging.Logger) -> None:
    log.warning("many", extra={f"field{number}": number for number in range(MAX_FIELDS * 2)})
    assert len(channel.told[0].fields) == MAX_FIELDS
