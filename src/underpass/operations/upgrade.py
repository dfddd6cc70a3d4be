"""How this program is brought up to date, which depends on how it was installed.

It does not replace itself: whoever installed it knows how, keeps account of it, and may have
reasons for the version that is there. It does not ask anybody whether there is a newer one either.
"""

from __future__ import annotations

import json
import shlex
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePath

from msgspec import Struct

__all__ = ["Installation", "find_installation"]

_PACKAGE = "underpass"


class Installation(Struct, frozen=True):
    """`how` it was installed, in words; `upgrade` is the command, "" if there is no single one."""

    how: str
    upgrade: str


def find_installation(version: str = "") -> Installation:
    """How this program came here; `version` is the one that is wanted, "" for the newest."""
    try:
        found: Distribution | None = distribution(_PACKAGE)
    except PackageNotFoundError:
        found = None
    return describe(found, PurePath(sys.prefix), sys.executable, version)


def describe(
    found: Distribution | None, prefix: PurePath, executable: str, version: str
) -> Installation:
    """The same for what is given."""
    wanted = f"{_PACKAGE}=={version}" if version else _PACKAGE
    if found is None:
        return Installation("run from a directory, not installed", "")
    source = _source_directory(found)
    if source:
        return Installation(f"installed from the source in {source}, as it stands there", "")
    place = PurePath(str(found.locate_file("")))
    if "dist-packages" in place.parts and place.parts[1:3] == ("usr", "lib"):
        return Installation("a package of the operating system", "")
    parts = [part.lower() for part in prefix.parts]
    if "pipx" in parts:
        if version:
            return Installation("pipx", f"pipx install --force {wanted}")
        return Installation("pipx", f"pipx upgrade {_PACKAGE}")
    if "uv" in parts and "tools" in parts:
        if version:
            return Installation("uv tool", f"uv tool install {wanted}")
        return Installation("uv tool", f"uv tool upgrade {_PACKAGE}")
    installer = (found.read_text("INSTALLER") or "pip").strip()
    if installer == "uv":
        python = shlex.quote(executable)
        return Installation("uv", f"uv pip install --python {python} --upgrade {wanted}")
    if installer == "conda":
        return Installation("conda", f"conda install {wanted.replace('==', '=')}")
    return Installation("pip", f"{shlex.quote(executable)} -m pip install --upgrade {wanted}")


def _source_directory(found: Distribution) -> str:
    """Where an editable installation's files are."""
    text = found.read_text("direct_url.json")
    if not text:
        return ""
    document = json.loads(text)
    if not document.get("dir_info", {}).get("editable"):
        return ""
    return str(Path(str(document.get("url", "")).removeprefix("file://")))
