"""The commands: what they parse, what they call, what they print, how they exit."""

from __future__ import annotations

import json
import os
import sys
import threading
import types
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from underpass.cli import main as main_module
from underpass.cli import tunnel as tunnel_module
from underpass.connector import quick, runner
from underpass.connector.options import ConnectorOptions
from underpass.connector.origins import HelloWorld, HttpService, HttpStatus
from underpass.edge.options import EdgeOptions
from underpass.ops import directories
from underpass.version import VERSION
from underpass.wire.credentials import Credentials
from underpass.wire.quick_tunnel import QuickTunnel, QuickTunnelError

CREDENTIALS = Credentials("account", b"s" * 32, uuid.UUID(int=1))
TOKEN = CREDENTIALS.to_token()


class Bench:
    """The command line with its runners replaced by notes of what they were given."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connectors: list[ConnectorOptions] = []
        self.embedded: list[ConnectorOptions] = []
        self.edges: list[EdgeOptions] = []
        self.services: list[str] = []
        self.quick_answer: QuickTunnel | QuickTunnelError = QuickTunnel(
            CREDENTIALS, "x.localhost:8443"
        )
        self.home = home
        monkeypatch.setattr(tunnel_module, "config_directories", lambda: (home,))
        monkeypatch.setattr(directories, "config_directories", lambda: (home,))
        monkeypatch.setattr(runner, "run_connector", self._run(self.connectors))
        monkeypatch.setattr(quick, "request_quick_tunnel_blocking", self._quick)
        self._module(monkeypatch, "underpass.cli.embedded", run_embedded=self._run(self.embedded))
        self._module(monkeypatch, "underpass.edge.runner", run_edge=self._run(self.edges))

    def _run(self, notes: list[Any]) -> Any:
        def run(options: Any, *_: Any) -> int:
            notes.append(options)
            return 0

        return run

    def _module(self, monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)

    def _quick(self, service: str, cacert: Path | None) -> QuickTunnel:
        self.services.append(service)
        if isinstance(self.quick_answer, QuickTunnelError):
            raise self.quick_answer
        return self.quick_answer

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(main_module.underpass, list(arguments), env=env or {})

    def connector(self, *arguments: str, env: dict[str, str] | None = None) -> ConnectorOptions:
        """Run a command that must have started one connector."""
        result = self(*arguments, env=env)
        assert result.exit_code == 0, result.output
        (options,) = self.connectors
        return options

    def config(self, text: str) -> str:
        path = self.home / "given.yml"
        path.write_text(text)
        return str(path)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in list(os.environ):
        if name.startswith("TUNNEL_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    yield Bench(home, monkeypatch)
    tunnel_module.configure_logging(tunnel_module.LoggingOptions())


def test_a_trace_of_go_is_remarked_on(cli: Bench) -> None:
    result = cli("tunnel", "run", "--trace-output=x", "--hello-world", f"--token={TOKEN}")
    assert result.exit_code == 0
    assert "--trace-output has no effect" in result.stderr


class TestVersionAndHelp:
    @pytest.mark.parametrize(
        "arguments", [["version"], ["--version"], ["-v"], ["-V"], ["-version"]]
    )
    def test_version(self, cli: Bench, arguments: list[str]) -> None:
        result = cli(*arguments)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"underpass version {VERSION} (Python ")

    @pytest.mark.parametrize("flag", ["--short", "-short", "-s"])
    def test_the_short_version_is_the_number(self, cli: Bench, flag: str) -> None:
        assert cli("version", flag).stdout == f"{VERSION}\n"

    @pytest.mark.parametrize(
        "arguments", [["tunnel", "-h"], ["help", "tunnel"], ["tunnel", "help"], ["tunnel", "-help"]]
    )
    def test_help_is_grouped(self, cli: Bench, arguments: list[str]) -> None:
        result = cli(*arguments)
        assert result.exit_code == 0
        for heading in ("What to publish:", "Connection to the edge:", "Commands:"):
            assert heading in result.stdout
        assert "(default 30s) [$TUNNEL_GRACE_PERIOD]" in " ".join(result.stdout.split())
        assert "--post-quantum" not in result.stdout

    def test_nothing_given_shows_the_commands(self, cli: Bench) -> None:
        result = cli()
        assert result.exit_code == 0
        assert "tunnel" in result.stdout

    def test_help_of_an_unknown_command(self, cli: Bench) -> None:
        assert cli("help", "tunnel", "bogus").exit_code == 2
        assert cli("tunnel", "help", "bogus").exit_code == 2

    def test_groups_explain_their_commands(self, cli: Bench) -> None:
        assert cli("tunnel", "route", "help", "dns").output == (
            cli("tunnel", "route", "dns", "--help").output
        )


class TestUsageErrors:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["bogus"],
            ["--bogus"],
            ["tunnel", "--bogus", "x"],
            ["tunnel", "bogus"],
            ["tunnel", "--url"],
            ["tunnel", "--ha-connections", "many"],
            ["tunnel", "--grace-period", "30"],
            ["tunnel", "--hello-world=perhaps"],
            ["tunnel", "--cred-file", "a", "--credentials-file", "b"],
            ["tunnel", "run", "a", "b"],
            ["edge", "run", "--https", "nowhere"],
            ["tunnel", "ingress", "rule"],
        ],
    )
    def test_exit_with_two(self, cli: Bench, arguments: list[str]) -> None:
        result = cli(*arguments)
        assert result.exit_code == 2
        assert "Error: " in result.stderr
        assert not cli.connectors

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            (["tunel"], "'tunnel'"),
            (["tunnel", "rn"], "'run'"),
            (["tunnel", "ingres"], "'ingress'"),
            (["tunnel", "ingress", "validat"], "'validate'"),
            (["tunnel", "--confg", "x", "run"], "'--config'"),
            (["tunnel", "run", "--tokn=x"], "'--token'"),
        ],
    )
    def test_what_was_probably_meant(self, cli: Bench, arguments: list[str], hint: str) -> None:
        result = cli(*arguments)
        assert result.exit_code == 2
        assert "Did you mean" in result.stderr
        assert hint in result.stderr


class TestQuickTunnel:
    def test_without_a_service_an_edge_is_embedded(self, cli: Bench) -> None:
        assert cli("tunnel", "--url", "http://localhost:8000").exit_code == 0
        (options,) = cli.embedded
        assert options.ingress.rules[0].service == HttpService("http", "localhost", 8000)
        assert options.credentials is None
        assert options.ha_connections == 1

    def test_with_a_service_it_is_asked_and_the_url_is_shown(self, cli: Bench) -> None:
        arguments = ("tunnel", "--hello-world", "--quick-service", "http://edge:1")
        options = cli.connector(*arguments)
        assert cli.services == ["http://edge:1"]
        assert options.credentials == CREDENTIALS
        assert options.quick_hostname == "x.localhost:8443"
        assert options.ingress.rules[0].service == HelloWorld()
        assert "https://x.localhost:8443" in cli(*arguments).stderr

    def test_a_service_that_refuses_is_exit_code_one(self, cli: Bench) -> None:
        cli.quick_answer = QuickTunnelError("no more today")
        result = cli("tunnel", "--hello-world", "--quick-service", "http://edge:1")
        assert (result.exit_code, cli.connectors) == (1, [])
        assert "Error: no more today" in result.stderr

    def test_the_top_level_takes_the_flags_too(self, cli: Bench) -> None:
        assert cli("-url", "localhost:8000").exit_code == 0
        assert len(cli.embedded) == 1

    def test_a_token_in_the_environment_does_not_hijack_a_url(self, cli: Bench) -> None:
        assert cli("tunnel", "--url", "x", env={"TUNNEL_TOKEN": TOKEN}).exit_code == 0
        assert len(cli.embedded) == 1

    def test_missing_edge_packages_are_named(
        self, cli: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Refuse:
            def find_spec(self, name: str, *_: object) -> None:
                if name == "underpass.cli.embedded":
                    raise ModuleNotFoundError("No module named 'starlette'", name="starlette")

        monkeypatch.delitem(sys.modules, "underpass.cli.embedded")
        monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
        result = cli("tunnel", "--hello-world")
        assert result.exit_code == 1
        assert "pip install 'underpass[edge]'" in result.stderr


class TestNamedTunnel:
    def test_a_token_is_enough(self, cli: Bench) -> None:
        options = cli.connector("tunnel", "run", "--token", TOKEN)
        assert options.credentials == CREDENTIALS
        assert options.ha_connections == 4
        assert options.ingress.rules[0].service == HttpStatus(503)

    def test_a_token_works_without_run(self, cli: Bench) -> None:
        options = cli.connector("tunnel", "--token", TOKEN, "--url", "http://localhost:1")
        assert options.credentials == CREDENTIALS
        assert options.ingress.rules[0].service == HttpService("http", "localhost", 1)

    def test_a_bad_token_is_exit_code_one_and_not_repeated(self, cli: Bench) -> None:
        result = cli("tunnel", "run", "--token", "hunter22")
        assert result.exit_code == 1
        assert "hunter22" not in result.output

    def test_credentials_from_a_file_and_a_uuid_from_the_configuration(self, cli: Bench) -> None:
        (cli.home / f"{CREDENTIALS.tunnel_id}.json").write_bytes(CREDENTIALS.to_json())
        path = cli.config(f"tunnel: {CREDENTIALS.tunnel_id}\nedge: ['a:1']\n")
        options = cli.connector("tunnel", "--config", path, "run")
        assert options.credentials == CREDENTIALS
        assert options.edges == (("a", 1),)

    def test_the_default_configuration_file_is_found(self, cli: Bench) -> None:
        (cli.home / "config.yml").write_text(f"token: {TOKEN}\nha-connections: 2\n")
        assert cli.connector("tunnel", "run").ha_connections == 2

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--retries", "9", "tunnel", "run", "--token", TOKEN],
            ["tunnel", "--retries", "9", "run", "--token", TOKEN],
            ["tunnel", "run", "--token", TOKEN, "--retries=9"],
            [
                "--retries",
                "1",
                "tunnel",
                "--retries",
                "2",
                "run",
                "--token",
                TOKEN,
                "-retries",
                "9",
            ],
        ],
    )
    def test_a_flag_may_stand_at_any_level_and_the_nearest_wins(
        self, cli: Bench, arguments: list[str]
    ) -> None:
        assert cli.connector(*arguments).retries == 9

    def test_command_line_then_environment_then_file(self, cli: Bench) -> None:
        path = cli.config("retries: 1\ngrace-period: 1s\nrpc-timeout: 1s\n")
        options = cli.connector(
            *("--retries", "3", "tunnel", "--config", path, "run", "--token", TOKEN),
            env={"TUNNEL_RETRIES": "2", "TUNNEL_GRACE_PERIOD": "2s"},
        )
        assert (options.retries, options.grace_period, options.rpc_timeout) == (3, 2.0, 1.0)

    def test_a_list_is_repeated_on_the_command_line_and_split_in_the_environment(
        self, cli: Bench
    ) -> None:
        run = ("tunnel", "run", "--token", TOKEN)
        assert cli.connector(*run, "--edge", "a:1", "-edge=b:2").edges == (("a", 1), ("b", 2))
        cli.connectors.clear()
        edges = cli.connector(*run, env={"TUNNEL_EDGE": "a:1, b:2"}).edges
        assert edges == (("a", 1), ("b", 2))

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["run"], "no tunnel is named"),
            (["run", "name"], "cannot look up the tunnel 'name': there is no account certificate"),
            (["run", "--token-file", "/absent"], "cannot read the token file"),
            (["run", "--token", TOKEN, "--protocol", "quic"], "use --protocol http2"),
            (["run", "--token", TOKEN, "--edge", "x"], "is not host:port"),
            (["run", "--token", TOKEN, "--output", "xml"], "is not default or json"),
            (["--config", "/absent.yml", "run"], "cannot read the configuration file /absent.yml"),
            (["--post-quantum", "run", "--token", TOKEN], "post-quantum"),
            ([], "there is nothing to do"),
        ],
    )
    def test_what_cannot_be_run_is_exit_code_one(
        self, cli: Bench, arguments: list[str], reason: str
    ) -> None:
        result = cli("tunnel", *arguments)
        assert result.exit_code == 1
        assert reason in result.stderr
        assert not cli.connectors

    def test_an_error_in_the_file_names_its_line(self, cli: Bench) -> None:
        result = cli("tunnel", "--config", cli.config("\nprotokol: http2\n"), "run")
        assert result.exit_code == 1
        assert "given.yml, line 2: protokol: unknown key; did you mean 'protocol'?" in result.stderr

    def test_bare_tunnel_points_from_the_file_to_run(self, cli: Bench) -> None:
        result = cli("tunnel", "--config", cli.config("tunnel: mine\n"))
        assert result.exit_code == 1
        assert "`underpass tunnel run`" in result.stderr

    def test_a_variable_that_cannot_be_read_is_named(self, cli: Bench) -> None:
        result = cli("tunnel", "run", "--token", TOKEN, env={"TUNNEL_RETRIES": "many"})
        assert result.exit_code == 1
        assert "environment variable TUNNEL_RETRIES: 'many'" in result.stderr

    def test_the_exit_code_is_the_runners(
        self, cli: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, "run_connector", lambda *_: 143)
        assert cli("tunnel", "run", "--token", TOKEN).exit_code == 143

    def test_settings_are_logged_without_secrets(self, cli: Bench) -> None:
        result = cli("tunnel", "run", "--token", TOKEN, "--output", "json")
        lines = [json.loads(line) for line in result.stderr.splitlines()]
        (settings,) = [line["settings"] for line in lines if line["message"] == "Settings"]
        assert settings == {"output": "json", "token": "*****"}
        assert TOKEN not in result.output


class TestIngress:
    RULES = (
        "ingress:\n"
        "- {hostname: a.b, path: ^/x, service: 'http://o:1'}\n"
        "- service: http_status:404\n"
    )

    def test_valid_rules_are_ok(self, cli: Bench) -> None:
        path = cli.config(self.RULES)
        for arguments in (
            ("tunnel", "ingress", "validate", "--config", path),
            ("tunnel", "--config", path, "ingress", "validate"),
        ):
            result = cli(*arguments)
            assert (result.exit_code, result.stdout) == (0, f"Validating rules from {path}\nOK\n")

    def test_invalid_rules_are_exit_code_one(self, cli: Bench) -> None:
        path = cli.config("ingress:\n- {hostname: a.b, service: 'http://o:1'}\n")
        result = cli("tunnel", "ingress", "validate", "--config", path)
        assert result.exit_code == 1
        assert "Validation failed: " in result.stderr
        assert "line 2: ingress[0]: rule #1: it is the last one" in result.stderr
        assert result.stdout == f"Validating rules from {path}\n"

    def test_json_can_be_checked_instead(self, cli: Bench) -> None:
        good = '{"ingress":[{"service":"http_status:404"}]}'
        validate = ("tunnel", "ingress", "validate")
        assert cli(*validate, "--json", good).exit_code == 0
        assert cli(*validate, env={"TUNNEL_INGRESS_VALIDATE_JSON": good}).exit_code == 0
        for bad in ("{", "{}", '{"ingress":[]}'):
            result = cli(*validate, "-j", bad)
            assert result.exit_code == 1
            assert "Validation failed: " in result.stderr

    def test_no_file_and_no_rules_are_errors(self, cli: Bench) -> None:
        assert "no configuration file" in cli("tunnel", "ingress", "validate").stderr
        path = cli.config("loglevel: info\n")
        result = cli("tunnel", "ingress", "validate", "--config", path)
        assert "has no key `ingress`" in result.stderr
        path = cli.config("url: http://x\n" + self.RULES)
        result = cli("tunnel", "ingress", "validate", "--config", path)
        assert "exclude each other" in result.stderr

    @pytest.mark.parametrize(
        ("url", "answer"),
        [
            (
                "https://a.b:8443/x?y",
                "Matched rule #0\n\thostname: a.b\n\tpath: ^/x\n\tservice: http://o:1\n",
            ),
            ("https://a.b/", "Matched rule #1\n\tservice: http_status:404\n"),
        ],
    )
    def test_the_rule_of_a_url(self, cli: Bench, url: str, answer: str) -> None:
        path = cli.config(self.RULES)
        result = cli("tunnel", "ingress", "rule", "--config", path, url)
        assert (result.exit_code, result.stdout) == (0, f"Using rules from {path}\n{answer}")

    @pytest.mark.parametrize("url", ["no-scheme", "a.b:80/x", "http:///x", "//a.b/x"])
    def test_a_url_needs_a_scheme_and_a_host(self, cli: Bench, url: str) -> None:
        result = cli("tunnel", "ingress", "rule", "--config", cli.config(self.RULES), url)
        assert result.exit_code == 1
        assert "needs a scheme and a host" in result.stderr

    def test_a_url_that_may_mean_several_rules_has_none(self, cli: Bench) -> None:
        path = cli.config(self.RULES)
        result = cli("tunnel", "ingress", "rule", "--config", path, "https://a.b/x/../y")
        assert result.exit_code == 1
        assert "different rules match them" in result.stderr


class TestReady:
    def test_needs_an_address(self, cli: Bench) -> None:
        result = cli("tunnel", "ready")
        assert result.exit_code == 1
        assert "give it with --metrics" in result.stderr

    def test_nobody_there_is_exit_code_one(self, cli: Bench) -> None:
        result = cli("tunnel", "--metrics", "127.0.0.1:1", "ready")
        assert result.exit_code == 1
        assert "nothing answers at http://127.0.0.1:1/ready" in result.stderr

    @pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
    def test_the_exit_code_is_the_readiness(self, cli: Bench, status: int, exit_code: int) -> None:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"told")

            def log_message(self, *_: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            address = f"127.0.0.1:{server.server_port}"
            result = cli("tunnel", "ready", "--metrics", address)
            thread.join()
        assert asked == ["/ready"]
        assert (result.exit_code, result.stdout) == (exit_code, "")
        assert ("answers 503: told" in result.stderr) is (status == 503)


class TestEdge:
    def test_addresses_are_passed_on(self, cli: Bench, tmp_path: Path) -> None:
        result = cli(
            *("edge", "run", "--data-dir", str(tmp_path), "-https", "127.0.0.1:1"),
            *("--http=:2", "--tunnel", "127.0.0.1:3", "--tunnel=[::1]:4", "--api", "127.0.0.1:5"),
            *("--domain", "example.com"),
        )
        assert result.exit_code == 0, result.output
        (options,) = cli.edges
        assert options.data_dir == tmp_path
        assert str(options.https) == "127.0.0.1:1"
        assert str(options.http) == ":2"
        assert [str(each) for each in options.tunnels] == ["127.0.0.1:3", "[::1]:4"]
        assert str(options.api) == "127.0.0.1:5"
        assert options.domain == "example.com"

    def test_defaults_are_the_edges_own(self, cli: Bench) -> None:
        assert cli("edge", "run").exit_code == 0
        assert cli.edges == [EdgeOptions.parse()]
