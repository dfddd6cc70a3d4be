"""What a person sees: an edge's pages in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.chromium import Chromium, Tab, chromium
from peers.fixtures import no_process_is_left
from peers.origin import Origin
from peers.owner import set_up
from peers.place import Place
from peers.processes import EdgeProcess, running

__all__ = ["no_process_is_left"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One for all."""
    with chromium(tmp_path_factory.mktemp("profile"), "--ignore-certificate-errors") as started:
        yield started


@pytest.fixture
def tab(browser: Chromium) -> Iterator[Tab]:
    opened = browser.tab()
    yield opened
    opened.close()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """The dashboard at the API's listener, and at https://localhost:PORT."""
    configuration = tmp_path / "edge.yml"
    configuration.write_text("dashboard:\n  hostname: localhost\ndomain: tunnels.localhost\n")
    set_up(tmp_path / "data", tmp_path / "cert.pem", "--domain=example.test")
    workers = getattr(request, "param", 1)
    edge = EdgeProcess(
        tmp_path / "data", more=[f"--workers={workers}", f"--config={configuration}"]
    )
    with running(edge):
        yield Place(edge, tmp_path / "cert.pem")


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as started:
        yield started
