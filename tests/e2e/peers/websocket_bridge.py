"""What a visitor's client does (`cloudflared access tcp`): a local port whose connections each go
through a WebSocket of their own, binary messages both ways."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Final

from websockets.asyncio.client import connect
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
    sessions: set[asyncio.Task[None]] = set()

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
            ) as socket:

                async def up() -> None:
                    while data := await reader.read(LARGEST):
                        await socket.send(data)

                async def down() -> None:
                    async for message in socket:
                        assert isinstance(message, bytes)
                        writer.write(message)
                        await writer.drain()

                both = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
                try:
                    # The first end is the end: there is no half-close.
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in both:
                        each.cancel()
                    await asyncio.gather(*both, return_exceptions=True)
        except (ConnectionClosed, InvalidStatus, ConnectionError):
            pass  # the client sees its connection end
        finally:
            writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = loop.create_task(serve(reader, writer))
        sessions.add(session)
        session.add_done_callback(sessions.discard)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(begin, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def finish() -> None:
            server.close()
            for session in tuple(sessions):
                session.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(finish(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
