"""Who is signed in: a browser with a cookie, for one account, for some hours.

One signs in with an API token, and may do what that token may; or with a link that a command on the
edge's machine has made, and may do everything the account can. Sessions survive a restart of the
edge; they end with the token they were opened with.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from msgspec import Struct

from underpass.edge.accounts import SCOPES
from underpass.edge.dashboard.secret_files import SecretFiles
from underpass.edge.registry import Author, Registry
from underpass.edge.store import Account, ApiToken

__all__ = [
    "LINK_MINUTES",
    "MAX_LINKS",
    "MAX_SESSIONS",
    "SESSION_HOURS",
    "Session",
    "Sessions",
    "SignInLink",
    "SignInLinks",
    "form_token",
]

SESSION_HOURS: Final = 12.0
"""From signing in until one has to again."""

MAX_SESSIONS: Final = 500
"""Of all accounts together; the oldest one gives way."""

LINK_MINUTES: Final = 10.0
"""How long a sign-in link may wait to be used."""

MAX_LINKS: Final = 50
"""That wait to be used."""


class _Kept(Struct, frozen=True):
    """A session as it is kept. `token_digest` is that of the secret it was opened with."""

    id: str
    account_id: str
    token_id: str
    token_digest: bytes
    created_at: datetime
    expires_at: datetime


class SignInLink(Struct, frozen=True):
    """What a sign-in link is good for."""

    account_id: str
    expires_at: datetime


class Session(Struct, frozen=True):
    """Somebody who is signed in. `token` is what they may do: an API token's scopes and hostnames,
    or everything when a sign-in link let them in, which is no token that there is."""

    id: str
    account: Account
    token: ApiToken
    by_link: bool
    expires_at: datetime
    form_token: str
    """What every form has to carry: see `form_token`."""

    def author(self, source: str) -> Author:
        """As the audit log names them."""
        how = "by link" if self.by_link else f"of token {self.token.id}"
        return Author(f"session {self.id} {how}", source)


class Sessions:
    """Those of one edge.

    Args:
        directory: where they are kept.
        clock: the time, aware.
    """

    def __init__(
        self,
        directory: Path,
        registry: Registry,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._files = SecretFiles(directory, _Kept, most=MAX_SESSIONS, clock=clock)

    def open(self, account: Account, token: ApiToken | None) -> str:
        """A new session, by a token or by a link; the secret for the cookie.

        Raises:
            DataDirectoryError: it cannot be kept.
        """
        now = self._clock()
        expires_at = now + timedelta(hours=SESSION_HOURS)
        if token is not None and token.expires_at is not None:
            expires_at = min(expires_at, token.expires_at)
        return self._files.put(
            _Kept(
                secrets.token_hex(4),
                account.id,
                "" if token is None else token.id,
                b"" if token is None else token.digest,
                now,
                expires_at,
            )
        )

    def find(self, secret: str) -> Session | None:
        """The session of a cookie; None if there is none, or it is over."""
        kept = self._files.find(secret)
        account = None if kept is None else self._registry.accounts.get(kept.account_id)
        if kept is None or account is None:
            return None
        token = self._token(kept)
        if token is None or token.account_id != account.id:
            return None
        return Session(
            kept.id, account, token, not kept.token_id, kept.expires_at, form_token(secret)
        )

    def close(self, secret: str) -> None:
        """End a session. One that is over is no error."""
        self._files.remove(secret)

    def _token(self, kept: _Kept) -> ApiToken | None:
        if not kept.token_id:
            return ApiToken(
                kept.id, kept.account_id, "sign-in link", SCOPES, (), b"", kept.created_at
            )
        token = self._registry.tokens.get(kept.token_id)
        now = self._clock()
        if token is None or (token.expires_at is not None and token.expires_at <= now):
            return None
        is_previous = token.previous_expires_at is not None and token.previous_expires_at > now
        if hmac.compare_digest(kept.token_digest, token.digest) or (
            is_previous and hmac.compare_digest(kept.token_digest, token.previous_digest)
        ):
            return token
        return None


class SignInLinks:
    """Made by whoever is the edge's user on its machine, used once by a browser."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._clock = clock
        self._files = SecretFiles(directory, SignInLink, most=MAX_LINKS, clock=clock)

    def make(self, account: Account) -> str:
        """A secret that lets somebody in for an account. Raises DataDirectoryError."""
        return self._files.put(
            SignInLink(account.id, self._clock() + timedelta(minutes=LINK_MINUTES))
        )

    def find(self, secret: str) -> SignInLink | None:
        """What a secret is good for, if it is good for something."""
        return self._files.find(secret)

    def use(self, secret: str) -> SignInLink | None:
        """The same, once."""
        return self._files.take(secret)


def form_token(secret: str) -> str:
    """What the forms of a session carry, so that no other page can send one: whoever knows it has
    seen a page of the session."""
    return hmac.new(secret.encode("ascii"), b"form", hashlib.sha256).hexdigest()
