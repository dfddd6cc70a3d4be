"""The store of one edge: a SQLite file in its data directory.

All work happens on one thread of its own, so a slow disk never stalls the event loop and the
connection is never shared. WAL mode lets others read meanwhile; every commit is synced, since a
token handed out must not be forgotten by a power cut and changes are rare.
"""

# ruff: noqa: S608 - names in statements are those of our own tables; values never are

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import astuple
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from underpass.edge.errors import StoreError
from underpass.edge.store import (
    ABSENT,
    AuditEntry,
    AuditRecord,
    Changes,
    Configuration,
    Conflict,
    Missing,
    NameTaken,
    Record,
    Snapshot,
    StoreCorrupt,
    StoreTooNew,
    StoreUnavailable,
)
from underpass.edge.store.schema import APPLICATION_ID, MIGRATIONS, migrate
from underpass.edge.store.tables import (
    ACCOUNTS,
    CONFIGURATIONS,
    NETWORK_ROUTES,
    ROUTES,
    TABLES,
    TOKENS,
    TUNNELS,
    VIRTUAL_NETWORKS,
    Table,
    microseconds,
    table_of,
    time_of,
)

BUSY_TIMEOUT_SECONDS = 5.0
"""How long a change waits for another process that is writing (a backup, a second tool)."""

AUDIT_DAYS = 400
"""How long the audit log is kept; a year, and time to look. Entries about quick tunnels, which
anybody may make, go with their tombstones."""

MAX_TOMBSTONES_TOLD = 1000
"""Deleted rows of one kind that `deleted` tells."""

_DAY = 86_400_000_000
"""In microseconds."""

_CORRUPT = "restore it from a backup, or move it away to begin with no tunnels"

T = TypeVar("T")
SnapshotT = TypeVar("SnapshotT", bound=Snapshot)
RecordT = TypeVar("RecordT", bound=Record)


class SqliteStore:
    """A `Store` in one file. Make it with `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor):
        self._path = path
        self._connection = connection
        self._thread = thread

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open or make the file, check it, and bring its schema up to date.

        Raises:
            StoreCorrupt: the file is damaged, or is not a store.
            StoreTooNew: a later version of Underpass wrote it.
            StoreUnavailable: it cannot be opened or written.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="underpass-store")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(
                thread, _open_connection, path
            )
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(path, connection, thread)

    async def close(self) -> None:
        """Finish what is under way and close the file. Closing twice is harmless."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        try:
            closed = self._thread.submit(self._connection.close)
        except RuntimeError:
            # The thread was shut down by an earlier close.
            return
        self._thread.shutdown(wait=True)
        with _translated(self._path):
            closed.result()

    async def snapshot(self) -> Snapshot:
        def read(connection: sqlite3.Connection) -> Snapshot:
            return _read(connection, Snapshot, _revision(connection), "deleted_at IS NULL", ())

        return await self._run("DEFERRED", read)

    async def changes_since(self, revision: int) -> Changes | None:
        def read(connection: sqlite3.Connection) -> Changes | None:
            current, horizon = connection.execute("SELECT value, horizon FROM revision").fetchone()
            if revision == current:
                # Asked every second, and nearly always so.
                return Changes(revision)
            if revision < horizon:
                return None
            return _read(connection, Changes, current, "revision > ?", (revision,))

        return await self._run("DEFERRED", read)

    async def configuration(self, tunnel_id: UUID) -> Configuration | None:
        def read(connection: sqlite3.Connection) -> Configuration | None:
            found = CONFIGURATIONS.records(
                connection.execute(
                    f"SELECT {CONFIGURATIONS.all_columns} FROM configuration"
                    " WHERE tunnel_id = ? AND deleted_at IS NULL",
                    (str(tunnel_id),),
                )
            )
            return found[0] if found else None

        return await self._run("DEFERRED", read)

    async def deleted(self, account_id: str) -> Snapshot:
        def read(connection: sqlite3.Connection) -> Snapshot:
            arguments = (account_id, MAX_TOMBSTONES_TOLD)
            condition = "deleted_at IS NOT NULL AND {} = ?"
            latest = "deleted_at DESC LIMIT ?"
            return Snapshot(
                _revision(connection),
                tunnels=_select(
                    connection, TUNNELS, condition.format("account_tag"), arguments, latest
                ),
                virtual_networks=_select(
                    connection, VIRTUAL_NETWORKS, condition.format("account_id"), arguments, latest
                ),
                network_routes=_select(
                    connection, NETWORK_ROUTES, condition.format("account_id"), arguments, latest
                ),
            )

        return await self._run("DEFERRED", read)

    async def commit(self, records: Sequence[Record], entry: AuditEntry) -> int:
        def change(connection: sqlite3.Connection) -> int:
            revision, now = _revision(connection), _now()
            if records:
                revision += 1
                connection.execute("UPDATE revision SET value = ?", (revision,))
            for record in records:
                _put(connection, table_of(record), record, revision, now)
            connection.execute(
                "INSERT INTO audit"
                " (at, revision, actor, source, action, target, account_id, detail)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (now, revision, *astuple(entry)),
            )
            return revision

        return await self._run("IMMEDIATE", change)

    async def audit(
        self, *, limit: int, before: int | None = None, account_id: str | None = None
    ) -> tuple[AuditRecord, ...]:
        def read(connection: sqlite3.Connection) -> tuple[AuditRecord, ...]:
            rows = connection.execute(
                "SELECT number, at, revision, actor, source, action, target, account_id, detail"
                " FROM audit WHERE (?1 IS NULL OR number < ?1)"
                " AND (?2 IS NULL OR account_id = ?2) ORDER BY number DESC LIMIT ?3",
                (before, account_id, limit),
            )
            return tuple(
                AuditRecord(number, time_of(at), revision, AuditEntry(*entry))
                for number, at, revision, *entry in rows
            )

        return await self._run("DEFERRED", read)

    async def purge(self, deleted_before: datetime) -> int:
        def change(connection: sqlite3.Connection) -> int:
            limit = microseconds(deleted_before)
            _purge_audit(connection, limit)
            newest, forgotten = 0, 0
            # What hangs on a row goes before it: its tombstone may be younger.
            for table in reversed(TABLES):
                condition = "deleted_at < ?" + "".join(
                    f" AND NOT EXISTS (SELECT 1 FROM {other.name}"
                    f" WHERE {other.name}.{reference.column} = {table.name}.{table.key})"
                    for other in TABLES
                    for reference in other.references
                    if reference.table == table.name
                )
                (latest,) = connection.execute(
                    f"SELECT max(revision) FROM {table.name} WHERE {condition}",
                    (limit,),
                ).fetchone()
                if latest is not None:
                    newest = max(newest, latest)
                    forgotten += connection.execute(
                        f"DELETE FROM {table.name} WHERE {condition}",
                        (limit,),
                    ).rowcount
            connection.execute("UPDATE revision SET horizon = max(horizon, ?)", (newest,))
            return forgotten

        return await self._run("IMMEDIATE", change)

    async def _run(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in one transaction on the store's thread.

        The caller may be cancelled while waiting; the transaction is finished regardless.
        """

        def transaction() -> T:
            with _translated(self._path):
                self._connection.execute(f"BEGIN {begin}")
                try:
                    result = work(self._connection)
                    self._connection.execute("COMMIT")
                except BaseException:
                    # A failed COMMIT may have rolled back by itself.
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
                return result

        try:
            future = self._thread.submit(transaction)
        except RuntimeError as error:
            raise StoreUnavailable(f"store {self._path} is closed") from error
        return await asyncio.wrap_future(future)


def _open_connection(path: Path) -> sqlite3.Connection:
    with _translated(path):
        # Made first, so that it never exists with a wider mode; its WAL inherits the mode.
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StoreUnavailable(
                f"cannot open store {path}: {error.strerror or error}"
            ) from error
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            _check(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def copy_store(path: Path, target: Path) -> None:
    """A copy of a store as it is at one moment, into a new file (0600); others may go on writing.

    Raises:
        StoreCorrupt, StoreUnavailable: it cannot be read.
        OSError: the copy cannot be written.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        _translated(path),
        closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as connection,
        closing(sqlite3.connect(target)) as copy,
    ):
        connection.backup(copy)


def check_store(path: Path) -> None:
    """Whether a file that nobody has open is a whole store of a schema known here.

    Raises:
        StoreCorrupt, StoreTooNew, StoreUnavailable: it is not.
    """
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with _translated(path), closing(sqlite3.connect(address, uri=True)) as connection:
        _check(connection, path)
        if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise StoreCorrupt(f"{path} is an empty store: {_CORRUPT}")
        if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
            raise StoreCorrupt(f"store {path} contradicts itself: {_CORRUPT}")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise StoreCorrupt(f"store {path} is damaged ({found}): {_CORRUPT}")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and objects:
        raise StoreCorrupt(f"{path} is a SQLite file of another program; choose another --data-dir")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreTooNew(
            f"store {path} has schema {version}; this version of Underpass knows schemas up to "
            f"{len(MIGRATIONS)}: upgrade Underpass, or restore the backup from before the upgrade"
        )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as the store's own."""
    try:
        yield
    except StoreError:
        raise
    except sqlite3.IntegrityError as error:
        raise StoreError(f"store {path} refused a change: {error}") from error
    except sqlite3.OperationalError as error:
        # Locked, full disk, read-only file, I/O error: the data may well be sound.
        raise StoreUnavailable(f"store {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"store {path} is damaged ({error}): {_CORRUPT}") from error


def _revision(connection: sqlite3.Connection) -> int:
    (value,) = connection.execute("SELECT value FROM revision").fetchone()
    return int(value)


def _live_revision(connection: sqlite3.Connection, table: Table[Any], key: str) -> int:
    row = connection.execute(
        f"SELECT revision FROM {table.name} WHERE {table.key} = ? AND deleted_at IS NULL",
        (key,),
    ).fetchone()
    return ABSENT if row is None else int(row[0])


def _put(
    connection: sqlite3.Connection, table: Table[Any], record: Any, revision: int, now: int
) -> None:
    """Write a record, or its end and that of all that hangs on it."""
    key = table.key_of(record)
    found = _live_revision(connection, table, key)
    if found != record.revision or (found == ABSENT and record.deleted_at is not None):
        raise Conflict(f"{table.what} {key}", record.revision, found)
    row = table.row(record, revision)
    if record.deleted_at is None:
        _check_references(connection, table, record)
        _check_unique(connection, table, row, key)
    if found == ABSENT and not table.reusable:
        used = connection.execute(
            f"SELECT revision FROM {table.name} WHERE {table.key} = ?",
            (key,),
        ).fetchone()
        if used is not None:
            raise Conflict(f"{table.what} {key}", ABSENT, used[0])
    _write(connection, table, row)
    if record.deleted_at is not None:
        _end_dependents(connection, table, key, revision, now)


def _write(connection: sqlite3.Connection, table: Table[Any], row: dict[str, Any]) -> None:
    names = [f":{column}" for column in table.columns]
    changed = ", ".join(f"{column} = :{column}" for column in table.columns[1:])
    connection.execute(
        f"INSERT INTO {table.name} ({table.all_columns}) VALUES ({', '.join(names)})"
        f" ON CONFLICT ({table.key}) DO UPDATE SET {changed}",
        row,
    )


def _check_references(connection: sqlite3.Connection, table: Table[Any], record: Any) -> None:
    for name, key in table.references_of(record):
        (other,) = [other for other in TABLES if other.name == name]
        if _live_revision(connection, other, key) == ABSENT:
            raise Missing(other.what, key)


def _check_unique(
    connection: sqlite3.Connection, table: Table[Any], row: dict[str, Any], key: str
) -> None:
    """The table's indexes say the same, with fewer words."""
    for columns, what in table.unique:
        condition = " AND ".join(f"{column} = :{column}" for column in columns)
        taken = connection.execute(
            f"SELECT 1 FROM {table.name} WHERE {condition}"
            f" AND {table.key} <> :its_key AND deleted_at IS NULL",
            {**{column: row[column] for column in columns}, "its_key": key},
        ).fetchone()
        if taken is not None:
            raise NameTaken(what, row[columns[-1]])


def _end_dependents(
    connection: sqlite3.Connection, table: Table[Any], key: str, revision: int, now: int
) -> None:
    for other in TABLES:
        for reference in other.references:
            if reference.table == table.name:
                if other.shared:
                    _take_out(connection, other, reference.column, key, revision)
                erased = "".join(f", {column} = x''" for column in other.erased)
                connection.execute(
                    f"UPDATE {other.name} SET deleted_at = ?, revision = ?{erased}"
                    f" WHERE {reference.column} = ? AND deleted_at IS NULL",
                    (now, revision, key),
                )


def _take_out(
    connection: sqlite3.Connection, table: Table[Any], column: str, key: str, revision: int
) -> None:
    """Have rows that lead to others as well do without a tunnel."""
    rows = connection.execute(
        f"SELECT {table.all_columns} FROM {table.name} WHERE deleted_at IS NULL"
        f" AND {table.shared} <> '[]' AND ({column} = ?1 OR {table.shared} LIKE '%' || ?1 || '%')",
        (key,),
    )
    for record in table.records(iter(rows.fetchall())):
        left = record.without(UUID(key))
        if left is not None:
            _write(connection, table, table.row(left, revision))


def _purge_audit(connection: sqlite3.Connection, tombstone_limit: int) -> None:
    kept_since = _now() - AUDIT_DAYS * _DAY
    connection.execute(
        # Quick tunnels are made by anybody: theirs must not fill the log.
        "DELETE FROM audit WHERE at < ? OR (at < ? AND action IN"
        " ('quick_tunnel.create', 'quick_tunnel.delete'))",
        (kept_since, tombstone_limit),
    )


def _read(
    connection: sqlite3.Connection,
    kind: type[SnapshotT],
    revision: int,
    condition: str,
    arguments: tuple[Any, ...],
) -> SnapshotT:
    """All tables' rows that meet a condition."""
    return kind(
        revision,
        tunnels=_select(connection, TUNNELS, condition, arguments),
        routes=_select(connection, ROUTES, condition, arguments),
        accounts=_select(connection, ACCOUNTS, condition, arguments),
        tokens=_select(connection, TOKENS, condition, arguments),
        virtual_networks=_select(connection, VIRTUAL_NETWORKS, condition, arguments),
        network_routes=_select(connection, NETWORK_ROUTES, condition, arguments),
        configurations=_select(connection, CONFIGURATIONS, condition, arguments),
    )


def _select(
    connection: sqlite3.Connection,
    table: Table[RecordT],
    condition: str,
    arguments: tuple[Any, ...],
    order: str = "",
) -> tuple[RecordT, ...]:
    return table.records(
        connection.execute(
            f"SELECT {table.eager_columns} FROM {table.name}"
            f" WHERE {condition} ORDER BY {order or f'revision, {table.key}'}",
            arguments,
        )
    )


def _now() -> int:
    return microseconds(datetime.now(timezone.utc))
