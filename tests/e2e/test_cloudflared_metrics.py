"""A stock cloudflared's metrics beside ours: the same names, types, labels and buckets.

Runs when UNDERPASS_CLOUDFLARED names a binary; needs no network.
"""

from __future__ import annotations

import os
import re
import urllib.request
from dataclasses import dataclass, field

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE
from peers.processes import EdgeProcess, Process, QuickTunnelProcess, running
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.interop

LEFT_OUT = re.compile(
    r"cloudflared_(?:udp|icmp|virtual_origins|rpc_server)_|quic_client_|go_|promhttp_|process_"
    r"|cloudflared_tunnel_(?:tunnel_rpc_fail|max_concurrent_requests_per_tunnel)|tunnel_ids"
)
"""What docs/observability.md says is not here."""


@dataclass
class Metric:
    type: str
    labels: set[frozenset[str]] = field(default_factory=set)
    bounds: set[str] = field(default_factory=set)


def metrics_of(connector: Process) -> dict[str, Metric]:
    message = str(connector.wait_for("Starting metrics server on")["message"])
    (address,) = re.findall(r"127\.0\.0\.1:\d+", message)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    found = {name: Metric(kind) for name, kind in types.items()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser knows counters by other names than they have.
            name = next(
                each
                for each in (sample.name, re.sub(r"_(?:bucket|sum|count|total)$", "", sample.name))
                if each in found
            )
            found[name].labels.add(frozenset(sample.labels) - {"le"})
            if "le" in sample.labels:
                found[name].bounds.add(sample.labels["le"])
    return found


def test_are_named_and_shaped_alike(edge: EdgeProcess, origin: Origin) -> None:
    binary = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not binary:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    stock = Process(
        [
            *(binary, "tunnel", "--output=json", "--no-autoupdate", "--no-prechecks"),
            *("--protocol=http2", "--metrics=127.0.0.1:0", f"--cacert={edge.ca}"),
            *(f"--edge={edge.tunnels[0]}" for _ in range(4)),
            *(f"--quick-service=http://{edge.api}", f"--url={origin.url}"),
        ]
    )
    ours = QuickTunnelProcess(edge, f"--url={origin.url}")
    with running(stock, ours):
        for each in (stock, ours):
            each.wait_for("Registered tunnel connection")
            (hostname,) = set(re.findall(r"https://([a-z-]+\.localhost)", each.log))
            assert Curl(edge, hostname)("/hello").status == 200
        theirs, mine = metrics_of(stock), metrics_of(ours)
    # Enough has happened for the comparison to mean something.
    assert {
        "cloudflared_tunnel_total_requests",
        "cloudflared_proxy_connect_latency",
        "cloudflared_rpc_client_latency_secs",
        "cloudflared_tunnel_server_locations",
        "build_info",
    } <= theirs.keys()
    missing = {name for name in theirs if not LEFT_OUT.match(name)} - mine.keys()
    assert not missing
    for name in theirs.keys() & mine.keys():
        if not name.startswith("process_"):
            assert mine[name] == theirs[name], name
