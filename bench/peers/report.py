"""A run as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.peers.budgets import BUDGETS, Verdict
from bench.peers.figures import Spread
from bench.peers.samples import Document

COLUMNS = {
    "cpu_us": "CPU µs/req",
    "cpu_s_per_gib": "CPU s/GiB",
    "far_cpu_us": "far CPU µs/req",
    "far_cpu_s_per_gib": "far CPU s/GiB",
    "failed": "failed",
    "per_second": "per second",
    "mbit_s": "Mbit/s",
    "p50_ms": "p50 ms",
    "p90_ms": "p90 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "late_p99_ms": "generator late p99 ms",
    "start_ms": "start ms",
    "idle_rss_mib": "idle RSS MiB",
    "kib_per_socket": "KiB/socket",
    "rss_mib": "RSS MiB",
    "peak_rss_mib": "peak RSS MiB",
    "voluntary": "vol. switches",
    "involuntary": "invol. switches",
}
"""Metrics in the order in which they are shown; others are in the JSON only."""


def report(document: Document) -> str:
    """All tables."""
    parts = [
        "## The run",
        *about(document),
        "## Budgets",
        "Medians of the ratios pair by pair, with the lowest and highest.",
        *table(
            ("work", "against", "ratio", "spread", "goal", "verdict"),
            list(budget_rows(document)),
        ),
        "## Failures",
        *failures(document),
        "## Loads",
        "Medians over the rounds. CPU is the connector's (or what stands in its place); far is the "
        "process at the other end of the link. Switches are per request or per GiB.",
    ]
    for load in document.loads():
        rows = list(_load_rows(document, load))
        if rows:
            parts += [f"### {load}", *table(*_without_empty_columns(rows))]
    return "\n\n".join(parts) + "\n"


def budget_rows(document: Document) -> Iterator[tuple[str, ...]]:
    """A row for each budget."""
    for budget in BUDGETS:
        verdict, spread = budget.verdict(document)
        sign = "≥" if budget.more_is_better else "≤"
        against = f"itself, {budget.baseline}" if budget.baseline else budget.versus
        ratio, around = ("", "") if spread is None else (f"{spread.median:.2f}", _around(spread))
        yield budget.work, against, ratio, around, f"{sign} {budget.goal:g}", verdict.value


def missed(document: Document) -> list[str]:
    """Budgets that were measured and not met."""
    return [
        f"{budget.work}, against {budget.versus}"
        for budget in BUDGETS
        if budget.verdict(document)[0] is Verdict.MISSED
    ]


def failures(document: Document) -> list[str]:
    """Loads that failed, and those that did not at the second attempt."""
    found = [
        f"- round {sample.round}, {sample.peer}, {sample.load}: **failed**: {sample.error}"
        for sample in document.samples
        if sample.error
    ]
    found += [
        f"- round {sample.round}, {sample.peer}, {sample.load}: at the second attempt"
        for sample in document.samples
        if sample.retried and not sample.error
    ]
    return ["\n".join(found)] if found else ["None."]


def about(document: Document) -> list[str]:
    """Where and when, and with what."""
    lines = []
    for key, value in document.about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {what}" for name, what in value.items())
        elif isinstance(value, list):
            value = ", ".join(str(member) for member in value)
        lines.append(f"- {key}: {value}")
    return ["\n".join(lines)]


def _load_rows(document: Document, load: str) -> Iterator[dict[str, str]]:
    for peer in document.peers():
        row = {"peer": peer}
        for metric, title in COLUMNS.items():
            values = document.values(peer, load, metric)
            if values:
                row[title] = number(Spread.of(list(values.values())).median)
        if len(row) > 1:
            yield row


def _without_empty_columns(
    rows: Sequence[dict[str, str]],
) -> tuple[list[str], list[tuple[str, ...]]]:
    titles = [title for title in ("peer", *COLUMNS.values()) if any(title in row for row in rows)]
    return titles, [tuple(row.get(title, "") for title in titles) for row in rows]


def table(titles: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """One Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return ["\n".join(f"| {' | '.join(line)} |" for line in lines)]


def _around(spread: Spread) -> str:
    return f"{spread.low:.2f} to {spread.high:.2f}"


def number(value: float) -> str:
    """Three digits that matter."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
