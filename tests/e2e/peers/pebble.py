"""Pebble, Let's Encrypt's authority for tests, and the DNS it believes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from .patience import PATIENCE, eventually
from .processes import Process

HOOK = """
import json, sys, urllib.request
what, record, value = sys.argv[2:]
path = "set-txt" if what == "present" else "clear-txt"
body = json.dumps({"host": record + ".", "value": value}).encode()
urllib.request.urlopen(f"http://{sys.argv[1]}/{path}", body, timeout=30).close()
"""


class Pebble:
    """An authority that finds every name at 127.0.0.1, and its proofs at one port, or another with
    TLS."""

    def __init__(self, directory: Path, http_port: int = 1, tls_port: int = 1) -> None:
        if shutil.which("pebble") is None or shutil.which("pebble-challtestsrv") is None:
            pytest.skip("there is no ACME authority (Debian's package pebble)")
        self._directory = directory
        self._dns, self._management, self._port = (_free_port() for _ in range(3))
        self._processes: list[Process] = []
        authority = trustme.CA()
        self.roots = directory / "pebble-ca.pem"
        authority.cert_pem.write_to_path(str(self.roots))
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        leaf.private_key_and_cert_chain_pem.write_to_path(str(directory / "pebble.pem"))
        (directory / "pebble.json").write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"127.0.0.1:{self._port}",
                        "managementListenAddress": f"127.0.0.1:{_free_port()}",
                        "certificate": str(directory / "pebble.pem"),
                        "privateKey": str(directory / "pebble.pem"),
                        "httpPort": http_port,
                        "tlsPort": tls_port,
                    }
                }
            )
        )
        (directory / "hook.py").write_text(HOOK)

    @property
    def arguments(self) -> list[str]:
        """What an edge is told to use it."""
        return [
            "--acme",
            f"--acme-directory=https://127.0.0.1:{self._port}/dir",
            f"--acme-roots={self.roots}",
        ]

    @property
    def settings(self) -> dict[str, str]:
        """The same for an edge's configuration file."""
        return {
            "directory": f"https://127.0.0.1:{self._port}/dir",
            "roots": str(self.roots),
        }

    @property
    def dns_arguments(self) -> list[str]:
        """What it is told beside, to prove names by DNS."""
        hook = f"{sys.executable} {self._directory / 'hook.py'} 127.0.0.1:{self._management}"
        return [f"--acme-dns-hook={hook}"]

    @contextmanager
    def serving(self) -> Iterator[Pebble]:
        dns = Process(
            [
                *("pebble-challtestsrv", "-http01=", "-https01=", "-tlsalpn01="),
                *("-defaultIPv6=", f"-dns01=127.0.0.1:{self._dns}"),
                f"-management=127.0.0.1:{self._management}",
            ]
        )
        pebble = Process(
            [
                *("pebble", f"-config={self._directory / 'pebble.json'}"),
                f"-dnsserver=127.0.0.1:{self._dns}",
            ],
            {
                "PATH": os.environ["PATH"],
                # What it would do now and then to try its clients' patience.
                "PEBBLE_VA_NOSLEEP": "1",
                "PEBBLE_WFE_NONCEREJECT": "0",
            },
        )
        try:
            eventually(self._answers, "the authority answers")
            yield self
        finally:
            for process in (pebble, dns):
                process.kill()

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=self.roots)
        try:
            with urllib.request.urlopen(
                f"https://127.0.0.1:{self._port}/dir", context=context, timeout=PATIENCE
            ):
                return True
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
