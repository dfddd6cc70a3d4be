"""The registry: credentials, quick tunnels, and changes that arrive through the store."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from rig.stored import create_tunnel, delete_tunnel, put_route

from underpass.edge import registry as registry_module
from underpass.edge import words
from underpass.edge.errors import QuickTunnelLimit, StoreError, Unauthorized
from underpass.edge.registry import (
    QUICK_TUNNEL_ABANDONED_SECONDS,
    QUICK_TUNNEL_UNUSED_SECONDS,
    Registry,
)
from underpass.edge.router import UNKNOWN_HOST, NoLink, Router
from underpass.edge.store import StoreUnavailable, Tunnel
from underpass.edge.store.sqlite import SqliteStore

SECRET = bytes(range(32))
LISTS = (words.MOODS, words.ANIMALS, words.MATERIALS, words.THINGS)


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(eq=False)
class FakeLink:
    tunnel_id: UUID
    conn_index: int = 0
    connector_id: UUID = field(default_factory=uuid4)
    load: int = 0
    draining: bool = False


@dataclass
class Edge:
    """A registry with everything around it that a test looks at."""

    store: SqliteStore
    router: Router
    registry: Registry
    clock: Clock
    deleted: list[UUID]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Edge], Awaitable[None]]], None]:
    """Runs a scenario with an edge on a store that lasts as long as the test."""

    def run_scenario(scenario: Callable[[Edge], Awaitable[None]]) -> None:
        async def main() -> None:
            store = await SqliteStore.open(tmp_path / "edge.db")
            router, clock, deleted = Router(), Clock(), []  # type: ignore[var-annotated]
            registry = await Registry.load(
                store, router, on_tunnel_deleted=deleted.append, clock=clock
            )
            try:
                await scenario(Edge(store, router, registry, clock, deleted))
            finally:
                await store.close()

        asyncio.run(main())

    return run_scenario


Run = Callable[[Callable[[Edge], Awaitable[None]]], None]


def tunnel(name: str = "web") -> Tunnel:
    return Tunnel(uuid4(), "account", name, SECRET, datetime.now(timezone.utc))


class TestCredentials:
    def test_the_right_ones_give_the_tunnel(self, run: Run) -> None:
        made = tunnel()

        async def scenario(edge: Edge) -> None:
            await edge.registry.create_tunnel(made)
            found = edge.registry.authenticate("account", SECRET, made.id)
            assert found.id == made.id
            assert found == edge.registry.tunnel(made.id)

        run(scenario)

    @pytest.mark.parametrize(
        ("account_tag", "secret", "right_tunnel"),
        [
            ("account", SECRET, False),
            ("Account", SECRET, True),
            ("", SECRET, True),
            ("account", SECRET[:-1], True),
            ("account", SECRET + b"\0", True),
            ("account", b"", True),
            ("account\ud800", SECRET, True),
            # The same bytes in a row, cut elsewhere.
            ("account" + SECRET[:1].decode(), SECRET[1:], True),
        ],
    )
    def test_anything_else_is_refused_with_one_text(
        self, run: Run, account_tag: str, secret: bytes, right_tunnel: bool
    ) -> None:
        made = tunnel()

        async def scenario(edge: Edge) -> None:
            await edge.registry.create_tunnel(made)
            tunnel_id = made.id if right_tunnel else uuid4()
            with pytest.raises(Unauthorized, match=r"^Unauthorized: no tunnel has these cred"):
                edge.registry.authenticate(account_tag, secret, tunnel_id)

        run(scenario)

    def test_known_and_unknown_tunnels_take_the_same_comparison(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = tunnel()
        compared: list[tuple[int, int]] = []

        def compare(left: bytes, right: bytes) -> bool:
            compared.append((len(left), len(right)))
            return bytes(left) == bytes(right)

        async def scenario(edge: Edge) -> None:
            await edge.registry.create_tunnel(made)
            monkeypatch.setattr(hmac, "compare_digest", compare)
            for secret, tunnel_id in ((b"short", made.id), (SECRET * 9, uuid4())):
                with pytest.raises(Unauthorized):
                    edge.registry.authenticate("account", secret, tunnel_id)
            assert compared == [(32, 32), (32, 32)]

        run(scenario)

    def test_a_deleted_tunnel_is_unknown(self, run: Run) -> None:
        made = tunnel()

        async def scenario(edge: Edge) -> None:
            await edge.registry.create_tunnel(made, ("a.localhost",))
            await edge.registry.delete_tunnel(made.id)
            for secret in (SECRET, b""):
                with pytest.raises(Unauthorized):
                    edge.registry.authenticate("account", secret, made.id)
            assert edge.deleted == [made.id]
            assert edge.router.route(b"a.localhost") is UNKNOWN_HOST
            await edge.registry.delete_tunnel(made.id)
            assert edge.deleted == [made.id]

        run(scenario)


class TestQuickTunnels:
    def test_one_has_credentials_a_memorable_name_and_a_route(self, run: Run) -> None:
        async def scenario(edge: Edge) -> None:
            created = await edge.registry.create_quick_tunnel("localhost")
            credentials = created.credentials
            assert re.fullmatch(r"[a-z]+-[a-z]+-[a-z]+-[a-z]+", created.name)
            assert created.hostname == f"{created.name}.localhost"
            assert len(credentials.tunnel_secret) == 32
            served = edge.registry.authenticate(
                credentials.account_tag, credentials.tunnel_secret, credentials.tunnel_id
            )
            assert served.quick
            assert edge.router.route(created.hostname.encode()) == NoLink(credentials.tunnel_id)
            assert edge.router.knows(created.hostname)

        run(scenario)

    def test_it_survives_a_restart(self, run: Run) -> None:
        made: list[tuple[str, UUID]] = []

        async def create(edge: Edge) -> None:
            created = await edge.registry.create_quick_tunnel("localhost")
            made.append((created.hostname, created.credentials.tunnel_id))

        async def find(edge: Edge) -> None:
            ((hostname, tunnel_id),) = made
            assert edge.router.route(hostname.encode()) == NoLink(tunnel_id)

        run(create)
        run(find)

    def test_taken_names_are_not_given_again(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = iter(["a", "b", "c", "d"] * 2 + ["a", "b", "c", "e"])
        monkeypatch.setattr(registry_module.secrets, "choice", lambda words: next(chosen))

        async def scenario(edge: Edge) -> None:
            names = [(await edge.registry.create_quick_tunnel("x")).name for _ in range(2)]
            assert names == ["a-b-c-d", "a-b-c-e"]

        run(scenario)

    def test_no_free_name_is_told(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry_module.secrets, "choice", lambda words: words[0])

        async def scenario(edge: Edge) -> None:
            await edge.registry.create_quick_tunnel("localhost")
            with pytest.raises(QuickTunnelLimit, match="no free name below localhost"):
                await edge.registry.create_quick_tunnel("localhost")
            await edge.registry.create_quick_tunnel("example.com")

        run(scenario)

    def test_their_number_is_bounded_even_when_asked_for_at_once(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registry_module, "MAX_QUICK_TUNNELS", 3)

        async def scenario(edge: Edge) -> None:
            outcomes = await asyncio.gather(
                *(edge.registry.create_quick_tunnel("localhost") for _ in range(5)),
                return_exceptions=True,
            )
            refused = [outcome for outcome in outcomes if isinstance(outcome, QuickTunnelLimit)]
            assert len(refused) == 2
            with pytest.raises(QuickTunnelLimit, match="3 quick tunnels, as many as it may"):
                await edge.registry.create_quick_tunnel("localhost")
            edge.clock.seconds += QUICK_TUNNEL_UNUSED_SECONDS
            assert len(await edge.registry.remove_unused_quick_tunnels()) == 3
            await edge.registry.create_quick_tunnel("localhost")
            await edge.registry.create_tunnel(tunnel())

        run(scenario)

    def test_one_that_is_never_linked_is_removed_soon(self, run: Run) -> None:
        async def scenario(edge: Edge) -> None:
            created = await edge.registry.create_quick_tunnel("localhost")
            tunnel_id = created.credentials.tunnel_id
            edge.clock.seconds += QUICK_TUNNEL_UNUSED_SECONDS - 1
            assert await edge.registry.remove_unused_quick_tunnels() == ()
            edge.clock.seconds += 1
            assert await edge.registry.remove_unused_quick_tunnels() == (tunnel_id,)
            assert edge.registry.tunnel(tunnel_id) is None
            assert edge.router.route(created.hostname.encode()) is UNKNOWN_HOST

        run(scenario)

    def test_one_that_was_linked_is_kept_for_long(self, run: Run) -> None:
        async def scenario(edge: Edge) -> None:
            tunnel_id = (await edge.registry.create_quick_tunnel("localhost")).credentials.tunnel_id
            link = FakeLink(tunnel_id)
            edge.router.add_link(tunnel_id, link)
            edge.clock.seconds += 10 * QUICK_TUNNEL_ABANDONED_SECONDS
            assert await edge.registry.remove_unused_quick_tunnels() == ()
            edge.router.remove_link(link)
            edge.clock.seconds += QUICK_TUNNEL_ABANDONED_SECONDS - 1
            assert await edge.registry.remove_unused_quick_tunnels() == ()
            edge.clock.seconds += 1
            assert await edge.registry.remove_unused_quick_tunnels() == (tunnel_id,)

        run(scenario)

    def test_after_a_restart_nobody_knows_so_it_is_kept_for_long(self, run: Run) -> None:
        async def create(edge: Edge) -> None:
            await edge.registry.create_quick_tunnel("localhost")

        async def wait(edge: Edge) -> None:
            edge.clock.seconds += QUICK_TUNNEL_ABANDONED_SECONDS - 1
            assert await edge.registry.remove_unused_quick_tunnels() == ()
            edge.clock.seconds += 1
            assert len(await edge.registry.remove_unused_quick_tunnels()) == 1

        run(create)
        run(wait)

    def test_other_tunnels_are_never_removed(self, run: Run) -> None:
        async def scenario(edge: Edge) -> None:
            await edge.registry.create_tunnel(tunnel())
            edge.clock.seconds += 100 * QUICK_TUNNEL_ABANDONED_SECONDS
            assert await edge.registry.remove_unused_quick_tunnels() == ()

        run(scenario)


class TestChangesMadeElsewhere:
    def test_they_are_taken_over(self, run: Run) -> None:
        made, moved_to = tunnel("one"), tunnel("two")

        async def scenario(edge: Edge) -> None:
            await create_tunnel(edge.store, made, ("a.localhost", "b.localhost"))
            await create_tunnel(edge.store, moved_to)
            assert edge.router.route(b"a.localhost") is UNKNOWN_HOST
            await edge.registry.refresh()
            assert edge.registry.revision == 2
            assert edge.router.route(b"a.localhost") == NoLink(made.id)
            await put_route(edge.store, "b.localhost", moved_to.id, 1)
            await delete_tunnel(edge.store, made.id, 1)
            await edge.registry.refresh()
            assert edge.router.route(b"a.localhost") is UNKNOWN_HOST
            assert edge.router.route(b"b.localhost") == NoLink(moved_to.id)
            assert edge.deleted == [made.id]

        run(scenario)

    def test_after_too_long_a_snapshot_says_the_same(self, run: Run) -> None:
        made, kept = tunnel("one"), tunnel("two")

        async def scenario(edge: Edge) -> None:
            await edge.registry.create_tunnel(made, ("a.localhost", "b.localhost"))
            await create_tunnel(edge.store, kept, ("c.localhost",))
            await put_route(edge.store, "b.localhost", kept.id, 1)
            await delete_tunnel(edge.store, made.id, 1)
            assert await edge.store.purge(datetime(9999, 1, 1, tzinfo=timezone.utc)) == 2
            assert await edge.store.changes_since(1) is None
            await edge.registry.refresh()
            assert edge.router.route(b"a.localhost") is UNKNOWN_HOST
            assert edge.router.route(b"b.localhost") == NoLink(kept.id)
            assert edge.router.route(b"c.localhost") == NoLink(kept.id)
            assert edge.deleted == [made.id]
            assert edge.registry.tunnel(made.id) is None

        run(scenario)

    def test_a_route_is_moved_with_the_revision_that_is_served(self, run: Run) -> None:
        one, two = tunnel("one"), tunnel("two")

        async def scenario(edge: Edge) -> None:
            await edge.registry.create_tunnel(one)
            await edge.registry.create_tunnel(two)
            await edge.registry.put_route("*.example.com", one.id)
            assert edge.router.route(b"a.example.com") == NoLink(one.id)
            await edge.registry.put_route("*.example.com", two.id)
            assert edge.router.route(b"a.example.com") == NoLink(two.id)

        run(scenario)

    def test_serving_goes_on_while_the_store_is_gone(self, run: Run) -> None:
        made = tunnel()

        async def scenario(edge: Edge) -> None:
            await edge.registry.create_tunnel(made, ("a.localhost",))
            await edge.store.close()
            with pytest.raises(StoreError):
                await edge.registry.create_quick_tunnel("localhost")
            with pytest.raises(StoreError):
                await edge.registry.refresh()
            assert edge.registry.authenticate("account", SECRET, made.id).id == made.id
            assert edge.router.route(b"a.localhost") == NoLink(made.id)

        run(scenario)


def test_housekeeping_removes_and_purges_and_outlives_a_store_that_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(edge: Edge) -> None:
        rounds = asyncio.Semaphore(0)
        done = asyncio.Queue[str]()
        purge = edge.store.purge

        async def sleep(seconds: float) -> None:
            await rounds.acquire()

        async def watched_purge(before: datetime) -> int:
            if edge.clock.seconds < 0:
                await done.put("failed")
                raise StoreUnavailable("the disk is full")
            removed = await purge(before)
            await done.put("purged")
            return removed

        monkeypatch.setattr(registry_module.asyncio, "sleep", sleep)
        monkeypatch.setattr(edge.store, "purge", watched_purge)
        created = await edge.registry.create_quick_tunnel("localhost")
        keeping = asyncio.create_task(edge.registry.keep_house())
        seconds, edge.clock.seconds = edge.clock.seconds, -1.0
        rounds.release()
        assert await done.get() == "failed"
        edge.clock.seconds = seconds + QUICK_TUNNEL_UNUSED_SECONDS
        rounds.release()
        assert await done.get() == "purged"
        assert edge.registry.tunnel(created.credentials.tunnel_id) is None
        assert "the disk is full" in caplog.text
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping

    run(scenario)


def test_words_are_distinct_plain_and_many() -> None:
    combinations = 1
    for words_of_a_kind in LISTS:
        assert len(set(words_of_a_kind)) == len(words_of_a_kind)
        assert all(re.fullmatch(r"[a-z]{2,8}", word) for word in words_of_a_kind)
        combinations *= len(words_of_a_kind)
    assert combinations >= 2**24
    longest = sum(max(map(len, words_of_a_kind)) for words_of_a_kind in LISTS) + 3
    assert longest <= 63, "a name is one label"
