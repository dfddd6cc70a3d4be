"""The SQLite schema: numbered migrations, each applied once, whole or not at all.

`migrations/NNNN_what.sql` takes a store from schema NNNN - 1 to NNNN. A migration that has been
released is never edited; the next change is the next number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib import resources

APPLICATION_ID = 0x756E6470
"""Marks the file as ours in SQLite's header: "undp"."""

MIGRATIONS = (
    "0001_tunnels_and_routes.sql",
    "0002_accounts_and_networks.sql",
    "0003_pools.sql",
)
"""File names in order; the position counted from one is the schema they lead to."""


def migrate(connection: sqlite3.Connection) -> None:
    """Apply the migrations that the store has not seen. `connection` must be in autocommit mode.

    Raises:
        sqlite3.Error: a migration failed; the store is as before it.
    """
    folder = resources.files("underpass.edge.store") / "migrations"
    while True:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read under the write lock: another process may be migrating the same file.
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version >= len(MIGRATIONS):
                connection.execute("ROLLBACK")
                return
            script = (folder / MIGRATIONS[version]).read_text(encoding="utf-8")
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: executescript would commit the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError(f"migration ends within a statement: {statement.strip()[:60]!r}")
