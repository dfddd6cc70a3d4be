# ruff: noqa: PYI021
"""WebSocket framing toward a visitor's client (RFC 6455)."""

from typing import Literal

from underpass.core.endpoint import Turn
from underpass.core.stream import StreamClient

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

    def __init__(self, turn: Turn) -> None: ...
    def ping(self) -> None:
        """Send the visitor an empty ping."""
