"""`underpass edge`: setting an edge up and managing its tokens from its machine."""

from __future__ import annotations

import base64
import json
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from underpass.cli.edge import edge
from underpass.edge import runner
from underpass.edge.data_directory import DataDirectory
from underpass.edge.options import EdgeOptions
from underpass.edge.timeouts import Timeouts

Command = Callable[..., Result]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def command(data_dir: Path) -> Command:
    """Runs `underpass edge …` on the data directory."""

    def run(*arguments: str, fails: bool = False) -> Result:
        result = CliRunner().invoke(edge, [*arguments, "--data-dir", str(data_dir)])
        assert (result.exit_code != 0) == fails, result.output
        return result

    return run


def certificate(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1]) == (
        "-----BEGIN ARGO TUNNEL TOKEN-----",
        "-----END ARGO TUNNEL TOKEN-----",
    )
    decoded: dict[str, str] = json.loads(base64.b64decode("".join(lines[1:-1])))
    return decoded


def listed(command: Command, *what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(command(*what, "--json").stdout)
    return found


def test_init_makes_all_that_an_edge_and_its_administrator_need(
    command: Command, data_dir: Path
) -> None:
    told = command("init", "--domain", "Example.Test").stdout
    said = certificate(data_dir / "cert.pem")
    (account,) = listed(command, "account", "list")
    assert (account["id"], account["zone_id"]) == (said["accountID"], said["zoneID"])
    assert (account["name"], account["domain"]) == ("main", "example.test")
    (token,) = listed(command, "token", "list")
    assert said["apiToken"].startswith(f"up_{token['id']}_")
    assert token["scopes"] == "read tunnels routes"
    for name in ("ca.pem", "ca-key.pem", "edge.db", "cert.pem"):
        assert (data_dir / name).is_file()
    assert str(data_dir / "cert.pem") in told
    assert said["apiToken"] not in told
    if sys.platform != "win32":
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        for name in ("ca-key.pem", "edge.db", "cert.pem"):
            assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600


def test_the_directory_of_the_certificate_is_made(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "home" / ".underpass" / "cert.pem"
    command("init", "--cert", str(path))
    assert certificate(path)["apiToken"].startswith("up_")
    if sys.platform != "win32":
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_init_is_done_once(command: Command, data_dir: Path, tmp_path: Path) -> None:
    command("init")
    before = (data_dir / "cert.pem").read_bytes()
    assert "exists already" in command("init", fails=True).output
    again = command("init", "--cert", str(tmp_path / "other.pem"), fails=True)
    assert "was set up before" in again.output
    assert not (tmp_path / "other.pem").exists()
    assert (data_dir / "cert.pem").read_bytes() == before


def test_init_beside_a_running_edge(command: Command, data_dir: Path) -> None:
    running = DataDirectory.open(data_dir)
    command("init")
    running.close()
    assert len(listed(command, "account", "list")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="mode bits are POSIX's")
def test_a_directory_that_is_open_to_others_is_refused(command: Command, data_dir: Path) -> None:
    data_dir.mkdir(mode=0o755)
    for what in (["init"], ["token", "list"]):
        assert "is open to other users" in command(*what, fails=True).output
    assert list(data_dir.iterdir()) == []


def test_without_an_edge_there_is_nothing_to_manage(command: Command, data_dir: Path) -> None:
    assert "there is no data directory" in command("token", "list", fails=True).output
    assert not data_dir.exists()


def test_a_token_is_shown_once_listed_rotated_and_revoked(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    command("init")
    text = command(
        *("token", "create", "ci", "--scope=routes", "--scope=read", "--hostname=*.A.test."),
        "--days=2",
    ).stdout.strip()
    assert re.fullmatch(r"up_[0-9a-f]{12}_[0-9a-f]{64}", text)
    token_id, secret = text.split("_")[1:]
    ci = next(row for row in listed(command, "token", "list") if row["id"] == token_id)
    assert (ci["name"], ci["scopes"], ci["hostnames"]) == ("ci", "read routes", "*.a.test")
    assert ci["expires_at"] > ci["created_at"]
    cert = tmp_path / "ci.pem"
    told = command("token", "rotate", token_id, "--cert", str(cert), "--hours=1").stdout
    assert token_id in told
    newer = certificate(cert)["apiToken"]
    assert newer.startswith(f"up_{token_id}_")
    assert newer != text
    database = b"".join(path.read_bytes() for path in data_dir.glob("edge.db*"))
    for kept in (secret, newer.split("_")[2]):
        assert kept.encode() not in database
        assert bytes.fromhex(kept) not in database
    command("token", "revoke", token_id)
    assert token_id not in command("token", "list").stdout
    assert "there is no API token" in command("token", "revoke", token_id, fails=True).output
    log = [row["action"] for row in listed(command, "audit")]
    assert log == ["token.revoke", "token.rotate", "token.create", "token.create", "account.create"]
    assert {row["actor"].partition(" (")[0] for row in listed(command, "audit")} == {"command line"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["token", "create", "x", "--scope=all"], "read, tunnels, routes"),
        (["token", "create", "x", "--hostname=a..b"], "malformed label"),
        (["token", "create", "x", "--account=nobody"], "there is no account 'nobody'"),
        (["token", "create", "x" * 101], "1 to 100 characters"),
        (["token", "create", "a\tb"], "control characters"),
        (["token", "create", "x", "--days=0"], "0"),
        (["account", "create", "main"], "exists already"),
        (["account", "create", "x", "--domain=sub.example.test"], "meets the domain"),
        (["account", "create", "x", "--domain=test"], "meets the domain"),
        (["account", "create", "x", "--domain=a b"], "malformed label"),
        (["audit", "--account=nobody"], "there is no account"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(
    command: Command, arguments: list[str], reason: str
) -> None:
    command("init", "--domain=example.test")
    before = listed(command, "audit")
    failed = command(*arguments, fails=True)
    assert reason in failed.output
    assert "Traceback" not in failed.output
    assert listed(command, "audit") == before


def test_a_file_that_exists_is_never_written_over(command: Command, tmp_path: Path) -> None:
    command("init")
    precious = tmp_path / "precious"
    precious.write_text("kept")
    failed = command("token", "create", "x", "--cert", str(precious), fails=True)
    assert "exists already" in failed.output
    assert precious.read_text() == "kept"


def test_several_accounts(command: Command) -> None:
    command("init")
    command("account", "create", "other", "--domain=other.test")
    assert (
        "say which account; there are: main, other"
        in command("token", "create", "x", fails=True).output
    )
    text = command("token", "create", "x", "--account=other").stdout.strip()
    (made,) = [row for row in listed(command, "token", "list") if row["name"] == "x"]
    assert made["account"] == "other"
    assert text.startswith(f"up_{made['id']}_")
    assert [row["action"] for row in listed(command, "audit", "--account=other")] == [
        "token.create",
        "account.create",
    ]


def test_what_run_is_told_about_time_and_tls_arrives(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[EdgeOptions] = []

    def remember(options: EdgeOptions, _: object) -> int:
        given.append(options)
        return 0

    monkeypatch.setattr(runner, "run_edge", remember)
    command("run")
    command(
        *("run", "--first-byte-timeout=2.5", "--idle-timeout=30", "--request-timeout=600"),
        "--hsts=3600",
    )
    assert [(options.timeouts, options.hsts_seconds) for options in given] == [
        (Timeouts(100.0, 0.0, 0.0), None),
        (Timeouts(2.5, 30.0, 600.0), 3600),
    ]


@pytest.mark.parametrize("option", ["--first-byte-timeout=0", "--idle-timeout=nan", "--hsts=-1"])
def test_run_refuses_what_makes_no_sense(command: Command, option: str) -> None:
    assert option.partition("=")[0] in command("run", option, fails=True).output
