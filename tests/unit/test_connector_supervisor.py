"""The supervisor keeps links up in the right order, waits between attempts, and drains on stop."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest

from underpass.connector.edges import EdgePool, EdgeSlot, static_regions
from underpass.connector.links import (
    DialError,
    DialErrorKind,
    LinkConnected,
    LinkDisconnected,
    LinkEvent,
    LinkFailed,
    LinkReconnecting,
    LinkUnregistered,
)
from underpass.connector.supervisor import LONGEST_RETRY_AFTER, Supervisor, TunnelRefusedError
from underpass.wire.registration import ConnectionDetails, RegistrationRefused

REFUSED = DialError(DialErrorKind.CONNECT, "connection refused")


class FakeLink:
    """A link whose requests and end the test controls."""

    def __init__(self) -> None:
        self.details = ConnectionDetails(uuid.uuid4(), "loc01", False)
        self.active = 0
        self.unregistered = False
        self.aborted = False
        self.unregister_error: Exception | None = None
        self._idle = asyncio.Event()
        self._idle.set()
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

    async def wait_closed(self) -> Exception | None:
        return await self._closed

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
    """A supervisor, its dialer and its clock, all in the test's hands.

    `outcomes` are what dialling leads to, in order; when they run out, links. Waits are noted and
    over at once, unless `hold` is set.
    """

    def __init__(self, outcomes: list[Exception] | None = None, edges: int = 4, **options: float):
        self.outcomes = list(outcomes or ())
        self.dialled: list[tuple[int, EdgeSlot, int]] = []
        self.links: list[FakeLink] = []
        self.events: list[LinkEvent] = []
        self.waits: list[float] = []
        self.hold: Callable[[], Awaitable[None]] | None = None
        self._changed = asyncio.Event()
        settings: dict[str, float] = {"ha_connections": 1, "retries": 5, "grace_period": 30.0}
        settings |= options
        self.supervisor = Supervisor(
            self,
            EdgePool(static_regions([("edge", 7844)] * edges)),
            ha_connections=int(settings["ha_connections"]),
            retries=int(settings["retries"]),
            grace_period=settings["grace_period"],
            observe=self._observe,
            linger=0.0,
            sleep=self._sleep,
            clock=lambda: 0.0,
            uniform=lambda _, high: high,
        )

    async def dial(self, slot: EdgeSlot, conn_index: int, previous_attempts: int) -> FakeLink:
        self.dialled.append((conn_index, slot, previous_attempts))
        if self.outcomes:
            raise self.outcomes.pop(0)
        link = FakeLink()
        self.links.append(link)
        return link

    def _observe(self, event: LinkEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self.hold is not None:
            await self.hold()
        await asyncio.sleep(0)

    def of(self, kind: type) -> list[LinkEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type, count: int = 1) -> None:
        while len(self.of(kind)) < count:
            self._changed.clear()
            await self._changed.wait()


def scenario(
    body: Callable[[Bench], Awaitable[None]],
    outcomes: list[Exception] | None = None,
    **options: float,
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


class TestStart:
    def test_the_others_follow_connection_0_a_second_apart(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 4)

        bench = scenario(body, ha_connections=4)
        assert [index for index, _, _ in bench.dialled] == [0, 1, 2, 3]
        assert bench.waits == [1.0, 1.0]
        assert len({id(slot) for _, slot, _ in bench.dialled}) == 4

    def test_nothing_else_starts_before_connection_0_has_registered(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 1)
            assert [index for index, _, _ in bench.dialled] == [0, 0, 0]

        scenario(body, outcomes=[REFUSED, REFUSED], ha_connections=2)

    def test_there_are_no_more_links_than_addresses(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 2)

        bench = scenario(body, ha_connections=4, edges=2)
        assert bench.supervisor.count == 2

    def test_stop_before_run_is_an_end_without_a_dial(self) -> None:
        async def run() -> Bench:
            bench = Bench()
            bench.supervisor.stop()
            await bench.supervisor.run()
            return bench

        assert asyncio.run(run()).dialled == []


class TestRetry:
    def test_a_failed_dial_takes_another_address_after_a_wait(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        bench = scenario(body, outcomes=[REFUSED] * 3, edges=2)
        slots = [slot for _, slot, _ in bench.dialled]
        assert slots[0] is slots[2] is not slots[1] is slots[3]
        assert bench.waits == [2.0, 4.0, 8.0]
        assert [attempts for _, _, attempts in bench.dialled] == [0, 1, 2, 3]

    def test_one_refused_address_is_never_dialled_in_a_tight_loop(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        bench = scenario(body, outcomes=[REFUSED] * 20, edges=1)
        assert len(bench.waits) == 20
        assert min(bench.waits) >= 2.0

    def test_a_link_is_dialled_anew_when_asked_for(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 2)
            bench.supervisor.reconnect(1)
            await bench.until(LinkConnected, 3)
            again = bench.of(LinkConnected)[-1]
            assert isinstance(again, LinkConnected)
            assert again.conn_index == 1
            assert [link.aborted for link in bench.links] == [False, True, False]
            bench.supervisor.reconnect()
            await bench.until(LinkConnected, 5)
            with pytest.raises(ValueError, match="no connection 2"):
                bench.supervisor.reconnect(2)

        scenario(body, ha_connections=2)

    def test_a_lost_link_is_made_again_at_the_same_address(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.links[0].lose(ConnectionResetError("reset by peer"))
            await bench.until(LinkConnected, 2)

        bench = scenario(body)
        assert bench.dialled[0][1] is bench.dialled[1][1]
        (lost, _) = bench.of(LinkDisconnected)
        assert isinstance(lost, LinkDisconnected)
        assert str(lost.error) == "reset by peer"
        assert not lost.expected

    def test_the_longest_wait_is_announced(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        bench = scenario(body, outcomes=[REFUSED] * 2)
        announced = bench.of(LinkReconnecting)
        assert [getattr(event, "longest_wait", None) for event in announced] == bench.waits

    def test_a_duplicate_connection_takes_another_address(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        bench = scenario(body, outcomes=[RegistrationRefused("EDUPCONN")])
        assert bench.dialled[0][1] is not bench.dialled[1][1]

    @pytest.mark.parametrize(
        "refused",
        [
            RegistrationRefused("Unauthorized: Tunnel not found"),
            RegistrationRefused("try again", should_retry=True),
        ],
    )
    def test_credentials_and_retryable_refusals_are_tried_again(
        self, refused: RegistrationRefused
    ) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        bench = scenario(body, outcomes=[refused])
        assert bench.dialled[0][1] is bench.dialled[1][1]

    @pytest.mark.parametrize(("asked", "waited"), [(60, 60), (10**6, LONGEST_RETRY_AFTER), (-5, 2)])
    def test_the_edge_may_ask_for_a_longer_wait_within_reason(
        self, asked: int, waited: float
    ) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        refused = RegistrationRefused("busy", retry_after_ns=asked * 10**9, should_retry=True)
        assert scenario(body, outcomes=[refused]).waits == [waited]

    def test_a_final_refusal_of_the_first_registration_ends_the_tunnel(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkFailed)

        with pytest.raises(TunnelRefusedError, match="tunnel deleted"):
            scenario(body, outcomes=[RegistrationRefused("tunnel deleted")])

    def test_the_same_refusal_later_is_retried(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.outcomes.append(RegistrationRefused("tunnel deleted"))
            bench.links[0].lose()
            await bench.until(LinkConnected, 2)

        scenario(body)

    def test_an_unforeseen_error_of_the_dialer_is_not_hidden(self) -> None:
        async def body(bench: Bench) -> None:
            return

        with pytest.raises(ZeroDivisionError):
            scenario(body, outcomes=[ZeroDivisionError()])


class TestStop:
    def test_requests_in_flight_finish_first(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 2)
            busy = bench.links[0]
            busy.begin()
            bench.supervisor.stop()
            await bench.until(LinkUnregistered, 2)
            assert all(link.unregistered for link in bench.links)
            assert not busy.aborted
            busy.finish()

        bench = scenario(body, ha_connections=2)
        ended = bench.of(LinkDisconnected)
        assert [getattr(event, "expected", None) for event in ended] == [True, True]
        assert all(link.aborted for link in bench.links)

    def test_an_edge_that_closes_first_ends_the_wait(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.links[0].begin()
            bench.supervisor.stop()
            await bench.until(LinkUnregistered)
            bench.links[0].lose()

        bench = scenario(body)
        assert len(bench.dialled) == 1

    def test_the_grace_period_is_the_longest_wait(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.links[0].begin()
            bench.supervisor.stop()
            await bench.until(LinkDisconnected)

        bench = scenario(body, grace_period=0.01)
        assert bench.links[0].active == 1
        assert bench.links[0].aborted

    def test_no_grace_period_means_no_drain(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.links[0].begin()

        bench = scenario(body, grace_period=0)
        assert not bench.links[0].unregistered
        assert bench.links[0].aborted

    def test_abort_cuts_a_drain_short(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.links[0].begin()
            bench.supervisor.stop()
            await bench.until(LinkUnregistered)
            bench.supervisor.abort()
            await bench.until(LinkDisconnected)

        assert scenario(body).links[0].aborted

    def test_a_link_that_waits_to_be_made_again_is_given_up_at_once(self) -> None:
        async def body(bench: Bench) -> None:
            bench.hold = never
            await bench.until(LinkReconnecting)

        bench = scenario(body, outcomes=[REFUSED])
        assert len(bench.dialled) == 1

    def test_an_edge_that_does_not_answer_to_unregister_is_drained_all_the_same(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.links[0].unregister_error = ConnectionResetError("gone")

        bench = scenario(body)
        (told,) = bench.of(LinkUnregistered)
        assert isinstance(told, LinkUnregistered)
        assert str(told.error) == "gone"
        assert bench.links[0].aborted

    def test_no_task_is_left_behind(self) -> None:
        async def run() -> set[str]:
            bench = Bench(ha_connections=4)
            running = asyncio.create_task(bench.supervisor.run())
            await bench.until(LinkConnected, 4)
            bench.supervisor.stop()
            await running
            return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}

        assert asyncio.run(run()) == set()
