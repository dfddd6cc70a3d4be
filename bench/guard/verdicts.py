"""Figures against baselines: what has become dearer, what cheaper, what grows. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = [
    "GROWTH",
    "TOLERANCE",
    "WIDE_TOLERANCE",
    "Comparison",
    "Figures",
    "Growth",
    "Verdict",
    "choose_baseline",
    "compare",
    "grown",
    "table",
]

Figures: TypeAlias = Mapping[str, int]
"""{workload: instructions of one repetition}, the reference among them."""

TOLERANCE: Final = 0.05
"""Of a figure's multiple of the reference. Two runs on one platform differ by nothing; patch releases
of Python, libc and httptools move figures by a per cent or two."""

WIDE_TOLERANCE: Final = 0.25
"""When the baseline is another compiler's or another Python's, which moves figures by up to 15 %."""

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
class Comparison:
    """One workload. `baseline` and `now` are multiples of the reference of their own runs, None
    when there is no such figure."""

    name: str
    instructions: int | None
    baseline: float | None
    now: float | None
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


def choose_baseline(
    baselines: Mapping[str, Figures], key: str
) -> tuple[str, Figures, float] | None:
    """(its key, the baseline, the tolerance) for a platform, or None.

    Keys are as `counting.platform_key` makes them. The platform's own comes first; else one of the
    same machine, of the same Python if possible, with a wide tolerance.
    """
    if key in baselines:
        return key, baselines[key], TOLERANCE
    python, machine = _python_and_machine(key)
    kin = [other for other in sorted(baselines) if _python_and_machine(other)[1] == machine]
    if not kin:
        return None
    nearest = min(kin, key=lambda other: _python_and_machine(other)[0] != python)
    return nearest, baselines[nearest], WIDE_TOLERANCE


def _python_and_machine(key: str) -> tuple[str, str]:
    implementation, version, machine, _ = key.split("-", 3)
    return f"{implementation}-{version}", machine


def compare(
    baseline: Figures, now: Figures, reference: str, tolerance: float
) -> list[Comparison]:
    """Every workload of either, in the order of `now`."""
    names = [*now, *(name for name in baseline if name not in now)]
    return [
        _compare_one(name, baseline, now, reference, tolerance)
        for name in names
        if name != reference
    ]


def _compare_one(
    name: str, baseline: Figures, now: Figures, reference: str, tolerance: float
) -> Comparison:
    before = baseline[name] / baseline[reference] if name in baseline else None
    after = now[name] / now[reference] if name in now else None
    if after is None:
        verdict = Verdict.GONE
    elif before is None:
        verdict = Verdict.NEW
    elif after > before * (1 + tolerance):
        verdict = Verdict.DEARER
    elif after < before * (1 - tolerance):
        verdict = Verdict.CHEAPER
    else:
        verdict = Verdict.OK
    return Comparison(name, now.get(name), before, after, verdict)


def grown(now: Figures) -> list[Growth]:
    """The quotients of `GROWTH`."""
    return [Growth(name, now[name] / now[less], limit) for name, less, limit in GROWTH]


def table(comparisons: Iterable[Comparison], growths: Iterable[Growth]) -> str:
    """What is printed."""
    lines = [
        f"{'workload':<36}{'instructions':>13}{'baseline':>10}{'now':>10}{'change':>10}  verdict"
    ]
    for one in comparisons:
        count = "-" if one.instructions is None else f"{one.instructions:,}"
        change = "-" if one.change is None else f"{one.change * 100:+.1f} %"
        lines.append(
            f"{one.name:<36}{count:>13}{_multiple(one.baseline):>10}{_multiple(one.now):>10}"
            f"{change:>10}  {one.verdict.value}"
        )
    lines += ["", f"{'growth':<36}{'limit':>13}{'now':>10}"]
    for growth in growths:
        verdict = "ok" if growth.is_ok else "GROWS"
        lines.append(
            f"{growth.name:<36}{growth.limit:>13.2f}{growth.quotient:>10.3f}{'':>20}  {verdict}"
        )
    return "\n".join(lines)


def _multiple(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
