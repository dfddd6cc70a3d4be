"""Certificates on their way from a browser to the command line that waits for them (docs: API §7).

The command line has made a key that nobody can guess, and told the browser; what is put under that
key is handed to whoever asks with it, once, within minutes. What nobody fetches is taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

__all__ = [
    "HOLD_SECONDS",
    "MAX_DEPOSITS",
    "MAX_POLLS",
    "WAITING_SECONDS",
    "TransferRefused",
    "Transfers",
]

MAX_DEPOSITS: Final = 64
"""Certificates that wait to be fetched."""

WAITING_SECONDS: Final = 300.0
"""Until one that nobody fetches is taken back."""

MAX_POLLS: Final = 64
"""Command lines that are held at once; more are told at once that there is nothing yet."""

HOLD_SECONDS: Final = 25.0
"""How long one is held. Proxies give up on silence after 30 or 60."""


class TransferRefused(Exception):  # noqa: N818 - says the state
    """A certificate cannot be put there."""


@dataclass(slots=True)
class _Deposit:
    certificate: bytes
    take_back: Callable[[], Awaitable[None]]
    timer: asyncio.TimerHandle


class Transfers:
    """Those of one edge; belongs to the running loop."""

    def __init__(self) -> None:
        self._deposits: dict[str, _Deposit] = {}
        self._arrivals: dict[str, set[asyncio.Event]] = {}
        self._polls = 0
        self._closed = False
        self._used: dict[str, None] = {}
        self._taking_back: set[asyncio.Future[None]] = set()

    async def close(self) -> None:
        """Hold nobody any more, and take back what has not been fetched: the edge stops."""
        self._closed = True
        for waiting in self._arrivals.values():
            for arrived in waiting:
                arrived.set()
        await asyncio.gather(*map(self.take_back, self._deposits), return_exceptions=True)

    def check(self, key: str) -> None:
        """Raise TransferRefused unless a certificate can be put under `key` now."""
        if key in self._deposits or key in self._used:
            raise TransferRefused("this login was used already: run the command again")
        if len(self._deposits) >= MAX_DEPOSITS:
            raise TransferRefused("too many logins wait for their command line; try again later")

    def deposit(
        self, key: str, certificate: bytes, take_back: Callable[[], Awaitable[None]]
    ) -> None:
        """Keep a certificate for whoever knows `key`. `take_back` is called if nobody fetches it.

        Raises:
            TransferRefused: see `check`.
        """
        self.check(key)
        timer = asyncio.get_running_loop().call_later(WAITING_SECONDS, self._expire, key)
        self._deposits[key] = _Deposit(certificate, take_back, timer)
        for arrived in self._arrivals.get(key, ()):
            arrived.set()

    async def fetch(self, key: str, seconds: float | None = None) -> bytes | None:
        """The certificate under `key`, once; None if none has come within HOLD_SECONDS, or so
        long."""
        seconds = HOLD_SECONDS if seconds is None else seconds
        if key not in self._deposits and self._polls < MAX_POLLS and not self._closed:
            await self._wait(key, seconds)
        deposit = self._deposits.pop(key, None)
        if deposit is None:
            return None
        deposit.timer.cancel()
        self._mark_used(key)
        return deposit.certificate

    async def _wait(self, key: str, seconds: float) -> None:
        arrived = asyncio.Event()
        waiting = self._arrivals.setdefault(key, set())
        waiting.add(arrived)
        self._polls += 1
        try:
            await asyncio.wait_for(arrived.wait(), seconds)
        except asyncio.TimeoutError:
            return
        finally:
            self._polls -= 1
            waiting.discard(arrived)
            if not waiting:
                self._arrivals.pop(key, None)

    async def take_back(self, key: str) -> None:
        """Nobody has fetched what is under `key`, and nobody can any more."""
        deposit = self._deposits.pop(key, None)
        if deposit is not None:
            deposit.timer.cancel()
            self._mark_used(key)
            await deposit.take_back()

    def _expire(self, key: str) -> None:
        task = asyncio.ensure_future(self.take_back(key))
        self._taking_back.add(task)
        task.add_done_callback(self._taking_back.discard)

    def _mark_used(self, key: str) -> None:
        self._used[key] = None
        while len(self._used) > MAX_DEPOSITS:
            del self._used[next(iter(self._used))]
