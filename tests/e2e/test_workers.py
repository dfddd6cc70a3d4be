"""A connector whose links are in worker processes: one tunnel to visitors and operators alike."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="workers are found through /proc"
)

HOSTNAME = "app.example.test"
TOTAL = "cloudflared_tunnel_total_requests"
ACTIVE = "cloudflared_tunnel_concurrent_requests_per_tunnel"


@dataclass
class Named:
    edge: EdgeProcess
    token: str
    origin: Origin

    def connector(self, *settings: str, links: int = 4, workers: int = 2) -> ConnectorProcess:
        return ConnectorProcess(
            [
                *(self.edge.edge_arguments[0],) * links,
                f"--cacert={self.edge.ca}",
                f"--ha-connections={links}",
                f"--workers={workers}",
                *settings,
                "run",
                f"--url={self.origin.url}",
            ],
            environment={"TUNNEL_TOKEN": self.token},
        )

    @property
    def curl(self) -> Curl:
        return Curl(self.edge, HOSTNAME)

    @contextlib.contextmanager
    def slow_visits(self, key: str, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
        """So many requests that wait for the origin's gate `key`; each is on the link that is
        least loaded, so as many as links are on all of them."""
        seen = len(self.origin.requests("/slow"))
        with contextlib.ExitStack() as stack:
            visits = [
                stack.enter_context(
                    self.curl.begun(f"/slow?key={key}&{number}", "-w", "%{http_code}")
                )
                for number in range(count)
            ]
            self.origin.wait_for_request("/slow", seen + count)
            yield visits


@pytest.fixture
def named(data_dir: Path) -> Iterator[Named]:
    """An edge, and an origin for its tunnel."""
    token = new_tunnel(data_dir, HOSTNAME).to_token()
    with Origin() as origin:
        yield Named(EdgeProcess(data_dir), token, origin)


def answer_of(visit: subprocess.Popen[bytes]) -> bytes:
    out, error = visit.communicate(timeout=PATIENCE)
    assert visit.returncode == 0, error
    return out


def workers_of(connector: ConnectorProcess) -> list[int]:
    """The ids of its child processes."""
    children = Path(f"/proc/{connector.pid}/task/{connector.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_two_workers_share_four_links(named: Named) -> None:
    connector = named.connector()
    with running(connector, named.edge):
        connector.ready(4)
        workers = workers_of(connector)
        assert len(workers) == 2
        status, body = connector.readiness
        assert (status, body["readyConnections"]) == (200, 4)
        for index in range(4):
            connector.wait_for("Registered tunnel connection", connIndex=index)
        with named.slow_visits("four", 4) as visits:
            # One on each link, hence two in each worker, and the sum is what is told.
            assert connector.metric(ACTIVE) == 4
            assert [established(pid, named.edge) for pid in workers] == [2, 2]
            assert established(connector.pid, named.edge) == 0
            named.origin.open_gate("four")
            assert [answer_of(visit) for visit in visits] == [b"at last\n200"] * 4
        named.curl("/raw/nothing")
        # What a worker logs is in the one log, and says whose it is.
        line = connector.wait_for("Unable to reach the origin service")
        assert line["worker"] in (0, 1)
        assert connector.metric("cloudflared_tunnel_request_errors") == 1
        assert connector.metric("cloudflared_config_local_config_pushes") == 1
    assert not any(map(is_running, workers))


def established(pid: int, edge: EdgeProcess) -> int:
    """TCP connections of a process to the edge's tunnel listener."""
    port = int(edge.tunnels[0].rpartition(":")[2])
    sockets = {
        fields[9]
        for fields in map(str.split, Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
        if int(fields[2].rpartition(":")[2], 16) == port and fields[3] == "01"
    }
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(entry) in {f"socket:[{inode}]" for inode in sockets}
    return found


def test_no_more_workers_than_links(named: Named) -> None:
    connector = named.connector(links=2, workers=8)
    with running(connector, named.edge):
        connector.ready(2)
        assert len(workers_of(connector)) == 2
        line = connector.wait_for("There are fewer connections than workers asked for")
        assert (line["workers"], line["asked"]) == (2, 8)


def test_one_worker_is_no_other_process(named: Named) -> None:
    connector = named.connector(links=1, workers=1)
    with running(connector, named.edge):
        connector.ready()
        assert workers_of(connector) == []
        assert named.curl("/hello").status == 200


def test_a_worker_that_is_killed_is_replaced(named: Named) -> None:
    connector = named.connector()
    with running(connector, named.edge):
        connector.ready(4)
        assert [a.status for a in named.curl.several(["/hello"] * 8)] == [200] * 8
        counted = connector.metric(TOTAL)
        assert counted == 8
        victim, other = workers_of(connector)
        with named.slow_visits("killed", 4) as visits:
            os.kill(victim, signal.SIGKILL)
            line = connector.wait_for("A worker process has ended, and is replaced")
            assert (line["pid"], line["error"]) == (victim, "signal SIGKILL")
            lost = connector.wait_for("Lost connection with the edge", count=2)
            assert f"worker process {line['worker']} has ended: signal SIGKILL" in lost["error"]
            # Nothing of their answers had come: the edge asks over the links of the other worker.
            named.origin.wait_for_request("/slow", 4 + 2)
            assert named.curl("/hello").status == 200
            assert connector.metric(TOTAL) >= counted
            named.origin.open_gate("killed")
            assert [answer_of(visit) for visit in visits] == [b"at last\n200"] * 4
        connector.ready(6)
        assert connector.readiness[1]["readyConnections"] == 4
        assert other in workers_of(connector)
        assert len(workers_of(connector)) == 2
        before = connector.metric(TOTAL)
        with named.slow_visits("after", 4) as visits:
            named.origin.open_gate("after")
            assert [answer_of(visit) for visit in visits] == [b"at last\n200"] * 4
        assert connector.metric(TOTAL) == before + 4


def test_stopping_finishes_what_is_under_way_in_every_worker(named: Named) -> None:
    with running(named.edge):
        connector = named.connector()
        connector.ready(4)
        workers = workers_of(connector)
        with named.slow_visits("stop", 4) as visits:
            # As a service manager does it: to every process.
            for pid in (*workers, connector.pid):
                os.kill(pid, signal.SIGTERM)
            for count in range(1, 5):
                connector.wait_for("Unregistered tunnel connection", count=count)
            assert named.curl("/hello").status == 503
            named.origin.open_gate("stop")
            assert [answer_of(visit) for visit in visits] == [b"at last\n200"] * 4
        connector.check()
        assert not any(map(is_running, workers))
        assert not connector.has_logged("A worker process has ended")


def test_a_signal_while_workers_start_ends_them(named: Named) -> None:
    with running(named.edge):
        connector = named.connector()
        (first, *_) = eventually(lambda: workers_of(connector), "a worker is there")
        connector.stop()
        assert not is_running(first)
        assert not connector.has_logged("A worker process has ended")


def test_a_second_signal_cuts_it_short(named: Named) -> None:
    with running(named.edge):
        connector = named.connector(links=2)
        connector.ready(2)
        workers = workers_of(connector)
        with named.curl.begun("/hang", "-w", "%{http_code}") as visit:
            named.origin.wait_for_request("/hang")
            connector.signal(signal.SIGTERM)
            connector.wait_for("Unregistered tunnel connection", count=2)
            connector.signal(signal.SIGTERM)
            connector.check(expected=128 + signal.SIGTERM)
            assert answer_of(visit).endswith(b"503")
        assert not any(map(is_running, workers))


def test_a_worker_that_hangs_keeps_nobody_from_ending(named: Named) -> None:
    with running(named.edge):
        connector = named.connector("--grace-period=1s", links=2)
        connector.ready(2)
        workers = workers_of(connector)
        os.kill(workers[0], signal.SIGSTOP)
        connector.stop()
        assert connector.has_logged("A worker process is ended as it is")
        assert not any(map(is_running, workers))


def test_no_worker_outlives_its_supervisor(named: Named) -> None:
    with running(named.edge):
        connector = named.connector(links=2)
        connector.ready(2)
        workers = workers_of(connector)
        assert len(workers) == 2
        connector.kill()
        eventually(lambda: not any(map(is_running, workers)), "the workers are gone")
        eventually(lambda: named.curl("/hello").status == 503, "the edge has no link")


def test_credentials_are_in_no_command_line(named: Named) -> None:
    connector = named.connector(links=2)
    with running(connector, named.edge):
        connector.ready(2)
        for pid in workers_of(connector):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"underpass.connector.worker" in words
            assert named.token.encode() not in words


def test_rules_that_cannot_be_served_are_told_before_the_start(named: Named) -> None:
    with running(named.edge):
        connector = ConnectorProcess(
            [
                *(named.edge.edge_arguments[0],) * 2,
                f"--cacert={named.edge.ca}",
                "--workers=2",
                *("--url=https://127.0.0.1:1", "--origin-ca-pool=/nonexistent.pem"),
                "run",
            ],
            environment={"TUNNEL_TOKEN": named.token},
        )
        assert "/nonexistent.pem" in connector.wait_for("Cannot start")["error"]
        connector.check(expected=1)
