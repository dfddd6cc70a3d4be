"""The value of every setting, merged from its sources (docs: command line §1).

A value comes from the command line, else the environment, else the configuration file, else the
default. A variable that exists, even empty, hides the file's key.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from underpass.connector.settings_table import AUTO, SETTINGS, Setting, Value, spell

__all__ = ["SettingError", "Settings", "Source", "resolve"]


class SettingError(ValueError):
    """A value cannot be used; the text says where it was given and what is wrong with it."""


class Source(enum.Enum):
    """Where a value came from."""

    COMMAND_LINE = "command line"
    ENVIRONMENT = "environment"
    CONFIG = "configuration file"
    DEFAULT = "default"


class Settings:
    """Values with their sources. Unknown names are KeyError: a slip in the program."""

    def __init__(self, given: Mapping[str, tuple[Value, Source]]) -> None:
        self._given = dict(given)

    def is_set(self, name: str) -> bool:
        """Whether it was given at all, whatever the value."""
        return SETTINGS[name].name in self._given

    def source(self, name: str) -> Source:
        return self._given[name][1] if self.is_set(name) else Source.DEFAULT

    def text(self, name: str) -> str:
        value = self._value(name)
        assert isinstance(value, str)
        return value

    def integer(self, name: str) -> int:
        value = self._value(name)
        assert isinstance(value, int)
        return value

    def count(self, name: str) -> int | None:
        """A number, or None for `auto`."""
        value = self._value(name)
        assert value == AUTO or isinstance(value, int)
        return None if isinstance(value, str) else value

    def boolean(self, name: str) -> bool:
        value = self._value(name)
        assert isinstance(value, bool)
        return value

    def seconds(self, name: str) -> float:
        value = self._value(name)
        assert isinstance(value, (int, float))
        return value

    def list(self, name: str) -> tuple[str, ...]:
        value = self._value(name)
        assert isinstance(value, tuple)
        return value

    def differing(self, others: Settings) -> tuple[str, ...]:
        """The names of settings that have another value there."""
        return tuple(name for name in SETTINGS if self._value(name) != others._value(name))

    def shown(self) -> dict[str, str]:
        """What was given, as text for a log; secrets as `*****`."""
        return {
            name: "*****" if SETTINGS[name].secret else spell(value)
            for name, (value, _) in sorted(self._given.items())
        }

    def _value(self, name: str) -> Value:
        return self._given[name][0] if self.is_set(name) else SETTINGS[name].default


def resolve(
    levels: Sequence[Mapping[str, Value]],
    environment: Mapping[str, str],
    config: Mapping[str, Value],
) -> Settings:
    """Merge the sources. `levels` are command lines, the most specific first.

    Raises SettingError for a variable that cannot be read or a setting that is not supported.
    """
    given: dict[str, tuple[Value, Source]] = {}
    for name, setting in SETTINGS.items():
        found = _find(setting, levels, environment, config)
        if found is None:
            continue
        if setting.unsupported and found[0]:
            raise SettingError(f"{name} ({found[1].value}): {setting.unsupported}")
        given[name] = found
    return Settings(given)


def _find(
    setting: Setting,
    levels: Sequence[Mapping[str, Value]],
    environment: Mapping[str, str],
    config: Mapping[str, Value],
) -> tuple[Value, Source] | None:
    for level in levels:
        if setting.name in level:
            return level[setting.name], Source.COMMAND_LINE
    for variable in setting.environment:
        if variable in environment:
            return _from_environment(setting, variable, environment[variable])
    if setting.name in config:
        return config[setting.name], Source.CONFIG
    return None


def _from_environment(setting: Setting, variable: str, text: str) -> tuple[Value, Source] | None:
    if setting.kind == "list":
        parts = (part.strip() for part in text.split(","))
        return tuple(part for part in parts if part), Source.ENVIRONMENT
    if not text and setting.kind != "text":
        return None  # hides the file's key, and leaves the default
    try:
        return setting.parse(text), Source.ENVIRONMENT
    except ValueError as error:
        raise SettingError(f"environment variable {variable}: {error}") from None
