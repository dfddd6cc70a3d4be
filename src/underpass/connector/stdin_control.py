"""Commands on standard input, for trials (`--stdin-control`): `reconnect [DELAY]` and `help`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import threading
from collections.abc import Callable
from typing import Final, TextIO

from underpass.ops.durations import parse_duration

__all__ = ["StdinControl"]

MAX_LINE: Final = 1024
MAX_DELAY: Final = 3600.0
"""Seconds."""

_HELP: Final = (
    "Supported command: reconnect [delay] - restarts one randomly chosen connection with optional "
    "delay before reconnect"
)

_log = logging.getLogger(__name__)


class StdinControl:
    """Reads commands until the input ends.

    `reconnect(index, delay)` is called on the running loop; there are `count` connections.
    """

    def __init__(
        self, reconnect: Callable[[int, float], object], count: int, stream: TextIO | None = None
    ) -> None:
        self._reconnect = reconnect
        self._count = count
        self._stream = stream or sys.stdin
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Read in a thread, which may be waiting for a line when the process ends."""
        threading.Thread(target=self._read, name="stdin-control", daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nothing is left to control
            while line := self._stream.readline(MAX_LINE):
                self._loop.call_soon_threadsafe(self.obey, line.strip())

    def obey(self, line: str) -> None:
        """Do what one line asks for."""
        command, _, argument = line.partition(" ")
        if not command:
            return
        if command == "reconnect":
            self._obey_reconnect(argument.strip())
            return
        if command != "help":
            _log.info("Unknown command", extra={"command": line})
        _log.info(_HELP)

    def _obey_reconnect(self, argument: str) -> None:
        try:
            delay = parse_duration(argument) if argument else 0.0
        except ValueError as error:
            _log.error("%s", error)
            return
        if not 0 <= delay <= MAX_DELAY:
            _log.error("the delay %s is not between 0s and 1h", argument)
            return
        index = random.randrange(self._count)  # noqa: S311 - any will do
        _log.info("Reconnecting", extra={"connIndex": index, "delay": delay})
        self._reconnect(index, delay)
