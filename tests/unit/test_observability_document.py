"""docs/observability.md has every cause and every metric, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from underpass.connector.routes import MAX_SERIES
from underpass.ops.line_writer import FLUSH_AT, MAX_WAITING
from underpass.ops.metrics import FAMILIES
from underpass.wire.causes import CAUSES, Cause

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "observability.md"


def rows(heading: str) -> list[str]:
    """The rows of the first table below a heading."""
    text = DOCUMENT.read_text(encoding="utf-8")
    below = text.partition(f"\n{heading}\n")[2]
    table = re.search(r"^\|.*?\n(?!\|)", below, re.MULTILINE | re.DOTALL)
    assert table is not None
    return table.group().splitlines()[2:]


def row_of(cause: Cause) -> str:
    where = cause.hop.value
    if cause.at_edge is not None and cause.at_edge is not cause.hop:
        where += f" (said by an edge: {cause.at_edge.value})"
    status = cause.status or "-"
    return f"| `{cause.word}` | {where} | {status} | {cause.meaning} | {cause.advice} |"


def test_every_cause_has_its_row() -> None:
    assert rows("### Causes") == [row_of(cause) for cause in CAUSES.values()]


def test_every_metric_has_its_row() -> None:
    expected = [
        f"| `{family.name}` | {family.kind} | {', '.join(family.labels)} | {family.help} |"
        for family in FAMILIES.values()
    ]
    assert rows("## Metrics") == expected


def test_limits_are_those_in_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"The first {MAX_SERIES} rules" in text
    assert f"when there are {FLUSH_AT // 1024} KiB" in text
    assert f"({MAX_WAITING >> 20} MiB wait at most)" in text
