"""Options: settings and configuration, checked and gathered."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from underpass.connector import options as options_module
from underpass.connector.config import Config
from underpass.connector.ingress import single_rule
from underpass.connector.options import ConnectorOptions, build_options
from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import (
    Bastion,
    HelloWorld,
    HttpService,
    HttpStatus,
    StreamService,
    UnixService,
)
from underpass.connector.settings import SettingError, resolve
from underpass.connector.settings_table import Value


def build(config: Config | None = None, /, **given: Value) -> ConnectorOptions:
    settings = resolve([{name.replace("_", "-"): value for name, value in given.items()}], {}, {})
    return build_options(settings, config or Config())


def test_the_defaults_are_cloudflareds() -> None:
    options = build()
    assert options.ha_connections == 4
    assert options.retries == 5
    assert options.grace_period == 30.0
    assert options.rpc_timeout == 5.0
    assert options.protocol == "http2"
    assert options.metrics == "localhost:0"
    assert options.edges == ()
    assert options.cacert is None
    assert options.ingress.rules[0].service == HttpStatus(503)
    assert options.ingress.rules[0].origin_request == OriginRequest()


def test_every_process_has_its_own_connector_id() -> None:
    assert build().connector_id != build().connector_id


@pytest.mark.parametrize(
    ("given", "service"),
    [
        ({"url": "localhost:8000"}, HttpService("http", "localhost", 8000)),
        ({"url": "ssh://localhost"}, StreamService("localhost", 22, "ssh")),
        ({"unix_socket": "/run/app.sock"}, UnixService("/run/app.sock")),
        ({"hello_world": True}, HelloWorld()),
        ({"hello_world": False}, HelloWorld()),  # being given is what counts
        ({"bastion": True, "url": "http://x"}, Bastion()),
        ({"hello_world": True, "url": "http://x"}, HelloWorld()),
        ({"url": "http://x", "unix_socket": "/x"}, HttpService("http", "x", 80)),
    ],
)
def test_one_origin_is_chosen_from_the_flags(given: dict[str, Value], service: object) -> None:
    assert build(**given).ingress.rules[0].service == service


def test_ingress_rules_of_the_file_win_over_the_origin_flags() -> None:
    rules = single_rule(HttpStatus(404))
    assert build(Config(ingress=rules), url="http://x").ingress is rules


def test_origin_flags_are_the_settings_of_the_one_rule() -> None:
    options = build(
        url="https://x",
        no_tls_verify=True,
        http_host_header="h",
        origin_server_name="n",
        origin_ca_pool="ca.pem",
        no_chunked_encoding=True,
        http2_origin=True,
        proxy_connect_timeout=1.0,
        proxy_tls_timeout=2.0,
        proxy_tcp_keepalive=3.0,
        proxy_keepalive_timeout=4.0,
        proxy_keepalive_connections=5,
        proxy_no_happy_eyeballs=True,
        socks5=True,
    )
    assert options.ingress.rules[0].origin_request == OriginRequest(
        connect_timeout=1.0,
        tls_timeout=2.0,
        tcp_keep_alive=3.0,
        no_happy_eyeballs=True,
        keep_alive_connections=5,
        keep_alive_timeout=4.0,
        http_host_header="h",
        origin_server_name="n",
        ca_pool="ca.pem",
        no_tls_verify=True,
        disable_chunked_encoding=True,
        http2_origin=True,
        proxy_type="socks",
    )


def test_edge_cacert_tags_and_pid_file() -> None:
    options = build(
        edge=("a:1", "[::1]:2"), cacert="/ca.pem", tag=("foo=bar", "x="), pidfile="/run/pid"
    )
    assert options.edges == (("a", 1), ("::1", 2))
    assert options.cacert == Path("/ca.pem")
    assert options.tags == (("foo", "bar"), ("x", ""))
    assert options.pidfile == Path("/run/pid")


@pytest.mark.parametrize("protocol", ["auto", "http2", "h2mux"])
def test_protocols_that_lead_to_http2(protocol: str) -> None:
    assert build(protocol=protocol).protocol == "http2"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"protocol": "quic"}, "quic is not supported yet; .*--protocol http2"),
        ({"protocol": "spdy"}, "'spdy' is unknown"),
        ({"edge": ("nowhere",)}, "--edge 'nowhere' is not host:port"),
        ({"edge_ip_version": "5"}, "is not auto, 4 or 6"),
        ({"edge_bind_address": "x"}, "is not an IP address"),
        ({"grace_period": 181.0}, "--grace-period 3m1s is not between 0s and 3m0s"),
        ({"grace_period": -1.0}, "is not between"),
        ({"ha_connections": 0}, "is not between 1 and"),
        ({"retries": -1}, "is not between 0 and"),
        ({"rpc_timeout": 0.0}, "must be longer than 0s"),
        ({"tag": ("novalue",)}, "is not KEY=VALUE"),
        ({"tag": ("a b=c",)}, "is not KEY=VALUE"),
        ({"tag": ("a=b\r\nx: y",)}, "is not KEY=VALUE"),
        ({"tag": ("a=b",) * 65}, "more than 64 tags"),
        ({"url": "ftp://x"}, "--url: .*'ftp' is not one of"),
        ({"unix_socket": ""}, "the path is empty"),
        ({"proxy_keepalive_connections": -1}, "cannot be smaller than 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(given: dict[str, Value], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        build(**given)


def test_one_process_is_the_default() -> None:
    assert build().workers == 1


def test_workers_are_as_many_as_asked_for() -> None:
    assert build(workers=3).workers == 3
    for wrong in (0, -1, 65):
        with pytest.raises(SettingError, match=f"--workers {wrong} is not auto or between 1"):
            build(workers=wrong)


@pytest.mark.parametrize(("processors", "links", "expected"), [(8, 4, 4), (2, 4, 2), (1, 4, 1)])
def test_auto_is_one_worker_a_processor_and_a_link(
    processors: int, links: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options_module, "available_processors", lambda: processors)
    assert build(workers="auto", ha_connections=links).workers == expected


def test_windows_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert build(workers="auto").workers == build(workers=1).workers == 1
    with pytest.raises(SettingError, match="not supported on Windows"):
        build(workers=2)


def test_edges_may_be_separated_by_commas() -> None:
    edges = (("a", 1), ("::1", 2), ("c", 3))
    assert build(edge=("a:1,[::1]:2", "c:3")).edges == edges


@pytest.mark.parametrize(
    ("bind", "wanted", "family", "warned"),
    [
        ("127.0.0.1", "auto", "4", False),
        ("::1", "auto", "6", False),
        ("::1", "6", "6", False),
        ("127.0.0.1", "6", "4", True),
    ],
)
def test_the_address_to_dial_from_decides_the_family(
    bind: str, wanted: str, family: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert build(edge_bind_address=bind, edge_ip_version=wanted).edge_ip_version == family
    assert ("of another IP version" in caplog.text) == warned


def test_how_many_failed_addresses_are_enough() -> None:
    assert build().max_edge_addr_retries == 8
    assert build(max_edge_addr_retries=3).max_edge_addr_retries == 3
    with pytest.raises(SettingError, match="max-edge-addr-retries 256 is not between 0 and 255"):
        build(max_edge_addr_retries=256)
