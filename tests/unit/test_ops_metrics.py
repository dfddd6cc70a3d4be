"""Metrics under their names, read from plain integers at scrape time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from underpass.ops.metrics import FAMILIES, Metrics, Snapshot
from underpass.version import VERSION


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_values_are_read_when_they_are_asked_for() -> None:
    counters = {"cloudflared_tunnel_total_requests": 1}
    metrics = Metrics([lambda: counters])
    assert "\ncloudflared_tunnel_total_requests 1\n" in metrics.render().decode()
    counters["cloudflared_tunnel_total_requests"] = 2
    assert "\ncloudflared_tunnel_total_requests 2\n" in metrics.render().decode()


def test_counters_keep_cloudflareds_names_and_types() -> None:
    text = Metrics([lambda: {"cloudflared_tunnel_request_errors": 3}]).render().decode()
    assert "# TYPE cloudflared_tunnel_request_errors counter\n" in text
    assert "\ncloudflared_tunnel_request_errors 3\n" in text
    assert "cloudflared_tunnel_request_errors_total" not in text


def test_labels_come_in_the_order_of_their_names() -> None:
    def source() -> Snapshot:
        return {
            "cloudflared_tunnel_response_by_code": {"200": 5, "404": 1},
            "cloudflared_tunnel_server_locations": {("0", 'a"b\\c\nd'): 1},
        }

    text = Metrics([source]).render().decode()
    assert '\ncloudflared_tunnel_response_by_code{status_code="200"} 5\n' in text
    assert '\ncloudflared_tunnel_response_by_code{status_code="404"} 1\n' in text
    labels = (("connection_id", "0"), ("edge_location", 'a"b\\c\nd'))
    assert samples(text)["cloudflared_tunnel_server_locations", labels] == 1


def test_a_vector_nobody_used_is_absent() -> None:
    text = Metrics([lambda: {"cloudflared_tunnel_response_by_code": {}}]).render().decode()
    assert "response_by_code" not in text


def test_build_and_process_are_there() -> None:
    text = Metrics([]).render().decode()
    assert f'version="{VERSION}"' in text
    assert samples(text)["process_start_time_seconds", ()] > 0


def test_an_unknown_metric_is_a_slip_in_the_program() -> None:
    with pytest.raises(KeyError):
        Metrics([lambda: {"made_up": 1}]).render()


def test_wrong_labels_are_a_slip_in_the_program() -> None:
    with pytest.raises(ValueError, match="zip"):
        Metrics([lambda: {"cloudflared_tunnel_response_by_code": {("a", "b"): 1}}]).render()


def test_every_family_is_named_as_its_key() -> None:
    assert all(name == family.name for name, family in FAMILIES.items())


def test_prometheus_client_is_imported_at_the_first_scrape_only() -> None:
    program = (
        "import sys; from underpass.ops.metrics import Metrics; m = Metrics([]);"
        "assert not m.is_ready and 'prometheus_client' not in sys.modules;"
        "m.render(); assert m.is_ready and 'prometheus_client' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="there is no /proc")
def test_what_workers_use_is_counted_in() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        alone = samples(Metrics([]).render().decode())
        both = samples(Metrics([], workers=lambda: [worker.pid, 2**22 + 1]).render().decode())
        worker.kill()
    for name in ("process_resident_memory_bytes", "process_virtual_memory_bytes"):
        assert both[name, ()] > alone[name, ()] + (4 << 20)
    assert both["process_open_fds", ()] >= alone["process_open_fds", ()] + 3
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert both[name, ()] == alone[name, ()]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="there is no /proc")
def test_processor_time_of_workers_that_ended_stays() -> None:
    def seconds() -> float:
        found = samples(Metrics([]).render().decode())
        return found["process_cpu_seconds_total", ()]

    before = seconds()
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert seconds() >= before + 0.25
