"""The visitor's side: streams to applications, by our client and by a stock one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers.patience import PATIENCE, eventually
from peers.processes import (
    UNDERPASS,
    EdgeProcess,
    Process,
    QuickTunnelProcess,
    running,
)
from peers.stream_echo import stream_echo


@dataclass(frozen=True)
class Client:
    """A visitor's program: how it is told of an application."""

    name: str

    def command(self, edge: EdgeProcess, hostname: str, *more: str) -> list[str]:
        # Names below localhost are not resolved everywhere.
        if self.name == "underpass":
            program = [*UNDERPASS, "access", "tcp", f"--cacert={edge.ca}"]
            where = f"127.0.0.1:{edge.https_port}"
        else:
            program = [os.environ["UNDERPASS_CLOUDFLARED"], "access", "tcp"]
            where = f"{hostname}:{edge.https_port}:127.0.0.1"
        return [*program, "--hostname", hostname, "--connect-to", where, *more]

    def environment(self, edge: EdgeProcess) -> dict[str, str]:
        return {**os.environ, "SSL_CERT_FILE": str(edge.ca)}


@pytest.fixture(params=["underpass", pytest.param("cloudflared", marks=pytest.mark.interop)])
def client(request: pytest.FixtureRequest) -> Client:
    if request.param == "cloudflared" and not os.environ.get("UNDERPASS_CLOUDFLARED"):
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    return Client(request.param)


@contextlib.contextmanager
def published(edge: EdgeProcess, origin: str) -> Iterator[str]:
    """A tunnel to a stream origin; its hostname."""
    connector = QuickTunnelProcess(edge, f"--url={origin}")
    with running(connector):
        connector.ready()
        yield connector.hostname


@contextlib.contextmanager
def listening(client: Client, edge: EdgeProcess, hostname: str) -> Iterator[int]:
    """A client that listens; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = Process(
        client.command(edge, hostname, "--url", f"127.0.0.1:{port}"), client.environment(edge)
    )

    def is_there() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        eventually(is_there, "it listens")
        yield port
    finally:
        process.kill()


def received(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := sock.recv(65536)):
        data += piece
    return bytes(data)


def test_a_listener_carries_many_connections(edge: EdgeProcess, client: Client) -> None:
    content = os.urandom(3_000_001)
    with (
        stream_echo() as port,
        published(edge, f"tcp://127.0.0.1:{port}") as hostname,
        listening(client, edge, hostname) as local,
        contextlib.ExitStack() as stack,
    ):
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", local), PATIENCE))
            for _ in range(5)
        ]
        for number, sock in enumerate(sockets):
            sock.sendall(b"%d" % number)
        assert [sock.recv(10) for sock in sockets] == [b"0", b"1", b"2", b"3", b"4"]
        sender = threading.Thread(target=sockets[0].sendall, args=(content,))
        sender.start()
        assert received(sockets[0], len(content)) == content
        sender.join(PATIENCE)


def test_standard_streams(edge: EdgeProcess, client: Client) -> None:
    content = os.urandom(300_001)
    with (
        stream_echo() as port,
        published(edge, f"tcp://127.0.0.1:{port}") as hostname,
        subprocess.Popen(
            client.command(edge, hostname),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=client.environment(edge),
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        sender = threading.Thread(target=process.stdin.write, args=(content,))
        sender.start()
        assert process.stdout.read(len(content)) == content
        sender.join(PATIENCE)
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ["--hostname", "nobody.localhost", "--connect-to", "localhost:{port}:127.0.0.1"],
            "no tunnel has this name (status 404",
        ),
        (["--hostname", "127.0.0.1:1"], "cannot connect to 127.0.0.1:1"),
        (["--hostname", "ftp://x"], "not an https address"),
        ([], "give it with --hostname"),
    ],
)
def test_errors_say_what_is_wrong(edge: EdgeProcess, arguments: list[str], why: str) -> None:
    done = subprocess.run(
        [
            *UNDERPASS,
            *("access", "tcp", f"--cacert={edge.ca}"),
            *(argument.format(port=edge.https_port) for argument in arguments),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == (1 if arguments else 2)
    assert why in done.stderr
    assert done.stdout == ""


def test_an_application_that_is_down(edge: EdgeProcess) -> None:
    with published(edge, "tcp://127.0.0.1:1") as hostname:
        done = subprocess.run(
            Client("underpass").command(edge, hostname),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert "the connector could not connect to the origin (status 502, dial, ray" in done.stderr


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """An OpenSSH server and the key of a user who may enter."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists() or shutil.which("ssh") is None:
        pytest.skip("there is no OpenSSH server and client")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    (tmp_path / "authorized").write_bytes((tmp_path / "user.pub").read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path / 'host'}\n"
        f"AuthorizedKeysFile {tmp_path / 'authorized'}\nStrictModes no\nUsePAM no\n"
        f"PidFile {tmp_path / 'pid'}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = Process([program, "-D", "-e", "-f", str(config)])
    try:
        eventually(lambda: "Server listening" in server.log, "sshd listens")
        yield port, tmp_path / "user"
    finally:
        server.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="needs an OpenSSH server")
def test_ssh_by_proxy_command(
    edge: EdgeProcess, client: Client, sshd: tuple[int, Path], tmp_path: Path
) -> None:
    port, key = sshd
    content = os.urandom(5_000_000)
    (tmp_path / "content").write_bytes(content)
    with published(edge, f"ssh://127.0.0.1:{port}") as hostname:
        proxy = " ".join(client.command(edge, hostname))
        ssh = [
            *("ssh", "-F", "/dev/null", "-i", str(key), "-o", f"ProxyCommand={proxy}"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", f"{pwd.getpwuid(os.getuid()).pw_name}@{hostname}"),
        ]
        done = subprocess.run(
            [*ssh, "sha256sum"],
            input=content,
            capture_output=True,
            env=client.environment(edge),
            timeout=PATIENCE,
        )
        assert done.stdout.split()[:1] == [hashlib.sha256(content).hexdigest().encode()], done
        done = subprocess.run(
            [*ssh, f"cat {tmp_path / 'content'}; exit 7"],
            capture_output=True,
            env=client.environment(edge),
            timeout=PATIENCE,
        )
        assert done.stdout == content
        assert done.returncode == 7
