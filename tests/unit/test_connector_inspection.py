"""What a running connector shows of its configuration."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

from underpass.connector.ingress import Ingress, Rule, single_rule
from underpass.connector.inspection import configuration_document, settings_document
from underpass.connector.origin_request import AccessRequirement, IPRule, OriginRequest
from underpass.connector.origins import HttpStatus, parse_service
from underpass.connector.path_pattern import PathPattern
from underpass.connector.settings import resolve

# As cloudflared 2026.8.2 shows a rule without settings.
DEFAULTS = json.loads(
    '{"connectTimeout":30,"tlsTimeout":10,"tcpKeepAlive":30,"noHappyEyeballs":false,'
    '"keepAliveTimeout":90,"keepAliveConnections":100,"httpHostHeader":"","originServerName":"",'
    '"matchSNItoHost":false,"caPool":"","noTLSVerify":false,"disableChunkedEncoding":false,'
    '"bastionMode":false,"proxyAddress":"127.0.0.1","proxyPort":0,"proxyType":"","ipRules":null,'
    '"http2Origin":false,"access":{"teamName":"","audTag":null}}'
)


def test_a_single_origin_is_shown_as_cloudflared_shows_it() -> None:
    ingress = single_rule(parse_service("http://127.0.0.1:8000"))
    text = json.dumps(configuration_document(ingress, -1))
    assert '"connectTimeout": 30,' in text  # whole seconds are whole numbers
    assert json.loads(text) == {
        "version": -1,
        "config": {
            "ingress": [
                {
                    "hostname": "",
                    "path": None,
                    "service": "http://127.0.0.1:8000",
                    "Handlers": None,
                    "originRequest": DEFAULTS,
                }
            ],
            "warp-routing": {},
            "originRequest": DEFAULTS,
        },
    }


def test_settings_of_rules_and_the_defaults_are_told_apart() -> None:
    own = OriginRequest(
        connect_timeout=1.5,
        no_tls_verify=True,
        ip_rules=(IPRule(ipaddress.ip_network("192.0.2.0/24"), (22, 80), allow=True),),
        access=AccessRequirement("team", ("tag",), ""),
    )
    ingress = Ingress(
        [
            Rule(parse_service("https://localhost"), "a.test", PathPattern("^/x"), own),
            Rule(HttpStatus(404)),
        ],
        defaults=OriginRequest(tcp_keep_alive=60.0),
    )
    config = configuration_document(ingress, 7)["config"]
    first = config["ingress"][0]
    assert (first["hostname"], first["path"]) == ("a.test", "^/x")
    assert first["originRequest"] == DEFAULTS | {
        "connectTimeout": 1.5,
        "noTLSVerify": True,
        "ipRules": [{"prefix": "192.0.2.0/24", "ports": [22, 80], "allow": True}],
        "access": {"required": True, "teamName": "team", "audTag": ["tag"]},
    }
    assert config["originRequest"] == DEFAULTS | {"tcpKeepAlive": 60}


def test_settings_are_shown_without_secrets() -> None:
    given = {
        "token": "eyJhIjoi",
        "credentials-contents": "{}",
        "loglevel": "debug",
        "edge": ("a:1", "b:2"),
        "logfile": "underpass.log",
        "no-autoupdate": True,
        "grace-period": 10.0,
    }
    document = settings_document(resolve([given], {}, {}))
    assert document.pop("uid").lstrip("-").isdigit()
    assert document == {
        "loglevel": "debug",
        "edge": "[a:1 b:2]",
        "logfile": str(Path("underpass.log").absolute()),
        "no-autoupdate": "true",
        "grace-period": "10s",
    }
    assert set(settings_document(None)) == {"uid"}
