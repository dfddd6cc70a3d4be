"""A hostname with a choice: shares, standbys, visitors that stick, connectors that are spared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from underpass.edge import router as router_module
from underpass.edge.link_details import UNKNOWN_DETAILS, LinkDetails
from underpass.edge.origin_health import FAILURES_TO_SPARE, FIRST_SPELL_SECONDS, FORGET_SECONDS
from underpass.edge.pools import COOKIE, MAX_COOKIE, Pool, cookie_in
from underpass.edge.router import UNKNOWN_HOST, NoLink, Router
from underpass.edge.store import Sticky, Target

A, B, C = (UUID(int=number) for number in (1, 2, 3))
HOST = b"app.test"


@dataclass(eq=False)
class FakeLink:
    tunnel_id: UUID = A
    connector_id: UUID = field(default_factory=uuid4)
    conn_index: int = 0
    load: int = 0
    draining: bool = False
    details: LinkDetails = UNKNOWN_DETAILS


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def router(time: Time) -> Router:
    return Router(clock=time)


def lead(
    router: Router, weights: dict[UUID, int], sticky: Sticky = Sticky.NONE, name: str = "app.test"
) -> None:
    router.put_pool(name, [Target(*each) for each in weights.items()], sticky)


def link(router: Router, tunnel: UUID = A, **more: Any) -> FakeLink:
    made = FakeLink(tunnel, **more)
    router.add_link(tunnel, made)
    return made


def visit(router: Router, address: bytes = b"192.0.2.1", cookie: bytes | None = None) -> Any:
    """Where a request goes, as the gateway finds it out."""
    outcome = router.route(HOST)
    return outcome.choose_for(address, cookie) if isinstance(outcome, Pool) else outcome


def shares(router: Router, visits: int) -> Counter[UUID]:
    return Counter(visit(router).tunnel_id for _ in range(visits))


def pool_of(router: Router) -> Pool:
    outcome = router.route(HOST)
    assert isinstance(outcome, Pool)
    return outcome


class TestWeights:
    def test_every_tunnel_gets_its_share_and_no_run_is_longer_than_it_has_to_be(
        self, router: Router
    ) -> None:
        lead(router, {A: 5, B: 1, C: 1})
        for tunnel in (A, B, C):
            link(router, tunnel)
        order = [visit(router).tunnel_id for _ in range(7)]
        assert order == [A, A, B, A, C, A, A]
        assert shares(router, 700) == {A: 500, B: 100, C: 100}

    def test_within_a_tunnel_the_least_loaded_link_is_taken(self, router: Router) -> None:
        lead(router, {A: 1, B: 1})
        busy, idle, other = link(router, load=5), link(router, load=1), link(router, B)
        assert Counter(visit(router) for _ in range(10)) == {idle: 5, other: 5}
        assert busy.load == 5

    def test_a_tunnel_without_links_is_passed_over(self, router: Router) -> None:
        lead(router, {A: 9, B: 2, C: 1})
        lost, _, _ = (link(router, tunnel) for tunnel in (A, B, C))
        shares(router, 5)
        router.remove_link(lost)
        assert shares(router, 300)[B] in (199, 200, 201)
        link(router, A)
        found = shares(router, 1200)
        assert found[A] in range(890, 911)

    def test_a_standby_serves_while_there_is_no_other(self, router: Router) -> None:
        lead(router, {A: 1, B: 0, C: 0})
        first, _, _ = (link(router, tunnel) for tunnel in (A, B, C))
        assert shares(router, 20) == {A: 20}
        router.remove_link(first)
        assert shares(router, 20) == {B: 10, C: 10}
        link(router, A)
        assert shares(router, 20) == {A: 20}

    def test_without_any_link(self, router: Router) -> None:
        lead(router, {A: 1, B: 1})
        assert visit(router) == NoLink(A)

    def test_links_of_other_processes_count(self, router: Router) -> None:
        lead(router, {A: 1, B: 3})
        link(router, A)
        router.add_remote(FakeLink(B))
        assert shares(router, 40) == {A: 10, B: 30}


class TestRoutes:
    def test_a_pool_comes_and_goes_as_any_route(self, router: Router) -> None:
        mine = link(router, A)
        router.put_route("app.test", A)
        assert router.route(HOST) is mine
        lead(router, {A: 0, B: 1})
        other = link(router, B)
        assert router.route(HOST) is other
        router.put_route("app.test", A)
        assert router.route(HOST) is mine
        lead(router, {A: 0, B: 1})
        router.delete_route("app.test")
        assert router.route(HOST) is UNKNOWN_HOST
        for each in (mine, other):
            router.remove_link(each)
        assert not router._destinations

    def test_a_wildcard_may_lead_to_one(self, router: Router) -> None:
        lead(router, {A: 1, B: 1}, name="*.test")
        one, two = link(router, A), link(router, B)
        assert {router.route(b"any.test"), router.route(b"other.test:443")} == {one, two}

    def test_a_request_that_is_refused_goes_to_the_same_tunnel_then_to_others(
        self, router: Router
    ) -> None:
        lead(router, {A: 1, B: 0, C: 1})
        refused, same = link(router, A), link(router, A)
        standby, other = link(router, B), link(router, C)
        router.route(HOST)
        assert router.alternatives(HOST, refused) == [same, other, standby]
        router.put_route("app.test", A)
        remote = FakeLink(A)
        router.add_remote(remote)
        same.load = 9
        better = link(router, A)
        assert router.alternatives(HOST, refused) == [better, same, remote]


class TestCookies:
    def test_whoever_shows_it_comes_back(self, router: Router) -> None:
        lead(router, {A: 1, B: 1}, Sticky.COOKIE)
        links = [link(router, tunnel, load=3) for tunnel in (A, A, B, B)]
        pool = pool_of(router)
        for each in links:
            cookie = pool.cookie_for(each)
            assert {visit(router, cookie=cookie) for _ in range(5)} == {each}
        assert {visit(router) for _ in range(8)} == set(links), "others are dealt out"

    def test_to_the_least_loaded_link_of_its_connector(self, router: Router) -> None:
        lead(router, {A: 1}, Sticky.COOKIE)
        connector = uuid4()
        busy = link(router, connector_id=connector, load=9)
        idle = link(router, connector_id=connector, conn_index=1, load=8)
        link(router)
        assert visit(router, cookie=pool_of(router).cookie_for(busy)) is idle

    def test_to_its_tunnel_when_the_connector_is_gone(self, router: Router) -> None:
        lead(router, {A: 1, B: 100}, Sticky.COOKIE)
        gone, stays = link(router, A), link(router, A)
        other = link(router, B)
        pool = pool_of(router)
        cookie = pool.cookie_for(gone)
        router.remove_link(gone)
        assert {visit(router, cookie=cookie) for _ in range(5)} == {stays}
        assert pool.cookie_for(stays) != cookie, "it gets a new one"
        router.remove_link(stays)
        assert visit(router, cookie=cookie) is other

    def test_a_standby_keeps_the_visitors_it_has(self, router: Router) -> None:
        lead(router, {A: 1, B: 1}, Sticky.COOKIE)
        link(router, A)
        old = link(router, B)
        cookie = pool_of(router).cookie_for(old)
        lead(router, {A: 1, B: 0}, Sticky.COOKIE)
        assert visit(router, cookie=cookie) is old
        assert shares(router, 5) == {A: 5}

    def test_links_of_other_processes_are_found(self, router: Router) -> None:
        lead(router, {A: 1}, Sticky.COOKIE)
        link(router)
        remote = FakeLink()
        router.add_remote(remote)
        assert visit(router, cookie=pool_of(router).cookie_for(remote)) is remote

    @pytest.mark.parametrize(
        "cookie",
        [b"", b"0" * 32, b"\xff" * 32, b"a" * 5000, str(A).encode(), b"0" * 16],
    )
    def test_one_that_was_made_up_is_worth_nothing(self, router: Router, cookie: bytes) -> None:
        lead(router, {A: 1, B: 1}, Sticky.COOKIE)
        links = {link(router, A), link(router, B)}
        assert {visit(router, cookie=cookie) for _ in range(4)} == links

    def test_one_of_another_hostname_is_worth_nothing(self, router: Router) -> None:
        lead(router, {A: 1, B: 1}, Sticky.COOKIE)
        links = {link(router, A), link(router, B)}
        foreign = Pool("other.test", [], Sticky.COOKIE)
        for each in links:
            cookie = foreign.cookie_for(each)
            assert {visit(router, cookie=cookie) for _ in range(4)} == links

    @pytest.mark.parametrize(
        ("fields", "value"),
        [
            ([], None),
            ([b"a=b"], None),
            ([COOKIE + b"=x"], b"x"),
            ([b"a=b; " + COOKIE + b"=x;c=d"], b"x"),
            ([b"a=b", b" " + COOKIE + b"=x "], b"x"),
            ([COOKIE + b"="], b""),
            ([COOKIE], b""),
            ([b"x" + COOKIE + b"=x"], None),
            ([b"a=" + COOKIE], None),
            ([COOKIE + b"=x", COOKIE + b"=y"], None),
            ([COOKIE + b"=" + b"x" * MAX_COOKIE], None),
        ],
    )
    def test_it_is_found_among_others(self, fields: Sequence[bytes], value: bytes | None) -> None:
        assert cookie_in(fields) == value


class TestAddresses:
    def test_a_visitor_stays_and_all_are_dealt_out_by_weight(self, router: Router) -> None:
        lead(router, {A: 1, B: 3}, Sticky.ADDRESS)
        links = [link(router, tunnel) for tunnel in (A, A, B, B)]
        visitors = [b"192.0.%d.%d" % divmod(n, 256) for n in range(2000)]
        first = {each: visit(router, each) for each in visitors}
        assert {each: visit(router, each) for each in visitors} == first
        counts = Counter(each.tunnel_id for each in first.values())
        assert counts[A] in range(420, 581)
        assert set(first.values()) == set(links)

    def test_one_that_goes_moves_its_own_visitors_alone(self, router: Router) -> None:
        lead(router, {A: 1, B: 1, C: 1}, Sticky.ADDRESS)
        links = {tunnel: link(router, tunnel) for tunnel in (A, B, C)}
        visitors = [b"198.51.%d.%d" % divmod(n, 256) for n in range(500)]
        first = {each: visit(router, each) for each in visitors}
        router.remove_link(links[B])
        for each in visitors:
            assert (visit(router, each) is first[each]) == (first[each] is not links[B])
        router.add_link(B, links[B])
        assert {each: visit(router, each) for each in visitors} == first

    def test_every_process_finds_the_same_connector(self, router: Router) -> None:
        other = Router()
        for each in (router, other):
            lead(each, {A: 2, B: 1}, Sticky.ADDRESS)
        links = [FakeLink(tunnel) for tunnel in (A, A, B, B)]
        for number, each in enumerate(links):
            here, there = (router, other) if number % 2 else (other, router)
            here.add_link(each.tunnel_id, each)
            there.add_remote(each)
        for number in range(200):
            address = b"203.0.113.%d" % number
            assert visit(router, address) is visit(other, address)

    def test_of_an_ipv6_address_the_network_counts(self, router: Router) -> None:
        lead(router, {A: 1, B: 1, C: 1}, Sticky.ADDRESS)
        for tunnel in (A, B, C):
            link(router, tunnel)
        assert len({visit(router, b"2001:db8::%x" % n) for n in range(50)}) == 1
        assert len({visit(router, b"2001:db8:0:%x::1" % n) for n in range(50)}) == 3


class TestTrouble:
    def fail(self, router: Router, failing: Any, times: int = FAILURES_TO_SPARE) -> None:
        for _ in range(times):
            router.unreachable(HOST, failing, is_certain=True)

    def test_a_connector_out_of_order_is_spared_then_tried(
        self, router: Router, time: Time
    ) -> None:
        router.put_route("app.test", A)
        bad, good = link(router), link(router)
        self.fail(router, bad)
        assert {visit(router) for _ in range(10)} == {good}
        assert router.count_spared() == (1, 1)
        (known,) = router.health("app.test")
        assert (known.connector_id, known.is_spared) == (bad.connector_id, True)
        time.now += FIRST_SPELL_SECONDS
        assert [visit(router) for _ in range(5)] == [bad, good, good, good, good]
        pool_of(router).health.answered(bad.connector_id)
        assert {visit(router) for _ in range(10)} == {good, bad}
        assert router.count_spared() == (0, 1)

    def test_all_links_of_the_connector_are(self, router: Router) -> None:
        router.put_route("app.test", A)
        connector = uuid4()
        bad = [link(router, connector_id=connector, conn_index=n) for n in range(3)]
        good = link(router)
        self.fail(router, bad[0])
        assert {visit(router) for _ in range(10)} == {good}

    def test_if_all_are_nobody_is(self, router: Router) -> None:
        router.put_route("app.test", A)
        links = [link(router), link(router)]
        for each in links:
            self.fail(router, each)
        assert {visit(router) for _ in range(10)} == set(links)

    def test_the_only_one_never_is(self, router: Router) -> None:
        router.put_route("app.test", A)
        only = link(router)
        self.fail(router, only)
        assert router.route(HOST) is only
        assert router.health("app.test") == []

    def test_another_tunnel_is_a_choice_and_so_is_a_standby(self, router: Router) -> None:
        lead(router, {A: 1, B: 0})
        bad, standby = link(router, A), link(router, B)
        self.fail(router, bad)
        assert {visit(router) for _ in range(5)} == {standby}

    def test_other_hostnames_of_the_tunnel_are_not_concerned(self, router: Router) -> None:
        router.put_route("app.test", A)
        router.put_route("other.test", A)
        bad, good = link(router), link(router)
        self.fail(router, bad)
        assert {router.route(b"other.test") for _ in range(4)} == {bad, good}

    def test_names_below_a_wildcard_share_what_is_known(self, router: Router) -> None:
        router.put_route("*.test", A)
        bad, good = link(router), link(router)
        self.fail(router, bad)
        assert {pool_of(router).choose_for(b"", None) for _ in range(4)} == {good}
        outcome = router.route(b"other.test")
        assert isinstance(outcome, Pool)
        assert [each.connector_id for each in router.health("*.test")] == [bad.connector_id]

    @pytest.mark.parametrize("sticky", [Sticky.COOKIE, Sticky.ADDRESS])
    def test_visitors_that_stick_move_away_and_come_back(
        self, router: Router, time: Time, sticky: Sticky
    ) -> None:
        lead(router, {A: 1, B: 1}, sticky)
        links = [link(router, A), link(router, B)]
        bad = visit(router)
        (good,) = (each for each in links if each is not bad)
        cookie = pool_of(router).cookie_for(bad)
        self.fail(router, bad)
        assert {visit(router, cookie=cookie) for _ in range(5)} == {good}
        time.now += FIRST_SPELL_SECONDS
        assert [visit(router, cookie=cookie) for _ in range(3)] == [bad, good, good]
        pool_of(router).health.answered(bad.connector_id)
        assert visit(router, cookie=cookie) is bad

    def test_a_failure_of_nobody_in_particular_only_makes_it_look(self, router: Router) -> None:
        router.put_route("app.test", A)
        links = {link(router), link(router)}
        router.unreachable(HOST, next(iter(links)), is_certain=False)  # type: ignore[arg-type]
        assert isinstance(router.route(HOST), Pool)
        assert router.health("app.test") == []

    def test_when_it_is_over_the_hostname_costs_what_it_did(
        self, router: Router, time: Time
    ) -> None:
        router.put_route("app.test", A)
        bad, good = link(router), link(router)
        self.fail(router, bad)
        router.tick()
        assert isinstance(router.route(HOST), Pool)
        time.now += FIRST_SPELL_SECONDS + FORGET_SECONDS
        router.tick()
        assert {router.route(HOST) for _ in range(4)} == {bad, good}
        assert router.count_spared() == (0, 1)

    def test_a_pool_stays_one(self, router: Router, time: Time) -> None:
        lead(router, {A: 1, B: 1})
        bad, good = link(router, A), link(router, B)
        self.fail(router, bad)
        lead(router, {A: 7, B: 1})
        assert {visit(router) for _ in range(4)} == {good}, "what is known outlives a change"
        time.now += FIRST_SPELL_SECONDS + FORGET_SECONDS
        router.tick()
        assert shares(router, 8) == {A: 7, B: 1}

    def test_a_route_that_moves_is_judged_anew(self, router: Router) -> None:
        router.put_route("app.test", A)
        bad, good = link(router), link(router)
        self.fail(router, bad)
        router.put_route("app.test", A)
        assert {router.route(HOST) for _ in range(4)} == {bad, good}
        self.fail(router, bad)
        router.delete_route("app.test")
        assert router.count_spared()[0] == 0
        assert router.route(HOST) is UNKNOWN_HOST

    def test_hostnames_watched_are_bounded(
        self, router: Router, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(router_module, "MAX_WATCHED", 2)
        links = [link(router), link(router)]
        for number in range(4):
            router.put_route(f"{number}.test", A)
            router.unreachable(b"%d.test" % number, links[0], is_certain=True)
        watched = [isinstance(router.route(b"%d.test" % number), Pool) for number in range(4)]
        assert watched == [True, True, False, False]

    @pytest.mark.parametrize("authority", [b"", b"\xff", b"nobody.test", b"a" * 500])
    def test_of_a_host_that_is_not_there_nothing_is_noted(
        self, router: Router, authority: bytes
    ) -> None:
        router.unreachable(authority, FakeLink(), is_certain=True)
        assert router.count_spared() == (0, 0)


class TestDraining:
    def kept(self, router: Router, key: UUID, *, aside: bool = True) -> int:
        return router.set_aside(A, key, aside=aside)

    @pytest.fixture(autouse=True)
    def route(self, router: Router) -> None:
        router.put_route("app.test", A)

    def named(self, router: Router, connector: UUID, index: int = 0) -> FakeLink:
        details = LinkDetails(uuid4(), UNKNOWN_DETAILS.opened_at)
        return link(router, connector_id=connector, conn_index=index, details=details)

    def test_a_connector_gets_nothing_new_until_it_is_let_back_in(self, router: Router) -> None:
        connector = uuid4()
        drained = [self.named(router, connector, index) for index in range(2)]
        other = link(router)
        assert self.kept(router, connector) == 2
        assert {router.route(HOST) for _ in range(6)} == {other}
        assert set(router.aside(A)) == set(drained)
        assert not any(each.draining for each in drained), "they do not end"
        assert set(router.links_of(A)) == {*drained, other}
        assert router.serving(A) == (other,)
        assert self.kept(router, connector, aside=False) == 2
        assert {router.route(HOST) for _ in range(6)} == {*drained, other}

    def test_one_connection_alone(self, router: Router) -> None:
        connector = uuid4()
        drained, other = self.named(router, connector), self.named(router, connector, 1)
        assert self.kept(router, drained.details.connection_id) == 1
        assert {router.route(HOST) for _ in range(4)} == {other}

    def test_what_the_connector_connects_later_is_drained_too(self, router: Router) -> None:
        connector = uuid4()
        lost = self.named(router, connector)
        other = link(router)
        self.kept(router, connector)
        router.remove_link(lost)
        again = self.named(router, connector)
        assert {router.route(HOST) for _ in range(4)} == {other}
        assert router.aside(A) == (again,)

    def test_the_last_one_leaves_nothing(self, router: Router) -> None:
        only = link(router)
        self.kept(router, only.connector_id)
        assert router.route(HOST) == NoLink(A)

    def test_it_keeps_its_index_and_can_end(self, router: Router) -> None:
        told: list[object] = []
        router.on_link_removed = told.append
        drained = link(router)
        self.kept(router, drained.connector_id)
        with pytest.raises(router_module.DuplicateLink):
            router.add_link(A, FakeLink(connector_id=drained.connector_id))
        assert told == []
        router.drain(drained)
        assert told == [drained]
        assert drained.draining
        assert router.aside(A) == ()
        router.remove_link(drained)
        assert router.links_of(A) == ()

    def test_links_of_other_processes_too(self, router: Router) -> None:
        remote = FakeLink()
        router.add_remote(remote)
        self.kept(router, remote.connector_id)
        assert router.route(HOST) == NoLink(A)
        later = FakeLink(connector_id=remote.connector_id, conn_index=1)
        router.add_remote(later)
        assert router.route(HOST) == NoLink(A)
        router.remove_link(remote)
        assert router.aside(A) == (later,)
        self.kept(router, remote.connector_id, aside=False)
        assert router.route(HOST) is later

    def test_what_is_kept_aside_can_be_told(self, router: Router) -> None:
        drained = link(router)
        self.kept(router, drained.connector_id)
        assert list(router.kept_aside()) == [(A, drained.connector_id)]
        self.kept(router, drained.connector_id, aside=False)
        assert list(router.kept_aside()) == []

    def test_of_a_tunnel_that_is_not_there(self, router: Router) -> None:
        assert router.set_aside(B, uuid4(), aside=True) == 0
        assert list(router.kept_aside()) == []

    def test_what_is_kept_aside_is_bounded_and_the_gone_go_first(
        self, router: Router, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(router_module, "MAX_ASIDE", 2)
        stays = link(router)
        self.kept(router, stays.connector_id)
        for _ in range(3):
            gone = link(router)
            self.kept(router, gone.connector_id)
            router.remove_link(gone)
        more = link(router)
        self.kept(router, more.connector_id)
        assert set(router.aside(A)) == {stays, more}
        with pytest.raises(router_module.TooManyLinks, match="as many as it may"):
            self.kept(router, link(router).connector_id)
