"""The edge's access log, as written by an edge that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import eventually
from peers.processes import EdgeProcess, QuickTunnelProcess, running

NOBODY = "http://127.0.0.1:9"
"""The discard service, which no machine runs any more."""


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_line_for_each_request(data_dir: Path, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "access.log"
    with Origin() as origin:
        edge = EdgeProcess(data_dir, more=[f"--access-log={path}", f"--workers={workers}"])
        tunnel = QuickTunnelProcess(edge, f"--url={origin.url}")
        with running(tunnel, edge):
            tunnel.ready()
            curl = Curl(edge, tunnel.hostname)
            eventually(lambda: curl("/hello").status == 200, "the tunnel answers")
            answer = curl("/hello?secret=1", "-A", "tester", "-e", "https://from.test/?q=2")
            plain = curl("/sink", "-d", "12345", scheme="http")
            missing = Curl(edge, "nobody.localhost")("/x", scheme="http")
            # It is there within seconds, not only at the end.
            eventually(lambda: len(lines_of(path)) >= 4, "lines are written")
            registered = edge.wait_for("registered connection 0")["message"]
        lines = {line["cfRay"]: line for line in lines_of(path)}
    assert len(lines) == len(lines_of(path)), "one line a request"
    line = lines[str(answer.header("cf-ray"))]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert (line["client"], line["scheme"], line["protocol"]) == ("127.0.0.1", "https", "HTTP/2.0")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/hello", 200)
    assert line["host"] == f"{tunnel.hostname}:{edge.https_port}"
    assert (line["userAgent"], line["referer"]) == ("tester", "https://from.test/")
    assert 0 < line["firstByteSeconds"] <= line["seconds"]
    assert (line["requestBytes"], line["responseBytes"]) == (0, answer.size)
    assert line["connIndex"] == 0
    assert f"of connector {line['connector']} to tunnel {line['tunnel']} " in registered
    assert "cause" not in line
    assert "attempts" not in line

    line = lines[str(plain.header("cf-ray"))]
    assert (line["scheme"], line["protocol"], line["requestBytes"]) == ("http", "HTTP/1.1", 5)

    line = lines[str(missing.header("cf-ray"))]
    assert (line["status"], line["cause"], line["hop"]) == (404, "unknown_host", "edge")
    assert "tunnel" not in line


def test_failures_are_told_with_whom_they_are_to_be_looked_for(
    data_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    edge = EdgeProcess(data_dir, more=[f"--access-log={path}", "--max-body=100"])
    tunnel = QuickTunnelProcess(edge, f"--url={NOBODY}")
    with running(tunnel, edge):
        tunnel.ready()
        curl = Curl(edge, tunnel.hostname)
        assert curl("/").status == 502
        assert curl("/", "-d", "x" * 101).status == 413
    dial, large = lines_of(path)
    assert (dial["status"], dial["cause"], dial["hop"]) == (502, "dial", "origin")
    assert dial["tunnel"]
    assert (large["status"], large["cause"], large["hop"]) == (413, "body_too_large", "visitor")
    assert (large["method"], large["path"], large["client"]) == ("POST", "/", "127.0.0.1")


def test_the_combined_format(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    wanted = [f"--access-log={path}", "--access-log-format=combined", "--access-log-query=mask"]
    edge = EdgeProcess(data_dir, more=wanted)
    with running(edge):
        Curl(edge, "nobody.localhost")('/a"b?token=1', "-A", "x\\y", scheme="http")
    (line,) = path.read_text("ascii").splitlines()
    assert re.fullmatch(
        r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "
        r'"GET /a\\x22b\?token=\* HTTP/1\.1" 404 \d+ "-" "x\\x5cy"',
        line,
    )


def test_what_cannot_be_written_is_told_at_once(data_dir: Path) -> None:
    with pytest.raises(AssertionError, match="cannot write the access log /proc/none"):
        EdgeProcess(data_dir, more=["--access-log=/proc/none"])


@pytest.mark.parametrize("option", ["format", "query"])
def test_choices_that_there_are_not_are_refused(data_dir: Path, option: str) -> None:
    with pytest.raises(AssertionError, match=f"--access-log-{option} 'some' is not"):
        EdgeProcess(data_dir, more=["--access-log=-", f"--access-log-{option}=some"])
