"""One connection between connector and edge, as both ends keep it: an HTTP/2 connection over TLS.

The connector dials; then the roles turn, and it is the HTTP/2 server (docs: wire protocol §2.1).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from underpass.core.h2 import H2Connection, Limits
from underpass.core.tunnel import OriginAcceptor
from underpass.wire.turns import TICK, LoopTurn

__all__ = [
    "KEEPALIVE_DEAD",
    "KEEPALIVE_QUIET",
    "UNSENT",
    "LinkConnection",
    "drain_seconds",
    "drain_words",
]

KEEPALIVE_QUIET: Final = 15.0
"""Seconds without a byte from the peer after which it is asked for a sign of life. TCP alone would
notice a vanished peer after a quarter of an hour."""

KEEPALIVE_DEAD: Final = 30.0
"""Seconds without a byte after which the link is given up."""

UNSENT: Final = 131072
"""Bytes that the kernel takes before it has sent what it was given earlier. Its send buffer grows
to megabytes, and a small response would wait behind as much of a bulk transfer; what is not in
there yet, the streams still take turns for."""

PROBE_PATIENCE: Final = 5.0
"""Seconds a link may take to answer when there is reason to doubt it."""

DRAIN: Final = b"underpass-drain="

LONGEST_DRAIN: Final = 86400.0
"""Seconds that an edge may have a connector keep a link which it has replaced."""

log = logging.getLogger("underpass.wire.link")


def drain_words(seconds: float) -> bytes:
    """What an edge of ours says with GOAWAY: how long what is under way may take."""
    return DRAIN + b"%d" % seconds


def drain_seconds(debug: bytes) -> float:
    """What it said, LONGEST_DRAIN at most; 0 if it said nothing of the kind."""
    text = debug.removeprefix(DRAIN)
    if text == debug or not text.isdigit() or len(text) > 9:
        return 0.0
    return min(float(text), LONGEST_DRAIN)


class LinkError(ConnectionError):
    """The link ended otherwise than by a clean close."""


class LinkConnection(H2Connection, asyncio.BufferedProtocol):
    """A link. With an acceptor it is the connector's end, without one the edge's.

    `ended` is done when the transport is gone: its result is the reason, or None.
    """

    def __init__(
        self, turn: LoopTurn, acceptor: OriginAcceptor | None = None, limits: Limits | None = None
    ) -> None:
        super().__init__(turn, acceptor, limits)
        self._loop_turn = turn
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._fault: str | None = None
        self._heard = 0
        # Ticks without a byte. Ticks, since there are none while the machine sleeps or this process
        # is stopped, after which a peer's answer may lie here unread.
        self._silent = 0
        self._asked = False
        self._idle_waiters: list[asyncio.Future[None]] = []
        turn.on_tick.add(self._keep_alive)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        link = transport.get_extra_info("socket")
        if link is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)

    def disconnected(self, reason: Exception | None) -> None:
        self._loop_turn.on_tick.discard(self._keep_alive)
        if reason is None and self._fault is not None:
            reason = LinkError(self._fault)
        if not self.ended.done():
            self.ended.set_result(reason)
        self.idle()

    def protocol_failure(self, code: int, why: str) -> None:
        self._fault = f"the peer broke the HTTP/2 protocol: {why} (error code {code})"
        log.warning("link closed: %s", self._fault)

    def going_away(self, code: int, debug: bytes) -> None:
        if code:
            text = debug[:200].decode("ascii", "replace")
            self._fault = f"the peer gave the link up with HTTP/2 error code {code}: {text!r}"
            log.warning("link closing: %s", self._fault)

    def idle(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until_at_most(self, streams: int) -> None:
        """Return when no more than `streams` are open and what they wrote has been handed to the
        transport, or the link has ended."""
        loop = asyncio.get_running_loop()
        self.idle_at = streams
        while not self.is_closed and self.active > streams:
            waiter: asyncio.Future[None] = loop.create_future()
            self._idle_waiters.append(waiter)
            await waiter
        # The last stream's bytes are written at the end of the turn that wakes us.
        await asyncio.sleep(0)

    @property
    def peer(self) -> str:
        """The other end's address, for messages."""
        name = self.transport.get_extra_info("peername") if self.transport is not None else None
        return f"{name[0]}:{name[1]}" if name else "a closed connection"

    @property
    def peer_ip(self) -> str:
        """The other end's IP address; that of nobody when there is none."""
        name = self.transport.get_extra_info("peername") if self.transport is not None else None
        return str(name[0]) if isinstance(name, tuple) else "0.0.0.0"  # noqa: S104

    def probe(self) -> None:
        """Ask for a sign of life now; without one the link is given up after PROBE_PATIENCE."""
        if self.is_closed:
            return
        if not self._asked:
            self._heard = self.bytes_received
            self._asked = True
            self.ping()
        self._silent = max(self._silent, _ticks(KEEPALIVE_DEAD - PROBE_PATIENCE))

    def _keep_alive(self) -> None:
        received = self.bytes_received
        if received != self._heard:
            self._heard = received
            self._silent = 0
            self._asked = False
            return
        self._silent += 1
        if self._silent >= _ticks(KEEPALIVE_DEAD):
            self._fault = "nothing is heard from the peer any more"
            self.abort()
        elif self._silent >= _ticks(KEEPALIVE_QUIET) and not self._asked:
            self._asked = True
            self.ping()


def _ticks(seconds: float) -> int:
    return round(seconds / TICK)
