"""How the program says it is brought up to date, and commands that are gone."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path, PurePosixPath

import pytest
from click.testing import CliRunner

from underpass.cli.main import underpass
from underpass.operations.upgrade import describe, find_installation
from underpass.version import VERSION


def installed(place: Path, installer: str = "pip", source: str = "") -> Distribution:
    info = place / "underpass-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: underpass\nVersion: 1\n")
    (info / "INSTALLER").write_text(f"{installer}\n")
    if source:
        text = json.dumps({"dir_info": {"editable": True}, "url": f"file://{source}"})
        (info / "direct_url.json").write_text(text)
    return PathDistribution(info)


PYTHON = "/opt/my venv/bin/python"


@pytest.mark.parametrize(
    ("prefix", "installer", "version", "upgrade"),
    [
        ("/opt/venv", "pip", "", f"'{PYTHON}' -m pip install --upgrade underpass"),
        ("/opt/venv", "pip", "1.2", f"'{PYTHON}' -m pip install --upgrade underpass==1.2"),
        ("/home/me/.local/share/pipx/venvs/underpass", "pip", "", "pipx upgrade underpass"),
        ("/home/me/.local/pipx/venvs/x", "pip", "1.2", "pipx install --force underpass==1.2"),
        ("/home/me/.local/share/uv/tools/underpass", "uv", "", "uv tool upgrade underpass"),
        ("/home/me/.local/share/uv/tools/underpass", "uv", "1", "uv tool install underpass==1"),
        ("/opt/venv", "uv", "", f"uv pip install --python '{PYTHON}' --upgrade underpass"),
        ("/opt/conda", "conda", "1", "conda install underpass=1"),
    ],
)
def test_the_command_depends_on_who_installed_it(
    tmp_path: Path, prefix: str, installer: str, version: str, upgrade: str
) -> None:
    found = installed(tmp_path, installer)
    assert describe(found, PurePosixPath(prefix), PYTHON, version).upgrade == upgrade


def test_some_know_better_themselves(tmp_path: Path) -> None:
    prefix = PurePosixPath("/usr")
    assert describe(None, prefix, PYTHON, "").how == "run from a directory, not installed"
    found = installed(tmp_path / "a", source="/src/underpass")
    assert describe(found, prefix, PYTHON, "").how == (
        "installed from the source in /src/underpass, as it stands there"
    )

    class OfDebian(PathDistribution):
        def locate_file(self, path: object) -> Path:
            return Path("/usr/lib/python3/dist-packages")

    found = OfDebian(installed(tmp_path / "b")._path)  # type: ignore[attr-defined]
    installation = describe(found, prefix, PYTHON, "")
    assert (installation.how, installation.upgrade) == ("a package of the operating system", "")


@pytest.mark.parametrize("flags", [[], ["--beta"], ["--version=9"], ["--force", "--staging"]])
def test_the_command_says_so(flags: list[str]) -> None:
    result = CliRunner().invoke(underpass, ["update", *flags])
    assert result.exit_code == 0
    assert result.output.startswith(f"This is version {VERSION}: {find_installation().how}.")


@pytest.mark.parametrize(
    ("command", "code"), [("proxy-dns", 1), ("tunnel proxy-dns", 1), ("db-connect", 255)]
)
def test_commands_that_are_gone_say_so_whatever_they_are_given(command: str, code: int) -> None:
    for more in ([], ["--port", "53"], ["anything", "-x"], ["--help"]):
        result = CliRunner().invoke(underpass, [*command.split(), *more])
        assert (result.exit_code, "is gone" in result.output) == (code, True)
