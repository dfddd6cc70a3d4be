"""curl as a visitor."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .patience import PATIENCE
from .processes import EdgeProcess


@dataclass(frozen=True)
class Answer:
    """What curl got. Header names are lower-case; repeated headers stay repeated."""

    status: int
    version: str
    headers: list[tuple[str, str]]
    body: bytes
    size: int
    sha256: str
    exit_code: int
    error: str
    connections: int
    """Made for this answer: 0 when one was reused."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


KEEP_BODY = 1 << 20
"""Bytes up to which an answer's content is kept; of more there is only the digest."""


class Curl:
    """Asks one edge for one host."""

    def __init__(self, edge: EdgeProcess, hostname: str) -> None:
        if shutil.which("curl") is None:
            import pytest

            pytest.skip("curl is not installed")
        self._edge = edge
        self.hostname = hostname

    def url(self, path: str, scheme: str = "https") -> str:
        port = self._edge.https_port if scheme == "https" else self._edge.http_port
        return f"{scheme}://{self.hostname}:{port}{path}"

    def arguments(self, scheme: str = "https") -> list[str]:
        """What makes curl find and trust the edge."""
        port = self._edge.https_port if scheme == "https" else self._edge.http_port
        return [
            *("curl", "-q", "-sS", "--cacert", str(self._edge.ca)),
            *("--resolve", f"*:{port}:127.0.0.1", "--max-time", str(int(PATIENCE))),
        ]

    def __call__(self, path: str, *more: str, scheme: str = "https") -> Answer:
        """Ask for one path; `more` are curl's arguments."""
        (answer,) = self.several([path], *more, scheme=scheme)
        return answer

    def several(self, paths: Sequence[str], *more: str, scheme: str = "https") -> list[Answer]:
        """Ask for several paths, one after the other, in one run of curl."""
        with tempfile.TemporaryDirectory(prefix="underpass-curl-") as directory:
            command = self.arguments(scheme)
            for number, path in enumerate(paths):
                if number:
                    command += ["--next", *self.arguments(scheme)[1:]]
                command += [*more, "-D", f"{directory}/{number}.head"]
                command += ["-o", f"{directory}/{number}.body", "-w", "%{json}\n"]
                command.append(self.url(path, scheme))
            done = subprocess.run(command, capture_output=True, timeout=2 * PATIENCE, check=False)
            return [
                _answer(Path(directory, str(number)), json.loads(line), done.stderr.decode())
                for number, line in enumerate(done.stdout.splitlines())
            ]

    @contextlib.contextmanager
    def begun(
        self, path: str, *more: str, scheme: str = "https"
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A run of curl whose output can be read while it comes; killed at the end."""
        command = [*self.arguments(scheme), "-N", *more, self.url(path, scheme)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            with process:
                try:
                    yield process
                finally:
                    process.kill()
        finally:
            process.wait()


def _answer(stem: Path, facts: dict[str, Any], error: str) -> Answer:
    body = stem.with_suffix(".body")
    digester = hashlib.sha256()
    size, kept = 0, b""
    if body.exists():
        size = body.stat().st_size
        with body.open("rb") as file:
            while piece := file.read(1 << 20):
                digester.update(piece)
        if size <= KEEP_BODY:
            kept = body.read_bytes()
    head = stem.with_suffix(".head")
    # Interim heads come first, trailers last; the final head begins with the last status line.
    lines = head.read_text("latin-1").split("\n") if head.exists() else []
    headers: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith("HTTP/"):
            headers.clear()
        elif ":" in line:
            name, _, value = line.partition(":")
            headers.append((name.lower(), value.strip()))
    return Answer(
        status=facts["http_code"],
        version=facts["http_version"],
        headers=headers,
        body=kept,
        size=size,
        sha256=digester.hexdigest(),
        exit_code=facts["exitcode"],
        error=error,
        connections=facts["num_connects"],
    )
