"""A link that ends by a wish is replaced before it is gone, and nothing storms an edge."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from rig.supervision import REFUSED, Bench, FakeLink, scenario

from underpass.connector.backoff import MINIMUM_WAIT
from underpass.connector.links import (
    DialError,
    DialErrorKind,
    LinkConnected,
    LinkDisconnected,
    LinkFailed,
    LinkReplacing,
    LinkUnregistered,
)
from underpass.connector.supervisor import SPREAD
from underpass.wire.registration import RegistrationRefused

A_WHILE = 600.0


async def settled(bench: Bench, links: int = 1) -> None:
    """The links are up, and have been for long."""
    await bench.until(LinkConnected, links)
    bench.now += A_WHILE


class TestTheEdgesWish:
    def test_another_link_is_dialled_while_the_old_one_finishes(self) -> None:
        async def body(bench: Bench) -> None:
            await settled(bench)
            old = bench.links[0]
            old.begin()
            old.go_away()
            await bench.until(LinkConnected, 2)
            assert bench.replaced == [None, old]
            assert not old.aborted
            old.finish()
            await bench.until(LinkDisconnected)

        bench = scenario(body)
        (told,) = bench.of(LinkReplacing)
        assert isinstance(told, LinkReplacing)
        assert told.by_edge
        (gone, _) = bench.of(LinkDisconnected)
        assert isinstance(gone, LinkDisconnected)
        assert (gone.expected, gone.replaced) == (True, True)
        assert bench.links[0].aborted

    def test_those_who_hear_it_at_once_come_at_moments_of_their_own(self) -> None:
        async def body(bench: Bench) -> None:
            await settled(bench)
            bench.links[0].go_away()
            await bench.until(LinkConnected, 2)

        assert scenario(body).waits == [SPREAD]

    def test_an_edge_that_closes_before_there_is_another_is_no_loss_to_report(self) -> None:
        async def body(bench: Bench) -> None:
            await settled(bench)
            bench.links[0].go_away()
            bench.links[0].lose()
            await bench.until(LinkConnected, 2)

        (gone, _) = scenario(body).of(LinkDisconnected)
        assert isinstance(gone, LinkDisconnected)
        assert gone.expected

    def test_a_link_that_does_not_finish_is_cut_when_the_grace_period_ends(self) -> None:
        async def body(bench: Bench) -> None:
            await settled(bench)
            bench.links[0].begin()
            bench.links[0].go_away()
            await bench.until(LinkDisconnected)

        assert scenario(body, grace_period=0.01).links[0].aborted

    def test_a_stop_waits_for_the_old_link_too(self) -> None:
        async def body(bench: Bench) -> None:
            await settled(bench)
            old = bench.links[0]
            old.begin()
            old.go_away()
            await bench.until(LinkConnected, 2)
            bench.supervisor.stop()
            await bench.until(LinkUnregistered)
            assert not old.aborted
            old.finish()

        bench = scenario(body)
        assert not bench.links[0].unregistered  # the dialer saw to that
        assert bench.links[1].unregistered

    def test_while_no_other_can_be_made_the_old_one_stays(self) -> None:
        async def body(bench: Bench) -> None:
            await settled(bench)
            bench.outcomes = [REFUSED] * 3
            bench.links[0].begin()
            bench.links[0].go_away()
            await bench.until(LinkFailed, 3)
            assert not bench.links[0].aborted
            await bench.until(LinkConnected, 2)

        bench = scenario(body, grace_period=0.01)
        assert len(bench.of(LinkReplacing)) == 1
        assert bench.replaced == [None, *[bench.links[0]] * 4]


class TestAsked:
    def test_one_link_is_replaced_at_once(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 2)
            bench.supervisor.reconnect(1)
            await bench.until(LinkConnected, 3)

        bench = scenario(body, ha_connections=2)
        assert [index for index, _, _ in bench.dialled] == [0, 1, 1]
        (told,) = bench.of(LinkReplacing)
        assert isinstance(told, LinkReplacing)
        assert not told.by_edge
        assert bench.waits == []

    def test_after_the_delay_that_was_asked_for(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.supervisor.reconnect(0, delay=7.0)
            await bench.until(LinkConnected, 2)

        assert scenario(body).waits == [7.0]

    def test_all_are_replaced_one_after_the_other(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 3)
            bench.supervisor.reconnect()
            await bench.until(LinkConnected, 6)

        bench = scenario(body, ha_connections=3)
        kinds = [e for e in bench.events if isinstance(e, LinkReplacing | LinkConnected)][3:]
        assert [type(event) for event in kinds] == [LinkReplacing, LinkConnected] * 3

    def test_one_that_waits_to_be_dialled_is_dialled_now(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until_held()
            bench.supervisor.reconnect(0)
            await bench.until(LinkConnected)

        bench = scenario(body, outcomes=[REFUSED] * 1)
        assert len(bench.dialled) == 2

    @pytest.mark.parametrize("index", [-1, 1, 64])
    def test_an_index_that_is_not_kept(self, index: int) -> None:
        async def body(bench: Bench) -> None:
            with pytest.raises(ValueError, match="there is no connection"):
                bench.supervisor.reconnect(index)

        scenario(body)

    @pytest.mark.parametrize(
        "error",
        [
            RegistrationRefused("busy", should_retry=True),
            DialError(DialErrorKind.REGISTER, "no answer"),
        ],
    )
    def test_a_failed_registration_has_cost_the_old_link_its_place(self, error: Exception) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.outcomes.append(error)
            bench.supervisor.reconnect(0)
            await bench.until(LinkConnected, 2)

        bench = scenario(body)
        assert isinstance(bench.of(LinkUnregistered)[0], LinkUnregistered)
        assert bench.replaced == [None, bench.links[0], None]
        assert bench.links[0].aborted

    def test_an_edge_that_does_not_know_yet_that_the_index_is_free_is_asked_again_soon(
        self,
    ) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.outcomes += [RegistrationRefused("EDUPCONN")]
            bench.supervisor.reconnect(0)
            await bench.until(LinkConnected, 2)

        bench = scenario(body)
        assert bench.waits == [MINIMUM_WAIT]
        assert len({id(slot) for _, slot, _ in bench.dialled}) == 1


class TestStorms:
    """How often a bad edge is dialled within ten minutes, with the luckiest draws for it."""

    def dials_in_ten_minutes(self, bench: Bench) -> int:
        async def run() -> int:
            running = asyncio.create_task(bench.supervisor.run())
            await bench.time_is_up.wait()
            bench.supervisor.stop()
            await running
            return len(bench.dialled)

        return asyncio.run(run())

    def make(self, on_link: Callable[[FakeLink], None] | None = None, edges: int = 4) -> Bench:
        bench = Bench(edges=edges, ends_at=600.0)
        bench.on_link = on_link
        return bench

    @pytest.mark.parametrize("how", [FakeLink.lose, FakeLink.go_away])
    def test_an_edge_that_takes_a_link_and_ends_it_at_once(
        self, how: Callable[[FakeLink], None]
    ) -> None:
        bench = self.make(how)
        # 2 + 4 + 8 + 16 + 32 + 32 …: twenty-odd in ten minutes.
        assert self.dials_in_ten_minutes(bench) <= 25

    def test_an_edge_that_refuses_connections(self) -> None:
        bench = self.make(edges=1)
        bench.always = REFUSED
        assert self.dials_in_ten_minutes(bench) <= 25

    def test_a_hundred_connectors_that_lose_their_edge_come_back_spread_out(self) -> None:
        moments = []
        for seed in range(100):
            chance = random.Random(seed)

            async def one(chance: random.Random = chance) -> float:
                bench = Bench()
                bench.supervisor._uniform = chance.uniform
                running = asyncio.create_task(bench.supervisor.run())
                await settled(bench)
                lost_at = bench.now
                bench.links[0].lose()
                await bench.until(LinkConnected, 2)
                bench.supervisor.stop()
                await running
                return bench.now - lost_at

            moments.append(asyncio.run(one()))
        # Within two seconds, and no tenth of that time has a quarter of them.
        assert max(moments) <= 2.0
        tenths = [int(moment / 0.2) for moment in moments]
        assert max(tenths.count(tenth) for tenth in range(11)) < 25
