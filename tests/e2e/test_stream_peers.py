"""SSH, SMB and RDP through a tunnel: real servers, real clients, whole sessions."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.patience import PATIENCE
from peers.processes import EdgeProcess, QuickTunnelProcess, running
from peers.servers import program, samba, sshd, xrdp
from peers.websocket_bridge import websocket_bridge

SIZE = 5 * 1024 * 1024 + 1


@contextlib.contextmanager
def reached(edge: EdgeProcess, *arguments: str) -> Iterator[int]:
    """A quick tunnel with `arguments`; yields a port of this machine that leads through it."""
    connector = QuickTunnelProcess(edge, *arguments)
    with running(connector):
        connector.ready()
        with websocket_bridge(edge, connector.hostname) as port:
            yield port


def run(arguments: list[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        arguments, input=data, capture_output=True, timeout=PATIENCE * 2, check=False
    )


class TestSsh:
    def test_a_command_with_content_both_ways(self, edge: EdgeProcess, tmp_path: Path) -> None:
        content = os.urandom(SIZE)
        with (
            sshd(tmp_path) as server,
            reached(edge, f"--url=ssh://127.0.0.1:{server.port}") as port,
        ):
            finished = run(server.client(port, "sha256sum; echo done >&2; exit 7"), content)
            assert finished.stderr == b"done\n"
            assert finished.stdout.split()[0].decode() == hashlib.sha256(content).hexdigest()
            assert finished.returncode == 7
            assert run(server.client(port, "cat"), content).stdout == content

    def test_several_sessions_at_once(self, edge: EdgeProcess, tmp_path: Path) -> None:
        with (
            sshd(tmp_path) as server,
            reached(edge, f"--url=ssh://127.0.0.1:{server.port}") as port,
        ):
            sessions = [
                subprocess.Popen(
                    server.client(port, f"echo {number}; cat"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                for number in range(5)
            ]
            for number, session in enumerate(sessions):
                # All of them are open before the first one ends.
                assert session.stdout is not None
                assert session.stdout.readline() == b"%d\n" % number
            for session in sessions:
                out, _ = session.communicate(b"bye", PATIENCE)
                assert (out, session.returncode) == (b"bye", 0)


@pytest.mark.interop
def test_smb_files_there_and_back(edge: EdgeProcess, tmp_path: Path) -> None:
    client = program("smbclient")
    there, back = tmp_path / "there.bin", tmp_path / "back.bin"
    there.write_bytes(os.urandom(SIZE))
    with samba(tmp_path) as server, reached(edge, f"--url=smb://127.0.0.1:{server}") as port:
        finished = run(
            [
                *(client, "--no-pass", f"--port={port}", "//127.0.0.1/files"),
                *("--command", f"put {there} kept.bin; ls; get kept.bin {back}"),
            ]
        )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"kept.bin                            A  {SIZE}" in finished.stdout.decode()
    assert filecmp.cmp(there, tmp_path / "files" / "kept.bin", shallow=False)
    assert filecmp.cmp(there, back, shallow=False)


CONNECTION_REQUEST = bytes.fromhex(
    "03000013"  # TPKT (RFC 1006): 19 bytes
    "0ee00000000000"  # X.224 connection request
    "0100080000000000"  # RDP negotiation request: standard security
)


def _exchanged(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(CONNECTION_REQUEST)
        answer = bytearray()
        while len(answer) < 4 or len(answer) < int.from_bytes(answer[2:4], "big"):
            data = connection.recv(4096)
            assert data, f"the server hangs up after {bytes(answer)!r}"
            answer += data
    return bytes(answer)


@pytest.mark.interop
def test_rdp_negotiation(edge: EdgeProcess, tmp_path: Path) -> None:
    with xrdp(tmp_path) as server, reached(edge, f"--url=rdp://127.0.0.1:{server}") as port:
        direct, tunnelled = _exchanged(server), _exchanged(port)
    assert direct == tunnelled
    # An X.224 connection confirm (0xd0) in a TPKT packet.
    assert (tunnelled[0], tunnelled[5]) == (3, 0xD0)
