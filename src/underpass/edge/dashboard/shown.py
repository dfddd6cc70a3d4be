"""Values as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Final

from markupsafe import Markup

from underpass.edge.pages import WHERE
from underpass.wire.causes import Hop

__all__ = ["FILTERS", "ago", "clock", "moment", "size", "took", "where"]

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


def moment(at: datetime | None) -> Markup:
    """A time, to the second, in UTC."""
    if at is None:
        return Markup("never")
    return Markup('<time datetime="{}">{}</time>').format(
        at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%Y-%m-%d %H:%M:%S")
    )


def clock(seconds: float) -> Markup:
    """A time of day, of seconds since 1970."""
    at = datetime.fromtimestamp(seconds, timezone.utc)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), at.strftime("%Y-%m-%d UTC"), at.strftime("%H:%M:%S")
    )


def ago(at: datetime, now: datetime) -> str:
    """How long it is since, or until, a moment, roughly."""
    seconds = (now - at).total_seconds()
    length = span(abs(seconds))
    if seconds < 0:
        return f"in {length}"
    return "just now" if seconds < 1 else f"{length} ago"


def span(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, size_of_unit in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 2 * size_of_unit or (size_of_unit == _MINUTE and seconds >= size_of_unit):
            return f"{int(seconds // size_of_unit)} {unit}"
    return f"{int(seconds)} s"


def took(seconds: float | None) -> str:
    """How long a request took."""
    if seconds is None:
        return "under way"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s"


def size(count: int) -> str:
    """Octets."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def where(hop: str) -> str:
    """A hop of a request's way, as it follows a cause."""
    return WHERE[Hop(hop)]


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "moment": moment,
    "clock": clock,
    "ago": ago,
    "took": took,
    "size": size,
    "where": where,
}
