"""Logging in: a browser page gives consent, and the certificate comes by way of a transfer service
(docs: API §7).

The page is told a callback address that ends in a public key made for this login. What it puts
there after consent is polled for at the same address. The certificate is not encrypted in this kind
of transfer; the key is only a name that nobody can guess.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

from underpass.account.certificate import FED_ENDPOINT, MAX_CERTIFICATE_BYTES, OriginCertificate
from underpass.account.errors import LoginError
from underpass.ops.http_request import Answer, RequestError, request, require_http_url
from underpass.ops.login_polling import LOGIN_SECONDS, poll_for_login
from underpass.version import VERSION
from underpass.wire.login_transfer import LOGIN_PATH, TRANSFER_PATH, confirmation_code
from underpass.wire.printable import printable

__all__ = [
    "CLOUDFLARE",
    "FEDRAMP",
    "Login",
    "LoginSite",
    "login_site",
]

_log = logging.getLogger(__name__)


class LoginSite(Struct, frozen=True):
    """Where to log in: the page for the browser, and what callback addresses begin with.

    `endpoint` is put into the certificate. `shows_code`: the page shows the login's code, which
    has to be the one that the command shows.
    """

    page: str
    callback: str
    endpoint: str = ""
    shows_code: bool = False


CLOUDFLARE: Final = LoginSite(
    "https://dash.cloudflare.com/argotunnel", "https://login.cloudflareaccess.org/"
)
FEDRAMP: Final = LoginSite(
    "https://dash.fed.cloudflare.com/argotunnel",
    "https://login.fed.cloudflareaccess.org/",
    FED_ENDPOINT,
)


def login_site(
    page: str | None, callback: str | None, *, fedramp: bool = False, api_url: str | None = None
) -> LoginSite:
    """Where to log in, of what a command is given: a page, a transfer service, the account API. An
    edge of one's own has all three at one address, so that one of them will do."""
    if fedramp:
        return FEDRAMP
    if page is None and callback is None:
        if api_url is None or _is_cloudflares(api_url):
            return CLOUDFLARE
        base = api_url.rstrip("/")
        return LoginSite(base + LOGIN_PATH, base + TRANSFER_PATH, shows_code=True)
    if page is not None and callback is None and not _is_cloudflares(page):
        beside = page.partition("?")[0].rstrip("/").removesuffix(LOGIN_PATH)
        return LoginSite(page, beside + TRANSFER_PATH, shows_code=True)
    return LoginSite(page or CLOUDFLARE.page, callback or CLOUDFLARE.callback)


def _is_cloudflares(address: str) -> bool:
    try:
        host = urlsplit(address).hostname or ""
    except ValueError:
        return False
    return host == "cloudflare.com" or host.endswith(".cloudflare.com")


class Login:
    """One login. `url` is for the browser; then `wait` for the certificate."""

    def __init__(self, site: LoginSite, *, cacert: Path | None = None) -> None:
        """`cacert` is trusted beside the system's roots. Raises LoginError for a bad address."""
        self._site = site
        self._cacert = cacert
        callback = site.callback if site.callback.endswith("/") else f"{site.callback}/"
        try:
            require_http_url(callback)
        except ValueError as error:
            raise LoginError(f"--callbackURL {site.callback!r}: {error}") from None
        key = _public_key()
        self.code = confirmation_code(key)
        """What a page that `shows_code` has to show."""
        self._callback = callback + key
        self.url = _page_url(site.page, self._callback)

    def wait(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> OriginCertificate:
        """Poll until the certificate is there. Raises AccountError.

        It may be interrupted (Ctrl-C) at any time: nothing has been done yet.
        """
        told = False

        def poll(seconds: float) -> OriginCertificate | None:
            nonlocal told
            answer = self._poll(seconds)
            if answer.status == 200 and answer.body:
                return self._certificate(answer.body)
            if not told and answer.status != 200:
                _log.info("Waiting for login...")
                told = True
            return None

        try:
            certificate = poll_for_login(poll, clock=clock, sleep=sleep)
        except RequestError as error:
            raise LoginError(
                f"cannot ask {self._site.callback} for the certificate: {error}"
            ) from None
        if certificate is not None:
            return certificate
        raise LoginError(
            f"nobody logged in within {LOGIN_SECONDS / 60:.0f} minutes; run the command again"
        )

    def _poll(self, timeout: float) -> Answer:
        answer = request(
            "GET",
            self._callback,
            headers={"User-Agent": f"underpass/{VERSION}"},
            timeout=timeout,
            max_bytes=MAX_CERTIFICATE_BYTES,
            cacert=self._cacert,
        )
        if answer.status >= 500:
            said = printable(answer.body.decode("utf-8", "replace"))
            raise LoginError(
                f"{self._site.callback} answers with status {answer.status}: {said}; "
                "run the command again"
            )
        return answer

    def _certificate(self, body: bytes) -> OriginCertificate:
        certificate = OriginCertificate.from_pem(body, f"the answer of {self._site.callback}")
        return replace(certificate, endpoint=self._site.endpoint or certificate.endpoint)


def _public_key() -> str:
    """A fresh X25519 public key, as the transfer services expect it in an address."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return base64.urlsafe_b64encode(key).decode("ascii")


def _page_url(page: str, callback: str) -> str:
    try:
        url = urlsplit(page)
    except ValueError as error:
        raise LoginError(f"--loginURL {page!r}: {error}") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise LoginError(f"--loginURL {page!r}: it is not an http or https address")
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    query |= {"callback": callback, "aud": ""}
    return urlunsplit(url._replace(query=urlencode(sorted(query.items()))))
