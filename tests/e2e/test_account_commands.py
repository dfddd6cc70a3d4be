"""Account commands as processes, against a stand-in for the API, and with a real edge behind it."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from peers.account_api import (
    ACCOUNT,
    API_TOKEN,
    CERTIFICATE,
    AccountApi,
    serving,
    write_certificate,
)
from peers.commands import Done, run
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import eventually
from peers.processes import (
    UNDERPASS,
    ConnectorProcess,
    EdgeProcess,
    Process,
    keep_tunnel,
    running,
)

from underpass.wire.credentials import Credentials


class Account:
    """A home with a certificate for the stand-in's account."""

    def __init__(self, api: AccountApi, home: Path) -> None:
        self.api = api
        self.home = home
        write_certificate(home / ".underpass")

    @property
    def environment(self) -> dict[str, str]:
        return {"TUNNEL_API_URL": self.api.url}

    def __call__(self, *arguments: str) -> Done:
        done = run(UNDERPASS, arguments, self.home, self.environment)
        assert API_TOKEN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--output", "json")
        assert done.code == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def api() -> Iterator[AccountApi]:
    with serving() as api:
        yield api


@pytest.fixture
def account(api: AccountApi, tmp_path: Path) -> Account:
    return Account(api, tmp_path)


def succeed(done: Done) -> str:
    assert done.code == 0, done.stderr
    return done.stdout


def test_the_life_of_a_tunnel(account: Account) -> None:
    said = succeed(account("tunnel", "create", "mine"))
    tunnel_id = re.findall(r"Created tunnel mine with id (\S+)", said)[0]
    path = account.home / ".underpass" / f"{tunnel_id}.json"
    assert f"Tunnel credentials written to {path}." in said
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert json.loads(path.read_bytes())["AccountTag"] == ACCOUNT

    assert [tunnel["name"] for tunnel in account.json("tunnel", "list")] == ["mine"]
    assert account.json("tunnel", "info", "mine")["id"] == tunnel_id
    token = succeed(account("tunnel", "token", "mine")).strip()
    assert Credentials.from_token(token) == Credentials.from_json(path.read_bytes())
    succeed(account("tunnel", "route", "dns", "mine", "app.example.com"))
    assert account.api.records == {"app.example.com": tunnel_id}

    assert succeed(account("tunnel", "delete", "mine")) == ""
    assert not path.exists()
    assert account.json("tunnel", "list") is None
    deleted = account.json("tunnel", "list", "-d")
    assert deleted[0]["deleted_at"] != "0001-01-01T00:00:00Z"
    assert account("tunnel", "delete", tunnel_id).code == 1


def test_private_networks(account: Account) -> None:
    tunnel_id = account.api.add_tunnel("mine")
    succeed(account("tunnel", "vnet", "add", "--default", "lab", "the laboratory"))
    said = succeed(account("tunnel", "route", "ip", "add", "--vnet", "lab", "10.1.2.3/8", "mine"))
    assert said == f"Successfully added route for 10.0.0.0/8 over tunnel {tunnel_id}\n"
    (route,) = account.json("tunnel", "route", "ip", "show")
    (network,) = account.json("tunnel", "vnet", "list")
    assert route["virtual_network_id"] == network["id"]
    shown = yaml.safe_load(succeed(account("tunnel", "route", "ip", "list", "-o", "yaml")))
    assert shown[0]["network"] == {"ip": "10.0.0.0", "mask": [255, 0, 0, 0]}
    assert account("tunnel", "vnet", "delete", "lab").code == 1
    succeed(account("tunnel", "route", "ip", "delete", "--vnet", "lab", "10.0.0.0/8"))
    succeed(account("tunnel", "vnet", "delete", "lab"))
    assert account.json("tunnel", "vnet", "list") == []


def test_lists_of_several_pages(account: Account) -> None:
    names = [f"tunnel-{number:02d}" for number in range(45)]
    for name in names:
        account.api.add_tunnel(name)
    assert [tunnel["name"] for tunnel in account.json("tunnel", "list")] == names
    assert [dict(each.query)["page"] for each in account.api.requests] == ["1", "2", "3"]


def test_names_cannot_command_a_terminal(account: Account) -> None:
    account.api.add_tunnel("\x1b]0;gotcha\x07\nforged line")
    table = succeed(account("tunnel", "list"))
    assert "\x1b" not in table
    assert len(table.splitlines()) == 3


def test_a_redirect_is_not_followed_with_the_token(account: Account) -> None:
    elsewhere = {"Location": f"{account.api.address}/elsewhere"}
    account.api.fail("GET", "cfd_tunnel", 307, headers=elsewhere)
    done = account("tunnel", "--loglevel", "debug", "list")
    assert done.code == 1
    assert f"redirects to {account.api.address}/elsewhere (status 307)" in done.stderr
    assert len(account.api.requests) == 1


def test_the_account_certificate_of_cloudflared_is_found(api: AccountApi, tmp_path: Path) -> None:
    write_certificate(tmp_path / ".cloudflared")
    done = run(UNDERPASS, ["tunnel", "create", "mine"], tmp_path, {"TUNNEL_API_URL": api.url})
    assert done.code == 0, done.stderr
    assert len(list((tmp_path / ".cloudflared").glob("*.json"))) == 1


def test_settings_may_come_from_a_file(account: Account) -> None:
    certificate = account.home / ".underpass" / "cert.pem"
    moved = certificate.rename(account.home / "elsewhere.pem")
    (account.home / ".underpass" / "config.yml").write_text(
        f"api-url: {account.api.url}/\norigincert: {moved}\n"
    )
    done = run(UNDERPASS, ["tunnel", "list"], account.home)
    assert done.code == 0, done.stderr


def test_an_api_that_is_not_there(account: Account) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = account("tunnel", "--api-url", url, "list")
    assert done.code == 1
    assert f"the API {url} cannot be asked: " in done.stderr


# Running.


@pytest.fixture
def tunnel(account: Account, data_dir: Path) -> Credentials:
    """A tunnel that both the account and an edge's data directory know."""
    tunnel_id = uuid.UUID(account.api.add_tunnel("mine"))
    credentials = Credentials(ACCOUNT, b"s" * 32, tunnel_id)
    keep_tunnel(data_dir, credentials, "app.example.test")
    path = account.home / ".underpass" / f"{tunnel_id}.json"
    path.write_bytes(credentials.to_json())
    return credentials


@pytest.mark.parametrize(
    "arguments",
    [["run", "mine"], ["--name", "mine", "--hostname", "app.example.test"]],
    ids=" ".join,
)
def test_a_tunnel_is_run_by_name(
    account: Account, tunnel: Credentials, data_dir: Path, arguments: list[str]
) -> None:
    edge = EdgeProcess(data_dir)
    with running(edge), Origin() as origin:
        connector = ConnectorProcess(
            arguments,
            environment={**account.environment, "HOME": str(account.home)},
            settings=[*edge.edge_arguments, f"--url={origin.url}"],
        )
        with running(connector):
            line = connector.ready().wait_for("Starting tunnel")
            assert line["tunnelID"] == str(tunnel.tunnel_id)
            assert Curl(edge, "app.example.test")("/hello").body == b"hello\n"
    led = {"app.example.test": str(tunnel.tunnel_id)} if "--hostname" in arguments else {}
    assert account.api.records == led
    assert dict(account.api.requests[0].query)["name"] == "mine"


def test_a_token_in_the_environment_does_not_decide_which_tunnel_name_means(
    account: Account, tunnel: Credentials
) -> None:
    other = Credentials(ACCOUNT, b"o" * 32, uuid.uuid4())
    done = run(
        UNDERPASS,
        ["tunnel", "--name", "mine", "--tag", "bad"],
        account.home,
        {**account.environment, "TUNNEL_TOKEN": other.to_token()},
    )
    assert done.code == 1
    assert f"tunnelID={tunnel.tunnel_id}" in done.stderr


def test_a_name_that_nobody_has(account: Account) -> None:
    done = account("tunnel", "run", "nobody")
    assert done.code == 1
    assert "there is no tunnel named 'nobody'; `underpass tunnel list` shows" in done.stderr


# Logging in.


class LoginProcess(Process):
    """`underpass tunnel login`, begun; `key` is what it polls for."""

    def __init__(self, api: AccountApi, home: Path, *more: str) -> None:
        super().__init__(
            [
                *UNDERPASS,
                *("tunnel", "--output=json", "login", f"--callbackURL={api.callback}"),
                *(f"--loginURL={api.address}/page", *more),
            ],
            {"HOME": str(home), "DISPLAY": "", "WAYLAND_DISPLAY": ""},
        )
        self.key = api.wait_for_poll()


def test_a_login_brings_a_certificate(api: AccountApi, tmp_path: Path) -> None:
    login = LoginProcess(api, tmp_path)
    assert re.fullmatch(r"[\w-]{43}=", login.key)
    callback = f"{api.callback}{login.key}"
    for plain, encoded in ((":", "%3A"), ("/", "%2F"), ("=", "%3D")):
        callback = callback.replace(plain, encoded)
    assert f"\n{api.address}/page?aud=&callback={callback}\n" in login.log
    api.hand_over(login.key, b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    login.check(1)
    assert "there is no API token in the answer" in login.log

    login = LoginProcess(api, tmp_path)
    api.hand_over(login.key, CERTIFICATE.to_pem())
    login.check()
    path = tmp_path / ".underpass" / "cert.pem"
    assert path.read_bytes() == CERTIFICATE.to_pem()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    done = run(UNDERPASS, ["tunnel", "list"], tmp_path, {"TUNNEL_API_URL": api.url})
    assert done.code == 0, done.stderr


def test_a_login_goes_where_the_other_commands_look(api: AccountApi, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "account.pem"
    login = LoginProcess(api, tmp_path, f"--origincert={path}", "--fedramp=false")
    api.hand_over(login.key, CERTIFICATE.to_pem())
    login.check()
    assert path.read_bytes() == CERTIFICATE.to_pem()


def test_a_login_service_in_trouble_is_quoted(api: AccountApi, tmp_path: Path) -> None:
    api.fail("GET", "/transfer/", 503, b"come back \x1b[31mlater", "text/plain")
    done = run(
        UNDERPASS,
        ["login", "--callbackURL", api.callback, "--loginURL", f"{api.address}/page"],
        tmp_path,
    )
    assert done.code == 1
    assert "answers with status 503: come back  [31mlater; run the command again" in done.stderr


def test_a_login_is_broken_off_by_ctrl_c(api: AccountApi, tmp_path: Path) -> None:
    login = LoginProcess(api, tmp_path)
    login.signal(signal.SIGINT)
    login.check(130)
    assert "The login was broken off; nothing was written." in login.log
    assert not (tmp_path / ".underpass" / "cert.pem").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="xdg-open is Linux's way")
def test_the_browser_is_shown_the_page(api: AccountApi, tmp_path: Path) -> None:
    """A stand-in for xdg-open writes down what it is called with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    browser = programs / "xdg-open"
    browser.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" > "$HOME/shown.part"\nmv "$HOME/shown.part" "$HOME/shown"\n'
    )
    browser.chmod(0o755)
    login = Process(
        [
            *UNDERPASS,
            *("login", f"--callbackURL={api.callback}", f"--loginURL={api.address}/page?a=1&b=2"),
        ],
        {"HOME": str(tmp_path), "DISPLAY": ":99", "PATH": f"{programs}:/usr/bin:/bin"},
    )
    key = api.wait_for_poll()
    api.hand_over(key, CERTIFICATE.to_pem())
    login.check()
    assert "A browser window should have opened" in login.log
    eventually((tmp_path / "shown").exists, "the browser is called")
    (shown,) = (tmp_path / "shown").read_text().splitlines()
    assert shown.startswith(f"{api.address}/page?a=1&aud=&b=2&callback=http%3A%2F%2F127.0.0.1")
