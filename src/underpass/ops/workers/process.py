"""One worker process, as the supervisor has it: from its start to what it died of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import underpass
from underpass.ops.workers.channel import Channel, Talker

__all__ = ["WorkerProcess", "connect", "words"]

EXIT_SECONDS: Final = 3.0
"""For a worker to end once its channel is closed; then it is killed."""

_log = logging.getLogger(__name__)

# The package this process runs, and nothing out of the directory it happens to be in.
_PROGRAM: Final = (
    "import sys; sys.path = [sys.argv[1], *filter(None, sys.path)]; "
    "from {module} import main; main()"
)


class WorkerProcess:
    """A running worker. `channel` speaks with it; `ended` is done when it is gone."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self._process = process
        self.channel = channel
        self._watching = asyncio.ensure_future(self._watch())

    @classmethod
    async def start(
        cls, module: str, talker: Talker, descriptors: Sequence[int] = ()
    ) -> WorkerProcess:
        """Start a fresh interpreter that calls `main()` of `module`. Raises OSError.

        It inherits `descriptors` under their numbers, besides the standard ones.

        The worker's end of the channel is its standard input, and is taken from there by
        `ops.workers.inside`; standard output and error are ours.
        """
        starting = asyncio.ensure_future(cls._start(module, talker, descriptors))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Half a start would leave a process that nobody waits for.
            await asyncio.wait({starting})
            if starting.exception() is None:
                starting.result().kill()
                await starting.result().ended()
            raise

    @classmethod
    async def _start(cls, module: str, talker: Talker, descriptors: Sequence[int]) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        with contextlib.closing(theirs):
            try:
                process = await _spawn(module, theirs, descriptors)
            except BaseException:
                ours.close()
                raise
        channel = Channel(talker)
        ours.setblocking(False)
        try:
            await connect(channel, ours)
        except BaseException:
            process.kill()
            ours.close()
            raise
        return cls(process, channel)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return not self._watching.done()

    async def ended(self) -> str:
        """Wait for its end. What it was, in words: `exit code 1`, `signal SIGKILL`."""
        return await asyncio.shield(self._watching)

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self) -> None:
        """Close the channel, and see that the process ends, within EXIT_SECONDS."""
        self.channel.close()
        await self.ended()

    async def _watch(self) -> str:
        exited = asyncio.ensure_future(self._process.wait())
        closed = asyncio.ensure_future(self.channel.wait_closed())
        try:
            await asyncio.wait({exited, closed}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({exited}, timeout=EXIT_SECONDS)
            if not exited.done():
                self.kill()
            code = await exited
            # What it said last is still in the socket.
            await asyncio.wait({closed}, timeout=EXIT_SECONDS)
        finally:
            exited.cancel()
            closed.cancel()
            self.channel.close()
        return words(code)


async def connect(channel: Channel, end: socket.socket) -> None:
    """Put `channel` on its end of the pair."""
    # By socket pair, so on systems with sockets in the file system's name space only; the
    # setting that asks for workers is refused elsewhere.
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=end)


async def _spawn(
    module: str, theirs: socket.socket, descriptors: Sequence[int]
) -> asyncio.subprocess.Process:
    command = [
        sys.executable,
        *(["-I"] if sys.flags.isolated else []),
        *(f"-W{option}" for option in sys.warnoptions),
        "-c",
        _PROGRAM.format(module=module),
        str(Path(underpass.__file__).parents[1]),
    ]
    # A session of its own: Ctrl-C in a terminal is the supervisor's to deal with.
    return await asyncio.create_subprocess_exec(
        *command, stdin=theirs.fileno(), start_new_session=True, pass_fds=descriptors
    )


def words(code: int) -> str:
    """How a process ended: `exit code 1`, `signal SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
