"""What a process tells the service manager that started it: sd_notify(3).

A datagram to the socket that the manager names in NOTIFY_SOCKET; without one nothing is told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator

__all__ = ["ready", "reloading", "stopping", "succeeded_by"]

_log = logging.getLogger(__name__)
_told_ready = False


def ready(*, is_told: bool = False) -> None:
    """The start is over: a connector has a link, an edge listens. `is_told`: it need not be said,
    another process does (`succeeded_by`)."""
    global _told_ready
    _told_ready = True
    if not is_told:
        _tell("READY=1")


def succeeded_by(pid: int) -> None:
    """Another process is the service's main one from now on, and it is ready."""
    _tell(f"MAINPID={pid}", "READY=1")


def stopping() -> None:
    """The end has begun."""
    _tell("STOPPING=1")


@contextlib.contextmanager
def reloading() -> Iterator[None]:
    """While the configuration is read again. Before the start is over there is nothing to tell."""
    if not _told_ready:
        yield
        return
    _tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        yield
    finally:
        _tell("READY=1")


def _tell(*assignments: str) -> None:
    import socket

    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.setblocking(False)
        try:
            notifier.sendto("\n".join(assignments).encode("ascii"), address)
        except OSError as error:
            _log.error("Unable to notify the service manager", extra={"error": str(error)})
