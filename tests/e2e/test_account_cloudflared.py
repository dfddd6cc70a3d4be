"""The same account commands with a stock cloudflared and with ours, against the same account: the
same requests, output, exit codes and files.

Runs when UNDERPASS_CLOUDFLARED names a binary; needs no network.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from peers.account_api import ACCOUNT, API_TOKEN, AccountApi, numbered, serving, write_certificate
from peers.commands import Done, run
from peers.processes import UNDERPASS

pytestmark = pytest.mark.interop

SECRET = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldCE="
ONE, TWO = numbered(1), numbered(11)
UNKNOWN = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


@pytest.fixture(scope="module")
def binary() -> str:
    path = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not path:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    return path


def furnish(api: AccountApi) -> None:
    """An account that has been used: two tunnels and a deleted one, networks, routes."""
    assert api.add_tunnel("one", links=3) == ONE
    assert api.add_tunnel("two") == TWO
    api.add_tunnel("gone", deleted=True)
    api.add_tunnel("Odd: <name> & 1.0")
    office = api.add_network("office", default=True)
    api.add_network("lab")
    api.add_route("10.0.0.0/8", ONE, "all of it")
    api.add_route("10.1.0.0/16", TWO, vnet=office)
    api.add_route("2001:db8::/32", ONE, "a < b")
    api.records["taken.example.com"] = TWO


@dataclass
class Outcome:
    """What a command did: all that can be compared."""

    done: Done
    requests: list[Any]
    files: dict[str, Any]
    api: AccountApi = field(repr=False)


Arrange = Callable[[AccountApi], None]


def play(
    program: list[str],
    arguments: list[str],
    home: Path,
    arrange: Arrange,
    environment: dict[str, str] | None = None,
) -> Outcome:
    certificate = write_certificate(home / "certificate")
    (home / "present.json").write_text("{}")
    with serving() as api:
        furnish(api)
        arrange(api)
        given = {
            "TUNNEL_API_URL": api.url,
            "TUNNEL_ORIGIN_CERT": str(certificate),
            "NO_AUTOUPDATE": "true",
        }
        done = run(program, arguments, home, given | (environment or {}))
    assert API_TOKEN not in done.stdout + done.stderr
    requests = [
        (
            each.method,
            each.path,
            sorted(each.query),
            each.json,
            each.headers["authorization"],
            each.headers["accept"],
            each.headers.get("content-type"),
            "content-length" in each.headers,
        )
        for each in api.requests
    ]
    return Outcome(done, requests, _files(home), api)


def _files(home: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(home)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }


@dataclass
class Both:
    """Runs a command with both programs."""

    binary: str
    path: Path

    def __call__(
        self,
        *arguments: str,
        arrange: Arrange = lambda _: None,
        environment: dict[str, str] | None = None,
    ) -> tuple[Outcome, Outcome]:
        """Ours and theirs, whose requests and files are the same."""
        ours, theirs = (
            play(program, list(arguments), self.home(name), arrange, environment)
            for name, program in (("ours", [*UNDERPASS]), ("theirs", [self.binary]))
        )
        assert ours.requests == theirs.requests, theirs.done.stderr
        assert ours.files == theirs.files
        return ours, theirs

    def home(self, name: str) -> Path:
        home = self.path / name
        home.mkdir(exist_ok=True)
        return home


@pytest.fixture
def both(binary: str, tmp_path: Path) -> Both:
    return Both(binary, tmp_path)


def without_paths(text: str) -> str:
    """Output in which each program's own name, home and directory are the same."""
    return re.sub(r"\S*/(ours|theirs)/", "/home/", text.replace("cloudflared", "underpass"))


# Commands that succeed with exactly the same standard output.
SAME_OUTPUT = [
    ["create", "-s", SECRET, "three"],
    ["create", "-secret", SECRET, "-o", "json", "three"],
    ["create", "--secret", SECRET, "--output=yaml", "three"],
    ["create", "-s", SECRET, "--credentials-file", "three.json", "three"],
    ["create", "-s", SECRET, "--cred-file", "three.json", "a name: with <odd> & characters"],
    ["list"],
    ["list", "-o", "json"],
    ["list", "-o", "yaml"],
    ["list", "-d"],
    ["list", "--show-deleted=false"],
    ["list", "-rd"],
    ["list", "-d", "--sort-by", "createdAt", "--invert-sort"],
    ["list", "-d", "--sort-by=id", "--invert-sort"],
    ["list", "--sort-by", "id"],
    ["list", "--sort-by", "nonsense"],
    ["list", "-n", "one"],
    ["list", "-n", "nothing"],
    ["list", "-n", "nothing", "-o", "json"],
    ["list", "-n", "nothing", "-o", "yaml"],
    ["list", "-np", "o"],
    ["list", "--name-prefix", "t", "-enp=tw"],
    ["list", "-i", ONE],
    ["info", "one"],
    ["info", ONE],
    ["info", "-rd", "one"],
    ["info", "-o", "json", "one"],
    ["info", "-o", "yaml", "--sort-by", "version", "one"],
    ["info", "two"],
    ["info", "--output", "json", "two"],
    ["delete", "two"],
    ["delete", TWO],
    ["delete", "-f", "one"],
    ["delete", "two", "Odd: <name> & 1.0"],
    ["cleanup", "one"],
    ["cleanup", "one", "two"],
    ["cleanup", "-c", UNKNOWN, ONE],
    ["token", "one"],
    ["token", TWO],
    ["token", "--credentials-file", "new.json", "one"],
    ["route", "dns", "one", "app.example.com"],
    ["route", "dns", ONE, "*.example.com"],
    ["route", "dns", "-f", "one", "taken.example.com"],
    ["route", "dns", "--overwrite-dns", "two", "taken.example.com"],
    ["route", "lb", "one", "lb.example.com", "pool"],
    ["route", "ip", "add", "10.2.3.4/16", "one"],
    ["route", "ip", "add", "192.0.2.0/24", TWO, "with a comment"],
    ["route", "ip", "add", "--vnet", "office", "2001:db8:1::1/48", "one"],
    ["route", "ip", "add", "-vn", "lab", "10.2.3.4/16", ONE],
    ["route", "ip", "show"],
    ["route", "ip", "list"],
    ["route", "ip", "show", "-o", "json"],
    ["route", "ip", "show", "-o", "yaml"],
    ["route", "ip", "show", "--filter-is-deleted"],
    ["route", "ip", "show", "--filter-is-deleted", "-o", "json"],
    ["route", "ip", "show", "--filter-tunnel-id", ONE],
    ["route", "ip", "show", "--filter-comment-is", "all of it"],
    ["route", "ip", "show", "-nsup", "10.1.2.3/24"],
    ["route", "ip", "show", "--filter-vnet-id", UNKNOWN],
    ["route", "ip", "delete", "2001:db8::/32"],
    ["route", "ip", "delete", "--vnet", "office", "10.1.0.0/16"],
    ["route", "ip", "get", "10.200.0.1"],
    ["route", "ip", "get", "2001:db8::1"],
    ["route", "ip", "get", "--vnet=office", "10.1.2.3"],
    ["route", "ip", "get", "198.51.100.1"],
    ["vnet", "add", "new"],
    ["vnet", "add", "--default", "new", "with a comment"],
    ["vnet", "add", "-d=false", "new"],
    ["vnet", "list"],
    ["vnet", "list", "-o", "json"],
    ["vnet", "list", "-output", "yaml"],
    ["vnet", "list", "--name", "lab"],
    ["vnet", "list", "--name", "none"],
    ["vnet", "list", "--name", "none", "-o", "json"],
    ["vnet", "list", "--is-default"],
    ["vnet", "list", "--is-default=false"],
    ["vnet", "list", "--show-deleted"],
    ["vnet", "list", "--id", UNKNOWN],
    ["vnet", "update", "-n", "laboratory", "-c", "new", "lab"],
    ["vnet", "update", "--default", "lab"],
    ["vnet", "update", "lab"],
    ["vnet", "delete", "lab"],
    ["vnet", "delete", "-f", "office"],
]


@pytest.mark.parametrize("arguments", SAME_OUTPUT, ids=" ".join)
def test_a_command_that_succeeds(both: Both, arguments: list[str]) -> None:
    ours, theirs = both("tunnel", *arguments)
    assert (ours.done.code, theirs.done.code) == (0, 0), ours.done.stderr + theirs.done.stderr
    assert without_paths(ours.done.stdout) == without_paths(theirs.done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tail", "token", ONE],
        ["management", "token", "--resource", "admin", ONE],
        ["management", "token", "--resource=host_details", ONE],
        ["tunnel", "--output", "json", "list"],
        ["tunnel", "--credentials-file", "new.json", "token", "one"],
        ["tunnel", "-f", "route", "dns", "one", "taken.example.com"],
    ],
    ids=" ".join,
)
def test_flags_and_commands_at_other_levels(both: Both, arguments: list[str]) -> None:
    ours, theirs = both(*arguments)
    assert (ours.done.code, theirs.done.code) == (0, 0), ours.done.stderr + theirs.done.stderr
    assert ours.done.stdout == theirs.done.stdout


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({"TUNNEL_LIST_SORT_BY": "id", "TUNNEL_LIST_INVERT_SORT": "true"}, ["list"]),
        ({"TUNNEL_INFO_SORT_BY": "id"}, ["info", "-o", "json", "one"]),
        ({"TUNNEL_CREATE_SECRET": SECRET}, ["create", "three"]),
        ({"TUNNEL_CREATE_SECRET": SECRET, "TUNNEL_CRED_FILE": "env.json"}, ["create", "three"]),
        ({"TUNNEL_RUN_FORCE_OVERWRITE": "1"}, ["delete", "one"]),
        ({"TUNNEL_CLEANUP_CONNECTOR": UNKNOWN}, ["cleanup", "one"]),
        ({"TUNNEL_FORCE_PROVISIONING_DNS": "true"}, ["route", "dns", "one", "taken.example.com"]),
        ({"TUNNEL_MAX_FETCH_SIZE": "2"}, ["list"]),
        ({"TUNNEL_MAX_FETCH_SIZE": "1"}, ["route", "ip", "show"]),
        ({"TUNNEL_MAX_FETCH_SIZE": "1"}, ["vnet", "list"]),
    ],
    ids=str,
)
def test_the_environment(both: Both, environment: dict[str, str], arguments: list[str]) -> None:
    ours, theirs = both("tunnel", *arguments, environment=environment)
    assert (ours.done.code, theirs.done.code) == (0, 0), ours.done.stderr
    assert without_paths(ours.done.stdout) == without_paths(theirs.done.stdout)


# Commands that fail in the same way, with words of their own on standard error.
SAME_FAILURE = [
    ["create", "-s", SECRET, "one"],
    ["create", ONE],
    ["create", "-s", "short", "three"],
    ["create", "-s", "c2hvcnQ=", "three"],
    ["create", "-s", SECRET, "--credentials-file", "present.json", "three"],
    ["create", "-s", SECRET, "--credentials-file", "no/where.json", "three"],
    ["info", "nothing"],
    ["info", UNKNOWN],
    ["delete", "nothing"],
    ["delete", "one"],
    ["delete", "gone"],
    ["delete", UNKNOWN],
    ["token", "nothing"],
    ["token", "--credentials-file", "present.json", "one"],
    ["route", "dns", "one", "taken.example.com"],
    ["route", "dns", "nothing", "app.example.com"],
    ["route", "dns", "one", "not a hostname"],
    ["route", "dns", "one", "a-.example.com"],
    ["route", "dns", "one", "a..example.com"],
    ["route", "dns", "one", f"{'x' * 64}.example.com"],
    ["route", "lb", "one", "lb.example.com", "not a pool"],
    ["route", "ip", "add", "10.0.0.0/8", "nothing"],
    ["route", "ip", "add", "--vnet", "nothing", "10.0.0.0/8", "one"],
    ["route", "ip", "delete", UNKNOWN],
    ["route", "ip", "delete", "10.9.0.0/16"],
    ["vnet", "delete", "nothing"],
    ["vnet", "update", "-n", "x", UNKNOWN],
]


@pytest.mark.parametrize("arguments", SAME_FAILURE, ids=" ".join)
def test_a_command_that_fails(both: Both, arguments: list[str]) -> None:
    ours, theirs = both("tunnel", *arguments)
    assert (ours.done.code, theirs.done.code) == (1, 1), ours.done.stderr + theirs.done.stderr
    assert ours.done.stdout == ""
    assert ours.done.stderr.startswith("Error: ") or "\nError: " in ours.done.stderr


ENVELOPES: list[tuple[int, Any, str]] = [
    (200, {"success": True, "errors": [{"code": 7, "message": "but"}], "result": []}, "but"),
    (200, {"success": False, "errors": [], "result": []}, "not why"),
    (200, {"success": True, "errors": []}, "no result"),
    (200, b"<html>", "cannot be understood"),
    (200, {"success": True, "result": "text"}, "cannot be understood"),
    (200, {"success": True, "result": [{"id": "no uuid"}]}, "cannot be understood"),
    (201, {"success": True, "result": []}, "201"),
    (400, b"", "incorrect request parameters"),
    (401, b"", "underpass tunnel login"),
    (403, {"success": False, "errors": [{"code": 9109, "message": "Invalid"}]}, "code 9109"),
    (404, b"", "not found"),
    (500, {"errors": [{"code": "x1", "message": "a"}, {"code": 2, "message": "b"}]}, "b (code 2)"),
    (503, b"busy", "503"),
]


@pytest.mark.parametrize(("status", "body", "said"), ENVELOPES, ids=str)
def test_an_api_that_fails(both: Both, status: int, body: Any, said: str) -> None:
    def arrange(api: AccountApi) -> None:
        api.fail("GET", f"/{ACCOUNT}/cfd_tunnel$", status, body)

    ours, theirs = both("tunnel", "list", arrange=arrange)
    assert (ours.done.code, theirs.done.code) == (1, 1)
    assert (ours.done.stdout, theirs.done.stdout) == ("", "")
    assert said in ours.done.stderr


@pytest.mark.parametrize("arguments", [["list"], ["list", "-o", "json"], ["list", "-o", "yaml"]])
def test_null_is_an_empty_result(both: Both, arguments: list[str]) -> None:
    def arrange(api: AccountApi) -> None:
        api.fail("GET", "", 200, {"success": True, "result": None})

    ours, theirs = both("tunnel", *arguments, arrange=arrange)
    assert (ours.done.code, theirs.done.code) == (0, 0)
    assert without_paths(ours.done.stdout) == without_paths(theirs.done.stdout)


# Names that a YAML reader could take for something else, or that need quotes or escapes.
ODD_NAMES = [
    *("", " lead", "trail ", "true", "No", "y", "~", "null", "1.0", "01", "0x1f", "1e5", "-.5"),
    *("1_000", "1:30", "2001-01-01", "2001-1-1 1:2:3", "+1", "-", "- x", "--- x", "? x", "x:"),
    *("a: b", "a #b", "#c", "@x", "`x", "%x", "!x", "&x", "*x", "|", ">", "[x]", "{x}", ",x"),
    *("'q'", '"q"', "it's", "back\\slash", "tab\tx", "nul\0", "\x1b[31mred", "\x7f", "\u0080"),
    *("é<&>", "\u200b", "\ufeff", "\U0001f600", "two\nlines", "end\n", ".inf"),
]


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_names_that_need_quotes(both: Both, form: str) -> None:
    def arrange(api: AccountApi) -> None:
        api.per_page = 100
        for name in ODD_NAMES:
            api.add_tunnel(name)

    ours, theirs = both("tunnel", "list", "--sort-by", "id", "-o", form, arrange=arrange)
    assert (ours.done.code, theirs.done.code) == (0, 0), ours.done.stderr
    assert ours.done.stdout == theirs.done.stdout


def test_several_pages(both: Both) -> None:
    def arrange(api: AccountApi) -> None:
        api.per_page = 3
        for number in range(7):
            api.add_tunnel(f"tunnel-{number}")
            api.add_route(f"10.{number}.0.0/24", ONE)

    for arguments in (["list"], ["route", "ip", "show"]):
        ours, theirs = apart(both, "tunnel", *arguments, arrange=arrange)
        assert ours.requests == theirs.requests
        assert len(ours.requests) == 4
        assert without_paths(ours.done.stdout) == without_paths(theirs.done.stdout)


def test_a_login_is_not_begun_when_there_is_a_certificate(both: Both) -> None:
    outcomes = []
    for name, program, directory in (
        ("ours", [*UNDERPASS], ".underpass"),
        ("theirs", [both.binary], ".cloudflared"),
    ):
        home = both.home(name)
        write_certificate(home / directory)
        outcomes.append(run(program, ["tunnel", "login"], home))
    assert [done.code for done in outcomes] == [0, 0]
    assert all("existing certificate" in done.stderr for done in outcomes)


def test_the_page_to_log_in_at(both: Both) -> None:
    urls = []
    for name, program in (("ours", [*UNDERPASS]), ("theirs", [both.binary])):
        done = run(
            program,
            [
                *("tunnel", "login", "--loginURL", "http://127.0.0.1:1/page?z=1&a=b%20c"),
                *("--callbackURL", "http://127.0.0.1:1/transfer/"),
            ],
            both.home(name),
            # Nobody listens there: the first poll fails.
            {"HTTPS_PROXY": "http://127.0.0.1:1"},
        )
        assert done.code == 1
        (url,) = re.findall(r"http://127.0.0.1:1/page\S+", done.stderr)
        urls.append(re.sub(r"[\w-]{43}%3D", "KEY", url))
    callback = "http%3A%2F%2F127.0.0.1%3A1%2Ftransfer%2FKEY"
    assert urls[0] == f"http://127.0.0.1:1/page?a=b+c&aud=&callback={callback}&z=1"
    assert urls[0] == urls[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "one"],
        ["-n", "one", "--hostname", "app.example.com"],
        ["--name", "one", "--hostname", "taken.example.com", "-f"],
        ["--name", "one", "--hostname", "taken.example.com"],
        ["--name", "one", "--hostname", "lb.example.com", "--lb-pool", "pool"],
        ["--name", "one", "--hostname", "x.example.com", "--url", "x.example.com"],
    ],
    ids=" ".join,
)
def test_a_tunnel_that_is_led_to_and_run_in_one_command(both: Both, arguments: list[str]) -> None:
    """Everything up to the tunnel itself, which a bad tag keeps from starting."""
    for name in ("ours", "theirs"):
        home = both.home(name)
        (home / ".cloudflared").mkdir()
        credentials = f'{{"AccountTag":"a","TunnelSecret":"{SECRET}","TunnelID":"{ONE}"}}'
        (home / ".cloudflared" / f"{ONE}.json").write_text(credentials)
    ours, theirs = both(
        *("tunnel", "--tag", "bad", "--no-prechecks", "--metrics", "127.0.0.1:0", *arguments)
    )
    assert (ours.done.code, theirs.done.code) == (1, 1), ours.done.stderr
    if "--url" not in arguments:
        assert "bad" in ours.done.stderr
        assert "Reusing existing tunnel" in ours.done.stderr


def test_a_tunnel_that_is_made_on_the_way(both: Both) -> None:
    """cloudflared makes it, then takes its own log format for one of documents, and gives up."""
    ours, theirs = apart(
        *(both, "tunnel", "--tag", "bad", "--no-prechecks", "--metrics", "127.0.0.1:0"),
        *("--name", "new", "--hostname", "app.example.com"),
    )
    assert "Unknown output format 'default'" in theirs.done.stderr
    assert ours.requests[0] == theirs.requests[0]
    assert [request[0] for request in ours.requests] == ["GET", "POST", "PUT"]
    assert [request[0] for request in theirs.requests] == ["GET", "POST"]
    (tunnel,) = (tunnel for tunnel in ours.api.tunnels if tunnel["name"] == "new")
    assert ours.api.records["app.example.com"] == tunnel["id"]
    mode, _ = ours.files[f"certificate/{tunnel['id']}.json"]
    assert mode == 0o400
    assert "bad" in ours.done.stderr


def test_a_tunnel_whose_file_cannot_be_written_and_that_cannot_be_deleted(both: Both) -> None:
    def arrange(api: AccountApi) -> None:
        api.fail("DELETE", "cfd_tunnel", 500)

    ours, theirs = both(
        *("tunnel", "create", "-s", SECRET, "--credentials-file", "present.json", "three"),
        arrange=arrange,
    )
    assert (ours.done.code, theirs.done.code) == (1, 1)
    assert "underpass tunnel delete" in ours.done.stderr


def test_without_a_certificate(both: Both) -> None:
    ours, theirs = both(
        "tunnel", "list", environment={"TUNNEL_ORIGIN_CERT": "/nonexistent/cert.pem"}
    )
    assert (ours.done.code, theirs.done.code) == (1, 1)
    assert "run `underpass tunnel login`" in ours.done.stderr


# Where cloudflared does something else, on purpose: docs/moving-from-cloudflared.md.


@pytest.mark.parametrize(
    ("arguments", "their_code"),
    [
        (["create"], 255),
        (["create", "a", "b"], 255),
        (["list", "--nonsense"], 0),
        (["info"], 255),
        (["delete"], 255),
        (["cleanup"], 255),
        (["token"], 255),
        (["route", "dns", "one"], 255),
        (["route", "lb", "one", "lb.example.com"], 255),
        (["route", "ip", "add", "10.0.0.0/8"], 1),
        (["route", "ip", "add", "10.0.0.0", "one"], 1),
        (["route", "ip", "delete"], 1),
        (["route", "ip", "get", "10.0.0"], 1),
        (["vnet", "add"], 1),
        (["vnet", "update"], 1),
        (["list", "--id", "one"], 1),
    ],
    ids=str,
)
def test_a_wrong_command_line_exits_with_two(
    both: Both, arguments: list[str], their_code: int
) -> None:
    ours, theirs = both("tunnel", *arguments)
    assert (ours.done.code, theirs.done.code) == (2, their_code)
    assert ours.requests == []


def apart(
    both: Both, *arguments: str, arrange: Arrange = lambda _: None
) -> tuple[Outcome, Outcome]:
    """Both programs, which need not do the same."""
    return (
        play([*UNDERPASS], list(arguments), both.home("ours"), arrange),
        play([both.binary], list(arguments), both.home("theirs"), arrange),
    )


def test_when_is_sent(both: Both) -> None:
    ours, theirs = apart(both, "tunnel", "list", "--when", "2026-05-06T07:08:09Z")
    assert ("existed_at", "2026-05-06T07:08:09Z") in ours.requests[0][2]
    assert "existed_at" not in dict(theirs.requests[0][2])


def test_the_subset_filter_is_sent_as_one(both: Both) -> None:
    ours, theirs = apart(both, "tunnel", "route", "ip", "show", "-nsub", "10.0.0.0/9")
    assert ("network_subset", "10.0.0.0/9") in ours.requests[0][2]
    assert ("network_superset", "10.0.0.0/9") in theirs.requests[0][2]
    assert "10.1.0.0/16" in ours.done.stdout
    assert "10.1.0.0/16" not in theirs.done.stdout


def test_a_cleanup_that_fails_is_exit_code_one(both: Both) -> None:
    def arrange(api: AccountApi) -> None:
        api.fail("DELETE", f"{ONE}/connections", 500)

    ours, theirs = apart(both, "tunnel", "cleanup", "one", "two", arrange=arrange)
    assert ours.requests == theirs.requests
    assert (ours.done.code, theirs.done.code) == (1, 0)
    assert "1 of 2 tunnels could not be cleaned up" in ours.done.stderr


def test_a_load_balancer_that_went_wrong_is_exit_code_one(both: Both) -> None:
    def arrange(api: AccountApi) -> None:
        body = {"success": True, "result": {"load_balancer": "unchanged", "pool": "new"}}
        api.fail("PUT", "routes", 200, body)

    ours, theirs = apart(
        both, "tunnel", "route", "lb", "one", "lb.example.com", "pool", arrange=arrange
    )
    assert (ours.done.code, theirs.done.code) == (1, 0)


def with_configuration(both: Both, *arguments: str) -> tuple[Outcome, Outcome]:
    """Both programs beside a configuration file that names the credentials file of tunnel two."""
    outcomes = []
    for name, program in (("ours", [*UNDERPASS]), ("theirs", [both.binary])):
        home = both.home(name)
        credentials = f'{{"AccountTag":"a","TunnelSecret":"{SECRET}","TunnelID":"{TWO}"}}'
        (home / "two.json").write_text(credentials)
        (home / ".cloudflared").mkdir()
        (home / ".cloudflared" / "config.yml").write_text("credentials-file: two.json\n")
        outcomes.append(play(program, list(arguments), home, lambda _: None))
    return outcomes[0], outcomes[1]


def test_a_name_is_not_taken_for_that_of_the_credentials_file(both: Both) -> None:
    """cloudflared routes to the wrong tunnel here."""
    ours, theirs = with_configuration(both, "tunnel", "route", "dns", "one", "app.example.com")
    assert (ours.done.code, theirs.done.code) == (0, 0)
    assert ours.api.records["app.example.com"] == ONE
    assert theirs.api.records["app.example.com"] == TWO


@pytest.mark.parametrize(
    "arguments",
    [["create", "-s", SECRET, "three"], ["token", ONE], ["delete", "-f", ONE]],
    ids=" ".join,
)
def test_a_configured_credentials_file_is_not_for_other_tunnels(
    both: Both, arguments: list[str]
) -> None:
    ours, theirs = with_configuration(both, "tunnel", *arguments)
    assert (ours.done.code, theirs.done.code) == (0, 0)
    assert ours.requests == theirs.requests
    assert ours.files == theirs.files
    assert "two.json" in ours.files


def test_deleting_a_tunnel_leaves_the_credentials_of_another(both: Both) -> None:
    credentials = f'{{"AccountTag":"a","TunnelSecret":"{SECRET}","TunnelID":"{ONE}"}}'
    left = []
    for name, program in (("ours", [*UNDERPASS]), ("theirs", [both.binary])):
        home = both.home(name)
        (home / "one.json").write_text(credentials)
        arguments = ["tunnel", "delete", "--credentials-file", "one.json", TWO]
        outcome = play(program, arguments, home, lambda _: None)
        assert outcome.done.code == 0
        left.append((home / "one.json").exists())
    assert left == [True, False]


def test_the_credentials_of_a_deleted_tunnel_go_with_it(both: Both) -> None:
    for name, program in (("ours", [*UNDERPASS]), ("theirs", [both.binary])):
        home = both.home(name)
        path = home / "certificate" / f"{TWO}.json"
        path.parent.mkdir()
        path.write_text(f'{{"AccountTag":"a","TunnelSecret":"{SECRET}","TunnelID":"{TWO}"}}')
        outcome = play(program, ["tunnel", "delete", "two"], home, lambda _: None)
        assert outcome.done.code == 0, outcome.done.stderr
        assert not path.exists()
