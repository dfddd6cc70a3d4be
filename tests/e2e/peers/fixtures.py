"""Fixtures of the process-level tests; each directory's conftest takes them from here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .curl import Curl
from .origin import Origin
from .processes import EdgeProcess, Process
from .stage import Stage, stage


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An edge, an origin and a quick tunnel, shared: leave them as you found them."""
    with stage(tmp_path_factory.mktemp("scene") / "data") as shared:
        yield shared


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """A test that fails takes the processes it started with it."""
    before = set(Process.alive)
    yield
    for process in Process.alive - before:
        process.kill()


@pytest.fixture
def edge(scene: Stage) -> EdgeProcess:
    return scene.edge


@pytest.fixture
def origin(scene: Stage) -> Origin:
    return scene.origin


@pytest.fixture
def curl(scene: Stage) -> Curl:
    return scene.curl


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An edge's data directory, fresh."""
    return tmp_path / "data"
