"""Backups: what is in one, and which are refused."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from underpass.edge import backup as module
from underpass.edge.administration import administer, initialize
from underpass.edge.backup import back_up, restore
from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import BackupError, DataDirectoryInUseError, EdgeError
from underpass.edge.management_token import ManagementKey
from underpass.edge.store.sqlite import SqliteStore


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    initialize(path, "main", "example.test")
    directory = DataDirectory.open(path)
    ManagementKey.open(directory.management_key)
    (directory.certificates / "_.example.test.pem").write_text("a certificate")
    directory.close()
    return path


@pytest.fixture
def archive(edge: Path, tmp_path: Path) -> Path:
    path = tmp_path / "edge.tar.gz"
    back_up(edge, path)
    return path


def accounts(data_dir: Path) -> list[str]:
    async def work(administration: Any) -> list[str]:
        return [account.name for account in administration.registry.accounts.values()]

    return administer(data_dir, work)


Members = dict[str, bytes]


def repacked(archive: Path, change: Callable[[Members], object]) -> Path:
    """The archive with other content."""
    with tarfile.open(archive) as before:
        members = {
            member.name: before.extractfile(member).read()  # type: ignore[union-attr]
            for member in before
        }
    change(members)
    after = archive.with_name("changed.tar.gz")
    with tarfile.open(after, "w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return after


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} if path.exists() else set()


def test_what_was_backed_up_is_restored(edge: Path, archive: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    new = tmp_path / "new"
    manifest, kept = restore(archive, new)
    assert kept is None
    for name in ("ca.pem", "ca-key.pem", "management-key.pem", "certificates/_.example.test.pem"):
        assert (new / name).read_bytes() == (edge / name).read_bytes()
        assert name in manifest.files
    assert accounts(new) == ["main"]
    assert stat.S_IMODE((new / "ca-key.pem").stat().st_mode) == 0o600
    assert not [name for name in names(new) if name.startswith("backup-")]


def test_changes_that_are_in_the_journal_only_are_in_the_backup(edge: Path, tmp_path: Path) -> None:
    async def run() -> None:
        store = await SqliteStore.open(edge / "edge.db")  # which keeps the journal
        try:
            with sqlite3.connect(edge / "edge.db") as connection:
                connection.execute("UPDATE account SET name = 'renamed'")
            assert (edge / "edge.db-wal").stat().st_size > 0
            back_up(edge, tmp_path / "backup")
        finally:
            await store.close()

    asyncio.run(run())
    restore(tmp_path / "backup", tmp_path / "new")
    assert accounts(tmp_path / "new") == ["renamed"]


def test_nothing_is_overwritten_unless_asked_for(edge: Path, archive: Path) -> None:
    with pytest.raises(BackupError, match="already"):
        back_up(edge, archive)
    with pytest.raises(BackupError, match="--force"):
        restore(archive, edge)
    with sqlite3.connect(edge / "edge.db") as connection:
        connection.execute("UPDATE account SET name = 'later'")
    connection.close()
    key = (edge / "ca-key.pem").read_bytes()
    _, kept = restore(archive, edge, force=True)
    assert accounts(edge) == ["main"]
    assert kept is not None
    assert (kept / "ca-key.pem").read_bytes() == key
    with sqlite3.connect(kept / "edge.db") as connection:
        assert connection.execute("SELECT name FROM account").fetchall() == [("later",)]
    connection.close()


def test_a_journal_does_not_meet_another_store(edge: Path, archive: Path) -> None:
    (edge / "edge.db-wal").write_bytes(b"changes to what is replaced")
    _, kept = restore(archive, edge, force=True)
    assert kept is not None
    assert "edge.db-wal" in names(kept)
    assert accounts(edge) == ["main"]


def test_a_running_edge_is_not_restored_over(edge: Path, archive: Path) -> None:
    running = DataDirectory.open(edge)
    try:
        with pytest.raises(DataDirectoryInUseError):
            restore(archive, edge, force=True)
    finally:
        running.close()


def test_a_damaged_store_is_not_backed_up(edge: Path, tmp_path: Path) -> None:
    (edge / "edge.db").write_bytes(b"SQLite format 3\0" + b"x" * 8192)
    with pytest.raises(EdgeError):
        back_up(edge, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_there_must_be_an_edge(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="no data directory"):
        back_up(tmp_path / "none", tmp_path / "backup")
    (tmp_path / "empty").mkdir(mode=0o700)
    with pytest.raises(BackupError, match="not set up"):
        back_up(tmp_path / "empty", tmp_path / "backup")


def declaring(name: str, content: bytes = b"x") -> Callable[[Members], None]:
    """Another file, of which the manifest knows."""

    def change(members: Members) -> None:
        manifest = json.loads(members["manifest.json"])
        manifest["files"][name] = module.hashlib.sha256(content).hexdigest()
        members["manifest.json"] = json.dumps(manifest).encode()
        members[name] = content

    return change


def without(name: str) -> Callable[[Members], object]:
    return lambda members: members.pop(name)


def damaged(members: Members) -> None:
    members["ca-key.pem"] = members["ca-key.pem"].replace(b"A", b"B", 1) + b"\n"


def of_the_future(members: Members) -> None:
    manifest = json.loads(members["manifest.json"]) | {"format": 99}
    members["manifest.json"] = json.dumps(manifest).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("manifest.json"), "no backup of an edge"),
        (without("edge.db"), "edge.db is not what was backed up"),
        (damaged, "ca-key.pem is not what was backed up"),
        (of_the_future, "format 99"),
        (lambda members: members.update(more=b"x"), "'more', which it should not have"),
        (declaring("../outside"), "does not have the files of an edge"),
        (declaring("/etc/outside"), "does not have the files of an edge"),
        (declaring("certificates/../../outside.pem"), "does not have the files of an edge"),
        (declaring("edge.lock"), "does not have the files of an edge"),
        (declaring("edge.db", b"no store"), "no edge could start on this backup"),
        (declaring("ca.pem", b"no certificate"), "no edge could start on this backup"),
    ],
)
def test_what_is_no_whole_backup_is_refused_and_changes_nothing(
    archive: Path, tmp_path: Path, change: Callable[[Members], object], message: str
) -> None:
    new = tmp_path / "deep" / "new"
    with pytest.raises(BackupError, match=message):
        restore(repacked(archive, change), new)
    assert names(new) <= {"edge.lock", "scratch", "certificates"}
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08" + b"\0" * 40])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BackupError):
        restore(tmp_path / "file", tmp_path / "new")


def test_an_archive_cut_short_is_refused(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(BackupError):
        restore(tmp_path / "cut", tmp_path / "new")


def test_links_are_refused(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "links", "w:gz") as file:
        link = tarfile.TarInfo("manifest.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    with pytest.raises(BackupError, match="no plain file"):
        restore(tmp_path / "links", tmp_path / "new")


def test_what_it_unpacks_to_is_bounded(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(BackupError, match="which it should not have"):
        restore(archive, tmp_path / "new")
