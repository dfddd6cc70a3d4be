"""Pages of an operator's own for when there is no answer from an application.

A directory with HTML files: `503.html` is for that status, `4xx.html` and `5xx.html` for all of a
kind, `error.html` for the rest. Where there is none, and for programs that ask for JSON, the edge's
own goes out. In a page, `{{host}}` and the other PLACEHOLDERS stand for what the edge knows; what
came from outside is escaped for HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from underpass.edge.errors import ErrorPagesError

__all__ = ["MAX_PAGE", "PLACEHOLDERS", "ErrorPages"]

MAX_PAGE: Final = 262144
"""Bytes of a file; it is kept in memory, and sent whole."""

PLACEHOLDERS: Final = ("status", "title", "detail", "advice", "host", "ray", "cause", "hop")

_FILE: Final = re.compile(r"[45](?:\d\d|xx)|error", re.ASCII)
_PLACEHOLDER: Final = re.compile(r"\{\{ *([a-z_]+) *\}\}", re.ASCII)


class ErrorPages:
    """The pages of one directory, as they were when they were read."""

    def __init__(self, pages: Mapping[str, list[str]]) -> None:
        self._pages = pages

    @classmethod
    def load(cls, directory: Path) -> ErrorPages:
        """Read the pages that are there. Raises ErrorPagesError: there are none, one cannot be
        read, is too large, is no UTF-8, or has a placeholder that nothing is known for."""
        pages: dict[str, list[str]] = {}
        try:
            files = sorted(directory.glob("*.html"))
            for file in files:
                if _FILE.fullmatch(file.stem):
                    pages[file.stem] = _pieces(file)
        except OSError as error:
            raise ErrorPagesError(
                f"error page {error.filename or directory} cannot be read: {error.strerror}"
            ) from error
        if not pages:
            raise ErrorPagesError(
                f"{directory} has no error pages: names are like 503.html, 5xx.html or error.html"
            )
        return cls(pages)

    def body(self, status: int, values: Mapping[str, str]) -> bytes | None:
        """The page for a status, with `values` by placeholder; None when there is none."""
        for name in (str(status), f"{status // 100}xx", "error"):
            pieces = self._pages.get(name)
            if pieces is not None:
                return "".join(
                    html.escape(values.get(piece, "")) if number % 2 else piece
                    for number, piece in enumerate(pieces)
                ).encode()
        return None


def _pieces(file: Path) -> list[str]:
    """Text and names of placeholders by turns."""
    with file.open("rb") as content:
        body = content.read(MAX_PAGE + 1)
    if len(body) > MAX_PAGE:
        raise ErrorPagesError(f"error page {file} has more than {MAX_PAGE} bytes")
    try:
        pieces = _PLACEHOLDER.split(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ErrorPagesError(f"error page {file} is not UTF-8") from None
    for name in pieces[1::2]:
        if name not in PLACEHOLDERS:
            known = ", ".join(PLACEHOLDERS)
            raise ErrorPagesError(
                f"error page {file}: nothing is known for {{{{{name}}}}}; there are {known}"
            )
    return pieces
