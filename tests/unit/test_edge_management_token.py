"""The key that management tokens are signed with."""

from __future__ import annotations

import base64
import json
import stat
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from underpass.edge.errors import CertificateError
from underpass.edge.management_token import ManagementKey, TokenInvalid


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


TUNNEL = UUID(int=1)


@pytest.fixture
def key(tmp_path: Path) -> ManagementKey:
    return ManagementKey.open(tmp_path / "key.pem")


def resigned(key: ManagementKey, token: str, **changes: Any) -> str:
    """The same with other claims, signed by `key`."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return key.sign({"alg": "ES256", "typ": "JWT"}, claims | changes)


class TestVerify:
    def test_what_was_issued(self, key: ManagementKey) -> None:
        claims = key.verify(key.issue(TUNNEL, "account", "actor", "logs"))
        assert (claims.tunnel_id, claims.tun.account_tag) == (TUNNEL, "account")
        assert (claims.actor.id, claims.res) == ("actor", ["logs"])

    def test_another_key(self, key: ManagementKey, tmp_path: Path) -> None:
        other = ManagementKey.open(tmp_path / "other.pem")
        with pytest.raises(TokenInvalid, match="not good"):
            key.verify(other.issue(TUNNEL, "account", "actor", "logs"))

    def test_every_changed_character(self, key: ManagementKey) -> None:
        token = key.issue(TUNNEL, "account", "actor", "logs")
        for place in range(0, len(token) - 1, 7):
            changed = "A" if token[place] != "A" else "B"
            with pytest.raises(TokenInvalid):
                key.verify(token[:place] + changed + token[place + 1 :])

    @pytest.mark.parametrize(
        "changes",
        [
            {"exp": 1},
            {"exp": "soon"},
            {"iss": "somebody"},
            {"tun": {"id": "no-uuid", "account_tag": "account"}},
            {"tun": {}},
            {"res": "logs"},
            {"actor": None},
        ],
        ids=str,
    )
    def test_claims_that_are_not_ours(self, key: ManagementKey, changes: dict[str, Any]) -> None:
        token = key.issue(TUNNEL, "account", "actor", "logs")
        assert key.verify(resigned(key, token)).tunnel_id == TUNNEL
        with pytest.raises(TokenInvalid):
            key.verify(resigned(key, token, **changes))

    def test_other_ways_to_sign(self, key: ManagementKey) -> None:
        token = key.issue(TUNNEL, "account", "actor", "logs")
        head, payload, signature = token.split(".")
        none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
        for wrong in (
            f"{none}.{payload}.",
            f"{none}.{payload}.{signature}",
            f"{head}.{payload}.",
            f"{head}.{payload}.{'A' * 86}",
            key.sign({"alg": "none"}, json.loads(base64.urlsafe_b64decode(payload + "=="))),
        ):
            with pytest.raises(TokenInvalid):
                key.verify(wrong)

    @pytest.mark.parametrize(
        "text", ["", ".", "..", "...", "a.b.c", "ä.ö.ü", "A" * 100_000, "=.=.="]
    )
    def test_nonsense(self, key: ManagementKey, text: str) -> None:
        with pytest.raises(TokenInvalid):
            key.verify(text)
