"""Options and addresses: what is understood, and what an operator is told otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from underpass.edge.dashboard.options import DashboardOptions
from underpass.edge.errors import EdgeError, OptionsError
from underpass.edge.options import (
    MAX_HSTS_SECONDS,
    MAX_WORKERS,
    Address,
    EdgeOptions,
    default_data_dir,
)
from underpass.edge.passthrough import Passthrough
from underpass.edge.timeouts import Timeouts


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8443", "127.0.0.1", 8443),
        ("localhost:0", "localhost", 0),
        (":443", "", 443),
        ("[::1]:8443", "::1", 8443),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ("edge_1.internal-net.example:80", "edge_1.internal-net.example", 80),
    ],
)
def test_an_address_has_a_host_and_a_port(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no port"),
        ("8443", "no port"),
        ("localhost", "no port"),
        ("localhost:", "no port within"),
        ("localhost:http", "no port within"),
        ("localhost:65536", "no port within"),
        ("localhost:-1", "no port within"),
        ("localhost:000000080", "no port within"),
        ("localhost:\u0661", "no port within"),
        ("::1:8443", "in brackets"),
        ("[::1]", "brackets"),
        ("[::1:8443", "brackets"),
        ("::1]:8443", "brackets"),
        ("[127.0.0.1]:80", "brackets"),
        ("[]:80", "brackets"),
        ("[[::1]]:80", "brackets"),
        ("http://localhost:80", "in brackets"),
        ("-host:80", "malformed host"),
        ("a b:80", "malformed host"),
        ("a/b:80", "malformed host"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(OptionsError, match=complaint) as refused:
        Address.parse(text)
    assert repr(text) in str(refused.value)


def test_everything_listens_on_loopback_unless_told_otherwise() -> None:
    options = EdgeOptions.parse(data_dir="/somewhere")
    assert str(options.https) == "127.0.0.1:8443"
    assert str(options.http) == "127.0.0.1:8080"
    assert [str(address) for address in options.tunnels] == ["127.0.0.1:7844"]
    assert str(options.api) == "127.0.0.1:8081"
    assert options.domain == "localhost"
    assert options.data_dir == Path("/somewhere")


def test_several_tunnel_addresses() -> None:
    options = EdgeOptions.parse(data_dir="/d", tunnels=("127.0.0.1:0", "127.0.0.1:0"))
    assert len(options.tunnels) == 2


def test_the_complaint_names_the_option() -> None:
    with pytest.raises(OptionsError, match=r"^--tunnel: "):
        EdgeOptions.parse(data_dir="/d", tunnels=("127.0.0.1:1", "nonsense"))
    with pytest.raises(OptionsError, match=r"^--domain: "):
        EdgeOptions.parse(data_dir="/d", domain="*.example.com")


def test_two_listeners_cannot_share_an_address_but_may_both_ask_for_any_port() -> None:
    with pytest.raises(OptionsError, match=r"127\.0\.0\.1:8080 is given to two"):
        EdgeOptions.parse(data_dir="/d", https="127.0.0.1:8080")
    EdgeOptions.parse(data_dir="/d", https="127.0.0.1:0", http="127.0.0.1:0")


def test_an_edge_needs_a_tunnel_listener() -> None:
    with pytest.raises(OptionsError, match="at least one tunnel address"):
        EdgeOptions.parse(data_dir="/d", tunnels=())


@pytest.mark.parametrize("location", ["", "a" * 33, "Upper", "-a", "a b", 'a"b'])
def test_a_location_is_a_plain_label(location: str) -> None:
    with pytest.raises(OptionsError, match="location"):
        EdgeOptions.parse(data_dir="/d", location=location)


def test_domain_is_normalized() -> None:
    assert EdgeOptions.parse(data_dir="/d", domain="Example.COM.").domain == "example.com"


def test_refusals_can_be_caught_as_one_kind() -> None:
    with pytest.raises(EdgeError):
        Address.parse("x")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="XDG names the place on Linux")
def test_the_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/underpass/edge")
    assert EdgeOptions.parse().data_dir == Path("/data/underpass/edge")
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        assert default_data_dir() == Path("/home/someone/.local/share/underpass/edge")


@pytest.mark.skipif(sys.platform == "win32", reason="workers need more than Windows has")
@pytest.mark.parametrize(("text", "count"), [("1", 1), ("2", 2), ("64", 64)])
def test_a_number_of_workers(text: str, count: int) -> None:
    assert EdgeOptions.parse(workers=text).workers == count


def test_one_worker_unless_told_otherwise() -> None:
    assert EdgeOptions.parse().workers == 1
    assert 1 <= EdgeOptions.parse(workers="auto").workers <= MAX_WORKERS


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "two", "1.5", "100000", "\u0662"])
def test_no_number_of_workers(text: str) -> None:
    with pytest.raises(OptionsError, match="--workers"):
        EdgeOptions.parse(workers=text)


def test_workers_are_refused_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(OptionsError, match="not supported on Windows"):
        EdgeOptions.parse(data_dir="data", workers="2")
    assert EdgeOptions.parse(data_dir="data", workers="auto").workers == 1


def test_how_long_requests_may_take_is_checked() -> None:
    for option, given in (
        ("--first-byte-timeout 0", {"first_byte": 0.0}),
        ("--first-byte-timeout -1", {"first_byte": -1.0}),
        ("--idle-timeout nan", {"idle": float("nan")}),
        ("--request-timeout inf", {"total": float("inf")}),
    ):
        with pytest.raises(OptionsError, match=option):
            Timeouts(**given)


def test_how_long_browsers_remember_is_checked() -> None:
    for seconds in (-1, MAX_HSTS_SECONDS + 1):
        with pytest.raises(OptionsError, match=f"--hsts {seconds}"):
            EdgeOptions.parse(data_dir="/d", hsts_seconds=seconds)
    assert EdgeOptions.parse(data_dir="/d", hsts_seconds=MAX_HSTS_SECONDS).hsts_seconds


def test_the_dashboard_has_a_name_of_its_own() -> None:
    parsed = EdgeOptions.parse(dashboard=DashboardOptions("Dash.Example.COM."))
    assert parsed.dashboard.hostname == "dash.example.com"
    with pytest.raises(OptionsError, match="the dashboard's hostname: "):
        DashboardOptions("*.example.com")
    with pytest.raises(OptionsError, match="given to the dashboard and to management services"):
        EdgeOptions.parse(
            dashboard=DashboardOptions("a.example.com"), management_hostname="a.example.com"
        )
    with pytest.raises(OptionsError, match="whose TLS ends here, and passed through"):
        EdgeOptions.parse(
            dashboard=DashboardOptions("a.example.com"),
            passthrough=Passthrough(("*.example.com",)),
        )
