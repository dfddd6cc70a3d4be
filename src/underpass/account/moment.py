"""Points in time as the API writes them: RFC 3339, with any precision and any offset.

They are kept as they came, so that what is printed is what was sent; `datetime` has six digits of a
second at most, and no year 1 before UTC.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

__all__ = ["NEVER", "Moment"]

_RFC3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?[0-9]*"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_SECONDS: Final = len("0001-01-01T00:00:00")


class Moment(str):
    """A time as text, with a fraction of a second that does not end in 0, and Z for no offset."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Read an RFC 3339 time. Raises ValueError."""
        found = _RFC3339.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a time like 2026-01-02T15:04:05Z (RFC 3339)")
        date, time, fraction, offset = found.groups(default="")
        try:
            datetime.fromisoformat(f"{date}T{time}")
        except ValueError as error:
            raise ValueError(f"{text!r} is not a time: {error}") from None
        if offset[1:] in ("", "00:00"):
            offset = "Z"
        return cls(f"{date}T{time}{fraction.rstrip('0').rstrip('.')}{offset}")

    def __bool__(self) -> bool:
        """Whether it is a point in time at all: `NEVER` stands for none."""
        return self != NEVER

    @property
    def whole(self) -> str:
        """To the second, for tables."""
        return f"{self[:_SECONDS]}{self._offset}"

    @property
    def spoken(self) -> str:
        """As Go prints a time by itself."""
        offset = self._offset.replace(":", "")
        zone = "+0000 UTC" if offset == "Z" else f"{offset} {offset}"
        return f"{self[:10]} {self[11:_SECONDS]}{self._fraction} {zone}"

    @property
    def order(self) -> tuple[int, str]:
        """What an earlier moment has less of: seconds, and the fraction."""
        moment = datetime.fromisoformat(self[:_SECONDS])
        seconds = moment.toordinal() * 86400
        seconds += moment.hour * 3600 + moment.minute * 60 + moment.second
        if (offset := self._offset) != "Z":
            ahead = int(offset[1:3]) * 3600 + int(offset[4:6]) * 60
            seconds -= ahead if offset[0] == "+" else -ahead
        return seconds, self._fraction

    @property
    def _offset(self) -> str:
        return "Z" if self.endswith("Z") else self[-6:]

    @property
    def _fraction(self) -> str:
        return self[_SECONDS : -len(self._offset)]


NEVER: Final = Moment("0001-01-01T00:00:00Z")
"""Go's zero time, which is what an absent one is printed as."""
