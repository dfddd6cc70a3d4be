"""The process whose place this one takes, as this one sees it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Any, Final
from uuid import UUID

from underpass.edge.data_path import DataPath
from underpass.edge.errors import HandoverError
from underpass.edge.handover import VARIABLE, messages
from underpass.edge.listening import KeptSocket, adopt
from underpass.ops.workers.channel import Channel, ChannelClosedError, ChannelError
from underpass.ops.workers.process import connect
from underpass.version import VERSION

__all__ = ["Predecessor"]

ENTER_SECONDS: Final = 15.0
"""For the old process to tell what it has."""

_log = logging.getLogger("underpass.edge")


class Predecessor:
    """Make it with `find`."""

    requests = None
    notices = messages.OldNotice

    def __init__(self) -> None:
        self.channel = Channel(self)
        self.gone = asyncio.Event()
        self.moved = asyncio.Event()
        """None of its links takes requests any more; also set when it is gone."""
        self.sockets: list[KeptSocket] = []
        self.lock = -1
        self.numbers = range(0)
        self.aside: tuple[tuple[UUID, UUID], ...] = ()
        self._path: DataPath | None = None
        self._heard: list[Any] = []
        """Before there was a data path to be told."""

    @classmethod
    async def find(cls, environment: MutableMapping[str, str] = os.environ) -> Predecessor | None:
        """The process that has started this one to take its place; None if none has.

        From here on standard error is the old one's own. Raises HandoverError.
        """
        text = environment.pop(VARIABLE, "")
        if not text:
            return None
        try:
            end = socket.socket(fileno=int(text))
            os.set_inheritable(end.fileno(), False)
            end.setblocking(False)
        except (OSError, ValueError) as error:
            raise HandoverError(f"{VARIABLE}={text} is no socket of another process") from error
        predecessor = cls()
        await connect(predecessor.channel, end)
        try:
            estate = await asyncio.wait_for(
                predecessor.channel.call(
                    messages.Enter(messages.PROTOCOL, VERSION), messages.Estate
                ),
                ENTER_SECONDS,
            )
        except (ChannelError, asyncio.TimeoutError) as error:
            await predecessor.close()
            raise HandoverError(f"the process before this one does not answer: {error}") from error
        if estate.error:
            await predecessor.close()
            raise HandoverError(estate.error)
        os.dup2(estate.standard_error, 2)
        os.close(estate.standard_error)
        os.set_inheritable(estate.lock, False)
        predecessor.lock = estate.lock
        first, count = estate.numbers
        predecessor.numbers = range(first, first + count)
        predecessor.aside = estate.aside
        predecessor.sockets = [
            KeptSocket(each.name, each.asked, adopt(each.descriptor, each.name))
            for each in estate.sockets
        ]
        return predecessor

    async def meet(self, path: DataPath) -> None:
        """Have the two data paths know of each other. Raises HandoverError."""
        try:
            await path.introduce(self._tell)
        except OSError as error:
            raise HandoverError(
                f"cannot be reached by the process before this one: {error}"
            ) from error
        self._path = path
        heard, self._heard = self._heard, []
        for notice in heard:
            path.notice(notice)
        for tunnel_id, key in self.aside:
            await path.set_aside(tunnel_id, key, True)

    async def take_over(self) -> None:
        """Say that this process serves; return when the old one changes nothing any more, or has
        died of something. Raises HandoverError."""
        try:
            await self.channel.call(messages.Ready(), type(None))
        except ChannelClosedError:
            _log.warning("The process before this one has died: taking over without it")
        except ChannelError as error:
            raise HandoverError(f"the process before this one keeps everything: {error}") from error

    def taken(self) -> None:
        """Say that everything is ours."""
        self.channel.tell(messages.Taken())

    async def failed(self, error: str) -> None:
        """Say that this process cannot serve; the end of what the two have to say."""
        with contextlib.suppress(ChannelError, asyncio.TimeoutError):
            await asyncio.wait_for(
                self.channel.call(messages.Failed(error), type(None)), ENTER_SECONDS
            )
        await self.close()

    async def close(self) -> None:
        """Say nothing any more."""
        self.channel.close()
        await self.gone.wait()

    async def close_links(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        """See DataPath, for those that it still has."""
        try:
            await self.channel.call(messages.CloseLinks(tunnel_id, connector_id), type(None))
        except ChannelError as error:
            _log.debug("the process before this one is gone, and its links: %s", error)

    def _tell(self, notice: Any) -> None:
        self.channel.tell(notice)

    async def answer(self, request: Any) -> Any:
        """The old one asks nothing."""
        raise NotImplementedError

    def notice(self, notice: Any) -> None:
        if isinstance(notice, messages.Moved):
            self.moved.set()
            if self._path is not None:
                self._path.leave(self.numbers)
        elif self._path is None:
            self._heard.append(notice)
        else:
            self._path.notice(notice)

    def drained(self) -> None:
        """Nothing waits for that here."""

    def closed(self) -> None:
        self.moved.set()
        self.gone.set()
        if self._path is not None:
            self._path.part(self._tell, self.numbers)
