"""A service behind Access: a request reaches it only with a valid token (docs: configuration §5.3).

Wilfully different from cloudflared: a token that proves nothing is answered with 403, not 502; 502
says that the team's keys could not be had.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from underpass.connector.access_keys import AccessKeys, KeysError
from underpass.connector.origin_request import AccessRequirement
from underpass.core.tunnel import OriginExchange
from underpass.wire.access_token import (
    AccessToken,
    Claims,
    TokenError,
    UnknownKeyError,
    read_token,
)

if TYPE_CHECKING:
    from underpass.connector.dispatch import Service

__all__ = ["ASSERTION", "AccessVerifier", "ProtectedService", "issuer_of"]

ASSERTION: Final = b"cf-access-jwt-assertion"

MAX_WAITING: Final = 1000
"""Requests of one issuer that wait for keys."""

MAX_REMEMBERED: Final = 1000
"""Tokens of one issuer that need not be verified again: a page asks for many things with one."""


def issuer_of(requirement: AccessRequirement) -> str:
    """Who issues the team's tokens."""
    domain = "fed.cloudflareaccess.com" if requirement.environment == "fed" else None
    return f"https://{requirement.team_name}.{domain or 'cloudflareaccess.com'}"


class AccessVerifier:
    """Verifies the tokens of one issuer."""

    def __init__(self, keys: AccessKeys, clock: Callable[[], float] = time.time) -> None:
        self.keys = keys
        self._clock = clock
        self._remembered: dict[bytes, Claims] = {}
        self._generation = 0
        self._waiting: set[asyncio.Task[None]] = set()

    def recall(self, text: bytes) -> Claims | None:
        """The claims of a token verified before, with the keys that are known now."""
        self._forget_other_keys()
        claims = self._remembered.get(text)
        return claims if claims is not None and self._clock() < claims.exp else None

    def verify(self, token: AccessToken) -> Claims:
        """The claims of a token. Raises TokenError."""
        claims = token.verified(self.keys.known, self.keys.issuer, self._clock())
        self._forget_other_keys()
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[token.text] = claims
        return claims

    def _forget_other_keys(self) -> None:
        """What was verified with keys from before may not be any more."""
        if self._generation != self.keys.generation:
            self._generation = self.keys.generation
            self._remembered.clear()

    @property
    def waiting(self) -> int:
        """Requests that wait for keys."""
        return len(self._waiting)

    def later(self, work: Callable[[], None], failed: Callable[[KeysError], None]) -> None:
        """Call `work` once the keys have been fetched again, or `failed`."""

        async def fetch_first() -> None:
            try:
                await self.keys.refresh()
            except KeysError as error:
                failed(error)
            except asyncio.CancelledError:
                failed(KeysError("the connector shuts down"))
                raise
            else:
                work()

        if len(self._waiting) >= MAX_WAITING:
            failed(KeysError(f"{MAX_WAITING} requests wait for the keys of {self.keys.issuer}"))
            return
        task = asyncio.get_running_loop().create_task(fetch_first())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def refresh_soon(self) -> None:
        """Fetch the keys again while those known serve."""
        if self.keys.may_refresh and not self._waiting:
            self.later(_nothing, _log_has_it)

    def close(self) -> None:
        """Give up those that wait."""
        self.keys.close()
        for task in tuple(self._waiting):
            task.cancel()


class ProtectedService:
    """Asks for a token first."""

    def __init__(
        self, behind: Service, requirement: AccessRequirement, verifier: AccessVerifier
    ) -> None:
        self._behind = behind
        self._forward = behind.forward
        self._audiences = frozenset(requirement.audience_tags)
        self._verifier = verifier

    def forward(self, exchange: OriginExchange) -> None:
        """Check the token, and hand the request on or answer 403."""
        request = exchange.request
        found = request.get_all(ASSERTION) if request is not None else []
        if not found:
            exchange.context = "the request has no Access token"
            exchange.fail(403, "access_missing")
            return
        if len(found) > 1:
            # Which of them the application would look at is not for us to guess.
            _refuse(exchange, "the request has more than one Access token")
            return
        claims = self._verifier.recall(found[0])
        if claims is not None:
            self._decide(exchange, claims)
            return
        try:
            token = read_token(found[0])
        except TokenError as error:
            _refuse(exchange, f"the Access token is refused: {error}")
            return
        keys = self._verifier.keys
        if keys.known and keys.is_stale:
            self._verifier.refresh_soon()
        self._verify(exchange, token, keys.may_refresh or not keys.known)

    @property
    def is_busy(self) -> bool:
        """Whether requests wait for keys, or are being served."""
        return self._verifier.waiting > 0 or self._behind.is_busy

    def close(self) -> None:
        """Close the service behind. The verifier may be others' too."""
        self._behind.close()

    def _verify(self, exchange: OriginExchange, token: AccessToken, may_ask: bool) -> None:
        try:
            claims = self._verifier.verify(token)
        except UnknownKeyError as error:
            if may_ask:
                self._verifier.later(
                    partial(self._verify, exchange, token, False), partial(_no_keys, exchange)
                )
            else:
                _refuse(exchange, f"the Access token is refused: {error}")
        except TokenError as error:
            _refuse(exchange, f"the Access token is refused: {error}")
        else:
            self._decide(exchange, claims)

    def _decide(self, exchange: OriginExchange, claims: Claims) -> None:
        if self._audiences.isdisjoint(claims.audiences):
            _refuse(exchange, "the Access token is for none of the rule's audTag")
            return
        self._forward(exchange)


def _refuse(exchange: OriginExchange, why: str) -> None:
    exchange.context = why
    exchange.fail(403, "access_denied")


def _no_keys(exchange: OriginExchange, error: KeysError) -> None:
    exchange.context = f"Access tokens cannot be checked: {error}"
    exchange.fail(502, "access_keys")


def _nothing() -> None:
    """The keys are there; nobody waits."""


def _log_has_it(_: KeysError) -> None:
    """The keys from before still serve."""
