"""Tables in columns, as Go's tabwriter aligns them: what cuts them apart keeps working."""

from __future__ import annotations

from collections.abc import Sequence

import click

from underpass.wire.printable import printable

__all__ = ["MAX_CELL", "echo_table"]

MAX_CELL = 1024
"""Characters of one cell."""


def echo_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print on standard output. Each cell is as wide as the widest of its column, and a space.

    Cells come from other people; a terminal is not to obey them.
    """
    cells = [[printable(cell, MAX_CELL) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for number, row in enumerate([list(header), *cells]):
        line = "".join(f"{cell.ljust(width)} " for cell, width in zip(row, widths, strict=True))
        click.secho(line, bold=number == 0)
