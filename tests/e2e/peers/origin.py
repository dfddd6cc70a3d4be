"""An HTTP/1.1 origin that does what a test asks of it, good manners and bad.

It runs on a thread of its own, so that blocking clients and clients on a loop can both use it. What
takes time waits for a gate that the test opens; nothing here depends on a clock.

The path says what is wanted: see `origin_paths`.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .conversation import Conversation, GoneError, Request
from .origin_paths import HANDLERS, not_found
from .patience import PATIENCE, eventually

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

MAX_HEAD = 1 << 20


class Origin:
    """Serves in a thread from `start` to `stop`. With `path` on a unix socket, else on 127.0.0.1.

    With `context` it serves TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None, path: Path | None = None) -> None:
        self._context = context
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="origin", daemon=True)
        self._started = threading.Event()
        self._gates: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._connections = 0
        self._requests: list[Request] = []
        self._open = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections ever made."""
        return self._connections

    @property
    def open_connections(self) -> int:
        return self._open

    def requests(self, path: str) -> list[Request]:
        """The requests for a path so far, query not looked at."""
        with self._lock:
            return [request for request in self._requests if request.path == path]

    def wait_for_request(self, path: str, count: int = 1) -> Request:
        """The request with this number for a path, once its head has come."""
        return eventually(
            lambda: self.requests(path)[count - 1 :], f"the origin is asked for {path}"
        )[0]

    def open_gate(self, name: str) -> None:
        """Let what waits for this gate go on, now and later."""
        self.call(lambda: self._gate(name).set())

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the origin's loop."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def start(self) -> Origin:
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def gate(self, name: str) -> None:
        await self._gate(name).wait()

    def _gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        server: asyncio.Server
        if self._path is not None:
            server = await asyncio.start_unix_server(
                self._accept, str(self._path), ssl=self._context, limit=MAX_HEAD
            )
        else:
            server = await asyncio.start_server(
                self._accept, "127.0.0.1", 0, ssl=self._context, limit=MAX_HEAD, backlog=1024
            )
            self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        self._open += 1
        number = self._connections
        try:
            while await self._answer(number, reader, writer):
                pass
        except (OSError, GoneError, asyncio.IncompleteReadError):
            # The other end may leave at any time.
            pass
        except asyncio.CancelledError:
            # Only `stop` cancels; a task that ends so quietly needs no mention.
            writer.transport.abort()
        finally:
            self._open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _answer(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serve one request; whether the connection may be used for another."""
        head = await reader.readexactly(1)
        if not head.isalpha():
            # TLS, for example: say what servers say then.
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return False
        head += await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, version = first.split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (s.partition(":") for s in lines)]
        request = Request(method, target, version, headers, number)
        with self._lock:
            self._requests.append(request)
        conversation = Conversation(self, request, reader, writer, head)
        handler = HANDLERS.get("/" + request.path.split("/")[1], not_found)
        try:
            await handler(conversation)
        except (OSError, GoneError, asyncio.IncompleteReadError):
            request.gone = True
            raise
        return conversation.keep
