"""A login in the user's browser: tokens come back, encrypted, by way of a transfer service
(docs: access §3.4)."""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from msgspec import Struct

from underpass.ops.http_request import RequestError, request
from underpass.ops.login_polling import LOGIN_SECONDS, poll_for_login
from underpass.visitor.access_application import USER_AGENT
from underpass.visitor.application import Application
from underpass.visitor.errors import AccessError

__all__ = ["SERVICE", "SERVICE_FEDRAMP", "BrowserLogin", "Tokens"]

SERVICE: Final = "https://login.cloudflareaccess.org/"
SERVICE_FEDRAMP: Final = "https://login.fed.cloudflareaccess.org/"

MAX_ANSWER: Final = 64 * 1024

_NONCE: Final = 24

log = logging.getLogger("underpass.visitor")


class Tokens(Struct, frozen=True):
    """What a login brings."""

    app_token: str
    org_token: str = ""


class BrowserLogin:
    """One login. `url` is for the browser; then `wait` for the tokens.

    Args:
        whole_address: lead back to the application's whole address, not to its host alone.
    """

    def __init__(
        self,
        application: Application,
        audience: str,
        *,
        service: str = SERVICE,
        auto_close: bool = False,
        whole_address: bool = True,
    ) -> None:
        from nacl.public import PrivateKey  # here, because a stored token needs no login

        self._service = service
        self._private = PrivateKey.generate()
        self._public = base64.urlsafe_b64encode(bytes(self._private.public_key)).decode("ascii")
        target = urlsplit(application.target)
        own = dict(parse_qsl(target.query, keep_blank_values=True))
        own |= {"token": self._public, "aud": audience}
        path = target.path if whole_address else ""
        back = f"https://{application.authority}{path}?{urlencode(sorted(own.items()))}"
        asked = own | {
            "redirect_url": back,
            "send_org_token": "true",
            "edge_token_transfer": "true",
        }
        if auto_close:
            asked["close_interstitial"] = "true"
        query = urlencode(sorted(asked.items()))
        self.url = f"https://{application.authority}/cdn-cgi/access/cli?{query}"

    def wait(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Tokens:
        """Poll until the tokens are there. Raises AccessError."""
        try:
            tokens = poll_for_login(self._poll, clock=clock, sleep=sleep)
        except RequestError as error:
            raise AccessError(f"{self._service} cannot be asked: {error}") from None
        if tokens is not None:
            return tokens
        raise AccessError(f"nobody logged in within {LOGIN_SECONDS / 60:.0f} minutes; try again")

    def _poll(self, timeout: float) -> Tokens | None:
        answer = request(
            "GET",
            f"{self._service}transfer/{self._public}",
            headers={"User-Agent": USER_AGENT},
            timeout=timeout,
            max_bytes=MAX_ANSWER,
            use_proxy=True,
        )
        if answer.status >= 500:
            raise AccessError(f"{self._service} answers {answer.status}; try again")
        if answer.status == 200 and answer.body:
            return self._decrypted(answer.body, answer.header("service-public-key"))
        return None

    def _decrypted(self, body: bytes, sender: str) -> Tokens:
        from nacl.exceptions import CryptoError
        from nacl.public import Box, PublicKey

        try:
            sealed = base64.b64decode(body, validate=True)
            box = Box(self._private, PublicKey(base64.urlsafe_b64decode(sender)))
            plain = box.decrypt(sealed[_NONCE:], sealed[:_NONCE])
            tokens = msgspec.json.decode(plain, type=Tokens)
        except (binascii.Error, ValueError, TypeError, CryptoError) as error:
            raise AccessError(
                f"what {self._service} sent cannot be decrypted: {error or type(error).__name__}"
            ) from None
        if not tokens.app_token:
            raise AccessError("the login brought no token for the application")
        return tokens
