"""The parts of a hand-over: what is started, with what, and how the two speak."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import HandoverError, OptionsError
from underpass.edge.handover import VARIABLE, messages
from underpass.edge.handover.command import own_command
from underpass.edge.handover.options import MAX_DRAIN_SECONDS, HandoverOptions
from underpass.edge.handover.predecessor import Predecessor
from underpass.edge.handover.successor import Successor
from underpass.edge.listening import KeptSocket
from underpass.edge.upgrades import Upgrade, upgrade

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors cannot be given away")


class TestTheCommand:
    def test_an_interpreter_with_options_stays(self) -> None:
        original = ["python", "-X", "dev", "-m", "underpass", "edge", "run", "--http=:80"]
        command = own_command(original, "/lib/underpass/__main__.py", "/opt/bin/python")
        assert command == ["/opt/bin/python", *original[1:]]

    def test_a_script_names_its_interpreter_itself(self, tmp_path: Path) -> None:
        script = tmp_path / "underpass"
        script.write_text("#!/opt/old/bin/python\n")
        script.chmod(0o755)
        original = ["/opt/old/bin/python", str(script), "edge", "run"]
        assert own_command(original, str(script), original[0]) == [str(script), "edge", "run"]

    def test_one_that_cannot_be_executed_does_not(self, tmp_path: Path) -> None:
        script = tmp_path / "underpass.py"
        script.write_text("#!/opt/old/bin/python\n")
        script.chmod(0o644)
        original = ["python", str(script), "edge", "run"]
        command = own_command(original, str(script), "/opt/bin/python")
        assert command == ["/opt/bin/python", str(script), "edge", "run"]

    def test_of_this_very_process(self) -> None:
        assert own_command()[1:] == sys.orig_argv[1:] or own_command()[0] == sys.argv[0]


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), MAX_DRAIN_SECONDS + 1])
def test_a_drain_that_is_none_or_never_ends(seconds: float) -> None:
    with pytest.raises(OptionsError, match="drain time"):
        HandoverOptions(seconds)


class Heir:
    """An old process' edge with one socket."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.told: list[Any] = []
        self.let_go = False

    def estate(self) -> Sequence[KeptSocket]:
        return [KeptSocket("http", "127.0.0.1:0", self.listener)]

    def kept_aside(self) -> Sequence[tuple[UUID, UUID]]:
        return [(UUID(int=1), UUID(int=2))]

    async def introduce(self, successor: Successor) -> None:
        successor.tell(messages.PeerIsUp(0, "/somewhere/0.sock"))

    async def let_go_of_control(self) -> None:
        self.let_go = True

    def notice(self, notice: Any) -> None:
        self.told.append(notice)

    async def close_links(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        self.told.append((tunnel_id, connector_id))


PROGRAM = """
import asyncio, os, sys
from underpass.edge.errors import HandoverError
from underpass.edge.handover import messages
from underpass.edge.handover.predecessor import Predecessor

async def main():
    {body}

asyncio.run(main())
"""


def follow(body: str, tmp_path: Path) -> tuple[Heir, Successor, BaseException | None]:
    """What becomes of an attempt to be followed by a program."""

    async def main() -> tuple[Heir, Successor, BaseException | None]:
        heir = Heir()
        lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        command = [sys.executable, "-c", PROGRAM.format(body=body)]
        successor = Successor(command, heir, lock, range(4, 6))
        error: BaseException | None = None
        try:
            await asyncio.wait_for(successor.start(), 60)
        except HandoverError as raised:
            error = raised
        await successor.close()
        os.close(lock)
        heir.listener.close()
        return heir, successor, error

    return asyncio.run(main())


class TestTheTwo:
    def test_it_gets_everything(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        heir, successor, error = follow(
            """
    os.write(2, b"before\\n")
    old = await Predecessor.find()
    os.write(2, b"after\\n")
    (kept,) = old.sockets
    assert (kept.name, kept.asked) == ("http", "127.0.0.1:0"), kept
    assert kept.listener.getsockname()[0] == "127.0.0.1"
    assert old.numbers == range(4, 6)
    assert [(int(tunnel), int(key)) for tunnel, key in old.aside] == [(1, 2)]
    os.fstat(old.lock)
    assert not os.get_inheritable(old.lock)
    assert "UNDERPASS_HANDOVER" not in os.environ
    assert old._heard == [messages.PeerIsUp(0, "/somewhere/0.sock")]
    old._tell(messages.PeerIsUp(6, "/elsewhere/6.sock"))
    await old.take_over()
    old.taken()
    await old.gone.wait()
""",
            tmp_path,
        )
        assert error is None
        assert heir.let_go
        assert heir.told == [messages.PeerIsUp(6, "/elsewhere/6.sock")]
        assert successor.workers == {6}
        assert successor.has_taken
        assert "before\nafter\n" in capfd.readouterr().err

    def test_its_reason_is_told(self, tmp_path: Path) -> None:
        heir, _, error = follow(
            """
    old = await Predecessor.find()
    await old.failed("there is no room")
""",
            tmp_path,
        )
        assert str(error) == "the new process cannot serve: there is no room"
        assert not heir.let_go

    def test_or_what_it_said_last(self, tmp_path: Path) -> None:
        _, _, error = follow("sys.exit('no such option')", tmp_path)
        assert str(error) == "the new process has ended (exit code 1): no such option"

    def test_one_that_dies(self, tmp_path: Path) -> None:
        _, _, error = follow("await Predecessor.find(); os.kill(os.getpid(), 9)", tmp_path)
        assert str(error) == "the new process has ended (signal SIGKILL)"

    def test_one_that_speaks_otherwise(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(messages, "PROTOCOL", 99)
        _, _, error = follow(
            """
    try:
        await Predecessor.find()
    except HandoverError as error:
        sys.exit(str(error))
""",
            tmp_path,
        )
        assert "restart the edge instead" in str(error)

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        async def main() -> None:
            heir = Heir()
            lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
            successor = Successor([str(tmp_path / "gone")], heir, lock, range(1))
            with pytest.raises(HandoverError, match=r"cannot start .*gone: No such file"):
                await successor.start()
            os.close(lock)
            heir.listener.close()

        before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
        asyncio.run(main())
        after = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
        assert after == before

    def test_nobody_is_followed_by_itself(self) -> None:
        async def main() -> None:
            assert await Predecessor.find({}) is None
            with pytest.raises(HandoverError, match="no socket of another process"):
                await Predecessor.find({VARIABLE: "none"})

        asyncio.run(main())


class TestUpgrades:
    def test_attempts_are_counted(self, tmp_path: Path) -> None:
        directory = DataDirectory.of_running_edge(tmp_path)
        assert Upgrade.read(directory) is None
        first = Upgrade.begin(directory)
        assert (first.number, first.pid, first.state) == (1, os.getpid(), "under way")
        first.failed(directory, "no")
        assert Upgrade.begin(directory).number == 2
        first.done(directory, 77)
        found = Upgrade.read(directory)
        assert found is not None
        assert (found.state, found.successor) == ("done", 77)
        directory.upgrade.write_text("{")
        assert Upgrade.read(directory) is None

    def test_without_an_edge_nobody_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = DataDirectory.open(tmp_path / "edge")
        directory.close()
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
        with pytest.raises(HandoverError, match="no edge is running on"):
            upgrade(tmp_path / "edge")

    def test_the_holder_of_the_lock_is_asked_and_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = DataDirectory.open(tmp_path / "edge")
        asked: list[tuple[int, int]] = []

        def kill(pid: int, number: int) -> None:
            asked.append((pid, number))
            Upgrade.begin(directory).failed(directory, "the new process is ill")

        monkeypatch.setattr(os, "kill", kill)
        with pytest.raises(
            HandoverError, match=f"the new process is ill. Process {os.getpid()} goes on as before"
        ):
            upgrade(tmp_path / "edge")
        assert asked == [(os.getpid(), signal.SIGUSR2)]
        Upgrade.begin(directory)
        with pytest.raises(HandoverError, match=f"process {os.getpid()} is being replaced already"):
            upgrade(tmp_path / "edge")
        directory.close()


class TestTheLock:
    def test_two_have_it_and_it_is_never_free(self, tmp_path: Path) -> None:
        old = DataDirectory.open(tmp_path / "edge")
        left = old.scratch / "in use"
        left.touch()
        new = DataDirectory.handed_over(tmp_path / "edge", os.dup(old.lock))
        assert left.exists()
        old.close()
        assert old.lock == -1
        assert new.holder() == os.getpid()
        (tmp_path / "edge" / "edge.lock").write_text("1\n")
        new.sign()
        assert new.holder() == os.getpid()
        new.close()
        assert new.holder() is None
