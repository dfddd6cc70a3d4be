"""The runner: one process from start to exit code, with real signals and a real metrics server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from underpass.connector.data_path import DataPath
from underpass.connector.edges import EdgeSlot
from underpass.connector.ingress import HttpStatus, Ingress, single_rule
from underpass.connector.links import DialError, DialErrorKind, Link
from underpass.connector.network_watch import NetworkWatch
from underpass.connector.options import ConnectorOptions
from underpass.connector.runner import serve_connector
from underpass.connector.status import ConnectorStatus
from underpass.ops import event_loop
from underpass.wire.credentials import Credentials
from underpass.wire.registration import ConnectionDetails, RegistrationRefused

OPTIONS = ConnectorOptions(
    ingress=single_rule(HttpStatus(200)),
    credentials=Credentials("account", b"s" * 32, uuid.UUID(int=1)),
    edges=(("edge", 7844),),
    ha_connections=1,
    metrics="127.0.0.1:0",
    quick_hostname="x.localhost",
)


class FakeLink:
    """A link that is idle or busy, as told. Idle, it is closed once it has unregistered."""

    def __init__(self, active: int, unregistered: asyncio.Event) -> None:
        self._unregistered = unregistered
        self.details = ConnectionDetails(uuid.uuid4(), "loc01", False)
        self.active = active
        self.probed = 0
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    async def wait_going_away(self) -> None:
        await asyncio.Event().wait()

    def probe(self) -> None:
        self.probed += 1

    async def unregister(self, timeout: float) -> None:
        self._unregistered.set()
        if not self.active:
            self.abort()

    async def in_flight(self) -> int:
        return self.active

    async def drained(self) -> None:
        if self.active:
            await self._closed

    def abort(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)


class FakePath:
    """A data path without data."""

    def __init__(self, outcome: Exception | None = None, active: int = 0) -> None:
        self.outcome = outcome
        self.active = active
        self.is_closed = False
        self.links: list[FakeLink] = []
        self.applied: list[Ingress] = []
        self.status: ConnectorStatus | None = None
        self.built = asyncio.Event()
        self.unregistered = asyncio.Event()

    async def dial(
        self,
        slot: EdgeSlot,
        conn_index: int,
        previous_attempts: int,
        replacing: Link | None = None,
    ) -> FakeLink:
        if self.outcome is not None:
            raise self.outcome
        self.links.append(FakeLink(self.active, self.unregistered))
        return self.links[-1]

    async def build(self, options: ConnectorOptions, status: ConnectorStatus) -> DataPath:
        self.status = status
        self.built.set()
        counted = {"cloudflared_tunnel_total_requests": 42}
        return DataPath(self, lambda: counted, self.close, self.apply)

    async def apply(self, ingress: Ingress) -> None:
        self.applied.append(ingress)

    async def close(self) -> None:
        self.is_closed = True


def serve(
    path: FakePath,
    body: Callable[[], Awaitable[None]] | None = None,
    options: ConnectorOptions = OPTIONS,
) -> int:
    """Serve until the end; `body` runs when the first link is up."""

    async def main() -> int:
        bodies: list[asyncio.Task[None]] = []

        async def run_body() -> None:
            if body is not None:
                await body()

        def ready() -> None:
            bodies.append(asyncio.create_task(run_body()))

        code = await asyncio.wait_for(serve_connector(options, ready=ready, build=path.build), 20)
        await asyncio.gather(*bodies)
        return code

    return asyncio.run(main())


async def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_code_is_zero(number: signal.Signals) -> None:
    async def interrupt() -> None:
        os.kill(os.getpid(), number)

    path = FakePath()
    assert serve(path, interrupt) == 0
    assert path.is_closed
    assert path.status is not None
    assert path.status.ready_connections == 0


def test_a_second_signal_ends_at_once_and_shows_in_the_exit_code() -> None:
    path = FakePath(active=1)

    async def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await path.unregistered.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    assert serve(path, twice) == 128 + signal.SIGTERM
    assert path.is_closed


def test_signal_handlers_are_gone_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    serve(FakePath(), terminate)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_final_refusal_is_exit_code_one() -> None:
    path = FakePath(RegistrationRefused("tunnel deleted"))
    assert serve(path) == 1
    assert path.is_closed


def test_a_metrics_address_in_use_is_exit_code_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = FakePath()
        assert serve(path, None, replace(OPTIONS, metrics=address)) == 1
    assert path.is_closed


def test_a_signal_before_any_link_is_up_ends_with_zero() -> None:
    path = FakePath(DialError(DialErrorKind.CONNECT, "refused"))

    async def main() -> int:
        running = asyncio.create_task(serve_connector(OPTIONS, build=path.build))
        await path.built.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.wait_for(running, 20)

    assert asyncio.run(main()) == 0


def test_the_pid_is_written_once_a_link_is_up(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    assert serve(FakePath(), terminate, replace(OPTIONS, pidfile=pidfile)) == 0
    assert pidfile.read_text() == str(os.getpid())


def test_a_pid_file_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    pidfile = tmp_path / "absent" / "pid"
    assert serve(FakePath(), terminate, replace(OPTIONS, pidfile=pidfile)) == 0


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert serve(FakePath(), terminate) == 0
        assert manager.recv(64) == b"READY=1"


def test_the_metrics_server_shows_all_sources() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    answers: list[bytes] = []

    async def ask() -> None:
        for target in ("/ready", "/metrics", "/quicktunnel"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answers.append(await reader.read())
            writer.close()
        os.kill(os.getpid(), signal.SIGTERM)

    options = replace(OPTIONS, metrics=f"127.0.0.1:{port}")
    assert serve(FakePath(), ask, options) == 0
    ready, metrics, quick = answers
    assert b'"readyConnections":1' in ready
    assert b"\ncloudflared_tunnel_total_requests 42\n" in metrics
    assert b"\ncloudflared_tunnel_ha_connections 1\n" in metrics
    assert b'{"hostname":"x.localhost"}' in quick


@pytest.mark.parametrize("loop", ["asyncio", ""])
def test_any_event_loop_will_do(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERPASS_LOOP", loop)
    path = FakePath()

    def ready() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert event_loop.run(serve_connector(OPTIONS, ready=ready, build=path.build)) == 0
    assert path.is_closed


def test_credentials_are_needed() -> None:
    with pytest.raises(ValueError, match="needs credentials"):
        serve(FakePath(), None, replace(OPTIONS, credentials=None))


def test_a_change_of_the_network_has_every_link_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    watches: list[NetworkWatch] = []

    class Watch(NetworkWatch):
        def start(self) -> None:
            self.look()  # the first does not differ
            watches.append(self)

    monkeypatch.setattr("underpass.connector.runner.NetworkWatch", Watch)
    path = FakePath()

    async def change() -> None:
        monkeypatch.setattr(watches[0], "_sources_before", ("192.0.2.77",))
        watches[0].look()
        assert path.links[0].probed == 1
        os.kill(os.getpid(), signal.SIGTERM)

    assert serve(path, change) == 0
