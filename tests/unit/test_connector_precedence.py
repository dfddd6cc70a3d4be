"""Flag, environment, file, default: every setting, every kind, and the traps of each
(docs: command line §1, configuration §2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from underpass.connector.config import read_config
from underpass.connector.settings import SettingError, Settings, Source, resolve
from underpass.connector.settings_table import AUTO, SETTINGS, Setting, Value
from underpass.ops.document import ConfigError, parse_yaml

# For each kind: two texts of a flag or variable with their values, and the same in a file.
TEXTS: Mapping[str, tuple[tuple[str, Value], tuple[str, Value]]] = {
    "text": (("one", "one"), ("two", "two")),
    "integer": (("7", 7), ("8", 8)),
    "count": (("7", 7), (AUTO, AUTO)),
    "boolean": (("true", True), ("1", True)),
    "duration": (("1m30s", 90.0), ("100ms", 0.1)),
    "list": (("one", ("one",)), ("two", ("two",))),
}
IN_FILE: Mapping[str, tuple[Any, Value]] = {
    "text": ("three", "three"),
    "integer": (9, 9),
    "count": (AUTO, AUTO),
    "boolean": (True, True),
    "duration": ("9s", 9.0),
    "list": (["three", "four, five"], ("three", "four, five")),
}
# Which count as not given.
NOTHING: Mapping[str, tuple[Any, ...]] = {
    "text": ("", None),
    "integer": (0, -1, None),
    "count": (0, -1, None),
    "boolean": (False, None),
    "duration": ("0s", "-5s", "0", None),
    "list": ([], None),
}
WRONG: Mapping[str, tuple[Any, ...]] = {
    "text": (4, 1.5, True, ["x"], {"a": 1}),
    "integer": ("4", "x", 1.5, True, [4], {}),
    "count": ("4", "many", 1.5, True, [4], {}),
    "boolean": ("true", "yes", 1, 0, [True], {}),
    "duration": (5, 1.5, True, "5", "soon", ["5s"], {}),
    "list": ("one", "one,two", 4, True, [4], [None], [["x"]], {"a": 1}),
}
MALFORMED: Mapping[str, tuple[str, ...]] = {
    "integer": ("x", "1.5", "0x10"),
    "count": ("x", "1.5"),
    "boolean": ("yes", "on", "2"),
    "duration": ("5", "soon"),
}

KINDS = tuple(TEXTS)
ALL = [setting for setting in SETTINGS.values() if not setting.unsupported]
IN_CONFIG = [setting for setting in ALL if setting.in_config]


def named(setting: Setting) -> str:
    return setting.name


def value_of(settings: Settings, setting: Setting) -> Value:
    value: Value = settings._value(setting.name)
    return value


def file_of(setting: Setting, value: Any) -> Mapping[str, Value]:
    """What a file with this one key says of settings."""
    text = json.dumps({setting.name: value})
    return read_config(parse_yaml(text, "config.yml")).settings


@pytest.mark.parametrize("setting", IN_CONFIG, ids=named)
def test_the_first_that_says_something_wins(setting: Setting) -> None:
    (flag_text, flag), (variable_text, variable) = TEXTS[setting.kind]
    in_file, from_file = IN_FILE[setting.kind]
    file = file_of(setting, in_file)
    level = {setting.name: (flag,) if setting.kind == "list" and isinstance(flag, str) else flag}
    environment = dict.fromkeys(setting.environment, variable_text)
    assert setting.kind == "list" or setting.parse(flag_text) == flag

    everything = resolve([{}, level], environment, file)
    assert value_of(everything, setting) == flag
    assert everything.source(setting.name) is Source.COMMAND_LINE

    without_flag = resolve([{}, {}], environment, file)
    if setting.environment:
        assert value_of(without_flag, setting) == variable
        assert without_flag.source(setting.name) is Source.ENVIRONMENT
    else:
        assert without_flag.source(setting.name) is Source.CONFIG

    only_file = resolve([], {}, file)
    assert value_of(only_file, setting) == from_file
    assert only_file.source(setting.name) is Source.CONFIG

    nothing = resolve([], {}, {})
    assert value_of(nothing, setting) == setting.default
    assert nothing.source(setting.name) is Source.DEFAULT
    assert not nothing.is_set(setting.name)


@pytest.mark.parametrize("setting", IN_CONFIG, ids=named)
def test_what_counts_as_nothing_in_the_file(setting: Setting) -> None:
    for value in NOTHING[setting.kind]:
        assert setting.name not in file_of(setting, value), value


@pytest.mark.parametrize("setting", IN_CONFIG, ids=named)
def test_another_type_in_the_file_is_an_error_at_its_line(setting: Setting) -> None:
    for value in WRONG[setting.kind]:
        with pytest.raises(ConfigError, match=rf"config.yml, line 1: {setting.name}(\[0\])?: "):
            file_of(setting, value)


@pytest.mark.parametrize("setting", [each for each in ALL if each.environment], ids=named)
def test_a_variable_that_exists_hides_the_file_even_when_empty(setting: Setting) -> None:
    _, from_file = IN_FILE[setting.kind]
    file = {setting.name: from_file} if setting.in_config else {}
    for variable in setting.environment:
        found = resolve([], {variable: ""}, file)
        empty: Value = setting.default
        if setting.kind in ("text", "list"):
            empty = "" if setting.kind == "text" else ()
            assert found.is_set(setting.name)
        assert value_of(found, setting) == empty


@pytest.mark.parametrize(
    "setting", [each for each in ALL if each.environment and each.kind in MALFORMED], ids=named
)
def test_a_variable_that_cannot_be_read_is_named(setting: Setting) -> None:
    for variable in setting.environment:
        for text in MALFORMED[setting.kind]:
            with pytest.raises(SettingError, match=f"environment variable {variable}: "):
                resolve([], {variable: text}, {})


@pytest.mark.parametrize(
    "setting", [each for each in ALL if each.environment and each.kind == "list"], ids=named
)
def test_a_variable_is_split_at_commas_and_a_flag_is_not(setting: Setting) -> None:
    found = resolve([], {setting.environment[0]: " a, b ,,c "}, {})
    assert value_of(found, setting) == ("a", "b", "c")
    assert value_of(resolve([{setting.name: ("a,b",)}], {}, {}), setting) == ("a,b",)


def test_every_kind_has_its_cases() -> None:
    assert {setting.kind for setting in SETTINGS.values()} == set(KINDS)
    for cases in (IN_FILE, NOTHING, WRONG):
        assert set(cases) == set(KINDS)
