"""Keeps the links of a tunnel up, and takes them down without losing a request.

Order of start, rotation and error classes follow docs: wire protocol §1.4, §1.5 and §2.11.
Connection 0 starts alone; when it has registered the others follow a second apart. Each link then
lives by itself: dial, serve, wait, dial again.

Wilfully different from the reference connector: every failed attempt is followed by a wait; a lost
connection before the first registration is retried, not fatal; a refusal that the edge calls
retryable is retried, after the time it asks for; on shutdown a drained link does not sit out the
grace period.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from underpass.connector.backoff import Backoff
from underpass.connector.edges import EdgePool, EdgeSlot
from underpass.connector.links import (
    DialError,
    DialErrorKind,
    Link,
    LinkConnected,
    LinkConnecting,
    LinkDialer,
    LinkDisconnected,
    LinkEvent,
    LinkFailed,
    LinkReconnecting,
    LinkUnregistered,
)
from underpass.wire.registration import RegistrationRefused
from underpass.wire.rpc import RpcError

__all__ = ["Supervisor", "TunnelRefusedError"]

# Seconds between the starts of connections 1, 2, 3 ...
START_INTERVAL = 1.0
# Seconds; the edge's advice when to come back is followed up to here.
LONGEST_RETRY_AFTER = 300.0
# Seconds a drained link stays open for a request the edge sent before it knew, or for the edge to
# close first.
LINGER = 1.0


class TunnelRefusedError(Exception):
    """The edge refuses this tunnel for good; the text is the edge's."""


class Supervisor:
    """Runs `ha_connections` links, or as many as there are addresses.

    `grace_period` in seconds, 0 for none. `observe` is told everything, in order. `sleep`, `clock`
    and `uniform` are the source of time and chance.
    """

    def __init__(
        self,
        dialer: LinkDialer,
        pool: EdgePool,
        *,
        ha_connections: int,
        retries: int,
        grace_period: float,
        observe: Callable[[LinkEvent], None],
        linger: float = LINGER,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._dialer = dialer
        self._pool = pool
        self._count = max(1, min(ha_connections, pool.capacity))
        self._retries = retries
        self._grace_period = grace_period
        self._observe = observe
        self._linger = linger
        self._sleep = sleep
        self._clock = clock
        self._uniform = uniform
        self._links: dict[int, tuple[Link, EdgeSlot]] = {}
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None
        self._registered = asyncio.Event()
        self._stopping = asyncio.Event()
        self._aborted = asyncio.Event()

    @property
    def count(self) -> int:
        """How many links are kept."""
        return self._count

    @property
    def running(self) -> int:
        """Links that are up or being made."""
        return sum(not task.done() for task in self._keepers.values())

    def stop(self) -> None:
        """Begin a graceful shutdown; `run` returns when it is done. Once is enough."""
        self._stopping.set()

    def abort(self) -> None:
        """Shut down at once."""
        self._stopping.set()
        self._aborted.set()

    def reconnect(self, conn_index: int | None = None, delay: float = 0.0) -> None:
        """Have a link, or all of them, dialled anew after `delay` seconds; what is in flight on it
        is lost. Raises ValueError for an index that is not kept."""
        if conn_index is not None and not 0 <= conn_index < self._count:
            raise ValueError(f"there is no connection {conn_index}")

        def lose() -> None:
            for index, (link, _) in tuple(self._links.items()):
                if conn_index in (None, index):
                    link.abort()

        asyncio.get_running_loop().call_later(delay, lose)

    async def run(self) -> None:
        """Keep the links until `stop`. Raises TunnelRefusedError when the edge will not have us."""
        starter = asyncio.create_task(self._start_others())
        starter.add_done_callback(self._note_failure)
        try:
            if not self._stopping.is_set():
                self._keep(0)
            await self._stopping.wait()
            starter.cancel()
            if self._failure is None:
                await self._drain()
        finally:
            for link, _ in self._links.values():
                link.abort()
            tasks = [starter, *self._keepers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def _keep(self, conn_index: int) -> None:
        task = asyncio.create_task(self._keep_link(conn_index), name=f"link-{conn_index}")
        task.add_done_callback(self._note_failure)
        self._keepers[conn_index] = task

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        """What a task did not expect ends the tunnel; the first such error is raised by `run`."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failure = self._failure or error
            self._stopping.set()

    async def _start_others(self) -> None:
        await self._registered.wait()
        for conn_index in range(1, self._count):
            if conn_index > 1:
                await self._sleep(START_INTERVAL)
            self._keep(conn_index)

    async def _keep_link(self, conn_index: int) -> None:
        backoff = Backoff(retries=self._retries, clock=self._clock, uniform=self._uniform)
        try:
            while not self._stopping.is_set():
                slot, least_wait = await self._attempt(conn_index, backoff)
                if self._stopping.is_set():
                    break
                bound = max(backoff.bound, least_wait)
                self._observe(LinkReconnecting(conn_index, slot, bound))
                await self._sleep(max(backoff.next_wait(), least_wait))
        finally:
            self._pool.give_back(conn_index)

    async def _attempt(self, conn_index: int, backoff: Backoff) -> tuple[EdgeSlot, float]:
        """Dial and serve once. Return the slot used and the least seconds to wait."""
        slot = self._pool.take(conn_index)
        self._observe(LinkConnecting(conn_index, slot))
        try:
            link = await self._dialer.dial(slot, conn_index, backoff.attempts)
        except DialError as error:
            self._observe(LinkFailed(conn_index, slot, error))
            if error.kind is not DialErrorKind.WORKER:
                self._pool.rotate(conn_index)
            return slot, 0.0
        except RegistrationRefused as refused:
            self._observe(LinkFailed(conn_index, slot, refused))
            if refused.is_duplicate:
                self._pool.rotate(conn_index)
            elif self._is_fatal(refused):
                raise TunnelRefusedError(refused.cause) from refused
            return slot, min(max(refused.retry_after_ns / 1e9, 0.0), LONGEST_RETRY_AFTER)
        await self._serve(conn_index, slot, link, backoff)
        return slot, 0.0

    async def _serve(self, conn_index: int, slot: EdgeSlot, link: Link, backoff: Backoff) -> None:
        self._links[conn_index] = (link, slot)
        error: Exception | None = None
        try:
            backoff.succeeded()
            self._observe(LinkConnected(conn_index, slot, link.details))
            self._registered.set()
            error = await link.wait_closed()
        finally:
            del self._links[conn_index]
            link.abort()
            expected = self._stopping.is_set()
            self._observe(LinkDisconnected(conn_index, slot, error, expected))

    def _is_fatal(self, refused: RegistrationRefused) -> bool:
        """Whether a refusal ends the process: only before the first success, and never for
        credentials, which the edge may not know of yet."""
        first = not self._registered.is_set()
        return first and not refused.should_retry and not refused.is_unauthorized

    async def _drain(self) -> None:
        """Unregister every link, let what is in flight finish, within the grace period."""
        for conn_index, task in self._keepers.items():
            if conn_index not in self._links:
                task.cancel()
        if self._grace_period <= 0 or self._aborted.is_set() or not self._links:
            return
        drains: list[asyncio.Task[None]] = [
            asyncio.create_task(self._drain_link(conn_index, link, slot))
            for conn_index, (link, slot) in self._links.items()
        ]
        aborted = asyncio.ensure_future(self._aborted.wait())
        all_drained = asyncio.ensure_future(_all(drains))
        try:
            await asyncio.wait(
                {aborted, all_drained},
                timeout=self._grace_period,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if all_drained.done():
                all_drained.result()
        finally:
            aborted.cancel()
            all_drained.cancel()
            await asyncio.gather(aborted, all_drained, *drains, return_exceptions=True)

    async def _drain_link(self, conn_index: int, link: Link, slot: EdgeSlot) -> None:
        error: Exception | None = None
        try:
            await link.unregister(self._grace_period)
        except (OSError, RpcError, asyncio.TimeoutError) as caught:
            error = caught
        self._observe(LinkUnregistered(conn_index, slot, error))
        keeper = self._keepers[conn_index]
        while not keeper.done():
            drained = asyncio.ensure_future(link.drained())
            try:
                await asyncio.wait({keeper, drained}, return_when=asyncio.FIRST_COMPLETED)
                if drained.done():
                    drained.result()
            finally:
                drained.cancel()
            await asyncio.wait({keeper}, timeout=self._linger)
            if not await link.in_flight():
                return


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all, and cancel the rest when one fails or the wait is cancelled."""
    await asyncio.gather(*tasks)
