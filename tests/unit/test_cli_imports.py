"""A connector starts light: what it does not need is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

import underpass
from underpass.wire.credentials import Credentials

ROOTS = Path(underpass.__file__).with_name("connector") / "cloudflare_roots.pem"

HEAVY = {
    "starlette",
    "uvicorn",
    "jinja2",
    "prometheus_client",
    "rich",
    "dns",
    "yaml",
    "sqlite3",
    "underpass.edge",
}


@pytest.mark.parametrize(
    "modules",
    [
        "underpass.cli.main, underpass.cli.tunnel",
        "underpass.connector.runner",
        "underpass.connector.ingress, underpass.connector.config, underpass.connector.quick",
    ],
)
def test_heavy_packages_are_not_imported_at_start(modules: str) -> None:
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert HEAVY.isdisjoint(done.stdout.split())


def test_version_imports_no_connector() -> None:
    program = (
        "import sys, underpass.cli.main as m; "
        "print(*[n for n in sys.modules if n.startswith('underpass.connector.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    allowed = {"underpass.connector.settings_table"}
    assert set(done.stdout.split()) == allowed


def test_an_account_has_to_do_with_neither_connector_nor_edge() -> None:
    program = (
        "import importlib, pkgutil, sys, underpass.account as room\n"
        "for each in pkgutil.iter_modules(room.__path__):\n"
        "    importlib.import_module(f'underpass.account.{each.name}')\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    imported = set(done.stdout.split())
    assert "underpass.account.client" in imported
    assert HEAVY.isdisjoint(imported)
    assert not {name for name in imported if name.startswith(("underpass.connector", "asyncio"))}


@pytest.mark.parametrize(
    "modules",
    [
        "underpass.cli.tunnel, underpass.connector.runner, underpass.connector.link",
        "underpass.cli.edge, underpass.edge.runner",
    ],
)
def test_one_process_knows_nothing_of_workers(modules: str) -> None:
    program = f"import sys, {modules}; print(*[n for n in sys.modules if 'worker' in n])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert [name for name in done.stdout.split() if name.startswith("underpass")] == []


def test_a_command_that_only_asks_needs_no_event_loop() -> None:
    program = "import sys, underpass.cli.tunnel; print('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False"]


# What one link over HTTP/2 with one plain origin does without, all of its start included.
UNUSED_BY_ONE_LINK = HEAVY | {
    "cryptography",
    "ctypes",
    "dataclasses",
    "email",
    "hashlib",
    "http.client",
    "importlib.metadata",
    "joserfc",
    "importlib.resources",
    "logging.handlers",
    "multiprocessing",
    "shutil",
    "tempfile",
    "truststore",
    "underpass.account",
    "underpass.cli.account",
    "underpass.cli.embedded",
    "underpass.connector.access_keys",
    "underpass.connector.configuration_stream",
    "underpass.connector.edge_proxy",
    "underpass.wire.access_token",
    "underpass.connector.inspection",
    "underpass.connector.management",
    "underpass.connector.path_pattern",
    "underpass.connector.prechecks",
    "underpass.connector.proxy_dialer",
    "underpass.connector.quick",
    "underpass.connector.re2_syntax",
    "underpass.connector.remote",
    "underpass.connector.request_path",
    "underpass.connector.request_log",
    "underpass.connector.services.handshake",
    "underpass.connector.services.hello_world",
    "underpass.connector.services.private",
    "underpass.connector.services.stream",
    "underpass.connector.services.websocket",
    "underpass.connector.stdin_control",
    "underpass.ops.file_watch",
    "underpass.core.http1server",
    "underpass.core.stream",
    "underpass.core.websocket",
    "underpass.operations",
    "underpass.ops.http_request",
    "underpass.ops.process_report",
    "underpass.ops.rotating_file",
    "underpass.ops.system_information",
    "underpass.wire.log_streaming",
    "underpass.wire.quick_tunnel",
}
if sys.version_info >= (3, 14):
    UNUSED_BY_ONE_LINK -= {"dataclasses"}  # which asyncio has come to use
if sys.platform == "win32":
    UNUSED_BY_ONE_LINK -= {"ctypes", "shutil", "tempfile"}  # which its event loop asks for

# Runs the whole command line up to the first dial, tells what is loaded by then, and ends.
UNTIL_DIALLING = """
import os, sys
from underpass.connector.link import HttpLinkDialer

async def tell(*_):
    print(*sys.modules, flush=True)
    os._exit(0)

HttpLinkDialer.dial = tell
from underpass.__main__ import main
main()
"""


def test_a_connector_with_one_link_imports_what_it_runs() -> None:
    credentials = Credentials("account", bytes(32), uuid.UUID(int=1))
    command = ["tunnel", "--edge=127.0.0.1:1", "--metrics=127.0.0.1:0", "--ha-connections=1"]
    command += [f"--cacert={ROOTS}", "--url=http://127.0.0.1:1", "run"]
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_DIALLING, *command],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TUNNEL_TOKEN": credentials.to_token()},
    )
    imported = set(done.stdout.split())
    assert "underpass.connector.link" in imported
    assert not UNUSED_BY_ONE_LINK & imported
