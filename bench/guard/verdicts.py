"""Figures against baselines: what has become dearer, what cheaper, what grows. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = [
    "DRIFT",
    "GROWTH",
    "TOLERANCE",
    "WIDE_TOLERANCE",
    "Comparison",
    "Figures",
    "Growth",
    "Verdict",
    "Yardstick",
    "choose_yardstick",
    "compare",
    "grown",
    "table",
]

Figures: TypeAlias = Mapping[str, int]
"""{workload: instructions of one repetition}, those of the reference among them."""

TOLERANCE: Final = 0.03
"""Runs of the same builds differ by 0.6 % at most, and unrelated changes that move memory about
make no more than 1 %; a tenth of a request's cost that becomes 1.3 times as dear makes 3 %."""

DRIFT: Final = 0.02
"""Of the reference, which runs nothing of ours: beyond it Python or libc are other builds than the
baseline's. Two builds of Python 3.11 were 11 % apart."""

WIDE_TOLERANCE: Final = 0.25
"""For a baseline of another platform or build. From Python 3.11 to 3.12 what is mostly Python
became 22 % dearer, requests 10 %."""

GROWTH: Final = (
    ("connector GET among 10,000 streams", "connector GET among 100 streams", 1.2),
    ("ingress match, 10,000 rules", "ingress match, 10 rules", 1.2),
    ("router lookup, 10,000 routes", "router lookup, 10 routes", 1.2),
)
"""(workload, the same on less, limit of the quotient). These need no baseline."""


class Verdict(enum.Enum):
    """What became of one workload."""

    OK = "ok"
    DEARER = "DEARER"
    CHEAPER = "cheaper"
    NEW = "no baseline"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What figures are compared with: the baseline of platform `key`."""

    key: str
    figures: Figures
    tolerance: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One workload: instructions then and now, None where there is no figure."""

    name: str
    baseline: int | None
    now: int | None
    verdict: Verdict

    @property
    def change(self) -> float | None:
        """0.1 means ten per cent dearer."""
        if self.baseline is None or self.now is None:
            return None
        return self.now / self.baseline - 1


@dataclass(frozen=True, slots=True)
class Growth:
    """How many times as dear a workload is as the same on less."""

    name: str
    quotient: float
    limit: float

    @property
    def is_ok(self) -> bool:
        return self.quotient <= self.limit


def choose_yardstick(
    baselines: Mapping[str, Figures], key: str, now: Figures, reference: str
) -> Yardstick | None:
    """What to compare the figures of platform `key` with; None when nothing is near enough.

    Keys are as `counting.platform_key` makes them. The platform's own baseline comes first, else
    one of the same machine, of the same Python if possible. The tolerance is wide unless it is its
    own and the reference shows that it was made with the same builds.
    """
    python, machine = _python_and_machine(key)
    kin = [other for other in sorted(baselines) if _python_and_machine(other)[1] == machine]
    if not kin:
        return None
    nearest = min(kin, key=lambda other: (other != key, _python_and_machine(other)[0] != python))
    figures = baselines[nearest]
    drift = abs(now[reference] - figures[reference])
    is_same = nearest == key and drift <= DRIFT * figures[reference]
    return Yardstick(nearest, figures, TOLERANCE if is_same else WIDE_TOLERANCE)


def _python_and_machine(key: str) -> tuple[str, str]:
    implementation, version, machine, _ = key.split("-", 3)
    return f"{implementation}-{version}", machine


def compare(baseline: Figures, now: Figures, tolerance: float) -> list[Comparison]:
    """Every workload of either, in the order of `now`."""
    names = [*now, *(name for name in baseline if name not in now)]
    return [
        Comparison(
            name,
            baseline.get(name),
            now.get(name),
            _verdict(baseline.get(name), now.get(name), tolerance),
        )
        for name in names
    ]


def _verdict(before: int | None, after: int | None, tolerance: float) -> Verdict:
    if after is None:
        return Verdict.GONE
    if before is None:
        return Verdict.NEW
    if after > before * (1 + tolerance):
        return Verdict.DEARER
    return Verdict.CHEAPER if after < before * (1 - tolerance) else Verdict.OK


def grown(now: Figures) -> list[Growth]:
    """The quotients of `GROWTH`."""
    return [Growth(name, now[name] / now[less], limit) for name, less, limit in GROWTH]


def table(comparisons: Iterable[Comparison], growths: Iterable[Growth]) -> str:
    """What is printed."""
    lines = [f"{'instructions':<38}{'baseline':>12}{'now':>12}{'change':>10}  verdict"]
    for one in comparisons:
        change = "-" if one.change is None else f"{one.change * 100:+.1f} %"
        lines.append(
            f"{one.name:<38}{_count(one.baseline):>12}{_count(one.now):>12}{change:>10}"
            f"  {one.verdict.value}"
        )
    lines += ["", f"{'growth, times':<38}{'limit':>12}{'now':>12}"]
    for growth in growths:
        verdict = "ok" if growth.is_ok else "GROWS"
        lines.append(
            f"{growth.name:<38}{growth.limit:>12.2f}{growth.quotient:>12.3f}{'':>10}  {verdict}"
        )
    return "\n".join(lines)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
