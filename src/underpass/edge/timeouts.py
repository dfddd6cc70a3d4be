"""How long a visitor's request may take, and its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from underpass.edge.errors import OptionsError

__all__ = ["DEFAULT_TIMEOUTS", "Timeouts"]

FIRST_BYTE_SECONDS: Final = 100.0
"""How long an origin may take to begin its response, as at Cloudflare."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, measured by ticks of the loop, of which there is one a second.

    Raises:
        OptionsError: one is not positive, or not a number.
    """

    first_byte: float = FIRST_BYTE_SECONDS
    """Until the response begins, from the last of the request that has come."""
    idle: float = 0.0
    """Without a byte of content in either direction once it has begun; 0: for ever."""
    total: float = 0.0
    """From the request's head to the end of the response, WebSockets excepted; 0: for ever."""

    def __post_init__(self) -> None:
        for option, seconds in (
            ("--first-byte-timeout", self.first_byte),
            ("--idle-timeout", self.idle),
            ("--request-timeout", self.total),
        ):
            if not 0 <= seconds < float("inf"):
                raise OptionsError(f"{option} {seconds:g}: give a number of seconds")
        if not self.first_byte:
            raise OptionsError("--first-byte-timeout 0: nothing would ever be answered")


DEFAULT_TIMEOUTS: Final = Timeouts()
