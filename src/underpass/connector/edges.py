"""Where the edge is: address slots, and which link holds which (docs: wire protocol §1.2, §1.3).

A slot is one entry of the list, not one address: the same address given four times makes four
slots. A link keeps its slot until it is rotated. Slots sit in two regions and free ones are taken
from the region with more of them, so links spread out.

Wilfully different: a list given with `--edge` is resolved when dialled, not once at start, so a
connector that starts before its DNS does comes up; and rotation with no other free slot keeps the
slot held, so the wait before the next attempt is never skipped.
"""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

__all__ = ["EdgePool", "EdgeSlot", "Region", "parse_edge", "static_regions"]

# Seconds a region stays on its other address family after an IPv6 address failed.
SECONDARY_HOLD = 600.0
# Entries. More than this many `--edge` values is a mistake.
MAX_STATIC_EDGES = 256


class EdgeSlot(Struct, frozen=True, eq=False):
    """One place to dial. Compared by identity. `host` is a name or an address without brackets;
    `home` is the number of the home it belongs to."""

    host: str
    port: int
    region: int
    home: int = 0

    @property
    def is_ipv6(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).version == 6
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Region(Struct):
    """The slots of one region; `secondary` is the other address family, used when IPv6 fails."""

    primary: Sequence[EdgeSlot]
    secondary: Sequence[EdgeSlot] = ()
    _secondary_until: float | None = None

    @property
    def active(self) -> Sequence[EdgeSlot]:
        return self.primary if self._secondary_until is None else self.secondary

    def failed(self, slot: EdgeSlot, now: float) -> None:
        """Note that `slot` could not be reached at `now`, in monotonic seconds."""
        if self._secondary_until is None:
            if slot.is_ipv6 and self.secondary:
                self._secondary_until = now + SECONDARY_HOLD
        elif not slot.is_ipv6 or now >= self._secondary_until:
            self._secondary_until = None


def parse_edge(text: str) -> tuple[str, int]:
    """Read `host:port` or `[address]:port`. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"--edge {text!r}: put an IPv6 address in brackets, like [::1]:7844")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ValueError(f"--edge {text!r} is not host:port, like edge.example.com:7844")
    return host, int(port)


def static_regions(entries: Sequence[tuple[str, int]], home: int = 0) -> tuple[Region, Region]:
    """Regions for a list of (host, port): even entries in the first, odd ones in the second."""
    if not entries:
        raise ValueError("the list of edge addresses is empty")
    if len(entries) > MAX_STATIC_EDGES:
        raise ValueError(f"more than {MAX_STATIC_EDGES} edge addresses")
    slots = [EdgeSlot(host, port, index % 2, home) for index, (host, port) in enumerate(entries)]
    return Region(slots[0::2]), Region(slots[1::2])


class EdgePool:
    """Hands slots to links, which are known by their connection index.

    It may be empty until `renew` has brought addresses.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        *,
        clock: Callable[[], float] = time.monotonic,
        choose: Callable[[Sequence[EdgeSlot]], EdgeSlot] = random.choice,
    ) -> None:
        self._regions = tuple(regions)
        self._clock = clock
        self._choose = choose
        self._held: dict[int, EdgeSlot] = {}
        # Those that could not be reached since one could.
        self._failed: set[EdgeSlot] = set()

    @property
    def capacity(self) -> int:
        """How many links can have a slot of their own."""
        return sum(len(region.active) for region in self._regions)

    @property
    def failed(self) -> int:
        """How many of the slots failed since a link was last made."""
        return sum(slot in self._failed for region in self._regions for slot in region.active)

    def reached(self) -> None:
        """A link was made: the addresses are good for something."""
        self._failed.clear()

    def renew(self, regions: Sequence[Region]) -> None:
        """Go by other addresses from now on. One that stays keeps its slot, and so its link."""
        known = {
            (slot.host, slot.port, slot.region): slot
            for region in self._regions
            for slot in (*region.primary, *region.secondary)
        }

        def kept(slots: Sequence[EdgeSlot]) -> list[EdgeSlot]:
            return [known.pop((slot.host, slot.port, slot.region), slot) for slot in slots]

        self._regions = tuple(
            Region(kept(region.primary), kept(region.secondary)) for region in regions
        )
        current = {
            slot for region in self._regions for slot in (*region.primary, *region.secondary)
        }
        self._held = {index: slot for index, slot in self._held.items() if slot in current}
        self._failed.clear()

    def take(self, conn_index: int) -> EdgeSlot:
        """The slot the link holds, or a free one, or when none is free one shared with a link."""
        slot = self._held.get(conn_index) or self._free(None)
        if slot is None:
            slot = self._choose([slot for region in self._regions for slot in region.active])
        self._held[conn_index] = slot
        return slot

    def rotate(self, conn_index: int) -> bool:
        """Swap the link's slot, which failed, for another free one; False if there is none."""
        failed = self._held.get(conn_index)
        if failed is None:
            return False
        self._failed.add(failed)
        self._regions[failed.region].failed(failed, self._clock())
        del self._held[conn_index]
        slot = self._free(failed)
        self._held[conn_index] = slot or failed
        return slot is not None

    def give_back(self, conn_index: int) -> None:
        """The link is over; its slot is free."""
        self._held.pop(conn_index, None)

    def _free(self, unwanted: EdgeSlot | None) -> EdgeSlot | None:
        held = set(self._held.values())
        most: list[EdgeSlot] = []
        ties: list[list[EdgeSlot]] = []
        for region in self._regions:
            free = [slot for slot in region.active if slot not in held and slot is not unwanted]
            if len(free) > len(most):
                most, ties = free, [free]
            elif free and len(free) == len(most):
                ties.append(free)
        if not most:
            return None
        return self._choose([slot for free in ties for slot in free])
