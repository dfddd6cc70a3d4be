"""What the machine is and how full it is (docs: observability §1, `/diag/system`).

The keys are cloudflared's, whatever they are called: `goVersion` is Python's. What a platform does
not tell is left out, and `errors` says so.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from underpass.version import VERSION

__all__ = ["collect_system_information"]

COMMAND_SECONDS: Final = 10.0
"""For a command of the system, which may wait for a file server that is gone."""

MAX_OUTPUT: Final = 256 * 1024
"""Bytes that are taken of what a command says."""

_KIB: Final = 1024

_Facts = dict[str, Any]


class _UnreadableError(Exception):
    """Something could not be found out; `raw` is what was there instead."""

    def __init__(self, why: str, raw: str = "") -> None:
        super().__init__(why)
        self.raw = raw


def collect_system_information() -> dict[str, Any]:
    """`{"info": …, "errors": …}`; sizes are KiB. Blocks for as long as the system's commands do."""
    sources: dict[str, Callable[[], _Facts]] = {
        "memoryInformationError": _memory,
        "fileDescriptorsInformationError": _file_descriptors,
        "operatingSystemInformationError": _operating_system,
        "diskVolumeInformationError": _disks,
    }
    info: _Facts = {}
    errors: dict[str, dict[str, str]] = {}
    for name, source in sources.items():
        facts, error = _asked(source)
        info |= facts
        if error is not None:
            errors[name] = error
    info |= {
        "cloudflaredVersion": VERSION,
        "goVersion": "python" + platform.python_version(),
        "goArch": platform.machine(),
    }
    return {"info": info, "errors": errors}


def _asked(source: Callable[[], _Facts]) -> tuple[_Facts, dict[str, str] | None]:
    try:
        return source(), None
    except _UnreadableError as error:
        return {}, {"error": str(error), "rawInfo": error.raw}
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {}, {"error": str(error) or type(error).__name__, "rawInfo": ""}


def _memory() -> _Facts:
    if sys.platform != "linux":
        raise _UnreadableError("not read on this platform")
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = rest.split()
    try:
        total, available = (int(sizes[name][0]) for name in ("MemTotal", "MemAvailable"))
    except (KeyError, IndexError, ValueError):
        raise _UnreadableError("/proc/meminfo has another form", text) from None
    return {"memoryMaximum": total, "memoryCurrent": total - available}


def _file_descriptors() -> _Facts:
    if sys.platform == "linux":
        text = Path("/proc/sys/fs/file-nr").read_text(encoding="ascii")
        used, _, most = text.split()
    elif sys.platform == "darwin":
        used, most = _output("sysctl", "-n", "kern.num_files", "kern.maxfiles").split()
    else:
        raise _UnreadableError("not read on this platform")
    return {"fileDescriptorMaximum": int(most), "fileDescriptorCurrent": int(used)}


def _operating_system() -> _Facts:
    system = platform.uname()
    return {
        "osSystem": system.system,
        "hostName": system.node,
        "osVersion": system.release,
        "osRelease": system.version,
        "architecture": system.machine,
    }


def _disks() -> _Facts:
    if sys.platform == "win32":
        import shutil
        import string

        drives = [f"{letter}:\\" for letter in string.ascii_uppercase]
        usages = [(drive, shutil.disk_usage(drive)) for drive in drives if os.path.exists(drive)]
        return {"disk": [_disk(name, use.total // _KIB, use.used // _KIB) for name, use in usages]}
    return {"disk": read_df(_output("df", "-k"))}


def read_df(text: str) -> list[dict[str, Any]]:
    """The volumes in what `df -k` prints."""
    disks = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 6 or not (words[1].isdigit() and words[2].isdigit()):
            raise _UnreadableError("df -k has another form", text)
        disks.append(_disk(words[0], int(words[1]), int(words[2])))
    return disks


def _disk(name: str, size: int, used: int) -> dict[str, Any]:
    return {"name": name, "sizeMaximum": size, "sizeCurrent": used}


def _output(*command: str) -> str:
    """What a command of the system prints. Its exit code may complain of a part (`df` does)."""
    done = subprocess.run(  # noqa: S603 - the program's own words
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=COMMAND_SECONDS,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    return done.stdout[:MAX_OUTPUT].decode("utf-8", "replace")
