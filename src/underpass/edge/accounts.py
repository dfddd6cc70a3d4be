"""Accounts, and the API tokens by which their owners manage tunnels.

A token's text is `up_`, its id, `_` and a secret of 256 random bits. The id finds the token and is
no secret; of the secret only the SHA-256 is kept, which is enough for what cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Final
from uuid import uuid4

from underpass.edge.errors import AccountError, TokenRefused
from underpass.edge.hostnames import covers, normalize_hostname
from underpass.edge.registry import Author, Registry
from underpass.edge.store import Account, ApiToken, VirtualNetwork

__all__ = [
    "DEFAULT_ROTATION_HOURS",
    "DEFAULT_SCOPES",
    "MAX_ACCOUNTS",
    "MAX_NAME",
    "MAX_TOKENS",
    "MAX_TOKEN_HOSTNAMES",
    "SCOPES",
    "Accounts",
    "check_name",
]

SCOPES: Final = ("read", "tunnels", "routes", "tokens")
"""What a token may allow. Every token allows to read what is no secret. `tunnels`: create, delete
and configure them, get their tokens, close their connections. `routes`: lead hostnames and networks
to tunnels. `tokens`: in the dashboard, make and end tokens of the account, and log command lines
in."""

DEFAULT_SCOPES: Final = ("read", "tunnels", "routes")
"""Of a token for which nothing else is said: what lies about on machines makes no tokens."""

MAX_ACCOUNTS: Final = 1_000
MAX_TOKENS: Final = 10_000
"""Of all accounts together, expired ones included."""

MAX_TOKEN_HOSTNAMES: Final = 100
"""Hostnames that one token may be confined to."""

MAX_NAME: Final = 100
"""Characters of the name of an account, a token, a tunnel or a virtual network."""

DEFAULT_ROTATION_HOURS: Final = 24.0
"""How long a secret is good after its successor was made."""

_TEXT: Final = re.compile(r"up_([0-9a-f]{12})_([0-9a-f]{64})", re.ASCII)
_MAX_TEXT: Final = 128


def check_name(name: str, what: str) -> None:
    """Raise AccountError unless `name` is one line of 1 to MAX_NAME characters that can be shown,
    without space around it."""
    if not 1 <= len(name) <= MAX_NAME:
        raise AccountError(f"{what} has to have 1 to {MAX_NAME} characters")
    if not name.isprintable() or name != name.strip():
        raise AccountError(f"{what} may not have control characters, or space at its ends")


class Accounts:
    """The accounts and tokens of one registry.

    Args:
        clock: the time, aware.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._registry = registry
        self._clock = clock
        # What tokens that are not known are compared with: nobody's.
        self._nobody = secrets.token_bytes(hashlib.sha256().digest_size)

    def authenticate(self, text: str) -> ApiToken:
        """The token that `text` is. Takes the same time whatever is wrong with the secret.

        Raises:
            TokenRefused: it is none, or is not good any more.
        """
        found = _TEXT.fullmatch(text) if len(text) <= _MAX_TEXT else None
        if found is None:
            raise TokenRefused("this is no API token of this edge")
        token = self._registry.tokens.get(found[1])
        digest = _digest(found[2])
        expected, previous = self._nobody, self._nobody
        if token is not None:
            expected, previous = token.digest, token.previous_digest or self._nobody
        is_current = hmac.compare_digest(digest, expected)
        is_previous = hmac.compare_digest(digest, previous)
        if token is None or not (is_current or is_previous):
            raise TokenRefused("this API token is not known here, or was revoked")
        now = self._clock()
        if not is_current and (
            token.previous_expires_at is None or token.previous_expires_at <= now
        ):
            raise TokenRefused("this API token was replaced by a newer one")
        if token.expires_at is not None and token.expires_at <= now:
            raise TokenRefused("this API token has expired")
        return token

    def account(self, named: str) -> Account:
        """The account with this id or name; of nothing, the only one. Raises AccountError."""
        accounts = self._registry.accounts
        if not named and len(accounts) == 1:
            return next(iter(accounts.values()))
        for account in accounts.values():
            if named in (account.id, account.name):
                return account
        if not accounts:
            raise AccountError("this edge has no account yet: run `underpass edge init`")
        names = ", ".join(sorted(account.name for account in accounts.values())[:10])
        wrong = f"there is no account {named!r}" if named else "say which account"
        raise AccountError(f"{wrong}; there are: {names}")

    async def create_account(self, name: str, domain: str, by: Author) -> Account:
        """A new account with a default virtual network; `domain` empty or a hostname.

        Raises:
            AccountError, HostnameError: it cannot be.
            StoreError: as `Store.commit`.
        """
        check_name(name, "the account's name")
        if len(self._registry.accounts) >= MAX_ACCOUNTS:
            raise AccountError(f"this edge has {MAX_ACCOUNTS} accounts, as many as it may")
        if domain:
            domain = normalize_hostname(domain)
            for other in self._registry.accounts.values():
                if other.domain and (
                    covers(f"*.{other.domain}", domain)
                    or covers(f"*.{domain}", other.domain)
                    or other.domain == domain
                ):
                    raise AccountError(f"{domain} meets the domain of account {other.name!r}")
        now = self._clock()
        account = Account(secrets.token_hex(16), secrets.token_hex(16), name, domain, now)
        network = VirtualNetwork(uuid4(), account.id, "default", "", True, now)
        entry = by.did("account.create", account.id, account.id, name)
        await self._registry.commit((account, network), entry)
        return account

    async def create_token(
        self,
        account: Account,
        name: str,
        by: Author,
        *,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        hostnames: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> tuple[ApiToken, str]:
        """A new token and its text, which cannot be had again.

        Raises:
            AccountError, HostnameError: it cannot be.
            StoreError: as `Store.commit`.
        """
        check_name(name, "the token's name")
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise AccountError(f"a token's scopes are of {', '.join(SCOPES)}; not {unknown}")
        if len(hostnames) > MAX_TOKEN_HOSTNAMES:
            raise AccountError(f"a token is confined to at most {MAX_TOKEN_HOSTNAMES} hostnames")
        if len(self._registry.tokens) >= MAX_TOKENS:
            raise AccountError(f"this edge has {MAX_TOKENS} API tokens: revoke some")
        names = tuple(normalize_hostname(hostname, wildcard=True) for hostname in hostnames)
        secret = secrets.token_hex(32)
        token = ApiToken(
            id=secrets.token_hex(6),
            account_id=account.id,
            name=name,
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            hostnames=names,
            digest=_digest(secret),
            created_at=self._clock(),
            expires_at=expires_at,
        )
        entry = by.did("token.create", token.id, account.id, f"{name} ({' '.join(token.scopes)})")
        await self._registry.commit((token,), entry)
        return token, _text(token, secret)

    async def rotate_token(
        self, token_id: str, by: Author, *, hours: float = DEFAULT_ROTATION_HOURS
    ) -> tuple[ApiToken, str]:
        """A new secret for a token, and its text; the old one stays good for `hours`.

        Raises:
            AccountError: there is no such token.
            StoreError: as `Store.commit`.
        """
        token = self._token(token_id)
        secret = secrets.token_hex(32)
        rotated = replace(
            token,
            digest=_digest(secret),
            previous_digest=token.digest,
            previous_expires_at=self._clock() + timedelta(hours=hours),
        )
        entry = by.did("token.rotate", token.id, token.account_id, f"the old one for {hours:g} h")
        await self._registry.commit((rotated,), entry)
        return rotated, _text(rotated, secret)

    async def revoke_token(self, token_id: str, by: Author) -> ApiToken:
        """End a token, now and for good.

        Raises:
            AccountError: there is no such token.
            StoreError: as `Store.commit`.
        """
        token = self._token(token_id)
        revoked = replace(token, deleted_at=self._clock())
        entry = by.did("token.revoke", token.id, token.account_id, token.name)
        await self._registry.commit((revoked,), entry)
        return revoked

    def _token(self, token_id: str) -> ApiToken:
        token = self._registry.tokens.get(token_id)
        if token is None:
            raise AccountError(
                f"there is no API token {token_id!r}: `underpass edge token list` shows them"
            )
        return token


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("ascii")).digest()


def _text(token: ApiToken, secret: str) -> str:
    return f"up_{token.id}_{secret}"
