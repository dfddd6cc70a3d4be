"""Runs streams to one application (docs: access §1, §2): for standard input and output, or for
whoever connects to a local address.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from underpass.visitor.errors import ConnectError, VisitorError
from underpass.visitor.local_ends import AcceptedConnection, StandardStreams
from underpass.visitor.stream import (
    LocalEnd,
    LoginRequiredError,
    StreamOptions,
    open_stream,
    pipe,
)

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["GetToken", "forward_connections", "forward_standard_streams"]

log = logging.getLogger("underpass.visitor")

MAX_CONNECTIONS: Final = 1000
"""Accepted connections at once; more wait to be accepted."""

GetToken = Callable[[bool], Awaitable[str]]
"""An Access token for the application; called with True when the last one was not good."""


async def forward_standard_streams(options: StreamOptions, get_token: GetToken) -> None:
    """One stream, between the application and standard input and output.

    Raises VisitorError, or OSError when standard output cannot be written.
    """
    stream = await _open(options, get_token)
    try:
        await pipe(stream, StandardStreams())
    finally:
        await stream.close()


async def forward_connections(
    options: StreamOptions,
    host: str,
    port: int,
    get_token: GetToken,
    *,
    listening: Callable[[str, int], None],
) -> None:
    """A stream for every connection to a local address, until cancelled.

    `listening` is told of each address. Raises VisitorError when it cannot be listened on.
    """
    forwarder = _Forwarder(options, get_token)
    try:
        server = await asyncio.start_server(forwarder.accept, host or None, port)
    except OSError as error:
        raise VisitorError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; give another --url"
        ) from None
    try:
        async with server:
            for sock in server.sockets:
                listening(*sock.getsockname()[:2])
            await server.serve_forever()
    finally:
        await forwarder.close()


class _Forwarder:
    def __init__(self, options: StreamOptions, get_token: GetToken) -> None:
        self._options = options
        self._get_token = get_token
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        local = AcceptedConnection(reader, writer)
        try:
            async with self._room:
                await self._serve(local)
        except asyncio.CancelledError:
            # The forwarder ends, and with it its streams.
            return
        finally:
            self._tasks.discard(task)
            await local.close()

    async def _serve(self, local: LocalEnd) -> None:
        try:
            stream = await _open(self._options, self._get_token)
        except VisitorError as error:
            log.error("failed to connect to origin", extra=self._fields(error))
            return
        try:
            await pipe(stream, local)
        except ConnectError as error:
            log.error("a stream broke off", extra=self._fields(error))
        except OSError as error:
            log.debug("the local side broke off", extra=self._fields(error))
        finally:
            await stream.close()

    async def close(self) -> None:
        """End every stream."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fields(self, error: Exception) -> dict[str, str]:
        return {"originURL": self._options.application.url, "error": str(error)}


async def _open(options: StreamOptions, get_token: GetToken) -> ClientConnection:
    """A stream; with a token only when asked for, and with another when the first is refused."""
    try:
        return await open_stream(options)
    except LoginRequiredError:
        token = await get_token(False)
    try:
        return await open_stream(options, token)
    except LoginRequiredError:
        log.info("The stored token is not good any more")
        return await open_stream(options, await get_token(True))
