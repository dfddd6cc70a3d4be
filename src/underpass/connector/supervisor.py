"""Keeps the links to one home up, and takes them down without losing a request.

Order of start, rotation and error classes follow docs: wire protocol §1.4, §1.5 and §2.11.
Connection 0 starts alone; when it has registered the others follow a second apart. Each link then
lives by itself: dial, serve, wait, dial again. A link that ends by a wish, the edge's or somebody
else's here, serves until there is another one in its place, and finishes what it has.

Wilfully different from the reference connector: every failed attempt is followed by a wait; a lost
connection before the first registration is retried, not fatal; a refusal that the edge calls
retryable is retried, after the time it asks for; what only a human can mend ends the start after
`retries` attempts; on shutdown a drained link does not sit out the grace period.
"""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from underpass.connector.backoff import MINIMUM_WAIT, Backoff
from underpass.connector.discovery import DiscoveryError
from underpass.connector.edges import EdgePool, EdgeSlot, Region
from underpass.connector.links import (
    AddressesFound,
    AddressesNotFound,
    DialError,
    DialErrorKind,
    HomeEvent,
    Link,
    LinkConnected,
    LinkConnecting,
    LinkDialer,
    LinkDisconnected,
    LinkEvent,
    LinkFailed,
    LinkReconnecting,
    LinkReplacing,
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
# Seconds. What many connectors hear of at once (an edge that stops, a network that is back) they
# act upon within this time, each at a moment of its own.
SPREAD = 1.0
# Seconds a replaced link may take to finish, when there is no grace period to go by.
REPLACED_GRACE = 30.0
# Seconds between two lookups of the edge's addresses, while none of those known is good for a link.
RELOCATE_INTERVAL = 300.0


class TunnelRefusedError(Exception):
    """This tunnel cannot be run, and waiting does not change that; the text says why."""


class _End(enum.Enum):
    """What a link's service came to."""

    CLOSED = enum.auto()
    EDGE_WISHES = enum.auto()
    ASKED = enum.auto()


class _Held:
    """A link that is up, replaced or not."""

    def __init__(self, conn_index: int, slot: EdgeSlot, link: Link) -> None:
        self.conn_index = conn_index
        self.slot = slot
        self.link = link
        self.asked = asyncio.Event()
        """Somebody wants it to be replaced."""
        self.settled = asyncio.Event()
        """It is replaced, or closed."""
        self.leaving = False
        """To be replaced, and it has been told."""
        self.retiring = False
        """Unregistered, and finishing what it has."""
        self.going: asyncio.Task[None]
        """Done when the edge wants it to end."""
        self.watch: asyncio.Task[None]
        """Done when it has closed."""


class Supervisor:
    """Runs `ha_connections` links, or as many as there are addresses.

    Args:
        pool: empty when `find` is to look the addresses up.
        find: looks the addresses up; raises DiscoveryError. None when they are given.
        retries: caps the backoff, and the attempts at what only a human can mend.
        address_retries: so many failed addresses count as all of them.
        grace_period: seconds, 0 for none.
        home: the number of the home, for events.
        observe: is told everything, in order.
        sleep, clock, uniform: the source of time and chance.
    """

    def __init__(
        self,
        dialer: LinkDialer,
        pool: EdgePool,
        *,
        ha_connections: int,
        retries: int,
        grace_period: float,
        observe: Callable[[LinkEvent | HomeEvent], None],
        find: Callable[[], Awaitable[Sequence[Region]]] | None = None,
        address_retries: int = 8,
        home: int = 0,
        linger: float = LINGER,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._dialer = dialer
        self._pool = pool
        self._wanted = ha_connections
        self._retries = retries
        self._grace_period = grace_period
        self._observe = observe
        self._find = find
        self._address_retries = max(1, address_retries)
        self._home = home
        self._linger = linger
        self._sleep = sleep
        self._clock = clock
        self._uniform = uniform
        self._held: set[_Held] = set()
        # The link of each index that is not replaced yet.
        self._current: dict[int, _Held] = {}
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._lasting = 0
        self._located_at = 0.0
        self._registered = asyncio.Event()
        self._stopping = asyncio.Event()
        self._aborted = asyncio.Event()
        self._woken = asyncio.Event()

    @property
    def count(self) -> int:
        """How many links are kept."""
        return max(1, min(self._wanted, self._pool.capacity))

    @property
    def running(self) -> int:
        """Links that are up or being made."""
        made = {index for index, task in self._keepers.items() if not task.done()}
        return len(made | {held.conn_index for held in self._held})

    def stop(self) -> None:
        """Begin a graceful shutdown; `run` returns when it is done. Once is enough."""
        self._stopping.set()

    def abort(self) -> None:
        """Shut down at once."""
        self._stopping.set()
        self._aborted.set()

    def reconnect(self, conn_index: int | None = None, delay: float = 0.0) -> None:
        """Replace a link, or all of them one after the other, after `delay` seconds.

        Each serves until the new one is ready and then finishes what it has. One that waits to be
        dialled again is dialled at once. Raises ValueError for an index that is not kept.
        """
        if conn_index is not None and not 0 <= conn_index < self.count:
            raise ValueError(f"there is no connection {conn_index}")
        indices = range(self.count) if conn_index is None else (conn_index,)
        self._send(self._replace(indices, delay))

    def probe(self) -> None:
        """Find out which links are dead, rather than wait until it shows."""
        for held in self._held:
            held.link.probe()

    def wake(self) -> None:
        """What failed may work now: end all waits, and count failures anew."""
        self._woken.set()
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Keep the links until `stop`. Raises TunnelRefusedError when there is no hope of one."""
        starter = asyncio.create_task(self._start())
        starter.add_done_callback(self._note_failure)
        try:
            await self._stopping.wait()
            starter.cancel()
            if self._failure is None:
                await self._drain()
        finally:
            await _cancelled([starter, *self._errands, *self._keepers.values()])
            for held in tuple(self._held):
                held.link.abort()
            await _cancelled([held.watch for held in self._held])
        if self._failure is not None:
            raise self._failure

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        """What a task did not expect ends the tunnel; the first such error is raised by `run`."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failure = self._failure or error
            self._stopping.set()

    def _send(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        task.add_done_callback(self._note_failure)

    async def _pause(self, seconds: float) -> bool:
        """Wait, but not beyond `wake`; whether that was what ended it."""
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        woken = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait({sleeping, woken}, return_when=asyncio.FIRST_COMPLETED)
            if sleeping.done():
                sleeping.result()
                return False
        finally:
            sleeping.cancel()
            woken.cancel()
        await self._sleep(self._uniform(0.0, SPREAD))
        return True

    # The start.

    async def _start(self) -> None:
        if self._stopping.is_set():
            return
        if not self._pool.capacity:
            await self._locate()
        if self._stopping.is_set():
            return
        self._observe(AddressesFound(self._home, self.count, self._wanted))
        self._keep(0)
        await self._registered.wait()
        for conn_index in range(1, self.count):
            if conn_index > 1:
                await self._sleep(START_INTERVAL)
            self._keep(conn_index)

    async def _locate(self) -> None:
        """Look the addresses up until they are found. Raises TunnelRefusedError."""
        backoff = Backoff(retries=self._retries, clock=self._clock, uniform=self._uniform)
        while (error := await self._look_up()) is not None and not self._stopping.is_set():
            if error.is_final:
                raise TunnelRefusedError(str(error)) from error
            self._observe(AddressesNotFound(self._home, error, backoff.bound))
            if await self._pause(backoff.next_wait()):
                backoff.reset()

    async def _look_up(self) -> DiscoveryError | None:
        assert self._find is not None
        self._located_at = self._clock()
        try:
            self._pool.renew(await self._find())
        except DiscoveryError as error:
            return error
        return None

    async def _locate_again(self) -> None:
        """Look the addresses up if all failed, unless that was done a short while ago."""
        if self._find is None or self._pool.failed < self._enough_addresses:
            return
        if self._clock() - self._located_at < RELOCATE_INTERVAL:
            return
        error = await self._look_up()
        if error is not None:
            self._observe(AddressesNotFound(self._home, error, None))

    @property
    def _enough_addresses(self) -> int:
        return min(self._pool.capacity, self._address_retries)

    # One link.

    def _keep(self, conn_index: int) -> None:
        task = asyncio.create_task(self._keep_link(conn_index), name=f"link-{conn_index}")
        task.add_done_callback(self._note_failure)
        self._keepers[conn_index] = task

    async def _keep_link(self, conn_index: int) -> None:
        backoff = Backoff(retries=self._retries, clock=self._clock, uniform=self._uniform)
        try:
            # Looked at although a stop cancels this: a timeout at the same moment swallows that.
            while not self._stopping.is_set():
                slot, least_wait = await self._attempt(conn_index, backoff)
                if self._stopping.is_set():
                    break  # what has come up in this moment is drained with the others
                held = self._current.get(conn_index)
                end = _End.CLOSED if held is None else await self._until_end(held)
                if held is not None and end is not _End.CLOSED and not held.leaving:
                    held.leaving = True
                    by_edge = end is _End.EDGE_WISHES
                    self._observe(LinkReplacing(conn_index, held.slot, by_edge))
                    if backoff.is_settled or not by_edge:
                        backoff.reset()
                        if by_edge:
                            await self._pause(self._uniform(0.0, SPREAD))
                        continue
                if self._stopping.is_set():
                    break
                bound = max(backoff.bound, least_wait)
                self._observe(LinkReconnecting(conn_index, slot, bound))
                if await self._pause(max(backoff.next_wait(), least_wait)):
                    backoff.reset()
        finally:
            self._pool.give_back(conn_index)

    async def _attempt(self, conn_index: int, backoff: Backoff) -> tuple[EdgeSlot, float]:
        """Dial once. Return the slot used and the least seconds to wait before the next time."""
        slot = self._pool.take(conn_index)
        old = self._current.get(conn_index)
        self._observe(LinkConnecting(conn_index, slot))
        try:
            link = await self._dialer.dial(
                slot, conn_index, backoff.attempts, None if old is None else old.link
            )
        except DialError as error:
            if error.kind is DialErrorKind.REGISTER and old is not None:
                self._retire(old)
            self._observe(LinkFailed(conn_index, slot, error))
            self._note_attempt(error, error.is_lasting, self._enough_addresses)
            if error.kind is not DialErrorKind.WORKER:
                self._pool.rotate(conn_index)
                await self._locate_again()
            return slot, 0.0
        except RegistrationRefused as refused:
            if old is not None:
                self._retire(old)
            self._observe(LinkFailed(conn_index, slot, refused))
            if refused.is_duplicate and old is not None:
                # An edge of several processes or machines has not heard everywhere yet that the
                # old link has given its index up.
                await self._pause(MINIMUM_WAIT)
                return await self._attempt(conn_index, backoff)
            if refused.is_duplicate:
                self._pool.rotate(conn_index)
            elif self._is_fatal(refused):
                raise TunnelRefusedError(refused.cause) from refused
            self._note_attempt(refused, refused.is_unauthorized, 1)
            return slot, min(max(refused.retry_after_ns / 1e9, 0.0), LONGEST_RETRY_AFTER)
        held = _Held(conn_index, slot, link)
        held.going = asyncio.create_task(link.wait_going_away())
        held.watch = asyncio.create_task(self._watch(held))
        held.watch.add_done_callback(self._note_failure)
        self._held.add(held)
        self._current[conn_index] = held
        if old is not None:
            self._retire(old)
        backoff.succeeded()
        self._pool.reached()
        self._observe(LinkConnected(conn_index, slot, link.details))
        self._registered.set()
        return slot, 0.0

    async def _until_end(self, held: _Held) -> _End:
        """Wait until a link has closed or is to be replaced."""
        asked = asyncio.ensure_future(held.asked.wait())
        try:
            await asyncio.wait({held.watch, held.going, asked}, return_when=asyncio.FIRST_COMPLETED)
            if held.watch.done():
                return _End.CLOSED
            return _End.EDGE_WISHES if held.going.done() else _End.ASKED
        finally:
            asked.cancel()

    async def _watch(self, held: _Held) -> None:
        error: Exception | None = None
        try:
            error = await held.link.wait_closed()
        finally:
            self._held.discard(held)
            replaced = self._current.get(held.conn_index) is not held
            if not replaced:
                del self._current[held.conn_index]
            held.settled.set()
            held.link.abort()
            expected = self._stopping.is_set() or held.leaving or held.going.done()
            held.going.cancel()
            self._observe(LinkDisconnected(held.conn_index, held.slot, error, expected, replaced))

    def _retire(self, old: _Held) -> None:
        """A link that is unregistered finishes what it has."""
        old.retiring = True
        if self._current.get(old.conn_index) is old:
            del self._current[old.conn_index]
            # Nothing is in its place yet.
            self._observe(LinkUnregistered(old.conn_index, old.slot, None))
        old.settled.set()
        if old in self._held:
            self._send(self._finish(old))

    async def _finish(self, held: _Held) -> None:
        """Let a retired link come to its end within the grace period, or for as long as the edge
        gives it whose wish it is: the edge's visitors wait for it."""
        patience = max(self._grace_period or REPLACED_GRACE, held.link.drain_seconds)
        try:
            await asyncio.wait_for(self._until_idle(held), patience)
        except asyncio.TimeoutError:
            pass  # what is in flight now is lost
        held.link.abort()

    async def _replace(self, indices: Sequence[int], delay: float) -> None:
        if delay > 0:
            await self._sleep(delay)
        for conn_index in indices:
            held = self._current.get(conn_index)
            if held is None:
                self.wake()
            else:
                held.asked.set()
                await held.settled.wait()

    # Hopeless cases.

    def _is_fatal(self, refused: RegistrationRefused) -> bool:
        """Whether a refusal ends it at once: only before the first success, and never for
        credentials, which the edge may not know of yet."""
        first = not self._registered.is_set()
        return first and not refused.should_retry and not refused.is_unauthorized

    def _note_attempt(self, error: Exception, is_lasting: bool, addresses: int) -> None:
        """Give up before the first registration when enough attempts in a row, at all addresses
        that say something of their own, met with what waiting does not mend."""
        self._lasting = self._lasting + 1 if is_lasting else 0
        if self._registered.is_set() or self._lasting <= self._retries:
            return
        if self._lasting >= addresses:
            raise TunnelRefusedError(f"{error} (given up after {self._lasting} attempts)")

    # The end.

    async def _drain(self) -> None:
        """Unregister every link, let what is in flight finish, within the grace period."""
        await _cancelled([*self._keepers.values(), *self._errands])
        if self._grace_period <= 0 or self._aborted.is_set() or not self._held:
            return
        drains: list[asyncio.Task[None]] = [
            asyncio.create_task(self._drain_link(held)) for held in self._held
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

    async def _drain_link(self, held: _Held) -> None:
        if not held.retiring:
            error: Exception | None = None
            try:
                await held.link.unregister(self._grace_period)
            except (OSError, RpcError, asyncio.TimeoutError) as caught:
                error = caught
            self._observe(LinkUnregistered(held.conn_index, held.slot, error))
        await self._until_idle(held)

    async def _until_idle(self, held: _Held) -> None:
        """Return when a link has closed, or has had nothing in flight for a while."""
        while not held.watch.done():
            drained = asyncio.ensure_future(held.link.drained())
            try:
                await asyncio.wait({held.watch, drained}, return_when=asyncio.FIRST_COMPLETED)
                if drained.done():
                    drained.result()
            finally:
                drained.cancel()
            await asyncio.wait({held.watch}, timeout=self._linger)
            if not await held.link.in_flight():
                return


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel these and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all, and cancel the rest when one fails or the wait is cancelled."""
    await asyncio.gather(*tasks)
