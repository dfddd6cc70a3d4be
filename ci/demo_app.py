"""The demo's application: a page, an upload, a download and a WebSocket echo.

An ordinary Starlette application that knows nothing of tunnels. Run it, and it prints the port it
took: `python ci/demo_app.py [PORT]`.
"""

from __future__ import annotations

import hashlib
import html
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

PAGE = Path(__file__).with_name("demo_app.html").read_text(encoding="utf-8")
BLOCK = bytes(range(256)) * 256
MOST_BLOCKS = 16384
"""Of 64 KiB each: a download of at most 1 GiB."""


async def page(request: Request) -> HTMLResponse:
    rows = "\n".join(
        f"<tr><th>{html.escape(name)}<td>{html.escape(value)}"
        for name, value in request.headers.items()
        if name != "cookie"
    )
    return HTMLResponse(PAGE.replace("<!-- rows -->", rows))


async def upload(request: Request) -> JSONResponse:
    """The body as it is, hashed while it arrives."""
    digest, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        digest.update(chunk)
        size += len(chunk)
    return JSONResponse({"size": size, "sha256": digest.hexdigest()})


async def download(request: Request) -> StreamingResponse | PlainTextResponse:
    """So many blocks of 64 KiB, with the hash announced in a field."""
    blocks = int(request.path_params["blocks"])
    if blocks > MOST_BLOCKS:
        return PlainTextResponse(f"at most {MOST_BLOCKS} blocks\n", 400)
    digest = hashlib.sha256()
    for _ in range(blocks):
        digest.update(BLOCK)

    async def content() -> AsyncIterator[bytes]:
        for _ in range(blocks):
            yield BLOCK

    headers = {"content-length": str(blocks * len(BLOCK)), "x-sha256": digest.hexdigest()}
    return StreamingResponse(content(), headers=headers, media_type="application/octet-stream")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


APPLICATION = Starlette(
    routes=[
        Route("/", page),
        Route("/upload", upload, methods=["POST"]),
        Route("/download/{blocks:int}", download),
        WebSocketRoute("/echo", echo),
    ]
)


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    listener = socket.create_server(("127.0.0.1", port))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(APPLICATION, log_level="warning", lifespan="off")
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
