"""Bytes that must not be printed."""

from __future__ import annotations


class Secret(bytes):
    """Bytes whose repr and str show their length only, so that no log or traceback has more.

    Compare received secrets with :func:`hmac.compare_digest`, not with ``==``.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<secret of {len(self)} bytes>"

    __str__ = __repr__
