"""What an `Origin` does, by path: the good, the slow and the bad."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as WebSocketRequest
from websockets.server import ServerProtocol

from .bad_answers import RAW
from .content import blocks
from .conversation import PIECE, Conversation

Handler = Callable[[Conversation], Awaitable[None]]

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


@at("/part")
async def part(c: Conversation) -> None:
    """The bytes that Range asks for, of ten (RFC 9110 §14)."""
    await c.read_content(lambda piece: None)
    first, last = map(int, c.request.header("range").removeprefix("bytes=").split("-"))
    await c.respond(
        206, b"0123456789"[first : last + 1], ("Content-Range", f"bytes {first}-{last}/10")
    )


@at("/strict")
async def strict(c: Conversation) -> None:
    await c.respond(200, b"", ("Strict-Transport-Security", "max-age=1; includeSubDomains"))


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


@at("/hinted")
async def hinted(c: Conversation) -> None:
    """Early hints at once, the rest when gate `KEY` is open."""
    await c.send(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n"
        b"Link: </b.js>; rel=preload\r\n\r\n"
    )
    await c.origin.gate(c.request.query("key"))
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


@at("/page-with-websocket")
async def page_with_websocket(c: Conversation) -> None:
    """Sends a message to /ws, and tells /hello what came back, and how the page came."""
    page = """<!doctype html><title>WebSocket</title><script>
        const socket = new WebSocket("wss://" + location.host + "/ws");
        socket.onopen = () => socket.send("from a browser");
        socket.onmessage = (event) => {
            const [visit] = performance.getEntriesByType("navigation");
            fetch("/hello?" + new URLSearchParams({heard: event.data, by: visit.nextHopProtocol}));
        };
    </script>"""
    await c.respond(200, page.encode(), ("Content-Type", "text/html"))


async def respond_json(c: Conversation, **members: Any) -> None:
    body = json.dumps(members).encode()
    await c.respond(200, body, ("Content-Type", "application/json"))
