"""docs/configuration.md is true: its examples run, and its tables say what the program says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from underpass.cli.main import underpass
from underpass.connector import config as config_module
from underpass.connector import ingress as ingress_module
from underpass.connector import warp_routing
from underpass.connector.config import read_config
from underpass.connector.ingress import read_ingress
from underpass.connector.origin_request import FIELDS, KEYS, OriginRequest
from underpass.connector.remote import read_remote
from underpass.connector.settings_table import SETTINGS, Value, spell
from underpass.ops.document import ConfigError, Section, parse_yaml
from underpass.ops.durations import format_duration
from underpass.wire.remote_config import ConfigurationUpdate

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
SETTINGS_HEADER = ("Key and flag", "Kind", "Default", "Environment", "")
ORIGIN_REQUEST_HEADER = ("Key", "Kind", "Default", "Flag", "")

KINDS = {
    Section.string: "text",
    Section.integer: "integer",
    Section.boolean: "boolean",
    Section.duration: "duration",
    Section.strings: "list",
}


class Example(NamedTuple):
    """A fenced block: what is written behind its fence, its text, and its line."""

    kind: str
    text: str
    line: int


class Row(NamedTuple):
    """A row of a table, under the headings above it."""

    section: tuple[str, ...]
    header: tuple[str, ...]
    cells: tuple[str, ...]


def examples() -> Iterator[Example]:
    text = PAGE.read_text("utf-8")
    for found in re.finditer(r"^```(\w[^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Example(found[1], found[2], text.count("\n", 0, found.start()) + 1)


def rows() -> Iterator[Row]:
    section: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    is_fenced = False
    for line in PAGE.read_text("utf-8").splitlines():
        is_fenced ^= line.startswith("```")
        heading = re.fullmatch(r"(#+) (.*)", line)
        if is_fenced:
            continue
        if heading:
            section = (*section[: len(heading[1]) - 1], heading[2])
        if not line.startswith("|"):
            header = ()
            continue
        cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))
        if not header:
            header = cells
        elif not set(line) <= set("|-"):
            yield Row(section, header, cells)


def names(cell: str) -> tuple[str, ...]:
    """What is in a cell as code."""
    return tuple(re.findall(r"`([^`]*)`", cell))


def shown(value: Value) -> str:
    return "" if value in ("", ()) else f"`{spell(value)}`"


YAML = [example for example in examples() if example.kind == "yaml"]
CONSOLE = [example for example in examples() if example.kind == "console"]


def test_there_are_examples() -> None:
    assert len(YAML) >= 2
    assert len(CONSOLE) >= 2
    assert {example.kind for example in examples()} <= {"yaml", "yaml wrong", "console", "json"}


@pytest.mark.parametrize("example", YAML, ids=lambda example: f"line {example.line}")
def test_every_file_can_be_used(example: Example) -> None:
    config = read_config(parse_yaml(example.text, "config.yml"), Path("/etc/underpass/config.yml"))
    assert config.ingress is not None or config.settings
    assert not config.remarks


def test_a_file_that_is_shown_as_wrong_is() -> None:
    for example in examples():
        if example.kind == "yaml wrong":
            with pytest.raises(ConfigError):
                read_config(parse_yaml(example.text, "config.yml"))


def test_a_configuration_of_the_edge_is_read() -> None:
    (example,) = (each for each in examples() if each.kind == "json")
    rules = read_remote(ConfigurationUpdate(1, example.text.encode()))
    assert not rules.ignored
    assert len(rules.ingress.rules) == 2
    assert rules.ingress.warp_routing.max_active_flows == 1000


@pytest.mark.parametrize("example", CONSOLE, ids=lambda example: f"line {example.line}")
def test_commands_print_what_is_shown(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last file above them as config.yml."""
    monkeypatch.chdir(tmp_path)
    file = [each for each in examples() if each.line < example.line and "yaml" in each.kind][-1]
    (tmp_path / "config.yml").write_text(file.text, "utf-8")
    commands = re.split(r"^\$ ", example.text, flags=re.MULTILINE)[1:]
    assert commands
    for command in commands:
        line, _, expected = command.partition("\n")
        program, *arguments = shlex.split(line)
        assert program == "underpass"
        result = CliRunner().invoke(underpass, arguments)
        assert result.output == expected
        assert result.exit_code == ("Error:" in expected)


def test_every_setting_has_its_row_and_every_row_its_setting() -> None:
    table = {
        names(row.cells[0])[0]: (row.section[-1], *row.cells[:4])
        for row in rows()
        if row.header == SETTINGS_HEADER
    }
    assert sorted(table) == sorted(SETTINGS)
    headings: dict[str, set[object]] = {}
    for setting in SETTINGS.values():
        heading, name, kind, default, environment = table[setting.name]
        headings.setdefault(heading, set()).add(setting.group)
        assert names(name) == (setting.name, *setting.aliases)
        assert kind == setting.kind + ("" if setting.in_config else ", flag only")
        assert default == shown(setting.default)
        assert names(environment) == setting.environment
    assert all(len(groups) == 1 for groups in headings.values())


def test_what_is_refused_says_so() -> None:
    for row in rows():
        if row.header == SETTINGS_HEADER:
            why = SETTINGS[names(row.cells[0])[0]].unsupported
            assert row.cells[4] == f"refused: {why}" if why else "refused" not in row.cells[4]


def test_every_key_of_origin_request_has_its_row() -> None:
    table = {
        names(row.cells[0])[0]: row.cells for row in rows() if row.header == ORIGIN_REQUEST_HEADER
    }
    assert set(table) == KEYS
    defaults = OriginRequest()
    for key, (field, read) in FIELDS.items():
        _, kind, default, flag, _ = table[key]
        assert kind == KINDS[read], key
        value: Value = getattr(defaults, field)
        assert default == shown(value), key
        assert all(name in SETTINGS for name in names(flag)), key


def test_flags_of_origin_request_point_back() -> None:
    """The settings of a tunnel without rules, and the keys that say the same."""
    there = {
        flag: names(row.cells[0])[0]
        for row in rows()
        if row.header == ORIGIN_REQUEST_HEADER
        for flag in names(row.cells[3])
    }
    back = {
        names(row.cells[0])[0]: names(row.cells[4])[0]
        for row in rows()
        if row.section[-1] == "Requests to the origin" and row.header == SETTINGS_HEADER
    }
    assert {flag: key for flag, key in there.items() if flag in back} == back


def test_keys_of_the_file_and_its_structures() -> None:
    found: dict[str, set[str]] = {}
    for row in rows():
        found.setdefault(row.section[-1], set()).update(names(row.cells[0]))
    assert found["The file"] == config_module.STRUCTURES
    assert found["warp-routing"] == warp_routing.KEYS
    assert found["Ingress rules"] >= ingress_module.RULE_KEYS
    text = PAGE.read_text("utf-8")
    assert all(f"`{key}`" in text for key in config_module.LEFT_ALONE)


def test_every_service_that_is_shown_is_one() -> None:
    shown_services = {
        name
        for row in rows()
        if row.section[-1] == "Ingress rules" and row.header[0] == "`service`"
        for name in names(row.cells[0])
    }
    assert len(shown_services) >= 10
    for service in shown_services:
        text = service.replace("PORT", "80").replace("HOST", "h").replace("PATH", "/p")
        text = text.replace("status:N", "status:404")
        document = parse_yaml(f"ingress: [service: '{text}']", "config.yml")
        assert read_ingress(document) is not None


def test_durations_are_written_as_they_are_printed() -> None:
    """What the tables compare with."""
    assert [format_duration(seconds) for seconds in (0.0, 30.0, 90.0)] == ["0s", "30s", "1m30s"]
