"""What an edge tells its operators, on a listener of its own: /metrics, /healthz, /readyz."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from underpass.edge.errors import EdgeError
from underpass.ops.metrics import Metrics, SnapshotSource
from underpass.ops.metrics_server import (
    MetricsServer,
    Page,
    announce,
    json_page,
    text_page,
)

__all__ = ["STORE_SECONDS", "Operators"]

STORE_SECONDS: Final = 2.0
"""For the store to answer; a longer wait is an edge that is not ready."""


class Operators:
    """`state` is "starting", "ready" or "draining"; the owner changes it.

    Args:
        sources: of metrics.
        refresh: brings them up to date.
        workers: ids of the processes that serve.
        read_store: raises EdgeError when the store cannot be read.
    """

    def __init__(
        self,
        sources: Sequence[SnapshotSource],
        *,
        refresh: Callable[[], Awaitable[None]],
        workers: Callable[[], Sequence[int]],
        read_store: Callable[[], Awaitable[object]],
    ) -> None:
        self.state = "starting"
        self._read_store = read_store
        self._server = MetricsServer(
            Metrics(sources, refresh=refresh, workers=workers),
            pages={b"/healthz": self._health, b"/readyz": self._readiness},
        )

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._server.address

    async def start(self, listener: socket.socket) -> None:
        """Answer on a socket that listens."""
        await self._server.serve(listener)
        announce(self._server)

    async def drain(self) -> None:
        """Stop listening, and answer those who have connected."""
        await self._server.drain()

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop()

    async def _health(self) -> Page:
        """It runs; nothing else is asked."""
        return text_page("OK\n")

    async def _readiness(self) -> Page:
        status, store = self.state, "ok"
        try:
            await asyncio.wait_for(self._read_store(), STORE_SECONDS)
        except asyncio.TimeoutError:
            store = f"no answer within {STORE_SECONDS:.0f} seconds"
        except EdgeError as error:
            store = str(error)
        if status == "ready" and store != "ok":
            status = "unready"
        return json_page({"status": status, "store": store}, 200 if status == "ready" else 503)
