"""An sdist, built in a clean environment, becomes a wheel that installs and runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the script needs a POSIX shell")
def test_sdist_and_wheel_are_complete_and_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "ci" / "wheels"), str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "underpass version" in done.stdout
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".whl", ".gz"]
