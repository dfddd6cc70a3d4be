"""`underpass service`: what the command line makes of its arguments."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from underpass.cli import service as module
from underpass.cli.main import underpass
from underpass.operations.service import Machine
from underpass.operations.service.linux import Systemd
from underpass.wire.credentials import Credentials

TOKEN = Credentials("account", b"s" * 32, uuid.UUID(int=1)).to_token()


class Bench:
    """The command on a machine of its own, with systemd."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.home = root / "home"
        self.home.mkdir()
        (root / "run/systemd/system").mkdir(parents=True)
        self.other_is_active = False
        monkeypatch.setattr(module, "Machine", lambda: Machine(root, self._run))
        monkeypatch.setattr(module, "config_directories", lambda: (self.home,))
        monkeypatch.setattr("sys.platform", "linux")

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        if command[1] == "is-active":
            return (0 if self.other_is_active else 3), ""
        return 0, ""

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Result:
        return CliRunner().invoke(underpass, [*arguments], input=stdin, env=env)

    @property
    def token(self) -> str:
        return (self.root / "etc/underpass/token").read_text()

    @property
    def command(self) -> str:
        unit = (self.root / Systemd.unit_file[1:]).read_text()
        (line,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
        return line.partition("underpass ")[2]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in list(os.environ):
        if name.startswith("TUNNEL_"):
            monkeypatch.delenv(name)
    return Bench(tmp_path, monkeypatch)


def test_a_token(bench: Bench) -> None:
    result = bench("service", "install", TOKEN)
    assert result.exit_code == 0, result.output
    assert "The service is installed and runs (systemd)." in result.output
    assert bench.token == TOKEN
    assert bench.command == "tunnel run --token-file /etc/underpass/token"
    assert bench("service", "uninstall").exit_code == 0
    assert not (bench.root / "etc/underpass/token").exists()
    again = bench("service", "uninstall")
    assert (again.exit_code, "the service is not installed" in again.output) == (1, True)


def test_the_token_may_stay_off_the_command_line(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "token.txt"
    file.write_text(TOKEN + "\n")
    for arguments, stdin, env in (
        (["-"], TOKEN + "\n", {}),
        ([f"--token-file={file}"], "", {}),
        ([], "", {"TUNNEL_TOKEN": TOKEN}),
    ):
        result = bench("service", "install", *arguments, stdin=stdin, **env)
        assert result.exit_code == 0, result.output
        assert (bench.token, bench.command) == (
            TOKEN,
            "tunnel run --token-file /etc/underpass/token",
        )
        assert bench("service", "uninstall").exit_code == 0


def test_other_flags_are_kept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = bench(
        *("--edge=one.test:7844", "--edge=two.test:7844", "service", "install"),
        *("--cacert", "ca.pem", "--no-autoupdate", "--grace-period=1m", TOKEN),
    )
    assert result.exit_code == 0, result.output
    assert bench.command == (
        f"tunnel --edge=one.test:7844 --edge=two.test:7844 --cacert={tmp_path}/ca.pem "
        "--grace-period=1m0s --no-autoupdate=true run --token-file /etc/underpass/token"
    )


def test_secrets_are_not_kept(bench: Bench) -> None:
    result = bench("service", "install", "--credentials-contents={}", TOKEN)
    assert result.exit_code == 1
    assert "where every user can read it" in result.output
    assert not (bench.root / "etc").exists()


def test_a_configuration_file(bench: Bench, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials.json"
    credentials.write_text("{}")
    config = bench.home / "config.yml"
    config.write_text(f"tunnel: {uuid.UUID(int=1)}\ncredentials-file: {credentials}\n")
    result = bench("service", "install")
    assert result.exit_code == 0, result.output
    assert bench.command == "tunnel --config=/etc/underpass/config.yml run"
    assert (bench.root / "etc/underpass/config.yml").read_text() == config.read_text()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "give a token"),
        ("tunnel: x\n", "has to name a `tunnel` and a `credentials-file`"),
        ("tunnel: x\ncredentials-file: here.json\n", "the absolute path of a file that exists"),
        ("tunnel: x\ncredentials-file: /nothing.json\n", "the absolute path of a file that exists"),
    ],
)
def test_a_configuration_that_cannot_start_a_service(
    bench: Bench, config: str | None, reason: str
) -> None:
    if config is not None:
        (bench.home / "config.yml").write_text(config)
    result = bench("service", "install")
    assert result.exit_code == 1
    assert reason in " ".join(result.output.split())
    assert not (bench.root / "etc").exists()


def test_a_token_that_is_none(bench: Bench) -> None:
    result = bench("service", "install", "nonsense")
    assert result.exit_code == 1
    assert not (bench.root / "etc").exists()


def test_a_stock_connector_is_mentioned(bench: Bench) -> None:
    bench.other_is_active = True
    assert "Note: cloudflared.service is running too" in bench("service", "install", TOKEN).output


def test_the_group_explains_itself(bench: Bench) -> None:
    assert "install" in bench("help", "service").output
