"""What a service manager is told."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from underpass.ops import service_manager

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A manager's end; the process has told it nothing yet."""
    monkeypatch.setattr(service_manager, "_told_ready", False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        yield end


def test_a_life(manager: socket.socket) -> None:
    service_manager.ready()
    assert manager.recv(256) == b"READY=1"
    with service_manager.reloading():
        first, _, second = manager.recv(256).partition(b"\n")
        assert first == b"RELOADING=1"
        assert second.removeprefix(b"MONOTONIC_USEC=").isdigit()
    assert manager.recv(256) == b"READY=1"
    service_manager.stopping()
    assert manager.recv(256) == b"STOPPING=1"


def test_a_reload_before_the_start_is_over_does_not_end_it(manager: socket.socket) -> None:
    with service_manager.reloading():
        pass
    with pytest.raises(BlockingIOError):
        manager.recv(256)


def test_a_reload_that_fails_is_over_too(manager: socket.socket) -> None:
    service_manager.ready()
    with pytest.raises(ValueError, match="refused"), service_manager.reloading():
        raise ValueError("refused")
    told = [manager.recv(256) for _ in range(3)]
    assert told[-1] == b"READY=1"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_abstract_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0underpass-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@underpass-test-notify")
        service_manager.stopping()
        assert end.recv(256) == b"STOPPING=1"


def test_nobody_to_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("underpass"), "propagate", True)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service_manager.stopping()
    monkeypatch.setenv("NOTIFY_SOCKET", "not/absolute")
    service_manager.stopping()
    assert caplog.records == []
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    service_manager.stopping()
    # The same one twice, where a handler is there for loggers that hand nothing on.
    (record,) = dict.fromkeys(caplog.records)
    assert record.message == "Unable to notify the service manager"


def test_another_process_becomes_the_main_one(manager: socket.socket) -> None:
    service_manager.succeeded_by(77)
    assert manager.recv(256) == b"MAINPID=77\nREADY=1"


def test_the_other_process_says_nothing_itself(manager: socket.socket) -> None:
    service_manager.ready(is_told=True)
    with pytest.raises(BlockingIOError):
        manager.recv(256)
    with service_manager.reloading():
        assert manager.recv(256).startswith(b"RELOADING=1")
