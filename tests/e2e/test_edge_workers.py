"""An edge of several processes: to visitors, connectors and operators it is one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers.content import blocks, digest
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually, soon
from peers.processes import (
    ConnectorProcess,
    EdgeProcess,
    QuickTunnelProcess,
    is_running,
    new_tunnel,
    running,
)
from websockets.asyncio.client import connect

from underpass.connector.edges import EdgeSlot
from underpass.connector.ingress import HelloWorld, single_rule
from underpass.connector.link import HttpLinkDialer
from underpass.connector.options import ConnectorOptions
from underpass.connector.status import ConnectorStatus
from underpass.wire.credentials import Credentials
from underpass.wire.registration import RegistrationRefused

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="workers are found through /proc"
)

HOSTNAME = "app.example.test"
LARGE = 5 * 1048576


@dataclass
class Split:
    """An edge of two workers; `link_up` gives one of them the only link."""

    edge: EdgeProcess
    credentials: Credentials
    origin: Origin

    def connector(self) -> ConnectorProcess:
        return ConnectorProcess(
            [
                *self.edge.edge_arguments,
                "--ha-connections=1",
                "run",
                f"--url={self.origin.url}",
            ],
            environment={"TUNNEL_TOKEN": self.credentials.to_token()},
        )

    @property
    def curl(self) -> Curl:
        return Curl(self.edge, HOSTNAME)

    @property
    def workers(self) -> list[int]:
        """Process ids, by the number of the worker."""
        pids: list[int] = self.edge.wait_for("Running 2 worker processes")["pids"]
        return pids

    def holder(self, registered: int = 1) -> int:
        """The number of the worker with the link that was registered last of so many."""
        line = self.edge.wait_for("registered connection 0", count=registered)
        worker: int = line["worker"]
        return worker

    @contextlib.contextmanager
    def visitors(self, worker: int, count: int) -> Iterator[list[http.client.HTTPConnection]]:
        """Open connections, all accepted by that worker: the other one is stopped meanwhile."""
        other = self.workers[1 - worker]
        with contextlib.ExitStack() as stack:
            os.kill(other, signal.SIGSTOP)
            try:
                visitors = [
                    stack.enter_context(contextlib.closing(self._visitor())) for _ in range(count)
                ]
            finally:
                os.kill(other, signal.SIGCONT)
            yield visitors

    def _visitor(self) -> http.client.HTTPConnection:
        visitor = http.client.HTTPConnection("127.0.0.1", self.edge.http_port, timeout=PATIENCE)
        status, _, _ = ask(visitor, "/", host="nobody.example.test")
        assert status == 404
        return visitor


def ask(
    visitor: http.client.HTTPConnection,
    path: str,
    *,
    method: str = "GET",
    host: str = HOSTNAME,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request, on the connection that is open."""
    visitor.request(method, path, body, {"Host": host, **(headers or {})})
    response = visitor.getresponse()
    answer = response.status, response.headers, response.read()
    assert visitor.sock is not None, "the next request would be on another connection"
    return answer


@pytest.fixture
def split(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Split]:
    """Parametrized indirectly by what the edge is told beside."""
    credentials = new_tunnel(data_dir, HOSTNAME)
    sockets = data_dir.parent / "t"
    sockets.mkdir()
    with Origin() as origin:
        more = ["--workers=2", *getattr(request, "param", ())]
        edge = EdgeProcess(data_dir, more=more, environment={"TMPDIR": str(sockets)})
        yield Split(edge, credentials, origin)
    eventually(lambda: not list(sockets.iterdir()), "the workers' sockets are gone")


def answer_of(visit: subprocess.Popen[bytes]) -> bytes:
    out, error = visit.communicate(timeout=PATIENCE)
    assert visit.returncode == 0, error
    return out


def once_up(visit: Callable[[], int]) -> None:
    eventually(lambda: visit() == 200, "requests arrive again")


def test_requests_cross_to_the_worker_with_the_link(split: Split) -> None:
    connector = split.connector()
    with running(connector, split.edge):
        connector.ready()
        holder = split.holder()
        once_up(lambda: split.curl("/hello").status)
        for scheme in ("http", "https"):
            answers = [split.curl("/shown/any", scheme=scheme) for _ in range(10)]
            assert [answer.status for answer in answers] == [200] * 10
        answers = []
        for worker in (holder, 1 - holder):
            with split.visitors(worker, 2) as visitors:
                for visitor in visitors:
                    status, headers, body = ask(
                        visitor,
                        f"/shown/{worker}",
                        headers={
                            "CF-Connecting-IP": "192.0.2.1",
                            "cf-int-underpass-tunnel": "00000000-0000-0000-0000-000000000000",
                        },
                    )
                    assert status == 200
                    assert headers["CF-Ray"].endswith("-LOCAL01")
                    answers.append((sorted(set(headers)), len(body) > 0))
            request = split.origin.requests(f"/shown/{worker}")[-1]
            assert request.header("cf-connecting-ip") == "127.0.0.1"
            assert request.header("host").partition(":")[0] == HOSTNAME
            assert request.header("x-forwarded-proto") == "http"
            assert not request.header("cf-int-underpass-tunnel")
            assert request.header("cf-ray").endswith("-LOCAL01")
        # No visitor can tell which process it was, nor can the origin.
        assert len(set(map(repr, answers))) == 1
        names = [
            sorted(
                name.lower() for name, _ in split.origin.requests(f"/shown/{worker}")[-1].headers
            )
            for worker in (0, 1)
        ]
        assert names[0] == names[1]


def test_content_and_websockets_cross(split: Split) -> None:
    connector = split.connector()
    with running(connector, split.edge):
        connector.ready()
        holder = split.holder()
        content = b"".join(blocks(LARGE))
        with split.visitors(1 - holder, 3) as (up, down, socket):
            status, _, body = ask(up, "/sink", method="POST", body=content)
            assert status == 200
            assert json.loads(body) == {"size": LARGE, "sha256": digest(LARGE)}
            status, headers, body = ask(down, f"/bytes/{LARGE}")
            assert (status, headers["Content-Length"]) == (200, str(LARGE))
            assert hashlib.sha256(body).hexdigest() == digest(LARGE)
            status, _, body = ask(down, "/hello", method="HEAD")
            assert (status, body) == (200, b"")

            async def scenario() -> None:
                async with connect(
                    f"ws://{HOSTNAME}/ws", sock=socket.sock, proxy=None, close_timeout=PATIENCE
                ) as ws:
                    for message in ("text", b"\x00\xff" * 50000):
                        await ws.send(message)
                        assert await soon(ws.recv()) == message

            asyncio.run(scenario())


def test_trailers_and_early_hints_cross(split: Split) -> None:
    connector = split.connector()
    with running(connector, split.edge):
        connector.ready()
        with split.visitors(1 - split.holder(), 1) as (visitor,):
            once_up(lambda: ask(visitor, "/hello")[0])
            assert visitor.sock is not None
            visitor.sock.sendall(
                f"POST /shown HTTP/1.1\r\nHost: {HOSTNAME}\r\nTransfer-Encoding: chunked\r\n\r\n"
                "5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"
                f"GET /interim HTTP/1.1\r\nHost: {HOSTNAME}\r\nConnection: close\r\n\r\n".encode()
            )
            with visitor.sock.makefile("rb") as answers:
                said = answers.read()
        assert split.origin.requests("/shown")[0].trailers == [("X-Sum", "5")]
        assert (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200" in said
        )
        assert said.endswith(b"final\n")


@pytest.mark.parametrize(
    ("split", "path", "expected"),
    [
        (["--first-byte-timeout=1"], "/hang", "timeout_first_byte"),
        (["--request-timeout=1"], "/hang", "timeout_total"),
        (["--request-timeout=1"], "/trickle?key=never", None),
        (["--idle-timeout=1"], "/trickle?key=never", None),
    ],
    indirect=["split"],
)
def test_patience_is_the_same_across_workers(split: Split, path: str, expected: str | None) -> None:
    """Where the link is in the visitor's worker, and where it is not."""
    connector = split.connector()
    with running(connector, split.edge):
        connector.ready()
        holder = split.holder()
        for worker in (holder, 1 - holder):
            with split.visitors(worker, 1) as (visitor,):
                once_up(lambda: ask(visitor, "/hello")[0])
                visitor.request("GET", path, headers={"Host": HOSTNAME, "Accept": "a/json"})
                response = visitor.getresponse()
                if expected is not None:
                    assert (response.status, response.getheader("underpass-cause")) == (
                        504,
                        expected,
                    )
                else:
                    assert response.status == 200
                    with pytest.raises(http.client.IncompleteRead) as broken:
                        response.read()
                    assert broken.value.partial == b"half"


def test_pages_are_those_of_one_process(split: Split) -> None:
    connector = split.connector()
    with running(split.edge):
        for worker in (0, 1):
            with split.visitors(worker, 1) as (visitor,):
                status, headers, body = ask(visitor, "/", host="unknown.example.test")
                assert (status, headers["underpass-cause"]) == (404, "unknown_host")
                assert headers["CF-Ray"].encode() in body
        with running(connector):
            connector.ready()
            holder = split.holder()
            split.origin.stop()
            for worker in (holder, 1 - holder):
                with split.visitors(worker, 1) as (visitor,):
                    status, headers, body = ask(visitor, "/hello")
                    assert status == 502
                    assert headers["CF-Ray"].encode() in body
        assert split.edge.has_logged("answered for an origin")
        # (Before a tunnel's first link after a start, that is waited for.)
        for worker in (0, 1):
            with split.visitors(worker, 1) as (visitor,):
                status, headers, body = ask(visitor, "/")
                assert (status, headers["underpass-cause"]) == (503, "no_link")
                assert headers["CF-Ray"].encode() in body


def test_a_worker_that_dies_is_replaced(split: Split) -> None:
    connector = split.connector()
    with running(connector, split.edge):
        connector.ready()
        holder = split.holder()
        with split.visitors(1 - holder, 1) as (visitor,):
            assert ask(visitor, "/hello")[0] == 200
            os.kill(split.workers[holder], signal.SIGKILL)
            split.edge.wait_for("A worker process has ended, and is replaced", worker=holder)
            # It has its place in the survivor's eyes, wherever the link goes now.
            split.holder(registered=2)
            once_up(lambda: ask(visitor, "/hello")[0])
        once_up(lambda: split.curl("/hello").status)
        # Once more, and this time the link cannot but cross.
        assert {split.curl("/hello").status for _ in range(10)} == {200}


def test_a_duplicate_in_another_worker_is_refused(split: Split) -> None:
    async def scenario() -> None:
        options = ConnectorOptions(
            ingress=single_rule(HelloWorld()),
            credentials=split.credentials,
            cacert=split.edge.ca,
            connector_id=uuid.uuid4(),
        )
        host, _, port = split.edge.tunnels[0].rpartition(":")
        slot = EdgeSlot(host, int(port), region=0)
        dialer = HttpLinkDialer(options, ConnectorStatus(options.connector_id))
        first = await dialer.dial(slot, 0, 0)
        holder = await asyncio.to_thread(split.holder)
        other = split.workers[1 - holder]
        os.kill(split.workers[holder], signal.SIGSTOP)
        try:
            with pytest.raises(RegistrationRefused) as refused:
                await dialer.dial(slot, 0, 0)
        finally:
            os.kill(split.workers[holder], signal.SIGCONT)
        assert refused.value.should_retry
        line = await asyncio.to_thread(split.edge.wait_for, "refused connection 0")
        assert line["worker"] == 1 - holder

        # Its index is free as soon as the holder knows that the link is gone.
        first.abort()
        await soon(first.wait_closed())
        await asyncio.to_thread(split.edge.wait_for, "is gone", worker=holder)
        os.kill(split.workers[holder], signal.SIGSTOP)
        try:
            second = await dialer.dial(slot, 0, 0)
        finally:
            os.kill(split.workers[holder], signal.SIGCONT)
        second.abort()
        await soon(second.wait_closed())
        dialer.close()
        assert is_running(other)

    with running(split.edge):
        asyncio.run(scenario())


def test_of_two_with_one_index_at_once_one_stays(split: Split) -> None:
    async def scenario() -> None:
        options = ConnectorOptions(
            ingress=single_rule(HelloWorld()),
            credentials=split.credentials,
            cacert=split.edge.ca,
            connector_id=uuid.uuid4(),
        )
        host, _, port = split.edge.tunnels[0].rpartition(":")
        slot = EdgeSlot(host, int(port), region=0)
        dialer = HttpLinkDialer(options, ConnectorStatus(options.connector_id))
        workers = split.workers
        links = []
        # Neither worker can learn of the other's while the supervisor stands still.
        split.edge.signal(signal.SIGSTOP)
        try:
            for stopped in workers:
                os.kill(stopped, signal.SIGSTOP)
                try:
                    links.append(await dialer.dial(slot, 0, 0))
                finally:
                    os.kill(stopped, signal.SIGCONT)
        finally:
            split.edge.signal(signal.SIGCONT)
        closed = [asyncio.ensure_future(link.wait_closed()) for link in links]
        done, left = await asyncio.wait(
            closed, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        assert (len(done), len(left)) == (1, 1)
        await asyncio.to_thread(split.edge.wait_for, "closing a connection to tunnel")
        for worker in (0, 1):
            with split.visitors(worker, 1) as (visitor,):
                assert (await asyncio.to_thread(ask, visitor, "/"))[0] == 200
        assert not any(future.done() for future in left)
        for link in links:
            link.abort()
        await soon(asyncio.gather(*closed))
        dialer.close()

    with running(split.edge):
        asyncio.run(scenario())


def test_requests_under_way_are_finished(split: Split) -> None:
    connector = split.connector()
    with running(connector):
        connector.ready()
        holder = split.holder()
        workers = split.workers
        with split.visitors(1 - holder, 1) as (visitor,):
            visitor.request("GET", "/slow?key=end", headers={"Host": HOSTNAME})
            split.origin.wait_for_request("/slow")
            split.edge.signal(signal.SIGTERM)
            split.edge.wait_for("Stopping: requests under way may finish")
            split.origin.open_gate("end")
            response = visitor.getresponse()
            assert (response.status, response.read()) == (200, b"at last\n")
        split.edge.check()
        assert not any(map(is_running, workers))
        assert not split.edge.has_logged("A worker process has ended")


def test_a_second_signal_cuts_it_short(split: Split) -> None:
    connector = split.connector()
    with running(connector):
        connector.ready()
        workers = split.workers
        with split.curl.begun("/hang"):
            split.origin.wait_for_request("/hang")
            split.edge.signal(signal.SIGTERM)
            split.edge.wait_for("Stopping: requests under way may finish")
            split.edge.signal(signal.SIGTERM)
            split.edge.check(expected=128 + signal.SIGTERM)
        assert not any(map(is_running, workers))


def test_no_worker_outlives_its_supervisor(split: Split) -> None:
    workers = split.workers
    assert len(workers) == 2
    split.edge.kill()
    eventually(lambda: not any(map(is_running, workers)), "the workers are gone")
    # Nobody has its sockets any more.
    split.edge.again().stop()


def test_a_quick_tunnel_is_known_everywhere_at_once(split: Split) -> None:
    connector = QuickTunnelProcess(split.edge, f"--url={split.origin.url}", "--ha-connections=1")
    with running(connector, split.edge):
        connector.ready()
        holder = split.holder()
        for worker in (holder, 1 - holder):
            with split.visitors(worker, 1) as (visitor,):
                assert ask(visitor, "/hello", host=connector.hostname)[0] == 200
