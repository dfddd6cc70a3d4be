"""docs/edge-configuration.md is true: its examples can be read, its tables are the program's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from underpass.cli.edge_run import run
from underpass.edge import options_file
from underpass.edge.error_pages import PLACEHOLDERS, ErrorPages
from underpass.edge.options import EdgeOptions
from underpass.edge.options_file import read_edge_file
from underpass.edge.server import APPLIED
from underpass.ops.document import ConfigError, Section, parse_yaml

PAGE = Path(__file__).parents[2] / "docs" / "edge-configuration.md"
HEADER = ("Key", "Kind", "Default", "Flag", "Live", "")

FIELDS = {
    "data-dir": "data_dir",
    "management-hostname": "management_hostname",
    "listen.https": "https",
    "listen.http": "http",
    "listen.tunnel": "tunnels",
    "listen.api": "api",
    "listen.metrics": "metrics",
    "hsts": "hsts_seconds",
    "max-body": "max_body",
    "error-pages": "error_pages",
    "hostnames": "sites",
    "access-log": "access_log",
    "drain": "handover",
    "trusted-hops": "trusted_hops",
}
"""Keys that are called otherwise among the options."""


def examples(kind: str) -> list[str]:
    text = PAGE.read_text("utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows() -> Iterator[dict[str, str]]:
    is_table = False
    for line in PAGE.read_text("utf-8").splitlines():
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        if cells == HEADER:
            is_table = True
        elif not line.startswith("|"):
            is_table = False
        elif is_table and not set(line) <= set("|-"):
            yield dict(zip(HEADER, (cell.strip("`") for cell in cells), strict=True))


ROWS = {row["Key"]: row for row in rows()}


@pytest.mark.parametrize("text", examples("yaml"))
def test_examples_can_be_read(text: str) -> None:
    EdgeOptions.parse(read_edge_file(parse_yaml(text, "edge.yml"), PAGE).options)


def test_the_page_of_the_example_is_one(tmp_path: Path) -> None:
    (text,) = examples("html")
    (tmp_path / "error.html").write_text(text)
    assert b"LOCAL01" in (ErrorPages.load(tmp_path).body(503, {"ray": "1-LOCAL01"}) or b"")
    assert set(re.findall(r"`\{\{(\w+)\}\}`", PAGE.read_text("utf-8"))) == set(PLACEHOLDERS)


def test_the_table_has_every_key_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[str] = set()
    refuse_unknown = Section.refuse_unknown

    def note(section: Section, keys: frozenset[str], *more: Any) -> None:
        place = "".join("[]" if isinstance(it, int) else f".{it}" for it in section.path)
        if not place.startswith(".hostnames"):
            known.update(f"{place}.{key}".lstrip(".") for key in keys)
        refuse_unknown(section, keys, *more)

    monkeypatch.setattr(Section, "refuse_unknown", note)
    text = "acme: {}\ncertificates: [{chain: a}]\nhostnames: {a: {}}\n"
    text += "tcp: [{listen: ':1', hostname: a.example}]\n"
    read_edge_file(parse_yaml(text, "edge.yml"), PAGE)
    assert set(ROWS) == known


def test_flags_are_those_of_the_command() -> None:
    flags = {flag for parameter in run.params for flag in parameter.opts if flag.startswith("--")}
    documented = {row["Flag"] for row in ROWS.values() if row["Flag"]}
    assert documented <= flags
    # What is left says where the file is, or is about every command.
    assert flags - documented == {"--config"}


@pytest.mark.parametrize("key", [key for key in ROWS if "." not in key or key in FIELDS])
def test_what_is_live_is_what_a_running_edge_applies(key: str) -> None:
    field = FIELDS.get(key, key)
    if key in ("listen", "log"):
        return
    assert field in EdgeOptions.__dataclass_fields__
    assert (ROWS[key]["Live"] == "yes") == (field in APPLIED)


def test_what_a_hostname_can_say_is_told() -> None:
    told = PAGE.read_text("utf-8").split("## Hostnames")[1]
    sentence = told.split("can say")[1].split(";")[0]
    assert set(re.findall(r"`([\w-]+)`", sentence)) == options_file._SITE_KEYS
    assert f"{options_file.MAX_SITES:,}" in told


def test_the_error_that_is_shown_is_the_one_that_is_said() -> None:
    with pytest.raises(ConfigError) as refused:
        read_edge_file(parse_yaml("timeouts: {first-byte: 30}", "edge.yml"), PAGE)
    said = str(refused.value).partition("line 1: ")[2]
    assert said in PAGE.read_text("utf-8")
