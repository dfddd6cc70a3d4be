"""A changed configuration file, saved or signalled, is put in force under running requests, or
refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running
from websockets.asyncio.client import connect

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")

HOSTNAME = "app.example.test"


@dataclass
class Published:
    """A tunnel by configuration file, its links in as many workers as asked for."""

    edge: EdgeProcess
    connector: ConnectorProcess
    file: Path
    old: Origin
    new: Origin

    @property
    def curl(self) -> Curl:
        return Curl(self.edge, HOSTNAME)

    def write(self, *rules: str, more: str = "") -> None:
        self.file.write_text(
            f"{more}ingress:\n" + "".join(f"  - service: {rule}\n" for rule in rules)
        )

    def reload(self) -> None:
        self.connector.signal(signal.SIGHUP)

    def apply(self, *rules: str) -> None:
        """Write the file, and wait until it is in force."""
        version = self.connector.metric("cloudflared_orchestration_config_version") + 1
        self.write(*rules)
        self.reload()
        self.connector.wait_for("Configuration applied", version=int(version))


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def published(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path: Path
) -> Iterator[Published]:
    credentials = new_tunnel(data_dir, HOSTNAME)
    file = tmp_path / "config.yml"
    with Origin() as old, Origin() as new, contextlib.ExitStack() as stack:
        edge = EdgeProcess(data_dir)
        stack.enter_context(running(edge))
        file.write_text(f"ingress:\n  - service: {old.url}\n")
        connector = ConnectorProcess(
            [
                *(edge.edge_arguments[0],) * 2,
                f"--cacert={edge.ca}",
                f"--workers={request.param}",
                "--ha-connections=2",
                f"--config={file}",
                "run",
            ],
            environment={"TUNNEL_TOKEN": credentials.to_token()},
        )
        stack.enter_context(running(connector))
        connector.ready(2)
        yield Published(edge, connector, file, old, new)


def answer_of(visit: subprocess.Popen[bytes]) -> bytes:
    out, error = visit.communicate(timeout=PATIENCE)
    assert visit.returncode == 0, error
    return out


@contextlib.contextmanager
def visitors(curl: Curl, count: int) -> Iterator[Callable[[], int]]:
    """Visitors without pause, whom every answer but 200 fails; yields how many have answers."""
    over = threading.Event()
    statuses: list[int] = []

    def visit() -> None:
        while not over.is_set():
            answers = curl.several(["/hello"] * 10)
            assert len(answers) == 10
            statuses.extend(answer.status for answer in answers)

    threads = [threading.Thread(target=visit) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: len(statuses)
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert statuses == [200] * len(statuses)


def test_other_rules_under_running_requests(published: Published) -> None:
    old, new = published.old, published.new
    slow = ["/slow?key=reload&1", "/slow?key=reload&2"]
    with contextlib.ExitStack() as stack:
        waiting = [
            stack.enter_context(published.curl.begun(path, "-w", "%{http_code}")) for path in slow
        ]
        old.wait_for_request("/slow", 2)
        count = stack.enter_context(visitors(published.curl, 2))
        for origin in (new, old, new):
            before, asked = count(), len(origin.requests("/hello"))
            eventually(lambda before=before: count() > before, "visitors come")
            published.apply(origin.url)
            eventually(
                lambda origin=origin, asked=asked: len(origin.requests("/hello")) > asked,
                "they come to the other origin",
            )
        # Begun under the first rules, and still with their origin.
        old.open_gate("reload")
        assert [answer_of(visit) for visit in waiting] == [b"at last\n200"] * 2
    asked = len(old.requests("/hello"))
    assert published.curl("/hello").status == 200
    assert len(old.requests("/hello")) == asked
    # What only the old rules needed is let go of.
    eventually(lambda: old.open_connections == 0, "the old origin has no connection")


def test_a_hundred_reloads_under_load(published: Published) -> None:
    with visitors(published.curl, 2) as count:
        for number in range(100):
            published.apply((published.new if number % 2 == 0 else published.old).url)
        before = count()
        eventually(lambda: count() > before, "visitors still come")
    # Beyond those under way, only the origin of the last rules is asked.
    asked = len(published.new.requests("/hello"))
    assert published.curl("/hello").status == 200
    assert len(published.new.requests("/hello")) == asked


def test_a_file_that_is_saved_is_in_force(published: Published) -> None:
    with visitors(published.curl, 1):
        for number, origin in enumerate((published.new, published.old), 1):
            asked = len(origin.requests("/hello"))
            # As many editors do it, and as configuration management does.
            beside = published.file.with_name("beside")
            beside.write_text(f"ingress: [{{service: '{origin.url}'}}]\n")
            os.replace(beside, published.file)
            published.connector.wait_for("Configuration applied", version=number)
            eventually(
                lambda origin=origin, asked=asked: len(origin.requests("/hello")) > asked,
                "requests come to the other origin",
            )
    published.file.write_text("ingress: []\n")
    published.connector.wait_for("Configuration refused, the one in force stays")
    assert published.curl("/hello").status == 200


@pytest.mark.parametrize("published", [1], indirect=True, ids=["one process"])
def test_an_origin_is_looked_after_whenever_it_is_in_use(published: Published) -> None:
    """Idle connections are closed in time, again and again."""
    published.apply(f"{published.new.url}\n    originRequest: {{keepAliveTimeout: 1s}}")
    for _ in range(2):
        assert published.curl("/hello").status == 200
        assert published.new.open_connections == 1
        eventually(lambda: published.new.open_connections == 0, "the connection is closed")
        # It stays closed, and nothing is left to be done each second.
    assert published.new.connections == 2


@pytest.mark.parametrize("published", [1], indirect=True, ids=["one process"])
def test_ten_thousand_rules(published: Published) -> None:
    rules = (
        f"  - {{hostname: {number}.example.test, service: 'http_status:{200 + number % 300}'}}\n"
        for number in range(9_999)
    )
    published.file.write_text("ingress:\n" + "".join(rules) + f"  - service: {published.new.url}\n")
    published.reload()
    line = published.connector.wait_for("Configuration applied", version=1)
    assert line["rules"] == 10_000
    assert published.curl("/hello").status == 200
    assert len(published.new.requests("/hello")) == 1


@pytest.mark.parametrize("published", [1], indirect=True, ids=["one process"])
def test_new_certificates_of_an_origin_are_in_force(published: Published, tmp_path: Path) -> None:
    """The file that `caPool` names is watched, under the name it has."""
    authority, stranger = trustme.CA(), trustme.CA()
    pem = tmp_path / "ca.pem"
    stranger.cert_pem.write_to_path(str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Origin(context) as origin:
        published.apply(f"{origin.url}\n    originRequest: {{caPool: {pem}}}")
        assert published.curl("/hello").status == 502
        authority.cert_pem.write_to_path(str(pem))
        published.connector.wait_for("Configuration applied", version=2)
        assert published.curl("/hello").status == 200


def test_a_websocket_outlives_the_rule_it_came_by(published: Published) -> None:
    async def talk() -> None:
        uri = f"ws://{HOSTNAME}:{published.edge.http_port}/ws"
        port = published.edge.http_port
        async with connect(uri, host="127.0.0.1", port=port) as socket:
            await socket.send("before")
            assert await socket.recv() == "before"
            await asyncio.to_thread(published.apply, published.new.url)
            assert (await asyncio.to_thread(published.curl, "/hello")).status == 200
            assert len(published.new.requests("/hello")) == 1
            await socket.send("after")
            assert await socket.recv() == "after"

    asyncio.run(talk())


def test_a_request_that_waits_for_its_origin_outlives_the_rule(published: Published) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        published.apply(f"{url}\n    originRequest: {{noTLSVerify: true}}")
        with published.curl.begun("/late", "-w", "%{http_code}") as visit:
            accepted, _ = listener.accept()
            accepted.settimeout(PATIENCE)
            # The handshake has not begun, and the request waits for it.
            published.apply(published.new.url)
            with context.wrap_socket(accepted, server_side=True) as connection:
                assert connection.recv(1 << 16).startswith(b"GET /late")
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlate\n")
                assert answer_of(visit) == b"late\n200"
                # Then nobody has a use for it.
                assert connection.recv(1) == b""


UNUSABLE = (
    "ingress:\n  - service: https://127.0.0.1:1\n    originRequest: {caPool: /nonexistent.pem}\n"
)
"""Well-formed rules, whose services cannot be made."""


@pytest.mark.parametrize(
    ("published", "text", "why"),
    [
        (1, "ingress: [", "config.yml"),
        (1, "ingress:\n  - service: http://127.0.0.1:1\n    nonsense: 1\n", "nonsense"),
        (1, "", "neither ingress rules nor an origin"),
        (1, None, "cannot read the configuration file"),
        (1, UNUSABLE, "/nonexistent.pem"),
        (2, UNUSABLE, "/nonexistent.pem"),
    ],
    indirect=["published"],
    ids=["syntax", "key", "empty", "gone", "service", "service in workers"],
)
def test_a_bad_file_is_refused_and_the_old_one_serves_on(
    published: Published, text: str | None, why: str
) -> None:
    if text is None:
        published.file.unlink()
    else:
        published.file.write_text(text)
    published.reload()
    line = published.connector.wait_for("Configuration refused, the one in force stays")
    assert why in line["error"]
    assert published.curl("/hello").status == 200
    assert published.connector.metric("cloudflared_orchestration_config_version") == 0
    published.apply(published.new.url)
    assert published.curl("/hello").status == 200
    assert len(published.new.requests("/hello")) == 1


def test_a_reload_does_not_keep_it_from_stopping(published: Published) -> None:
    published.write(published.new.url)
    published.reload()
    published.connector.stop()


def test_what_needs_a_restart_is_said(published: Published) -> None:
    published.write(published.new.url, more="grace-period: 7s\nretries: 9\n")
    published.reload()
    line = published.connector.wait_for("Some changes take effect after a restart only")
    assert sorted(line["keys"]) == ["grace-period", "retries"]
    assert published.curl("/hello").status == 200
    assert len(published.new.requests("/hello")) == 1


@pytest.mark.parametrize("published", [2], indirect=True, ids=["two workers"])
def test_a_worker_that_is_replaced_begins_with_the_rules_in_force(published: Published) -> None:
    pid = published.connector.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children")
    if not workers.exists():
        pytest.skip("workers are found through /proc")
    published.apply(published.new.url)
    for worker in workers.read_text().split():
        os.kill(int(worker), signal.SIGKILL)
    published.connector.ready(4)
    assert [a.status for a in published.curl.several(["/hello"] * 4)] == [200] * 4
    assert len(published.new.requests("/hello")) == 4
    assert not published.old.requests("/hello")


def test_without_a_file_there_is_nothing_to_reload(data_dir: Path) -> None:
    token = new_tunnel(data_dir, HOSTNAME).to_token()
    edge = EdgeProcess(data_dir)
    connector = ConnectorProcess(
        [*edge.edge_arguments, "--hello-world", "run"], environment={"TUNNEL_TOKEN": token}
    )
    with running(connector, edge):
        connector.ready()
        connector.signal(signal.SIGHUP)
        connector.wait_for("There is no configuration file to reload")
        assert Curl(edge, HOSTNAME)("/").status == 200
