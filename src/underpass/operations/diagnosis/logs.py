"""The log of a running connector, from wherever it is written."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from msgspec import Struct

from underpass.operations.diagnosis.instance import MAX_ENTRY
from underpass.operations.diagnosis.tools import ToolError, run_tool

__all__ = ["LogPlace", "collect_logs"]

LINES: Final = "10000"
"""Of a container's log."""

AGE: Final = timedelta(days=14)

MAX_FILES: Final = 16
"""Of a log directory, the newest ones."""

LOG_SECONDS: Final = 15.0


class LogPlace(Struct, frozen=True):
    """Which connector's log is wanted.

    `flags` are those of the connector (`/diag/configuration`); `service` is the name of the service
    it would be, `underpass` or `cloudflared`; `container` and `pod` are for those that run in one.
    """

    flags: Mapping[str, str]
    service: str = "underpass"
    container: str = ""
    pod: str = ""


def collect_logs(place: LogPlace, *, root: Path = Path("/"), platform: str = sys.platform) -> str:
    """The newest part of the log. Raises ToolError."""
    since = (datetime.now(timezone.utc) - AGE).strftime("%Y-%m-%dT%H:%M:%SZ")
    if place.pod:
        command = ["kubectl", "logs", place.pod, "--since-time", since, "--tail", LINES]
        return run_tool(
            [*command, *(["-c", place.container] if place.container else [])], LOG_SECONDS
        )
    if place.container:
        return run_tool(
            ["docker", "logs", "--tail", LINES, "--since", since, place.container], LOG_SECONDS
        )
    if place.flags.get("logfile"):
        return _tails([Path(place.flags["logfile"])])
    if place.flags.get("log-directory"):
        return _directory(Path(place.flags["log-directory"]))
    return _service_log(place.service, root, platform)


def _service_log(service: str, root: Path, platform: str) -> str:
    if platform == "linux" and (root / f"etc/systemd/system/{service}.service").exists():
        return run_tool(
            ["journalctl", "--no-pager", "--since", "2 weeks ago", "-u", f"{service}.service"],
            LOG_SECONDS,
        )
    places = [root / f"var/log/{service}.err"]
    if platform == "darwin":
        name = "underpass" if service == "underpass" else "com.cloudflare.cloudflared"
        libraries = (root / "Library", Path.home() / "Library")
        places = [library / "Logs" / f"{name}.err.log" for library in libraries]
    for place in places:
        if place.exists():
            return _tails([place])
    raise ToolError(
        "the connector writes no log file and is no service of this machine: give it --logfile, "
        "or this command --diag-container-id, --diag-pod-id or --no-diag-logs"
    )


def _directory(directory: Path) -> str:
    try:
        files = [path for path in directory.iterdir() if path.is_file()]
        newest = sorted(files, key=lambda path: path.stat().st_mtime)[-MAX_FILES:]
    except OSError as error:
        raise ToolError(f"cannot read the log directory {directory}: {error.strerror}") from None
    return _tails(newest)


def _tails(paths: Sequence[Path]) -> str:
    """The ends of files, each with as much as all of them may have together, shared equally."""
    if not paths:
        raise ToolError("the log directory is empty")
    share = MAX_ENTRY // len(paths)
    return "".join([_tail(path, share) for path in paths])


def _tail(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit))
            text = file.read(limit).decode("utf-8", "replace")
    except OSError as error:
        raise ToolError(f"cannot read the log {path}: {error.strerror}") from None
    if size > limit:
        return f"{path}, the last {limit} bytes of {size}:\n{text.partition(chr(10))[2]}"
    return f"{path}:\n{text}"
