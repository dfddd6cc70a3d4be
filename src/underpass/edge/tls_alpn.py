"""Proofs for an ACME authority that it looks for in a TLS handshake (RFC 8737).

While one is published for a name, whoever offers nothing but `acme-tls/1` for that name is shown a
certificate that holds it. They are files, so that every worker has them: which one the authority
comes to is the system's choice.
"""

from __future__ import annotations

import hashlib
import logging
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from underpass.edge.certificates import CLOCK_SKEW, utc_now, write_private
from underpass.edge.client_hello import ClientHello

__all__ = ["PROTOCOL", "TlsAlpnProofs"]

log = logging.getLogger("underpass.edge.certificates")

PROTOCOL: Final = b"acme-tls/1"

LIFETIME: Final = timedelta(days=7)
"""Nobody looks at it; it only must not be a certificate for ever."""

_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""id-pe-acmeIdentifier."""

# More than one label, none of them empty: what cannot lead out of the directory, and is no HTTP
# proof's token. Authorities ask for no other names.
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63}){1,126}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlsAlpnProofs:
    """Proofs in a directory, by the names they are for."""

    directory: Path

    def publish(self, name: str, key_authorization: str) -> None:
        """Show that proof from now on. Raises OSError."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        write_private(self._path(name), _certificate(name, key_authorization))

    def remove(self, name: str) -> None:
        """Show it no more."""
        with suppress(FileNotFoundError):
            self._path(name).unlink()

    def context_for(self, hello: ClientHello) -> ssl.SSLContext | None:
        """What to answer a hello with that is after a proof; None for every other."""
        name = hello.server_name
        if hello.protocols != (PROTOCOL,) or name is None or not _NAME.fullmatch(name):
            return None
        path = self._path(name)
        if not path.exists():  # a stranger's question, or a proof that has been seen
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([PROTOCOL.decode("ascii")])
        try:
            context.load_cert_chain(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("a proof cannot be shown", extra={"name_wanted": name, "error": str(error)})
            return None
        return context

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a public hostname: {name[:80]!r}")
        return self.directory / f"{name}.pem"


def _certificate(name: str, key_authorization: str) -> bytes:
    """RFC 8737 §3: self-signed, for this name alone, with the proof in a critical extension. PEM,
    its key before it."""
    key = ec.generate_private_key(ec.SECP256R1())
    # An OCTET STRING of 32 bytes.
    proof = b"\x04\x20" + hashlib.sha256(key_authorization.encode("ascii")).digest()
    subject = x509.Name([])
    now = utc_now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        # Critical, as the subject is empty (RFC 5280 §4.2.1.6).
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(x509.UnrecognizedExtension(_IDENTIFIER, proof), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
