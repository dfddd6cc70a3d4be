# ruff: noqa: PYI021
"""WebSocket framing toward a visitor's client (RFC 6455)."""

from typing import Literal

from underpass.core.endpoint import Turn
from underpass.core.stream import StreamClient

HALF_CLOSE: bytes
"""The subprotocol of a client that means by its close frame that it will send no more, and goes on
to read; who agrees to it says so in the answer to the handshake."""

class WebSocketReader:
    """Takes a client's frames, or a server's, apart where they were read.

    A broken stream stays broken.
    """

    def __init__(self, from_server: bool = False) -> None: ...
    def feed(
        self, data: bytes | bytearray | memoryview
    ) -> list[
        tuple[Literal["data"], bytes, bool]
        | tuple[Literal["ping", "close"], bytes]
        | tuple[Literal["broken"]]
    ]:
        """Events of a contiguous buffer: `("data", bytes, is_text)`, `("ping", bytes)`,
        `("close", bytes)`, `("broken",)` (for tests)."""

class WebSocketStream(StreamClient):
    """A byte stream whose visitor speaks WebSocket. Text messages are thrown away."""

    half_closes: bool
    """The visitor's close frame ends its own direction alone: see HALF_CLOSE."""

    def __init__(self, turn: Turn) -> None: ...
    def ping(self) -> None:
        """Send the visitor an empty ping."""
