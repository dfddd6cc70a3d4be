"""The router: which link a request goes down, and what is said when there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest

from underpass.edge import router as router_module
from underpass.edge.hostnames import MAX_AUTHORITY_LENGTH
from underpass.edge.router import (
    MANAGEMENT_HOSTS,
    MAX_LINKS_PER_TUNNEL,
    UNKNOWN_HOST,
    DuplicateLink,
    NoLink,
    Router,
    TooManyLinks,
)

TUNNEL = UUID(int=1)
OTHER = UUID(int=2)


@dataclass(eq=False)
class FakeLink:
    tunnel_id: UUID = TUNNEL
    conn_index: int = 0
    connector_id: UUID = field(default_factory=uuid4)
    load: int = 0
    draining: bool = False


@pytest.fixture
def router() -> Router:
    made = Router()
    made.put_route("app.localhost", TUNNEL)
    return made


def linked(router: Router, **fields: object) -> FakeLink:
    link = FakeLink(**fields)  # type: ignore[arg-type]
    router.add_link(link.tunnel_id, link)
    return link


class TestHosts:
    @pytest.mark.parametrize(
        "authority",
        [
            b"app.localhost",
            b"App.LocalHost",
            b"app.localhost:8443",
            b"app.localhost.",
            b"APP.localhost.:80",
            b"app.localhost:",
        ],
    )
    def test_every_spelling_of_a_host_leads_to_its_tunnel(
        self, router: Router, authority: bytes
    ) -> None:
        link = linked(router)
        assert router.route(authority) is link
        assert router.route(authority) is link, "and again from memory"

    @pytest.mark.parametrize(
        "authority",
        [
            b"",
            b"localhost",
            b"other.localhost",
            b"xapp.localhost",
            b"sub.app.localhost",
            b"app.localhost:x",
            b"app.localhost@evil",
            b"app.localhost\x00",
            b"\xff\xfe",
            b"[::1]:80",
            b"*.localhost",
            b"a" * (MAX_AUTHORITY_LENGTH + 1),
        ],
    )
    def test_other_hosts_are_unknown(self, router: Router, authority: bytes) -> None:
        linked(router)
        assert router.route(authority) is UNKNOWN_HOST

    def test_a_route_without_a_link(self, router: Router) -> None:
        assert router.route(b"app.localhost") == NoLink(TUNNEL)

    def test_a_link_without_a_route(self) -> None:
        router = Router()
        linked(router)
        assert router.route(b"app.localhost") is UNKNOWN_HOST

    def test_a_route_that_is_moved_or_deleted_is_not_remembered(self, router: Router) -> None:
        first, second = linked(router), linked(router, tunnel_id=OTHER)
        assert router.route(b"app.localhost") is first
        router.put_route("app.localhost", OTHER)
        assert router.route(b"app.localhost") is second
        router.delete_route("app.localhost")
        assert router.route(b"app.localhost") is UNKNOWN_HOST
        router.delete_route("app.localhost")

    def test_a_wildcard_matches_any_depth_below_but_not_itself(self) -> None:
        router = Router()
        router.put_route("*.example.com", TUNNEL)
        link = linked(router)
        assert router.route(b"a.example.com") is link
        assert router.route(b"a.b.c.example.com:443") is link
        assert router.route(b"example.com") is UNKNOWN_HOST
        assert router.route(b"aexample.com") is UNKNOWN_HOST

    def test_the_more_specific_route_wins_whatever_the_order(self) -> None:
        router = Router()
        wide, narrow, exact = (UUID(int=number) for number in (10, 11, 12))
        router.put_route("a.b.example.com", exact)
        router.put_route("*.example.com", wide)
        router.put_route("*.b.example.com", narrow)
        assert router.route(b"a.b.example.com") == NoLink(exact)
        assert router.route(b"x.b.example.com") == NoLink(narrow)
        assert router.route(b"b.example.com") == NoLink(wide)
        router.delete_route("*.b.example.com")
        assert router.route(b"x.b.example.com") == NoLink(wide)

    @pytest.mark.parametrize("host", sorted(MANAGEMENT_HOSTS))
    def test_management_hosts_never_reach_a_connector(self, host: str) -> None:
        router = Router()
        router.put_route(host, TUNNEL)
        router.put_route("*.argotunnel.com", TUNNEL)
        linked(router)
        assert router.route(host.encode()) is UNKNOWN_HOST
        assert router.route(host.upper().encode() + b".:443") is UNKNOWN_HOST
        assert not router.knows(host)

    def test_nor_does_a_hostname_that_is_reserved(self) -> None:
        router = Router()
        router.put_route("*.example.com", TUNNEL)
        linked(router)
        assert router.route(b"tail.example.com") is not UNKNOWN_HOST
        router.reserve("tail.example.com")
        assert router.route(b"tail.example.com") is UNKNOWN_HOST
        assert router.route(b"TAIL.example.com.:443") is UNKNOWN_HOST
        router.put_route("tail.example.com", TUNNEL)
        assert router.route(b"tail.example.com") is UNKNOWN_HOST
        assert router.route(b"other.example.com") is not UNKNOWN_HOST

    def test_knows(self, router: Router) -> None:
        router.put_route("*.example.com", OTHER)
        assert router.knows("APP.localhost")
        assert router.knows("any.example.com")
        assert not router.knows("other.localhost")
        assert not router.knows("")

    def test_spellings_remembered_are_bounded(
        self, router: Router, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(router_module, "MAX_CACHED_AUTHORITIES", 3)
        link = linked(router)
        for port in range(10):
            assert router.route(b"app.localhost:%d" % port) is link
            assert len(router._cache) <= 3

    def test_strangers_names_are_not_remembered(self, router: Router) -> None:
        for number in range(10):
            router.route(b"x%d.localhost" % number)
        assert not router._cache


class TestLinks:
    def test_the_least_loaded_link_is_taken(self, router: Router) -> None:
        links = [linked(router, load=load) for load in (3, 1, 2)]
        assert {router.route(b"app.localhost") for _ in range(5)} == {links[1]}
        links[1].load = 4
        assert router.route(b"app.localhost") is links[2]

    @pytest.mark.parametrize("load", [0, 7])
    def test_equally_loaded_links_take_turns(self, router: Router, load: int) -> None:
        links = [linked(router, load=load) for _ in range(4)]
        taken = [router.route(b"app.localhost") for _ in range(8)]
        assert taken == links * 2

    def test_the_least_loaded_take_turns_past_a_busy_one(self, router: Router) -> None:
        idle, busy, idle_too = (linked(router, load=load) for load in (1, 5, 1))
        taken = [router.route(b"app.localhost") for _ in range(6)]
        assert taken == [idle, idle_too] * 3
        assert busy not in taken

    def test_a_draining_link_gets_nothing_new(self, router: Router) -> None:
        first, second = linked(router), linked(router)
        router.drain(first)
        assert first.draining
        assert {router.route(b"app.localhost") for _ in range(4)} == {second}
        router.drain(second)
        assert router.route(b"app.localhost") == NoLink(TUNNEL)
        assert set(router.links_of(TUNNEL)) == {first, second}
        router.drain(second)
        assert len(router.links_of(TUNNEL)) == 2

    def test_a_removed_link_is_forgotten(self, router: Router) -> None:
        first, second = linked(router), linked(router)
        router.route(b"app.localhost")
        router.remove_link(first)
        assert {router.route(b"app.localhost") for _ in range(3)} == {second}
        router.drain(second)
        router.remove_link(second)
        router.remove_link(second)
        assert router.links_of(TUNNEL) == ()
        assert router.route(b"app.localhost") == NoLink(TUNNEL)

    def test_removing_or_draining_a_stranger_changes_nothing(self, router: Router) -> None:
        link = linked(router)
        for stranger in (FakeLink(), FakeLink(tunnel_id=OTHER)):
            router.remove_link(stranger)
            router.drain(stranger)
        assert router.route(b"app.localhost") is link

    def test_the_same_connection_twice_is_refused(self, router: Router) -> None:
        link = linked(router, conn_index=2)
        double = FakeLink(conn_index=2, connector_id=link.connector_id)
        with pytest.raises(DuplicateLink) as refused:
            router.add_link(TUNNEL, double)
        assert refused.value.holder is link
        # Forgetting the refused one must not take the index from its holder.
        router.remove_link(double)
        assert router.route(b"app.localhost") is link
        with pytest.raises(DuplicateLink):
            router.add_link(TUNNEL, double)

    def test_what_makes_a_connection_the_same(self, router: Router) -> None:
        link = linked(router)
        linked(router, connector_id=link.connector_id, conn_index=1)
        linked(router, conn_index=0)
        linked(router, tunnel_id=OTHER, connector_id=link.connector_id)
        assert len(router.links_of(TUNNEL)) == 3

    @pytest.mark.parametrize("gone", ["drain", "remove_link"])
    def test_an_index_given_up_can_be_taken(self, router: Router, gone: str) -> None:
        link = linked(router)
        getattr(router, gone)(link)
        again = linked(router, connector_id=link.connector_id)
        assert router.route(b"app.localhost") is again
        router.remove_link(link)
        assert router.route(b"app.localhost") is again

    def test_links_of_a_tunnel_are_bounded_draining_ones_included(self, router: Router) -> None:
        links = [linked(router) for _ in range(MAX_LINKS_PER_TUNNEL)]
        router.drain(links[0])
        with pytest.raises(TooManyLinks, match=str(TUNNEL)):
            linked(router)
        router.remove_link(links[0])
        linked(router)

    def test_nothing_is_kept_for_a_tunnel_without_routes_and_links(self, router: Router) -> None:
        link = linked(router)
        router.delete_route("app.localhost")
        router.drain(link)
        router.remove_link(link)
        other = linked(router, tunnel_id=OTHER)
        router.remove_link(other)
        assert not router._destinations


class TestLinksOfOtherProcesses:
    def test_they_serve_while_there_is_none_here(self, router: Router) -> None:
        remote = FakeLink(conn_index=1)
        router.add_remote(remote)
        assert router.route(b"app.localhost") is remote
        own = linked(router)
        assert {router.route(b"app.localhost") for _ in range(4)} == {own}
        router.drain(own)
        assert router.route(b"app.localhost") is remote
        router.remove_link(own)
        router.remove_link(remote)
        assert router.route(b"app.localhost") == NoLink(TUNNEL)

    def test_they_take_turns(self, router: Router) -> None:
        remotes = [FakeLink(conn_index=index) for index in range(3)]
        for remote in remotes:
            router.add_remote(remote)
        taken = [router.route(b"app.localhost") for _ in range(6)]
        assert {id(link) for link in taken[:3]} == {id(link) for link in remotes}
        assert taken[3:] == taken[:3]

    def test_they_hold_their_index(self, router: Router) -> None:
        remote = FakeLink()
        router.add_remote(remote)
        with pytest.raises(DuplicateLink) as caught:
            router.add_link(TUNNEL, FakeLink(connector_id=remote.connector_id))
        assert caught.value.holder is remote
        router.remove_link(remote)
        linked(router, connector_id=remote.connector_id)

    def test_one_that_came_too_late_does_not_free_the_index(self, router: Router) -> None:
        own = linked(router)
        remote = FakeLink(connector_id=own.connector_id)
        router.add_remote(remote)
        router.remove_link(remote)
        with pytest.raises(DuplicateLink):
            router.add_link(TUNNEL, FakeLink(connector_id=own.connector_id))

    def test_they_count(self, router: Router) -> None:
        for index in range(MAX_LINKS_PER_TUNNEL):
            router.add_remote(FakeLink(conn_index=index))
        with pytest.raises(TooManyLinks):
            linked(router, conn_index=MAX_LINKS_PER_TUNNEL)

    def test_links_of_here_are_told_and_theirs_are_not(self) -> None:
        told: list[tuple[str, object]] = []
        router = Router(
            lambda link: told.append(("came", link)), lambda link: told.append(("went", link))
        )
        remote = FakeLink(conn_index=9)
        router.add_remote(remote)
        router.remove_link(remote)
        drained, lost = linked(router), linked(router)
        router.drain(drained)
        router.remove_link(drained)
        router.remove_link(lost)
        assert told == [
            ("came", drained),
            ("came", lost),
            ("went", drained),
            ("went", lost),
        ]


class TestLinksBeyond:
    """Of the process that is followed, or that follows."""

    def test_they_serve_while_there_are_no_others(self, router: Router) -> None:
        beyond = FakeLink()
        router.add_beyond(beyond)
        assert router.route(b"app.localhost") is beyond
        elsewhere = FakeLink(conn_index=1)
        router.add_remote(elsewhere)
        assert router.route(b"app.localhost") is elsewhere
        own = linked(router)
        assert router.route(b"app.localhost") is own
        for link in (own, elsewhere, beyond):
            router.remove_link(link)
        assert router.route(b"app.localhost") == NoLink(TUNNEL)

    def test_they_hold_no_index_and_take_no_room(
        self, router: Router, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(router_module, "MAX_LINKS_PER_TUNNEL", 1)
        connector = uuid4()
        beyond = FakeLink(connector_id=connector)
        router.add_beyond(beyond)
        own = linked(router, connector_id=connector)
        router.remove_link(beyond)
        assert router.own_links_of(TUNNEL) == (own,)
        with pytest.raises(DuplicateLink):
            linked(router, connector_id=connector)

    def test_they_are_counted(self, router: Router) -> None:
        beyond, own = FakeLink(), linked(router)
        router.add_beyond(beyond)
        assert router.count_links() == (2, 1)
        assert router.links_of(TUNNEL) == (own, beyond)
        assert router.links_beyond(TUNNEL) == (beyond,)
        assert router.own_links() == (own,)
        assert router.tunnels_with_links() == {TUNNEL}
        assert router.links_beyond(OTHER) == router.own_links_of(OTHER) == ()
