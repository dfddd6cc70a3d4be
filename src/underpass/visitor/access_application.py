"""Which Access application protects an address (docs: access §3.1)."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from underpass.ops.http_request import RequestError, request
from underpass.version import VERSION
from underpass.visitor.application import Application
from underpass.visitor.errors import AccessError
from underpass.wire.access_token import TokenError, parse_keys, read_token

__all__ = ["USER_AGENT", "AccessApplication", "discover"]

USER_AGENT: Final = f"cloudflared/{VERSION}"
"""What edges know as a client that can log in by a browser of its user's."""

DISCOVERY_SECONDS: Final = 7.0
KEYS_SECONDS: Final = 10.0
MAX_KEYS_DOCUMENT: Final = 1 << 20
MAX_AGE: Final = 24 * 3600
"""Seconds since the edge signed its word."""
CLOCK_SKEW: Final = 300
"""Seconds that its clock may be ahead."""

_AUTH_DOMAIN: Final = ".cloudflareaccess.com"


class AccessApplication(Struct, frozen=True):
    """An application that Access protects. `hostname` may have a wildcard and a path in it."""

    auth_domain: str
    audience: str
    hostname: str


class _Metadata(Struct, frozen=True):
    type: str = ""
    hostname: str = ""
    auth_domain: str = ""
    aud: str = ""
    app_hostname: str = ""
    iat: int = 0


def discover(application: Application, now: Callable[[], float] = time.time) -> AccessApplication:
    """Ask an address which application it is. Raises AccessError.

    A server of somebody else's must not have us hand out tokens, so its word counts only when the
    team that it names has signed it, for this host name, today.
    """
    try:
        answer = request(
            "HEAD",
            application.url,
            headers={"Cf-Access-Metadata-Request": "true", "User-Agent": USER_AGENT},
            timeout=DISCOVERY_SECONDS,
            max_bytes=0,
            use_proxy=True,
        )
    except RequestError as error:
        raise AccessError(f"{application.authority} cannot be asked: {error}") from None
    text = answer.header("Cf-Access-Metadata")
    if not text:
        raise AccessError(
            f"no Access application was found at {application.url}; is the address right, and is "
            "it protected by Access?"
        )
    try:
        token = read_token(text.encode("latin-1"))
        domain = _auth_domain(_decoded(_unproved_payload(text)).auth_domain)
        metadata = _decoded(token.payload(parse_keys(_keys_document(domain))))
    except (TokenError, ValueError) as error:
        raise AccessError(
            f"what {application.authority} says of its Access application is not to be believed: "
            f"{error}"
        ) from None
    trouble = _trouble(metadata, application, now())
    if trouble:
        raise AccessError(
            f"what {application.authority} says of its Access application does not hold: {trouble}"
        )
    return AccessApplication(domain, metadata.aud, metadata.app_hostname or metadata.hostname)


def _trouble(metadata: _Metadata, application: Application, now: float) -> str:
    if metadata.type != "match":
        return f"its type is {metadata.type[:40]!r}"
    if metadata.hostname.lower() != application.host:
        return f"it is for {metadata.hostname[:100]!r}"
    if not metadata.aud:
        return "it names no audience"
    if not now - MAX_AGE <= metadata.iat <= now + CLOCK_SKEW:
        return "it is not of today; is this machine's clock right?"
    return ""


def _unproved_payload(text: str) -> bytes:
    """What a token says before anybody vouches for it: enough to know whom to ask."""
    import base64
    import binascii

    payload = text.split(".")[1]
    try:
        return base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _decoded(payload: bytes) -> _Metadata:
    try:
        return msgspec.json.decode(payload, type=_Metadata)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _auth_domain(text: str) -> str:
    """The team's host, whatever else is written beside it. ValueError if it is none of theirs."""
    host = urlsplit(text if "://" in text else f"https://{text}").hostname or ""
    if not host.endswith(_AUTH_DOMAIN) or host == _AUTH_DOMAIN:
        raise ValueError(f"{host[:100]!r} is no team's host")
    return host


def _keys_document(domain: str) -> bytes:
    url = f"https://{domain}/cdn-cgi/access/certs"
    try:
        answer = request(
            "GET",
            url,
            headers={"User-Agent": USER_AGENT},
            timeout=KEYS_SECONDS,
            max_bytes=MAX_KEYS_DOCUMENT,
            use_proxy=True,
        )
    except RequestError as error:
        raise ValueError(f"{url} cannot be asked: {error}") from None
    if answer.status != HTTPStatus.OK:
        raise ValueError(f"{url} answers {answer.status}")
    return answer.body
