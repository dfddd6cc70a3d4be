# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""The joint between a codec and a transport.

An `Endpoint` has the methods of `asyncio.BufferedProtocol` (and `asyncio.Protocol`); a Python class
joins the two: `class Link(H2Connection, asyncio.BufferedProtocol)`. Any object with `write`,
`close`, `abort`, `pause_reading`, `resume_reading` and `get_extra_info` is a transport.
"""

import asyncio
from collections.abc import Callable

from typing_extensions import Buffer

class Turn:
    """What happens once a turn of the loop: every endpoint that has something to say says it.

    One for each event loop. `call_soon` is its own, `clock` any monotonic one (seconds).
    `on_error(endpoint, exception)` is told of errors that no codec expected; the connection is
    closed by then. Without it they are raised. `private_buffers` is for loops whose reads are
    outstanding while others complete (Windows' completion ports).
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], object]], object],
        clock: Callable[[], float],
        on_error: Callable[[Endpoint, Exception], object] | None = None,
        private_buffers: bool = False,
    ) -> None: ...
    spare_window: int
    """Bytes by which receive windows of the loop's connections may yet grow; 64 MiB at first."""

    @property
    def coarse(self) -> float:
        """The clock at the last `tick`, seconds."""
    @property
    def received(self) -> int:
        """Bytes read by all endpoints so far."""
    def tick(self) -> None:
        """Note the time, for what needs it only roughly; call this every second or so."""
    def run(self) -> None:
        """Flush the endpoints that asked for it; those that ask meanwhile are flushed next turn."""

class Endpoint:
    """One connection. Subclasses are codecs; all of it belongs to the thread of its loop."""

    def __init__(self, turn: Turn) -> None: ...
    @property
    def turn(self) -> Turn: ...
    @property
    def transport(self) -> asyncio.Transport | None:
        """None before `connection_made` and after `connection_lost`."""
    def failed(self, error: Exception) -> None:
        """An unexpected error while this connection was served: drop it, and report the error."""
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport once, before anything else."""
    def get_buffer(self, sizehint: int) -> Buffer:
        """Where the transport shall put what it reads; good until any endpoint reads again."""
    def buffer_updated(self, size: int) -> None:
        """`size` bytes have been put into the buffer that `get_buffer` returned last.

        ValueError if it does not hold so many.
        """
    def data_received(self, data: Buffer) -> None:
        """For transports that bring their own bytes, and for tests."""
    def eof_received(self) -> bool:
        """The other end has sent its last byte. True if our direction stays open."""
    def pause_writing(self) -> None:
        """The transport holds enough."""
    def resume_writing(self) -> None:
        """The transport can take more."""
    def connection_lost(self, reason: Exception | None) -> None:
        """The transport is gone; `reason` is None after a close of ours or a clean end."""
    def close(self) -> None:
        """Write what is gathered, then close."""
    def abort(self) -> None:
        """Close without writing anything more."""
    @property
    def is_closed(self) -> bool:
        """True once the transport is gone or on its way."""
    @property
    def write_paused(self) -> bool:
        """True while the transport holds enough."""
