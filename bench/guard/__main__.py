"""`ci/bench-guard`: has the hot path become dearer? See docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench.guard.counting import CountingError, count, platform_key, why_not
from bench.guard.profile import profile
from bench.guard.verdicts import (
    TOLERANCE,
    Comparison,
    Figures,
    Growth,
    Verdict,
    Yardstick,
    choose_yardstick,
    compare,
    grown,
    table,
)
from bench.workloads import REFERENCE, WORKLOADS

BASELINES: Final = Path(__file__).with_name("baselines.json")


def say(message: str) -> None:
    print(f"ci/bench-guard: {message}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/bench-guard", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--update", action="store_true", help="make today's figures the baseline")
    what.add_argument("--profile", choices=WORKLOADS, help="where a workload's instructions go")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    arguments = parser.parse_args()

    if (reason := why_not()) is not None:
        # A CI service on Linux can have valgrind; there a guard that sleeps is a fault.
        is_fault = sys.platform == "linux" and os.environ.get("CI", "") not in ("", "0", "false")
        say(f"{'cannot' if is_fault else 'skipped, cannot'} count instructions: {reason}")
        return int(is_fault)
    try:
        dumps = count()
    except CountingError as error:
        say(str(error))
        return 1
    if arguments.profile:
        print(profile(dumps[arguments.profile], WORKLOADS[arguments.profile].repetitions))
        return 0
    now = {
        name: round(dumps[name].total / workload.repetitions)
        for name, workload in WORKLOADS.items()
    }
    return look(now, platform_key(), update=arguments.update, as_json=arguments.json)


def look(now: Figures, key: str, *, update: bool, as_json: bool) -> int:
    """Compare, print, and perhaps write. Returns the exit status."""
    try:
        baselines: dict[str, Figures] = json.loads(BASELINES.read_text(encoding="utf-8"))
    except ValueError as error:
        say(f"{os.path.relpath(BASELINES)} is no JSON ({error}); after a merge: take either side")
        return 1
    if update:
        yardstick = Yardstick(key, baselines.get(key, {}), TOLERANCE)
    else:
        yardstick = choose_yardstick(baselines, key, now, REFERENCE) or Yardstick("", {}, TOLERANCE)
    comparisons = compare(yardstick.figures, now, yardstick.tolerance)
    growths = grown(now)
    print(
        as_text(key, yardstick, comparisons, growths) if as_json else table(comparisons, growths),
        flush=True,
    )
    if update:
        baselines[key] = now
        BASELINES.write_text(json.dumps(baselines, indent=2) + "\n", encoding="utf-8")
        say(f"wrote the baseline of {key} into {os.path.relpath(BASELINES)}")
        return 0
    if not yardstick.key:
        say(f"no baseline for {key}: only growth was judged")
    elif yardstick.tolerance != TOLERANCE:
        say(
            f"the baseline of {yardstick.key} is another platform's or made with other builds of "
            f"Python or libc than here ({key}): compared within {yardstick.tolerance:.0%} instead "
            f"of {TOLERANCE:.0%}; `ci/bench-guard --update` makes one that fits"
        )
    return judge(comparisons, growths, yardstick.tolerance)


def as_text(
    key: str, yardstick: Yardstick, comparisons: list[Comparison], growths: list[Growth]
) -> str:
    """All of it as JSON."""
    return json.dumps(
        {
            "platform": key,
            "baseline": yardstick.key or None,
            "tolerance": yardstick.tolerance,
            "workloads": [
                {**asdict(one), "change": one.change, "verdict": one.verdict.value}
                for one in comparisons
            ],
            "growth": [{**asdict(one), "ok": one.is_ok} for one in growths],
        },
        indent=2,
    )


def judge(comparisons: list[Comparison], growths: list[Growth], tolerance: float) -> int:
    """Say what is to be done. Returns the exit status."""
    verdicts = {verdict: [c for c in comparisons if c.verdict is verdict] for verdict in Verdict}
    if cheaper := verdicts[Verdict.CHEAPER]:
        say(
            f"{len(cheaper)} cheaper by more than {tolerance:.0%}: keep it so with "
            "`ci/bench-guard --update`"
        )
    elif verdicts[Verdict.NEW] or verdicts[Verdict.GONE]:
        say("the baseline knows other workloads: `ci/bench-guard --update`")
    dearer = verdicts[Verdict.DEARER]
    for one in dearer:
        say(f"dearer by more than {tolerance:.0%}: {one.name}; see --profile {one.name!r}")
    growing = [growth for growth in growths if not growth.is_ok]
    for growth in growing:
        say(f"grows more than {growth.limit:g} times: {growth.name}")
    if dearer:
        say("if the cost is worth it, `ci/bench-guard --update` and say why in the commit")
    if not dearer and not growing and not verdicts[Verdict.NEW]:
        say(f"all is well, within {tolerance:.0%}")
    return int(bool(dearer or growing))


if __name__ == "__main__":
    sys.exit(main())
