"""Runs the demo: the application, a tunnel to it, and with `--check` a look at everything.

Called by `ci/demo`, which sets up what this needs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".demo"
PATIENCE = 60.0
"""Seconds for any one thing to happen; only a hang takes that long."""
UPLOAD_BYTES = 64 * 1024 * 1024
DOWNLOAD_BLOCKS = 1024
READY = "Ctrl-C ends the tunnel"


class DemoError(Exception):
    """The demo cannot go on."""


@dataclass(frozen=True)
class Address:
    """Where the tunnel comes out."""

    name: str
    https_port: int
    http_port: int
    authority: str

    @property
    def https(self) -> str:
        return f"https://{self.name}:{self.https_port}"

    @property
    def http(self) -> str:
        return f"http://{self.name}:{self.http_port}"


@contextlib.contextmanager
def running(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """A child process in a session of its own, so that Ctrl-C comes to us and we end it in turn."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options
    )  # type: ignore[call-overload]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def watchdog(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends a process that does not get on, and with it whoever reads its output."""
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def read_port(application: subprocess.Popen[str]) -> int:
    assert application.stdout is not None
    with watchdog(application):
        line = application.stdout.readline()
    if not line:
        raise DemoError("the application did not start")
    return int(line)


def read_address(tunnel: subprocess.Popen[str], show: Callable[[str], object]) -> Address:
    """Wait until the tunnel says that it is ready, and where."""
    assert tunnel.stderr is not None
    lines = []
    with watchdog(tunnel):
        for line in tunnel.stderr:
            lines.append(line)
            show(line)
            if READY in line:
                break
        else:
            raise DemoError("the tunnel did not start:\n" + "".join(lines))
    text = "".join(lines)
    https = re.search(r"\|  https://([a-z.-]+):(\d+) ", text)
    http = re.search(r"\|  http://[a-z.-]+:(\d+) ", text)
    authority = re.search(r"curl --cacert (\S+) ", text)
    if https is None or http is None or authority is None:
        raise DemoError("the tunnel did not say where it is:\n" + text)
    return Address(https[1], int(https[2]), int(http[1]), authority[1])


@contextlib.contextmanager
def demo(
    state: Path, show: Callable[[str], object]
) -> Iterator[tuple[Address, int, subprocess.Popen[str]]]:
    """The application behind a tunnel: where it comes out, the application's port, the tunnel."""
    state.mkdir(parents=True, exist_ok=True)
    # Nobody's own configuration and nobody's TUNNEL_… variables.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TUNNEL_")}
    environment["HOME"] = environment["XDG_DATA_HOME"] = str(state)
    python = sys.executable
    application = [python, str(ROOT / "ci" / "demo_app.py")]
    with running(application, stdout=subprocess.PIPE) as origin:
        port = read_port(origin)
        tunnel = [python, "-m", "underpass", "tunnel", "--url", f"http://127.0.0.1:{port}"]
        with running(tunnel, stderr=subprocess.PIPE, env=environment) as process:
            address = read_address(process, show)
            with draining(process, show):
                yield address, port, process


@contextlib.contextmanager
def draining(process: subprocess.Popen[str], show: Callable[[str], object]) -> Iterator[None]:
    """Keep reading what a process says, so that it never waits for us."""

    def drain() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            show(line)

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    yield


class Check:
    """Fetches through the public addresses and keeps count."""

    def __init__(self, address: Address, directory: Path) -> None:
        self.address = address
        self.directory = directory
        self.failures = 0

    def run(self) -> None:
        self.step("page over HTTP/1.1, TLS", lambda: self.page("--http1.1", "1.1"))
        self.step("page over HTTP/2, TLS", lambda: self.page("--http2", "2"))
        self.step("page over HTTP/1.1, no TLS", lambda: self.page("", "1.1"))
        self.step("upload over HTTP/1.1", lambda: self.upload("--http1.1"))
        self.step("upload over HTTP/2", lambda: self.upload("--http2"))
        self.step("download over HTTP/2", self.download)
        self.step("WebSocket echo", self.echo)

    def step(self, name: str, look: Callable[[], str]) -> None:
        started = time.monotonic()
        try:
            verdict, found = "ok  ", look()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this step's result
            verdict, found = "FAIL", f"{type(error).__name__}: {error}"
            self.failures += 1
        print(f"  {verdict}  {name:28} {time.monotonic() - started:6.2f} s  {found}", flush=True)

    def curl(self, url: str, *options: str) -> str:
        """What curl writes with `--write-out`; the body goes where the options say."""
        address = self.address
        command = ["curl", "--silent", "--show-error", "--fail", "--cacert", address.authority]
        for port in (address.https_port, address.http_port):
            command += ["--resolve", f"{address.name}:{port}:127.0.0.1"]
        command += ["--max-time", str(PATIENCE), *filter(None, options), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoError(done.stderr.strip())
        return done.stdout

    def page(self, option: str, version: str) -> str:
        base = self.address.https if option else self.address.http
        body = self.directory / "page"
        facts = self.curl(
            base + "/",
            option,
            "-o",
            str(body),
            "-w",
            "%{http_code} %{http_version} %{size_download}",
        )
        status, spoken, size = facts.split()
        expect(status, "200")
        expect(spoken, version)
        if "It went under" not in body.read_text(encoding="utf-8"):
            raise DemoError("this is another page")
        return f"{status}, {size} bytes"

    def upload(self, option: str) -> str:
        content = self.directory / "upload"
        if not content.exists():
            content.write_bytes(os.urandom(UPLOAD_BYTES))
        answer = json.loads(
            self.curl(
                self.address.https + "/upload",
                option,
                "--header",
                "Content-Type: application/octet-stream",
                "--header",
                "Expect:",
                "--data-binary",
                f"@{content}",
            )
        )
        expect(answer["size"], UPLOAD_BYTES)
        expect(answer["sha256"], hashlib.sha256(content.read_bytes()).hexdigest())
        return f"{UPLOAD_BYTES >> 20} MiB, SHA-256 {answer['sha256'][:16]}… on both sides"

    def download(self) -> str:
        body, head = self.directory / "download", self.directory / "head"
        self.curl(
            f"{self.address.https}/download/{DOWNLOAD_BLOCKS}", "-o", str(body), "-D", str(head)
        )
        announced = re.search(r"^x-sha256: (\w+)", head.read_text(), re.MULTILINE | re.IGNORECASE)
        expect(hashlib.sha256(body.read_bytes()).hexdigest(), announced and announced[1])
        return f"{body.stat().st_size >> 20} MiB, SHA-256 as announced"

    def echo(self) -> str:
        context = ssl.create_default_context(cafile=self.address.authority)
        sock = socket.create_connection(("127.0.0.1", self.address.https_port), PATIENCE)
        url = self.address.https.replace("https", "wss") + "/echo"
        with connect(url, sock=sock, ssl=context, open_timeout=PATIENCE) as websocket:
            for text in ("hello", "größer", "x" * 100_000):
                websocket.send(text)
                expect(websocket.recv(PATIENCE), text)
        return "3 messages, the last of 100 kB"


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise DemoError(f"got {found!r}, expected {wanted!r}")


def check() -> int:
    log: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="underpass-demo-") as directory,
        demo(Path(directory) / "state", log.append) as (address, port, _),
    ):
        print(f"application at http://127.0.0.1:{port}, public at {address.https}", flush=True)
        look = Check(address, Path(directory))
        look.run()
    if look.failures:
        print("the tunnel's log:\n" + "".join(log), file=sys.stderr)
        print(f"{look.failures} failed")
        return 1
    print("all is well")
    return 0


def serve() -> int:
    with demo(STATE, sys.stderr.write) as (address, port, tunnel):
        print(f"The application itself is at http://127.0.0.1:{port}. Open its public address:")
        print(f"\n    {address.http}\n", flush=True)
        try:
            tunnel.wait()
        except KeyboardInterrupt:
            return 0
        raise DemoError("the tunnel has ended")


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/demo", description=__doc__)
    parser.add_argument("--check", action="store_true", help="look at everything, then end")
    options = parser.parse_args()
    # Both, even if whoever started us ignores Ctrl-C: what was started is ended on the way out.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    return check() if options.check else serve()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except DemoError as error:
        sys.exit(f"ci/demo: {error}")
