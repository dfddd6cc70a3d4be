"""The store of one edge: a SQLite file in its data directory.

All work happens on one thread of its own, so a slow disk never stalls the event loop and the
connection is never shared. WAL mode lets others read meanwhile; every commit is synced, since a
token handed out must not be forgotten by a power cut and changes are rare.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from underpass.edge.errors import StoreError
from underpass.edge.store import (
    ABSENT,
    Changes,
    Conflict,
    NameTaken,
    NoSuchTunnel,
    Route,
    Snapshot,
    StoreCorrupt,
    StoreTooNew,
    StoreUnavailable,
    Tunnel,
)
from underpass.edge.store.schema import APPLICATION_ID, MIGRATIONS, migrate

BUSY_TIMEOUT_SECONDS = 5.0
"""How long a change waits for another process that is writing (a backup, a second tool)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

_CORRUPT = "restore it from a backup, or move it away to begin with no tunnels"

T = TypeVar("T")


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
            return Snapshot(
                _revision(connection),
                _tunnels(connection, "deleted_at IS NULL", ()),
                _routes(connection, "deleted_at IS NULL", ()),
            )

        return await self._run("DEFERRED", read)

    async def changes_since(self, revision: int) -> Changes | None:
        def read(connection: sqlite3.Connection) -> Changes | None:
            (horizon,) = connection.execute("SELECT horizon FROM revision").fetchone()
            if revision < horizon:
                return None
            return Changes(
                _revision(connection),
                _tunnels(connection, "revision > ?", (revision,)),
                _routes(connection, "revision > ?", (revision,)),
            )

        return await self._run("DEFERRED", read)

    async def create_tunnel(self, tunnel: Tunnel, hostnames: Sequence[str] = ()) -> int:
        def change(connection: sqlite3.Connection) -> int:
            key = str(tunnel.id)
            found = connection.execute("SELECT revision FROM tunnel WHERE id = ?", (key,))
            if (row := found.fetchone()) is not None:
                raise Conflict(f"tunnel {tunnel.id}", ABSENT, row[0])
            same_name = connection.execute(
                "SELECT 1 FROM tunnel WHERE account_tag = ? AND name = ? AND deleted_at IS NULL",
                (tunnel.account_tag, tunnel.name),
            )
            if same_name.fetchone() is not None:
                raise NameTaken(tunnel.name)
            revision = _next_revision(connection)
            connection.execute(
                "INSERT INTO tunnel (id, account_tag, name, secret, quick, created_at, revision)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    tunnel.account_tag,
                    tunnel.name,
                    tunnel.secret,
                    int(tunnel.quick),
                    _microseconds(tunnel.created_at),
                    revision,
                ),
            )
            for hostname in hostnames:
                _put_route(connection, hostname, key, ABSENT, revision)
            return revision

        return await self._run("IMMEDIATE", change)

    async def delete_tunnel(self, tunnel_id: UUID, expected: int) -> int:
        def change(connection: sqlite3.Connection) -> int:
            key = str(tunnel_id)
            found = _live_revision(connection, "tunnel", "id", key)
            if found != expected or expected == ABSENT:
                raise Conflict(f"tunnel {tunnel_id}", expected, found)
            revision, now = _next_revision(connection), _now()
            connection.execute(
                "UPDATE route SET deleted_at = ?, revision = ?"
                " WHERE tunnel_id = ? AND deleted_at IS NULL",
                (now, revision, key),
            )
            # A tombstone tells that the tunnel is gone; nothing may ever authenticate by it.
            connection.execute(
                "UPDATE tunnel SET deleted_at = ?, revision = ?, secret = x'' WHERE id = ?",
                (now, revision, key),
            )
            return revision

        return await self._run("IMMEDIATE", change)

    async def put_route(self, hostname: str, tunnel_id: UUID, expected: int) -> int:
        def change(connection: sqlite3.Connection) -> int:
            key = str(tunnel_id)
            if _live_revision(connection, "tunnel", "id", key) == ABSENT:
                raise NoSuchTunnel(tunnel_id)
            revision = _next_revision(connection)
            _put_route(connection, hostname, key, expected, revision)
            return revision

        return await self._run("IMMEDIATE", change)

    async def delete_route(self, hostname: str, expected: int) -> int:
        def change(connection: sqlite3.Connection) -> int:
            found = _live_revision(connection, "route", "hostname", hostname)
            if found != expected or expected == ABSENT:
                raise Conflict(f"route {hostname}", expected, found)
            revision = _next_revision(connection)
            connection.execute(
                "UPDATE route SET deleted_at = ?, revision = ? WHERE hostname = ?",
                (_now(), revision, hostname),
            )
            return revision

        return await self._run("IMMEDIATE", change)

    async def purge(self, deleted_before: datetime) -> int:
        def change(connection: sqlite3.Connection) -> int:
            limit = (_microseconds(deleted_before),)
            (newest,) = connection.execute(
                "SELECT max(revision) FROM (SELECT revision FROM route WHERE deleted_at < ?1"
                " UNION ALL SELECT revision FROM tunnel WHERE deleted_at < ?1)",
                limit,
            ).fetchone()
            if newest is None:
                return 0
            connection.execute("UPDATE revision SET horizon = max(horizon, ?)", (newest,))
            routes = connection.execute("DELETE FROM route WHERE deleted_at < ?", limit)
            # A tombstone of a route may be younger than that of the tunnel it led to last.
            tunnels = connection.execute(
                "DELETE FROM tunnel WHERE deleted_at < ?"
                " AND NOT EXISTS (SELECT 1 FROM route WHERE tunnel_id = tunnel.id)",
                limit,
            )
            return routes.rowcount + tunnels.rowcount

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
    except sqlite3.OperationalError as error:
        # Locked, full disk, read-only file, I/O error: the data may well be sound.
        raise StoreUnavailable(f"store {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"store {path} is damaged ({error}): {_CORRUPT}") from error


def _revision(connection: sqlite3.Connection) -> int:
    (value,) = connection.execute("SELECT value FROM revision").fetchone()
    return int(value)


def _next_revision(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE revision SET value = value + 1")
    return _revision(connection)


def _live_revision(connection: sqlite3.Connection, table: str, column: str, key: str) -> int:
    row = connection.execute(
        f"SELECT revision FROM {table} WHERE {column} = ? AND deleted_at IS NULL",  # noqa: S608
        (key,),
    ).fetchone()
    return ABSENT if row is None else int(row[0])


def _put_route(
    connection: sqlite3.Connection, hostname: str, tunnel_key: str, expected: int, revision: int
) -> None:
    found = _live_revision(connection, "route", "hostname", hostname)
    if found != expected:
        raise Conflict(f"route {hostname}", expected, found)
    connection.execute(
        # A tombstone comes to life again as a new route; a live one keeps its age.
        "INSERT INTO route (hostname, tunnel_id, created_at, revision) VALUES (?1, ?2, ?3, ?4)"
        " ON CONFLICT (hostname) DO UPDATE SET tunnel_id = ?2, revision = ?4, deleted_at = NULL,"
        " created_at = CASE WHEN deleted_at IS NULL THEN created_at ELSE ?3 END",
        (hostname, tunnel_key, _now(), revision),
    )


def _tunnels(
    connection: sqlite3.Connection, condition: str, arguments: tuple[Any, ...]
) -> tuple[Tunnel, ...]:
    rows = connection.execute(
        "SELECT id, account_tag, name, secret, created_at, deleted_at, quick, revision"  # noqa: S608
        f" FROM tunnel WHERE {condition} ORDER BY revision, id",
        arguments,
    )
    return tuple(
        Tunnel(
            UUID(key),
            account_tag,
            name,
            secret,
            _time(created_at),
            None if deleted_at is None else _time(deleted_at),
            bool(quick),
            revision,
        )
        for key, account_tag, name, secret, created_at, deleted_at, quick, revision in rows
    )


def _routes(
    connection: sqlite3.Connection, condition: str, arguments: tuple[Any, ...]
) -> tuple[Route, ...]:
    rows = connection.execute(
        "SELECT hostname, tunnel_id, created_at, deleted_at, revision"  # noqa: S608
        f" FROM route WHERE {condition} ORDER BY revision, hostname",
        arguments,
    )
    return tuple(
        Route(
            hostname,
            UUID(tunnel_key),
            _time(created_at),
            None if deleted_at is None else _time(deleted_at),
            revision,
        )
        for hostname, tunnel_key, created_at, deleted_at, revision in rows
    )


def _time(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _now() -> int:
    return _microseconds(datetime.now(timezone.utc))
