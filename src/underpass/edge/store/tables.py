"""Records as rows of a SQL database: which table, which columns, what hangs on what.

A table has a column for each field of its record, with the field's name. Times are microseconds
since 1970, lists of words are JSON, UUIDs are text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from typing import Any, Generic, TypeVar, get_type_hints
from uuid import UUID

from underpass.edge.store.records import (
    Account,
    ApiToken,
    Configuration,
    NetworkRoute,
    Record,
    Route,
    Sticky,
    Target,
    Tunnel,
    VirtualNetwork,
)

__all__ = [
    "ACCOUNTS",
    "CONFIGURATIONS",
    "NETWORK_ROUTES",
    "ROUTES",
    "TABLES",
    "TOKENS",
    "TUNNELS",
    "VIRTUAL_NETWORKS",
    "Reference",
    "Table",
    "microseconds",
    "table_of",
    "time_of",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

RecordT = TypeVar("RecordT", bound=Record)


def time_of(value: int) -> datetime:
    """The time that is stored as `value`."""
    return _EPOCH + value * _MICROSECOND


def microseconds(time: datetime) -> int:
    """How `time` is stored."""
    return (time - _EPOCH) // _MICROSECOND


def _same(value: Any) -> Any:
    return value


def _optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _targets_text(targets: Sequence[Target]) -> str:
    return json.dumps([[str(target.tunnel_id), target.weight] for target in targets])


def _targets(text: str) -> tuple[Target, ...]:
    return tuple(Target(UUID(tunnel_id), weight) for tunnel_id, weight in json.loads(text))


_Conversion = tuple[Callable[[Any], Any], Callable[[Any], Any]]

_CONVERSIONS: dict[object, _Conversion] = {
    str: (_same, _same),
    int: (_same, _same),
    bytes: (bytes, bytes),
    bool: (int, bool),
    UUID: (str, UUID),
    datetime: (microseconds, time_of),
    datetime | None: (_optional(microseconds), _optional(time_of)),
    tuple[str, ...]: (json.dumps, lambda text: tuple(json.loads(text))),
    tuple[Target, ...]: (_targets_text, _targets),
    Sticky: (lambda sticky: sticky.value, Sticky),
}
"""To the database and back, by a field's type."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`column` has the key of a row of `table`; it must live, and its end is the end of this."""

    column: str
    table: str


class Table(Generic[RecordT]):
    """One kind of record in the database.

    Args:
        what: the kind, for messages.
        references: to rows that have to exist.
        shared: column with further targets, tunnels that have to exist too. The end of one of the
            tunnels that such a row leads to is its end only if there is no other.
        unique: columns that no two living rows share, and what to call them together; the last
            column is told.
        lazy: columns that are read only when asked for.
        erased: columns that are emptied in a tombstone.
        reusable: a key may come back after a deletion.
    """

    def __init__(
        self,
        name: str,
        record: type[RecordT],
        what: str,
        *,
        references: Sequence[Reference] = (),
        shared: str = "",
        unique: Sequence[tuple[tuple[str, ...], str]] = (),
        lazy: frozenset[str] = frozenset(),
        erased: Sequence[str] = (),
        reusable: bool = False,
    ) -> None:
        self.name = name
        self.record = record
        self.what = what
        self.references = references
        self.shared = shared
        self.unique = unique
        self.erased = erased
        self.reusable = reusable
        hints = get_type_hints(record)
        self.columns = tuple(field.name for field in fields(record))
        self.key = self.columns[0]
        self._to, self._back = zip(
            *(_CONVERSIONS[hints[column]] for column in self.columns), strict=True
        )
        self.all_columns = ", ".join(self.columns)
        self.eager_columns = ", ".join(
            f"x'' AS {column}" if column in lazy else column for column in self.columns
        )

    def key_of(self, record: RecordT) -> str:
        """The record's key as it is stored."""
        return str(getattr(record, self.key))

    def references_of(self, record: RecordT) -> Iterator[tuple[str, str]]:
        """The tables and keys of the rows that have to exist for a record."""
        for reference in self.references:
            yield reference.table, str(getattr(record, reference.column))
        if self.shared:
            for target in getattr(record, self.shared):
                yield TUNNELS.name, str(target.tunnel_id)

    def row(self, record: RecordT, revision: int) -> dict[str, Any]:
        """The row of a record that is put at `revision`."""
        values: dict[str, Any] = {"revision": revision}
        if record.deleted_at is not None:
            values.update(dict.fromkeys(self.erased, b""))
        return {
            column: convert(values.get(column, getattr(record, column)))
            for column, convert in zip(self.columns, self._to, strict=True)
        }

    def records(self, rows: Iterator[tuple[Any, ...]]) -> tuple[RecordT, ...]:
        """The records in rows of all columns."""
        return tuple(
            self.record(*(convert(value) for convert, value in zip(self._back, row, strict=True)))
            for row in rows
        )


ACCOUNTS = Table("account", Account, "account", unique=((("name",), "an account named"),))
TOKENS = Table(
    "api_token",
    ApiToken,
    "API token",
    references=(Reference("account_id", "account"),),
    erased=("digest", "previous_digest"),
)
TUNNELS = Table(
    "tunnel",
    Tunnel,
    "tunnel",
    unique=((("account_tag", "name"), "a tunnel named"),),
    erased=("secret",),
)
ROUTES = Table(
    "route",
    Route,
    "route",
    references=(Reference("tunnel_id", "tunnel"),),
    shared="others",
    reusable=True,
)
VIRTUAL_NETWORKS = Table(
    "virtual_network",
    VirtualNetwork,
    "virtual network",
    references=(Reference("account_id", "account"),),
    unique=((("account_id", "name"), "a virtual network named"),),
)
NETWORK_ROUTES = Table(
    "network_route",
    NetworkRoute,
    "network route",
    references=(
        Reference("tunnel_id", "tunnel"),
        Reference("virtual_network_id", "virtual_network"),
    ),
    unique=((("virtual_network_id", "network"), "a route to network"),),
)
CONFIGURATIONS = Table(
    "configuration",
    Configuration,
    "configuration of tunnel",
    references=(Reference("tunnel_id", "tunnel"),),
    lazy=frozenset({"document"}),
    erased=("document",),
    reusable=True,
)

TABLES: tuple[Table[Any], ...] = (
    ACCOUNTS,
    TOKENS,
    TUNNELS,
    ROUTES,
    VIRTUAL_NETWORKS,
    NETWORK_ROUTES,
    CONFIGURATIONS,
)
"""What others hang on comes first."""

_BY_RECORD: dict[type[Record], Table[Any]] = {table.record: table for table in TABLES}


def table_of(record: Record) -> Table[Any]:
    """The table that a record is kept in."""
    return _BY_RECORD[type(record)]
