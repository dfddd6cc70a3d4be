"""What the management service asks the rest of its connector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from underpass.connector.management.streams import LogSource, LogStreams

if TYPE_CHECKING:
    from underpass.connector.status import ConnectorStatus
    from underpass.ops.process_report import Subject

__all__ = ["Host", "LocalHost"]


class Host(Protocol):
    """The connector, in this process or another."""

    @property
    def log_source(self) -> LogSource: ...

    async def metrics(self) -> bytes:
        """The metrics of the whole connector. Raises ConnectionError."""

    async def report(self, subject: Subject) -> str:
        """What every process does or holds. Raises ConnectionError."""


class LocalHost:
    """For a connector that is one process."""

    def __init__(self, status: ConnectorStatus, on_level: Callable[[int], None]) -> None:
        self._status = status
        self.log_source: LogSource = LogStreams(on_level)

    async def metrics(self) -> bytes:
        return await self._status.metrics()

    async def report(self, subject: Subject) -> str:
        return await self._status.report(subject)
