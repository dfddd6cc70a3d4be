"""An edge is replaced by a new process: nobody who is being served notices."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers.cloudflared import Cloudflared, binary  # noqa: F401 - a fixture
from peers.content import blocks, digest
from peers.load import (
    Conversation,
    Download,
    Http2,
    KeptConnection,
    NewConnections,
    Uploads,
    Visitor,
    visiting,
)
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import (
    UNDERPASS,
    ConnectorProcess,
    EdgeProcess,
    ReplacedEdge,
    is_running,
    new_tunnel,
    running,
)
from peers.public_port import route
from peers.servers import free_port
from peers.stream_echo import stream_echo

from underpass.wire.credentials import Credentials

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="processes are followed through /proc"
)

FOUR_LINKS = "four.example.test"
ONE_LINK = "one.example.test"
STOCK = "stock.example.test"
LARGE = 24 * 1048576
"""More than kernels and windows on the way take by themselves."""


def connector(
    edge: EdgeProcess, credentials: Credentials, origin: Origin, links: int = 1
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


@contextlib.contextmanager
def stage(data_dir: Path, **options: Any) -> Iterator[tuple[ReplacedEdge, Origin]]:
    """An edge, and a connector with the only link of its tunnel."""
    credentials = new_tunnel(data_dir, ONE_LINK)
    with Origin() as origin:
        edge = ReplacedEdge(data_dir, **options)
        with running(edge):
            one = connector(edge, credentials, origin)
            with running(one):
                one.ready()
                is_known(edge, ONE_LINK)
                yield edge, origin


def asked(edge: EdgeProcess, host: str = ONE_LINK) -> int:
    """The status of a request on a connection of its own."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", edge.http_port, timeout=PATIENCE)
    ) as visitor:
        visitor.request("GET", "/hello", headers={"Host": host})
        return visitor.getresponse().status


def is_known(edge: EdgeProcess, host: str) -> None:
    """All workers have heard of the link."""
    eventually(lambda: all(asked(edge, host) == 200 for _ in range(8)), f"{host} is served")


def upgrade(edge: EdgeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`underpass edge upgrade`."""
    return subprocess.run(
        [*UNDERPASS, "edge", "upgrade", f"--data-dir={edge.data_dir}", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


class TestUnderLoad:
    @pytest.mark.parametrize(
        ("workers", "handovers"),
        [(1, 6), (2, 3), pytest.param(1, 20, marks=pytest.mark.slow)],
    )
    def test_nobody_notices(self, data_dir: Path, workers: int, handovers: int) -> None:
        tunnels = {host: new_tunnel(data_dir, host) for host in (FOUR_LINKS, ONE_LINK)}
        with contextlib.ExitStack() as stack:
            origin = stack.enter_context(Origin())
            edge = ReplacedEdge(data_dir, more=[f"--workers={workers}"])
            stack.enter_context(running(edge))
            for host, links in ((FOUR_LINKS, 4), (ONE_LINK, 1)):
                each = connector(edge, tunnels[host], origin, links)
                stack.enter_context(running(each))
                each.ready(links)
                is_known(edge, host)
            visitors = [each for host in tunnels for each in everybody(edge, host)]
            with visiting(visitors):
                for _ in range(handovers):
                    edge.replace()
                    edge.links_have_moved()
                    for visitor in visitors:
                        visitor.answers_more()

    @pytest.mark.interop
    @pytest.mark.slow
    @pytest.mark.parametrize("links", [4, 1])
    def test_nor_those_behind_a_stock_connector(
        self,
        data_dir: Path,
        binary: str,  # noqa: F811
        links: int,
    ) -> None:
        credentials = new_tunnel(data_dir, STOCK)
        with contextlib.ExitStack() as stack:
            origin = stack.enter_context(Origin())
            edge = ReplacedEdge(data_dir)
            stack.enter_context(running(edge))
            stock = Cloudflared(
                binary,
                edge,
                [f"--ha-connections={links}", "run", f"--url={origin.url}"],
                environment={"TUNNEL_TOKEN": credentials.to_token()},
            )
            stack.enter_context(running(stock))
            stock.ready(links)
            visitors = everybody(edge, STOCK)
            with visiting(visitors):
                edge.replace()
                edge.links_have_moved()
                for visitor in visitors:
                    visitor.answers_more()
                stock.ready(2 * links)


class TestWhatIsUnderWay:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_it_ends_where_it_began(self, data_dir: Path, workers: int) -> None:
        with stage(data_dir, more=[f"--workers={workers}"]) as (edge, _):
            old = edge.current
            download = Download(edge, ONE_LINK, LARGE)
            download.take(LARGE // 3)
            with socket.create_connection(("127.0.0.1", edge.http_port), PATIENCE) as upload:
                content = b"".join(blocks(LARGE))
                head = f"POST /sink HTTP/1.1\r\nHost: {ONE_LINK}\r\nContent-Length: {LARGE}\r\n\r\n"
                upload.sendall(head.encode() + content[: LARGE // 3])
                with visiting([Conversation(edge, ONE_LINK)]):
                    edge.replace()
                    edge.links_have_moved()
                    assert asked(edge) == 200
                    upload.sendall(content[LARGE // 3 :])
                    response = http.client.HTTPResponse(upload)
                    response.begin()
                    assert json.loads(response.read()) == {"size": LARGE, "sha256": digest(LARGE)}
                download.finish()
            eventually(lambda: not is_running(old), "the old process has ended")

    @pytest.mark.parametrize("workers", [1, 2])
    def test_streams_of_public_ports_go_on(
        self, data_dir: Path, tmp_path: Path, workers: int
    ) -> None:
        port = free_port()
        settings = tmp_path / "edge.yml"
        settings.write_text(f"tcp:\n{route(port, ONE_LINK)}")
        credentials = new_tunnel(data_dir, ONE_LINK)

        def echoed(stream: socket.socket, text: bytes) -> bool:
            stream.sendall(text)
            return stream.recv(1024) == text

        def is_reached() -> bool:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
                try:
                    return echoed(stream, b"are you there?")
                except ConnectionResetError:
                    return False

        with contextlib.ExitStack() as stack:
            origin = stack.enter_context(stream_echo())
            edge = ReplacedEdge(data_dir, more=[f"--config={settings}", f"--workers={workers}"])
            stack.enter_context(running(edge))
            one = ConnectorProcess(
                [*edge.edge_arguments, "run", f"--url=tcp://127.0.0.1:{origin}"],
                environment={"TUNNEL_TOKEN": credentials.to_token()},
            )
            stack.enter_context(running(one))
            one.ready()
            # As soon as all workers have heard of the link.
            eventually(lambda: all(is_reached() for _ in range(8)), "the port is served")
            streams = []
            for _ in range(3):
                streams.append(
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
                )
                for number, stream in enumerate(streams):
                    assert echoed(stream, b"%d" % number)
                if len(streams) < 3:
                    edge.replace()
                    edge.links_have_moved()
            for stream in streams:
                stream.close()

    def test_what_takes_too_long_is_cut_off(self, data_dir: Path, tmp_path: Path) -> None:
        settings = tmp_path / "edge.yml"
        settings.write_text("drain: 1s\n")
        with stage(data_dir, more=[f"--config={settings}"]) as (edge, _):
            old = edge.current
            talk = Conversation(edge, ONE_LINK)
            with talk:
                talk.answers_more()
                edge.replace()
                eventually(lambda: talk.failures, "it is cut off")
                talk.stopping.set()
            eventually(lambda: not is_running(old), "the old process has ended")
            assert asked(edge) == 200


class TestTheCommand:
    def test_it_says_who_serves(self, data_dir: Path) -> None:
        with stage(data_dir, more=["--metrics=127.0.0.1:0"]) as (edge, _):
            old = edge.current
            done = upgrade(edge, "--json")
            edge.has_been_replaced()
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout)
            assert (told["pid"], told["successor"]) == (old, edge.current)
            status = subprocess.run(
                [*UNDERPASS, "edge", "status", f"--data-dir={data_dir}", "--json"],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            told = json.loads(status.stdout)
            assert (told["state"], told["edge"]["pid"]) == ("ready", edge.current)
            edge.links_have_moved()

    def test_without_an_edge(self, data_dir: Path) -> None:
        with running(EdgeProcess(data_dir)) as _:
            pass
        done = subprocess.run(
            [*UNDERPASS, "edge", "upgrade", f"--data-dir={data_dir}"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 1
        assert "no edge is running on" in done.stderr

    def test_two_at_once_are_one(self, data_dir: Path) -> None:
        with stage(data_dir) as (edge, _):
            call = Call(edge)
            edge.signal(signal.SIGUSR2)
            edge.wait_for("Handing over: API calls")
            edge.signal(signal.SIGUSR2)
            edge.wait_for("Another process is about to take over already")
            done = upgrade(edge)
            assert done.returncode == 1
            assert f"process {edge.current} is being replaced already" in done.stderr
            assert call.finish() == 200
            edge.has_been_replaced()
            edge.links_have_moved()
            assert asked(edge) == 200


class TestItDoesNotServe:
    def test_with_a_configuration_that_is_wrong(self, data_dir: Path, tmp_path: Path) -> None:
        settings = tmp_path / "edge.yml"
        settings.write_text("drain: 1m\n")
        with stage(data_dir, more=[f"--config={settings}"]) as (edge, _):
            settings.write_text("no-such-key: 1\n")
            done = upgrade(edge)
            assert done.returncode == 1
            assert "no-such-key" in done.stderr
            assert f"Process {edge.current} goes on as before" in done.stderr
            assert asked(edge) == 200
            assert api_is_there(edge)
            settings.write_text("drain: 1m\n")
            edge.replace()
            edge.links_have_moved()
            assert asked(edge) == 200

    def test_when_a_port_is_taken(self, data_dir: Path, tmp_path: Path) -> None:
        settings = tmp_path / "edge.yml"
        settings.write_text("listen: {metrics: '127.0.0.1:0'}\n")
        with (
            stage(data_dir, more=[f"--config={settings}"]) as (edge, _),
            socket.create_server(("127.0.0.1", 0)) as taken,
        ):
            port = taken.getsockname()[1]
            settings.write_text(f"listen: {{metrics: '127.0.0.1:{port}'}}\n")
            done = upgrade(edge)
            assert done.returncode == 1
            assert f"cannot listen on the metrics address 127.0.0.1:{port}" in done.stderr
            assert asked(edge) == 200

    def test_when_the_program_is_broken(self, data_dir: Path, tmp_path: Path) -> None:
        # What Python runs at its start, by the directory that is looked through first.
        broken = tmp_path / "sitecustomize.py"
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        with stage(data_dir, environment={"PYTHONPATH": path}) as (edge, _):
            broken.write_text("import os; os.write(2, b'no such interpreter\\n'); os._exit(3)\n")
            done = upgrade(edge)
            assert done.returncode == 1
            assert "exit code 3" in done.stderr
            assert "no such interpreter" in done.stderr
            broken.unlink()
            assert asked(edge) == 200


def api_is_there(edge: EdgeProcess) -> bool:
    with contextlib.closing(http.client.HTTPConnection(edge.api, timeout=PATIENCE)) as client:
        client.request("GET", "/healthz")
        return client.getresponse().status == 200


class Call:
    """A call of the API that stays under way until it is finished: the old process waits for it,
    and the new one for the old one."""

    BODY = b"{}"

    def __init__(self, edge: EdgeProcess) -> None:
        host, _, port = edge.api.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), PATIENCE)
        self._socket.sendall(
            b"POST /tunnel HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(self.BODY)
        )
        # It is with the application when that wants to have the content.
        assert self._socket.recv(64).startswith(b"HTTP/1.1 100")

    def finish(self) -> int:
        """The status."""
        with self._socket:
            self._socket.sendall(self.BODY)
            response = http.client.HTTPResponse(self._socket)
            response.begin()
            response.read()
            return response.status


class TestTheMoment:
    def test_no_call_of_the_api_is_lost(self, data_dir: Path) -> None:
        with stage(data_dir) as (edge, _):
            call = Call(edge)
            edge.signal(signal.SIGUSR2)
            edge.wait_for("Starting the process that takes over")
            assert call.finish() == 200
            answers: list[bool] = []
            stopping = threading.Event()

            def ask() -> None:
                while not stopping.is_set():
                    answers.append(api_is_there(edge))

            asking = threading.Thread(target=ask)
            asking.start()
            edge.has_been_replaced()
            edge.replace()
            stopping.set()
            asking.join(PATIENCE)
            assert len(answers) > 1
            assert all(answers)
            edge.links_have_moved()

    def test_a_load_balancer_finds_it_ready_all_the_time(self, data_dir: Path) -> None:
        with stage(data_dir, more=["--metrics=127.0.0.1:0"]) as (edge, _):
            answers: list[tuple[int, bytes]] = []
            stopping = threading.Event()

            def ask() -> None:
                while not stopping.is_set():
                    answers.append(edge.page("/readyz"))

            asking = threading.Thread(target=ask)
            asking.start()
            for _ in range(2):
                edge.replace()
                edge.links_have_moved()
            stopping.set()
            asking.join(PATIENCE)
            assert {status for status, _ in answers} == {200}

    def test_the_old_one_dies_before_all_is_given(self, data_dir: Path) -> None:
        with stage(data_dir) as (edge, _):
            call = Call(edge)
            edge.signal(signal.SIGUSR2)
            pid = edge.wait_for("Starting the process that takes over")["pid"]
            edge.wait_for("Handing over: API calls")
            os.kill(edge.current, signal.SIGKILL)
            edge.took_over(pid)
            edge.wait_for("has died: taking over without it")
            with pytest.raises((OSError, http.client.HTTPException)):
                call.finish()
            eventually(lambda: asked(edge) == 200, "the connector has come back")

    def test_a_stop_meanwhile_stops_both(self, data_dir: Path) -> None:
        with stage(data_dir) as (edge, _):
            call = Call(edge)
            edge.signal(signal.SIGUSR2)
            pid = edge.wait_for("Starting the process that takes over")["pid"]
            edge.wait_for("Handing over: API calls")
            edge.signal(signal.SIGTERM)
            edge.wait_for("Stopping: requests under way may finish")
            eventually(lambda: not is_running(pid), "the new process has ended")
            assert call.finish() == 200
            assert edge.wait() == 0

    def test_a_stop_afterwards_ends_the_old_one_too(self, data_dir: Path) -> None:
        with stage(data_dir) as (edge, _):
            old = edge.current
            talk = Conversation(edge, ONE_LINK)
            with talk:
                talk.answers_more()
                edge.replace()
                edge.links_have_moved()
                assert is_running(old)
                edge.signal(signal.SIGTERM)
                eventually(lambda: not is_running(edge.current), "the new process has ended")
                # Ten seconds at most, as at any stop.
                talk.answers_more()
                talk.stopping.set()
                eventually(lambda: not is_running(old), "the old process has ended")

    def test_the_service_manager_is_told(self, data_dir: Path, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(PATIENCE)
            edge = ReplacedEdge(data_dir, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
            with running(edge):
                assert manager.recv(256) == b"READY=1"
                edge.replace()
                assert manager.recv(256) == f"MAINPID={edge.current}\nREADY=1".encode()
            assert manager.recv(256) == b"STOPPING=1"
