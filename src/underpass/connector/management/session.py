"""One WebSocket of `/logs` (docs: observability §4)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from underpass.connector.management.streams import LogSource
from underpass.connector.services.websocket import CloseCode, Message, WebSocketServer
from underpass.core.relay import PythonSide
from underpass.core.tunnel import OriginExchange
from underpass.wire.log_streaming import (
    MAX_CLIENT_MESSAGE,
    Close,
    Command,
    InvalidCommandError,
    InvalidFiltersError,
    LogFilters,
    read_command,
)

__all__ = ["LogSession"]

MAX_QUEUED: Final = 30
"""Records that wait for a client; what comes beyond is dropped, and counted."""

MAX_UNSENT: Final = 32 * 1024
"""Bytes on their way to the client, beyond which records wait."""

MAX_COMMANDS: Final = 64
"""Commands of one client that wait for their turn. A person gives two in a session."""

PING_SECONDS: Final = 15.0
IDLE_SECONDS: Final = 300.0
"""Without streaming for so long, the WebSocket is closed."""

_log = logging.getLogger(__name__)


class LogSession:
    """A client of `/logs`, from the handshake to the end; a `LogListener` of `source`."""

    def __init__(
        self,
        side: PythonSide,
        actor: str,
        source: LogSource,
        on_gone: Callable[[LogSession], None],
    ) -> None:
        self.actor = actor
        self.filters = LogFilters()
        self.dropped = 0
        """Records that found no room."""
        self._side = side
        self._source = source
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._socket = WebSocketServer(side.write, self._command, max_message=MAX_CLIENT_MESSAGE)
        self._waiting: deque[bytes] = deque()
        self._commands: deque[tuple[Command, LogFilters | None]] = deque()
        self._obeying: asyncio.Task[None] | None = None
        self._is_over = False
        self._ping = self._loop.call_later(PING_SECONDS, self._send_ping)
        self._idle: asyncio.TimerHandle | None = None
        self._begin_idling()
        side.on_data = self._feed
        side.on_released = self._go_on
        side.on_end = self.stop
        side.on_abandoned = self._abandoned

    def start(self, exchange: OriginExchange, accept: bytes) -> None:
        """Answer the handshake."""
        fields = [(b"upgrade", b"websocket"), (b"sec-websocket-accept", accept)]
        self._side.send_response(101, fields)
        exchange.deliver_waiting()

    def stop(self) -> None:
        """The client has no more to say, or this end goes away."""
        self._close(CloseCode.GOING_AWAY)

    # What a LogSource calls.

    def take(self, message: bytes) -> None:
        """Send a record, now or when the client has taken more of what was sent."""
        if self._is_over:
            return
        if not self._waiting and self._side.unreleased <= MAX_UNSENT:
            self._send(message)
        elif len(self._waiting) < MAX_QUEUED:
            self._waiting.append(message)
        else:
            self.dropped += 1

    def preempted(self) -> None:
        """The same actor has another session now."""
        self._close(CloseCode.NORMAL, "another session of the same actor has begun")

    # What happens on the WebSocket.

    def _feed(self, data: bytes) -> None:
        self._socket.feed(data)
        if self._socket.closed:
            self._finish()

    def _command(self, message: Message) -> None:
        try:
            if not message.is_text:
                raise InvalidCommandError("invalid message type was provided")
            command = read_command(message.data)
        except InvalidCommandError as error:
            self._close(CloseCode.UNSUPPORTED, str(error))
            return
        except InvalidFiltersError:
            self._close(Close.INVALID_COMMAND, "expected start streaming as first event")
            return
        if len(self._commands) >= MAX_COMMANDS:
            self._close(CloseCode.POLICY, f"more than {MAX_COMMANDS} commands wait")
            return
        self._commands.append(command)
        if self._obeying is None:
            self._obeying = self._loop.create_task(self._obey())

    async def _obey(self) -> None:
        """Do what was asked for, in that order."""
        try:
            while self._commands and not self._is_over:
                command, filters = self._commands.popleft()
                if command is Command.START:
                    assert filters is not None
                    await self._begin(filters)
                else:
                    self._source.end(self)
                    self._begin_idling()
        except Exception as error:  # noqa: BLE001 - the fault ends this session, and no other
            _log.error("unexpected error in a management session", exc_info=error)
            self._close(CloseCode.INTERNAL_ERROR)
        finally:
            self._obeying = None

    async def _begin(self, filters: LogFilters) -> None:
        self.filters = filters
        if not await self._source.begin(self):
            self._close(Close.SESSION_LIMIT, "limit exceeded for streaming sessions")
        elif self._is_over:
            self._source.end(self)  # the client left while it was being asked for
        else:
            self._end_idling()
            _log.debug("Streaming logs")

    def _go_on(self) -> None:
        while self._waiting and self._side.unreleased <= MAX_UNSENT:
            self._send(self._waiting.popleft())

    def _send(self, message: bytes) -> None:
        self._socket.send(Message(True, message))

    def _send_ping(self) -> None:
        if self._side.unreleased <= MAX_UNSENT:
            self._socket.ping()
        self._ping = self._loop.call_later(PING_SECONDS, self._send_ping)

    def _begin_idling(self) -> None:
        self._end_idling()
        self._idle = self._loop.call_later(
            IDLE_SECONDS, self._close, Close.IDLE, "session was idle for too long"
        )

    def _end_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    # Its end.

    def _close(self, code: int, reason: str = "") -> None:
        if not self._is_over:
            self._socket.close(code, reason)
            self._finish()

    def _finish(self) -> None:
        if not self._is_over:
            self._forget()
            self._side.end()

    def _abandoned(self, code: int) -> None:
        if not self._is_over:
            self._forget()

    def _forget(self) -> None:
        self._is_over = True
        self._ping.cancel()
        self._end_idling()
        self._waiting.clear()
        self._commands.clear()
        self._source.end(self)
        self._on_gone(self)
        if self.dropped:
            _log.info("Log records were not streamed", extra={"count": self.dropped})
