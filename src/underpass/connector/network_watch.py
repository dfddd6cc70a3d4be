"""Notices what no link is told: that the machine slept, or that its network is another one.

Timers go by clocks that stand still while the machine sleeps, and TCP does not notice that an
address is gone until it has sent for minutes. So a look is taken every few seconds at how much time
has passed by other clocks, and from which addresses packets would leave now. Nothing is sent.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

__all__ = ["LOOK_EVERY", "NetworkWatch", "asleep_seconds", "source_addresses"]

LOOK_EVERY: Final = 5.0
"""Seconds between two looks."""

LATE: Final = 10.0
"""Seconds that a look may be late on a busy machine; beyond, this process stood still."""

ASLEEP: Final = 1.0
"""Seconds of sleep that are worth a look at the links."""

# Documentation prefixes (RFC 5737, RFC 3849): routed like anything that is far away.
_FAR: Final = (
    (socket.AF_INET, ("192.0.2.1", 9)),
    (socket.AF_INET6, ("2001:db8::1", 9)),
)


def asleep_seconds() -> float:
    """Seconds that the clock of timers has stood still for; only differences mean something.

    Linux says so exactly. On macOS the wall clock goes on, and is set now and then as well, which
    costs no more than a question to each link. On Windows the clock of timers goes on, so that a
    look is late.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    if sys.platform == "darwin":
        return time.time() - time.monotonic()
    return 0.0


def source_addresses() -> tuple[str, ...]:
    """From which address packets to far away would leave, of IPv4 and IPv6; "" for no way."""
    return tuple(_source(family, far) for family, far in _FAR)


def _source(family: socket.AddressFamily, far: tuple[str, int]) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(far)  # of a datagram socket: asks the routing table, sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return ""


class NetworkWatch:
    """Calls `on_change` with a reason, for every change that makes links doubtful or possible.

    Args:
        clock: seconds, the clock that timers go by.
        asleep: see `asleep_seconds`.
        sources: see `source_addresses`.
    """

    def __init__(
        self,
        on_change: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        asleep: Callable[[], float] = asleep_seconds,
        sources: Callable[[], tuple[str, ...]] = source_addresses,
    ) -> None:
        self._on_change = on_change
        self._clock = clock
        self._asleep = asleep
        self._sources = sources
        self._looked_at = clock()
        self._asleep_before = asleep()
        self._sources_before = sources()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look every few seconds on the running loop, until `stop`."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._due)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        self.start()
        self.look()

    def look(self) -> None:
        """Compare with what was at the last look."""
        now, asleep, sources = self._clock(), self._asleep(), self._sources()
        slept = asleep - self._asleep_before
        late = now - self._looked_at - LOOK_EVERY
        before = self._sources_before
        self._looked_at, self._asleep_before, self._sources_before = now, asleep, sources
        if slept >= ASLEEP:
            self._on_change(f"the machine slept for {slept:.0f} s")
        elif late >= LATE:
            self._on_change(f"this process stood still for {late:.0f} s")
        elif sources != before:
            self._on_change(f"the network changed: {_spell(before)} is now {_spell(sources)}")


def _spell(sources: tuple[str, ...]) -> str:
    return " and ".join(filter(None, sources)) or "no network"
