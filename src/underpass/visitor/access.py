"""How a visitor comes by an Access token (docs: access §3.3, §3.5).

One that is stored, one that the team's own token is exchanged for, or a login in a browser.
Everything here blocks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urljoin, urlsplit

from underpass.ops.http_request import Answer, RequestError, request
from underpass.visitor.access_application import USER_AGENT, AccessApplication, discover
from underpass.visitor.application import Application
from underpass.visitor.errors import AccessError
from underpass.visitor.token_files import TokenFiles
from underpass.visitor.transfer import SERVICE, BrowserLogin

__all__ = ["AccessSession"]

EXCHANGE_SECONDS: Final = 7.0
"""For each of the steps of an exchange."""
VERIFY_SECONDS: Final = 5.0
MAX_REDIRECTS: Final = 10

LOGIN_PATH: Final = "/cdn-cgi/access/login"
AUTHORIZED_PATH: Final = "/cdn-cgi/access/authorized"

log = logging.getLogger("underpass.visitor")


class AccessSession:
    """Tokens for one application.

    Args:
        show: called with the address to log in at; opens a browser, or tells the user.
        service: where the tokens of a login come from.
    """

    def __init__(
        self,
        application: Application,
        show: Callable[[str], None],
        *,
        files: TokenFiles | None = None,
        service: str = SERVICE,
        auto_close: bool = False,
        whole_address: bool = True,
    ) -> None:
        self.application = application
        self._show = show
        self._files = files or TokenFiles()
        self._service = service
        self._auto_close = auto_close
        self._whole_address = whole_address
        self._found: AccessApplication | None = None

    @property
    def access_application(self) -> AccessApplication:
        """What protects the application, asked once. Raises AccessError."""
        if self._found is None:
            self._found = discover(self.application)
        return self._found

    def stored_token(self) -> str | None:
        """A good token from before, if there is one. Raises AccessError."""
        return self._files.application_token(self.access_application)

    def token(self) -> str:
        """A token, with a login if need be. Raises AccessError."""
        found = self.access_application
        stored = self._files.application_token(found)
        if stored is not None:
            return stored
        path = self._files.application_path(found)
        with self._files.locked(path, lambda: _say_waiting(self.application)):
            stored = self._files.application_token(found)
            return stored if stored is not None else self._new_token(found)

    def token_after_refusal(self) -> str:
        """Another token than the one that was not let in. Raises AccessError."""
        self._files.forget(self.access_application)
        return self.token()

    def verified_token(self) -> str:
        """A token that the application's edge accepts now. Raises AccessError."""
        token = self.token()
        if self._is_accepted(token):
            return token
        token = self.token_after_refusal()
        if not self._is_accepted(token):
            raise AccessError(f"{self.application.authority} does not accept a new token either")
        return token

    def _new_token(self, found: AccessApplication) -> str:
        organization = self._files.organization_token(found.auth_domain)
        if organization is not None:
            token = self._exchanged(organization)
            if token is not None:
                self._files.write(self._files.application_path(found), token)
                return token
        login = BrowserLogin(
            self.application,
            found.audience,
            service=self._service,
            auto_close=self._auto_close,
            whole_address=self._whole_address,
        )
        self._show(login.url)
        tokens = login.wait()
        if organization is None and tokens.org_token:
            self._files.write(self._files.organization_path(found.auth_domain), tokens.org_token)
        self._files.write(self._files.application_path(found), tokens.app_token)
        return tokens.app_token

    def _exchanged(self, organization: str) -> str | None:
        """The application's token, for the team's: what a browser that is logged in would get."""
        url = self.application.url
        session = ""
        for _ in range(MAX_REDIRECTS):
            cookies = []
            path = urlsplit(url).path
            if LOGIN_PATH in path and self._is_teams(url):
                cookies.append(f"CF_Authorization={organization}")
            if AUTHORIZED_PATH in path and session:
                cookies.append(f"CF_AppSession={session}")
            headers = {"User-Agent": USER_AGENT}
            if cookies:
                headers["Cookie"] = "; ".join(cookies)
            try:
                answer = request(
                    "HEAD",
                    url,
                    headers=headers,
                    timeout=EXCHANGE_SECONDS,
                    max_bytes=0,
                    use_proxy=True,
                )
            except RequestError as error:
                log.debug("no token for the team's", extra={"error": str(error)})
                return None
            session = session or _cookie(answer, "CF_AppSession")
            if AUTHORIZED_PATH in path or not 300 <= answer.status < 400 or not answer.location:
                return _cookie(answer, "CF_Authorization", lasting=True) or None
            url = urljoin(url, answer.location)
            if urlsplit(url).scheme != "https":
                return None
        return None

    def _is_teams(self, url: str) -> bool:
        """The team's token is for the team's host, and nobody else's."""
        return urlsplit(url).hostname == self.access_application.auth_domain

    def _is_accepted(self, token: str) -> bool:
        """Whether the edge lets a request with this token through."""
        url = self.application.url
        url += ("&" if "?" in url else "?") + "cloudflared_token_check=true"
        try:
            answer = request(
                "GET",
                url,
                headers={"Cf-Access-Token": token, "User-Agent": USER_AGENT},
                timeout=VERIFY_SECONDS,
                max_bytes=1 << 20,
                use_proxy=True,
            )
        except RequestError as error:
            raise AccessError(f"{self.application.authority} cannot be asked: {error}") from None
        return not (answer.status == 302 and urlsplit(answer.location).path.startswith(LOGIN_PATH))


def _cookie(answer: Answer, name: str, *, lasting: bool = False) -> str:
    """The value of a cookie that an answer sets; `lasting` asks for an Expires in the future."""
    for key, line in answer.headers:
        if key.lower() != "set-cookie":
            continue
        jar = SimpleCookie()
        try:
            jar.load(line)
        except CookieError:
            continue
        morsel = jar.get(name)
        if morsel is None or (lasting and not _is_future(morsel["expires"])):
            continue
        return morsel.value
    return ""


def _is_future(text: str) -> bool:
    try:
        return parsedate_to_datetime(text).timestamp() > time.time()
    except (ValueError, TypeError):
        return False


def _say_waiting(application: Application) -> None:
    log.warning(
        "Another process is logging in to %s already; waiting for it", application.authority
    )
