"""Servers that speak no HTTP, as they are installed on this machine: each on a port of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from .patience import PATIENCE, eventually


def program(name: str) -> str:
    """Where it is; without it the test is skipped."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    """One that nobody listens on, for servers that cannot be told to choose."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


@contextlib.contextmanager
def serving(arguments: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """A server process, from when it answers on `port` until the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def answers() -> bool:
        assert process.poll() is None, f"{arguments[0]} has ended:\n{log.read_text()}"
        return listens(port)

    try:
        eventually(answers, f"{arguments[0]} listens")
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class Sshd:
    """An OpenSSH server with keys of its own, for the user who runs the tests."""

    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.known_key = (directory / "host.pub").read_text().strip()
        self.client_key = directory / "client"
        self._directory = directory

    def client(self, port: int, *command: str) -> list[str]:
        """A command line that runs `command` on it, reached by `port` of this machine."""
        known = self._directory / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {self.known_key}\n")
        options = [
            *("StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}", "BatchMode=yes"),
            *("IdentitiesOnly=yes", "LogLevel=ERROR"),
        ]
        return [
            program("ssh"),
            *("-F", "none", "-p", str(port), "-i", str(self.client_key)),
            *(part for option in options for part in ("-o", option)),
            f"{getpass.getuser()}@127.0.0.1",
            *command,
        ]


@contextlib.contextmanager
def sshd(directory: Path) -> Iterator[Sshd]:
    """Begin one."""
    server, keygen = program("sshd"), program("ssh-keygen")
    for name in ("host", "client"):
        subprocess.run(
            [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
        )
    shutil.copy(directory / "client.pub", directory / "authorized_keys")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it does not start without
    port = free_port()
    configuration = directory / "sshd_config"
    configuration.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory / 'host'}\n"
        f"AuthorizedKeysFile {directory / 'authorized_keys'}\nPidFile none\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
    )
    arguments = [server, "-D", "-e", "-f", str(configuration)]
    with serving(arguments, port, directory / "sshd.log"):
        yield Sshd(directory, port)


@contextlib.contextmanager
def samba(directory: Path) -> Iterator[int]:
    """A file server with one share, `files`; yields its port."""
    server = program("smbd")
    port = free_port()
    share = directory / "files"
    share.mkdir()
    places = ("private", "lock", "state", "cache", "pid", "ncalrpc", "binddns")
    options = []
    for place in places:
        (directory / place).mkdir()
        key = "ncalrpc dir" if place == "ncalrpc" else f"{place} directory"
        key = "private dir" if place == "private" else "binddns dir" if place == "binddns" else key
        options.append(f"{key} = {directory / place}")
    configuration = directory / "smb.conf"
    user = getpass.getuser()
    configuration.write_text(
        "\n".join(
            [
                "[global]",
                *("interfaces = lo", "bind interfaces only = yes", "disable netbios = yes"),
                *(f"smb ports = {port}", "map to guest = Bad User", f"guest account = {user}"),
                *("load printers = no", "disable spoolss = yes", "log level = 1"),
                *("server min protocol = SMB2", f"log file = {directory / 'smbd.log'}"),
                *options,
                "[files]",
                *(f"path = {share}", "guest ok = yes", "read only = no"),
                "",
            ]
        )
    )
    arguments = [server, "--foreground", "--no-process-group", f"--configfile={configuration}"]
    with serving(arguments, port, directory / "output.log"):
        yield port


@contextlib.contextmanager
def xrdp(directory: Path) -> Iterator[int]:
    """A server of the Remote Desktop Protocol; yields its port."""
    server = program("xrdp")
    port = free_port()
    configuration = directory / "xrdp.ini"
    configuration.write_text(
        f"[Globals]\nini_version=1\nfork=true\nport=tcp://127.0.0.1:{port}\nuse_vsock=false\n"
        "security_layer=rdp\ncrypt_level=low\n"
        f"[Logging]\nLogFile={directory / 'xrdp.log'}\nLogLevel=INFO\nEnableSyslog=false\n"
        "[Xorg]\nname=Xorg\nlib=libxup.so\nusername=ask\npassword=ask\nip=127.0.0.1\nport=-1\n"
    )
    arguments = [server, "--nodaemon", "--config", str(configuration)]
    with serving(arguments, port, directory / "output.log"):
        yield port
