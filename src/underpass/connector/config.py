"""The configuration file: where it is looked for, and what it may say (docs: configuration §1, §2).

Wilfully different from cloudflared: unknown keys are errors, and a value that would be ignored
without a word (`grace-period: 0s`) is remarked on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from underpass.connector.homes import HomeEntry, read_homes
from underpass.connector.ingress import Ingress, read_ingress
from underpass.connector.origin_request import read_origin_request
from underpass.connector.settings_table import AUTO, SETTINGS, Setting, Value
from underpass.connector.warp_routing import DEFAULT_ROUTING, WarpRouting, read_warp_routing
from underpass.ops.document import Document, FileState, Section, load_yaml

__all__ = ["Config", "find_config", "load_config", "read_config"]

# Keys that are no flags.
STRUCTURES = frozenset({"tunnel", "ingress", "originRequest", "warp-routing", "homes"})
# Keys of cloudflared's service mode and of features removed from it; nothing here reads them.
LEFT_ALONE = frozenset({"forwarders", "logDirectory", "logLevel", "tunnels", "resolver"})
_FILE_NAMES = ("config.yml", "config.yaml")


class Config(Struct, frozen=True):
    """What a file says. `settings` are keyed by flag name; `remarks` are worth a warning each.

    `state` is the file's just before it was read.
    """

    path: Path | None = None
    tunnel: str = ""
    ingress: Ingress | None = None
    warp_routing: WarpRouting = DEFAULT_ROUTING
    settings: Mapping[str, Value] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    homes: tuple[HomeEntry, ...] = ()
    state: FileState | None = None


def find_config(directories: Sequence[Path]) -> Path | None:
    """The first configuration file that can be opened."""
    for directory in directories:
        for name in _FILE_NAMES:
            path = directory / name
            if path.is_file() and os.access(path, os.R_OK):
                return path
    return None


def load_config(path: Path | None, directories: Sequence[Path]) -> Config:
    """Read `path`, or the first file found in `directories`; without any, an empty Config.

    Raises ConfigError.
    """
    chosen = path.expanduser() if path is not None else find_config(directories)
    if chosen is None:
        return Config()
    document, state = load_yaml(chosen)
    return replace(read_config(document, chosen), state=state)


def read_config(document: Document, path: Path | None = None) -> Config:
    """Read and check a whole document. Raises ConfigError."""
    if document.value is None:
        return Config(path, remarks=(f"{document.name} is empty",))
    root = document.root
    keys = {setting.name: setting for setting in SETTINGS.values() if setting.in_config}
    _refuse_other_names(root)
    root.refuse_unknown(STRUCTURES | LEFT_ALONE | frozenset(keys))
    values: dict[str, Value] = {}
    remarks: list[str] = []
    for name, setting in keys.items():
        value = _read_setting(root, setting)
        if value is None:
            continue
        if _is_ignored(setting, value):
            if value != setting.default:
                problem = root.error(name, "is ignored; give it as a flag or in the environment")
                remarks.append(str(problem))
            continue
        values[name] = value
    if isinstance(host_key := values.get("host-key-path"), str) and path is not None:
        values["host-key-path"] = str(path.parent / host_key)
    defaults = read_origin_request(root.section("originRequest"))
    if defaults.get("access") is not None and root.values.get("ingress") is None:
        raise root.error(
            "originRequest",
            "access protects ingress rules, and there are none; write the origin as a rule",
        )
    return Config(
        path,
        root.string("tunnel") or "",
        read_ingress(document),
        read_warp_routing(root.section("warp-routing")),
        values,
        tuple(remarks),
        read_homes(root),
    )


def _refuse_other_names(root: Section) -> None:
    """Raise for a name that is right in other places: an alias, or what only a flag can say."""
    for setting in SETTINGS.values():
        for alias in setting.aliases:
            if alias in root.values:
                raise root.error(alias, f"is a name of the flag only; write {setting.name!r}")
        if not setting.in_config and setting.name in root.values:
            raise root.error(setting.name, "can be given as a flag or in the environment only")


def _read_setting(root: Section, setting: Setting) -> Value | None:
    if setting.kind == "boolean":
        return root.boolean(setting.name)
    if setting.kind == "integer":
        return root.integer(setting.name)
    if setting.kind == "count":
        return _read_count(root, setting.name)
    if setting.kind == "duration":
        return root.duration(setting.name)
    if setting.kind == "list":
        return root.strings(setting.name)
    return root.string(setting.name)


def _read_count(root: Section, name: str) -> Value | None:
    if not isinstance(root.values.get(name), str):
        return root.integer(name)
    if root.string(name) != AUTO:
        raise root.error(name, f"{root.string(name)!r} is not a whole number or {AUTO}")
    return AUTO


def _is_ignored(setting: Setting, value: Value) -> bool:
    """Nothing, zero and false in a file count as not given."""
    if isinstance(value, (int, float)) and setting.kind != "boolean":
        return value <= 0
    return not value
