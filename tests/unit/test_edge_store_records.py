"""The store beyond tunnels: several records in one change, what hangs on what, the audit log."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from rig.stored import ENTRY, create_tunnel, now

from underpass.edge.store import (
    Account,
    ApiToken,
    AuditEntry,
    Configuration,
    Conflict,
    Missing,
    NameTaken,
    NetworkRoute,
    Record,
    Route,
    Sticky,
    StoreCorrupt,
    StoreError,
    Target,
    Tunnel,
    VirtualNetwork,
    schema,
)
from underpass.edge.store.sqlite import AUDIT_DAYS, SqliteStore
from underpass.edge.store.tables import TABLES, table_of

ACCOUNT = Account("a" * 32, "b" * 32, "mine", "example.test", now())
TOKEN = ApiToken(
    "0123456789ab",
    ACCOUNT.id,
    "token",
    ("tunnels", "routes"),
    ("*.a.test", 'ü, "b"'),
    b"d" * 32,
    now(),
    expires_at=now() + timedelta(days=1),
    previous_digest=b"p" * 32,
    previous_expires_at=now(),
)
TUNNEL = Tunnel(uuid4(), ACCOUNT.id, "web", bytes(32), now())
ROUTE = Route("app.test", TUNNEL.id, now(), pool="pool")
NETWORK = VirtualNetwork(uuid4(), ACCOUNT.id, "default", "comment", True, now())
NETWORK_ROUTE = NetworkRoute(
    uuid4(), ACCOUNT.id, NETWORK.id, "10.0.0.0/8", TUNNEL.id, "comment", now()
)
CONFIGURATION = Configuration(TUNNEL.id, 7, b'{"a": 1}', now())

ALL: tuple[Record, ...] = (
    ACCOUNT,
    TOKEN,
    TUNNEL,
    ROUTE,
    NETWORK,
    NETWORK_ROUTE,
    CONFIGURATION,
)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[SqliteStore], Awaitable[None]]], None]:
    def run_scenario(scenario: Callable[[SqliteStore], Awaitable[None]]) -> None:
        async def main() -> None:
            store = await SqliteStore.open(tmp_path / "edge.db")
            try:
                await scenario(store)
            finally:
                await store.close()

        asyncio.run(main())

    return run_scenario


Run = Callable[[Callable[[SqliteStore], Awaitable[None]]], None]


def rows(snapshot: Any) -> tuple[Record, ...]:
    """All that it has."""
    return (
        *snapshot.accounts,
        *snapshot.tokens,
        *snapshot.tunnels,
        *snapshot.routes,
        *snapshot.virtual_networks,
        *snapshot.network_routes,
        *snapshot.configurations,
    )


def test_every_kind_comes_back_as_it_was_put(run: Run) -> None:
    async def scenario(store: SqliteStore) -> None:
        assert await store.commit(ALL, ENTRY) == 1
        kept = rows(await store.snapshot())
        expected = [replace(record, revision=1) for record in ALL]
        expected[-1] = replace(expected[-1], document=b"")  # type: ignore[call-arg]
        assert kept == tuple(expected)
        assert rows(await store.changes_since(0)) == kept
        assert await store.configuration(TUNNEL.id) == replace(CONFIGURATION, revision=1)
        assert await store.configuration(uuid4()) is None

    run(scenario)


def test_there_is_a_kind_for_every_table(run: Run, tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        connection = sqlite3.connect(tmp_path / "edge.db")
        names = {
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        for table in TABLES:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")]
            assert sorted(columns) == sorted(table.columns)
        connection.close()
        known = {table.name for table in TABLES}
        assert names - known == {"revision", "audit", "sqlite_sequence"}
        assert [table_of(record) for record in ALL] == list(TABLES)

    run(scenario)


def test_a_change_is_whole_or_not_at_all(run: Run) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.commit((ACCOUNT, TUNNEL), ENTRY)
        before, log = await store.snapshot(), await store.audit(limit=9)
        for records in (
            (ROUTE, replace(TUNNEL, revision=9)),
            (ROUTE, replace(TUNNEL, id=uuid4())),
            (replace(NETWORK, account_id="nobody"),),
            (ROUTE, NETWORK_ROUTE),
            (NETWORK, replace(NETWORK, id=uuid4())),
        ):
            with pytest.raises((Conflict, NameTaken, Missing)):
                await store.commit(records, ENTRY)
        assert await store.snapshot() == before
        assert await store.audit(limit=9) == log

    run(scenario)


def test_the_default_virtual_network_changes_hands_in_one_change(run: Run) -> None:
    other = replace(NETWORK, id=uuid4(), name="other")

    async def scenario(store: SqliteStore) -> None:
        await store.commit((ACCOUNT, NETWORK, replace(other, is_default=False)), ENTRY)
        demoted = replace(NETWORK, is_default=False, revision=1)
        assert await store.commit((demoted, replace(other, revision=1)), ENTRY) == 2
        kept = (await store.snapshot()).virtual_networks
        assert {network.name: network.is_default for network in kept} == {
            "default": False,
            "other": True,
        }

    run(scenario)


def test_two_defaults_are_refused_by_the_database_itself(run: Run) -> None:
    async def scenario(store: SqliteStore) -> None:
        with pytest.raises(StoreError, match="refused a change: UNIQUE constraint") as refused:
            await store.commit(
                (ACCOUNT, NETWORK, replace(NETWORK, id=uuid4(), name="other")), ENTRY
            )
        assert not isinstance(refused.value, StoreCorrupt)
        assert rows(await store.snapshot()) == ()

    run(scenario)


def test_the_end_of_a_tunnel_is_that_of_all_that_leads_to_it(run: Run) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.commit(ALL, ENTRY)
        await store.commit((replace(TUNNEL, revision=1, deleted_at=now()),), ENTRY)
        kept = {type(record) for record in rows(await store.snapshot())}
        assert kept == {Account, ApiToken, VirtualNetwork}
        changes = await store.changes_since(1)
        assert {type(record) for record in rows(changes)} == {
            Tunnel,
            Route,
            NetworkRoute,
            Configuration,
        }
        assert all(record.deleted_at is not None for record in rows(changes))
        assert all(record.revision == 2 for record in rows(changes))
        assert await store.configuration(TUNNEL.id) is None

    run(scenario)


def test_a_hostname_of_several_tunnels_outlives_each_but_the_last(run: Run) -> None:
    second, third = (replace(TUNNEL, id=uuid4(), name=name) for name in ("second", "third"))
    route = replace(
        ROUTE, weight=3, others=(Target(second.id, 0), Target(third.id, 5)), sticky=Sticky.COOKIE
    )

    async def scenario(store: SqliteStore) -> None:
        async def end(tunnel: Tunnel) -> Any:
            deleted = replace(tunnel, revision=1, deleted_at=now())
            return await store.changes_since(await store.commit((deleted,), ENTRY) - 1)

        await store.commit((ACCOUNT, TUNNEL, second, third, route), ENTRY)
        assert (await store.snapshot()).routes == (replace(route, revision=1),)
        (left,) = (await end(TUNNEL)).routes
        assert left == replace(
            route, tunnel_id=second.id, weight=0, others=(Target(third.id, 5),), revision=2
        )
        (left,) = (await end(third)).routes
        assert (left.targets, left.deleted_at, left.revision) == ((Target(second.id, 0),), None, 3)
        (left,) = (await end(second)).routes
        assert left.deleted_at is not None
        assert (await store.snapshot()).routes == ()

    run(scenario)


def test_every_tunnel_of_a_hostname_has_to_be_there(run: Run) -> None:
    gone = replace(TUNNEL, id=uuid4(), name="gone")

    async def scenario(store: SqliteStore) -> None:
        await store.commit((ACCOUNT, TUNNEL, gone), ENTRY)
        await store.commit((replace(gone, revision=1, deleted_at=now()),), ENTRY)
        for other in (gone.id, uuid4()):
            with pytest.raises(Missing, match=str(other)):
                await store.commit((replace(ROUTE, others=(Target(other),)),), ENTRY)
        assert (await store.snapshot()).routes == ()

    run(scenario)


def test_the_end_of_a_virtual_network_is_that_of_its_routes(run: Run) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.commit(ALL, ENTRY)
        await store.commit((replace(NETWORK, revision=1, deleted_at=now()),), ENTRY)
        assert (await store.snapshot()).network_routes == ()
        assert len((await store.snapshot()).routes) == 1

    run(scenario)


def test_secrets_are_gone_from_the_file_with_their_rows(run: Run, tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.commit(ALL, ENTRY)
        await store.commit(
            (
                replace(TOKEN, revision=1, deleted_at=now()),
                replace(TUNNEL, revision=1, deleted_at=now()),
            ),
            ENTRY,
        )
        connection = sqlite3.connect(tmp_path / "edge.db")
        assert connection.execute("SELECT digest, previous_digest FROM api_token").fetchall() == [
            (b"", b"")
        ]
        assert connection.execute("SELECT secret FROM tunnel").fetchall() == [(b"",)]
        assert connection.execute("SELECT document FROM configuration").fetchall() == [(b"",)]
        connection.close()

    run(scenario)


def test_nothing_of_one_kind_comes_back_under_its_old_id_but_what_has_a_name(run: Run) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.commit(ALL, ENTRY)
        gone = (
            replace(TOKEN, revision=1, deleted_at=now()),
            replace(ROUTE, revision=1, deleted_at=now()),
            replace(NETWORK_ROUTE, revision=1, deleted_at=now()),
        )
        await store.commit(gone, ENTRY)
        for record in (TOKEN, NETWORK_ROUTE):
            with pytest.raises(Conflict):
                await store.commit((record,), ENTRY)
        await store.commit((ROUTE,), ENTRY)

    run(scenario)


def test_what_was_deleted_is_told_to_its_account_alone(run: Run) -> None:
    other = replace(ACCOUNT, id="c" * 32, zone_id="d" * 32, name="other")
    theirs = replace(TUNNEL, id=uuid4(), account_tag=other.id)

    async def scenario(store: SqliteStore) -> None:
        await store.commit((*ALL, other, theirs), ENTRY)
        await store.commit(
            (
                replace(TUNNEL, revision=1, deleted_at=now()),
                replace(theirs, revision=1, deleted_at=now()),
            ),
            ENTRY,
        )
        deleted = await store.deleted(ACCOUNT.id)
        assert [tunnel.id for tunnel in deleted.tunnels] == [TUNNEL.id]
        assert [route.id for route in deleted.network_routes] == [NETWORK_ROUTE.id]
        assert deleted.virtual_networks == ()
        assert [tunnel.id for tunnel in (await store.deleted(other.id)).tunnels] == [theirs.id]

    run(scenario)


def test_purging_goes_from_what_hangs_to_what_it_hangs_on(run: Run) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.commit(ALL, ENTRY)
        later = now() + timedelta(days=1)
        # The tunnel's tombstone is from long ago, those of what hung on it are from now.
        long_ago = now() - timedelta(days=100)
        await store.commit((replace(TUNNEL, revision=1, deleted_at=long_ago),), ENTRY)
        assert await store.purge(now() - timedelta(days=7)) == 0
        assert await store.purge(later) == 4
        assert await store.purge(later) == 0
        assert await store.changes_since(1) is None

    run(scenario)


def test_the_audit_log_says_who_did_what_in_order(run: Run) -> None:
    entries = [
        AuditEntry(f"token {n}", "192.0.2.1", "tunnel.create", str(n), "acc" * (n % 2), "detail")
        for n in range(5)
    ]

    async def scenario(store: SqliteStore) -> None:
        await create_tunnel(store, TUNNEL)
        for entry in entries:
            assert await store.commit((), entry) == 1, "nothing was changed"
        log = await store.audit(limit=4)
        assert [record.entry for record in log] == entries[:0:-1]
        assert [record.number for record in log] == [6, 5, 4, 3]
        assert {record.revision for record in log} == {1}
        assert all(
            timedelta() <= datetime.now(timezone.utc) - record.at < timedelta(minutes=5)
            for record in log
        )
        assert [r.number for r in await store.audit(limit=2, before=4)] == [3, 2]
        assert [r.number for r in await store.audit(limit=9, account_id="acc")] == [5, 3]

    run(scenario)


def test_the_audit_log_is_never_rewritten(run: Run, tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.commit((), ENTRY)
        connection = sqlite3.connect(tmp_path / "edge.db", isolation_level=None)
        with pytest.raises(sqlite3.IntegrityError, match="only ever added to"):
            connection.execute("UPDATE audit SET actor = 'nobody'")
        connection.close()

    run(scenario)


def test_the_audit_log_forgets_what_is_old(run: Run, tmp_path: Path) -> None:
    actions = ["tunnel.create", "quick_tunnel.create", "quick_tunnel.delete"]

    async def scenario(store: SqliteStore) -> None:
        connection = sqlite3.connect(tmp_path / "edge.db", isolation_level=None)
        for days in (1, 10, AUDIT_DAYS - 1, AUDIT_DAYS + 1):
            at = int((now() - timedelta(days=days)).timestamp() * 1_000_000)
            for action in actions:
                connection.execute(
                    "INSERT INTO audit (at, revision, actor, source, action, target, account_id,"
                    " detail) VALUES (?, 0, '', '', ?, '', '', ?)",
                    (at, action, str(days)),
                )
        connection.close()
        await store.purge(now() - timedelta(days=7))
        kept = [(r.entry.action, r.entry.detail) for r in await store.audit(limit=99)]
        assert sorted(kept) == sorted(
            [
                *((action, "1") for action in actions),
                ("tunnel.create", "10"),
                ("tunnel.create", str(AUDIT_DAYS - 1)),
            ]
        )
        assert await store.commit((), ENTRY) == 0
        (newest,) = await store.audit(limit=1)
        assert newest.number == 13, "numbers are not used again"

    run(scenario)


def test_a_store_of_the_first_schema_is_brought_up_to_date(run: Run, tmp_path: Path) -> None:
    first = resources.files("underpass.edge.store") / "migrations" / schema.MIGRATIONS[0]
    connection = sqlite3.connect(tmp_path / "edge.db")
    connection.executescript(first.read_text(encoding="utf-8"))
    key = str(UUID(int=5))
    connection.execute("UPDATE revision SET value = 3")
    connection.execute(
        "INSERT INTO tunnel (id, account_tag, name, secret, quick, created_at, revision)"
        " VALUES (?, 'account', 'web', x'01', 0, 0, 2)",
        (key,),
    )
    connection.execute(
        "INSERT INTO route (hostname, tunnel_id, created_at, revision) VALUES ('a.test', ?, 0, 3)",
        (key,),
    )
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()

    async def scenario(store: SqliteStore) -> None:
        snapshot = await store.snapshot()
        assert snapshot.revision == 3
        epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
        assert snapshot.tunnels == (
            Tunnel(UUID(int=5), "account", "web", b"\1", epoch, revision=2),
        )
        assert snapshot.routes == (Route("a.test", UUID(int=5), epoch, revision=3),)
        await store.commit((ACCOUNT,), ENTRY)

    run(scenario)
