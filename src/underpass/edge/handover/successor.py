"""The new process, as the old one sees it: started, given everything, watched until it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from underpass.edge.errors import HandoverError
from underpass.edge.handover import VARIABLE, messages
from underpass.edge.listening import KeptSocket
from underpass.edge.worker_messages import PeerIsUp
from underpass.ops.workers.channel import Channel
from underpass.ops.workers.process import connect, words
from underpass.version import VERSION

__all__ = ["START_SECONDS", "TAKE_SECONDS", "Heir", "Successor"]

START_SECONDS: Final = 60.0
"""For the new process to serve visitors and connectors; then it is ended."""

TAKE_SECONDS: Final = 30.0
"""For it to take over the rest."""

EXIT_SECONDS: Final = 5.0
"""For a process to end whose channel is closed; then it is killed."""

MAX_LAST_WORDS: Final = 2048
"""Bytes kept of what it writes before it has its own standard error."""

_log = logging.getLogger("underpass.edge")


class Heir(Protocol):
    """What the old process does for the new one."""

    def estate(self) -> Sequence[KeptSocket]:
        """The sockets it gets."""

    def kept_aside(self) -> Sequence[tuple[UUID, UUID]]:
        """The connectors and links that get nothing new."""

    async def introduce(self, successor: Successor) -> None:
        """Tell it of the links there are."""

    async def let_go_of_control(self) -> None:
        """Change nothing any more."""

    def notice(self, notice: Any) -> None:
        """Take in what it has told of its links."""

    async def close_links(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        """Give up links."""


class Successor:
    """A process of `command`; call `start` once.

    Args:
        edge: the old process' own.
        lock: the descriptor that holds the lock of the data directory.
        numbers: what the old one's processes are called.
    """

    requests = messages.NewRequest
    notices = messages.NewNotice

    def __init__(self, command: Sequence[str], edge: Heir, lock: int, numbers: range) -> None:
        self.workers: set[int] = set()
        """What its processes are called, as far as they have told."""
        self.gone = asyncio.Event()
        self.channel = Channel(self)
        self._command = list(command)
        self._edge = edge
        self._lock = lock
        self._numbers = numbers
        self._process: subprocess.Popen[bytes] | None = None
        self._standard_error = -1
        self._last_words = b""
        self._said_all = asyncio.Event()
        self._ready = asyncio.Event()
        self._answered = asyncio.Event()
        self._taken = asyncio.Event()
        self._error = ""
        self._has_taken = False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def has_taken(self) -> bool:
        """Whether everything is its own."""
        return self._has_taken

    def tell(self, notice: Any) -> None:
        """Say something about the links here."""
        self.channel.tell(notice)

    async def close(self) -> None:
        """Say nothing any more."""
        self.channel.close()
        await self.gone.wait()

    def links_have_moved(self) -> None:
        """Say that the links here take no requests any more."""
        self.channel.tell(messages.Moved())

    async def start(self) -> None:
        """Start it, and return when everything is its own. Raises HandoverError, with why it is
        not; then the process has ended."""
        try:
            await self._start()
            await self._wait_for(self._ready, START_SECONDS, "it does not serve")
            await self._wait_for(self._answered, TAKE_SECONDS, "the API has calls under way")
            await self._wait_for(self._taken, TAKE_SECONDS, "it does not take over")
            self._has_taken = True
        except BaseException:
            await self._kill()
            raise
        self._let_it_be()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._standard_error = os.dup(2)
        reading, writing = os.pipe()
        given = [each.listener.fileno() for each in self._edge.estate()]
        try:
            environment = {**os.environ, VARIABLE: str(theirs.fileno())}
            # Not a subprocess of the event loop, which would end it at its own end. The command is
            # the one that this process was started with.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603
                self._command,
                env=environment,
                stderr=writing,
                pass_fds=[theirs.fileno(), self._lock, self._standard_error, *given],
            )
        except OSError as error:
            ours.close()
            os.close(reading)
            raise HandoverError(
                f"cannot start {self._command[0]}: {error.strerror or error}"
            ) from error
        finally:
            theirs.close()
            os.close(writing)
        _log.info("Starting the process that takes over", extra={"pid": self._process.pid})
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(
            lambda: _LastWords(self._said, self._said_all), os.fdopen(reading, "rb", 0)
        )
        ours.setblocking(False)
        await connect(self.channel, ours)

    def _said(self, data: bytes) -> None:
        self._last_words = (self._last_words + data)[-MAX_LAST_WORDS:]
        with contextlib.suppress(OSError):
            os.write(2, data)

    async def _wait_for(self, event: asyncio.Event, seconds: float, otherwise: str) -> None:
        happened = asyncio.ensure_future(event.wait())
        gone = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait(
                {happened, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            happened.cancel()
            gone.cancel()
        if self._error:
            raise HandoverError(f"the new process cannot serve: {self._error}")
        if self.gone.is_set():
            raise HandoverError(f"the new process has ended{await self._how_it_ended()}")
        if not event.is_set():
            raise HandoverError(f"the new process was given up after {seconds:.0f} s: {otherwise}")

    async def _how_it_ended(self) -> str:
        code = await self._exit_code()
        how = "" if code is None else f" ({words(code)})"
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._said_all.wait(), EXIT_SECONDS)
        said = self._last_words.decode("utf-8", "replace").strip()
        return f"{how}: {said}" if said else how

    async def _exit_code(self) -> int | None:
        assert self._process is not None
        try:
            return await asyncio.get_running_loop().run_in_executor(
                None, self._process.wait, EXIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return None

    async def _kill(self) -> None:
        if self._standard_error >= 0:
            os.close(self._standard_error)
            self._standard_error = -1
        if self._process is None:
            return
        self.channel.close()
        if self._process.poll() is None:
            self._process.kill()
        await asyncio.shield(self._exit_code())

    def _let_it_be(self) -> None:
        """It outlives this process, which waits for its end no more."""
        os.close(self._standard_error)
        assert self._process is not None
        self._process.returncode = 0

    # What it says.

    async def answer(self, request: Any) -> Any:
        if isinstance(request, messages.Enter):
            return await self._enter(request)
        if isinstance(request, messages.CloseLinks):
            await self._edge.close_links(request.tunnel_id, request.connector_id)
            return None
        if isinstance(request, messages.Failed):
            self._error = request.error
            return None
        assert isinstance(request, messages.Ready)
        self._ready.set()
        await self._edge.let_go_of_control()
        self._answered.set()
        return None

    async def _enter(self, request: messages.Enter) -> messages.Estate:
        if request.protocol != messages.PROTOCOL:
            return messages.Estate(
                f"version {request.version} cannot take over from version {VERSION} that runs: "
                "restart the edge instead"
            )
        await self._edge.introduce(self)
        return messages.Estate(
            sockets=tuple(
                messages.GivenSocket(each.name, each.asked, each.listener.fileno())
                for each in self._edge.estate()
            ),
            lock=self._lock,
            standard_error=self._standard_error,
            numbers=(self._numbers.start, len(self._numbers)),
            aside=tuple(self._edge.kept_aside()),
        )

    def notice(self, notice: Any) -> None:
        if isinstance(notice, messages.Taken):
            self._taken.set()
        else:
            if isinstance(notice, PeerIsUp):
                self.workers.add(notice.worker)
            self._edge.notice(notice)

    def drained(self) -> None:
        """Nothing waits for that here."""

    def closed(self) -> None:
        self.gone.set()


class _LastWords(asyncio.Protocol):
    def __init__(self, said: Callable[[bytes], None], said_all: asyncio.Event) -> None:
        self._said = said
        self._said_all = said_all

    def connection_lost(self, _: Exception | None) -> None:
        self._said_all.set()

    def data_received(self, data: bytes) -> None:
        self._said(data)
