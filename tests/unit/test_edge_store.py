"""The SQLite store: revisions, compare-and-set, tombstones, and files that are not as they should.

Every scenario is a coroutine run with asyncio.run.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from rig.stored import create_tunnel, delete_route, delete_tunnel, put_route

from underpass.edge.store import (
    ABSENT,
    Conflict,
    Missing,
    NameTaken,
    Snapshot,
    StoreCorrupt,
    StoreTooNew,
    StoreUnavailable,
    Tunnel,
    schema,
)
from underpass.edge.store.sqlite import SqliteStore

SECRET = bytes(range(32))


def tunnel(name: str = "web", **fields: object) -> Tunnel:
    made = Tunnel(uuid4(), "account", name, SECRET, datetime.now(timezone.utc))
    return replace(made, **fields)  # type: ignore[arg-type]


def with_store(path: Path, scenario: Callable[[SqliteStore], Awaitable[None]]) -> None:
    async def run() -> None:
        store = await SqliteStore.open(path)
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edge.db"


def test_a_new_store_is_empty_at_revision_zero(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        assert await store.snapshot() == Snapshot(0, (), ())

    with_store(path, scenario)


@pytest.mark.skipif(sys.platform == "win32", reason="mode bits are POSIX's")
def test_its_files_are_for_the_user_alone(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await create_tunnel(store, tunnel())
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file

    with_store(path, scenario)


def test_everything_is_there_after_reopening(path: Path) -> None:
    made = tunnel(quick=True)

    async def write(store: SqliteStore) -> None:
        assert await create_tunnel(store, made, ("a.localhost", "b.localhost")) == 1
        assert await put_route(store, "*.example.com", made.id, ABSENT) == 2

    async def read(store: SqliteStore) -> None:
        snapshot = await store.snapshot()
        assert snapshot.revision == 2
        assert snapshot.tunnels == (replace(made, revision=1),)
        assert [(route.hostname, route.tunnel_id, route.revision) for route in snapshot.routes] == [
            ("a.localhost", made.id, 1),
            ("b.localhost", made.id, 1),
            ("*.example.com", made.id, 2),
        ]

    with_store(path, write)
    with_store(path, read)


def test_every_change_has_the_next_revision_and_is_told_to_those_who_ask(path: Path) -> None:
    made = tunnel()

    async def scenario(store: SqliteStore) -> None:
        await create_tunnel(store, made, ("a.localhost",))
        await put_route(store, "b.localhost", made.id, ABSENT)
        await delete_route(store, "a.localhost", 1)
        changes = await store.changes_since(1)
        assert changes is not None
        assert changes.revision == 3
        assert changes.tunnels == ()
        told = [
            (route.hostname, route.revision, route.deleted_at is None) for route in changes.routes
        ]
        assert told == [("b.localhost", 2, True), ("a.localhost", 3, False)]
        nothing = await store.changes_since(3)
        assert nothing is not None
        assert (nothing.revision, nothing.tunnels, nothing.routes) == (3, (), ())

    with_store(path, scenario)


def test_deleting_a_tunnel_takes_its_routes_and_its_secret(path: Path) -> None:
    made, other = tunnel("one"), tunnel("two")

    async def scenario(store: SqliteStore) -> None:
        await create_tunnel(store, made, ("a.localhost", "b.localhost"))
        await create_tunnel(store, other, ("c.localhost",))
        assert await delete_tunnel(store, made.id, 1) == 3
        snapshot = await store.snapshot()
        assert [left.id for left in snapshot.tunnels] == [other.id]
        assert [route.hostname for route in snapshot.routes] == ["c.localhost"]
        changes = await store.changes_since(2)
        assert changes is not None
        (gone,) = changes.tunnels
        assert gone.id == made.id
        assert gone.deleted_at is not None
        assert gone.secret == b""
        assert {route.revision for route in changes.routes} == {3}
        assert all(route.deleted_at is not None for route in changes.routes)
        with pytest.raises(Conflict):
            await delete_tunnel(store, made.id, 3)

    with_store(path, scenario)


def test_a_change_decided_on_stale_knowledge_is_refused_and_changes_nothing(path: Path) -> None:
    made, other = tunnel("one"), tunnel("two")

    async def scenario(store: SqliteStore) -> None:
        await create_tunnel(store, made, ("a.localhost",))
        await create_tunnel(store, other)
        await put_route(store, "a.localhost", other.id, 1)
        before = await store.snapshot()
        refused: list[Awaitable[int]] = [
            create_tunnel(store, made),
            create_tunnel(store, tunnel("three"), ("new.localhost", "a.localhost")),
            put_route(store, "a.localhost", made.id, 1),
            put_route(store, "a.localhost", made.id, ABSENT),
            put_route(store, "new.localhost", made.id, 1),
            delete_route(store, "a.localhost", 1),
            delete_route(store, "new.localhost", ABSENT),
            delete_tunnel(store, made.id, 2),
            delete_tunnel(store, uuid4(), ABSENT),
        ]
        for change in refused:
            with pytest.raises(Conflict):
                await change
        assert await store.snapshot() == before

    with_store(path, scenario)


def test_a_conflict_says_what_was_found(path: Path) -> None:
    made = tunnel()

    async def scenario(store: SqliteStore) -> None:
        await create_tunnel(store, made, ("a.localhost",))
        with pytest.raises(
            Conflict, match=r"route a\.localhost is at revision 1, not 7"
        ) as refused:
            await delete_route(store, "a.localhost", 7)
        assert (refused.value.expected, refused.value.found) == (7, 1)

    with_store(path, scenario)


def test_names_are_unique_in_an_account_while_the_tunnel_lives(path: Path) -> None:
    made = tunnel("web")

    async def scenario(store: SqliteStore) -> None:
        revision = await create_tunnel(store, made)
        with pytest.raises(NameTaken, match="'web'"):
            await create_tunnel(store, tunnel("web"))
        await create_tunnel(store, tunnel("web", account_tag="another"))
        await delete_tunnel(store, made.id, revision)
        await create_tunnel(store, tunnel("web"))

    with_store(path, scenario)


def test_a_route_needs_a_living_tunnel(path: Path) -> None:
    made = tunnel()
    unknown = UUID(int=7)

    async def scenario(store: SqliteStore) -> None:
        with pytest.raises(Missing, match=str(unknown)):
            await put_route(store, "a.localhost", unknown, ABSENT)
        await create_tunnel(store, made)
        await delete_tunnel(store, made.id, 1)
        with pytest.raises(Missing):
            await put_route(store, "a.localhost", made.id, ABSENT)

    with_store(path, scenario)


def test_a_deleted_route_can_come_back(path: Path) -> None:
    made = tunnel()

    async def scenario(store: SqliteStore) -> None:
        await create_tunnel(store, made, ("a.localhost",))
        (first,) = (await store.snapshot()).routes
        await delete_route(store, "a.localhost", 1)
        await put_route(store, "a.localhost", made.id, ABSENT)
        (again,) = (await store.snapshot()).routes
        assert again.deleted_at is None
        assert again.revision == 3
        assert again.created_at >= first.created_at

    with_store(path, scenario)


def test_of_many_that_decide_on_the_same_knowledge_one_wins(path: Path) -> None:
    """Four connections to one file, as four processes would have."""

    async def scenario() -> None:
        stores = [await SqliteStore.open(path) for _ in range(4)]
        tunnels = [tunnel(f"t{number}") for number in range(4)]
        for made in tunnels:
            await create_tunnel(stores[0], made)
        expected = ABSENT
        for _ in range(5):
            outcomes = await asyncio.gather(
                *(
                    put_route(store, "a.localhost", made.id, expected)
                    for store, made in zip(stores, tunnels, strict=True)
                ),
                return_exceptions=True,
            )
            (won,) = [outcome for outcome in outcomes if isinstance(outcome, int)]
            lost = [outcome for outcome in outcomes if not isinstance(outcome, int)]
            assert all(isinstance(outcome, Conflict) for outcome in lost), lost
            (route,) = (await stores[0].snapshot()).routes
            assert route.revision == won
            assert route.tunnel_id == tunnels[outcomes.index(won)].id
            expected = won
        assert (await stores[3].snapshot()).revision == 4 + 5
        for store in stores:
            await store.close()

    asyncio.run(scenario())


def test_purging_forgets_old_tombstones_and_says_so_to_those_behind(path: Path) -> None:
    made, kept = tunnel("one"), tunnel("two")

    async def scenario(store: SqliteStore) -> None:
        await create_tunnel(store, made, ("a.localhost",))
        await create_tunnel(store, kept, ("b.localhost",))
        assert await delete_tunnel(store, made.id, 1) == 3
        before = await store.snapshot()
        now = datetime.now(timezone.utc)
        assert await store.purge(now - timedelta(days=1)) == 0
        assert await store.changes_since(1) is not None
        assert await store.purge(now + timedelta(days=1)) == 2
        assert await store.snapshot() == before
        assert await store.changes_since(2) is None, "what happened since cannot be told"
        assert await store.changes_since(3) is not None
        assert await store.purge(now + timedelta(days=1)) == 0

    with_store(path, scenario)


def test_a_store_that_is_closed_refuses(path: Path) -> None:
    async def scenario() -> None:
        store = await SqliteStore.open(path)
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.snapshot()

    asyncio.run(scenario())


def test_a_cancelled_caller_leaves_a_whole_change(path: Path) -> None:
    made = tunnel()

    async def scenario(store: SqliteStore) -> None:
        task = asyncio.create_task(create_tunnel(store, made, ("a.localhost",)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        snapshot = await store.snapshot()
        assert (len(snapshot.tunnels), len(snapshot.routes)) in ((0, 0), (1, 1))

    with_store(path, scenario)


def opening_fails(path: Path) -> str:
    """The text of the refusal to open, which leaves no thread behind."""

    async def scenario() -> str:
        with pytest.raises((StoreCorrupt, StoreTooNew, StoreUnavailable)) as refused:
            await SqliteStore.open(path)
        return f"{type(refused.value).__name__}: {refused.value}"

    return asyncio.run(scenario())


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"this is not a database, whatever it is called" * 100)
    text = opening_fails(path)
    assert text.startswith("StoreCorrupt:")
    assert str(path) in text
    assert "restore it from a backup" in text


def test_a_database_with_damaged_pages(path: Path) -> None:
    async def fill(store: SqliteStore) -> None:
        for number in range(200):
            await create_tunnel(store, tunnel(f"tunnel {number}"))

    with_store(path, fill)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    assert opening_fails(path).startswith("StoreCorrupt:")


def test_a_database_of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmark (url TEXT)")
    connection.close()
    before = path.read_bytes()
    assert "of another program" in opening_fails(path)
    assert path.read_bytes() == before


def test_a_store_from_a_later_version(path: Path) -> None:
    async def nothing(store: SqliteStore) -> None:
        await store.snapshot()

    with_store(path, nothing)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    text = opening_fails(path)
    assert text.startswith("StoreTooNew:")
    assert "schema 99" in text


def test_a_directory_in_its_place(path: Path) -> None:
    path.mkdir()
    assert opening_fails(path).startswith("StoreUnavailable:")


def test_a_locked_store_is_unavailable_not_corrupt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("underpass.edge.store.sqlite.BUSY_TIMEOUT_SECONDS", 0.0)

    async def scenario(store: SqliteStore) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await create_tunnel(store, tunnel())
        assert (await store.snapshot()).revision == 0, "reading goes on"
        other.execute("ROLLBACK")
        other.close()
        assert await create_tunnel(store, tunnel()) == 1

    with_store(path, scenario)


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(store: SqliteStore) -> None:
        assert (await store.snapshot()).revision == 0

    with_store(path, nothing)
    # The first one again, as if it were the second: its table exists.
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS * 2)
    monkeypatch.setattr("underpass.edge.store.sqlite.MIGRATIONS", schema.MIGRATIONS)
    assert "already exists" in opening_fails(path)
    monkeypatch.undo()
    with_store(path, nothing)


def test_migrations_are_numbered_without_gaps() -> None:
    numbers = [int(name.split("_")[0]) for name in schema.MIGRATIONS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_script_must_end_with_a_whole_statement() -> None:
    assert list(schema._statements("SELECT 1;\n-- remark\nSELECT ';'\n;\n")) == [
        "SELECT 1;\n",
        "-- remark\nSELECT ';'\n;\n",
    ]
    with pytest.raises(ValueError, match="within a statement"):
        list(schema._statements("SELECT 1;\nSELECT 2\n"))


def test_secrets_do_not_print() -> None:
    assert repr(SECRET) not in repr(tunnel())
    assert "secret" not in repr(tunnel())
