"""Edges and connectors as processes, watched through their logs, always stopped and looked over."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, Final

import underpass
from underpass.edge.registry import Registry
from underpass.edge.router import Router
from underpass.edge.store import Tunnel
from underpass.edge.store.sqlite import SqliteStore
from underpass.wire.credentials import Credentials

from .patience import PATIENCE

UNDERPASS: Final = (sys.executable, "-X", "faulthandler", "-W", "default", "-m", "underpass")

_TROUBLE: Final = re.compile(
    r"Traceback|[A-Za-z]Warning:|never retrieved|was destroyed|Exception ignored|unexpected error"
)
"""What no log may contain."""

Line = dict[str, Any]


class Process:
    """A program that logs JSON lines on standard error. `stop` it; `running` does."""

    alive: ClassVar[set[Process]] = set()
    """Started and not waited for."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: dict[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.lines: list[Line] = []
        self.text: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment() | (environment or {}),
            start_new_session=True,
            pass_fds=descriptors,
        )
        self.alive.add(self)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it wrote, for messages."""
        with self._changed:
            return "".join(self.text)

    @property
    def open_files(self) -> int:
        """Its file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def wait_for(self, message: str, *, count: int = 1, **fields: Any) -> Line:
        """The `count`th log line with `message` in its text and these fields."""

        def found() -> list[Line]:
            return [
                line
                for line in self.lines
                if message in str(line.get("message"))
                and all(line.get(name) == value for name, value in fields.items())
            ][count - 1 :]

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, PATIENCE)
            lines = found()
        if not lines:
            state = "ended" if self._ended else f"waited {PATIENCE:.0f} s"
            raise AssertionError(f"no line {message!r} {fields} ({state}):\n{self.log}")
        return lines[0]

    def has_logged(self, message: str) -> bool:
        with self._changed:
            return any(message in str(line.get("message")) for line in self.lines)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.log}") from None
        self._reader.join(PATIENCE)
        self.alive.discard(self)
        return code

    def stop(self, expected: int = 0) -> None:
        """SIGTERM; check the exit code, and that nothing unexpected was logged."""
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        self.check(expected)

    def check(self, expected: int = 0) -> None:
        """Wait for the end; check the exit code, and that nothing unexpected was logged."""
        code = self.wait()
        trouble = _TROUBLE.search(self.log)
        assert trouble is None, f"{trouble.group()!r} in the log:\n{self.log}"
        assert code == expected, f"exit code {code}:\n{self.log}"

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._process.kill()
        self.wait()

    @property
    def metrics_address(self) -> str:
        message = str(self.wait_for("Starting metrics server on")["message"])
        return re.findall(r"127\.0\.0\.1:\d+", message)[0]

    def metric(self, name: str, labels: str = "") -> float:
        """A metric's value now; 0 if it is not there."""
        _, body = self.page("/metrics")
        found = re.search(rf"^{name}(?:\{{{labels}\}})? (\S+)$", body.decode(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def page(self, path: str) -> tuple[int, bytes]:
        """Status and content of a page of the metrics server."""
        connection = http.client.HTTPConnection(self.metrics_address, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for raw in stream:
                text = raw.decode("utf-8", "replace")
                line: Any = {}
                with contextlib.suppress(ValueError):
                    line = json.loads(text)
                with self._changed:
                    self.text.append(text)
                    if isinstance(line, dict):
                        self.lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class EdgeProcess(Process):
    """`underpass edge run`, ready. Ports are the system's choice unless given."""

    def __init__(
        self,
        data_dir: Path,
        *,
        tunnels: Sequence[str] = ("127.0.0.1:0",),
        http: str = "127.0.0.1:0",
        https: str = "127.0.0.1:0",
        api: str = "127.0.0.1:0",
        environment: dict[str, str] | None = None,
        more: Sequence[str] = (),
        inherited: Sequence[tuple[str, socket.socket]] = (),
    ) -> None:
        self.data_dir = data_dir
        activated = activation(inherited) if inherited else ()
        listeners = [f"--tunnel={tunnel}" for tunnel in tunnels]
        super().__init__(
            [
                *activated,
                *UNDERPASS,
                *("edge", "run", "--output=json", f"--data-dir={data_dir}"),
                *(f"--http={http}", f"--https={https}", f"--api={api}", *listeners, *more),
            ],
            environment,
            [listener.fileno() for _, listener in inherited],
        )
        try:
            self._find_addresses()
        except BaseException:
            self.kill()
            raise

    def _find_addresses(self) -> None:
        visitors = str(self.wait_for("Visitors:")["message"])
        connectors = str(self.wait_for("Connectors:")["message"])
        self.api = re.findall(r"http://(\S+)", str(self.wait_for("API:")["message"]))[0]
        (self.https,) = re.findall(r"https://(\S+)", visitors)
        (self.http,) = re.findall(r"http://(\S+)", visitors)
        self.tunnels = re.findall(r"127\.0\.0\.1:\d+", connectors)

    @property
    def ca(self) -> Path:
        return self.data_dir / "ca.pem"

    @property
    def https_port(self) -> int:
        return int(self.https.rpartition(":")[2])

    @property
    def http_port(self) -> int:
        return int(self.http.rpartition(":")[2])

    @property
    def edge_arguments(self) -> list[str]:
        """What a connector is told to find this edge."""
        return [*(f"--edge={tunnel}" for tunnel in self.tunnels), f"--cacert={self.ca}"]

    def again(self) -> EdgeProcess:
        """Another edge with the same data on the same addresses, after this one's end."""
        return EdgeProcess(
            self.data_dir, tunnels=self.tunnels, http=self.http, https=self.https, api=self.api
        )


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class ReplacedEdge(EdgeProcess):
    """An edge that has its process replaced, once or several times. What the processes log is in
    one log, and the last of them is the one that is stopped."""

    def __init__(self, data_dir: Path, **options: Any) -> None:
        super().__init__(data_dir, **options)
        self.replacements = 0
        self._current = self._process.pid
        self.killed = False
        """The first process was, as the test wanted."""

    @property
    def current(self) -> int:
        """The process that serves."""
        return self._current

    def replace(self) -> None:
        """Have the next process take over."""
        os.kill(self._current, signal.SIGUSR2)
        self.has_been_replaced()

    def has_been_replaced(self) -> None:
        """The next process has taken over."""
        self.replacements += 1
        line = self.wait_for("has taken over; finishing", count=self.replacements)
        self._current = int(re.findall(r"Process (\d+)", str(line["message"]))[0])

    def took_over(self, pid: int) -> None:
        """The first process was killed, and this one serves."""
        self._current = pid
        self.killed = True

    def links_have_moved(self) -> None:
        """No link of the process before it takes requests any more."""
        self.wait_for("All links have moved", count=self.replacements)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._current, number)

    def stop(self, expected: int = 0) -> None:
        """SIGTERM for the last one; wait for the end of all, and look over what was logged."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGTERM)
        self.check(-signal.SIGKILL if self.killed else expected)
        # Its output is closed when nobody has it any more.
        assert not self._reader.is_alive(), f"a process does not end:\n{self.log}"

    def kill(self) -> None:
        """SIGKILL, all that are there."""
        for pid in {self._current, *map(int, re.findall(r'"pid":(\d+)', self.log))}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().kill()


_ACTIVATE: Final = """
import fcntl, os, sys
names, descriptors, command = sys.argv[1], list(map(int, sys.argv[2].split(","))), sys.argv[3:]
copies = [fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in descriptors]
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number, inheritable=True)
    os.close(copy)
os.environ |= {"LISTEN_FDS": str(len(copies)), "LISTEN_FDNAMES": names,
               "LISTEN_PID": str(os.getpid())}
os.execv(command[0], command)
"""


def activation(inherited: Sequence[tuple[str, socket.socket]]) -> Sequence[str]:
    """What before a command has it started with these sockets, as systemd does."""
    names = ":".join(name for name, _ in inherited)
    descriptors = ",".join(str(listener.fileno()) for _, listener in inherited)
    return [sys.executable, "-c", _ACTIVATE, names, descriptors]


class ConnectorProcess(Process):
    """`underpass tunnel …`, begun; `ready` waits for its links."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: dict[str, str] | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(
            [
                *UNDERPASS,
                *("tunnel", "--output=json", "--metrics=127.0.0.1:0", *settings, *arguments),
            ],
            environment,
        )

    def ready(self, links: int = 1) -> ConnectorProcess:
        """Wait until so many links are registered."""
        for number in range(1, links + 1):
            self.wait_for("Registered tunnel connection", count=number)
        return self

    @property
    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /ready."""
        status, body = self.page("/ready")
        return status, json.loads(body)


class QuickTunnelProcess(ConnectorProcess):
    """A quick tunnel of `edge`, with its hostname."""

    def __init__(
        self,
        edge: EdgeProcess,
        *arguments: str,
        environment: dict[str, str] | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(
            [f"--quick-service=http://{edge.api}", *edge.edge_arguments, *arguments],
            environment=environment,
            settings=settings,
        )

    @property
    def hostname(self) -> str:
        """The quick tunnel's name, without port."""
        self.wait_for("Your quick tunnel has been created")
        return str(re.findall(r"https://([a-z-]+\.localhost)", self.log)[0])


@contextlib.contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Stops the processes in turn, whatever happens; looks them over if all else went well."""
    try:
        yield
    except BaseException:
        for process in processes:
            process.kill()
            print(f"\n--- {type(process).__name__}\n{process.log}")
        raise
    for process in processes:
        process.stop()


def new_tunnel(data_dir: Path, *hostnames: str) -> Credentials:
    """Make a tunnel with these hostnames in an edge's data directory, while no edge has it."""
    credentials = Credentials("account", os.urandom(32), uuid.uuid4())
    keep_tunnel(data_dir, credentials, *hostnames)
    return credentials


def keep_tunnel(data_dir: Path, credentials: Credentials, *hostnames: str) -> None:
    """The same with credentials that exist."""

    async def create() -> None:
        store = await SqliteStore.open(data_dir / "edge.db")
        try:
            registry = await Registry.load(store, Router())
            tunnel = Tunnel(
                id=credentials.tunnel_id,
                account_tag=credentials.account_tag,
                name=f"tunnel-{credentials.tunnel_id}",
                secret=credentials.tunnel_secret,
                created_at=datetime.now(timezone.utc),
            )
            await registry.create_tunnel(tunnel, hostnames)
        finally:
            await store.close()

    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    asyncio.run(create())


def _environment() -> dict[str, str]:
    """The environment without what changes a tunnel: settings, proxies, configuration files."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TUNNEL_", "UNDERPASS_")) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "HOME": "/nonexistent",
        "PYTHONUNBUFFERED": "1",
        # Connections that a test does not expect; those that do ask for them.
        "TUNNEL_NO_PRECHECKS": "true",
        # The same package as under test here, wherever the tests were started.
        "PYTHONPATH": str(Path(underpass.__file__).parents[1]),
    }
