"""Pools: shares in the long run, and against a model while links come, go, drain and fail."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from underpass.edge.destinations import Destination
from underpass.edge.link_details import UNKNOWN_DETAILS, LinkDetails
from underpass.edge.pools import COOKIE, MAX_WEIGHT, Pool, cookie_in
from underpass.edge.router import NoLink, Router
from underpass.edge.store import Sticky, Target

weights = st.lists(st.integers(0, MAX_WEIGHT), min_size=1, max_size=16)
HOST = b"app.test"


@dataclass(eq=False)
class FakeLink:
    tunnel_id: UUID
    connector_id: UUID = field(default_factory=uuid4)
    conn_index: int = 0
    load: int = 0
    draining: bool = False
    details: LinkDetails = UNKNOWN_DETAILS


def pool_with(given_weights: list[int], sticky: Sticky = Sticky.NONE) -> Pool:
    targets = []
    for number, weight in enumerate(given_weights):
        destination = Destination(UUID(int=number))
        destination.links.append(FakeLink(UUID(int=number)))
        targets.append((destination, weight))
    return Pool("app.test", targets, sticky)


def number_of(outcome: Any) -> int:
    return int(outcome.tunnel_id.int)


@given(weights.filter(lambda found: sum(found) <= 2000))
@settings(max_examples=50)
def test_in_every_round_each_gets_exactly_its_share(given_weights: list[int]) -> None:
    assume(any(given_weights))
    pool = pool_with(given_weights)
    for _ in range(2):
        counts = Counter(number_of(pool.choose()) for _ in range(sum(given_weights)))
        assert [counts[number] for number in range(len(given_weights))] == given_weights


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 300))
def test_nobody_is_ever_a_whole_round_behind(given_weights: list[int], visits: int) -> None:
    pool = pool_with(given_weights)
    counts = Counter(number_of(pool.choose()) for _ in range(visits))
    total = sum(given_weights)
    for number, weight in enumerate(given_weights):
        assert abs(counts[number] - visits * weight / total) <= len(given_weights)


@given(weights, st.binary(max_size=60))
def test_whatever_a_visitor_shows_it_gets_somewhere(
    given_weights: list[int], cookie: bytes
) -> None:
    for sticky in Sticky:
        pool = pool_with(given_weights, sticky)
        outcome = pool.choose_for(cookie, cookie)
        assert isinstance(outcome, FakeLink)
        assert pool.choose_for(b"", pool.cookie_for(outcome)) is outcome or (
            sticky is not Sticky.COOKIE
        )


@given(st.lists(st.binary(max_size=100), max_size=4))
def test_any_cookie_fields_are_read(fields: list[bytes]) -> None:
    found = cookie_in(fields)
    assert found is None or any(COOKIE in each and found in each for each in fields)


tunnel_ids = st.integers(1, 4).map(lambda number: UUID(int=number))


class PoolAgainstAModel(RuleBasedStateMachine):
    """A router with a pool, and what has to be true of every choice it makes."""

    links = Bundle("links")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.router = Router(clock=lambda: self.now)
        self.weights: dict[UUID, int] = {}
        self.sticky = Sticky.NONE
        self.live: list[FakeLink] = []
        self.remote: list[FakeLink] = []
        self.aside: set[UUID] = set()

    @initialize(pool=st.dictionaries(tunnel_ids, st.integers(0, 3), min_size=1))
    def begin(self, pool: dict[UUID, int]) -> None:
        self.put(pool, Sticky.NONE)

    @rule(
        pool=st.dictionaries(tunnel_ids, st.integers(0, 3), min_size=1),
        sticky=st.sampled_from(Sticky),
    )
    def put(self, pool: dict[UUID, int], sticky: Sticky) -> None:
        self.weights, self.sticky = pool, sticky
        self.router.put_pool("app.test", [Target(*each) for each in pool.items()], sticky)

    @rule(
        target=links,
        tunnel_id=tunnel_ids,
        connector=st.integers(1, 3),
        load=st.integers(0, 3),
        is_here=st.booleans(),
    )
    def add(self, tunnel_id: UUID, connector: int, load: int, is_here: bool) -> FakeLink:
        key = UUID(int=tunnel_id.int * 10 + connector)
        taken = {link.conn_index for link in (*self.live, *self.remote)}
        index = next(each for each in range(1000) if each not in taken)
        link = FakeLink(tunnel_id, key, index, load if is_here else 0)
        if is_here:
            self.router.add_link(tunnel_id, link)
            self.live.append(link)
        else:
            self.router.add_remote(link)
            self.remote.append(link)
        return link

    @rule(link=consumes(links), drains=st.booleans())
    def remove(self, link: FakeLink, drains: bool) -> None:
        if drains:
            self.router.drain(link)
        self.router.remove_link(link)
        for where in (self.live, self.remote):
            if link in where:
                where.remove(link)

    @rule(link=links, aside=st.booleans())
    def set_aside(self, link: FakeLink, aside: bool) -> None:
        # A tunnel that nobody knows any more forgets.
        known = link.tunnel_id in self.router._destinations
        self.router.set_aside(link.tunnel_id, link.connector_id, aside=aside)
        if aside and known:
            self.aside.add(link.connector_id)
        else:
            self.aside.discard(link.connector_id)

    @rule(link=links, answers=st.booleans())
    def hear(self, link: FakeLink, answers: bool) -> None:
        outcome = self.router.route(HOST)
        if answers and isinstance(outcome, Pool):
            outcome.health.answered(link.connector_id)
        else:
            self.router.unreachable(HOST, link, is_certain=True)

    @rule(seconds=st.sampled_from([1.0, 5.0, 30.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.router.tick()

    @invariant()
    def forget_who_nobody_knows(self) -> None:
        tunnels = set(self.router._destinations)
        self.aside = {key for key in self.aside if UUID(int=key.int // 10) in tunnels}

    @rule(address=st.binary(max_size=3), cookie=st.none() | st.binary(max_size=40))
    def visit(self, address: bytes, cookie: bytes | None) -> None:
        outcome = self.router.route(HOST)
        spared: set[UUID] = set()
        due: set[UUID] = set()
        if isinstance(outcome, Pool):
            spared, due = outcome.health.spared(), outcome.health.due()
            outcome = outcome.choose_for(address, cookie)
        serving = [
            link
            for link in (*self.live, *self.remote)
            if link.tunnel_id in self.weights and link.connector_id not in self.aside
        ]
        if not serving:
            assert isinstance(outcome, NoLink)
            assert outcome.tunnel_id in self.weights
            return
        assert outcome in serving
        if spared and any(link.connector_id not in spared for link in serving):
            assert outcome.connector_id not in spared or outcome.connector_id in due
        elif any(self.weights[link.tunnel_id] for link in serving):
            assert self.weights[outcome.tunnel_id] > 0, "a standby stands by"
            if self.sticky is not Sticky.ADDRESS:
                here = [
                    link
                    for link in self.live
                    if link in serving and link.tunnel_id == outcome.tunnel_id
                ]
                least = min((link.load for link in here), default=0)
                assert outcome.load == least


TestPoolAgainstAModel = PoolAgainstAModel.TestCase
TestPoolAgainstAModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
