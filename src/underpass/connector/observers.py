"""Looking on at requests: several may look at one exchange, and nobody costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["chained"]

Hook = Callable[..., object] | None


def chained(first: Hook, then: Hook) -> Any:
    """A hook that calls both, one alone if the other is None, or None."""
    if first is None or then is None:
        return then if first is None else first

    def both(*arguments: Any) -> None:
        try:
            first(*arguments)
        finally:
            then(*arguments)

    return both
