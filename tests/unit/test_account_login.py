"""Logging in: the page's address, the polls, the browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from underpass.account import login as login_module
from underpass.account.certificate import MAX_CERTIFICATE_BYTES, OriginCertificate
from underpass.account.errors import CertificateError, LoginError
from underpass.account.login import CLOUDFLARE, FEDRAMP, Login, LoginSite
from underpass.ops import browser as browser_module
from underpass.ops.browser import open_browser
from underpass.ops.http_request import Answer, RequestError
from underpass.ops.login_polling import LOGIN_SECONDS, MAX_FAILURES, PAUSE_SECONDS, POLL_SECONDS
from underpass.wire.secret import Secret

CERTIFICATE = OriginCertificate("zone", "account", Secret(b"token"))
SITE = LoginSite("https://page.example/?z=1&callback=old", "https://service.example/store")
HELD = 30.0


class Service:
    """A transfer service, with a clock of its own: each answer takes `seconds`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.answers: list[tuple[float, Answer | RequestError]] = []
        self.polls: list[dict[str, Any]] = []
        self.pauses: list[float] = []
        monkeypatch.setattr(login_module, "request", self._request)

    def _request(self, method: str, address: str, **more: Any) -> Answer:
        assert method == "GET"
        self.polls.append({"address": address, **more})
        seconds, answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.now += min(seconds, more["timeout"])
        if isinstance(answer, RequestError):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def wait(self, site: LoginSite = SITE) -> OriginCertificate:
        return Login(site).wait(clock=lambda: self.now, sleep=self.sleep)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    return Service(monkeypatch)


def answer(status: int, body: bytes = b"") -> Answer:
    return Answer(status, "", "", body)


GIVEN = answer(200, CERTIFICATE.to_pem())
NOT_YET = answer(200)


class TestAddresses:
    def test_the_page_learns_where_to_put_the_certificate(self) -> None:
        url = urlsplit(Login(SITE).url)
        assert (url.scheme, url.netloc, url.path) == ("https", "page.example", "/")
        query = parse_qs(url.query, keep_blank_values=True, strict_parsing=True)
        (callback,) = query.pop("callback")
        assert query == {"aud": [""], "z": ["1"]}
        assert re.fullmatch(r"https://service\.example/store/[\w-]{43}=", callback)

    def test_every_login_has_a_key_of_its_own(self) -> None:
        assert Login(SITE).url != Login(SITE).url

    def test_cloudflares(self) -> None:
        start = (
            "https://dash.cloudflare.com/argotunnel?aud=&callback=https%3A%2F%2Flogin.cloudflare"
        )
        assert Login(CLOUDFLARE).url.startswith(start)

    @pytest.mark.parametrize(
        ("site", "reason"),
        [
            (LoginSite("page", "https://x/"), "--loginURL"),
            (LoginSite("https://[", "https://x/"), "--loginURL"),
            (LoginSite("javascript:alert(1)", "https://x/"), "--loginURL"),
            (LoginSite("https://page", "x"), "--callbackURL"),
            (LoginSite("https://page", "https://x/?y"), "--callbackURL"),
        ],
    )
    def test_what_is_no_address(self, site: LoginSite, reason: str) -> None:
        with pytest.raises(LoginError, match=reason):
            Login(site)


class TestPolls:
    def test_the_certificate_is_polled_for_where_the_page_puts_it(self, service: Service) -> None:
        service.answers = [(HELD, NOT_YET), (HELD, answer(404)), (1.0, GIVEN)]
        login = Login(SITE, cacert=Path("ca.pem"))
        assert login.wait(clock=lambda: service.now, sleep=service.sleep) == CERTIFICATE
        assert {poll["address"] for poll in service.polls} == {
            parse_qs(urlsplit(login.url).query)["callback"][0]
        }
        poll = service.polls[0]
        assert (poll["timeout"], poll["max_bytes"]) == (POLL_SECONDS, MAX_CERTIFICATE_BYTES)
        assert poll["cacert"] == Path("ca.pem")
        assert service.pauses == [0.0, 0.0]

    def test_a_service_that_does_not_hold_requests_is_not_stormed(self, service: Service) -> None:
        service.answers = [(0.1, answer(404)), (0.0, answer(302)), (0.0, GIVEN)]
        service.wait()
        assert service.pauses == [pytest.approx(PAUSE_SECONDS - 0.1), PAUSE_SECONDS]

    def test_it_ends_when_nobody_logs_in(self, service: Service) -> None:
        service.answers = [(POLL_SECONDS, NOT_YET)]
        with pytest.raises(LoginError, match="nobody logged in within 10 minutes"):
            service.wait()
        assert service.now == LOGIN_SECONDS
        assert len(service.polls) == 10

    def test_a_service_that_holds_a_request_too_long_is_asked_again(self, service: Service) -> None:
        late = (POLL_SECONDS, RequestError("timed out"))
        service.answers = [*[late] * 8, (0.0, GIVEN)]
        assert service.wait() == CERTIFICATE

    def test_a_service_that_cannot_be_reached_is_given_up(self, service: Service) -> None:
        service.answers = [(0.0, RequestError("refused"))]
        with pytest.raises(LoginError, match=r"cannot ask https://service.example/store .*refused"):
            service.wait()
        assert len(service.polls) == MAX_FAILURES

    def test_but_not_for_a_moment_of_trouble(self, service: Service) -> None:
        trouble = [(0.0, RequestError("refused"))] * (MAX_FAILURES - 1)
        service.answers = [*trouble, (HELD, NOT_YET), *trouble, (0.0, GIVEN)]
        assert service.wait() == CERTIFICATE

    def test_its_own_trouble_is_quoted(self, service: Service) -> None:
        service.answers = [(0.0, answer(500, b"no \x1b[31mmore" + b"x" * 9999))]
        with pytest.raises(LoginError, match=r"status 500: no  .31mmorex+; run") as caught:
            service.wait()
        assert len(str(caught.value)) < 500

    def test_what_is_no_certificate(self, service: Service) -> None:
        service.answers = [(0.0, answer(200, b"<html>"))]
        with pytest.raises(CertificateError, match="no API token in the answer of https://service"):
            service.wait()

    def test_the_fed_region_is_put_into_the_certificate(self, service: Service) -> None:
        service.answers = [(0.0, GIVEN)]
        assert service.wait(FEDRAMP).endpoint == "fed"


class TestBrowser:
    @pytest.fixture(autouse=True)
    def everything_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(browser_module.shutil, "which", lambda program: f"/bin/{program}")

    @pytest.mark.parametrize(
        ("platform", "environment", "command"),
        [
            ("linux", {"DISPLAY": ":0"}, ["xdg-open", "URL"]),
            ("freebsd14", {"WAYLAND_DISPLAY": "w"}, ["xdg-open", "URL"]),
            ("darwin", {}, ["open", "URL"]),
            ("win32", {}, ["rundll32", "url.dll,FileProtocolHandler", "URL"]),
        ],
    )
    def test_of_each_system(
        self, platform: str, environment: dict[str, str], command: list[str]
    ) -> None:
        started: list[list[str]] = []
        assert open_browser("URL", platform=platform, environment=environment, start=started.append)
        assert started == [command]

    def test_not_without_a_display(self) -> None:
        started: list[list[str]] = []
        assert not open_browser("URL", platform="linux", environment={}, start=started.append)
        assert started == []

    def test_not_without_a_program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(browser_module.shutil, "which", lambda _: None)
        started: list[list[str]] = []
        assert not open_browser("URL", platform="darwin", start=started.append)
        assert started == []

    def test_one_that_does_not_start(self) -> None:
        def fail(_: list[str]) -> None:
            raise PermissionError(13, "no")

        assert not open_browser("URL", platform="darwin", start=fail)
