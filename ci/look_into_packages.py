"""Checks what sdist and wheel contain: `look_into_packages.py FILE...`."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "ext" / "underpass" / "core"


def wheel_faults(names: set[str]) -> list[str]:
    """What a wheel lacks or should not have."""
    modules = sorted(path.stem for path in CORE.glob("*.pyx"))
    faults = [
        f"no compiled {module}"
        for module in modules
        if not any(re.fullmatch(rf"underpass/core/{module}\..*(so|pyd)", name) for name in names)
    ]
    wanted = {"underpass/py.typed", "underpass/version.py"}
    kinds = ("pyi", "sql", "pem", "py", "html", "css", "js", "svg", "txt")
    for pattern in (f"underpass/**/*.{kind}" for kind in kinds):
        wanted |= {
            path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").glob(pattern)
        }
    faults += [f"no {name}" for name in sorted(wanted - names)]
    faults += [
        f"{name} has no place in a wheel"
        for name in sorted(names)
        if re.search(r"\.(pyx|pxd|c|pyc)$|^(tests|bench|ci|ext)/", name)
    ]
    return faults


def sdist_faults(names: set[str]) -> list[str]:
    """What an sdist lacks or should not have."""
    wanted = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "ci/bootstrap", "ci/test"}
    for directory in ("ext", "src", "docs", "tests"):
        for path in (ROOT / directory).rglob("*.*"):
            relative = path.relative_to(ROOT).as_posix()
            if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ".sql", ".pem", ".md", ".json"}:
                wanted.add(relative)
    faults = [f"no {name}" for name in sorted(wanted - names)]
    faults += [
        f"{name} has no place in an sdist"
        for name in sorted(names)
        if re.search(r"\.(so|pyd|c|pyc)$", name)
    ]
    return faults


def main() -> int:
    status = 0
    for path in map(Path, sys.argv[1:]):
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                faults = wheel_faults(set(archive.namelist()))
        else:
            with tarfile.open(path) as archive:
                faults = sdist_faults({name.partition("/")[2] for name in archive.getnames()})
        print(f"{path.name}: {'as it should be' if not faults else ''}")
        for fault in faults:
            status = 1
            print(f"  {fault}")
    return status


if __name__ == "__main__":
    sys.exit(main())
