"""The API is as its own OpenAPI document says: schemathesis tries to show that it is not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.control import BY, controlled_edge

from underpass.edge.api.authorization import Guesses
from underpass.edge.api.server import ApiServer
from underpass.edge.api.token_bucket import TokenBucket
from underpass.edge.listening import bound_address, listen
from underpass.edge.options import Address

SECONDS = 25
"""For one run; it repeats itself until then."""


@dataclass
class Served:
    """An API whose limits on guesses and quick tunnels are out of reach."""

    url: str
    token: str
    parts: dict[str, str]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    ready, done = threading.Event(), asyncio.Event()
    found: list[Served] = []

    async def serve() -> None:
        async with controlled_edge(tmp_path, Guesses(lambda: TokenBucket(10**9, 1e9))) as edge:
            edge.control.quick_tunnel_rate = TokenBucket(10**9, 1e9)
            tenant = await edge.tenant("mine")
            parts = {
                "account_id": tenant.account.id,
                "zone_id": tenant.account.zone_id,
            }
            await edge.registry.create_quick_tunnel("localhost", BY)
            listener = listen(Address("127.0.0.1", 0))
            url = f"http://127.0.0.1:{bound_address(listener).port}"
            server = ApiServer(edge.application, listener)
            await server.start()
            found.append(Served(url, tenant.token, parts))
            ready.set()
            await done.wait()
            await server.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(20)
        loop.close()


def test_schemathesis_finds_nothing(served: Served, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        pytest.skip("schemathesis is not installed: pip install --group test")
    settings = tmp_path / "schemathesis.toml"
    lines = [f'"path.{name}" = "{value}"' for name, value in served.parts.items()]
    settings.write_text("\n".join(["[parameters]", *lines, ""]))
    done = subprocess.run(
        [
            *(str(program), f"--config-file={settings}", "run", f"{served.url}/openapi.json"),
            *("-H", f"Authorization: Bearer {served.token}"),
            *("--max-examples=30", f"--max-time={SECONDS}", "--no-color", "--seed=1"),
            # Hostnames, networks and secrets have rules that a schema cannot say.
            "--exclude-checks=positive_data_acceptance",
            *("--suppress-health-check=all", "--warnings=off", "--generation-database=none"),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS * 5,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Tested: " in done.stdout
