"""The key that management tokens are signed with."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from underpass.edge.errors import CertificateError
from underpass.edge.management_token import ManagementKey


def numbers(key: ManagementKey) -> ec.EllipticCurvePublicNumbers:
    return key.public_key.public_numbers()


def test_it_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "management-key.pem"
    made = ManagementKey.open(path)
    assert numbers(ManagementKey.open(path)) == numbers(made)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_is_a_json_web_token(tmp_path: Path) -> None:
    key = ManagementKey.open(tmp_path / "key.pem")
    token = key.issue(UUID(int=1), "account", "actor", "logs")
    assert token.count(".") == 2
    assert "=" not in token
    assert token.startswith("eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    ],
    ids=["empty", "damaged", "another-curve"],
)
def test_what_is_no_key_is_told_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "management-key.pem"
    path.write_bytes(content)
    with pytest.raises(CertificateError, match=r"management-key\.pem"):
        ManagementKey.open(path)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="cannot use"):
        ManagementKey.open(tmp_path / "missing" / "key.pem")
