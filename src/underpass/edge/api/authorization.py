"""Who asks: the bearer token of a request, and a limit on those who only try some."""

from __future__ import annotations

import contextlib
import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from starlette.requests import Request

from underpass.edge.api.control import Control
from underpass.edge.api.requests import Refusal
from underpass.edge.api.token_bucket import TokenBucket
from underpass.edge.errors import TokenRefused
from underpass.edge.store import ApiToken

__all__ = [
    "GUESSES_AT_ONCE",
    "GUESSES_PER_SECOND",
    "MAX_SOURCES",
    "Guesses",
    "authenticated",
    "bearer",
    "check_guesses",
    "source_of",
]

GUESSES_AT_ONCE: Final = 10
"""Requests with a wrong token that one source is told so, before it is told to wait."""

GUESSES_PER_SECOND: Final = 0.1

MAX_SOURCES: Final = 4096
"""Sources of wrong tokens that are remembered; the one longest not heard of gives way."""

_IPV6_SITE_BITS: Final = 64
"""Of an IPv6 address, what one customer has."""


class Guesses:
    """Wrong tokens by where they came from."""

    def __init__(
        self,
        new_bucket: Callable[[], TokenBucket] = lambda: TokenBucket(
            GUESSES_AT_ONCE, GUESSES_PER_SECOND
        ),
    ) -> None:
        self._new_bucket = new_bucket
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def count(self, source: str) -> float:
        """One more from `source`: the seconds it should wait, or 0.0 while that is no matter."""
        key = _site(source)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_SOURCES:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = self._new_bucket()
        self._buckets.move_to_end(key)
        return bucket.take()


def source_of(request: Request) -> str:
    """The address that a request came from."""
    return "" if request.client is None else request.client.host


async def bearer(request: Request, control: Control, guesses: Guesses) -> ApiToken:
    """The token that a request is made with (RFC 6750 §2.1).

    Somebody who has one is let in however many wrong ones came from the same address: what is
    guessed is 256 bits, so the limit is there to keep guessing cheap for us, not hard.

    Raises:
        Refusal: 401 when there is none or a wrong one; 429 after many wrong ones.
        StoreError: the store cannot be read.
    """
    values = request.headers.getlist("authorization")
    scheme, _, text = (values[0] if len(values) == 1 else "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refusal(
            401, "this needs an API token: Authorization: Bearer up_…", headers=_CHALLENGE
        )
    return await authenticated(text.strip(), source_of(request), control, guesses)


async def authenticated(text: str, source: str, control: Control, guesses: Guesses) -> ApiToken:
    """The token that `text` is, shown by somebody at the address `source`.

    Raises: as `bearer`.
    """
    with contextlib.suppress(TokenRefused):
        return control.accounts.authenticate(text)
    check_guesses(source, guesses)
    # It may have been made by a command just now.
    await control.registry.refresh()
    try:
        return control.accounts.authenticate(text)
    except TokenRefused as error:
        raise Refusal(401, str(error), headers=_CHALLENGE) from None


def check_guesses(source: str, guesses: Guesses) -> None:
    """Somebody at `source` has shown a secret that is not right. Raises Refusal (429) when that was
    often."""
    wait = guesses.count(source)
    if wait:
        raise Refusal(
            429,
            "too many wrong API tokens came from your address; try again later",
            headers={"retry-after": str(math.ceil(wait))},
        )


_CHALLENGE: Final = {"www-authenticate": "Bearer"}


def _site(source: str) -> str:
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if address.version == 4:
        return source
    return str(ipaddress.ip_network((address, _IPV6_SITE_BITS), strict=False))
