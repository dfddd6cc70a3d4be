"""Tokens that allow to watch a tunnel's connectors (docs: API §1, management token).

JSON Web Tokens, ES256. Connectors read who they are for and leave it to the edge to check the
signature, so the key never leaves the edge's data directory.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from underpass.edge.errors import CertificateError

__all__ = ["ISSUER", "RESOURCES", "TOKEN_SECONDS", "Claims", "ManagementKey", "TokenInvalid"]

RESOURCES: Final = ("logs", "admin", "host_details")
"""What a token may be for, as in the path it is asked at."""

ISSUER: Final = "underpass"

TOKEN_SECONDS: Final = 3600
"""How long a token is good."""


MAX_TOKEN: Final = 4096
"""Characters; one has some 500."""


class TokenInvalid(Exception):  # noqa: N818 - says the state
    """A management token that is not good; the text may be told to whoever has it."""


class _Header(msgspec.Struct):
    alg: str


class _Tunnel(msgspec.Struct):
    id: str
    account_tag: str


class _Actor(msgspec.Struct):
    id: str


class Claims(msgspec.Struct):
    """What a token says: `exp` is seconds of Unix time."""

    tun: _Tunnel
    actor: _Actor
    res: list[str]
    iss: str
    exp: int

    @property
    def tunnel_id(self) -> UUID:
        """ValueError for what is no UUID."""
        return UUID(self.tun.id)


class ManagementKey:
    """The key that an edge signs with."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> ManagementKey:
        """The key in a file, made if there is none (mode 0600).

        Raises:
            CertificateError: it cannot be read or made.
        """
        try:
            with contextlib.suppress(FileExistsError):
                _make(path)
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise CertificateError(
                f"cannot use {path}, the key of management tokens: {error}"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(
            key.curve, ec.SECP256R1
        ):
            raise CertificateError(f"{path} holds no P-256 key; move it away to have one made")
        return cls(key)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """What the signatures are checked with."""
        return self._key.public_key()

    def verify(self, token: str) -> Claims:
        """What a token says that this key has signed and that has not ended. Raises TokenInvalid.

        Whatever is wrong, no more is told than that it is not good, or that it has ended.
        """
        signed, _, signature = token.rpartition(".")
        try:
            if len(token) > MAX_TOKEN or signed.count(".") != 1:
                raise ValueError("it does not have three parts")
            raw = _padded(signature)
            if len(raw) != 64:
                raise ValueError("no signature has this length")
            r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
            self.public_key.verify(
                encode_dss_signature(r, s), signed.encode("ascii"), ec.ECDSA(hashes.SHA256())
            )
            header, _, payload = signed.partition(".")
            if msgspec.json.decode(_padded(header), type=_Header).alg != "ES256":
                raise ValueError("it is signed in another way")
            claims = msgspec.json.decode(_padded(payload), type=Claims)
            _ = claims.tunnel_id
        except (ValueError, InvalidSignature, msgspec.MsgspecError) as error:
            raise TokenInvalid("the management token is not good") from error
        if claims.iss != ISSUER or claims.exp <= time.time():
            raise TokenInvalid("the management token has ended: get another one")
        return claims

    def issue(self, tunnel_id: UUID, account_id: str, actor: str, resource: str) -> str:
        """A token for one tunnel and one of RESOURCES, good for TOKEN_SECONDS."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "tun": {"id": str(tunnel_id), "account_tag": account_id},
            "actor": {"id": actor, "support": False},
            "res": [resource],
            "iss": ISSUER,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
        }
        return self.sign({"alg": "ES256", "typ": "JWT"}, claims)

    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """A JSON Web Token of these, whatever they say."""
        signed = b".".join(map(_part, (header, claims)))
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return (signed + b"." + _unpadded(signature)).decode("ascii")


def _make(path: Path) -> None:
    if path.exists():
        return
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # Whole or not at all: a power cut must not leave half a key.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _part(value: dict[str, Any]) -> bytes:
    return _unpadded(msgspec.json.encode(value))


def _padded(text: str) -> bytes:
    """ValueError for what is not base64url."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _unpadded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
