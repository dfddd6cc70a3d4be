"""Named tunnels with chosen hostnames: credentials, tokens, and rules that pick an origin."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
import yaml
from peers.curl import Curl
from peers.origin import Origin
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running

from underpass.wire.credentials import Credentials, write_credentials_file

HOSTNAMES = (
    "app.example.test",
    "api.example.test",
    "*.apps.example.test",
    "plain.apps.example.test",
    "elsewhere.example.test",
)


@dataclass(frozen=True)
class Named:
    """An edge with one named tunnel, and a connector of it with ingress rules."""

    edge: EdgeProcess
    connector: ConnectorProcess
    credentials: Credentials
    app: Origin
    api: Origin
    wild: Origin
    files: Path

    def curl(self, hostname: str) -> Curl:
        return Curl(self.edge, hostname)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    files = tmp_path_factory.mktemp("ingress")
    credentials = new_tunnel(files / "data", *HOSTNAMES)
    write_credentials_file(files / "credentials.json", credentials)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.internal").configure_cert(context)
    edge = EdgeProcess(files / "data")
    with (
        running(edge),
        Origin() as app,
        Origin(context) as api,
        Origin() as wild,
        Origin(context, files / "wild.sock"),
    ):
        (files / "config.yml").write_text(
            yaml.safe_dump(
                {
                    "tunnel": str(credentials.tunnel_id),
                    "credentials-file": str(files / "credentials.json"),
                    "originRequest": {"connectTimeout": "5s"},
                    "ingress": [
                        {
                            "hostname": "api.example.test",
                            "path": "^/(shown|hello)",
                            "service": f"https://127.0.0.1:{api.port}",
                            "originRequest": {
                                "caPool": str(files / "ca.pem"),
                                "originServerName": "api.internal",
                                "httpHostHeader": "api.internal",
                            },
                        },
                        {"hostname": "api.example.test", "service": "http_status:410"},
                        {"hostname": "app.example.test", "service": app.url},
                        {
                            "hostname": "secure.apps.example.test",
                            "service": f"unix+tls:{files / 'wild.sock'}",
                            "originRequest": {
                                "caPool": str(files / "ca.pem"),
                                "originServerName": "api.internal",
                            },
                        },
                        {
                            "hostname": "hello.apps.example.test",
                            "service": "hello_world",
                        },
                        {"hostname": "*.apps.example.test", "service": wild.url},
                        {"service": "http_status:404"},
                    ],
                }
            )
        )
        connector = ConnectorProcess(
            [f"--config={files / 'config.yml'}", *edge.edge_arguments, "run"]
        )
        with running(connector):
            connector.ready()
            yield Named(edge, connector, credentials, app, api, wild, files)


def test_a_hostname(named: Named) -> None:
    answer = named.curl("app.example.test")("/hello")
    assert answer.body == b"hello\n"
    assert len(named.app.requests("/hello")) == 1


def test_a_path(named: Named) -> None:
    answer = named.curl("api.example.test")("/shown/x")
    assert answer.status == 200
    headers = {name.lower(): value for name, value in answer.json["headers"]}
    assert headers["host"] == "api.internal"
    assert headers["x-forwarded-host"].startswith("api.example.test")
    assert named.api.requests("/shown/x")


def test_another_path_falls_to_the_next_rule(named: Named) -> None:
    assert named.curl("api.example.test")("/bytes/1").status == 410
    assert not named.api.requests("/bytes/1")


@pytest.mark.parametrize("path", ["/shown/../bytes/1", "/%2e%2e/shown", "/shown%2f..%2fbytes"])
def test_a_path_that_may_mean_another_rule(named: Named, path: str) -> None:
    json = ("--path-as-is", "-H", "Accept: application/json")
    answer = named.curl("api.example.test")(path, *json)
    assert (answer.status, answer.header("underpass-cause")) == (400, "ambiguous_path")
    line = named.connector.wait_for("Request refused", cause="ambiguous_path", status=400)
    assert "different rules" in line["error"]
    # Without a rule that looks at paths it is the application's own business, byte for byte.
    answer = named.curl("app.example.test")(path, *json)
    assert answer.header("underpass-cause") is None
    assert named.app.requests(path)


def test_an_encoded_path_that_means_one_rule_is_passed_on_as_it_came(named: Named) -> None:
    named.curl("api.example.test")("/%73hown/a%2Fb%20c")
    assert named.api.requests("/%73hown/a%2Fb%20c")


@pytest.mark.parametrize("hostname", ["one.apps.example.test", "a.b.apps.example.test"])
def test_a_wildcard(named: Named, hostname: str) -> None:
    answer = named.curl(hostname)("/shown")
    assert answer.status == 200
    assert any(value.startswith(hostname) for name, value in answer.json["headers"])
    assert named.wild.requests("/shown")


def test_tls_on_a_unix_socket(named: Named) -> None:
    assert named.curl("secure.apps.example.test")("/hello").body == b"hello\n"


def test_hello_world(named: Named) -> None:
    answer = named.curl("hello.apps.example.test")("/")
    assert answer.status == 200
    assert answer.header("content-type") == "text/html; charset=utf-8"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_catch_all(named: Named, method: str) -> None:
    answer = named.curl("elsewhere.example.test")("/", "-X", method)
    assert answer.status == 404
    # The application's own 404, not the edge's page.
    assert answer.body == b""
    assert answer.header("underpass-cause") is None


def test_the_suffix_of_a_wildcard_is_not_below_it(named: Named) -> None:
    answer = named.curl("apps.example.test")("/", "-k", "-H", "Accept: application/json")
    assert answer.json["type"] == "urn:underpass:error:unknown-host"


def test_its_links_are_four_unless_told_otherwise(named: Named) -> None:
    # One --edge address holds one link.
    status, body = named.connector.readiness
    assert (status, body["readyConnections"]) == (200, 1)
    named.connector.wait_for("There are fewer edge addresses than connections asked for")


@pytest.mark.parametrize("way", ["--token", "TUNNEL_TOKEN", "--token-file", "--credentials-file"])
def test_ways_to_say_which_tunnel(named: Named, tmp_path: Path, way: str) -> None:
    """A second connector of the same tunnel; both share its requests."""
    token = named.credentials.to_token()
    (tmp_path / "token").write_text(token + "\n")
    arguments, environment = [], {}
    if way == "--token":
        arguments = ["--token", token]
    elif way == "TUNNEL_TOKEN":
        environment = {"TUNNEL_TOKEN": token}
    elif way == "--token-file":
        arguments = ["--token-file", str(tmp_path / "token")]
    else:
        arguments = ["--credentials-file", str(named.files / "credentials.json")]
    with Origin() as origin:
        connector = ConnectorProcess(
            [*named.edge.edge_arguments, "run", f"--url={origin.url}", *arguments],
            environment=environment,
        )
        with running(connector):
            connector.ready()
            curl = named.curl("app.example.test")
            answers = curl.several(["/hello?shared"] * 10)
            assert [answer.status for answer in answers] == [200] * 10
            assert origin.requests("/hello")
            assert token not in connector.log


def test_without_rules_or_an_origin_every_request_is_answered_with_503(
    tmp_path: Path, data_dir: Path
) -> None:
    credentials = new_tunnel(data_dir, "empty.example.test")
    edge = EdgeProcess(data_dir)
    with running(edge):
        connector = ConnectorProcess(
            [*edge.edge_arguments, "run", "--token", credentials.to_token()]
        )
        with running(connector):
            connector.ready()
            connector.wait_for("No ingress rules and no origin are given")
            answer = Curl(edge, "empty.example.test")("/")
            assert (answer.status, answer.body) == (503, b"")


def test_ten_thousand_rules(tmp_path: Path, data_dir: Path) -> None:
    """The edge is told of them all, and the link stays."""
    credentials = new_tunnel(data_dir, "last.example.test")
    rules = [
        f"- {{hostname: {'x' * 60}-{number}.example.test, service: 'http://127.0.0.1:{number}'}}\n"
        for number in range(1, 10_000)
    ]
    (tmp_path / "config.yml").write_text(f"ingress:\n{''.join(rules)}- service: http_status:418\n")
    edge = EdgeProcess(data_dir)
    with running(edge):
        connector = ConnectorProcess(
            [
                f"--config={tmp_path / 'config.yml'}",
                *edge.edge_arguments,
                "run",
                f"--token={credentials.to_token()}",
            ]
        )
        with running(connector):
            connector.ready()
            assert Curl(edge, "last.example.test")("/").status == 418
        # Calls are answered in order: once it has unregistered, the report has been answered too.
        assert connector.has_logged("Unregistered tunnel connection")
        assert not connector.has_logged("Lost connection")
        assert not connector.has_logged("unable to report the configuration")


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        (
            [{"hostname": "a.example.test", "service": "http://127.0.0.1:1"}],
            "must match everything",
        ),
        ([{"service": "nonsense"}], "nonsense"),
        ([{"path": "(", "service": "http_status:404"}], "rule #1"),
        (
            [{"service": "http_status:404", "originRequest": {"access": {"required": True}}}],
            "access",
        ),
    ],
)
def test_bad_rules_are_refused_at_the_start(
    named: Named, tmp_path: Path, rules: object, complaint: str
) -> None:
    (tmp_path / "config.yml").write_text(yaml.safe_dump({"ingress": rules}))
    connector = ConnectorProcess(
        [
            f"--config={tmp_path / 'config.yml'}",
            *named.edge.edge_arguments,
            "run",
            f"--token={named.credentials.to_token()}",
        ]
    )
    connector.check(expected=1)
    assert complaint in connector.log
