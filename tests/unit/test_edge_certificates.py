"""The certificate authority: made once, read again, refused when its files are not sound."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.verification import PolicyBuilder, Store

from underpass.edge.certificates import (
    AUTHORITY_LIFETIME,
    LEAF_LIFETIME,
    LEAF_RENEWAL,
    TUNNEL_SERVER_NAMES,
    CertificateAuthority,
)
from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import CertificateError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    opened = DataDirectory.open(tmp_path / "edge")
    yield opened
    opened.close()


def authority_at(directory: DataDirectory, now: datetime) -> CertificateAuthority:
    return CertificateAuthority.open(directory, clock=lambda: now)


def verified_names(authority: CertificateAuthority, leaf_pem: bytes, name: str) -> list[str]:
    """The leaf's names after an independent verifier (web profile) accepted it for `name`."""
    root = x509.load_pem_x509_certificate(authority.certificate_pem)
    leaf = x509.load_pem_x509_certificate(leaf_pem)
    verifier = (
        PolicyBuilder().store(Store([root])).time(NOW).build_server_verifier(x509.DNSName(name))
    )
    chain = verifier.verify(leaf, [])
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.DNSName)


def test_the_authority_is_made_once_and_stays(directory: DataDirectory) -> None:
    first = authority_at(directory, NOW)
    again = authority_at(directory, NOW + timedelta(days=365))
    assert first.certificate_pem == again.certificate_pem == directory.ca_certificate.read_bytes()
    assert not list(directory.path.glob(".*")), "no temporary file is left"


@pytest.mark.skipif(sys.platform == "win32", reason="mode bits are POSIX's")
def test_the_key_is_for_the_user_alone(directory: DataDirectory) -> None:
    authority_at(directory, NOW)
    assert stat.S_IMODE(directory.ca_key.stat().st_mode) == 0o600


def test_the_authority_may_sign_servers_and_nothing_below(directory: DataDirectory) -> None:
    certificate = x509.load_pem_x509_certificate(authority_at(directory, NOW).certificate_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert constraints.critical
    assert constraints.value.ca
    assert constraints.value.path_length == 0
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.not_valid_after_utc == NOW + AUTHORITY_LIFETIME
    assert certificate.not_valid_before_utc < NOW


def test_two_authorities_have_different_names(tmp_path: Path) -> None:
    names = set()
    for which in ("one", "two"):
        opened = DataDirectory.open(tmp_path / which)
        pem = authority_at(opened, NOW).certificate_pem
        names.add(x509.load_pem_x509_certificate(pem).subject.rfc4514_string())
        opened.close()
    assert len(names) == 2


@pytest.mark.parametrize("name", TUNNEL_SERVER_NAMES)
def test_one_leaf_serves_all_names_that_connectors_verify(
    directory: DataDirectory, name: str
) -> None:
    authority = authority_at(directory, NOW)
    leaf = authority.issue(TUNNEL_SERVER_NAMES)
    assert verified_names(authority, leaf.chain_pem, name) == list(TUNNEL_SERVER_NAMES)


def test_a_leaf_for_a_very_long_name(directory: DataDirectory) -> None:
    authority = authority_at(directory, NOW)
    name = ".".join(["a" * 49] * 4) + ".example"
    assert verified_names(authority, authority.issue((name,)).chain_pem, name) == [name]


def test_a_leaf_is_renewed_before_it_ends(directory: DataDirectory) -> None:
    leaf = authority_at(directory, NOW).issue(("a.localhost",))
    assert leaf.not_after == NOW + LEAF_LIFETIME
    assert leaf.renew_after == NOW + LEAF_LIFETIME - LEAF_RENEWAL
    assert timedelta(days=398) > LEAF_LIFETIME, "what browsers accept"


def test_a_leaf_does_not_outlive_the_authority(
    directory: DataDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    authority_at(directory, NOW)
    last_week = NOW + AUTHORITY_LIFETIME - timedelta(days=7)
    leaf = authority_at(directory, last_week).issue(("a.localhost",))
    assert leaf.not_after == leaf.renew_after == NOW + AUTHORITY_LIFETIME
    assert "expires at 2036-02-27" in caplog.text


def test_keys_do_not_print(directory: DataDirectory) -> None:
    leaf = authority_at(directory, NOW).issue(("a.localhost",))
    assert "PRIVATE KEY" not in repr(leaf)


def test_an_expired_authority_is_refused(directory: DataDirectory) -> None:
    authority_at(directory, NOW)
    with pytest.raises(CertificateError, match=r"expired at 2036-02-27.*for a new authority"):
        authority_at(directory, NOW + AUTHORITY_LIFETIME)


def test_a_lost_key_is_not_replaced_behind_the_operators_back(directory: DataDirectory) -> None:
    before = authority_at(directory, NOW).certificate_pem
    directory.ca_key.unlink()
    with pytest.raises(CertificateError, match=r"ca-key\.pem is missing"):
        authority_at(directory, NOW)
    assert directory.ca_certificate.read_bytes() == before


def test_a_stop_between_writing_key_and_certificate_is_recovered_from(
    directory: DataDirectory,
) -> None:
    directory.ca_key.write_text("half an authority")
    directory.ca_key.with_name(".ca.pem.new").write_text("half a certificate")
    authority_at(directory, NOW)
    authority_at(directory, NOW)


def test_a_key_of_another_certificate_is_refused(directory: DataDirectory, tmp_path: Path) -> None:
    authority_at(directory, NOW)
    other = DataDirectory.open(tmp_path / "other")
    authority_at(other, NOW)
    directory.ca_key.write_bytes(other.ca_key.read_bytes())
    other.close()
    with pytest.raises(CertificateError, match=r"ca-key\.pem is not the key of .*ca\.pem"):
        authority_at(directory, NOW)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAA\n"])
def test_a_damaged_certificate_is_refused(directory: DataDirectory, content: bytes) -> None:
    authority_at(directory, NOW)
    directory.ca_certificate.write_bytes(content)
    with pytest.raises(CertificateError, match=r"ca\.pem is not a PEM certificate"):
        authority_at(directory, NOW)


def test_a_damaged_or_strange_key_is_refused_without_showing_it(directory: DataDirectory) -> None:
    authority_at(directory, NOW)
    directory.ca_key.write_bytes(b"c2VjcmV0")
    with pytest.raises(CertificateError, match="not an unencrypted PEM private key") as refused:
        authority_at(directory, NOW)
    assert "c2VjcmV0" not in str(refused.value)
    directory.ca_key.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(CertificateError, match="not an elliptic-curve key"):
        authority_at(directory, NOW)


def test_a_huge_file_is_not_read(directory: DataDirectory) -> None:
    authority_at(directory, NOW)
    directory.ca_certificate.write_bytes(b"x" * (64 * 1024 + 1))
    with pytest.raises(CertificateError, match="larger than 65536 bytes"):
        authority_at(directory, NOW)


def test_an_unwritable_directory_is_told(directory: DataDirectory) -> None:
    directory.ca_key.mkdir()
    with pytest.raises(CertificateError, match="cannot use the certificate authority"):
        authority_at(directory, NOW)
