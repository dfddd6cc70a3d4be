"""Commands that are run to their end, with nothing of this machine's own configuration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import underpass

from .patience import PATIENCE

_KEPT = frozenset({"PATH", "LANG", "SYSTEMROOT", "TEMP", "TMP"})


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def run(
    program: Sequence[str],
    arguments: Sequence[str],
    home: Path,
    environment: dict[str, str] | None = None,
) -> Done:
    """Run a command in `home`, which is also its home directory."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT}
    done = subprocess.run(
        [*program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        cwd=home,
        env=kept
        | {"HOME": str(home), "PYTHONPATH": str(Path(underpass.__file__).parents[1])}
        | (environment or {}),
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())
