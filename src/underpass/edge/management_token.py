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
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from underpass.edge.errors import CertificateError

__all__ = ["ISSUER", "RESOURCES", "TOKEN_SECONDS", "ManagementKey"]

RESOURCES: Final = ("logs", "admin", "host_details")
"""What a token may be for, as in the path it is asked at."""

ISSUER: Final = "underpass"

TOKEN_SECONDS: Final = 3600
"""How long a token is good."""


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
        signed = b".".join(_part(part) for part in ({"alg": "ES256", "typ": "JWT"}, claims))
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


def _unpadded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
