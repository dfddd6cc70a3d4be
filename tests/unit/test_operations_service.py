"""Services: what is written, which commands run, and that a failure leaves nothing behind."""

from __future__ import annotations

import plistlib
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from underpass.operations.service import (
    Machine,
    Manager,
    ServiceError,
    ServiceRequest,
    find_manager,
    install,
    uninstall,
)
from underpass.operations.service.linux import OpenRc, Systemd, SystemV, find_init, systemd_word
from underpass.operations.service.machine import run_command
from underpass.operations.service.macos import Launchd
from underpass.operations.service.windows import TaskScheduler
from underpass.wire.credentials import Credentials

TOKEN = Credentials("account", b"s" * 32, uuid.UUID(int=1)).to_token()
PROGRAM = ("/opt/under pass/bin/underpass",)
REQUEST = ServiceRequest(PROGRAM, ("--edge=edge.example:7844", "--tag=a=50%"), TOKEN)


class Commands:
    """Takes notes instead of running anything; `failing` are beginnings of commands that fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.ran: list[str] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        line = " ".join(command)
        self.ran.append(line)
        return (1, "no such luck") if line.startswith(self.failing or ("\0",)) else (0, "")


@pytest.fixture
def commands() -> Commands:
    return Commands("systemctl is-active")


@pytest.fixture
def machine(tmp_path: Path, commands: Commands) -> Machine:
    return Machine(tmp_path, commands)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


MANAGERS: list[Manager] = [
    Systemd(),
    OpenRc(),
    SystemV(),
    Launchd(0, Path("/root")),
    Launchd(501, Path("/Users/me")),
    TaskScheduler(),
]
NAMES = ["systemd", "openrc", "sysv", "launchd-root", "launchd-user", "windows"]


@pytest.mark.parametrize("manager", MANAGERS, ids=NAMES)
class TestEveryManager:
    def test_the_token_is_in_a_file_of_its_own_and_nowhere_else(
        self, manager: Manager, machine: Machine, commands: Commands, tmp_path: Path
    ) -> None:
        install(machine, manager, REQUEST)
        token_file = machine.path(manager.token_file)
        assert token_file.read_text() == TOKEN
        if sys.platform != "win32":
            assert mode(token_file) == 0o600
        for name in files(tmp_path):
            path = tmp_path / name
            if path != token_file and not path.is_symlink():
                assert TOKEN.encode() not in path.read_bytes()
        assert all(TOKEN not in command for command in commands.ran)
        assert TOKEN not in repr(REQUEST)

    def test_a_second_installation_is_refused(
        self, manager: Manager, machine: Machine, tmp_path: Path
    ) -> None:
        install(machine, manager, REQUEST)
        before = files(tmp_path)
        with pytest.raises(ServiceError, match="installed already"):
            install(machine, manager, REQUEST)
        assert files(tmp_path) == before

    def test_uninstalling_leaves_nothing(
        self, manager: Manager, machine: Machine, tmp_path: Path
    ) -> None:
        install(machine, manager, REQUEST)
        uninstall(machine, manager)
        assert files(tmp_path) == []
        with pytest.raises(ServiceError, match="not installed"):
            uninstall(machine, manager)

    def test_uninstalling_leaves_the_configuration(
        self, manager: Manager, machine: Machine, tmp_path: Path
    ) -> None:
        config = tmp_path / "config.yml"
        config.write_text("tunnel: x\n")
        install(machine, manager, ServiceRequest(PROGRAM, config=config))
        kept = machine.path(manager.config_file)
        assert kept.read_text() == "tunnel: x\n"
        assert not machine.exists(manager.token_file)
        uninstall(machine, manager)
        assert kept.exists()
        # And the next installation uses it where it is.
        install(machine, manager, ServiceRequest(PROGRAM, config=kept))

    def test_another_configuration_in_its_place_is_not_overwritten(
        self, manager: Manager, machine: Machine, tmp_path: Path
    ) -> None:
        there = machine.path(manager.config_file)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text("another\n")
        config = tmp_path / "config-of-mine.yml"
        config.write_text("tunnel: x\n")
        with pytest.raises(ServiceError, match="exists already"):
            install(machine, manager, ServiceRequest(PROGRAM, config=config))
        assert there.read_text() == "another\n"
        assert manager.installed(machine) == ""

    def test_whatever_fails_is_taken_back(self, manager: Manager, tmp_path: Path) -> None:
        """Every command in turn fails."""
        succeeds = Commands("systemctl is-active")
        whole = tmp_path / "whole"
        install(Machine(whole, succeeds), manager, REQUEST)
        assert succeeds.ran
        for number, command in enumerate(succeeds.ran):
            root = tmp_path / f"attempt-{number}"
            root.mkdir()
            fails = Commands(command)
            with pytest.raises(ServiceError, match="no such luck"):
                install(Machine(root, fails), manager, REQUEST)
            assert list(root.rglob("*")) == []


class TestSystemd:
    def unit(self, machine: Machine) -> str:
        install(machine, Systemd(), REQUEST)
        return machine.path(Systemd.unit_file).read_text()

    def test_the_command(self, machine: Machine) -> None:
        (line,) = (
            line for line in self.unit(machine).splitlines() if line.startswith("ExecStart=")
        )
        assert line == (
            'ExecStart="/opt/under pass/bin/underpass" tunnel --edge=edge.example:7844 '
            "--tag=a=50%% run --token-file /etc/underpass/token"
        )

    def test_the_order_of_commands(self, machine: Machine, commands: Commands) -> None:
        self.unit(machine)
        assert commands.ran == [
            "systemctl daemon-reload",
            "systemctl enable underpass.service",
            "systemctl start underpass.service",
        ]
        commands.ran.clear()
        uninstall(machine, Systemd())
        assert commands.ran == [
            "systemctl disable underpass.service",
            "systemctl stop underpass.service",
            "systemctl daemon-reload",
        ]

    def test_a_failed_start_is_stopped_and_disabled_again(self, tmp_path: Path) -> None:
        commands = Commands("systemctl start")
        with pytest.raises(ServiceError, match=r"`systemctl start underpass\.service` failed"):
            install(Machine(tmp_path, commands), Systemd(), REQUEST)
        assert commands.ran[-3:] == [
            "systemctl stop underpass.service",
            "systemctl disable underpass.service",
            "systemctl daemon-reload",
        ]

    @pytest.mark.skipif(
        shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
    )
    def test_systemd_finds_nothing_wrong_with_the_unit(
        self, machine: Machine, tmp_path: Path
    ) -> None:
        # It looks whether the program is there.
        request = ServiceRequest((sys.executable, "-m", "underpass"), ("--tag=a=50% $x",), TOKEN)
        install(machine, Systemd(), request)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", machine.path(Systemd.unit_file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_another_connector_is_mentioned(self, tmp_path: Path) -> None:
        (remark,) = Systemd().remarks(Machine(tmp_path, Commands()))
        assert "cloudflared.service is running too" in remark
        assert Systemd().remarks(Machine(tmp_path, Commands("systemctl is-active"))) == ()

    @pytest.mark.parametrize(
        ("word", "written"),
        [
            ("plain", "plain"),
            ("", '""'),
            ("two words", '"two words"'),
            ("100%", "100%%"),
            ("$HOME", "$$HOME"),
            ('a"b\\', '"a\\"b\\\\"'),
            ("a;b", '"a;b"'),
        ],
    )
    def test_words_are_quoted(self, word: str, written: str) -> None:
        assert systemd_word(word) == written

    def test_a_word_cannot_end_the_line(self) -> None:
        with pytest.raises(ServiceError, match="control characters"):
            systemd_word("a\nExecStartPost=/bin/sh")


class TestOtherInits:
    def test_which_one_runs(self, machine: Machine, tmp_path: Path) -> None:
        assert isinstance(find_init(machine), SystemV)
        (tmp_path / "sbin").mkdir()
        (tmp_path / "sbin/openrc-run").touch()
        assert isinstance(find_init(machine), OpenRc)
        (tmp_path / "run/systemd/system").mkdir(parents=True)
        assert isinstance(find_init(machine), Systemd)

    @pytest.mark.parametrize("manager", [OpenRc(), SystemV()], ids=["openrc", "sysv"])
    def test_the_script_is_one(self, machine: Machine, manager: Manager) -> None:
        install(machine, manager, REQUEST)
        script = machine.path("/etc/init.d/underpass")
        assert mode(script) == 0o755
        subprocess.run(["sh", "-n", script], check=True)

    def test_openrc_gets_the_words_as_they_are(self, machine: Machine, tmp_path: Path) -> None:
        install(machine, OpenRc(), REQUEST)
        script = machine.path("/etc/init.d/underpass")
        # As OpenRC does: source it, then `eval` the arguments.
        program = f'. "{script}"; eval "set -- \\"\\$command\\" $command_args"; printf "%s\\n" "$@"'
        done = subprocess.run(["sh", "-c", program], check=True, capture_output=True, text=True)
        assert done.stdout.splitlines() == [
            *PROGRAM,
            "tunnel",
            *REQUEST.settings,
            *("run", "--token-file", "/etc/underpass/token"),
        ]

    def test_system_v_links(self, machine: Machine, commands: Commands, tmp_path: Path) -> None:
        install(machine, SystemV(), REQUEST)
        assert (tmp_path / "etc/rc3.d/S50underpass").readlink() == Path("/etc/init.d/underpass")
        assert (tmp_path / "etc/rc6.d/K02underpass").is_symlink()
        assert commands.ran == ["service underpass start"]

    def test_system_v_starts_tells_and_stops(self, tmp_path: Path) -> None:
        """The script itself, with another program in the connector's place."""
        machine = Machine(tmp_path, Commands())
        sleeper = tmp_path / "sleeper"
        sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
        sleeper.chmod(0o755)
        install(machine, SystemV(), ServiceRequest((str(sleeper),), (), TOKEN))
        script = machine.path("/etc/init.d/underpass")
        text = script.read_text()
        for place in ("/var/run/underpass.pid", "/var/log/underpass.err"):
            text = text.replace(place, str(tmp_path / Path(place).name))
        script.write_text(text)

        def ask(verb: str) -> int:
            return subprocess.run(["sh", script, verb], check=False).returncode

        assert ask("status") == 3
        assert ask("start") == 0
        assert (ask("status"), ask("start"), ask("reload")) == (0, 0, 0)
        assert ask("stop") == 0
        assert (ask("status"), ask("stop"), ask("nonsense")) == (3, 0, 2)


class TestLaunchd:
    def test_the_plist(self, machine: Machine, commands: Commands) -> None:
        manager = Launchd(0, Path("/root"))
        install(machine, manager, REQUEST)
        path = "/Library/LaunchDaemons/underpass.plist"
        document = plistlib.loads(machine.path(path).read_bytes())
        assert document["ProgramArguments"] == [
            *PROGRAM,
            "tunnel",
            *REQUEST.settings,
            *("run", "--token-file", "/Library/Application Support/underpass/token"),
        ]
        assert document["KeepAlive"] == {"SuccessfulExit": False}
        assert document["StandardErrorPath"] == "/Library/Logs/underpass.err.log"
        assert commands.ran == [f"launchctl bootstrap system {path}"]
        assert manager.remarks(machine) == ()

    def test_without_root_it_is_an_agent_of_the_user(
        self, machine: Machine, commands: Commands
    ) -> None:
        manager = Launchd(501, Path("/Users/me"))
        install(machine, manager, REQUEST)
        path = "/Users/me/Library/LaunchAgents/underpass.plist"
        assert machine.exists(path)
        assert commands.ran == [f"launchctl bootstrap gui/501 {path}"]
        (remark,) = manager.remarks(machine)
        assert "while you are logged in" in remark


class TestWindows:
    def test_the_task(self, machine: Machine, commands: Commands) -> None:
        manager = TaskScheduler()
        request = ServiceRequest((r"C:\Program Files\underpass.exe",), ("--tag=a=<&>",), TOKEN)
        install(machine, manager, request)
        text = machine.path(manager.task_file).read_bytes().decode("utf-16")
        task = ET.fromstring(text.partition("?>")[2])
        space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
        command = task.find(f".//{space}Command")
        arguments = task.find(f".//{space}Arguments")
        assert command is not None
        assert arguments is not None
        assert command.text == r"C:\Program Files\underpass.exe"
        assert arguments.text == (
            r"tunnel --tag=a=<&> run --token-file C:\ProgramData\underpass\token"
        )
        protect, create, run = commands.ran
        assert protect == (
            r"icacls C:\ProgramData\underpass\token /inheritance:r "
            "/grant:r *S-1-5-32-544:F /grant:r *S-1-5-18:F"
        )
        assert create.startswith("schtasks /Create /TN Underpass /XML ")
        assert run == "schtasks /Run /TN Underpass"


def test_other_systems_are_told_what_to_do(machine: Machine) -> None:
    with pytest.raises(ServiceError, match="tunnel run --token-file FILE"):
        find_manager(machine, "freebsd14")


def test_a_command_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    code, output = run_command([str(tmp_path / "nothing")])
    assert code == 127
    assert "No such file" in output
    assert run_command([sys.executable, "-c", "print('said')"]) == (0, "said")
    with pytest.raises(ServiceError, match="exit code 3: said"):
        Machine(tmp_path).do(sys.executable, "-c", "print('said'); raise SystemExit(3)")
