"""An edge in one file: its store, authority, keys and certificates, while it runs.

A gzipped tar archive whose first member, `manifest.json`, says what the others are. Whoever has it
can be the edge, so it is for its owner alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Final

import msgspec

from underpass.edge.certificates import CertificateAuthority
from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import BackupError, EdgeError
from underpass.edge.store.sqlite import check_store, copy_store
from underpass.version import VERSION

__all__ = ["MAX_BYTES", "Manifest", "back_up", "restore"]

FORMAT: Final = 1

MAX_BYTES: Final = 8 * 1024**3
"""Of all that an archive unpacks to. A store of 100,000 tunnels has some 60 MB."""

MAX_FILES: Final = 20_000

MAX_MANIFEST: Final = 8 * 1024 * 1024

_MANIFEST: Final = "manifest.json"
_STORE: Final = "edge.db"
_FILES: Final = (
    "ca.pem",
    "ca-key.pem",
    "management-key.pem",
    "acme-account-key.pem",
    "cert.pem",
)
"""What there is beside the store and the certificates; not all of it in every edge."""

_NAME: Final = re.compile(
    "|".join(map(re.escape, (_STORE, *_FILES))) + r"|certificates/[A-Za-z0-9_.-]{1,250}\.pem"
)
_NEEDED: Final = frozenset({_STORE, "ca.pem", "ca-key.pem"})


class Manifest(msgspec.Struct, frozen=True):
    """`files` are names with their SHA-256 in hexadecimal digits."""

    format: int
    version: str
    created_at: datetime
    files: dict[str, str]


def back_up(data_dir: Path, target: Path) -> Manifest:
    """Write what an edge is made of to a new file (0600). An edge may be running.

    Raises:
        BackupError: the file exists or cannot be written.
        EdgeError: there is no edge, or its store is damaged.
    """
    directory = DataDirectory.of_any_edge(data_dir)
    if not (directory.database.exists() and directory.ca_certificate.exists()):
        raise BackupError(f"{directory.path} is not set up: there is nothing to back up")
    with _telling(f"cannot back up {directory.path} to {target}"), _staging(directory.path) as work:
        copy_store(directory.database, work / _STORE)
        check_store(work / _STORE)
        files = {_STORE: work / _STORE}
        for name in (*_FILES, *_certificates(directory)):
            path = directory.path / name
            if path.is_file():
                # A copy: it must not change between the digest and the archive.
                (work / name).parent.mkdir(mode=0o700, exist_ok=True)
                shutil.copyfile(path, work / name)
                files[name] = work / name
        manifest = Manifest(
            FORMAT,
            VERSION,
            datetime.now(timezone.utc).replace(microsecond=0),
            {name: _digest(path) for name, path in files.items()},
        )
        _write(target, manifest, files)
    return manifest


def restore(source: Path, data_dir: Path, *, force: bool = False) -> tuple[Manifest, Path | None]:
    """Make a data directory of a backup; what it was, and where what it replaced is kept.

    Nothing is changed before all of the archive has been checked.

    Raises:
        BackupError: it is no backup, or a damaged one; there is an edge already and no `force`.
        EdgeError: the directory cannot be used, or an edge is running on it.
    """
    directory = DataDirectory.open(data_dir)  # locked: no edge runs meanwhile
    with contextlib.closing(directory):
        there = [name for name in (_STORE, *_FILES) if (directory.path / name).exists()]
        if there and not force:
            raise BackupError(
                f"{directory.path} has an edge's {', '.join(there)} already: name another "
                "--data-dir, or say --force to have it replaced (it is kept beside)"
            )
        with _telling(f"cannot restore {source} to {directory.path}"):
            with _staging(directory.path) as work:
                manifest = _read(source, work)
                _check(work)
                kept = _set_aside(directory) if there else None
                # The store last: without one, or with all of it, an edge is as it should be.
                for name in sorted(manifest.files, key=_STORE.__eq__):
                    os.chmod(work / name, 0o644 if name == "ca.pem" else 0o600)
                    (directory.path / name).parent.mkdir(mode=0o700, exist_ok=True)
                    (work / name).replace(directory.path / name)
            return manifest, kept


def _certificates(directory: DataDirectory) -> Iterator[str]:
    for path in sorted(directory.certificates.glob("*.pem")):
        name = f"certificates/{path.name}"
        if _NAME.fullmatch(name):
            yield name


@contextlib.contextmanager
def _staging(data_dir: Path) -> Iterator[Path]:
    """A directory for this user alone on the same file system; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="backup-", dir=data_dir) as work:
        yield Path(work)


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupError(f"{what}: {error.strerror or error}") from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _write(target: Path, manifest: Manifest, files: dict[str, Path]) -> None:
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BackupError(f"{target} exists already: move it away, or name another") from None
    try:
        with open(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                _add(archive, _MANIFEST, io.BytesIO(msgspec.json.encode(manifest)))
                for name, path in files.items():
                    with path.open("rb") as content:
                        _add(archive, name, content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.mode = 0o600
    member.size = content.seek(0, os.SEEK_END)
    content.seek(0)
    archive.addfile(member, content)


def _read(source: Path, work: Path) -> Manifest:
    """Unpack into an empty directory what the manifest names, and compare the digests."""
    left = MAX_BYTES
    manifest: Manifest | None = None
    found: dict[str, str] = {}
    try:
        with tarfile.open(source, mode="r|gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    raise BackupError(f"{source}: {member.name!r} is no plain file")
                if manifest is None:
                    manifest = _manifest(source, member, content)
                    continue
                left -= member.size
                if member.name not in manifest.files or member.name in found or left < 0:
                    raise BackupError(f"{source} has {member.name!r}, which it should not have")
                (work / member.name).parent.mkdir(mode=0o700, exist_ok=True)
                with (work / member.name).open("xb") as file:
                    shutil.copyfileobj(content, file)
                found[member.name] = _digest(work / member.name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BackupError(f"{source} is no backup, or a damaged one: {error}") from error
    if manifest is None:
        raise BackupError(f"{source} is empty")
    wrong = sorted(name for name in manifest.files if found.get(name) != manifest.files[name])
    if wrong:
        raise BackupError(f"{source} is damaged: {', '.join(wrong)} is not what was backed up")
    return manifest


def _manifest(source: Path, member: tarfile.TarInfo, content: IO[bytes]) -> Manifest:
    if member.name != _MANIFEST or member.size > MAX_MANIFEST:
        raise BackupError(f"{source} is no backup of an edge")
    try:
        manifest = msgspec.json.decode(content.read(), type=Manifest)
    except msgspec.DecodeError as error:
        raise BackupError(f"{source} is no backup of an edge: {error}") from error
    if manifest.format != FORMAT:
        raise BackupError(
            f"{source} has format {manifest.format}, this version of Underpass knows {FORMAT}: "
            f"restore it with version {manifest.version}"
        )
    names = manifest.files.keys()
    if not names >= _NEEDED or len(names) > MAX_FILES or not all(map(_NAME.fullmatch, names)):
        raise BackupError(f"{source} does not have the files of an edge")
    return manifest


def _check(work: Path) -> None:
    """That an edge could start on it."""
    try:
        check_store(work / _STORE)
        CertificateAuthority.open(DataDirectory.of_running_edge(work))
    except EdgeError as error:
        raise BackupError(f"no edge could start on this backup: {error}") from error


def _set_aside(directory: DataDirectory) -> Path:
    """Move what makes an edge out of the way."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    kept = Path(tempfile.mkdtemp(prefix=f"replaced-{stamp}-", dir=directory.path))
    # The log of changes that are not in the store's file yet must not meet another store.
    journals = (f"{_STORE}-wal", f"{_STORE}-shm")
    for name in (_STORE, *journals, *_FILES, directory.certificates.name):
        path = directory.path / name
        if path.exists():
            path.replace(kept / name)
    return kept
