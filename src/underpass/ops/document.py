"""A configuration document: plain values, each knowing the line it came from.

YAML is read as Go's yaml.v3 reads it into untyped values (docs: configuration §1): YAML 1.2
scalars (`yes` and `on` are strings, `22:30` is no number), duplicate keys are errors, only the
first document counts. JSON, the form of remote configuration, has no lines and writes durations as
whole seconds.

Errors name the file, the line where one is known, the key, and for an ingress rule its number:
`config.yml, line 3: ingress[0].path: rule #1: ...`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from underpass.ops.durations import parse_duration

__all__ = [
    "ConfigError",
    "Document",
    "FileState",
    "Section",
    "file_state",
    "load_yaml",
    "parse_json",
    "parse_yaml",
]

# Bytes. A configuration file with ten thousand rules is below 2 MiB.
MAX_DOCUMENT = 8 * 1024 * 1024
# Values after aliases are followed: a "billion laughs" file stops here.
MAX_VALUES = 200_000
MAX_DEPTH = 64
# Places of unknown keys that are noted where such keys are ignored.
MAX_IGNORED = 20

KeyPath = tuple["str | int", ...]

FileState = tuple[int, int, int, int]
"""Device, inode, size and time of change in nanoseconds: another one is another content."""


class ConfigError(ValueError):
    """The configuration is wrong; the text says where, why and what to do."""


class Document(Struct, frozen=True):
    """A parsed document. `lines` maps a key path to its 1-based line.

    Unknown keys are errors, unless there is a list `ignored` that takes their places.
    """

    name: str
    value: Any
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    durations_in_seconds: bool = False
    ignored: list[str] | None = None

    def error(self, path: KeyPath, why: str) -> ConfigError:
        """An error about the value at `path`, with the nearest line known."""
        where = self.name
        for length in range(len(path), -1, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                where = f"{where}, line {line}"
                break
        if len(path) > 1 and path[0] == "ingress" and isinstance(path[1], int):
            why = f"rule #{path[1] + 1}: {why}"
        text = spell(path)
        return ConfigError(f"{where}: {text}: {why}" if text else f"{where}: {why}")

    @property
    def root(self) -> Section:
        """The document as a mapping; raises ConfigError when it is something else."""
        return Section.of(self, (), self.value)


def spell(path: KeyPath) -> str:
    """`("ingress", 0, "path")` as `ingress[0].path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class Section(Struct, frozen=True):
    """One mapping of a document, read key by key with the type each key must have.

    Every reader returns None when the key is absent or null, and raises ConfigError otherwise.
    """

    document: Document
    path: KeyPath
    values: Mapping[str, Any]

    @classmethod
    def of(cls, document: Document, path: KeyPath, value: Any) -> Section:
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise document.error(path, f"expected a mapping, found {kind_of(value)}")
        return cls(document, path, value)

    def error(self, key: str, why: str) -> ConfigError:
        return self.document.error((*self.path, key), why)

    def refuse_unknown(
        self, known: frozenset[str], meaningless: frozenset[str] = frozenset()
    ) -> None:
        """Raise for the first key that is not in `known`, naming the nearest one that is.

        Where unknown keys are ignored, note their places, `meaningless` ones excepted.
        """
        ignored = self.document.ignored
        for key in self.values:
            if key not in known:
                if ignored is not None:
                    if key not in meaningless and len(ignored) < MAX_IGNORED:
                        ignored.append(spell((*self.path, key)))
                    continue
                from difflib import get_close_matches

                near = get_close_matches(key, known, n=1)
                folded = [name for name in known if name.lower() == key.lower()]
                hint = f"; did you mean {(folded or near)[0]!r}?" if folded or near else ""
                raise self.error(key, f"unknown key{hint}")

    def section(self, key: str) -> Section:
        return Section.of(self.document, (*self.path, key), self.values.get(key))

    def sections(self, key: str) -> Iterator[Section]:
        """The mappings of a list."""
        values = self._typed(key, list, "a list")
        for index, value in enumerate(values or ()):
            yield Section.of(self.document, (*self.path, key, index), value)

    def string(self, key: str) -> str | None:
        value: str | None = self._typed(key, str, "a string")
        return value

    def boolean(self, key: str) -> bool | None:
        value: bool | None = self._typed(key, bool, "true or false")
        return value

    def integer(self, key: str) -> int | None:
        value: int | None = self._typed(key, int, "a whole number")
        return value

    def strings(self, key: str) -> tuple[str, ...] | None:
        values = self._typed(key, list, "a list of strings")
        if values is None:
            return None
        return tuple(self._of_list(key, index, value, str) for index, value in enumerate(values))

    def integers(self, key: str) -> tuple[int, ...] | None:
        values = self._typed(key, list, "a list of whole numbers")
        if values is None:
            return None
        return tuple(self._of_list(key, index, value, int) for index, value in enumerate(values))

    def duration(self, key: str) -> float | None:
        """Seconds."""
        if self.document.durations_in_seconds:
            seconds: int | None = self._typed(key, int, "a whole number of seconds", "seconds")
            return seconds if seconds is None else float(seconds)
        text = self._typed(key, str, "a duration such as 30s or 1m30s", "duration")
        if text is None:
            return None
        try:
            return parse_duration(text)
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def _typed(self, key: str, kind: type, name: str, form: str = "") -> Any:
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            right = right_form(value, form or kind.__name__)
            hint = f"; write {right}" if right else ""
            raise self.error(key, f"expected {name}, found {kind_of(value)}{hint}")
        return value

    def _of_list(self, key: str, index: int, value: Any, kind: type) -> Any:
        if type(value) is not kind:
            name = "a string" if kind is str else "a whole number"
            right = right_form(value, kind.__name__)
            hint = f"; write {right}" if right else ""
            path = (*self.path, key, index)
            raise self.document.error(path, f"expected {name}, found {kind_of(value)}{hint}")
        return value


# What people write for true and false in other dialects, YAML 1.1 among them.
_SPOKEN = {
    **dict.fromkeys(("yes", "on", "true", "y", "t", "1"), "true"),
    **dict.fromkeys(("no", "off", "false", "n", "f", "0"), "false"),
}


def right_form(value: object, form: str) -> str:
    """How somebody who wrote `value` writes what was probably meant, as `form` ("str", "int",
    "bool", "list", "duration" or "seconds"); "" when that is not clear."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, (list, dict, type(None))):
        return ""
    if form == "str":
        return f'"{text}"'
    if form == "int":
        return f"{text} without quotes" if re.fullmatch(r"-?[0-9]+", text) else ""
    if form == "bool":
        return _SPOKEN.get(text.lower(), "")
    if form == "list":
        return f'["{text}"]'
    if form == "duration":
        return f"{text}s" if type(value) in (int, float) else ""
    if form == "seconds" and isinstance(value, str):
        try:
            seconds = parse_duration(value)
        except ValueError:
            return ""
        return str(int(seconds)) if seconds.is_integer() else ""
    return ""


def kind_of(value: object) -> str:
    """What a value is, in an operator's words."""
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    return {list: "a list", dict: "a mapping", type(None): "nothing"}.get(type(value), "a value")


def parse_json(text: str | bytes, name: str, ignored: list[str] | None = None) -> Document:
    """Parse the JSON form, in which durations are whole seconds. `ignored` as in Document."""
    try:
        value = json.loads(text, object_pairs_hook=_pairs_without_duplicates)
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{name}: not valid JSON: {error}") from None
    return Document(name, value, durations_in_seconds=True, ignored=ignored)


def _pairs_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} is given twice")
            seen.add(key)
    return values


def file_state(path: Path) -> FileState | None:
    """The state of what is at the end of `path`; None when nothing is there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def load_yaml(path: Path) -> tuple[Document, FileState | None]:
    """Read a configuration file, and its state from just before that. Raises ConfigError."""
    state = file_state(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    return parse_yaml(text, str(path)), state


def parse_yaml(text: str | bytes, name: str) -> Document:
    """Parse the first document of a YAML text; an empty one has the value None."""
    if len(text) > MAX_DOCUMENT:
        raise ConfigError(f"{name}: larger than {MAX_DOCUMENT} bytes")
    import yaml  # here, because a connector without a configuration file never needs it

    base: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader_type = type("Yaml12Loader", (base,), {"yaml_implicit_resolvers": _resolvers()})
    try:
        loader = loader_type(text)
        try:
            node = loader.get_node() if loader.check_node() else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if node is None:
        return Document(name, None)
    builder = _Builder(name)
    return Document(name, builder.build(node, (), 0), builder.lines)


# The YAML 1.2 core schema, octal numbers of YAML 1.1 included as yaml.v3 does.
_BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", "<<", "<"),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, firsts in _SCALARS:
        for first in firsts:
            entry = (f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})\Z"))
            table.setdefault(first, []).append(entry)
    return table


class _Builder:
    """Turns composed nodes into values and notes their lines."""

    def __init__(self, name: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._name = name
        self._values = 0

    def error(self, node: Any, why: str) -> ConfigError:
        return ConfigError(f"{self._name}, line {node.start_mark.line + 1}: {why}")

    def build(self, node: Any, path: KeyPath, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self.error(node, f"more than {MAX_VALUES} values, aliases followed")
        if depth > MAX_DEPTH:
            raise self.error(node, f"nested deeper than {MAX_DEPTH} levels")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if node.id == "sequence":
            return [
                self.build(item, (*path, index), depth + 1) for index, item in enumerate(node.value)
            ]
        if node.id == "mapping":
            return self.mapping(node, path, depth)
        return self.scalar(node)

    def mapping(self, node: Any, path: KeyPath, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                sources = value_node.value if value_node.id == "sequence" else [value_node]
                for source in sources:
                    if source.id != "mapping":
                        raise self.error(value_node, "only mappings can be merged with <<")
                    merged = {**self.build(source, path, depth + 1), **merged}
                continue
            if key_node.id != "scalar":
                raise self.error(key_node, "a key must be a plain word")
            key = str(key_node.value)
            if key in values:
                raise self.error(key_node, f"the key {key!r} is given twice")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            values[key] = self.build(value_node, (*path, key), depth + 1)
        return {**merged, **values}

    def scalar(self, node: Any) -> Any:
        tag = node.tag.rpartition(":")[2]
        text = node.value
        if tag == "null":
            return None
        if tag == "bool":
            if text not in _BOOLEANS:
                raise self.error(node, f"{text!r} is not true or false")
            return _BOOLEANS[text]
        try:
            if tag == "int":
                octal = re.fullmatch(r"[-+]?0[0-7]+", text)
                return int(text, 8 if octal else 0 if text[:2] in ("0x", "0o") else 10)
            if tag == "float":
                return float(text)
        except ValueError:
            raise self.error(node, f"{text[:40]!r} is not a number") from None
        return text
