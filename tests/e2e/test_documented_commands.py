"""The commands of docs/commands.md do what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from peers.account_api import serving, write_certificate
from peers.commands import run
from peers.processes import UNDERPASS

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
HOME = "/home/ada"
TIME = re.compile(r"^[0-9]{4}-[0-9-]{5}T[0-9:]{8}Z (?=INF)", re.MULTILINE)


def examples() -> list[tuple[str, str]]:
    """Commands of the page with the output that is shown for each."""
    found: list[tuple[str, list[str]]] = []
    shown: list[str] | None = None
    for line in PAGE.read_text().splitlines():
        if line.startswith("    $ underpass "):
            shown = []
            found.append((line.removeprefix("    $ underpass "), shown))
        elif shown is not None and (line.startswith("    ") or not line):
            shown.append(line.removeprefix("    "))
        else:
            shown = None
    return [(command, "\n".join(lines).strip()) for command, lines in found]


def test_every_example(tmp_path: Path) -> None:
    ran = 0
    with serving() as api:
        for command, shown in examples():
            arguments = shlex.split(command)
            if arguments[:2] == ["tunnel", "create"]:
                write_certificate(tmp_path / ".underpass")
            if arguments[:2] == ["tunnel", "run"]:
                (tunnel,) = api.tunnels
                api.connect(tunnel["id"], 4)
                api.records["www.example.com"] = "another tunnel"
                continue
            done = run(UNDERPASS, arguments, tmp_path, {"TUNNEL_API_URL": api.url})
            said = TIME.sub("", (done.stdout + done.stderr).replace(str(tmp_path), HOME)).strip()
            wanted, cut, _ = TIME.sub("", shown).partition("…")
            assert (said[: len(wanted)] if cut else said) == wanted
            assert done.code == ("Error: " in shown)
            ran += 1
    assert ran > 20
