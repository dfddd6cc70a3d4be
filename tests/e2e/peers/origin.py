"""An HTTP/1.1 origin that does what a test asks of it, good manners and bad.

It runs on a thread of its own, so that blocking clients and clients on a loop can both use it. What
takes time waits for a gate that the test opens; nothing here depends on a clock.

The path says what is wanted: see the handlers at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as WebSocketRequest
from websockets.server import ServerProtocol

from .content import blocks
from .patience import PATIENCE, eventually

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

MAX_HEAD = 1 << 20
PIECE = 65536


@dataclass
class Request:
    """A request as it came in, and what of its content was read."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    connection: int
    """Counts the origin's connections from 1."""
    size: int = 0
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False
    gone: bool = False
    """The client went away before it was answered in full."""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    def query(self, name: str, default: str = "") -> str:
        return parse_qs(urlsplit(self.target).query).get(name, [default])[0]

    def header(self, name: str, default: str = "") -> str:
        values = self.all(name)
        return values[0] if values else default

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class GoneError(Exception):
    """The client has gone away."""


class Conversation:
    """One connection's reader and writer while a handler has them."""

    def __init__(
        self,
        origin: Origin,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head: bytes,
    ) -> None:
        self.origin = origin
        self.request = request
        self.reader = reader
        self.writer = writer
        self.head = head
        self.keep = "close" not in request.header("connection").lower()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def respond(
        self, status: int, body: bytes = b"", *headers: tuple[str, str], length: bool = True
    ) -> None:
        lines = [f"HTTP/1.1 {status} Fine", *(f"{name}: {value}" for name, value in headers)]
        if length:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    async def read_content(self, take: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Hand every piece of the request's content to `take`."""
        request = self.request

        async def deliver(piece: bytes) -> None:
            request.size += len(piece)
            result = take(piece)
            if result is not None:
                await result

        if "chunked" in request.header("transfer-encoding").lower():
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await self._read_exactly(size, deliver)
                await self.reader.readexactly(2)
            while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                name, _, value = line.decode("latin-1").strip().partition(":")
                request.trailers.append((name, value.strip()))
        else:
            await self._read_exactly(int(request.header("content-length", "0")), deliver)
        request.complete = True

    async def _read_exactly(self, size: int, deliver: Callable[[bytes], Awaitable[None]]) -> None:
        while size:
            piece = await self.reader.read(min(size, PIECE))
            if not piece:
                raise GoneError
            size -= len(piece)
            await deliver(piece)

    async def gone(self) -> None:
        """Return when the client has gone away."""
        while await self.reader.read(PIECE):
            pass
        self.request.gone = True

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Handler = Callable[[Conversation], Awaitable[None]]


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


HANDLERS: dict[str, Handler] = {}


def at(path: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS[path] = handler
        return handler

    return register


async def not_found(c: Conversation) -> None:
    await c.read_content(lambda piece: None)
    await c.respond(404, b"the origin knows no such path\n", ("Content-Type", "text/plain"))


@at("/hello")
async def hello(c: Conversation) -> None:
    await c.read_content(lambda piece: None)
    body = b"" if c.request.method == "HEAD" else b"hello\n"
    await c.respond(
        200, body, ("Content-Type", "text/plain"), ("Content-Length", "6"), length=False
    )


@at("/shown")
async def shown(c: Conversation) -> None:
    """The request itself, as JSON: method, target, headers, content, trailers, connection."""
    content = bytearray()
    await c.read_content(content.extend)
    r = c.request
    await respond_json(
        c,
        method=r.method,
        target=r.target,
        headers=r.headers,
        content=content.decode("latin-1"),
        trailers=r.trailers,
        connection=r.connection,
    )


@at("/sink")
async def sink(c: Conversation) -> None:
    """Size and digest of what came."""
    digester = hashlib.sha256()
    await c.read_content(digester.update)
    await respond_json(c, size=c.request.size, sha256=digester.hexdigest())


@at("/echo")
async def echo(c: Conversation) -> None:
    """The content, while it comes."""
    length = c.request.header("content-length")
    if length:
        await c.send(f"HTTP/1.1 200 Fine\r\nContent-Length: {length}\r\n\r\n".encode())
        await c.read_content(c.send)
        return
    await c.send(b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def send_chunk(piece: bytes) -> None:
        await c.send(b"%x\r\n%b\r\n" % (len(piece), piece))

    await c.read_content(send_chunk)
    await c.send(b"0\r\n\r\n")


@at("/bytes")
async def some_bytes(c: Conversation) -> None:
    """/bytes/SIZE?framing=length|chunked|close"""
    size = int(c.request.path.split("/")[2])
    framing = c.request.query("framing", "length")
    await c.read_content(lambda piece: None)
    head = "HTTP/1.1 200 Fine\r\nContent-Type: application/octet-stream\r\n"
    head += {
        "length": f"Content-Length: {size}\r\n\r\n",
        "chunked": "Transfer-Encoding: chunked\r\n\r\n",
        "close": "Connection: close\r\n\r\n",
    }[framing]
    await c.send(head.encode())
    for block in blocks(size):
        await c.send(b"%x\r\n%b\r\n" % (len(block), block) if framing == "chunked" else block)
    if framing == "chunked":
        await c.send(b"0\r\n\r\n")
    c.keep = c.keep and framing != "close"


@at("/events")
async def events(c: Conversation) -> None:
    """Three server-sent events; the second and third wait for gates `KEY-1` and `KEY-2`."""
    key = c.request.query("key")
    await c.send(
        b"HTTP/1.1 200 Fine\r\nContent-Type: text/event-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for number in range(3):
        if number:
            await c.origin.gate(f"{key}-{number}")
        event = b"data: event %d\n\n" % number
        await c.send(b"%x\r\n%b\r\n" % (len(event), event))
    await c.send(b"0\r\n\r\n")


@at("/slow")
async def slow(c: Conversation) -> None:
    """Answers when gate `KEY` is open."""
    await c.read_content(lambda piece: None)
    await c.origin.gate(c.request.query("key"))
    await c.respond(200, b"at last\n")


@at("/trickle")
async def trickle(c: Conversation) -> None:
    """Half of the content at once, the rest when gate `KEY` is open."""
    await c.send(b"HTTP/1.1 200 Fine\r\nContent-Length: 8\r\n\r\nhalf")
    await c.origin.gate(c.request.query("key"))
    await c.send(b"half")


@at("/hang")
async def hang(c: Conversation) -> None:
    """No answer, ever; remembers when the client goes."""
    c.keep = False
    await c.gone()


@at("/flood")
async def flood(c: Conversation) -> None:
    """Content without end, until the client goes."""
    await c.send(b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"%x\r\n%b\r\n" % (PIECE, bytes(PIECE))
    while True:
        await c.send(piece)


@at("/status")
async def status(c: Conversation) -> None:
    """/status/CODE, without content."""
    await c.read_content(lambda piece: None)
    code = int(c.request.path.split("/")[2])
    await c.respond(code, b"", ("X-Kept", "yes"), length=code not in (204, 304))


@at("/redirect")
async def redirect(c: Conversation) -> None:
    await c.respond(302, b"", ("Location", "/hello"))


@at("/trailers")
async def with_trailers(c: Conversation) -> None:
    await c.send(
        b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"
    )


@at("/cookies")
async def cookies(c: Conversation) -> None:
    await c.respond(200, b"", ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Latin", "caf\xe9"))


@at("/early")
async def early(c: Conversation) -> None:
    """An answer before the content has been read."""
    c.keep = False
    await c.respond(403, b"no\n", ("Connection", "close"))
    await c.gone()


@at("/closes")
async def closes(c: Conversation) -> None:
    """Answers as if the connection were kept, and closes it."""
    await c.respond(200, b"so long\n", ("Connection", "keep-alive"))
    c.keep = False


@at("/interim")
async def interim(c: Conversation) -> None:
    await c.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
    await c.respond(200, b"final\n")


@at("/raw")
async def raw(c: Conversation) -> None:
    """Whatever RAW holds under the name, then the end of the connection."""
    c.keep = False
    await c.send(RAW[c.request.path.split("/")[2]])


@at("/reset")
async def reset(c: Conversation) -> None:
    """A TCP reset: before the head, or with ?after=head in the middle of the content."""
    if c.request.query("after") == "head":
        await c.send(b"HTTP/1.1 200 Fine\r\nContent-Length: 1000\r\n\r\nsome")
        await c.origin.gate(c.request.query("key"))
    c.keep = False
    c.reset()


@at("/ws")
async def websocket(c: Conversation) -> None:
    """Echoes messages. `close CODE REASON` and `reset` are obeyed."""
    c.keep = False
    protocol = ServerProtocol(max_size=None)
    protocol.receive_data(c.head)
    (handshake,) = protocol.events_received()
    assert isinstance(handshake, WebSocketRequest)
    response = protocol.accept(handshake)
    subprotocols = c.request.header("sec-websocket-protocol")
    if subprotocols:
        response.headers["Sec-WebSocket-Protocol"] = subprotocols.split(",")[0].strip()
    protocol.send_response(response)
    gathered: list[Frame] = []
    while True:
        for data in protocol.data_to_send():
            if data:
                await c.send(data)
            else:
                return
        data = await c.reader.read(PIECE)
        if data:
            protocol.receive_data(data)
        else:
            c.request.gone = True
            protocol.receive_eof()
        for event in protocol.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                gathered.append(event)
                if event.fin:
                    message = b"".join(bytes(frame.data) for frame in gathered)
                    is_text = gathered[0].opcode is Opcode.TEXT
                    gathered.clear()
                    if message.startswith(b"close "):
                        _, code, reason = message.decode().split(" ", 2)
                        protocol.send_close(int(code), reason)
                    elif message == b"reset":
                        c.reset()
                        return
                    elif is_text:
                        protocol.send_text(message)
                    else:
                        protocol.send_binary(message)
        if protocol.close_expected() and not data:
            return


async def respond_json(c: Conversation, **members: Any) -> None:
    body = json.dumps(members).encode()
    await c.respond(200, body, ("Content-Type", "application/json"))


RAW: dict[str, bytes] = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03this is no HTTP",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "http2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18),
    "nothing": b"",
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "no-number": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nabc",
    "negative": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
    "length-and-chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "unknown-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: sorcery\r\n\r\nabc",
    "bare-nul": b"HTTP/1.1 200 OK\r\nX-Bad: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "name-with-space": b"HTTP/1.1 200 OK\r\nX Bad: a\r\nContent-Length: 0\r\n\r\n",
    "huge-head": b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "endless-interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "switches-unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\n"
    b"Connection: upgrade\r\n\r\nother bytes",
    "too-little": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    "unfinished-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "huge-trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    + b"X-Trailer: "
    + b"x" * 300_000
    + b"\r\n\r\n",
    "too-much": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more",
    "second-answer": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
    "until-the-end": b"HTTP/1.0 200 OK\r\n\r\nuntil the connection ends",
}
"""Answers by name, sent as they are."""


@contextlib.contextmanager
def stream_echo() -> Any:
    """A TCP server that sends back what it gets, in a thread; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(PIECE):
                client.sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(client,), daemon=True)
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # close() alone does not wake a thread that waits in accept().
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
