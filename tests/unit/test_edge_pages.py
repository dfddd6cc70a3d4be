"""Error pages: the right status, understandable by people and programs, and safe to show."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from underpass.edge.pages import (
    MAX_ACCEPT_LENGTH,
    Failure,
    Page,
    PageKind,
    prefers_json,
    render,
    status_of,
)
from underpass.wire.causes import Hop

STATUS = {
    PageKind.BAD_REQUEST: 400,
    PageKind.FORBIDDEN: 403,
    PageKind.UNKNOWN_HOST: 404,
    PageKind.PAYLOAD_TOO_LARGE: 413,
    PageKind.MISDIRECTED: 421,
    PageKind.HEADER_TOO_LARGE: 431,
    PageKind.NOT_SUPPORTED: 501,
    PageKind.LOOP: 508,
    PageKind.ORIGIN_UNREACHABLE: 502,
    PageKind.NO_LINK: 503,
    PageKind.GATEWAY_TIMEOUT: 504,
}


def header(page: Page, name: bytes) -> bytes | None:
    values = [value for key, value in page.headers if key == name]
    assert len(values) <= 1
    return values[0] if values else None


def balanced_text(body: bytes) -> str:
    """The text of a well-nested document; fails if an element is left open."""
    void = {"meta", "br"}
    open_elements: list[str] = []
    text: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag != "script"
            assert not {name for name, _ in attrs} & {"src", "href", "onerror", "onload"}
            if tag not in void:
                open_elements.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_elements.pop() == tag

        def handle_data(self, data: str) -> None:
            text.append(data)

    Reader().feed(body.decode("utf-8"))
    assert not open_elements
    return "".join(text)


def test_every_kind_has_a_status() -> None:
    assert {kind: status_of(kind) for kind in PageKind} == STATUS


@pytest.mark.parametrize("kind", PageKind)
def test_html_for_people(kind: PageKind) -> None:
    page = render(kind, b"app.localhost:8443", "7f3a", b"text/html,*/*;q=0.8")
    assert page.status == STATUS[kind]
    assert header(page, b"content-type") == b"text/html; charset=utf-8"
    assert header(page, b"content-length") == b"%d" % len(page.body)
    assert header(page, b"cache-control") == b"no-store"
    text = balanced_text(page.body)
    assert "Host: app.localhost:8443" in text
    assert "Request: 7f3a" in text
    assert str(page.status) in text
    assert b"prefers-color-scheme:dark" in page.body
    assert not re.search(rb"https?://|url\(|@import", page.body), "nothing is loaded"
    assert len(page.body) < 4096


@pytest.mark.parametrize("kind", PageKind)
def test_json_for_programs(kind: PageKind) -> None:
    page = render(kind, "app.localhost", "7f3a", "application/json")
    assert header(page, b"content-type") == b"application/json"
    assert header(page, b"content-length") == b"%d" % len(page.body)
    document = json.loads(page.body)
    assert document["status"] == page.status == STATUS[kind]
    assert document["type"] == f"urn:underpass:error:{kind.value}"
    assert document["title"]
    assert document["detail"]
    assert (document["host"], document["ray"]) == ("app.localhost", "7f3a")


def test_only_a_tunnel_without_a_connector_asks_to_come_back() -> None:
    for kind in PageKind:
        retry = header(render(kind, b"h", "r"), b"retry-after")
        assert (retry is not None) == (kind is PageKind.NO_LINK)


def test_what_visitors_send_is_escaped_in_both_forms() -> None:
    host = b'"><script>alert(1)</script>\r\n\x00\xff'
    page = render(PageKind.UNKNOWN_HOST, host, "<b>")
    assert b"<script>" not in page.body
    assert b"<b>" not in page.body
    assert b"\\x0d\\x0a\\x00\\xff" in page.body
    assert '"><script>alert(1)</script>' in balanced_text(page.body)
    document = json.loads(render(PageKind.UNKNOWN_HOST, host, "<b>", "application/json").body)
    assert document["host"] == '"><script>alert(1)</script>\\x0d\\x0a\\x00\\xff'


def test_long_hosts_are_cut() -> None:
    for host in (b"a" * 100_000, "a" * 100_000, b"\xff" * 100_000):
        for accept in (None, "application/json"):
            assert len(render(PageKind.UNKNOWN_HOST, host, "r" * 9999, accept).body) < 4096


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", False),
        ("application/json", True),
        (b"application/json", True),
        ("APPLICATION/JSON ; charset=utf-8", True),
        ("application/problem+json", True),
        ("application/json, text/plain, */*", True),
        ("application/*", True),
        ("application/*, text/html", False),
        ("application/json, text/*", True),
        ("text/html, application/json", False),
        ("text/html;q=0.5, application/json", True),
        ("text/html;q=0.5, application/json;q=0.4", False),
        ("application/json;q=0", False),
        ("application/json;q=nan", False),
        ("application/json;q=2", False),
        ("application/json;q=x", False),
        ("application/json;level=1;q=0.3, text/html;q=0.2", True),
        (b"\xff\xfe,application/json", True),
        (", ,;;=,application/json", True),
    ],
)
def test_who_prefers_json(accept: bytes | str | None, json_wanted: bool) -> None:
    assert prefers_json(accept) is json_wanted


def test_a_long_accept_field_is_looked_at_up_to_a_limit() -> None:
    filler = "x" * (MAX_ACCEPT_LENGTH - len("application/json") - 1)
    assert prefers_json(f"{filler},application/json")
    assert not prefers_json(f"{filler}xx,application/json")


class TestTheCause:
    failure = Failure("dial_timeout", Hop.ORIGIN)

    def test_is_on_the_page_and_in_fields(self) -> None:
        page = render(PageKind.ORIGIN_UNREACHABLE, "h", "r", None, self.failure)
        assert "Cause: dial_timeout, at the application" in balanced_text(page.body)
        assert header(page, b"underpass-cause") == b"dial_timeout"
        assert header(page, b"underpass-hop") == b"origin"

    def test_is_among_the_members(self) -> None:
        page = render(PageKind.ORIGIN_UNREACHABLE, "h", "r", "application/json", self.failure)
        document = json.loads(page.body)
        assert (document["cause"], document["hop"]) == ("dial_timeout", "origin")
        assert header(page, b"underpass-cause") == b"dial_timeout"

    def test_is_left_out_where_there_is_none(self) -> None:
        page = render(PageKind.BAD_REQUEST, "h", "r")
        assert b"Cause" not in page.body
        assert header(page, b"underpass-cause") is None

    @pytest.mark.parametrize("hop", Hop)
    def test_every_hop_has_words(self, hop: Hop) -> None:
        assert str(Failure("x", hop)).startswith("x, ")
