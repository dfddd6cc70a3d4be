"""Configuration updates as they come down a link: take the body in, have it applied, answer.

Docs: wire protocol §2.9. Whether an update is good, and newer than what is in force, is decided
elsewhere, for all links together.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from underpass.connector.in_force import Updates
from underpass.core.tunnel import OriginExchange
from underpass.wire.remote_config import (
    MAX_UPDATE_BYTES,
    ConfigurationUpdateError,
    decode_update,
    encode_reply,
)

__all__ = ["MAX_UPDATES", "ConfigurationStreams"]

MAX_UPDATES: Final = 4
"""Updates of one process that are being received or applied; an edge has no use for more."""

log = logging.getLogger("underpass.connector.configuration_stream")


class ConfigurationStreams:
    """The updates under way on all links of a process; `updates` applies each."""

    def __init__(self, updates: Updates) -> None:
        self._updates = updates
        self._receiving = 0
        self._applying: set[asyncio.Task[None]] = set()

    def receive(self, exchange: OriginExchange) -> None:
        """Take an update from its stream."""
        if self._receiving + len(self._applying) >= MAX_UPDATES:
            exchange.context = f"there are {MAX_UPDATES} updates under way"
            exchange.fail(503, "too_many_updates")
            return
        _Body(self, exchange)

    def close(self) -> None:
        """Give up what is under way."""
        for task in self._applying:
            task.cancel()

    def begun(self) -> None:
        self._receiving += 1

    def ended(self) -> None:
        self._receiving -= 1

    def complete(self, exchange: OriginExchange, body: bytes) -> None:
        """A whole body is there."""
        task = asyncio.create_task(self._apply(exchange, body), name="configuration-update")
        self._applying.add(task)
        task.add_done_callback(self._applying.discard)

    async def _apply(self, exchange: OriginExchange, body: bytes) -> None:
        try:
            # In a thread: the edge may send megabytes, and requests go on.
            update = await asyncio.to_thread(decode_update, body)
        except ConfigurationUpdateError as error:
            exchange.context = str(error)
            exchange.fail(502, "bad_configuration")
            return
        reply = encode_reply(await self._updates(update))
        exchange.respond(200, [(b"content-type", b"application/json")], reply)


class _Body:
    """One update's content while it comes."""

    def __init__(self, streams: ConfigurationStreams, exchange: OriginExchange) -> None:
        self._streams = streams
        self._exchange = exchange
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_over = False
        side = exchange.open_python_side()
        streams.begun()
        side.on_data = self._data
        side.on_end = self._end
        side.on_abandoned = self._abandoned
        exchange.deliver_waiting()

    def _data(self, data: bytes) -> None:
        if self._is_over:
            return
        self._size += len(data)
        self._pieces.append(data)
        if self._size > MAX_UPDATE_BYTES:
            self._over()
            self._exchange.context = f"the update has more than {MAX_UPDATE_BYTES} bytes"
            self._exchange.fail(413, "body_too_large")

    def _end(self) -> None:
        if not self._is_over:
            body = b"".join(self._pieces)
            self._over()
            self._streams.complete(self._exchange, body)

    def _abandoned(self, code: int) -> None:
        if not self._is_over:
            self._over()

    def _over(self) -> None:
        self._is_over = True
        self._pieces.clear()
        self._streams.ended()
