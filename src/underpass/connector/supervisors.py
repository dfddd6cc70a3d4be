"""All homes of a connector together: one supervisor each, one start, one end.

A home that is lost or slow to come up is no business of the others. The connector ends when it is
told to, or when every home has been refused for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from underpass.connector.links import HomeEvent, HomeRefused
from underpass.connector.supervisor import Supervisor, TunnelRefusedError

__all__ = ["Supervisors"]


class Supervisors:
    """Runs the supervisors of all homes, in the order of their numbers."""

    def __init__(self, members: Sequence[Supervisor], observe: Callable[[HomeEvent], None]) -> None:
        self._members = tuple(members)
        self._observe = observe

    @property
    def running(self) -> int:
        """Links that are up or being made."""
        return sum(member.running for member in self._members)

    def stop(self) -> None:
        """Begin a graceful shutdown; `run` returns when it is done. Once is enough."""
        for member in self._members:
            member.stop()

    def abort(self) -> None:
        """Shut down at once."""
        for member in self._members:
            member.abort()

    def probe(self) -> None:
        """Find out which links are dead, rather than wait until it shows."""
        for member in self._members:
            member.probe()

    def wake(self) -> None:
        """What failed may work now: end all waits, and count failures anew."""
        for member in self._members:
            member.wake()

    def reconnect(
        self, conn_index: int | None = None, delay: float = 0.0, home: int | None = None
    ) -> None:
        """Replace a link, or all, of one home or of all; see `Supervisor.reconnect`.

        Raises ValueError for an index that no home asked has.
        """
        members = self._members if home is None else self._members[home : home + 1]
        having = [m for m in members if conn_index is None or 0 <= conn_index < m.count]
        if not having:
            raise ValueError(f"there is no connection {conn_index}")
        for member in having:
            member.reconnect(conn_index, delay)

    async def run(self) -> None:
        """Keep the links of all until `stop`. Raises TunnelRefusedError when no home is left."""
        tasks = {
            asyncio.create_task(member.run(), name=f"home-{home}"): home
            for home, member in enumerate(self._members)
        }
        try:
            left = set(tasks)
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        continue
                    if not (isinstance(error, TunnelRefusedError) and self._others(tasks, task)):
                        raise error
                    self._observe(HomeRefused(tasks[task], error))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    def _others(tasks: dict[asyncio.Task[None], int], refused: asyncio.Task[None]) -> bool:
        """Whether a home is left that was not refused."""
        return any(
            task is not refused and (not task.done() or task.exception() is None) for task in tasks
        )
