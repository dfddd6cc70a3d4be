"""Durations as Go writes them: `5s`, `1m30s`, `100ms`, `-1.5h`.

Configuration files and flags use this form (docs: configuration §2), so the connector reads and
prints it. A duration is kept as seconds in a float.
"""

from __future__ import annotations

import re

__all__ = ["format_duration", "parse_duration"]

_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,  # U+00B5, micro sign
    "μs": 1e-6,  # U+03BC, Greek letter mu
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)

# Go keeps a duration in a signed 64-bit count of nanoseconds; nothing longer can be written.
_LONGEST = 2**63 / 1e9


def parse_duration(text: str) -> float:
    """Read a Go duration string and return seconds.

    Raises ValueError, with an example of the right form, for anything else, a bare number included.
    """
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0.0
    total = 0.0
    at = 0
    while at < len(body):
        part = _PART.match(body, at)
        if part is None:
            break
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not body or at < len(body) or total > _LONGEST:
        raise ValueError(f"{text!r} is not a duration; write it like 30s, 1m30s or 100ms")
    return -total if text[0] == "-" else total


def format_duration(seconds: float) -> str:
    """Write `seconds` as Go prints a duration: `0s`, `1.5ms`, `1m30s`, `24h0m0s`."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    nanoseconds = abs(nanoseconds)
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if nanoseconds < size * 1000:
            return f"{sign}{_decimal(nanoseconds, size)}{unit}"
    minutes, nanoseconds = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(nanoseconds, 1_000_000_000)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _decimal(value: int, size: int) -> str:
    whole, fraction = divmod(value, size)
    if not fraction:
        return str(whole)
    digits = len(str(size)) - 1
    return f"{whole}.{fraction:0{digits}d}".rstrip("0")
