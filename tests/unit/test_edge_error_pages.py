"""An operator's own pages: which is for what, and that nothing from outside becomes HTML."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpass.edge.error_pages import MAX_PAGE, ErrorPages
from underpass.edge.errors import EdgeError
from underpass.edge.pages import Failure, PageKind, render
from underpass.wire.causes import Hop


def pages(directory: Path, **files: str) -> ErrorPages:
    for name, content in files.items():
        (directory / f"{name.lstrip('_')}.html").write_text(content)
    return ErrorPages.load(directory)


def test_the_most_exact_name_counts(tmp_path: Path) -> None:
    own = pages(tmp_path, _503="exact", _5xx="kind", error="rest")
    found = [own.body(status, {}) for status in (503, 502, 504, 404)]
    assert found == [b"exact", b"kind", b"kind", b"rest"]


def test_where_there_is_none_the_edges_own_goes_out(tmp_path: Path) -> None:
    own = pages(tmp_path, _503="mine")
    assert own.body(404, {}) is None
    ours = render(PageKind.UNKNOWN_HOST, b"nobody.test", "ray", own=own)
    assert ours == render(PageKind.UNKNOWN_HOST, b"nobody.test", "ray")


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    own = pages(tmp_path, _404="{{status}} {{ title }} <b>{{host}}</b> {{ray}} {{cause}} {{hop}}")
    page = render(
        PageKind.UNKNOWN_HOST,
        b"<script>alert(1)</script>",
        "00ff-LOCAL01",
        own=own,
        failure=Failure("unknown_host", Hop.EDGE),
    )
    assert page.status == 404
    assert page.body == (
        b"404 Nothing is served under this name <b>&lt;script&gt;alert(1)&lt;/script&gt;</b> "
        b"00ff-LOCAL01 unknown_host edge"
    )
    fields = dict(page.headers)
    assert fields[b"content-length"] == b"%d" % len(page.body)
    assert fields[b"underpass-cause"] == b"unknown_host"
    assert b"content-security-policy" not in fields, "what it may load is the operator's to say"


def test_programs_still_get_json(tmp_path: Path) -> None:
    own = pages(tmp_path, error="mine")
    page = render(PageKind.NO_LINK, b"a.test", "ray", accept=b"application/json", own=own)
    assert page.body.startswith(b"{")
    assert dict(page.headers)[b"retry-after"] == b"10"


def test_nothing_is_known_for_other_words_in_braces(tmp_path: Path) -> None:
    (tmp_path / "503.html").write_text("{{cookies}}")
    with pytest.raises(EdgeError, match=r"503\.html: nothing is known for \{\{cookies\}\}"):
        ErrorPages.load(tmp_path)
    (tmp_path / "503.html").write_text("{ {host} } {{}} {{ Host }} {{x y}}")
    assert ErrorPages.load(tmp_path).body(503, {}) == b"{ {host} } {{}} {{ Host }} {{x y}}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"x" * (MAX_PAGE + 1), f"more than {MAX_PAGE}"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_page_that_cannot_be_used(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "error.html").write_bytes(content)
    with pytest.raises(EdgeError, match=reason):
        ErrorPages.load(tmp_path)


def test_a_page_may_be_as_large_as_is_said(tmp_path: Path) -> None:
    (tmp_path / "error.html").write_bytes(b"x" * MAX_PAGE)
    assert len(ErrorPages.load(tmp_path).body(500, {}) or b"") == MAX_PAGE


def test_a_directory_without_pages(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("no error page")
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(EdgeError, match="has no error pages: names are like"):
            ErrorPages.load(directory)
