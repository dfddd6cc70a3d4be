"""What an Access token says, and whether a key vouches for it (docs: configuration §5.3).

RFC 7519 and RFC 7515, RS256 only: a token that could choose its own algorithm would prove nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from msgspec import Struct

__all__ = [
    "AccessToken",
    "Claims",
    "Keys",
    "TokenError",
    "UnknownKeyError",
    "parse_keys",
    "read_token",
]

MAX_TOKEN: Final = 16 * 1024
"""Octets; a browser's cookie has 4 KiB."""

MAX_KEYS: Final = 64
"""Of a team; it has two, the present one and the one before."""

LEEWAY: Final = 300.0
"""Seconds that another clock may be ahead when it says `nbf`."""

_ALGORITHM: Final = "RS256"
# Header parameters it does not know are no reason to refuse, but for `crit` (RFC 7515 §4.1.11).
_REGISTRY: Final = jws.JWSRegistry(algorithms=[_ALGORITHM], strict_check_header=False)


Keys = Sequence[tuple[str, RSAKey]]
"""Public keys by their ids."""


class TokenError(ValueError):
    """Nothing can be proved with this token; the text says why."""


class UnknownKeyError(TokenError):
    """None of the keys known has signed it: there may be new ones."""


class Claims(Struct, frozen=True):
    """The claims that decide; times are seconds since 1970."""

    iss: str
    exp: float
    aud: str | list[str] = ""
    nbf: float = 0.0

    @property
    def audiences(self) -> frozenset[str]:
        return frozenset((self.aud,) if isinstance(self.aud, str) else self.aud)


class AccessToken(Struct, frozen=True):
    """A token as it came: parsed, nothing proved yet."""

    text: bytes
    key_id: str

    def verified(self, keys: Keys, issuer: str, now: float) -> Claims:
        """The claims, once a key has vouched for them. Raises TokenError."""
        return _checked(self.payload(keys), issuer, now)

    def payload(self, keys: Keys) -> bytes:
        """What one of these keys has signed. Raises UnknownKeyError."""
        for key_id, key in keys:
            if self.key_id and key_id != self.key_id:
                continue
            try:
                return jws.deserialize_compact(self.text, key, registry=_REGISTRY).payload
            except (JoseError, ValueError):
                continue
        raise UnknownKeyError("no key of the team has signed it")


def read_token(text: bytes) -> AccessToken:
    """Parse the outside of a token. Raises TokenError."""
    if len(text) > MAX_TOKEN:
        raise TokenError(f"it is longer than {MAX_TOKEN} bytes")
    try:
        header: dict[str, Any] = jws.extract_compact(text, registry=_REGISTRY).headers()
    except (JoseError, ValueError, RecursionError) as error:
        raise TokenError("it is not a JSON web token") from error
    if header.get("alg") != _ALGORITHM:
        raise TokenError(f"it is not signed with {_ALGORITHM}")
    if "crit" in header:
        raise TokenError("it needs extensions that are not understood here")
    key_id = header.get("kid", "")
    if not isinstance(key_id, str):
        raise TokenError("its key id is not a text")
    return AccessToken(text, key_id)


def _checked(payload: bytes, issuer: str, now: float) -> Claims:
    try:
        claims = msgspec.json.decode(payload, type=Claims)
    except (ValueError, RecursionError) as error:
        raise TokenError(f"its claims cannot be read: {error}") from error
    if claims.iss != issuer:
        raise TokenError(f"it is from {claims.iss[:100]!r}, not from {issuer}")
    if now >= claims.exp:
        raise TokenError("it has expired")
    if claims.nbf > now + LEEWAY:
        raise TokenError("it is not valid yet")
    return claims


class _KeySet(Struct, frozen=True):
    keys: list[dict[str, Any]]


def parse_keys(document: bytes) -> Keys:
    """The (id, key) pairs of a JSON web key set that can sign with RS256 (RFC 7517).

    Raises ValueError when it is none, or has none.
    """
    try:
        found = msgspec.json.decode(document, type=_KeySet).keys[:MAX_KEYS]
    except RecursionError:
        raise ValueError("nested too deeply") from None
    keys = []
    for entry in found:
        if entry.get("kty") != "RSA" or entry.get("use", "sig") != "sig":
            continue
        try:
            keys.append((str(entry.get("kid", "")), RSAKey.import_key(entry)))
        except (JoseError, ValueError, TypeError):
            # One entry that this version cannot read says nothing of the others.
            continue
    if not keys:
        raise ValueError("it has no RSA key")
    return keys
