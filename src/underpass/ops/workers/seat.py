"""A worker's place: always one process in it, another one when that dies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from underpass.ops.workers.channel import Channel, ChannelError
from underpass.ops.workers.restarts import RestartPolicy

__all__ = ["Process", "Seat", "WorkerRefusedError"]

PREPARE_SECONDS: Final = 60.0
"""For a new process to start and to take its configuration: an interpreter on a slow machine."""

WATCH_EVERY: Final = 10.0
"""Seconds between two looks whether a worker still answers."""

HUNG_SECONDS: Final = 30.0
"""Without an answer for so long, a worker is killed: its links would only swallow requests."""

TROUBLE_AT: Final = 3
"""Deaths in a row after which the log says what can be done."""

_log = logging.getLogger(__name__)


class Process(Protocol):
    """What a seat needs of a worker process; see `ops.workers.process`."""

    channel: Channel

    @property
    def pid(self) -> int: ...

    async def ended(self) -> str: ...

    def kill(self) -> None: ...

    async def stop(self) -> None: ...


P = TypeVar("P", bound=Process)


class WorkerRefusedError(Exception):
    """A worker cannot do what it was told; the text is its own."""


class Seat(Generic[P]):
    """Keeps a process running.

    Args:
        number: names it in the log, from 0.
        start: starts a process. Raises OSError.
        prepare: tells a new process what to do; after that it is `current`. Raises
            WorkerRefusedError or ChannelError.
        watch: asks something that any worker answers at once. Raises ChannelError.
        on_end: called with how it ended when the current process is gone.
    """

    def __init__(
        self,
        number: int,
        *,
        start: Callable[[], Awaitable[P]],
        prepare: Callable[[P], Awaitable[None]],
        watch: Callable[[P], Awaitable[None]],
        on_end: Callable[[P, str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        self.current: P | None = None
        self._start = start
        self._prepare = prepare
        self._watch = watch
        self._on_end = on_end
        self._sleep = sleep
        self._clock = clock
        self._policy = RestartPolicy()
        self._there = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start the first process; from then on there is always one.

        Raises WorkerRefusedError when it cannot be started, or will not do what it is told.
        """
        try:
            process = await self._begin()
        except (ChannelError, OSError) as error:
            raise WorkerRefusedError(f"worker process {self.number}: {error}") from error
        self._keeper = asyncio.create_task(self._keep(process), name=f"worker-{self.number}")
        self._keeper.add_done_callback(lambda _: self._there.set())  # whoever waits, for good

    async def process(self) -> P:
        """The running process; waits while there is none. Raises what keeping it met with
        unexpectedly."""
        while self.current is None:
            if self._keeper is not None and self._keeper.done():
                await self._keeper
            await self._there.wait()
        return self.current

    async def close(self, finish: Callable[[P], Awaitable[None]]) -> None:
        """End the process for good, after `finish` was done with it."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process = self.current
        if process is not None:
            await finish(process)
            await process.stop()
            self._gone(process, "stopped")

    async def _begin(self) -> P:
        process = await self._start()
        try:
            await asyncio.wait_for(self._prepare(process), PREPARE_SECONDS)
        except asyncio.TimeoutError:
            process.kill()
            await process.ended()
            raise ChannelError(f"not ready after {PREPARE_SECONDS:g} s") from None
        except ChannelError as error:
            process.kill()
            raise ChannelError(f"{error}: {await process.ended()}") from error
        except BaseException:
            process.kill()
            await process.stop()
            raise
        self.current = process
        self._there.set()
        return process

    async def _keep(self, process: P) -> None:
        while True:
            started = self._clock()
            how = await self._wait_for_end(process)
            self._gone(process, how)
            _log.error(
                "A worker process has ended, and is replaced",
                extra={"worker": self.number, "pid": process.pid, "error": how},
            )
            process = await self._replace(started)

    async def _replace(self, started: float) -> P:
        while True:
            wait = self._policy.died(self._clock() - started)
            if self._policy.deaths >= TROUBLE_AT:
                _log.error(
                    "A worker process keeps ending; what it wrote to standard error may say why. "
                    "If its signal is SIGKILL the system may be out of memory; fewer workers need "
                    "less, and --workers 1 works without any",
                    extra={"worker": self.number, "deaths": self._policy.deaths, "wait": wait},
                )
            await self._sleep(wait)
            started = self._clock()
            try:
                return await self._begin()
            except (WorkerRefusedError, ChannelError, OSError) as error:
                _log.error(
                    "A worker process cannot be started",
                    extra={"worker": self.number, "error": str(error)},
                )

    async def _wait_for_end(self, process: P) -> str:
        """Wait for its end; hasten it when it does not answer any more."""
        ended = asyncio.ensure_future(process.ended())
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=WATCH_EVERY)
                if not ended.done() and not await self._answers(process):
                    process.kill()
                    return f"it did not answer for {HUNG_SECONDS:g} s; {await ended}"
            return ended.result()
        finally:
            ended.cancel()

    async def _answers(self, process: P) -> bool:
        try:
            await asyncio.wait_for(self._watch(process), HUNG_SECONDS)
        except asyncio.TimeoutError:
            return False
        except ChannelError:
            pass  # it has ended, which is noticed by itself
        return True

    def _gone(self, process: P, how: str) -> None:
        self.current = None
        self._there.clear()
        self._on_end(process, how)
