"""A store whose process is killed has all that was acknowledged, and nothing by halves."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from peers import store_writer

import underpass
from underpass.edge.store import AuditRecord, Snapshot
from underpass.edge.store.sqlite import SqliteStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")


def kept(path: Path) -> tuple[Snapshot, tuple[AuditRecord, ...]]:
    """What is in the store. Opening it checks every page."""

    async def read() -> tuple[Snapshot, tuple[AuditRecord, ...]]:
        store = await SqliteStore.open(path)
        try:
            return await store.snapshot(), await store.audit(limit=1_000_000)
        finally:
            await store.close()

    return asyncio.run(read())


def killed_after(path: Path, round_: int, lines: int) -> list[str]:
    """What a writer had said was done when it was killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(underpass.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, store_writer.__file__, str(path), str(round_)],
        stdout=subprocess.PIPE,
        env=environment,
    ) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.readlines()
    return [line.decode().strip() for line in said if line.endswith(b"\n")]


@pytest.mark.parametrize(
    "kills", [10, pytest.param(200, marks=pytest.mark.slow)], ids=["a-few", "many"]
)
def test_nothing_acknowledged_is_lost(tmp_path: Path, kills: int) -> None:
    chance = random.Random(kills)
    path = tmp_path / "edge.db"
    acknowledged: set[str] = set()
    for round_ in range(kills):
        said = killed_after(path, round_, chance.randrange(12))
        acknowledged.update(said)
        snapshot, log = kept(path)
        names = {tunnel.name for tunnel in snapshot.tunnels}
        assert acknowledged <= names
        # A change that was under way may have been made; if so, whole.
        assert len(names - acknowledged) <= 1
        expected = {f"{name}.{letter}.test" for name in names for letter in "ab"}
        assert {route.hostname for route in snapshot.routes} == expected
        assert {record.entry.target for record in log} == names
        assert snapshot.revision == len(names)
        acknowledged = names
    assert acknowledged
