"""The edge's own certificate authority and the leaf certificates it issues.

Everything is ECDSA on P-256: cheap to make and to verify, and understood by every peer (stock
cloudflared included, docs: wire protocol §1.7). Profiles follow RFC 5280 §4.2 and what browsers ask
of locally trusted authorities: names in subjectAltName, serverAuth, leaf lifetime below 398 days.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import CertificateError

log = logging.getLogger("underpass.edge.certificates")

TUNNEL_SERVER_NAMES = ("h2.cftunnel.com", "quic.cftunnel.com", "probe.cftunnel.com")
"""Names that connectors verify over HTTP/2, over QUIC and in pre-checks; no flag changes them."""

AUTHORITY_LIFETIME = timedelta(days=3650)
"""Replacing the authority means that every visitor must trust anew, so it lives long."""

LEAF_LIFETIME = timedelta(days=90)
"""As public authorities issue; short, since renewal costs nobody anything."""

LEAF_RENEWAL = timedelta(days=30)
"""A leaf with less than this left is replaced at the next handshake."""

CLOCK_SKEW = timedelta(hours=1)
"""Certificates begin this long ago, for peers whose clocks are late."""

_AUTHORITY_FILE_LIMIT = 64 * 1024
"""Bytes read from ca.pem or ca-key.pem; both are below one kilobyte when we made them."""

_COMMON_NAME_LIMIT = 64
"""Characters of a common name (RFC 5280 appendix A, ub-common-name)."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A server certificate and its key."""

    chain_pem: bytes
    """The leaf alone: peers that can verify it have the authority already."""
    key_pem: bytes = field(repr=False)
    renew_after: datetime
    """When to issue another in its place."""
    not_after: datetime


class CertificateAuthority:
    """Issues leaf certificates. Made once per data directory, read again at every start."""

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        *,
        clock: Clock = utc_now,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self._pem = certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def open(cls, directory: DataDirectory, *, clock: Clock = utc_now) -> CertificateAuthority:
        """The authority of a data directory; made, key first, if there is none.

        Raises:
            CertificateError: a file is missing, unreadable or not what its name says; the key
                belongs to another certificate; the certificate has expired.
        """
        certificate_path, key_path = directory.ca_certificate, directory.ca_key
        try:
            if not certificate_path.exists():
                # A key without a certificate was left by an edge that stopped between the two
                # writes below; nobody can have trusted it.
                _create(certificate_path, key_path, clock())
            certificate = _load_certificate(certificate_path)
            key = _load_key(key_path)
        except FileNotFoundError as error:
            raise CertificateError(
                f"{error.filename} is missing: restore it from a backup, or remove "
                f"{certificate_path} too for a new authority (everybody must trust it anew)"
            ) from error
        except OSError as error:
            raise CertificateError(
                f"cannot use the certificate authority in {directory.path}: "
                f"{error.strerror or error} ({error.filename})"
            ) from error
        if certificate.public_key() != key.public_key():
            raise CertificateError(f"{key_path} is not the key of {certificate_path}")
        if certificate.not_valid_after_utc <= clock():
            raise CertificateError(
                f"{certificate_path} expired at {certificate.not_valid_after_utc:%Y-%m-%d}: remove "
                f"it and {key_path} for a new authority (everybody must trust it anew)"
            )
        if certificate.not_valid_after_utc - clock() < LEAF_LIFETIME:
            log.warning(
                "%s expires at %s", certificate_path, f"{certificate.not_valid_after_utc:%Y-%m-%d}"
            )
        return cls(certificate, key, clock=clock)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's certificate: what peers trust."""
        return self._pem

    @property
    def now(self) -> datetime:
        """The authority's clock."""
        return self._clock()

    @property
    def not_after(self) -> datetime:
        """When the authority itself ends."""
        return self._certificate.not_valid_after_utc

    def issue(self, names: Sequence[str]) -> Leaf:
        """A server certificate for DNS `names` (at least one; `*.name` for a wildcard)."""
        now = self._clock()
        key = ec.generate_private_key(ec.SECP256R1())
        not_after = now + LEAF_LIFETIME
        renew_after = not_after - LEAF_RENEWAL
        if not_after > self._certificate.not_valid_after_utc:
            # The authority's own last days: another leaf would end no later.
            not_after = renew_after = self._certificate.not_valid_after_utc
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_common_name(names[0][:_COMMON_NAME_LIMIT]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - CLOCK_SKEW, self._certificate.not_valid_before_utc))
            .not_valid_after(not_after)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM),
            key_pem=_private_pem(key),
            renew_after=renew_after,
            not_after=not_after,
        )


def _create(certificate_path: Path, key_path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # The suffix tells several edges' authorities apart in a trust store.
    name = _common_name(f"Underpass edge authority {secrets.token_hex(3)}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _private_pem(key), 0o600)
    _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that is this user's alone: whole or not at all. Raises OSError."""
    _write(path, content, 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, on disk before the name appears, never readable by more than `mode`."""
    temporary = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        # Left by an edge that was stopped while writing; its mode is not to be trusted.
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_AUTHORITY_FILE_LIMIT + 1)
    if len(content) > _AUTHORITY_FILE_LIMIT:
        raise CertificateError(f"{path} is larger than {_AUTHORITY_FILE_LIMIT} bytes")
    return content


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise CertificateError(f"{path} is not a PEM certificate: {error}") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The cause's text is left out: it may quote what the file holds.
        raise CertificateError(f"{path} is not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path} is not an elliptic-curve key")
    return key


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
