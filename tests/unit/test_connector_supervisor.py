"""The supervisor keeps links up in the right order, waits between attempts, and drains on stop."""

from __future__ import annotations

import asyncio

import pytest
from rig.supervision import REFUSED, Bench, never, scenario

from underpass.connector.discovery import DiscoveryError
from underpass.connector.edges import EdgeSlot, Region
from underpass.connector.links import (
    AddressesFound,
    AddressesNotFound,
    DialError,
    DialErrorKind,
    LinkConnected,
    LinkDisconnected,
    LinkFailed,
    LinkReconnecting,
    LinkUnregistered,
)
from underpass.connector.supervisor import (
    LONGEST_RETRY_AFTER,
    RELOCATE_INTERVAL,
    SPREAD,
    TunnelRefusedError,
)
from underpass.wire.registration import RegistrationRefused


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


UNTRUSTED = DialError(DialErrorKind.TLS, "not to be trusted", is_lasting=True)
UNAUTHORIZED = RegistrationRefused("Unauthorized: Tunnel not found")


class TestGivingUp:
    """`retries` ends a start that only a human can mend, and nothing else."""

    def attempts(self, always: Exception, edges: int = 4, retries: int = 5) -> int:
        """How often it is tried until it is given up."""
        bench = Bench([always] * 100, edges, retries=retries)
        with pytest.raises(TunnelRefusedError, match="given up after"):
            asyncio.run(asyncio.wait_for(bench.supervisor.run(), 10))
        return len(bench.dialled)

    @pytest.mark.parametrize("retries", [0, 1, 5])
    def test_credentials_that_stay_refused(self, retries: int) -> None:
        assert self.attempts(UNAUTHORIZED, retries=retries) == retries + 1

    def test_a_certificate_that_stays_untrusted(self) -> None:
        assert self.attempts(UNTRUSTED, edges=1, retries=2) == 3

    def test_every_address_has_its_say_about_its_certificate(self) -> None:
        assert self.attempts(UNTRUSTED, edges=7, retries=2) == 7

    def test_of_many_addresses_some_are_enough(self) -> None:
        assert self.attempts(UNTRUSTED, edges=60, retries=2) == 8

    @pytest.mark.parametrize("error", [REFUSED, RegistrationRefused("busy", should_retry=True)])
    def test_what_may_pass_is_tried_for_ever(self, error: Exception) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        assert len(scenario(body, outcomes=[error] * 50, retries=1).dialled) == 51

    def test_only_failures_in_a_row_count(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        scenario(body, outcomes=[UNAUTHORIZED, UNAUTHORIZED, REFUSED] * 10, retries=2)

    def test_a_connector_that_was_up_never_gives_up(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)
            bench.outcomes = [UNAUTHORIZED] * 50
            bench.links[0].lose()
            await bench.until(LinkConnected, 2)

        scenario(body, retries=1)


def regions(*hosts: str) -> list[Region]:
    return [Region([EdgeSlot(host, 7844, index % 2)]) for index, host in enumerate(hosts)]


class Lookup:
    """Answers, the last one again and again."""

    def __init__(self, *answers: Exception | list[Region]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self) -> list[Region]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


NO_DNS = DiscoveryError("cannot look up the edge")


class TestAddresses:
    def test_a_lookup_that_fails_at_the_start_is_made_again(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 2)

        find = Lookup(NO_DNS, NO_DNS, regions("a", "b"))
        bench = scenario(body, find=find, ha_connections=4)
        assert bench.waits[:2] == [2.0, 4.0]
        told = bench.of(AddressesNotFound)
        assert [getattr(event, "longest_wait", None) for event in told] == [2.0, 4.0]
        assert bench.of(AddressesFound) == [AddressesFound(0, links=2, wanted=4)]

    def test_one_that_cannot_ever_work_ends_it(self) -> None:
        find = Lookup(DiscoveryError("no IPv6 address", is_final=True))
        bench = Bench(find=find)
        with pytest.raises(TunnelRefusedError, match="no IPv6 address"):
            asyncio.run(asyncio.wait_for(bench.supervisor.run(), 10))

    def test_when_all_addresses_have_failed_they_are_looked_up_again(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        find = Lookup(regions("a", "b"), regions("b", "c"))
        bench = scenario(body, find=find, outcomes=[REFUSED] * 40)
        assert {slot.host for _, slot, _ in bench.dialled} == {"a", "b", "c"}
        # Not more often than every five minutes, though all fail all the time.
        assert find.asked == 1 + bench.now // RELOCATE_INTERVAL

    def test_addresses_that_cannot_be_looked_up_again_are_used_on(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected)

        find = Lookup(regions("a", "b"), NO_DNS)
        bench = scenario(body, find=find, outcomes=[REFUSED] * 20)
        (told,) = bench.of(AddressesNotFound)
        assert told == AddressesNotFound(0, NO_DNS, None)
        assert {slot.host for _, slot, _ in bench.dialled} == {"a", "b"}

    def test_a_link_that_works_shows_that_they_are_good(self) -> None:
        async def body(bench: Bench) -> None:
            for count in range(1, 30):
                await bench.until(LinkConnected, count)
                bench.outcomes = [REFUSED]
                bench.links[-1].lose()

        find = Lookup(regions("a", "b"))
        assert scenario(body, find=find).now > RELOCATE_INTERVAL
        assert find.asked == 1

    def test_a_network_that_is_back_ends_the_waits(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until_held()
            bench.supervisor.wake()
            await bench.until(LinkConnected)

        bench = scenario(body, find=Lookup(NO_DNS, regions("a", "b")))
        assert bench.waits[:2] == [2.0, SPREAD]


class TestWaking:
    def test_a_wait_ends_and_failures_count_anew(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkFailed, 5)
            await bench.until_held()
            bench.supervisor.wake()
            await bench.until(LinkConnected)

        bench = scenario(body, outcomes=[REFUSED] * 7)
        assert bench.waits == [2.0, 4.0, 8.0, 16.0, 32.0, SPREAD, 2.0, 4.0]
        assert [attempts for _, _, attempts in bench.dialled][-3:] == [0, 1, 2]

    def test_links_that_are_up_are_asked_for_a_sign_of_life(self) -> None:
        async def body(bench: Bench) -> None:
            await bench.until(LinkConnected, 2)
            bench.supervisor.probe()

        assert [link.probed for link in scenario(body, ha_connections=2).links] == [1, 1]


class TestStop:
    @pytest.mark.parametrize("grace_period", [30.0, 0.0])
    @pytest.mark.parametrize("is_first", [True, False])
    def test_a_link_that_comes_up_at_that_moment_is_taken_down_too(
        self, is_first: bool, grace_period: float
    ) -> None:
        """What waits for it with a timeout may swallow that it is cancelled (asyncio.wait_for)."""

        async def body(bench: Bench) -> None:
            begun = asyncio.Event()

            async def swallow() -> None:
                begun.set()
                try:
                    await never()
                except asyncio.CancelledError:
                    return

            if is_first:
                bench.dialling = swallow
            else:
                await bench.until(LinkConnected)
                bench.dialling = swallow
                bench.supervisor.reconnect(0)
            await begun.wait()
            bench.supervisor.stop()

        bench = scenario(body, grace_period=grace_period)
        assert len(bench.links) == (1 if is_first else 2)
        assert len(bench.of(LinkDisconnected)) == len(bench.links)
        assert bench.supervisor.running == 0

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
