"""What most tests play on: an edge, an origin, and a quick tunnel between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .curl import Curl
from .origin import Origin
from .processes import EdgeProcess, QuickTunnelProcess, running


@dataclass(frozen=True)
class Stage:
    """Everything between a visitor and an origin, running."""

    edge: EdgeProcess
    connector: QuickTunnelProcess
    origin: Origin
    curl: Curl

    @property
    def hostname(self) -> str:
        return self.connector.hostname

    @property
    def authority(self) -> str:
        """As a visitor writes it who comes to the plain listener."""
        return f"{self.hostname}:{self.edge.http_port}"


@contextlib.contextmanager
def stage(
    data_dir: Path,
    *,
    environment: dict[str, str] | None = None,
    settings: Sequence[str] = (),
    edge_arguments: Sequence[str] = (),
) -> Iterator[Stage]:
    """Begin it all; end it all, and look over what was logged."""
    with Origin() as origin:
        edge = EdgeProcess(data_dir, environment=environment, more=edge_arguments)
        with contextlib.ExitStack() as stack:
            # The edge last: a connector says goodbye to it.
            stack.enter_context(running(edge))
            connector = QuickTunnelProcess(
                edge, f"--url={origin.url}", environment=environment, settings=settings
            )
            stack.enter_context(running(connector))
            connector.ready()
            yield Stage(edge, connector, origin, Curl(edge, connector.hostname))
