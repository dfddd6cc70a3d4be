"""An HTTP/2 origin that hints early, and decides late. Written with the `h2` package."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events

from .patience import PATIENCE

HINTS = [(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>; rel=preload")]


class HintingOrigin:
    """Answers each request with two early hints, and with 200 when `decide` has been called."""

    def __init__(self, context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["h2"])
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._decided = asyncio.Event()
        self._stopping = asyncio.Event()
        self.port = 0

    def decide(self) -> None:
        self._loop.call_soon_threadsafe(self._decided.set)

    @contextmanager
    def serving(self) -> Iterator[HintingOrigin]:
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        thread.start()
        try:
            assert self._started.wait(PATIENCE)
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join(PATIENCE)
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()

        async def answer(stream: int) -> None:
            await self._decided.wait()
            connection.send_headers(stream, [(b":status", b"200")])
            connection.send_data(stream, b"final\n", end_stream=True)
            writer.write(connection.data_to_send())

        answers = set()
        # Cancelled at the end, which is no trouble.
        with contextlib.suppress(asyncio.CancelledError):
            writer.write(connection.data_to_send())
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        connection.send_headers(event.stream_id, [(b":status", b"103"), *HINTS])
                        answers.add(asyncio.create_task(answer(event.stream_id)))
                writer.write(connection.data_to_send())
        writer.transport.abort()
