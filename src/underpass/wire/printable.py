"""A peer's words, made fit to be shown."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_SHOWN", "printable"]

MAX_SHOWN: Final = 256
"""Characters of a peer's message that are shown."""


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """`text` from a peer, cut to a line that a terminal can be trusted with."""
    cut = text[:limit]
    return "".join(character if character.isprintable() else " " for character in cut).strip()
