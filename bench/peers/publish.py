"""A run in a document: what stands between two comments is replaced by what the run gave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.peers.figures import Spread
from bench.peers.plots import draw
from bench.peers.report import about, budget_rows, failures, number, table
from bench.peers.samples import Document

BEGIN = "<!-- run: begin -->"
END = "<!-- run: end -->"
MAIN = {
    "cpu_us": "CPU time a request, µs",
    "cpu_s_per_gib": "CPU time per GiB, s",
    "kib_per_socket": "resident memory for each idle WebSocket, KiB",
    "per_second": "requests or messages a second",
    "mbit_s": "Mbit/s",
    "p99_ms": "99th percentile of the response time, ms",
    "start_ms": "process start to first link, ms",
    "idle_rss_mib": "resident memory, idle, MiB",
}
"""Metrics that get a table of their own, and its title."""


def publish(document: Document, path: Path) -> None:
    """Write the run into `path`, and its pictures into the folder beside it of the same name.

    Raises:
        ValueError: the comments are not there.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no place for a run: {BEGIN} … {END}")
    pictures = draw(document, path.with_suffix(""))
    links = [f"![{picture.stem}]({picture.relative_to(path.parent)})" for picture in pictures]
    parts = [
        *about(document),
        "Ratios are those of the rounds, pair by pair: their median, the lowest and the highest.",
        *table(("work", "against", "ratio", "spread", "goal", "verdict"), [*budget_rows(document)]),
        "What failed, or needed a second attempt:",
        *failures(document),
        *links,
        *main_tables(document),
    ]
    path.write_text(
        before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + after, encoding="utf-8"
    )


def main_tables(document: Document) -> Iterator[str]:
    """A table for each metric that matters: loads down, peers across, medians."""
    peers = document.peers()
    for metric, title in MAIN.items():
        rows = []
        for load in document.loads():
            found = [list(document.values(peer, load, metric).values()) for peer in peers]
            if any(found):
                medians = [number(Spread.of(values).median) if values else "" for values in found]
                rows.append((load, *medians))
        if rows:
            yield f"**{title[0].upper()}{title[1:]}**"
            yield from table(("", *peers), rows)
