"""A connector starts light: what it does not need is not imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "starlette",
    "uvicorn",
    "jinja2",
    "prometheus_client",
    "rich",
    "dns",
    "yaml",
    "sqlite3",
    "underpass.edge",
}


@pytest.mark.parametrize(
    "modules",
    [
        "underpass.cli.main, underpass.cli.tunnel",
        "underpass.connector.runner",
        "underpass.connector.ingress, underpass.connector.config, underpass.connector.quick",
    ],
)
def test_heavy_packages_are_not_imported_at_start(modules: str) -> None:
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert HEAVY.isdisjoint(done.stdout.split())


def test_version_imports_no_connector() -> None:
    program = (
        "import sys, underpass.cli.main as m; "
        "print(*[n for n in sys.modules if n.startswith('underpass.connector.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    allowed = {"underpass.connector.settings_table", "underpass.connector.durations"}
    assert set(done.stdout.split()) == allowed


@pytest.mark.parametrize(
    "modules",
    [
        "underpass.cli.tunnel, underpass.connector.runner, underpass.connector.link",
        "underpass.cli.edge, underpass.edge.runner",
    ],
)
def test_one_process_knows_nothing_of_workers(modules: str) -> None:
    program = f"import sys, {modules}; print(*[n for n in sys.modules if 'worker' in n])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert [name for name in done.stdout.split() if name.startswith("underpass")] == []


def test_a_command_that_only_asks_needs_no_event_loop() -> None:
    program = "import sys, underpass.cli.tunnel; print('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False"]
