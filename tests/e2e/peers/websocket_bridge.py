"""What a visitor's client does (`cloudflared access tcp`): a local port whose connections each go
through a WebSocket of their own, binary messages both ways."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .patience import PATIENCE
from .processes import EdgeProcess

LARGEST: Final = 16384
"""Bytes in a message; stock connectors lose what is beyond."""


@contextlib.contextmanager
def websocket_bridge(
    edge: EdgeProcess, hostname: str, headers: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Bridges to `hostname`; yields the local port. What the edge refuses is hung up on."""
    context = ssl.create_default_context(cafile=edge.ca)
    sessions: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with connect(
                f"wss://{hostname}:{edge.https_port}/",
                host="127.0.0.1",
                port=edge.https_port,
                ssl=context,
                proxy=None,
                compression=None,
                max_size=None,
                additional_headers=dict(headers or {}),
                open_timeout=PATIENCE,
            ) as visitor:
                await _relay(reader, writer, visitor)
                # As stock clients do: no close frame, and nothing is waited for.
                visitor.transport.abort()
        except InvalidStatus:
            pass  # the client sees its connection end
        finally:
            writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = loop.create_task(serve(reader, writer))
        sessions[session] = writer
        session.add_done_callback(sessions.pop)

    async def finish() -> None:
        server.close()
        for writer in sessions.values():
            writer.transport.abort()
        await asyncio.gather(*sessions)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(begin, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(finish(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, visitor: ClientConnection
) -> None:
    """Until either direction ends: there is no half-close."""

    async def up() -> None:
        while data := await reader.read(LARGEST):
            await visitor.send(data)

    async def down() -> None:
        async for message in visitor:
            assert isinstance(message, bytes)
            writer.write(message)
            await writer.drain()

    both = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    for each in both:
        each.cancel()
    for outcome in await asyncio.gather(*both, return_exceptions=True):
        if not isinstance(outcome, asyncio.CancelledError | ConnectionClosed | OSError | None):
            raise outcome
