"""What operators see of requests: causes, figures by rule, the access log, lines at level debug."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peers.collector import Collector
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import eventually
from peers.processes import (
    ConnectorProcess,
    EdgeProcess,
    QuickTunnelProcess,
    new_tunnel,
    running,
)
from peers.stream_echo import stream_echo

NOBODY = "http://127.0.0.1:9"
"""The discard service, which no machine runs any more."""


@contextmanager
def published(edge: EdgeProcess, *arguments: str) -> Iterator[tuple[Curl, ConnectorProcess]]:
    connector = QuickTunnelProcess(edge, *arguments)
    with running(connector):
        connector.ready()
        yield Curl(edge, connector.hostname), connector


class TestAFailure:
    def test_is_named_to_the_visitor_and_to_the_operator(self, edge: EdgeProcess) -> None:
        with published(edge, f"--url={NOBODY}") as (curl, connector):
            answer = curl("/", "-H", "Accept: application/json")
            assert answer.status == 502
            assert answer.header("underpass-cause") == "dial"
            assert answer.header("underpass-hop") == "origin"
            assert (answer.json["cause"], answer.json["hop"]) == ("dial", "origin")
            page = curl("/")
            assert b"Cause: dial, at the application" in page.body

            line = connector.wait_for("Unable to reach the origin service", count=2)
            assert (line["cause"], line["hop"], line["status"]) == ("dial", "origin", 502)
            assert line["originService"] == NOBODY
            assert (line["ingressRule"], line["connIndex"], line["event"]) == (0, 0, 1)
            assert line["cfRay"] == page.header("cf-ray")
            seen = edge.wait_for("answered for an origin", cfRay=line["cfRay"])
            assert (seen["cause"], seen["hop"]) == ("dial", "origin")

            failures = "underpass_request_failures_total"
            assert connector.metric(failures, 'cause="dial",hop="origin"') == 2
            assert connector.metric("underpass_rule_failures_total", 'rule="0",hostname="\\*"') == 2

            explained = subprocess.run(
                [sys.executable, "-m", "underpass", "explain", json.dumps(line)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            assert explained.startswith("dial\n")

    def test_to_resolve_a_name_is_told_apart(self, edge: EdgeProcess) -> None:
        with published(edge, "--url=http://nobody.invalid:8000") as (curl, connector):
            answer = curl("/")
            assert (answer.status, answer.header("underpass-cause")) == (502, "dns")
            line = connector.wait_for("Unable to reach the origin service")
            assert "nobody.invalid" in str(line["error"])

    def test_of_the_edges_own(self, edge: EdgeProcess) -> None:
        answer = Curl(edge, "nobody.localhost")("/", scheme="http")
        assert answer.status == 404
        assert answer.header("underpass-cause") == "unknown_host"
        assert answer.header("underpass-hop") == "edge"


def bucket(rule: int, hostname: str) -> str:
    return f'rule="{rule}",hostname="{re.escape(hostname)}",le="\\+Inf"'


def test_figures_by_rule(data_dir: Path, tmp_path: Path, origin: Origin) -> None:
    token = new_tunnel(data_dir, "a.example.test", "b.example.test").to_token()
    edge = EdgeProcess(data_dir)
    config = tmp_path / "config.yml"
    config.write_text(
        "ingress:\n"
        f"  - hostname: a.example.test\n    service: {origin.url}\n"
        "  - service: http_status:404\n"
    )
    connector = ConnectorProcess(
        [*edge.edge_arguments, f"--cacert={edge.ca}", f"--config={config}", "run"],
        environment={"TUNNEL_TOKEN": token},
    )
    with running(connector, edge):
        connector.ready()
        content = Curl(edge, "a.example.test")("/hello").body
        assert [answer.status for answer in Curl(edge, "b.example.test").several(["/"] * 3)] == [
            *(404, 404, 404)
        ]
        first, last = 'rule="0",hostname="a.example.test"', 'rule="1",hostname="\\*"'
        read = connector.metric
        eventually(
            lambda: read("underpass_rule_active_requests", last) == 0, "the end of all requests"
        )
        assert read("underpass_rule_requests_total", first) == 1
        assert read("underpass_rule_requests_total", last) == 3
        assert read("underpass_rule_responses_total", first + ',class="2xx"') == 1
        assert read("underpass_rule_responses_total", last + ',class="4xx"') == 3
        assert read("underpass_rule_response_bytes_total", first) == len(content)
        for name in ("first_byte", "duration"):
            histogram = f"underpass_rule_{name}_seconds"
            assert read(f"{histogram}_bucket", bucket(0, "a.example.test")) == 1
            assert read(f"{histogram}_count", last) == 3
        assert read("cloudflared_tunnel_total_requests") == 4
        operations = "cloudflared_rpc_client_operations"
        called = 'handler="registration",method="register_connection"'
        assert read(operations, called) == 1
        assert read("cloudflared_rpc_client_latency_secs_count", called) == 1


def test_connects_of_streams(edge: EdgeProcess) -> None:
    with stream_echo() as port, published(edge, f"--url=tcp://127.0.0.1:{port}") as both:
        curl, connector = both
        curl(
            *("/", "--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"),
            *("-H", "Sec-WebSocket-Version: 13"),
            *("-H", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "--max-time", "1"),
        )
        assert connector.metric("cloudflared_proxy_connect_latency_count") == 1
        assert connector.metric("cloudflared_proxy_connect_streams_errors") == 0


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestTheAccessLog:
    def test_has_a_line_for_each_request(
        self, edge: EdgeProcess, origin: Origin, tmp_path: Path
    ) -> None:
        path = tmp_path / "access.log"
        with published(edge, f"--url={origin.url}", f"--access-log={path}") as (curl, connector):
            answer = curl("/hello?token=secret", "-A", "tester/1.0")
            eventually(lambda: len(lines(path)) == 1, "a line")
            (line,) = lines(path)
            assert (line["method"], line["path"], line["status"]) == ("GET", "/hello", 200)
            assert line["host"].startswith(connector.hostname)
            assert line["client"] == "127.0.0.1"
            assert line["cfRay"] == answer.header("cf-ray")
            assert line["userAgent"] == "tester/1.0"
            assert line["responseBytes"] == len(answer.body)
            assert line["originService"] == origin.url
            assert "secret" not in path.read_text()
            curl("/hello")
        # What had not been written is written at the end.
        assert len(lines(path)) == 2

    def test_follows_a_rotation(self, edge: EdgeProcess, origin: Origin, tmp_path: Path) -> None:
        path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
        with published(edge, f"--url={origin.url}", f"--access-log={path}") as (curl, _):
            curl("/hello?1")
            eventually(lambda: len(lines(path)) == 1, "a line")
            path.rename(rotated)
            curl("/hello?2")
            eventually(lambda: path.exists() and len(lines(path)) == 1, "a line in a new file")
        assert len(lines(rotated)) == 1

    def test_on_standard_output_in_the_combined_format(
        self, edge: EdgeProcess, origin: Origin
    ) -> None:
        arguments = ("--access-log=-", "--access-log-format=combined", f"--url={origin.url}")
        with published(edge, *arguments) as (curl, connector):
            curl("/hello", "-A", "tester/1.0")
            pattern = r'127\.0\.0\.1 - - \[.*\] "GET /hello HTTP/2.0" 200 \d+ "-" "tester/1.0"'
            eventually(lambda: re.search(pattern, connector.log) is not None, "a line")

    def test_is_shared_by_worker_processes(
        self, data_dir: Path, tmp_path: Path, origin: Origin
    ) -> None:
        token = new_tunnel(data_dir, "app.example.test").to_token()
        edge, path = EdgeProcess(data_dir), tmp_path / "access.log"
        connector = ConnectorProcess(
            [
                *(edge.edge_arguments[0],) * 2,
                *(f"--cacert={edge.ca}", "--ha-connections=2", "--workers=2"),
                *(f"--access-log={path}", "run", f"--url={origin.url}"),
            ],
            environment={"TUNNEL_TOKEN": token},
        )
        curl = Curl(edge, "app.example.test")
        with running(connector, edge):
            connector.ready(2)
            # At once, so that the edge has use for both links.
            with curl.begun("/slow?key=access"):
                origin.wait_for_request("/slow")
                assert [each.status for each in curl.several(["/hello"] * 10)] == [200] * 10
                origin.open_gate("access")
            eventually(lambda: len(lines(path)) == 11, "all lines")
        found = lines(path)
        assert len(found) == 11
        assert {line["connIndex"] for line in found} == {0, 1}

    def test_that_cannot_be_written_prevents_the_start(
        self, edge: EdgeProcess, tmp_path: Path
    ) -> None:
        path = tmp_path / "missing" / "access.log"
        connector = QuickTunnelProcess(edge, "--hello-world", f"--access-log={path}")
        assert connector.wait() == 1
        line = connector.wait_for("Cannot start")
        assert "access log" in str(line["error"])
        assert str(path) in str(line["error"])

    @pytest.mark.parametrize(
        ("flag", "words"),
        [
            ("--access-log-format=xml", "json or combined"),
            ("--access-log-query=no", "mask or keep"),
        ],
    )
    def test_has_no_other_forms(self, edge: EdgeProcess, flag: str, words: str) -> None:
        connector = QuickTunnelProcess(edge, "--hello-world", flag)
        assert connector.wait() == 1
        assert words in connector.log


def test_requests_are_logged_at_level_debug(edge: EdgeProcess, origin: Origin) -> None:
    with published(edge, f"--url={origin.url}", "--loglevel=debug") as (curl, connector):
        curl("/hello?q=1", "-H", "Cookie: session=secret")
        asked = connector.wait_for(f"GET {origin.url}/hello?q=1 HTTP/2.0")
        assert asked["level"] == "debug"
        assert asked["originService"] == origin.url
        headers = asked["headers"]
        assert isinstance(headers, dict)
        assert headers["Cookie"] == "*****"
        assert connector.wait_for("200 OK")["connIndex"] == 0


class TestTraces:
    def test_are_exported_and_handed_on(self, edge: EdgeProcess, origin: Origin) -> None:
        trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        with Collector() as collector:
            connector = QuickTunnelProcess(
                edge,
                f"--url={origin.url}",
                environment={
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                    "OTEL_BSP_SCHEDULE_DELAY": "100",
                },
            )
            with running(connector):
                connector.ready()
                curl = Curl(edge, connector.hostname)
                curl("/hello?traced", "-H", f"traceparent: 00-{trace_id}-{parent}-01")
                (span,) = eventually(lambda: list(collector.spans), "a span")
                assert span.trace_id.hex() == trace_id
                assert span.parent_span_id.hex() == parent
                assert span.name == "GET"
                assert collector.services == {"underpass"}
                (request,) = (
                    each for each in origin.requests("/hello") if each.target.endswith("?traced")
                )
                (handed_on,) = (
                    value for name, value in request.headers if name.lower() == "traceparent"
                )
                assert handed_on == f"00-{trace_id}-{span.span_id.hex()}-01"
                curl("/hello?last")
            # What had not been exported is exported at the end.
            assert len(collector.spans) == 2

    def test_a_collector_that_is_gone_holds_up_nothing(
        self, edge: EdgeProcess, origin: Origin
    ) -> None:
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
        connector = QuickTunnelProcess(
            edge,
            f"--url={origin.url}",
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY},
        )
        with running(connector):
            connector.ready()
            assert Curl(edge, connector.hostname)("/hello").status == 200

    def test_nothing_of_them_is_there_when_they_are_off(self) -> None:
        program = (
            "import sys, underpass.connector.link; "
            "print(*[n for n in sys.modules if n.startswith('opentelemetry') or 'trac' in n])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        )
        loaded = done.stdout.split()
        assert [name for name in loaded if name.startswith(("opentelemetry", "underpass"))] == []
