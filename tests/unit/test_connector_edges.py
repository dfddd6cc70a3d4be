"""Edge addresses: the static list, the pool of slots, and discovery by DNS."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from underpass.connector import edges
from underpass.connector.discovery import (
    DiscoveryError,
    NoSuchNameError,
    SrvTarget,
    discover_regions,
    order_targets,
    service_name,
)
from underpass.connector.edges import EdgePool, EdgeSlot, Region, parse_edge, static_regions


def first(slots: Sequence[EdgeSlot]) -> EdgeSlot:
    return slots[0]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "edge"),
    [
        ("localhost:7844", ("localhost", 7844)),
        (" 127.0.0.1:1 ", ("127.0.0.1", 1)),
        ("[::1]:7844", ("::1", 7844)),
    ],
)
def test_edge_entries(text: str, edge: tuple[str, int]) -> None:
    assert parse_edge(text) == edge


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:65536", "h:x", "::1:1"]
)
def test_entries_that_are_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="--edge"):
        parse_edge(text)


class TestPool:
    def test_entries_alternate_between_two_regions(self) -> None:
        one, two = static_regions([("a", 1), ("b", 1), ("c", 1)])
        assert [slot.host for slot in one.active] == ["a", "c"]
        assert [slot.host for slot in two.active] == ["b"]

    def test_the_same_address_four_times_is_four_slots(self) -> None:
        pool = EdgePool(static_regions([("a", 1)] * 4))
        assert pool.capacity == 4
        assert len({id(pool.take(index)) for index in range(4)}) == 4

    def test_a_link_keeps_its_slot(self) -> None:
        pool = EdgePool(static_regions([("a", 1), ("b", 1)]))
        assert pool.take(0) is pool.take(0)

    def test_free_slots_come_from_the_region_with_more_of_them(self) -> None:
        pool = EdgePool(static_regions([("a", 1), ("b", 1), ("c", 1)]), choose=first)
        assert [str(pool.take(index)) for index in range(3)] == ["a:1", "c:1", "b:1"]

    def test_rotation_takes_another_slot(self) -> None:
        pool = EdgePool(static_regions([("a", 1), ("b", 1)]))
        before = pool.take(0)
        assert pool.rotate(0) is True
        assert pool.take(0) is not before

    def test_rotation_without_another_free_slot_keeps_the_one_held(self) -> None:
        pool = EdgePool(static_regions([("a", 1)]))
        before = pool.take(0)
        assert pool.rotate(0) is False
        assert pool.take(0) is before

    def test_a_slot_given_back_is_free(self) -> None:
        pool = EdgePool(static_regions([("a", 1)]))
        slot = pool.take(0)
        pool.give_back(0)
        assert pool.take(1) is slot

    def test_with_nothing_free_a_slot_is_shared(self) -> None:
        pool = EdgePool(static_regions([("a", 1)]))
        assert pool.take(0) is pool.take(1)

    def test_a_failed_ipv6_address_moves_the_region_to_ipv4_for_ten_minutes(self) -> None:
        clock = Clock()
        region = Region([EdgeSlot("::1", 1, 0)], [EdgeSlot("127.0.0.1", 1, 0)])
        pool = EdgePool([region], clock=clock)
        assert pool.take(0).is_ipv6
        assert pool.rotate(0) is True
        assert pool.take(0).host == "127.0.0.1"
        clock.now += edges.SECONDARY_HOLD / 2
        pool.rotate(0)  # an IPv4 address failed as well: back to the first family
        assert pool.take(0).is_ipv6

    def test_an_address_that_stays_keeps_its_slot_when_addresses_are_renewed(self) -> None:
        pool = EdgePool(static_regions([("a", 1), ("b", 1)]), choose=first)
        kept, gone = pool.take(0), pool.take(1)
        assert (kept.host, gone.host) == ("a", "b")
        pool.renew(static_regions([("a", 1), ("c", 1)]))
        assert pool.take(0) is kept
        assert pool.take(1).host == "c"
        assert pool.capacity == 2

    def test_failed_addresses_are_counted_until_one_is_good(self) -> None:
        pool = EdgePool(static_regions([("a", 1), ("b", 1), ("c", 1)]), choose=first)
        counts = []
        for _ in range(4):
            pool.take(0)
            pool.rotate(0)
            counts.append(pool.failed)
        assert counts == [1, 2, 2, 2]  # those that are tried in turn
        pool.reached()
        assert pool.failed == 0

    def test_too_many_entries_are_refused(self) -> None:
        with pytest.raises(ValueError, match="more than 256"):
            static_regions([("a", 1)] * 257)
        with pytest.raises(ValueError, match="empty"):
            static_regions([])


class FakeResolver:
    def __init__(
        self,
        targets: Sequence[SrvTarget] | OSError,
        addresses: dict[str, list[str]],
        fallback: Sequence[SrvTarget] | OSError = (),
    ) -> None:
        self._answers = {"system": targets, "fallback": fallback}
        self._addresses = addresses
        self.asked: list[str] = []

    async def _answer(self, by: str, name: str) -> Sequence[SrvTarget]:
        self.asked.append(f"{by} {name}")
        answer = self._answers[by]
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def targets(self, name: str) -> Sequence[SrvTarget]:
        return await self._answer("system", name)

    async def fallback_targets(self, name: str) -> Sequence[SrvTarget]:
        return await self._answer("fallback", name)

    async def addresses(self, host: str) -> Sequence[str]:
        if host not in self._addresses:
            raise OSError("no such name")
        return self._addresses[host]


TWO = [SrvTarget("one", 7844, 1), SrvTarget("two", 7844, 2), SrvTarget("three", 7844, 3)]
ADDRESSES = {"one": ["192.0.2.1", "2001:db8::1", "192.0.2.2"], "two": ["2001:db8::2", "192.0.2.3"]}


class TestDiscovery:
    def test_the_first_two_targets_are_the_regions(self) -> None:
        resolver = FakeResolver(TWO, ADDRESSES)
        one, two = asyncio.run(discover_regions(resolver))
        assert resolver.asked == ["system _v2-origintunneld._tcp.argotunnel.com"]
        assert [str(slot) for slot in one.primary] == ["192.0.2.1:7844", "192.0.2.2:7844"]
        assert [str(slot) for slot in one.secondary] == ["[2001:db8::1]:7844"]
        assert [str(slot) for slot in two.primary] == ["[2001:db8::2]:7844"]
        assert [slot.region for slot in (*one.primary, *two.primary)] == [0, 0, 1]

    def test_one_address_family_can_be_asked_for(self) -> None:
        one, two = asyncio.run(discover_regions(FakeResolver(TWO, ADDRESSES), ip_version="6"))
        assert [str(slot) for slot in one.active] == ["[2001:db8::1]:7844"]
        assert not one.secondary
        assert [str(slot) for slot in two.active] == ["[2001:db8::2]:7844"]
        without = FakeResolver(TWO, {**ADDRESSES, "two": ["192.0.2.1"]})
        with pytest.raises(DiscoveryError, match="no IPv6 address"):
            asyncio.run(discover_regions(without, ip_version="6"))

    def test_a_region_is_a_prefix_of_the_service(self) -> None:
        assert service_name("us") == "_us-v2-origintunneld._tcp.argotunnel.com"

    def test_dns_over_tls_is_asked_when_the_system_fails(self) -> None:
        resolver = FakeResolver(OSError("refused"), ADDRESSES, fallback=TWO)
        assert len(asyncio.run(discover_regions(resolver))) == 2
        assert [line.split()[0] for line in resolver.asked] == ["system", "fallback"]

    def test_when_both_fail_the_first_reason_and_the_way_out_are_told(self) -> None:
        resolver = FakeResolver(OSError("refused"), ADDRESSES, fallback=OSError("blocked"))
        with pytest.raises(DiscoveryError, match=r"refused; .*--edge host:port"):
            asyncio.run(discover_regions(resolver))

    def test_a_region_that_nobody_knows_is_final(self) -> None:
        unknown = NoSuchNameError("no such name")
        resolver = FakeResolver(unknown, ADDRESSES, fallback=unknown)
        with pytest.raises(DiscoveryError, match="there is no edge region 'mars'") as error:
            asyncio.run(discover_regions(resolver, region="mars"))
        assert error.value.is_final

    @pytest.mark.parametrize(
        ("region", "first", "second"),
        [
            # A network's own DNS may know little; and without a region the name is right.
            ("us", NoSuchNameError("none"), OSError("blocked")),
            ("us", OSError("refused"), NoSuchNameError("none")),
            ("", NoSuchNameError("none"), NoSuchNameError("none")),
        ],
    )
    def test_anything_else_may_pass(self, region: str, first: OSError, second: OSError) -> None:
        resolver = FakeResolver(first, ADDRESSES, fallback=second)
        with pytest.raises(DiscoveryError) as error:
            asyncio.run(discover_regions(resolver, region=region))
        assert not error.value.is_final

    def test_slots_know_their_home(self) -> None:
        found = asyncio.run(discover_regions(FakeResolver(TWO, ADDRESSES), home=1))
        assert {slot.home for region in found for slot in region.primary} == {1}
        assert {
            slot.home for region in static_regions([("a", 1)], 2) for slot in region.active
        } == {2}

    def test_one_region_is_not_enough(self) -> None:
        with pytest.raises(DiscoveryError, match="names 1 edge regions"):
            asyncio.run(discover_regions(FakeResolver(TWO[:1], ADDRESSES)))

    def test_a_region_without_addresses_is_an_error(self) -> None:
        with pytest.raises(DiscoveryError, match="region two"):
            asyncio.run(discover_regions(FakeResolver(TWO, {"one": ["192.0.2.1"]})))
        with pytest.raises(DiscoveryError, match="no address"):
            asyncio.run(discover_regions(FakeResolver(TWO, {"one": [], "two": []})))

    def test_records_are_ordered_by_priority_then_drawn_by_weight(self) -> None:
        light, heavy = SrvTarget("light", 1, 1, 10), SrvTarget("heavy", 1, 1, 90)
        backup = SrvTarget("backup", 1, 2, 100)
        targets = [backup, heavy, light]
        assert order_targets(targets, lambda low, _: low) == [light, heavy, backup]
        assert order_targets(targets, lambda _, high: high) == [heavy, light, backup]
