"""The data directory: private, and one edge's alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import DataDirectoryError

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="mode bits are POSIX's")


def test_it_is_made_with_its_parents(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "share" / "underpass" / "edge")
    try:
        assert directory.path.is_dir()
        assert directory.scratch.is_dir()
        for inside in (directory.ca_certificate, directory.ca_key, directory.database):
            assert inside.parent == directory.path
            assert not inside.exists()
    finally:
        directory.close()


@posix_only
def test_nobody_else_can_enter_it_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        directory = DataDirectory.open(tmp_path / "edge")
    finally:
        os.umask(previous)
    directory.close()
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.scratch.stat().st_mode) == 0o700


@posix_only
@pytest.mark.parametrize("mode", [0o750, 0o705, 0o770, 0o701, 0o777])
def test_one_that_others_can_enter_is_refused_and_left_alone(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "edge"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(DataDirectoryError, match=rf"mode {mode:04o}.*chmod 700"):
        DataDirectory.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(path.iterdir()) == []


@posix_only
def test_one_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(DataDirectoryError, match="belongs to user id"):
        DataDirectory.open(tmp_path / "edge")


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edge").write_text("")
    with pytest.raises(DataDirectoryError, match="not a directory"):
        DataDirectory.open(tmp_path / "edge")
    with pytest.raises(DataDirectoryError, match="cannot use"):
        DataDirectory.open(tmp_path / "edge" / "below")


def test_two_edges_cannot_share_it(tmp_path: Path) -> None:
    first = DataDirectory.open(tmp_path / "edge")
    try:
        with pytest.raises(DataDirectoryError, match="in use by another edge") as refused:
            DataDirectory.open(tmp_path / "edge")
        if sys.platform != "win32":
            assert f"process {os.getpid()}" in str(refused.value)
    finally:
        first.close()
    DataDirectory.open(tmp_path / "edge").close()


def test_the_lock_of_a_killed_edge_is_gone(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from underpass.edge.data_directory import DataDirectory\n"
        "held = DataDirectory.open(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "edge")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(DataDirectoryError, match="in use by another edge"):
            DataDirectory.open(tmp_path / "edge")
        other.kill()
        other.wait()
    DataDirectory.open(tmp_path / "edge").close()


def test_what_a_stopped_edge_left_in_scratch_is_removed(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "edge")
    (directory.scratch / "left-over.pem").write_text("a key")
    directory.close()
    directory = DataDirectory.open(tmp_path / "edge")
    directory.close()
    assert list(directory.scratch.iterdir()) == []


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "edge")
    directory.close()
    directory.close()
