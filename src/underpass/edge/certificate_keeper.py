"""Sees to it that every public name has a certificate that lasts a while."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from underpass.edge.certificate_files import CertificateFiles
from underpass.edge.certificates import Clock, utc_now, write_private
from underpass.edge.errors import CertificateError

__all__ = ["CertificateKeeper", "is_public"]

log = logging.getLogger("underpass.edge.certificates")

LOOK_SECONDS: Final = 2.0
"""Between two looks for names that want a certificate."""

FIRST_RETRY: Final = timedelta(minutes=5)
LONGEST_RETRY: Final = timedelta(hours=12)
"""After a failure, doubled each time: authorities allow a handful of failures an hour."""

# RFC 2606, RFC 6761, RFC 6762, RFC 8375, RFC 9476: no authority can vouch for names below.
_SPECIAL: Final = frozenset(
    {
        *("alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion", "test"),
        *("home", "lan", "corp"),
    }
)

T = TypeVar("T")


class Authority(Protocol):
    """Who makes certificates; see `acme.AcmeAuthority`."""

    def obtain(self, name: str) -> bytes:
        """Key and chain for a name, PEM; blocks. Raises CertificateError."""


def is_public(name: str) -> bool:
    """Whether a public authority could vouch for a hostname or wildcard."""
    labels = name.removeprefix("*.").split(".")
    return len(labels) > 1 and labels[-1] not in _SPECIAL and not labels[-1].isdigit()


class CertificateKeeper:
    """Obtains certificates one at a time, renews them, and is patient after failures.

    Args:
        wanted: the names to have certificates for, in order of their importance.
        wildcards: whether the authority can be shown that those are ours.
        is_eligible: names it is not true of are left alone.
    """

    def __init__(
        self,
        authority: Authority,
        files: CertificateFiles,
        wanted: Callable[[], Iterable[str]],
        *,
        wildcards: bool,
        is_eligible: Callable[[str], bool] = is_public,
        clock: Clock = utc_now,
        look_seconds: float = LOOK_SECONDS,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._authority = authority
        self._files = files
        self._wanted = wanted
        self._wildcards = wildcards
        self._is_eligible = is_eligible
        self._clock = clock
        self._look_seconds = look_seconds
        self._uniform = uniform
        # Name -> failures in a row, and when to try again.
        self._failures: dict[str, tuple[int, datetime]] = {}

    async def run(self) -> None:
        """Look after certificates until cancelled."""
        while True:
            name = self.next_due()
            if name is None:
                await asyncio.sleep(self._look_seconds)
            else:
                await self.obtain(name)

    def next_due(self) -> str | None:
        """The first name that wants a certificate now."""
        now = self._clock()
        wanted = list(self._wanted())
        for name in self._failures.keys() - set(wanted):
            del self._failures[name]
        for name in wanted:
            if name.startswith("*.") and not self._wildcards:
                continue
            if not self._is_eligible(name) or self._files.is_given(name):
                continue
            failures = self._failures.get(name)
            if failures is not None and now < failures[1]:
                continue
            leaf = self._files.obtained(name)
            if leaf is None or now >= leaf.renew_after:
                return name
        return None

    async def obtain(self, name: str) -> None:
        """Obtain a certificate, or note the failure."""
        log.info("asking for a certificate", extra={"name_wanted": name})
        try:
            pem = await _in_thread(lambda: self._authority.obtain(name))
            write_private(self._files.path_for(name), pem)
        except (CertificateError, OSError) as error:
            count = self._failures.get(name, (0, None))[0] + 1
            wait = min(FIRST_RETRY * 2 ** min(count - 1, 20), LONGEST_RETRY)
            # Not all edges of a cluster, nor all names of an edge, at the same moment.
            wait *= self._uniform(0.9, 1.1)
            self._failures[name] = (count, self._clock() + wait)
            log.error(
                "cannot obtain a certificate",
                extra={
                    "name_wanted": name,
                    "error": str(error),
                    "retry_in_seconds": round(wait.total_seconds()),
                },
            )
        else:
            # Should it not be found where it was written, nobody is to be asked without end.
            self._failures[name] = (0, self._clock() + FIRST_RETRY)
            log.info("obtained a certificate", extra={"name_wanted": name})


async def _in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that nobody has to wait for: an authority may take its time, and the
    process is not to be kept from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only with an error

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            outcome: tuple[T | None, BaseException | None] = (None, error)
        else:
            outcome = (result, None)
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:
            # The loop has ended meanwhile, and with it whoever wanted the certificate.
            log.info("a certificate came too late")

    threading.Thread(target=run, name="acme", daemon=True).start()
    return await done
