"""A supervisor with its dialer, its edge and its clock in a test's hands."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence

from underpass.connector.edges import EdgePool, EdgeSlot, Region, static_regions
from underpass.connector.links import DialError, DialErrorKind, HomeEvent, Link, LinkEvent
from underpass.connector.supervisor import Supervisor
from underpass.wire.registration import ConnectionDetails

REFUSED = DialError(DialErrorKind.CONNECT, "connection refused")


class FakeLink:
    """A link whose requests and end the test controls."""

    def __init__(self) -> None:
        self.details = ConnectionDetails(uuid.uuid4(), "loc01", False)
        self.active = 0
        self.unregistered = False
        self.aborted = False
        self.probed = 0
        self.unregister_error: Exception | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._going_away = asyncio.Event()
        self._closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        self.active += 1
        self._idle.clear()

    def finish(self) -> None:
        self.active -= 1
        if not self.active:
            self._idle.set()

    def lose(self, error: Exception | None = None) -> None:
        if not self._closed.done():
            self._closed.set_result(error)

    def go_away(self) -> None:
        """What an edge says that wants it to end."""
        self._going_away.set()

    async def wait_closed(self) -> Exception | None:
        return await asyncio.shield(self._closed)

    drain_seconds = 0.0

    async def wait_going_away(self) -> None:
        await self._going_away.wait()

    def probe(self) -> None:
        self.probed += 1

    async def unregister(self, timeout: float) -> None:
        self.unregistered = True
        if self.unregister_error is not None:
            raise self.unregister_error

    async def in_flight(self) -> int:
        return self.active

    async def drained(self) -> None:
        await self._idle.wait()

    def abort(self) -> None:
        self.aborted = True
        self.lose()


class Bench:
    """`outcomes` are what dialling leads to, in order; when they run out, links. Waits are noted,
    the clock moves on by them, and they are over at once, unless `hold` is set. `time_is_up` when
    the clock has come to `ends_at`."""

    def __init__(
        self,
        outcomes: list[Exception] | None = None,
        edges: int = 4,
        find: Callable[[], Awaitable[Sequence[Region]]] | None = None,
        ends_at: float = float("inf"),
        **options: float,
    ) -> None:
        self.outcomes = list(outcomes or ())
        self.always: Exception | None = None
        self.now = 0.0
        self.time_is_up = asyncio.Event()
        self._ends_at = ends_at
        self.dialled: list[tuple[int, EdgeSlot, int]] = []
        self.replaced: list[Link | None] = []
        self.links: list[FakeLink] = []
        self.events: list[LinkEvent | HomeEvent] = []
        self.waits: list[float] = []
        self.hold: Callable[[], Awaitable[None]] | None = None
        self.dialling: Callable[[], Awaitable[None]] | None = None
        """Awaited while a link is being made."""
        self.on_link: Callable[[FakeLink], None] | None = None
        self._changed = asyncio.Event()
        settings: dict[str, float] = {"ha_connections": 1, "retries": 5, "grace_period": 30.0}
        settings |= options
        self.supervisor = Supervisor(
            self,
            EdgePool(() if find else static_regions([("edge", 7844)] * edges)),
            ha_connections=int(settings["ha_connections"]),
            retries=int(settings["retries"]),
            grace_period=settings["grace_period"],
            observe=self._observe,
            find=find,
            linger=0.0,
            sleep=self._sleep,
            clock=lambda: self.now,
            uniform=lambda _, high: high,
        )

    async def dial(
        self,
        slot: EdgeSlot,
        conn_index: int,
        previous_attempts: int,
        replacing: Link | None = None,
    ) -> FakeLink:
        self.dialled.append((conn_index, slot, previous_attempts))
        self.replaced.append(replacing)
        if self.outcomes:
            raise self.outcomes.pop(0)
        if self.always is not None:
            raise self.always
        if self.dialling is not None:
            await self.dialling()
        link = FakeLink()
        self.links.append(link)
        if self.on_link is not None:
            self.on_link(link)
        return link

    def _observe(self, event: LinkEvent | HomeEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        if self.now >= self._ends_at:
            self.time_is_up.set()
        if self.hold is not None:
            await self.hold()
        await asyncio.sleep(0)

    def of(self, kind: type) -> list[LinkEvent | HomeEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until_held(self) -> None:
        """Let the next wait last, and return when it has begun. Those after it are over at once."""
        begun = asyncio.Event()

        async def hold() -> None:
            self.hold = None
            begun.set()
            await never()

        self.hold = hold
        await begun.wait()

    async def until(self, kind: type, count: int = 1) -> None:
        while len(self.of(kind)) < count:
            self._changed.clear()
            await self._changed.wait()


def scenario(
    body: Callable[[Bench], Awaitable[None]],
    outcomes: list[Exception] | None = None,
    **options: object,
) -> Bench:
    """Run `body` beside a supervisor; both must end."""

    async def both() -> Bench:
        bench = Bench(outcomes, **options)  # type: ignore[arg-type]
        running = asyncio.create_task(bench.supervisor.run())
        try:
            await asyncio.wait_for(body(bench), 10)
        finally:
            if not running.done():
                bench.supervisor.stop()
        await asyncio.wait_for(running, 10)
        return bench

    return asyncio.run(both())


async def never() -> None:
    await asyncio.Event().wait()
