"""Counts the instructions of every workload, in one process under valgrind's callgrind.

Instructions are the same however busy the machine is. What would make them differ from run to run
is fixed here: string hashing, randomness (see `counted`), and which of libc's routines is chosen by
the processor's features, so that machines of one architecture agree.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.guard.dumps import Dump, read_dump

__all__ = ["CountingError", "count", "platform_key", "why_not"]

ROOT: Final = Path(__file__).resolve().parents[2]

TIMEOUT: Final = 600
"""Seconds; a run takes about ten."""

CLIENT_REQUESTS: Final = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
"""

PLAIN_ROUTINES: Final = "glibc.cpu.hwcaps=" + ",".join(
    f"-{feature}"
    for feature in (
        *("AVX2", "AVX2_Usable", "AVX512F", "AVX512VL", "AVX512BW", "AVX_Fast_Unaligned_Load"),
        *("ERMS", "FSRM", "BMI2", "SSE4_2", "SSSE3", "Fast_Unaligned_Copy", "Fast_Copy_Backward"),
    )
)
"""Without this a copy is one instruction a byte on one processor (`rep movsb`), one for 32 bytes on
another. glibc ignores names it does not know."""


class CountingError(Exception):
    """Valgrind, or a workload under it, failed."""


def why_not() -> str | None:
    """Why nothing can be counted here, or None."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (Debian: valgrind)"
    if shutil.which("cc") is None:
        return "there is no C compiler, cc"
    try:
        _run(["cc", "-fsyntax-only", "-x", "c", "-"], text=CLIENT_REQUESTS)
    except CountingError:
        return "valgrind's headers are not installed (Fedora: valgrind-devel)"
    return None


def platform_key() -> str:
    """What figures depend on, like "cpython-3.11-x86_64-gcc-12"."""
    python = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
    return f"{python}-{platform.machine().lower()}-{_compiler()}"


def _compiler() -> str:
    """Name and major version of what compiled the core, from the mark compilers leave in it."""
    from underpass.core import h2

    content = Path(h2.__file__).read_bytes()
    for name, pattern in (("clang", rb"clang version (\d+)"), ("gcc", rb"GCC: \(.*?\) (\d+)")):
        if (found := re.search(pattern, content)) is not None:
            return f"{name}-{found[1].decode()}"
    return "unknown"


def count() -> dict[str, Dump]:
    """{workload: what callgrind counted}. Raises CountingError."""
    with tempfile.TemporaryDirectory(prefix="bench-guard-") as directory:
        library = Path(directory, "requests.so")
        _run(
            ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library)],
            text=CLIENT_REQUESTS,
        )
        out = Path(directory, "out")
        _run(
            [
                "valgrind",
                "--quiet",
                "--tool=callgrind",
                "--instr-atstart=no",
                f"--callgrind-out-file={out}",
                *(sys.executable, "-m", "bench.guard.counted", str(library)),
            ],
            environment={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": str(ROOT),
                "PYTHONHASHSEED": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
                "GLIBC_TUNABLES": PLAIN_ROUTINES,
            },
        )
        dumps = []
        for path in Path(directory).glob("out.*"):
            with path.open(encoding="utf-8", errors="replace") as lines:
                dumps.append(read_dump(lines))
    return {dump.name: dump for dump in dumps}


def _run(
    command: list[str], *, text: str | None = None, environment: dict[str, str] | None = None
) -> None:
    try:
        done = subprocess.run(
            command,
            input=text,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CountingError(str(error)) from error
    if done.returncode:
        raise CountingError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
