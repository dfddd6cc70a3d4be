"""How an access log is asked for. Values only, no effects."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

__all__ = ["CHOICES", "AccessLogOptions"]

CHOICES: Final = {
    "access-log-format": ("json", "combined"),
    "access-log-query": ("omit", "mask", "keep"),
}


class AccessLogOptions(Struct, frozen=True):
    """Where to, a path or `-`; `format` is json or combined; `query` is omit, mask or keep."""

    target: str
    format: str = "json"
    query: str = "omit"

    @classmethod
    def parse(cls, target: str, form: str, query: str) -> AccessLogOptions | None:
        """Options from what a command line gives; None without a target. ValueError for what is no
        choice; its text names the option."""
        for name, given in (("access-log-format", form), ("access-log-query", query)):
            known = CHOICES[name]
            if given not in known:
                choices = ", ".join(known[:-1]) + f" or {known[-1]}"
                raise ValueError(f"--{name} {given!r} is not {choices}")
        return cls(target, form, query) if target else None
