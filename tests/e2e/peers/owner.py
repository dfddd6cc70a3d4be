"""Somebody who has an account at an edge, and manages it by commands or by curl."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from underpass.wire.credentials import Credentials

from .patience import PATIENCE
from .processes import UNDERPASS, EdgeProcess, _environment


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_command(arguments: Sequence[str], environment: dict[str, str] | None = None) -> Ran:
    """Run a command to its end."""
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment() | (environment or {}),
        timeout=PATIENCE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def edge_command(data_dir: Path, *arguments: str) -> Ran:
    """`underpass edge …` on a data directory."""
    group, *rest = arguments
    return run_command([*UNDERPASS, "edge", group, *rest, f"--data-dir={data_dir}"])


def set_up(data_dir: Path, cert: Path, *more: str) -> None:
    """`underpass edge init`."""
    ran = edge_command(data_dir, "init", f"--cert={cert}", *more)
    assert ran.code == 0, ran.err


@dataclass
class Owner:
    """Runs a command line's account commands: `owner("tunnel", "list")`."""

    program: Sequence[str]
    edge: EdgeProcess
    home: Path
    cert: Path
    more: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, fails: bool = False) -> Ran:
        ran = run_command(
            [*self.program, *arguments],
            {
                "HOME": str(self.home),
                "TUNNEL_ORIGIN_CERT": str(self.cert),
                "TUNNEL_API_URL": f"http://{self.edge.api}",
                "NO_AUTOUPDATE": "true",
                **self.more,
            },
        )
        assert (ran.code != 0) == fails, f"{arguments}: {ran}"
        return ran


@dataclass
class ApiClient:
    """Asks an edge's API by curl, with a token."""

    api: str
    token: str = ""
    more: Sequence[str] = ()

    def __call__(
        self, method: str, path: str, body: Any = None, *more: str
    ) -> tuple[int, dict[str, Any]]:
        """The status, and the envelope."""
        arguments = ["curl", "-q", "-sS", "--max-time", str(int(PATIENCE)), "-X", method]
        if self.token:
            # By a file: a command line is for all to read.
            arguments += ["-H", "@-"]
        if body is not None:
            content = body if isinstance(body, str) else json.dumps(body)
            arguments += ["-H", "Content-Type: application/json", "--data-binary", content]
        done = subprocess.run(
            [
                *arguments,
                *("-w", "\n%{http_code} %{content_type}", *self.more, *more),
                f"http://{self.api}{path}",
            ],
            input=f"Authorization: Bearer {self.token}",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={"PATH": os.environ["PATH"]},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        text, _, status = done.stdout.rpartition("\n")
        code, _, content_type = status.partition(" ")
        assert content_type == "application/json", "clients compare it with exactly this"
        return int(code), json.loads(text)


def certificate_of(cert: Path) -> dict[str, str]:
    """What a cert.pem says: zoneID, accountID, apiToken."""
    import base64

    lines = cert.read_text().splitlines()
    assert lines[0] == "-----BEGIN ARGO TUNNEL TOKEN-----"
    assert lines[-1] == "-----END ARGO TUNNEL TOKEN-----"
    assert all(len(line) <= 64 for line in lines[1:-1])
    decoded: dict[str, str] = json.loads(base64.b64decode("".join(lines[1:-1])))
    return decoded


def credentials_of(token: str) -> Credentials:
    """A tunnel token, read."""
    return Credentials.from_token(token)
