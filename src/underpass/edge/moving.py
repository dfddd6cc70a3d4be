"""Has every link go to the process that takes this one's place, so that no request finds none.

A connector that says it replaces links before it gives them up is asked at once, all of its links:
each keeps serving until its successor is there. Others, a stock cloudflared among them, dial again
only when a connection has ended, and take their time. Of a tunnel that has several such links, half
are ended first, when what they carry has ended; the other half when the first has come back. The
only link of a tunnel is ended in a moment in which it carries nothing, and what is asked meanwhile
waits (`waiting`).
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from underpass.edge.router import Link, Router
from underpass.wire.headers import FEATURE_REPLACES_LINKS

__all__ = ["COME_BACK_SECONDS", "LinkMover", "Way"]

COME_BACK_SECONDS: Final = 45.0
"""After which the other half of a tunnel's links is ended although the first has not come back:
longer than a stock connector waits before it dials again."""

ASKED_SECONDS: Final = 15.0
"""A connector that replaces links has had time enough then, and is treated as one that does not."""

_log = logging.getLogger(__name__)


class Way(enum.Enum):
    """How a link is brought to move."""

    ASK = "ask"
    """Its connector is told to replace it; until then it serves on."""
    WHEN_IDLE = "when idle"
    """It is closed as soon as it carries nothing, and serves on until then."""
    DRAIN = "drain"
    """It gets no new requests, and is closed when those under way have ended."""


class LinkMover:
    """Moves the links in `router`; done when none of them takes requests any more.

    Tell it of every change of them by `changed`.

    Args:
        router: has the links of this edge, and as links beyond those of the one that follows.
        move: brings a link to move, and what it has under way to end within some seconds.
        drain_seconds: those.
    """

    def __init__(
        self, router: Router, move: Callable[[Link, Way, float], None], drain_seconds: float
    ) -> None:
        self._router = router
        self._move = move
        self._drain_seconds = drain_seconds
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """A link has come or gone, here or in the process that follows."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Move all of them, tunnel by tunnel at the same time."""
        while tunnels := self._router.tunnels_with_links():
            await asyncio.gather(*map(self._move_tunnel, tunnels))

    async def _move_tunnel(self, tunnel_id: UUID) -> None:
        links = self._here(tunnel_id)
        asked = [link for link in links if FEATURE_REPLACES_LINKS in link.details.features]
        for link in asked:
            self._move(link, Way.ASK, self._drain_seconds)
        if asked:
            # The others have somebody to be replaced by, then.
            await self._until(lambda: not self._are_here(asked), ASKED_SECONDS)
        links = self._here(tunnel_id)
        if len(links) > 1 and not self._there(tunnel_id):
            half = links[: len(links) // 2]
            await self._end(half, Way.DRAIN)
            await self._until(lambda: self._there(tunnel_id) >= len(half), COME_BACK_SECONDS)
        if self._there(tunnel_id):
            await self._end(self._here(tunnel_id), Way.DRAIN)
        else:
            await self._end(self._here(tunnel_id)[:1], Way.WHEN_IDLE)

    async def _end(self, links: Sequence[Link], way: Way) -> None:
        """Return when they take nothing more."""
        for link in links:
            self._move(link, way, self._drain_seconds)
        while self._are_here(links):
            await self._changed.wait()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        async def wait() -> None:
            while not condition():
                await self._changed.wait()

        try:
            await asyncio.wait_for(wait(), seconds)
        except asyncio.TimeoutError:
            _log.info("links have not come to the new process", extra={"seconds": seconds})

    def _here(self, tunnel_id: UUID) -> list[Link]:
        links = self._router.own_links_of(tunnel_id)
        return sorted(links, key=lambda link: (link.conn_index, link.connector_id))

    def _are_here(self, links: Sequence[Link]) -> bool:
        return any(link in self._router.own_links_of(link.tunnel_id) for link in links)

    def _there(self, tunnel_id: UUID) -> int:
        return len(self._router.links_beyond(tunnel_id))
