"""Certificates that others have signed, in files: an operator's own, and those that ACME brought.

Looked up by the name in the ClientHello, so that a replaced file is served from the next handshake
on, in every worker, without a word to anybody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from underpass.edge.certificates import Leaf
from underpass.edge.errors import CertificateError

__all__ = ["CertificateFiles", "names_of", "read_certificate"]

log = logging.getLogger("underpass.edge.certificates")

LOOK_SECONDS: Final = 1.0
"""Between two looks whether a file has changed."""

MAX_FILE: Final = 256 * 1024
"""Octets of a certificate file; a chain with its key has 8 KiB."""

MAX_REMEMBERED: Final = 10_000
"""Names whose file is remembered, or that there is none."""

MAX_LISTED: Final = 1000
"""Files that ACME brought whose end is told."""

RENEWAL_SHARE: Final = 1 / 3
"""Of a certificate's lifetime: with less left it is due, as ACME clients have it."""


class CertificateFiles:
    """What is there for a name.

    Args:
        given: the operator's files, each a certificate chain with its key, or the chain alone and
            the key beside it: (chain, key).
        obtained: the directory of files `NAME.pem`, with `_` for the `*` of a wildcard.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        given: Sequence[tuple[Path, Path]],
        obtained: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._given = [_File(chain, key) for chain, key in given]
        self._obtained = obtained
        self._clock = clock
        self._looked = clock()
        self._remembered: dict[str, _File] = {}
        for file in self._given:
            file.load()

    def replace(self, given: Sequence[tuple[Path, Path]]) -> None:
        """Have other files of the operator's from now on. Raises CertificateError, and then there
        are those that were there."""
        known = {(file.chain, file.key): file for file in self._given}
        files = []
        for chain, key in given:
            file = known.get((chain, key))
            if file is None:
                file = _File(chain, key)
                file.load()
            files.append(file)
        self._given = files

    def find(self, name: str) -> Leaf | None:
        """The certificate for a lower-case hostname: exact goes before wildcard, and given before
        obtained."""
        self._look()
        parent = f"*.{name.partition('.')[2]}"
        for wanted in (name, parent):
            for file in self._given:
                if wanted in file.names:
                    return file.leaf
            found = self._obtained_for(wanted)
            if found is not None:
                return found
        return None

    def expiries(self) -> dict[str, datetime]:
        """When each certificate ends that is there, by the first of its names."""
        self._look()
        files = [*self._given]
        try:
            paths = sorted(self._obtained.glob("*.pem"))
        except OSError as error:
            log.error("cannot list the certificates", extra={"error": str(error)})
            paths = []
        for path in paths[:MAX_LISTED]:
            self._obtained_for(path.stem.replace("_", "*", 1))
        files += self._remembered.values()
        return {
            min(file.names, default=file.chain.name): file.leaf.not_after
            for file in files
            if file.leaf is not None
        }

    def is_given(self, name: str) -> bool:
        """Whether the operator's own files cover a name, or wildcard."""
        names = {name, f"*.{name.partition('.')[2]}"}
        return any(not names.isdisjoint(file.names) for file in self._given)

    def obtained(self, name: str) -> Leaf | None:
        """The certificate that ACME brought for exactly this name or wildcard."""
        self._look()
        return self._obtained_for(name)

    def _obtained_for(self, name: str) -> Leaf | None:
        file = self._remembered.get(name)
        if file is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            path = self.path_for(name)
            file = self._remembered[name] = _File(path, path)
            file.load_if_there()
        return file.leaf

    def path_for(self, name: str) -> Path:
        """Where the certificate for a name is kept."""
        return self._obtained / f"{name.replace('*', '_')}.pem"

    def _look(self) -> None:
        """Once in a while: whether files have changed."""
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for file in self._given:
            file.load_again()
        # Those are asked for when they are needed again.
        for name, file in list(self._remembered.items()):
            if file.has_changed():
                del self._remembered[name]


class _File:
    """A certificate with its key, as of the last look."""

    def __init__(self, chain: Path, key: Path) -> None:
        self.chain = chain
        self.key = key
        self.leaf: Leaf | None = None
        self.names: frozenset[str] = frozenset()
        self._state: tuple[tuple[int, int, int], ...] | None = None

    def load(self) -> None:
        """Raises CertificateError."""
        state = self._look()
        if state is None:
            missing = next((path for path in (self.chain, self.key) if not path.exists()), None)
            raise CertificateError(f"there is no certificate file {missing or self.chain}")
        self.leaf, self.names = read_certificate(self.chain, self.key)
        self._state = state

    def load_if_there(self) -> None:
        """A file that is not there, or cannot be used, is no certificate."""
        self._state = self._look()
        if self._state is not None:
            try:
                self.leaf, self.names = read_certificate(self.chain, self.key)
            except CertificateError as error:
                log.error("a certificate cannot be used", extra={"error": str(error)})

    def load_again(self) -> None:
        """Take over a change; what cannot be used leaves the old one in force."""
        state = self._look()
        if state is None or state == self._state:
            return
        self._state = state
        try:
            self.leaf, self.names = read_certificate(self.chain, self.key)
        except CertificateError as error:
            # Perhaps one of two files has been written: the other's change brings us here again.
            log.error(
                "a changed certificate cannot be used, the old one stays",
                extra={"error": str(error)},
            )
        else:
            log.info("a certificate has been replaced", extra={"path": str(self.chain)})

    def has_changed(self) -> bool:
        return self._look() != self._state

    def _look(self) -> tuple[tuple[int, int, int], ...] | None:
        try:
            found = [path.stat() for path in dict.fromkeys((self.chain, self.key))]
        except OSError:
            return None
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)


def read_certificate(chain: Path, key: Path) -> tuple[Leaf, frozenset[str]]:
    """A certificate chain and its key from PEM files, and the names it is for.

    Raises CertificateError when one is unreadable or they are no pair.
    """
    try:
        chain_pem, key_pem = _read(chain), _read(key)
        certificate = x509.load_pem_x509_certificate(chain_pem)
        private = serialization.load_pem_private_key(_only_key(key_pem), password=None)
    except OSError as error:
        raise CertificateError(
            f"cannot read the certificate file {error.filename}: {error.strerror}"
        ) from None
    except (ValueError, TypeError):
        # The cause's text is left out: it may quote what the file holds.
        raise CertificateError(
            f"{chain} and {key} are not a PEM certificate and its unencrypted PEM key"
        ) from None
    spki = (
        serialization.Encoding.DER,
        serialization.PublicFormat.SubjectPublicKeyInfo,
    )
    if certificate.public_key().public_bytes(*spki) != private.public_key().public_bytes(*spki):
        raise CertificateError(f"{key} does not hold the key of the certificate in {chain}")
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    leaf = Leaf(
        chain_pem=chain_pem if chain != key else _without_key(chain_pem),
        key_pem=_only_key(key_pem),
        renew_after=_due(certificate.not_valid_after_utc, lifetime),
        not_after=certificate.not_valid_after_utc,
    )
    return leaf, names_of(certificate)


def names_of(certificate: x509.Certificate) -> frozenset[str]:
    """The DNS names a certificate is for, lower-case."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in names.value.get_values_for_type(x509.DNSName))


def _due(not_after: datetime, lifetime: timedelta) -> datetime:
    return not_after - lifetime * RENEWAL_SHARE


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise CertificateError(f"{path} is larger than {MAX_FILE} bytes")
    return content


_END: Final = b"PRIVATE KEY-----"


def _only_key(pem: bytes) -> bytes:
    """The private key of a file that may have certificates too. ValueError if it has none."""
    start = pem.find(b"-----BEGIN ")
    while start >= 0:
        label_end = pem.find(b"-----", start + 11)
        if pem[:label_end].endswith(b"PRIVATE KEY"):
            end = pem.find(_END, label_end + 5)
            if end < 0:
                break
            return pem[start : end + len(_END)] + b"\n"
        start = pem.find(b"-----BEGIN ", label_end)
    raise ValueError("no private key")


def _without_key(pem: bytes) -> bytes:
    key = _only_key(pem).rstrip(b"\n")
    return pem.replace(key, b"").strip() + b"\n"
