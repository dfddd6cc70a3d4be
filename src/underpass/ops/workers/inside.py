"""A worker process from the inside: take the channel, serve it, end with it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from underpass.ops import event_loop
from underpass.ops.workers.channel import Channel
from underpass.ops.workers.logs import LogForwarder, forward_logs
from underpass.ops.workers.process import connect

__all__ = ["Inside", "run_worker"]


class Inside:
    """What every worker does, whatever it serves. `answer` and the unions are a subclass's."""

    requests: Any = None
    notices: Any = None

    def __init__(self) -> None:
        self.channel = Channel(self)
        self._forwarder: LogForwarder | None = None

    async def answer(self, request: Any) -> Any:
        raise NotImplementedError

    def notice(self, notice: Any) -> None:
        raise NotImplementedError

    def log_from(self, level: int) -> None:
        """Log through the channel, from `level` on."""
        self._forwarder = forward_logs(self.channel, level)

    def drained(self) -> None:
        if self._forwarder is not None:
            self._forwarder.report_loss()

    def closed(self) -> None:
        """There is nobody left to work for, or to tell anything."""
        # Not `sys.exit`: nothing is to be waited for, and a thread may be in a long call.
        os._exit(0)


def run_worker(make: Callable[[], Inside]) -> None:
    """The life of a worker process: `make` its inside on a running loop, serve until the end."""
    end = _take_channel()
    _leave_signals_to_the_supervisor()
    event_loop.run(_serve(make, end))


async def _serve(make: Callable[[], Inside], end: socket.socket) -> None:
    inside = make()
    await connect(inside.channel, end)
    await asyncio.Event().wait()  # `closed` ends the process


def _take_channel() -> socket.socket:
    """The socket that came as standard input, which is nothing from now on."""
    end = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    end.setblocking(False)
    return end


def _leave_signals_to_the_supervisor() -> None:
    """A terminal's Ctrl-C and a service manager's SIGTERM reach every process of a service. What
    follows from them, in which order, is the supervisor's decision."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
