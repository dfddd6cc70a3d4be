"""What a request's path may mean, so that the rule chosen for it is the rule meant.

A rule's pattern is about a path; a request brings an encoding of one, and whoever stands behind the
connector may read that otherwise than the pattern does: `/static/../admin`, `/static/%2e%2e/admin`
and `/static%2f..%2fadmin` are `/admin` to some servers. Were the rule chosen by one reading and the
answer given by another, the rule would protect nothing. So a path is matched in every reading that
servers are known to have, and one whose readings disagree is not served. The bytes go to the origin
as they came in any case.

The readings: decoded once; with an encoded slash being part of a name; decoded until nothing is
encoded; each with its dot segments removed (RFC 3986 §5.2.4), backslashes taken for slashes. Runs
of slashes stay (RFC 3986 knows no rule that would join them), except where a dot segment leaves it
open what it removes.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

__all__ = ["MAX_DOUBTFUL", "MAX_ROUNDS", "readings"]

MAX_ROUNDS: Final = 4
"""Times that a path may be encoded over; nobody means more."""

MAX_DOUBTFUL: Final = 8192
"""Bytes of a path that is looked at in several ways: six times that many are no more to match than
the longest head there can be."""

_ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
_SLASHES = re.compile(rb"/{2,}")
_DOTS: Final = frozenset({b".", b".."})


def readings(path: bytes) -> tuple[str, ...]:
    """The different paths that `path`, without a query, may mean, the canonical one first.

    None when it is encoded over and over, or longer than MAX_DOUBTFUL. Bytes that are no UTF-8
    become surrogates.
    """
    if len(path) > MAX_DOUBTFUL:
        return ()
    once = unquote_to_bytes(path)
    whole = _decoded(once)
    if whole is None:
        return ()
    found = {_without_dots(once): None, once: None}
    if _ENCODED_SLASH.search(path):
        kept = unquote_to_bytes(_ENCODED_SLASH.sub(b"%252F", path))
        found |= {_without_dots(kept): None, kept: None}
    slashed = whole.replace(b"\\", b"/")
    plain = _without_dots(slashed)
    found[plain] = None
    if plain != slashed:
        found[_without_dots(_SLASHES.sub(b"/", slashed))] = None
    return tuple(path.decode("utf-8", "surrogateescape") for path in found)


def _decoded(path: bytes) -> bytes | None:
    """`path`, decoded once, until nothing is encoded; None when that takes too long."""
    for _ in range(MAX_ROUNDS - 1):
        before, path = path, unquote_to_bytes(path)
        if path == before:
            return path
    return path if unquote_to_bytes(path) == path else None


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 §5.2.4; of `..;x` the parameter is not looked at, as some servers do not."""
    if b"/." not in path:
        return path
    first, *segments = path.split(b"/")
    kept: list[bytes] = []
    for segment in segments:
        name = segment.partition(b";")[0] if segment.startswith(b".") else segment
        if name not in _DOTS:
            kept.append(segment)
        elif name == b".." and kept:
            kept.pop()
    if segments and segments[-1].partition(b";")[0] in _DOTS:
        kept.append(b"")
    return b"/".join([first, *kept])
