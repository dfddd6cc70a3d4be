"""Reads what callgrind dumps (https://valgrind.org/docs/manual/cl-format.html)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Dump", "FunctionCost", "read_dump"]

_TRIGGER = "desc: Trigger: Client Request: "
_SUMMARY = "summary: "
_NAMED = re.compile(r"(c?fn)=\((\d+)\)(?: (.*))?$")
_CALLS = "calls="


@dataclass(slots=True)
class FunctionCost:
    """Instructions of one function: its own, and with those of what it calls."""

    own: int = 0
    inclusive: int = 0


@dataclass(slots=True)
class Dump:
    """What was counted from one request to the next. `name` is what the request gave."""

    name: str = ""
    total: int = 0
    functions: dict[str, FunctionCost] = field(default_factory=dict)


def read_dump(lines: Iterable[str]) -> Dump:
    """One dump. Inclusive costs of functions that call each other in a circle are too high."""
    dump = Dump()
    names: dict[str, str] = {}
    functions: defaultdict[str, FunctionCost] = defaultdict(FunctionCost)
    current = called = ""
    is_call = False
    for raw in lines:
        line = raw.rstrip("\n")
        if line[:1].isdigit() or line[:1] in "+-*":
            # "position cost", no cost being none; behind "calls=" the cost of what is called.
            _, _, text = line.partition(" ")
            cost = int(text) if text else 0
            if not is_call:
                functions[current].own += cost
                functions[current].inclusive += cost
            elif called != current:
                functions[current].inclusive += cost
            is_call = False
        elif line.startswith(_CALLS):
            is_call = True
        elif (match := _NAMED.match(line)) is not None:
            kind, number, name = match.groups()
            if name is not None:
                names[number] = name
            if kind == "fn":
                current = names[number]
            else:
                called = names[number]
        elif line.startswith(_TRIGGER):
            dump.name = line.removeprefix(_TRIGGER)
        elif line.startswith(_SUMMARY):
            dump.total = int(line.removeprefix(_SUMMARY))
    dump.functions = dict(functions)
    return dump
