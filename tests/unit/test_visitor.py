"""The visitor's side, without a network: addresses, headers, tokens in files, decrypted logins."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path

import pytest
from joserfc import jws
from joserfc.jwk import RSAKey

from underpass.visitor.access_application import AccessApplication
from underpass.visitor.application import (
    Application,
    ConnectTo,
    parse_application,
    parse_connect_to,
)
from underpass.visitor.errors import AccessError, VisitorError
from underpass.visitor.ssh import key_path, ssh_config
from underpass.visitor.stream import parse_headers
from underpass.visitor.token_files import TokenFiles
from underpass.visitor.transfer import BrowserLogin

KEY = RSAKey.generate_key(2048)
APPLICATION = AccessApplication("team.cloudflareaccess.com", "aud", "*.example.com/x")


def token(**claims: object) -> str:
    return jws.serialize_compact({"alg": "RS256"}, json.dumps(claims).encode(), KEY)


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("app.example.com", Application("app.example.com")),
            ("APP.example.com:8443", Application("app.example.com", 8443)),
            ("http://app.example.com/a?b=c", Application("app.example.com", None, "/a?b=c")),
            ("https://app.example.com", Application("app.example.com")),
            ("bücher.example", Application("xn--bcher-kva.example")),
            ("::1", Application("::1")),
            ("https://[::1]:8443/", Application("::1", 8443)),
            (" app.example.com\n", Application("app.example.com")),
        ],
    )
    def test_what_a_visitor_writes(self, text: str, found: Application) -> None:
        assert parse_application(text) == found

    @pytest.mark.parametrize(
        "text",
        ["", "ftp://x", "https://", "https://u:p@x", "x:70000", "https://x/a b", "https://x/\x00"],
    )
    def test_what_is_no_address(self, text: str) -> None:
        with pytest.raises(VisitorError):
            parse_application(text)

    def test_how_it_is_asked_for(self) -> None:
        application = parse_application("[::1]:8443/a?b")
        assert application.url == "https://[::1]:8443/a?b"
        assert application.websocket_url == "wss://[::1]:8443/a?b"

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("host", ConnectTo("host")),
            ("host:8443", ConnectTo("host", 8443)),
            ("sni:8443:host", ConnectTo("host", 8443, "sni")),
        ],
    )
    def test_where_to_connect_instead(self, text: str, found: ConnectTo) -> None:
        assert parse_connect_to(text) == found

    @pytest.mark.parametrize("text", ["", "a:b", "a:0", "a:70000", "a:1:b:c"])
    def test_what_is_no_place(self, text: str) -> None:
        with pytest.raises(VisitorError):
            parse_connect_to(text)


def test_header_lines_without_a_colon_are_dropped() -> None:
    lines = ["Name: value", "Other:a:b", "nonsense", ": none"]
    assert parse_headers(lines) == (("Name", "value"), ("Other", "a:b"))


class TestTokenFiles:
    def test_a_good_token_is_found_again(self, tmp_path: Path) -> None:
        files = TokenFiles(tmp_path / "new")
        good = token(aud=["aud"], exp=time.time() + 60)
        files.write(files.application_path(APPLICATION), good)
        assert files.application_token(APPLICATION) == good
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        files.forget(APPLICATION)
        files.forget(APPLICATION)
        assert files.application_token(APPLICATION) is None

    @pytest.mark.parametrize(
        ("text", "stays"),
        [
            (token(aud=["aud"], exp=1), False),
            (token(aud=["other"], exp=1e12), False),
            ("nonsense", True),
            ("a.b.c", True),
            ("\xff", True),
            ("." * 1000, True),
        ],
    )
    def test_what_is_no_good_token(self, tmp_path: Path, text: str, stays: bool) -> None:
        files = TokenFiles(tmp_path)
        path = files.application_path(APPLICATION)
        path.write_text(text, "latin-1")
        assert files.application_token(APPLICATION) is None
        assert path.exists() is stays

    def test_no_name_leads_out_of_the_directory(self, tmp_path: Path) -> None:
        hostile = AccessApplication("t.cloudflareaccess.com", "../../x", "../..\\*/y")
        assert TokenFiles(tmp_path).application_path(hostile).parent == tmp_path

    def test_one_login_at_a_time(self, tmp_path: Path) -> None:
        files = TokenFiles(tmp_path)
        path = files.application_path(APPLICATION)
        waits, order = threading.Event(), []

        def second() -> None:
            with files.locked(path, waits.set):
                order.append("second")

        with files.locked(path, lambda: None):
            thread = threading.Thread(target=second)
            thread.start()
            assert waits.wait(30)
            order.append("first")
        thread.join(30)
        assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("body", "sender"),
    [
        (b"", ""),
        (b"nonsense", "nonsense"),
        (base64.b64encode(bytes(100)), base64.urlsafe_b64encode(bytes(32)).decode()),
        (base64.b64encode(bytes(5)), base64.urlsafe_b64encode(b"k" * 32).decode()),
    ],
)
def test_what_the_transfer_service_cannot_have_sent(body: bytes, sender: str) -> None:
    login = BrowserLogin(Application("app.example.com"), "aud")
    with pytest.raises(AccessError, match="cannot be decrypted"):
        login._decrypted(body, sender)


def test_where_a_key_for_ssh_is_kept(tmp_path: Path) -> None:
    assert key_path(Application("a.example"), tmp_path) == tmp_path / "a.example-cf_key"
    assert (
        key_path(Application("a.example", None, "/x/y?z"), tmp_path).name == "a.example-x-y-cf_key"
    )


def test_what_ssh_is_configured_with(tmp_path: Path) -> None:
    plain = ssh_config("a.example", "/bin/underpass", tmp_path, short_lived=False)
    assert plain == "Host a.example\n  ProxyCommand /bin/underpass access ssh --hostname %h\n"
    short = ssh_config("a.example", "/bin/underpass", tmp_path, short_lived=True)
    assert f"CertificateFile {tmp_path.as_posix()}/%h-cf_key-cert.pub" in short
