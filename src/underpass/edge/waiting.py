"""Requests for tunnels whose links are on the move, or dial again after a start of the edge: they
wait for the next link rather than fail.

A link that is asked to move leaves a gap when it was its tunnel's only one: of a round trip with a
connector of ours, of up to twenty-odd seconds with a stock one, which dials again only when the old
connection has ended, and not at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import UUID

from underpass.core.relay import Exchange
from underpass.edge.router import Router

__all__ = ["HOLD_SECONDS", "MAX_HELD", "START_SECONDS", "WaitingRoom"]

HOLD_SECONDS: Final = 45.0
"""After a link has gone, its tunnel's next one is waited for so long. A stock connector takes up to
22 s, and up to 42 s when it lost a link shortly before (docs: wire protocol §2.11)."""

START_SECONDS: Final = 20.0
"""So long after its start a process waits for links of tunnels that it has found: their connectors
dial again by themselves."""

MAX_HELD: Final = 4096
"""Requests that may wait in one process, all tunnels together; what comes beyond gets 503."""


class WaitingRoom:
    """Belongs to one event loop; have `tick` called once a second.

    A request that waits is charged to its visitor's connection like any that is slow.
    """

    def __init__(self, router: Router, clock: Callable[[], float] = time.monotonic) -> None:
        self._router = router
        self._clock = clock
        self._expected: dict[UUID, float] = {}
        """Tunnels a link of which is to come, and until when that is waited for."""
        self._starting: set[UUID] = set()
        """Those of them of which there has been no link yet."""
        self._held: dict[tuple[UUID, Callable[[Any], object]], dict[Any, None]] = {}

    @property
    def count(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._held.values()))

    def expect(self, tunnel_id: UUID) -> None:
        """A link of this tunnel has gone that is to come again."""
        self._expected[tunnel_id] = self._clock() + HOLD_SECONDS
        self._starting.discard(tunnel_id)

    def expect_all(self, tunnels: Iterable[UUID]) -> None:
        """These have connectors, it may be, that dial again now. Once one has a link, it is as any
        other."""
        until = self._clock() + START_SECONDS
        for tunnel_id in tunnels:
            self._expected[tunnel_id] = until
            self._starting.add(tunnel_id)

    def hold(self, tunnel_id: UUID, exchange: Exchange, onward: Callable[[Any], object]) -> bool:
        """Keep a request until there is a link, or it has been waited for long enough; `onward` is
        called with it then. False if none is expected, or too many wait."""
        if tunnel_id not in self._expected or self.count >= MAX_HELD:
            return False
        exchange.wait_in(self._held.setdefault((tunnel_id, onward), {}))
        return True

    def came(self, tunnel_id: UUID) -> None:
        """There is a link of this tunnel: send on what waits for it."""
        if tunnel_id in self._starting:
            self._starting.discard(tunnel_id)
            del self._expected[tunnel_id]
        self._release(tunnel_id)

    def tick(self) -> None:
        """Give up what has waited long enough, and try the rest again where there is a link."""
        now = self._clock()
        for tunnel_id in [each for each, until in self._expected.items() if now >= until]:
            del self._expected[tunnel_id]
            self._starting.discard(tunnel_id)
            self._release(tunnel_id)
        for tunnel_id in {tunnel_id for tunnel_id, _ in self._held}:
            if any(not link.draining for link in self._router.links_of(tunnel_id)):
                self._release(tunnel_id)

    def _release(self, tunnel_id: UUID) -> None:
        for key in [each for each in self._held if each[0] == tunnel_id]:
            _, onward = key
            for exchange in tuple(self._held.pop(key)):
                exchange.waits_no_more()
                onward(exchange)
