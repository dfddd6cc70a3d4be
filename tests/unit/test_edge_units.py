"""The systemd units that are shipped: their commands exist, their sockets have known names."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from underpass.cli.edge import edge
from underpass.edge.listening import INHERITED_NAMES

UNITS = Path(__file__).resolve().parents[2] / "docs" / "systemd"
SERVICE = UNITS / "underpass-edge.service"
SOCKETS = sorted(UNITS.glob("*.socket"))


def read(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    return unit


@pytest.mark.parametrize("path", SOCKETS, ids=lambda path: path.stem)
def test_a_socket_belongs_to_the_service_under_a_name_that_it_knows(path: Path) -> None:
    unit = read(path)
    name = unit["Socket"]["FileDescriptorName"]
    assert name in INHERITED_NAMES
    assert path.name == f"underpass-edge-{name}.socket"
    assert unit["Socket"]["Service"] == SERVICE.name
    assert path.name in SERVICE.read_text()


def test_the_service_runs_a_command_that_there_is() -> None:
    program, group, name, *options = shlex.split(read(SERVICE)["Service"]["ExecStart"])
    assert (Path(program).name, group) == ("underpass", "edge")
    command = edge.commands[name]
    known = {flag for option in command.params for flag in option.opts}
    given = [word for word in options if word.startswith("--")]
    assert given
    assert known.issuperset(given)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for path in (SERVICE, *SOCKETS):
        # A program that every machine has: whether ours is installed there is not the question.
        text = path.read_text().replace("/usr/local/bin/underpass", "/bin/true")
        (tmp_path / path.name).write_text(text)
    units = [str(tmp_path / path.name) for path in (SERVICE, *SOCKETS)]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "underpass" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
