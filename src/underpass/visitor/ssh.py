"""SSH through an application: what clients are configured with, and certificates that last a few
minutes (docs: access §5, §6).
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from underpass.ops.http_request import RequestError, request
from underpass.visitor.access_application import USER_AGENT
from underpass.visitor.application import Application
from underpass.visitor.errors import AccessError
from underpass.visitor.token_files import new_private_file, payload_of

__all__ = ["key_path", "ssh_config", "write_certificate"]

SIGN_SECONDS: Final = 10.0
MAX_ANSWER: Final = 64 * 1024


class _Request(Struct, frozen=True):
    public_key: str
    jwt: str
    issuer: str


class _Answer(Struct, frozen=True):
    certificate: str = ""
    message: str = ""


def ssh_config(hostname: str, program: str, directory: Path, *, short_lived: bool) -> str:
    """What to add to `~/.ssh/config`."""
    if not short_lived:
        return f"Host {hostname}\n  ProxyCommand {program} access ssh --hostname %h\n"
    key = f"{_shown(directory)}/%h-cf_key"
    return (
        f'Match host {hostname} exec "{program} access ssh-gen --hostname %h"\n'
        f"  ProxyCommand {program} access ssh --hostname %h\n"
        f"  IdentityFile {key}\n"
        f"  CertificateFile {key}-cert.pub\n"
    )


def key_path(application: Application, directory: Path) -> Path:
    """Where the key for an application is kept."""
    path = urlsplit(application.target).path
    name = f"{application.host}{'' if path == '/' else path}-cf_key"
    return directory / name.replace("/", "-")


def write_certificate(application: Application, token: str, directory: Path) -> Path:
    """Have the team sign the application's key, made when there is none. Raises AccessError.

    Returns the certificate's file.
    """
    path = key_path(application, directory)
    public = _public_key(path)
    payload = payload_of(token)
    issuer = urlsplit(payload.iss if payload is not None else "")
    if issuer.scheme != "https" or not issuer.hostname:
        raise AccessError("the token does not say who issued it")
    url = f"https://{issuer.netloc}/cdn-cgi/access/cert_sign"
    try:
        answer = request(
            "POST",
            url,
            headers={"User-Agent": USER_AGENT, "Content-Type": "application/json"},
            body=msgspec.json.encode(_Request(public, token, f"https://{issuer.netloc}")),
            timeout=SIGN_SECONDS,
            max_bytes=MAX_ANSWER,
            use_proxy=True,
        )
    except RequestError as error:
        raise AccessError(f"{url} cannot be asked: {error}") from None
    try:
        found = msgspec.json.decode(answer.body, type=_Answer)
    except (ValueError, RecursionError):
        found = _Answer()
    if answer.status != HTTPStatus.OK or not found.certificate:
        raise AccessError(
            f"{url} signs no certificate: {answer.status}: "
            f"{found.message[:200] or 'no reason given'}"
        )
    certificate = path.with_name(f"{path.name}-cert.pub")
    new_private_file(certificate, found.certificate.encode())
    return certificate


def _public_key(path: Path) -> str:
    """The key's line for `authorized_keys`."""
    public = path.with_name(f"{path.name}.pub")
    try:
        if public.exists():
            return public.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"cannot read {public}: {error}") from None
    key = ec.generate_private_key(ec.SECP256R1())
    new_private_file(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    new_private_file(public, line + b"\n")
    return f"{line.decode('ascii')}\n"


def _shown(directory: Path) -> str:
    """As ssh takes it, with `~` for the user's own."""
    try:
        return f"~/{directory.relative_to(Path.home()).as_posix()}"
    except ValueError:
        return directory.as_posix()
