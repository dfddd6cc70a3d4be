"""The report on a running connector: what goes into it, what is left out, and its bounds."""

from __future__ import annotations

import json
import logging
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from underpass.cli.main import underpass
from underpass.connector import prechecks
from underpass.operations.diagnosis import instance as instance_module
from underpass.operations.diagnosis import logs as logs_module
from underpass.operations.diagnosis import network as network_module
from underpass.operations.diagnosis import report as report_module
from underpass.operations.diagnosis.instance import Instance, InstanceError, find_instances
from underpass.operations.diagnosis.logs import LogPlace, collect_logs
from underpass.operations.diagnosis.network import Trace, parse_hops, trace_all
from underpass.operations.diagnosis.report import DiagnosisOptions, write_report
from underpass.operations.diagnosis.tools import ToolError, run_tool

STATE = {"tunnelID": "t", "connectorID": "c", "connections": [{"isConnected": True}]}
SECRET = "eyJhIjoiYWNjb3VudCIsInQiOiJ4In0"


class Server:
    """A metrics server on loopback; `pages` are what it answers."""

    def __init__(self, **pages: bytes) -> None:
        self.pages: dict[str, bytes] = {
            "/diag/tunnel": json.dumps(STATE).encode(),
            "/diag/system": b'{"info":{"osSystem":"Linux"},"errors":{}}',
            "/diag/configuration": b'{"uid":"0"}',
            "/config": b'{"version":-1,"config":{"ingress":[{"service":"http://me:pw@origin"}]}}',
            "/metrics": b'build_info{type="underpass"} 1\n',
            "/debug/stacks": b"thread MainThread:\n",
            "/debug/memory": b"tracked objects\n",
        }
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = server.pages.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                """Nothing is logged."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Nothing is traced; the hosts that would be."""
    asked: list[Sequence[str]] = []

    def trace(hosts: Sequence[str], seconds: float) -> dict[str, Trace]:
        asked.append(hosts)
        return {f"{host}-v4": Trace(" 1  gateway  1.5 ms\n") for host in hosts}

    monkeypatch.setattr(report_module.network, "trace_all", trace)
    return asked


def report(
    server: Server, directory: Path, **options: Any
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The entries of a report, and its results."""
    path = write_report(Instance.ask(server.address), DiagnosisOptions(**options), directory)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    path.unlink()
    return entries, json.loads(entries.pop("task-result.json"))


@pytest.fixture(autouse=True)
def _no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up or dialled."""

    def diagnose(flags: dict[str, str], seconds: float) -> dict[str, Any]:
        assert seconds > 0
        return {"Results": [], "flags": flags}

    monkeypatch.setattr(prechecks, "diagnose", diagnose)


class TestReport:
    def test_the_entries(self, server: Server, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text("a line\n")
        server.pages["/diag/configuration"] = json.dumps({"logfile": str(log)}).encode()
        entries, results = report(server, tmp_path)
        assert set(entries) == {
            "tunnelstate.json",
            "systeminformation.json",
            "stacks.txt",
            "memory.txt",
            "metrics.txt",
            "cloudflared_logs.txt",
            "raw-network.txt",
            "network.json",
            "cli-configuration.json",
            "configuration.json",
            "prechecks.json",
        }
        assert json.loads(entries["tunnelstate.json"]) == STATE
        assert entries["cloudflared_logs.txt"] == f"{log}:\na line\n".encode()
        assert json.loads(entries["network.json"])["region1.v2.argotunnel.com-v4"] == [
            {"hop": 1, "domain": "gateway", "rtts": [1500]}
        ]
        assert not [name for name, result in results.items() if "error" in result]
        assert results["metrics"] == {"result": "success"}

    def test_a_stock_connector_has_gos_profiles(self, server: Server, tmp_path: Path) -> None:
        server.pages["/metrics"] = b'build_info{goversion="go1.26"} 1\n'
        server.pages["/debug/pprof/goroutine"] = b"\x1f\x8b\xff"
        server.pages["/debug/pprof/heap"] = b"\x1f\x8b\xfe"
        entries, results = report(server, tmp_path)
        assert (entries["goroutine.pprof"], entries["heap.pprof"]) == (
            b"\x1f\x8b\xff",
            b"\x1f\x8b\xfe",
        )
        assert "stacks.txt" not in entries
        assert results["goroutine profile"] == {"result": "success"}

    @pytest.mark.parametrize(
        ("option", "missing"),
        [
            ("no_logs", {"cloudflared_logs.txt"}),
            ("no_metrics", {"metrics.txt"}),
            ("no_system", {"systeminformation.json"}),
            ("no_runtime", {"stacks.txt", "memory.txt"}),
            ("no_network", {"raw-network.txt", "network.json", "prechecks.json"}),
        ],
    )
    def test_parts_can_be_left_out(
        self, server: Server, tmp_path: Path, option: str, missing: set[str]
    ) -> None:
        everything, _ = report(server, tmp_path)
        entries, results = report(server, tmp_path, **{option: True})
        assert set(everything) - set(entries) == missing - {"cloudflared_logs.txt"}
        assert "log information" not in results or option != "no_logs"

    def test_a_step_that_fails_is_told_and_the_others_go_on(
        self, server: Server, tmp_path: Path
    ) -> None:
        del server.pages["/config"]
        entries, results = report(server, tmp_path)
        assert "configuration.json" not in entries
        assert results["configuration"] == {
            "result": "failure",
            "error": f"http://{server.address}/config answers 404",
        }
        assert results["cli configuration"] == {"result": "success"}

    def test_secrets_are_masked(self, server: Server, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text(f"--token {SECRET}\n")
        server.pages["/diag/configuration"] = json.dumps(
            {"logfile": str(log), "note": SECRET}
        ).encode()
        entries, _ = report(server, tmp_path)
        assert all(SECRET.encode() not in content for content in entries.values())
        assert b"http://*****@origin" in entries["configuration.json"]

    def test_the_given_edge_is_what_is_traced(
        self, server: Server, tmp_path: Path, traces: list[Sequence[str]]
    ) -> None:
        server.pages["/diag/configuration"] = (
            b'{"edge":"[edge.test:7844 edge.test:7844 [2001:db8::1]:7844 -x:1]"}'
        )
        report(server, tmp_path)
        assert traces == [["edge.test", "2001:db8::1"]]

    def test_what_is_too_large_is_left_out(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(instance_module, "MAX_ENTRY", 100)
        server.pages["/debug/stacks"] = b"x" * 101
        _, results = report(server, tmp_path)
        assert "more than 100 bytes" in results["stacks"]["error"]

    def test_time_is_bounded(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report_module, "TOTAL_SECONDS", 0.0)
        entries, results = report(server, tmp_path)
        assert set(entries) == {"tunnelstate.json"}
        assert results["metrics"] == {"result": "failure", "error": "the report has taken 0 s"}

    def test_prechecks_are_those_of_the_connectors_settings(
        self, server: Server, tmp_path: Path
    ) -> None:
        entries, _ = report(server, tmp_path)
        assert json.loads(entries["prechecks.json"]) == {"Results": [], "flags": {"uid": "0"}}


class TestInstances:
    def test_only_connectors_count(self, server: Server) -> None:
        other = Server()
        other.pages["/diag/tunnel"] = b"<html>"
        try:
            found = find_instances([other.address, "127.0.0.1:1", server.address])
        finally:
            other.close()
        assert [each.address for each in found] == [server.address]
        assert (found[0].tunnel_id, found[0].connector_id) == ("t", "c")

    def test_an_address_may_be_a_url(self, server: Server) -> None:
        assert Instance.ask(f"http://{server.address}/").address == server.address

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff"])
    def test_what_does_not_answer_as_a_connector(self, server: Server, body: bytes) -> None:
        server.pages["/diag/tunnel"] = body
        with pytest.raises(InstanceError, match="is not that of a connector"):
            Instance.ask(server.address)


class TestCommand:
    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def run(self, *arguments: str, before: Sequence[str] = ()) -> tuple[int, str]:
        result = CliRunner().invoke(underpass, ["tunnel", *before, "diag", *arguments])
        files = list(Path.cwd().iterdir())
        assert len(files) == (result.exit_code == 0)
        for file in files:
            file.unlink()
        return result.exit_code, result.output

    def known(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        monkeypatch.setattr(instance_module, "known_addresses", lambda: list(addresses))

    def test_one_is_found(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known(monkeypatch, "127.0.0.1:1", server.address)
        code, output = self.run("--no-diag-network")
        assert code == 0
        assert f"Selected server http://{server.address}" in output
        assert "Collected metrics." in output
        assert "Diagnostic file written: " in output

    def test_none_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known(monkeypatch, "127.0.0.1:1")
        code, output = self.run()
        assert (code, "no running connector answers on 127.0.0.1:1" in output) == (1, True)

    def test_one_has_to_be_chosen(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known(monkeypatch, server.address, server.address)
        code, output = self.run()
        assert code == 1
        assert output.count(f"connector-id=c metrics-address={server.address}") == 2
        assert "choose one with --metrics ADDRESS" in output
        metrics = f"--metrics={server.address}"
        assert self.run(metrics, "--no-diag-network")[0] == 0
        assert self.run("--no-diag-network", before=[metrics])[0] == 0

    def test_the_known_ports(self) -> None:
        assert instance_module.known_addresses() == [f"localhost:{n}" for n in range(20241, 20246)]


class TestLogs:
    @pytest.fixture
    def tool(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        ran: list[list[str]] = []

        def run(command: Sequence[str], seconds: float) -> str:
            ran.append(list(command))
            return "from a tool\n"

        monkeypatch.setattr(logs_module, "run_tool", run)
        return ran

    def test_a_pod_and_a_container(self, tool: list[list[str]]) -> None:
        flags = {"logfile": "/nothing"}
        assert collect_logs(LogPlace(flags, pod="p", container="c")) == "from a tool\n"
        assert collect_logs(LogPlace(flags, container="c")) == "from a tool\n"
        (kubectl, docker) = tool
        assert kubectl[:3] == ["kubectl", "logs", "p"]
        assert kubectl[-4:] == ["--tail", "10000", "-c", "c"]
        assert (docker[:4], docker[-1]) == (["docker", "logs", "--tail", "10000"], "c")

    def test_a_directory_gives_its_newest_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import os

        monkeypatch.setattr(logs_module, "MAX_FILES", 2)
        for number in range(3):
            path = tmp_path / f"{number}.log"
            path.write_text(f"line {number}\n")
            os.utime(path, (number, number))
        text = collect_logs(LogPlace({"log-directory": str(tmp_path)}))
        assert text == f"{tmp_path}/1.log:\nline 1\n{tmp_path}/2.log:\nline 2\n"

    def test_of_a_large_file_the_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs_module, "MAX_ENTRY", 100)
        path = tmp_path / "log"
        path.write_text("".join(f"line {number:03}\n" for number in range(100)))
        text = collect_logs(LogPlace({"logfile": str(path)}))
        assert text.startswith(f"{path}, the last 100 bytes of 900:\nline 089\n")
        assert text.endswith("line 099\n")

    @pytest.mark.parametrize("service", ["underpass", "cloudflared"])
    def test_a_service_of_systemd(
        self, service: str, tmp_path: Path, tool: list[list[str]]
    ) -> None:
        unit = tmp_path / f"etc/systemd/system/{service}.service"
        unit.parent.mkdir(parents=True)
        unit.touch()
        collect_logs(LogPlace({}, service), root=tmp_path, platform="linux")
        assert tool[0][-2:] == ["-u", f"{service}.service"]

    @pytest.mark.parametrize(
        ("platform", "service", "place"),
        [
            ("linux", "underpass", "var/log/underpass.err"),
            ("linux", "cloudflared", "var/log/cloudflared.err"),
            ("darwin", "underpass", "Library/Logs/underpass.err.log"),
            ("darwin", "cloudflared", "Library/Logs/com.cloudflare.cloudflared.err.log"),
        ],
    )
    def test_other_services(self, tmp_path: Path, platform: str, service: str, place: str) -> None:
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        path.write_text("said\n")
        text = collect_logs(LogPlace({}, service), root=tmp_path, platform=platform)
        assert text == f"{path}:\nsaid\n"

    def test_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match="writes no log file"):
            collect_logs(LogPlace({}), root=tmp_path, platform="linux")
        with pytest.raises(ToolError, match="cannot read the log "):
            collect_logs(LogPlace({"logfile": str(tmp_path / "x")}))
        with pytest.raises(ToolError, match="cannot read the log directory"):
            collect_logs(LogPlace({"log-directory": str(tmp_path / "x")}))


class TestNetwork:
    def test_hops(self) -> None:
        text = (
            "traceroute to localhost (127.0.0.1), 5 hops max, 60 byte packets\n"
            " 1  _gateway (192.0.2.1)  0.517 ms  0.475 ms *\n"
            " 2  * * *\n"
            " 3  10.0.0.1  12.5 ms !X\n"
        )
        assert parse_hops(text) == [
            {"hop": 1, "domain": "_gateway (192.0.2.1)", "rtts": [517, 475]},
            {"hop": 2, "domain": "*"},
            {"hop": 3, "domain": "10.0.0.1 !X", "rtts": [12500]},
        ]

    def test_windows_hops(self) -> None:
        assert parse_hops(
            "  1    <1 ms    <1 ms    2 ms  192.0.2.1\r\n\r\nTrace complete.\r\n"
        ) == [{"hop": 1, "domain": "192.0.2.1", "rtts": [1000, 1000, 2000]}]

    def test_both_families_of_a_few_hosts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(network_module.sys, "platform", "linux")
        commands: list[str] = []

        def run(command: Sequence[str], seconds: float) -> str:
            commands.append(" ".join(command))
            if command[0] == "traceroute6":
                raise ToolError("no IPv6")
            return "1 x 1 ms\n"

        hosts = [f"host{number}" for number in range(network_module.MAX_HOSTS + 1)]
        traces = trace_all(hosts, 1.0, run)
        assert len(traces) == 2 * network_module.MAX_HOSTS
        assert traces["host0-v4"].hops == [{"hop": 1, "domain": "x", "rtts": [1000]}]
        assert traces["host0-v6"] == Trace(error="no IPv6")
        assert traces["host0-v6"].hops is None
        assert "traceroute -I -w 5 -m 5 host0" in commands


class TestTools:
    def test_what_a_tool_can_do_wrong(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match="nothing is not installed"):
            run_tool([str(tmp_path / "nothing")], 5)
        with pytest.raises(ToolError, match="exit code 3: said"):
            run_tool(["sh", "-c", "echo said; exit 3"], 5)
        with pytest.raises(ToolError, match="did not end within"):
            run_tool(["sleep", "60"], 0.1)

    def test_its_output(self) -> None:
        assert run_tool(["sh", "-c", "echo said; echo more >&2"], 5) == "said\nmore\n"


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[Callable[[], None] | None]:
    """The command sets the program's log up."""
    root = logging.getLogger("underpass")
    before = list(root.handlers), root.level, root.propagate
    yield None
    root.handlers, root.level, root.propagate = before
