"""Sizes as people write them: `500`, `64kB`, `100MB`, `1.5GiB`."""

from __future__ import annotations

import re

__all__ = ["parse_size"]

MAX_SIZE = 2**62
"""Bytes; what is counted in 64 bits can go beyond it by any message."""

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,9})?) ?([a-zA-Z]{0,3})", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes: decimal units in thousands, `KiB` and its like in 1,024; case does not matter.

    Raises ValueError, with an example of the right form.
    """
    size = _SIZE.fullmatch(text)
    unit = _UNITS.get(size[2].lower()) if size else None
    if size is None or unit is None:
        raise ValueError(f"{text!r} is not a size; write it like 500kB, 100MB or 1.5GiB")
    count = round(float(size[1]) * unit) if "." in size[1] else int(size[1]) * unit
    if count > MAX_SIZE:
        raise ValueError(f"{text!r} is more than anything can have")
    return count
