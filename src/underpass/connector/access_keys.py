"""The public keys of an Access team (docs: configuration §5.3).

Fetched when first needed, kept, and fetched again when a token names one that is not there, or
after an hour.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from underpass.ops.http_request import RequestError, request
from underpass.version import VERSION
from underpass.wire.access_token import Keys, parse_keys

__all__ = ["AccessKeys", "KeysError", "fetch_keys"]

log = logging.getLogger("underpass.connector.access")

REFRESH_SECONDS: Final = 3600.0
"""Age at which keys are fetched again, so that one that was withdrawn is not believed for ever."""

MIN_REFRESH_SECONDS: Final = 10.0
"""Between two fetches: whoever invents key ids must not make a connector hammer its team's host."""

FETCH_TIMEOUT: Final = 10.0
"""Seconds for one fetch, all of it."""

MAX_DOCUMENT: Final = 1 << 20
"""Octets of a key set; real ones have 3 KiB."""

_PATH: Final = "/cdn-cgi/access/certs"


class KeysError(Exception):
    """There are no keys to check tokens with; the text says why."""


class AccessKeys:
    """The keys of one issuer, an https address without a path.

    `fetch` is called with the address of the key set in a thread; it raises KeysError.
    """

    def __init__(
        self,
        issuer: str,
        *,
        fetch: Callable[[str], Keys] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self.known: Keys = ()
        self.generation = 0
        """Counts what `known` has been."""
        self._fetch = fetch or fetch_keys
        self._clock = clock
        self._fetched: float | None = None
        self._trouble = ""
        self._fetching: asyncio.Task[None] | None = None

    @property
    def is_stale(self) -> bool:
        """Whether it is time to `refresh`; `known` serves meanwhile."""
        return self._fetched is None or self._clock() - self._fetched >= REFRESH_SECONDS

    @property
    def may_refresh(self) -> bool:
        """Whether asking now could bring keys that were not there a moment ago."""
        return self._fetched is None or self._clock() - self._fetched >= MIN_REFRESH_SECONDS

    async def refresh(self) -> None:
        """Fetch the keys, unless that has just been done; all who ask meanwhile wait for the same.

        Raises KeysError if there are none, now or from before.
        """
        if self.may_refresh or self._fetching is not None:
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._refresh(), name="access-keys")
            await asyncio.shield(self._fetching)
        if not self.known:
            raise KeysError(self._trouble)

    def close(self) -> None:
        """Give up a fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _refresh(self) -> None:
        try:
            # Also here, because the timeouts of a blocking client are for each step.
            keys = await asyncio.wait_for(
                asyncio.to_thread(self._fetch, self.issuer + _PATH), FETCH_TIMEOUT + 1.0
            )
        except (KeysError, asyncio.TimeoutError) as error:
            self._trouble = str(error) or f"{self.issuer} does not answer in time"
            log.error(
                "Unable to fetch the keys of Access tokens",
                extra={"error": self._trouble, "issuer": self.issuer, "kept": len(self.known)},
            )
        else:
            if [key_id for key_id, _ in keys] != [key_id for key_id, _ in self.known]:
                log.info("Fetched the keys of Access tokens", extra={"issuer": self.issuer})
            self.known = keys
            self.generation += 1
        finally:
            self._fetched = self._clock()
            self._fetching = None


def fetch_keys(url: str) -> Keys:
    """Fetch a JSON web key set. Raises KeysError.

    Through the proxy that `HTTPS_PROXY` names, as cloudflared does.
    """
    try:
        answer = request(
            "GET",
            url,
            headers={"User-Agent": f"underpass/{VERSION}", "Accept": "application/json"},
            timeout=FETCH_TIMEOUT,
            max_bytes=MAX_DOCUMENT,
            use_proxy=True,
        )
    except RequestError as error:
        raise KeysError(f"{url} cannot be asked: {error}") from error
    if answer.status != HTTPStatus.OK:
        raise KeysError(f"{url} answers {answer.status}; is teamName right, and is Access set up?")
    try:
        return parse_keys(answer.body)
    except ValueError as error:
        raise KeysError(f"{url} does not answer with a key set: {error}") from error
