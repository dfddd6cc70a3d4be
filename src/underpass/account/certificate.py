"""The account certificate, cert.pem: what allows a command to manage tunnels (docs: API §1).

Despite its name it is an API token with the account and the zone it is for, as JSON in a PEM block.
Older ones also hold a key and a certificate, which nobody uses any more. Whoever has it can change
the account's tunnels, so no error message quotes what it complains about.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from underpass.account.errors import CertificateError
from underpass.wire.origin_certificate import KIND, encode_origin_certificate
from underpass.wire.secret import Secret

__all__ = [
    "CERTIFICATE_FILE",
    "FED_ENDPOINT",
    "MAX_CERTIFICATE_BYTES",
    "OriginCertificate",
    "find_certificate",
    "read_certificate",
    "write_certificate",
]

CERTIFICATE_FILE: Final = "cert.pem"
FED_ENDPOINT: Final = "fed"
"""The `endpoint` of Cloudflare's separate FedRAMP region."""
MAX_CERTIFICATE_BYTES: Final = 64 * 1024
"""Largest file read; real ones are below 6 KiB. A path given by mistake may lead to anything."""

_PASSED_OVER: Final = frozenset({"PRIVATE KEY", "CERTIFICATE"})
_BEGIN: Final = re.compile(r"-----BEGIN ([^\n]*?)-----[ \t]*\Z")
_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_LOG_IN: Final = "run `underpass tunnel login`, or give the right file with --origincert"


class OriginCertificate(Struct, frozen=True):
    """What cert.pem says. `api_token` is the text of a bearer token, as bytes that are not shown;
    `endpoint` is empty or FED_ENDPOINT."""

    zone_id: str
    account_id: str
    api_token: Secret
    endpoint: str = ""

    @classmethod
    def from_pem(cls, text: bytes, what: str = "the account certificate") -> OriginCertificate:
        """Read the content of a cert.pem; `what` names it in errors. Raises CertificateError."""
        if len(text) > MAX_CERTIFICATE_BYTES:
            raise CertificateError(f"{what} is far too long for an account certificate; {_LOG_IN}")
        tokens: list[bytes] = []
        for kind, payload in _blocks(text, what):
            if kind == KIND:
                tokens.append(payload)
            elif kind not in _PASSED_OVER:
                raise CertificateError(f"{what} holds something else than a login; {_LOG_IN}")
        if not tokens:
            raise CertificateError(f"there is no API token in {what}; {_LOG_IN}")
        if len(tokens) > 1:
            raise CertificateError(f"{what} holds several API tokens; keep one of them")
        return cls._from_json(tokens[0], what)

    @classmethod
    def _from_json(cls, document: bytes, what: str) -> OriginCertificate:
        try:
            decoded = msgspec.json.decode(document, type=dict[str, Any])
        except (ValueError, RecursionError):
            raise CertificateError(f"the API token in {what} is damaged; {_LOG_IN}") from None
        fields = {key.lower(): value for key, value in decoded.items()}
        token = _text(fields, "apiToken", what)
        if re.fullmatch(r"[\x21-\x7e]+", token) is None:
            raise CertificateError(f"the API token in {what} is damaged; {_LOG_IN}")
        return cls(
            zone_id=_text(fields, "zoneID", what),
            account_id=_text(fields, "accountID", what),
            api_token=Secret(token.encode("ascii")),
            endpoint=_optional_text(fields, "endpoint", what).lower(),
        )

    def to_pem(self) -> bytes:
        """The content of a cert.pem: the token's block alone."""
        token = self.api_token.decode("ascii")
        return encode_origin_certificate(self.zone_id, self.account_id, token, self.endpoint)

    @property
    def is_fed(self) -> bool:
        return self.endpoint == FED_ENDPOINT


def find_certificate(given: str, directories: Sequence[Path]) -> Path:
    """The path of cert.pem: `given` if not empty, else the first found. Raises CertificateError."""
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise CertificateError(f"there is no account certificate {path}; {_LOG_IN}")
        return path
    for directory in directories:
        path = directory / CERTIFICATE_FILE
        if path.is_file():
            return path
    looked = ", ".join(map(str, directories))
    raise CertificateError(
        f"there is no account certificate: no {CERTIFICATE_FILE} in any of {looked}; {_LOG_IN}"
    )


def read_certificate(path: Path) -> OriginCertificate:
    """The account certificate in a file. Raises CertificateError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CERTIFICATE_BYTES + 1)
    except OSError as error:
        raise CertificateError(
            f"cannot read the account certificate {path}: {error.strerror}"
        ) from error
    return OriginCertificate.from_pem(text, str(path))


def write_certificate(path: Path, certificate: OriginCertificate) -> None:
    """Put `certificate` into a file that only its owner can read, making its directory if needed.

    An empty file is replaced; any other is refused. The file appears whole or not at all. Raises
    CertificateError.
    """
    try:
        path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            raise CertificateError(f"{path} exists already; move it away, then log in again")
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise _not_written(path, error) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(certificate.to_pem())
        os.chmod(name, _FILE_MODE)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise _not_written(path, error) from error
        raise


def _not_written(path: Path, error: OSError) -> CertificateError:
    return CertificateError(f"cannot write the account certificate {path}: {error.strerror}")


def _blocks(text: bytes, what: str) -> Iterator[tuple[str, bytes]]:
    """The PEM blocks in `text`. What stands between them is passed over, as Go's reader does."""
    kind: str | None = None
    content: list[str] = []
    for line in text.decode("ascii", "replace").splitlines():
        if begin := _BEGIN.match(line):
            kind, content = begin[1], []
        elif kind is not None and line.rstrip(" \t") == f"-----END {kind}-----":
            try:
                payload = base64.b64decode("".join(content), validate=True)
            except ValueError:
                raise CertificateError(f"a block of {what} is not base64; {_LOG_IN}") from None
            yield kind, payload
            kind = None
        elif kind is not None:
            content.append(line.strip())


def _optional_text(fields: dict[str, Any], key: str, what: str) -> str:
    value = fields.get(key.lower())
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CertificateError(f"{key} in {what} is not a string; {_LOG_IN}")
    return value


def _text(fields: dict[str, Any], key: str, what: str) -> str:
    value = _optional_text(fields, key, what)
    if not value:
        raise CertificateError(f"{key} is missing in {what}; {_LOG_IN}")
    return value
