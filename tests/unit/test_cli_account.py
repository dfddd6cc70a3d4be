"""Account commands: what they parse and print, with the account replaced by notes."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from underpass.account import login as account_login
from underpass.account.certificate import OriginCertificate
from underpass.account.errors import ApiError
from underpass.account.models import (
    Connection,
    Connector,
    CreatedTunnel,
    DnsRoute,
    IpRoute,
    LoadBalancerRoute,
    Tunnel,
    VirtualNetwork,
)
from underpass.account.moment import Moment
from underpass.account.session import Account
from underpass.cli import account as account_module
from underpass.cli import login as login_module
from underpass.cli import main as main_module
from underpass.cli import tunnel as tunnel_module
from underpass.ops import directories
from underpass.wire.credentials import Credentials
from underpass.wire.secret import Secret

ID = uuid.UUID("11111111-2222-4333-8444-555555555555")
OTHER = uuid.UUID("21111111-2222-4333-8444-555555555555")
THEN = Moment.parse("2026-01-02T03:04:05.12Z")
CERTIFICATE = OriginCertificate("zone", "account", Secret(b"token"))


def links(*places: str) -> list[Connection]:
    """Connections to places; one in brackets is about to come back."""
    return [
        Connection(place.strip("()"), ID, place.startswith("("), "192.0.2.7", THEN)
        for place in places
    ]


class Client:
    """Writes down what it is asked for, and answers with what a test put into it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {
            "create_tunnel": CreatedTunnel(ID, "mine", THEN, token="t"),
            "tunnel": Tunnel(ID, "mine", THEN),
            "tunnels": [Tunnel(ID, "mine", THEN)],
            "connectors": [],
            "tunnel_token": Credentials("account", b"s" * 32, ID).to_token(),
            "management_token": "jwt",
            "route_dns": DnsRoute("new", "a.b"),
            "route_load_balancer": LoadBalancerRoute("new", "new"),
            "ip_routes": [],
            "ip_route_of": None,
            "virtual_networks": [VirtualNetwork(ID, "", "lab", True, THEN)],
            "add_virtual_network": VirtualNetwork(ID, "", "lab"),
        }

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, *arguments, *options.items()))
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


class Bench:
    """The command line with an account of a kind."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.client = Client()
        self.opened: list[tuple[Any, ...]] = []
        monkeypatch.setattr(tunnel_module, "config_directories", lambda: (home,))
        monkeypatch.setattr(directories, "config_directories", lambda: (home,))
        monkeypatch.setattr(account_module, "open_account", self._open)

    def _open(self, *arguments: Any, **options: Any) -> Account:
        self.opened.append((*arguments, options))
        return Account(self.client, CERTIFICATE, self.home / "cert.pem")  # type: ignore[arg-type]

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(main_module.underpass, list(arguments), env=env or {})

    def calls(self, *arguments: str, env: dict[str, str] | None = None) -> list[tuple[Any, ...]]:
        """What a command asks of the account when it succeeds."""
        result = self("tunnel", *arguments, env=env)
        assert result.exit_code == 0, result.output
        return self.client.calls


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in list(os.environ):
        if name.startswith("TUNNEL_"):
            monkeypatch.delenv(name)
    yield Bench(tmp_path, monkeypatch)
    tunnel_module.configure_logging(tunnel_module.LoggingOptions())


class TestSettings:
    def test_which_account(self, cli: Bench, tmp_path: Path) -> None:
        cli.calls("list")
        cli.calls("--api-url", "http://a", "--origincert", "b", "--cacert", "c", "list")
        cli.calls("list", "-api-url=http://d", "--max-fetch-size", "7")
        cli.calls("list", env={"TUNNEL_API_URL": "http://e", "TUNNEL_ORIGIN_CERT": "f"})
        default = "https://api.cloudflare.com/client/v4"
        assert cli.opened == [
            ("", default, (tmp_path,), {"page_size": 0, "cacert": None}),
            ("b", "http://a", (tmp_path,), {"page_size": 0, "cacert": Path("c")}),
            ("", "http://d", (tmp_path,), {"page_size": 7, "cacert": None}),
            ("f", "http://e", (tmp_path,), {"page_size": 0, "cacert": None}),
        ]

    def test_an_error_of_the_account_is_exit_code_one(self, cli: Bench) -> None:
        cli.client.answers["tunnels"] = ApiError("no such luck")
        result = cli("tunnel", "list")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "Error: no such luck\n"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["create"],
            ["create", "a", "b"],
            ["list", "a"],
            ["list", "--bogus"],
            ["list", "-o", "xml"],
            ["list", "--when", "yesterday"],
            ["list", "--id", "mine"],
            ["list", "-n", "a", "--name", "b"],
            ["list", "--show-deleted=perhaps"],
            ["info"],
            ["info", "a", "b"],
            ["delete"],
            ["cleanup"],
            ["cleanup", "-c", "mine", "a"],
            ["token"],
            ["token", "a", "b"],
            ["route", "bogus"],
            ["route", "dns", "a"],
            ["route", "lb", "a", "b"],
            ["route", "ip", "add", "10.0.0.0/8"],
            ["route", "ip", "add", "10.0.0.0", "a"],
            ["route", "ip", "add", "10.0.0.0/8", "a", "b", "c"],
            ["route", "ip", "delete", "10.0.0.0"],
            ["route", "ip", "get", "10.0.0.0/8"],
            ["route", "ip", "show", "-nsub", "10.0.0.1"],
            ["route", "ip", "show", "--filter-tunnel-id", "a"],
            ["route", "ip", "show", "--filter-vnet-id", "a"],
            ["vnet", "add"],
            ["vnet", "list", "--id", "a"],
            ["vnet", "delete"],
            ["vnet", "update", "a", "b"],
            ["login", "extra"],
        ],
        ids=" ".join,
    )
    def test_a_wrong_command_line_is_exit_code_two(self, cli: Bench, arguments: list[str]) -> None:
        result = cli("tunnel", *arguments)
        assert result.exit_code == 2
        assert "Error: " in result.stderr
        assert cli.client.calls == []

    @pytest.mark.parametrize("group", [[], ["route"], ["route", "ip"], ["vnet"]], ids=" ".join)
    def test_help_names_every_command(self, cli: Bench, group: list[str]) -> None:
        result = cli("tunnel", *group, "--help")
        assert result.exit_code == 0
        for name in {"": "login list cleanup vnet", "route": "dns lb ip"}.get(
            " ".join(group), "add delete"
        ).split():
            assert f"\n  {name} " in result.stdout


class TestTunnels:
    def test_create(self, cli: Bench, tmp_path: Path) -> None:
        result = cli("tunnel", "create", "mine")
        path = tmp_path / f"{ID}.json"
        assert result.stdout == (
            f"Tunnel credentials written to {path}. underpass chose this file based on where your "
            "origin certificate was found. Keep this file secret. To revoke these credentials, "
            f"delete the tunnel.\n\nCreated tunnel mine with id {ID}\n"
        )
        assert path.exists()

    def test_create_with_a_secret_and_a_file(self, cli: Bench, tmp_path: Path) -> None:
        secret = base64.b64encode(b"s" * 40).decode()
        path = tmp_path / "x.json"
        arguments = ["create", "-s", secret, "--cred-file", str(path), "-o", "json", "mine"]
        result = cli("tunnel", *arguments)
        assert json.loads(result.stdout)["token"] == "t"
        assert json.loads(path.read_bytes())["TunnelSecret"] == secret

    @pytest.mark.parametrize(
        ("arguments", "filters"),
        [
            ([], {"is_deleted": "false"}),
            (["-d"], {}),
            (["--show-deleted=false"], {"is_deleted": "false"}),
            (["-n", "a"], {"is_deleted": "false", "name": "a"}),
            (["-np", "a"], {"is_deleted": "false", "name_prefix": "a"}),
            (["--np=a"], {"is_deleted": "false", "name_prefix": "a"}),
            (["-enp", "a"], {"is_deleted": "false", "exclude_prefix": "a"}),
            (["-i", str(ID).upper()], {"is_deleted": "false", "uuid": str(ID)}),
            (
                ["-w", "2026-01-02T03:04:05.9+01:00"],
                {"is_deleted": "false", "existed_at": "2026-01-02T03:04:05+01:00"},
            ),
        ],
        ids=str,
    )
    def test_filters_of_list(
        self, cli: Bench, arguments: list[str], filters: dict[str, str]
    ) -> None:
        assert cli.calls("list", *arguments) == [("tunnels", filters)]

    def test_list(self, cli: Bench) -> None:
        cli.client.answers["tunnels"] = [
            Tunnel(OTHER, "b", THEN, connections=links("MAD02", "LIS01", "MAD02", "(OPO03)")),
            Tunnel(ID, "a", THEN),
        ]
        assert cli("tunnel", "list").stdout.splitlines() == [
            "You can obtain more detailed information for each tunnel with `underpass tunnel info "
            "<name/uuid>`",
            "ID                                   NAME CREATED              CONNECTIONS      ",
            f"{ID} a    2026-01-02T03:04:05Z                  ",
            f"{OTHER} b    2026-01-02T03:04:05Z 1xLIS01, 2xMAD02 ",
        ]
        assert "1xLIS01, 2xMAD02, 1xOPO03" in cli("tunnel", "list", "-rd").stdout

    def test_list_of_nothing(self, cli: Bench) -> None:
        cli.client.answers["tunnels"] = []
        assert cli("tunnel", "list").stdout.startswith("No tunnels were found for the given filte")
        assert cli("tunnel", "list", "-o", "json").stdout == "null\n"
        assert cli("tunnel", "list", "-o", "yaml").stdout == "[]\n"

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            ([], "a b c"),
            (["--invert-sort"], "c b a"),
            (["--sort-by", "id"], "c b a"),
            (["--sort-by", "createdAt"], "b a c"),
            (["--sort-by", "deletedAt"], "a c b"),
            (["--sort-by", "numConnections"], "c a b"),
            (["--sort-by", "bogus"], "a b c"),
        ],
        ids=str,
    )
    def test_order(self, cli: Bench, arguments: list[str], names: str) -> None:
        moments = [Moment.parse(f"2026-01-0{day}T00:00:00Z") for day in (1, 2, 3)]
        ids = [uuid.UUID(int=number) for number in (1, 2, 3)]
        cli.client.answers["tunnels"] = [
            Tunnel(ids[2], "a", moments[1], connections=links("x")),
            Tunnel(ids[1], "b", moments[0], moments[2], connections=links("x", "y")),
            Tunnel(ids[0], "c", moments[2], moments[1]),
        ]
        result = cli("tunnel", "list", "-o", "json", *arguments)
        assert [tunnel["name"] for tunnel in json.loads(result.stdout)] == names.split()
        assert ("not a field to sort by" in result.stderr) == ("bogus" in arguments)

    def test_the_format_of_the_log_is_that_of_the_list_too(self, cli: Bench) -> None:
        assert json.loads(cli("tunnel", "--output", "json", "list").stdout)
        for output in ("default", "json"):
            arguments = ("tunnel", "--output", output, "list", "-o", "yaml")
            assert cli(*arguments).stdout.startswith("- id: ")
        assert cli("tunnel", "--output", "default", "list").stdout.startswith("You can obtain")

    def test_info(self, cli: Bench) -> None:
        cli.client.answers["connectors"] = [
            Connector(OTHER, [], "2026.8.2", "linux_amd64", THEN, links("LIS01", "(MAD02)")),
            Connector(ID, [], "2026.8.1", "linux_arm64", THEN, links("(MAD02)")),
            Connector(ID, [], "2026.8.1", "linux_arm64", THEN),
        ]
        assert cli("tunnel", "info", "mine").stdout.splitlines() == [
            "NAME:     mine",
            f"ID:       {ID}",
            "CREATED:  2026-01-02 03:04:05.12 +0000 UTC",
            "",
            "CONNECTOR ID                         CREATED              ARCHITECTURE VERSION  "
            "ORIGIN IP EDGE    ",
            f"{OTHER} 2026-01-02T03:04:05Z linux_amd64  2026.8.2 192.0.2.7 1xLIS01 ",
        ]
        assert [call[0] for call in cli.client.calls] == ["tunnels", "connectors", "tunnels"]
        assert "linux_arm64" in cli("tunnel", "info", "-rd", str(ID)).stdout

    def test_info_of_a_tunnel_that_nobody_runs(self, cli: Bench) -> None:
        said = f"Your tunnel {ID} does not have any active connection.\n"
        assert cli("tunnel", "info", "mine").stdout == said
        cli.client.answers["connectors"] = [Connector(ID, connections=links("(MAD02)"))]
        assert cli("tunnel", "info", "mine").stdout.endswith("no active connectors.\n")
        cli.client.answers["tunnels"] = []
        assert "0 tunnels with the id" in cli("tunnel", "info", str(ID)).stderr

    def test_delete(self, cli: Bench) -> None:
        assert cli.calls("delete", "-f", str(ID), str(OTHER)) == [
            ("tunnel", ID),
            ("delete_tunnel", ID, ("cascade", True)),
            ("tunnel", OTHER),
            ("delete_tunnel", OTHER, ("cascade", True)),
        ]

    def test_nothing_is_deleted_when_a_name_is_wrong(self, cli: Bench) -> None:
        cli.client.answers["tunnels"] = []
        assert cli("tunnel", "delete", str(ID), "bogus").exit_code == 1
        assert [call[0] for call in cli.client.calls] == ["tunnels"]

    def test_cleanup(self, cli: Bench) -> None:
        assert cli.calls("cleanup", "-c", str(OTHER), str(ID), "mine") == [
            ("tunnels", {"is_deleted": "false", "name": "mine"}),
            ("clean_up", ID, OTHER),
            ("clean_up", ID, OTHER),
        ]

    def test_cleanup_goes_on_after_a_failure(self, cli: Bench) -> None:
        cli.client.answers["clean_up"] = ApiError("busy")
        result = cli("tunnel", "cleanup", str(ID), str(OTHER))
        assert result.exit_code == 1
        assert result.stderr.count("busy") == 2
        assert "2 of 2 tunnels could not be cleaned up" in result.stderr

    def test_token(self, cli: Bench, tmp_path: Path) -> None:
        token = cli("tunnel", "token", "mine").stdout
        assert Credentials.from_token(token) == Credentials("account", b"s" * 32, ID)
        path = tmp_path / "x.json"
        assert cli("tunnel", "token", "--cred-file", str(path), "mine").stdout == ""
        assert json.loads(path.read_bytes())["TunnelID"] == str(ID)
        assert cli("tunnel", "token", "--cred-file", str(path), "mine").exit_code == 1

    def test_a_token_that_is_none(self, cli: Bench) -> None:
        cli.client.answers["tunnel_token"] = "hunter22"
        result = cli("tunnel", "token", "mine")
        assert result.exit_code == 1
        assert "hunter22" not in result.output


class TestRoutes:
    def test_dns(self, cli: Bench) -> None:
        overwrite = ("overwrite", True)
        assert cli.calls("route", "dns", str(ID), "a.b")[-1][3] == ("overwrite", False)
        assert cli.calls("route", "dns", "-f", str(ID), "a.b")[-1][3] == overwrite
        assert cli.calls("-f", "route", "dns", str(ID), "a.b")[-1][3] == overwrite
        calls = cli.calls("-f", "route", "dns", "--overwrite-dns=false", str(ID), "a.b")
        assert calls[-1] == ("route_dns", ID, "a.b", ("overwrite", False))
        result = cli("tunnel", "route", "dns", str(ID), "a.b")
        assert result.stdout == ""
        assert f"Added CNAME a.b which will route to this tunnel tunnelID={ID}" in result.stderr

    def test_lb(self, cli: Bench) -> None:
        calls = cli.calls("route", "lb", str(ID), "a.b", "pool")
        assert calls == [("route_load_balancer", ID, "a.b", "pool")]

    def test_add(self, cli: Bench) -> None:
        options = (("comment", ""), ("virtual_network_id", None))
        ((name, network, *rest),) = cli.calls("route", "ip", "add", "10.1.2.3/8", str(ID))
        assert (name, str(network), rest) == ("add_ip_route", "10.0.0.0/8", [ID, *options])
        calls = cli.calls("route", "ip", "add", "-vn", "lab", "::/0", str(ID), "a comment")
        assert calls[-1][3:] == (("comment", "a comment"), ("virtual_network_id", ID))

    def test_show(self, cli: Bench) -> None:
        cli.client.answers["ip_routes"] = [
            IpRoute("10.0.0.0/8", ID, OTHER, None, "c", THEN, tunnel_name="mine"),
            IpRoute("::/0", OTHER, OTHER, ID, "", THEN, THEN, "mine"),
        ]
        lines = cli("tunnel", "route", "ip", "list").stdout.splitlines()
        assert "COMMENT TUNNEL ID" in lines[0]
        assert lines[1].split()[1:3] == ["10.0.0.0/8", "default"]
        assert lines[1].split()[-1] == "-"
        assert lines[2].split()[-1] == "2026-01-02T03:04:05Z"

    def test_filters_of_show(self, cli: Bench) -> None:
        calls = cli.calls(
            *("route", "ip", "show", "--filter-is-deleted", "--filter-tunnel-id", str(ID)),
            *("-nsub", "10.1.0.0/8", "--nsup=10.1.2.0/24", "--filter-comment-is", "c"),
            *("--filter-vnet-id", str(OTHER)),
        )
        assert calls == [
            (
                "ip_routes",
                {
                    "is_deleted": "true",
                    "network_subset": "10.0.0.0/8",
                    "network_superset": "10.1.2.0/24",
                    "comment": "c",
                    "tunnel_id": str(ID),
                    "virtual_network_id": str(OTHER),
                },
            )
        ]

    def test_delete(self, cli: Bench) -> None:
        assert cli.calls("route", "ip", "delete", str(ID)) == [("delete_ip_route", ID)]
        cli.client.answers["ip_routes"] = [IpRoute("10.0.0.0/8", OTHER)]
        cli.client.calls.clear()
        assert cli.calls("route", "ip", "delete", "--vnet", str(ID), "10.1.1.1/8") == [
            (
                "ip_routes",
                {
                    "is_deleted": "false",
                    "network_subset": "10.0.0.0/8",
                    "network_superset": "10.0.0.0/8",
                    "virtual_network_id": str(ID),
                },
            ),
            ("delete_ip_route", OTHER),
        ]

    def test_delete_a_network_that_has_no_route_or_several(self, cli: Bench) -> None:
        for routes in ([], [IpRoute("10.0.0.0/8"), IpRoute("10.0.0.0/8")]):
            cli.client.answers["ip_routes"] = routes
            result = cli("tunnel", "route", "ip", "delete", "10.0.0.0/8")
            assert result.exit_code == 1
            assert f"there are {len(routes)} routes for 10.0.0.0/8" in result.stderr

    def test_get(self, cli: Bench) -> None:
        assert cli("tunnel", "route", "ip", "get", "10.0.0.1").stdout == (
            "No route matches the IP 10.0.0.1\n"
        )
        cli.client.answers["ip_route_of"] = IpRoute("10.0.0.0/8", ID, OTHER)
        result = cli("tunnel", "route", "ip", "get", "--vnet", "lab", "10.0.0.1")
        assert "10.0.0.0/8" in result.stdout
        assert cli.client.calls[-1][2] == ID


class TestVirtualNetworks:
    def test_add(self, cli: Bench) -> None:
        result = cli("tunnel", "vnet", "add", "lab", "a comment")
        assert result.stdout.startswith(f"Successfully added virtual 'network' lab with ID: {ID}\n")
        assert cli.calls("vnet", "add", "-d", "lab") == [
            ("add_virtual_network", "lab", "a comment", ("default", False)),
            ("add_virtual_network", "lab", "", ("default", True)),
        ]

    def test_list(self, cli: Bench) -> None:
        lines = cli("tunnel", "vnet", "list").stdout.splitlines()
        assert lines[1].split() == [str(ID), "lab", "true", "2026-01-02T03:04:05Z", "-"]
        cli.client.calls.clear()
        arguments = ["--id", str(ID), "--name", "lab", "--is-default=false", "--show-deleted"]
        assert cli.calls("vnet", "list", *arguments) == [
            (
                "virtual_networks",
                {"is_deleted": "true", "id": str(ID), "name": "lab", "is_default": "false"},
            )
        ]
        cli.client.answers["virtual_networks"] = []
        assert cli("tunnel", "vnet", "list", "-o", "json").stdout == "[]\n"
        assert cli("tunnel", "vnet", "list").stdout.startswith("No virtual networks were found")

    def test_update(self, cli: Bench) -> None:
        assert cli.calls("vnet", "update", "-n", "x", "-c", "", "-d=false", str(ID)) == [
            (
                "update_virtual_network",
                ID,
                {"name": "x", "comment": "", "is_default_network": False},
            )
        ]

    def test_delete(self, cli: Bench) -> None:
        calls = cli.calls("vnet", "delete", "-f", "lab")
        assert calls[-1] == ("delete_virtual_network", ID, ("force", True))


class TestManagementTokens:
    @pytest.mark.parametrize(
        ("arguments", "resource"),
        [
            (["tail", "token", str(ID)], "logs"),
            (["management", "token", "--resource", "admin", str(ID)], "admin"),
            (["management", "token", "-resource=host_details", str(ID)], "host_details"),
        ],
        ids=" ".join,
    )
    def test_are_printed_as_json(self, cli: Bench, arguments: list[str], resource: str) -> None:
        result = cli(*arguments)
        assert (result.exit_code, result.stdout) == (0, '{"token":"jwt"}\n')
        ((_, tunnel_id, given),) = cli.client.calls
        assert (tunnel_id, given.value) == (ID, resource)

    @pytest.mark.parametrize(
        "arguments",
        [
            ["tail", "token", "mine"],
            ["tail", "token"],
            ["management", "token", str(ID)],
            ["management", "token", "--resource", "all", str(ID)],
        ],
        ids=" ".join,
    )
    def test_need_an_id_and_a_resource(self, cli: Bench, arguments: list[str]) -> None:
        assert cli(*arguments).exit_code == 2
        assert cli.client.calls == []


class TestLogin:
    def test_a_certificate_is_never_overwritten(self, cli: Bench, tmp_path: Path) -> None:
        (tmp_path / "cert.pem").write_text("precious")
        result = cli("login")
        assert result.exit_code == 0
        assert "You have an existing certificate" in result.stderr
        assert (tmp_path / "cert.pem").read_text() == "precious"

    @pytest.mark.parametrize(
        ("arguments", "site"),
        [
            ([], account_login.CLOUDFLARE),
            (["--fedramp"], account_login.FEDRAMP),
            (["-f", "--loginURL", "x"], account_login.FEDRAMP),
            (
                ["-loginURL", "https://a", "--callbackURL=https://b/"],
                account_login.LoginSite("https://a", "https://b/"),
            ),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("level", [["login"], ["tunnel", "login"]], ids=" ".join)
    def test_where(
        self,
        cli: Bench,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        level: list[str],
        arguments: list[str],
        site: Any,
    ) -> None:
        sites: list[Any] = []

        class Session:
            url = "https://page"

            def __init__(self, site: Any, **_: Any) -> None:
                sites.append(site)

            def wait(self) -> OriginCertificate:
                return CERTIFICATE

        monkeypatch.setattr(login_module, "Login", Session)
        monkeypatch.setattr(login_module, "open_browser", lambda _: False)
        result = cli(*level, *arguments)
        assert result.exit_code == 0, result.output
        assert sites == [site]
        assert "https://page" in result.stderr
        assert result.stdout == ""
        assert (tmp_path / "cert.pem").read_bytes() == CERTIFICATE.to_pem()

    def test_the_top_level_one_is_not_in_the_help(self, cli: Bench) -> None:
        shown = cli("--help").stdout
        assert "\n  tunnel " in shown
        assert "\n  login" not in shown
        assert "\n  management" not in shown


def test_a_named_tunnel_needs_a_name_for_a_hostname(cli: Bench) -> None:
    result = cli("tunnel", "--hostname", "a.b")
    assert result.exit_code == 1
    assert "--hostname needs --name" in result.stderr


def test_hostname_and_origin_are_not_the_same(cli: Bench) -> None:
    result = cli("tunnel", "--name", "mine", "--hostname", "a.b", "--url", "a.b")
    assert result.exit_code == 1
    assert "are the same" in result.stderr
    assert cli.client.calls == []
