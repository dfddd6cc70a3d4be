"""Ingress rules: how they are read, checked and matched."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from underpass.connector import ingress as module
from underpass.connector.ingress import (
    AMBIGUOUS,
    RESERVED,
    Ingress,
    read_ingress,
    single_rule,
    split_host_port,
)
from underpass.connector.origin_request import AccessRequirement, IPRule, OriginRequest
from underpass.connector.origins import (
    Bastion,
    HelloWorld,
    HttpService,
    HttpStatus,
    SocksProxy,
    StreamService,
    UnixService,
    parse_service,
    parse_url_flag,
)
from underpass.connector.request_path import MAX_DOUBTFUL
from underpass.ops.document import ConfigError, parse_json, parse_yaml

CATCH_ALL = {"service": "http_status:404"}


def rules(*items: dict[str, Any], **top: Any) -> Ingress:
    ingress = read_ingress(parse_json(json.dumps({"ingress": list(items), **top}), "test"))
    assert ingress is not None
    return ingress


class TestMatching:
    def test_the_first_rule_that_matches_host_and_path_decides(self) -> None:
        ingress = rules(
            {"hostname": "a.example", "path": "^/api", "service": "http://one"},
            {"hostname": "a.example", "service": "http://two"},
            {"hostname": "*.example", "service": "http://three"},
            {"path": r"\.png$", "service": "http://four"},
            CATCH_ALL,
        )
        assert ingress.match(b"a.example", b"/api/x") == 0
        assert ingress.match(b"a.example", b"/other.png") == 1
        assert ingress.match(b"b.example", b"/") == 2
        assert ingress.match(b"c.b.example", b"/") == 2
        assert ingress.match(b"example", b"/x.png") == 3
        assert ingress.match(b"example", b"/") == 4

    def test_an_earlier_wildcard_hides_a_later_exact_host(self) -> None:
        ingress = rules(
            {"hostname": "*.example", "service": "http://wild"},
            {"hostname": "a.example", "service": "http://exact"},
            CATCH_ALL,
        )
        assert ingress.match(b"a.example", b"/") == 0

    @pytest.mark.parametrize("hostname", ["Path.example", "path.example.", "PATH.EXAMPLE"])
    def test_neither_case_nor_a_trailing_dot_counts(self, hostname: str) -> None:
        ingress = rules(
            {"hostname": hostname, "service": "http://x"},
            {"hostname": f"*.{hostname}", "service": "http://y"},
            CATCH_ALL,
        )
        for host in (b"Path.example", b"path.example", b"PATH.example.", b"path.example.:8443"):
            assert ingress.match(host, b"/") == 0
            assert ingress.match(b"A.b." + host, b"/") == 1
        assert ingress.match(b"path.example..", b"/") == 2

    def test_the_port_is_left_out(self) -> None:
        ingress = rules({"hostname": "a.example", "service": "http://x"}, CATCH_ALL)
        assert ingress.match(b"a.example:8443", b"/") == 0

    @pytest.mark.parametrize("host", ["bücher.example", "BÜCHER.example"])
    def test_an_international_name_matches_what_browsers_send(self, host: str) -> None:
        ingress = rules({"hostname": host, "service": "http://x"}, CATCH_ALL)
        assert ingress.match(b"xn--bcher-kva.example", b"/") == 0
        assert ingress.match(host.encode(), b"/") == 0

    def test_an_international_wildcard_matches_too(self) -> None:
        ingress = rules({"hostname": "*.straße.example", "service": "http://x"}, CATCH_ALL)
        assert ingress.match(b"a.xn--strae-oqa.example", b"/") == 0

    def test_paths_are_decoded_and_searched_without_the_query(self) -> None:
        ingress = rules(
            {"path": "^/a b$", "service": "http://x"},
            {"path": "^/é$", "service": "http://x"},
            CATCH_ALL,
        )
        assert ingress.match(b"h", b"/a%20b") == 0
        assert ingress.match(b"h", b"/a%20b?query=1") == 0
        assert ingress.match(b"h", b"/%C3%A9") == 1
        assert ingress.match(b"h", b"/%") == 2
        assert ingress.match(b"h", b"/\xff") == 2

    @pytest.mark.parametrize(
        "path",
        [
            "/static/../admin",
            "/static/%2e%2e/admin",
            "/static/%2E./admin",
            "/static/..%2fadmin",
            "/static%2f..%2Fadmin",
            "/static/%252e%252e/admin",
            "/static/..\\admin",
            "/static/%5c../admin",
            "/static/..%5cadmin",
            "/static/..;/admin",
            "/static/..;jsessionid=1/admin",
            "/static/./../admin?query=/static/",
            "/./admin",
            "/static/../../admin",
            "/admin%2fpublic",
            "/%61dmin%252fpublic",
            "/static//../admin",
            "/%2561dmin",
            "/%252561dmin",
            "/%2525252525252561",
        ],
    )
    def test_a_path_that_readers_disagree_about_is_refused(self, path: str) -> None:
        ingress = rules(
            {"hostname": "a", "path": "^/admin(/|$)", "service": "http://admin"},
            {"hostname": "a", "path": "^/static/", "service": "http://static"},
            CATCH_ALL,
        )
        assert ingress.match(b"a", path.encode()) == AMBIGUOUS
        # A host that has no rule with a path does not care.
        assert ingress.match(b"b", path.encode()) == 2

    def test_what_is_looked_at_in_several_ways_is_bounded(self) -> None:
        ingress = rules({"path": "^/a", "service": "http://x"}, CATCH_ALL)
        for doubt in (b"%20", b"/.x", b"\\"):
            path = b"/a".ljust(MAX_DOUBTFUL - len(doubt), b"a") + doubt
            assert ingress.match(b"h", path) == 0
            assert ingress.match(b"h", path + b"a") == AMBIGUOUS
            assert ingress.match(b"h", b"/a?" + path + b"a") == 0
        assert ingress.match(b"h", b"/a" * MAX_DOUBTFUL) == 0

    @pytest.mark.parametrize(
        ("path", "rule"),
        [
            ("/admin", 0),
            ("/%61dmin", 0),
            ("/admin?x=../static/%2e", 0),
            ("/admin/../admin/x", 0),
            ("/admin/./x", 0),
            ("/admin/.well-known/x", 0),
            ("/admin/...", 0),
            ("/admin/a%2Fb", 0),
            ("/admin/100%25", 0),
            ("/admin/%zz", 0),
            ("/static/a%20b/%C3%A9.png", 1),
            ("/static/a%252Fb", 1),
            ("//admin", 2),
            ("/.well-known/x", 2),
            ("/a%2Fb", 2),
            ("*", 2),
            ("", 2),
        ],
    )
    def test_a_path_that_they_agree_about_is_served(self, path: str, rule: int) -> None:
        ingress = rules(
            {"path": "^/admin(/|$)", "service": "http://admin"},
            {"path": "^/static/", "service": "http://static"},
            CATCH_ALL,
        )
        assert ingress.match(b"a", path.encode()) == rule

    def test_star_without_a_dot_only_matches_itself(self) -> None:
        ingress = rules({"hostname": "*abc", "service": "http://x"}, CATCH_ALL)
        assert ingress.match(b"*abc", b"/") == 0
        assert ingress.match(b"xabc", b"/") == 1

    def test_what_is_remembered_of_hosts_is_bounded(self) -> None:
        ingress = rules({"hostname": "*.example", "service": "http://x"}, CATCH_ALL)
        for number in range(module.MAX_REMEMBERED_HOSTS + 10):
            assert ingress.match(b"%d.example" % number, b"/") == 0
        assert len(ingress._by_host) <= module.MAX_REMEMBERED_HOSTS
        ingress._by_host.clear()
        assert ingress.match(b"a" * 1000 + b".example", b"/") == 0
        assert not ingress._by_host


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"a", b"a"),
        (b"a:1", b"a"),
        (b"a:", b"a"),
        (b"[::1]:80", b"::1"),
        (b"[::1]", b"[::1]"),
        (b"::1", b"::1"),
        (b"[::1", b"[::1"),
        (b"[a]b:1", b"[a]b:1"),
        (b"[[a]:1", b"[[a]:1"),
        (b"a]:1", b"a]:1"),
        (b":80", b""),
        (b"", b""),
    ],
)
def test_host_and_port_are_split_as_go_does(host: bytes, name: bytes) -> None:
    assert split_host_port(host) == name


class TestServices:
    @pytest.mark.parametrize(
        ("text", "service"),
        [
            ("http://localhost:8000", HttpService("http", "localhost", 8000)),
            ("http://localhost", HttpService("http", "localhost", 80)),
            ("https://h?q#f", HttpService("https", "h", 443)),
            ("https://user:secret@h", HttpService("https", "h", 443)),
            ("ws://h:1", HttpService("http", "h", 1)),
            ("wss://h", HttpService("https", "h", 443)),
            ("http://[::1]:80", HttpService("http", "::1", 80)),
            ("unix:/run/app.sock", UnixService("/run/app.sock")),
            ("unix+tls:app.sock", UnixService("app.sock", tls=True)),
            ("tcp://h", StreamService("h", 7864, "tcp")),
            ("ssh://h", StreamService("h", 22, "ssh")),
            ("rdp://h", StreamService("h", 3389, "rdp")),
            ("smb://h", StreamService("h", 445, "smb")),
            ("ssh://h:2222", StreamService("h", 2222, "ssh")),
            ("foo://bar", StreamService("bar", 0, "foo")),
            ("hello_world", HelloWorld()),
            ("hello-world", HelloWorld()),
            ("http_status:404", HttpStatus(404)),
            ("http_status:999", HttpStatus(999)),
            ("bastion", Bastion()),
            ("socks-proxy", SocksProxy()),
        ],
    )
    def test_service_texts(self, text: str, service: object) -> None:
        assert parse_service(text) == service

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("localhost:8000", "needs a scheme and a host"),
            ("http://", "needs a scheme and a host"),
            ("http://:80", "needs a scheme and a host"),
            ("http://h/", "has a path"),
            ("tcp://h/x", "has a path"),
            ("http://h:99999", "not a valid address"),
            ("http://h:x", "not a valid address"),
            ("http://h\r\nx: y", "control character"),
            ("http_status:abc", "is not a status code"),
            ("http_status:99", "between 100 and 999"),
            ("http_status:1000", "between 100 and 999"),
        ],
    )
    def test_texts_that_are_no_service(self, text: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            parse_service(text)

    def test_bastion_mode_turns_urls_into_bastions_and_nothing_else(self) -> None:
        assert parse_service("http://h", bastion_mode=True) == Bastion()
        assert parse_service("unix:/x", bastion_mode=True) == UnixService("/x")
        assert parse_service("http_status:200", bastion_mode=True) == HttpStatus(200)

    def test_a_service_prints_as_it_is_written(self) -> None:
        texts = ["http://[::1]:8000", "unix+tls:/x", "ssh://h:22", "foo://bar", "http_status:404"]
        assert [str(parse_service(text)) for text in texts] == texts

    @pytest.mark.parametrize(
        ("text", "service"),
        [
            ("localhost:8000", HttpService("http", "localhost", 8000)),
            ("localhost", HttpService("http", "localhost", 80)),
            ("127.0.0.1", HttpService("http", "127.0.0.1", 80)),
            ("::1", HttpService("http", "::1", 80)),
            ("[::1]:8000", HttpService("http", "::1", 8000)),
            ("http://localhost:8000/path?q", HttpService("http", "localhost", 8000)),
            ("ssh://localhost", StreamService("localhost", 22, "ssh")),
        ],
    )
    def test_the_url_flag_is_more_forgiving(self, text: str, service: object) -> None:
        assert parse_url_flag(text) == service

    @pytest.mark.parametrize("text", ["", "ftp://h", "ws://h", "http://", "http://a b"])
    def test_but_not_of_everything(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"URL|scheme|host|space"):
            parse_url_flag(text)


class TestValidation:
    @pytest.mark.parametrize(
        ("items", "reason"),
        [
            ([], "the list is empty"),
            ([{"hostname": "a"}], "rule #1: a rule needs a service"),
            ([{"service": "localhost"}], "rule #1: 'localhost' needs a scheme"),
            ([{"service": "http://h/x"}], "rule #1: .* has a path"),
            ([{"service": "http_status:1"}], "rule #1: .*between 100 and 999"),
            (
                [{"hostname": "a:80", "service": "http://x"}, CATCH_ALL],
                "rule #1: 'a:80' contains a port",
            ),
            (
                [{"hostname": "a.*.b", "service": "http://x"}, CATCH_ALL],
                "rule #1: .*first character",
            ),
            (
                [{"hostname": "*.*.b", "service": "http://x"}, CATCH_ALL],
                "rule #1: .*first character",
            ),
            ([{"hostname": "a", "service": "http://x"}], "rule #1: it is the last one"),
            ([{"path": "/a", "service": "http://x"}], "rule #1: it is the last one"),
            ([CATCH_ALL, CATCH_ALL], "rule #1: it matches every host"),
            (
                [{"hostname": "*", "service": "http://x"}, CATCH_ALL],
                "rule #1: it matches every host",
            ),
            (
                [CATCH_ALL | {"hostname": "a"}, CATCH_ALL | {"path": "("}, CATCH_ALL],
                r"ingress\[1\].path: rule #2: '\(' is not a valid regular expression: a group that",
            ),
            (
                [{"servise": "http://x"}],
                r"ingress\[0\].servise: rule #1: unknown key; did you mean 'service'",
            ),
            (["http://x"], r"ingress\[0\]: rule #1: expected a mapping"),
        ],
    )
    def test_broken_rules_are_refused_by_number(self, items: list[Any], reason: str) -> None:
        with pytest.raises(ConfigError, match=reason):
            rules(*items)

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"ipRules": [{"ports": [80]}]}, "needs a prefix"),
            ({"ipRules": [{"prefix": "10.0.0.0"}]}, "is not a network"),
            ({"ipRules": [{"prefix": "10.0.0.0/99"}]}, "is not a network"),
            ({"ipRules": [{"prefix": "10.0.0.0/8", "ports": [0]}]}, "between 1 and 65535"),
            ({"access": {"required": True, "audTag": ["x"]}}, "teamName: rule #1: cannot be blank"),
            (
                {"access": {"required": True, "teamName": "evil.example/"}},
                "teamName: rule #1: 'evil.example/' is not the name of a team",
            ),
            ({"access": {"required": True, "teamName": "team"}}, "audTag: rule #1: is missing"),
            ({"access": {"environment": "eu"}}, "environment: rule #1: 'eu' is not '' or 'fed'"),
            ({"connectTimeout": "5s"}, "whole number of seconds"),
            ({"connectTimeout": 1.5}, "whole number of seconds"),
            ({"noTlsVerify": True}, "did you mean 'noTLSVerify'"),
            ({"proxyType": "http"}, "is not '' or 'socks'"),
            ({"proxyProtocol": "v3"}, "is not 'v1' or 'v2'"),
            ({"proxyProtocol": 1}, "proxyProtocol"),
            ({"keepAliveConnections": -1}, "cannot be smaller than 0"),
            ({"httpHostHeader": "a\r\nb"}, "control character"),
        ],
    )
    def test_broken_origin_settings_are_refused(self, settings: Any, reason: str) -> None:
        with pytest.raises(ConfigError, match=reason):
            rules({"service": "socks-proxy", "originRequest": settings})

    @pytest.mark.parametrize(
        "service", ["http://x", "https://x", "wss://x", "unix:/x", "unix+tls:/x"]
    )
    def test_connections_that_visitors_share_name_none_of_them(self, service: str) -> None:
        with pytest.raises(ConfigError, match="takes no proxyProtocol"):
            rules({"service": service, "originRequest": {"proxyProtocol": "v1"}})

    @pytest.mark.parametrize(
        "service",
        ["tcp://x", "ssh://x", "bastion", "socks-proxy", "http_status:404", "hello_world"],
    )
    def test_streams_and_what_has_no_origin_take_it(self, service: str) -> None:
        (rule,) = rules({"service": service, "originRequest": {"proxyProtocol": "v2"}}).rules
        assert rule.origin_request.proxy_protocol == "v2"

    def test_errors_in_a_file_name_the_line(self) -> None:
        text = "ingress:\n  - hostname: a\n    service: http://x/\n  - service: http_status:404\n"
        with pytest.raises(ConfigError, match=r"config.yml, line 3: ingress\[0\].service: rule #1"):
            read_ingress(parse_yaml(text, "config.yml"))

    @pytest.mark.parametrize(
        ("rule", "line", "why"),
        [
            ("service: localhost", 4, "service: rule #2: 'localhost' needs a scheme and a host"),
            ("service: 'http://'", 4, "service: rule #2: 'http://' needs a scheme and a host"),
            ("service: http://h/", 4, "service: rule #2: 'http://h/' has a path"),
            ("hostname: b", 4, "service: rule #2: a rule needs a service"),
            ("service: http_status:x", 4, "service: rule #2: http_status:x: 'x' is not a status"),
            ("service: http_status:99", 4, "service: rule #2: http_status:99: a status code is"),
            (
                "hostname: b:80\n    service: http://h",
                4,
                "hostname: rule #2: 'b:80' contains a port",
            ),
            ("hostname: a.*.b\n    service: http://h", 4, "hostname: rule #2: 'a.*.b' has a '*'"),
            ("service: http://h", 4, "rule #2: it matches every host and path"),
            ("path: (\n    service: http://h", 4, "path: rule #2: '(' is not a valid regular"),
            ("path: (?=x)\n    service: http://h", 4, "path: rule #2: '(?=x)' is not a valid"),
            (
                "hostname: b\n    service: socks-proxy\n    originRequest:\n      ipRules:\n"
                "      - {allow: true}",
                8,
                "originRequest.ipRules[0].prefix: rule #2: an IP rule needs a prefix",
            ),
            (
                "hostname: b\n    service: socks-proxy\n    originRequest:\n      ipRules:\n"
                "      - prefix: 10.0.0.0/33",
                8,
                "originRequest.ipRules[0].prefix: rule #2: '10.0.0.0/33' is not a network",
            ),
            (
                "hostname: b\n    service: socks-proxy\n    originRequest:\n      ipRules:\n"
                "      - prefix: 10.0.0.0/8\n        ports: [80, 65536]",
                9,
                "originRequest.ipRules[0].ports: rule #2: 65536 is not a port",
            ),
            (
                "hostname: b\n    service: http://h\n    originRequest:\n      access:\n"
                "        required: true\n        audTag: [x]",
                7,
                "originRequest.access.teamName: rule #2: cannot be blank when audTag is given",
            ),
            (
                "hostname: b\n    service: http://h\n    originRequest:\n      connectTimeout: 5",
                7,
                "originRequest.connectTimeout: rule #2: expected a duration such as 30s or 1m30s, "
                "found the number 5; write 5s",
            ),
        ],
    )
    def test_every_error_has_its_line_key_and_rule(self, rule: str, line: int, why: str) -> None:
        text = (
            "ingress:\n  - hostname: a\n    service: http://x\n"
            f"  - {rule}\n  - service: http_status:404\n"
        )
        with pytest.raises(ConfigError) as raised:
            read_ingress(parse_yaml(text, "config.yml"))
        place = f"config.yml, line {line}: ingress[1]"
        assert str(raised.value).startswith(place)
        assert why in str(raised.value).replace(f"{place}.", "").replace(f"{place}: ", "")

    def test_the_last_rule_has_a_line_too(self) -> None:
        text = "ingress:\n  - service: http://x\n    path: /a\n"
        with pytest.raises(ConfigError, match=r"line 2: ingress\[0\]: rule #1: it is the last one"):
            read_ingress(parse_yaml(text, "config.yml"))

    def test_no_ingress_key_means_no_rules(self) -> None:
        assert read_ingress(parse_yaml("tunnel: x\n", "config.yml")) is None


class TestOriginRequest:
    def test_a_rule_wins_over_the_top_level_which_wins_over_the_defaults(self) -> None:
        ingress = rules(
            {"hostname": "a", "service": "http://x", "originRequest": {"connectTimeout": 5}},
            CATCH_ALL,
            originRequest={"connectTimeout": 7, "noTLSVerify": True},
        )
        assert ingress.rules[0].origin_request == OriginRequest(
            connect_timeout=5.0, no_tls_verify=True
        )
        assert ingress.rules[1].origin_request.connect_timeout == 7.0

    def test_ip_rules_count_only_on_the_rule(self) -> None:
        settings = {
            "ipRules": [{"prefix": "10.1.2.3/8", "ports": [80, 443], "allow": True}],
        }
        ingress = rules(
            {"hostname": "a", "service": "socks-proxy", "originRequest": settings},
            {"service": "socks-proxy"},
            originRequest=settings,
        )
        own, inherited = ingress.rules
        allowed = (IPRule(ipaddress.ip_network("10.0.0.0/8"), (80, 443), True),)
        assert own.service == SocksProxy(allowed)
        assert inherited.service == SocksProxy()

    def test_access_for_all_rules_protects_all_but_those_that_say_otherwise(self) -> None:
        settings = {"access": {"required": True, "teamName": "team", "audTag": ["tag"]}}
        own = {"access": {"required": True, "teamName": "other", "audTag": ["one"]}}
        ingress = rules(
            {"hostname": "a", "service": "http://a", "originRequest": own},
            {
                "hostname": "b",
                "service": "http://b",
                "originRequest": {"access": {"required": False}},
            },
            CATCH_ALL,
            originRequest=settings,
        )
        assert [rule.origin_request.access for rule in ingress.rules] == [
            AccessRequirement("other", ("one",), ""),
            None,
            AccessRequirement("team", ("tag",), ""),
        ]

    def test_a_file_writes_durations_as_go_does(self) -> None:
        text = (
            "ingress:\n- service: http://x\n  originRequest:\n"
            "    keepAliveTimeout: 1m30s\n    tcpKeepAlive: -1s\n"
        )
        ingress = read_ingress(parse_yaml(text, "config.yml"))
        assert ingress is not None
        assert ingress.rules[0].origin_request.keep_alive_timeout == 90.0
        assert ingress.rules[0].origin_request.tcp_keep_alive == -1.0


def test_a_reserved_host_is_not_the_rules_business() -> None:
    ingress = single_rule(HttpStatus(200))
    assert ingress.match(b"management.test", b"/") == 0
    ingress.reserve(b"management.test")
    for host in (b"management.test", b"management.test:443", b"Management.TEST"):
        assert ingress.match(host, b"/any?thing") == RESERVED
    for host in (b"x.management.test", b"management.tes", b""):
        assert ingress.match(host, b"/") == 0
    ingress.reserve(b"")
    assert ingress.match(b"management.test", b"/") == 0
