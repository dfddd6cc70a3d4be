"""How this program was started, so that it can be started again as it is installed now."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["own_command"]


def own_command(
    original: Sequence[str] | None = None,
    program: str | None = None,
    interpreter: str | None = None,
) -> list[str]:
    """The command line of this process, for a new one in the same directory.

    A script that can be executed names its own interpreter, and may name another one by now: an
    installation that was replaced brings its own. Else the interpreter is the one that runs here,
    with its options.
    """
    original = list(sys.orig_argv) if original is None else list(original)
    program = sys.argv[0] if program is None else program
    interpreter = sys.executable if interpreter is None else interpreter
    if len(original) > 1 and original[1] == program and _is_script(program):
        return [os.path.abspath(program), *original[2:]]
    return [interpreter, *original[1:]]


def _is_script(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(2) == b"#!" and os.access(path, os.X_OK)
    except OSError:
        return False
