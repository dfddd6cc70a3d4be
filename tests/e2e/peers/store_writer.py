"""A process that changes a store as fast as it can, and says what was acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from underpass.edge.store import AuditEntry, Route, Tunnel
from underpass.edge.store.sqlite import SqliteStore


async def write(path: Path, round_: str) -> None:
    """Tunnels with two routes each, named `round-number`, until killed."""
    store = await SqliteStore.open(path)
    for number in itertools.count():
        name = f"{round_}-{number}"
        now = datetime.now(timezone.utc)
        tunnel = Tunnel(uuid4(), "account", name, bytes(32), now)
        routes = [Route(f"{name}.{letter}.test", tunnel.id, now) for letter in "ab"]
        entry = AuditEntry("writer", "", "tunnel.create", name)
        await store.commit((tunnel, *routes), entry)
        os.write(1, f"{name}\n".encode())


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), sys.argv[2]))
