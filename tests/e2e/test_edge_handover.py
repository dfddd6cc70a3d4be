"""An edge is replaced by a new process: nobody who is being served notices."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from peers.cloudflared import Cloudflared, binary  # noqa: F401 - a fixture
from peers.load import (
    Http2,
    KeptConnection,
    NewConnections,
    Uploads,
    Visitor,
    visiting,
)
from peers.origin import Origin
from peers.processes import ConnectorProcess, EdgeProcess, ReplacedEdge, new_tunnel, running

from underpass.wire.credentials import Credentials

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="processes are followed through /proc"
)

FOUR_LINKS = "four.example.test"
ONE_LINK = "one.example.test"
HANDOVERS = int(os.environ.get("N", "20"))


def connector(
    edge: EdgeProcess, credentials: Credentials, origin: Origin, links: int
) -> ConnectorProcess:
    return ConnectorProcess(
        # An address for each link: a connector has no more of them than of those.
        [*edge.edge_arguments * links, f"--ha-connections={links}", "run", f"--url={origin.url}"],
        environment={"TUNNEL_TOKEN": credentials.to_token()},
    )


def everybody(edge: EdgeProcess, host: str) -> list[Visitor]:
    return [
        NewConnections(edge, host),
        NewConnections(edge, host, tls=True),
        KeptConnection(edge, host),
        KeptConnection(edge, host, tls=True),
        Uploads(edge, host),
        Http2(edge, host),
    ]


@pytest.mark.parametrize(
    ("workers", "handovers"), [(1, HANDOVERS), (2, 4)], ids=["one process", "workers"]
)
def test_nobody_notices(data_dir: Path, workers: int, handovers: int) -> None:
    tunnels = {host: new_tunnel(data_dir, host) for host in (FOUR_LINKS, ONE_LINK)}
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin())
        edge = ReplacedEdge(data_dir, more=[f"--workers={workers}", "--metrics=127.0.0.1:0"])
        stack.enter_context(running(edge))
        # An address each: a connector has as many links as it knows addresses.
        for host, links in ((FOUR_LINKS, 4), (ONE_LINK, 1)):
            each = connector(edge, tunnels[host], origin, links)
            stack.enter_context(running(each))
            each.ready(links)
        visitors = [each for host in tunnels for each in everybody(edge, host)]
        with visiting(visitors):
            import time

            for _ in range(handovers):
                t0 = time.time()
                edge.replace()
                t1 = time.time()
                edge.links_have_moved()
                t2 = time.time()
                for visitor in visitors:
                    visitor.answers_more()
                print(
                    f"DBG {t1 - t0:.2f} {t2 - t1:.2f} {time.time() - t2:.2f}",
                    sum(v.answered for v in visitors),
                    sum(len(v.failures) for v in visitors),
                    flush=True,
                )
            print(edge.log)
