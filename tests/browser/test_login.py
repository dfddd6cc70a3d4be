"""`underpass tunnel login` at an edge of one's own: command line, browser, and what comes of it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from peers.chromium import Tab
from peers.owner import certificate_of, edge_command, run_command
from peers.patience import eventually
from peers.place import Place
from peers.processes import UNDERPASS, Process


class LoginProcess(Process):
    """`underpass tunnel login`, begun."""

    def __init__(self, home: Path, environment: dict[str, str], *more: str) -> None:
        super().__init__(
            [*UNDERPASS, "tunnel", "login", *more],
            {"HOME": str(home), "DISPLAY": "", "WAYLAND_DISPLAY": "", **environment},
        )
        found = re.compile(r"^(https?://\S+)$", re.MULTILINE)
        eventually(lambda: "this code" in self.log, "it says where to log in")
        self.page = found.findall(self.log)[0]
        self.code = re.findall(r"this code: (\S+)", self.log)[0]


@pytest.mark.parametrize(
    ("place", "way"),
    [(1, "api"), (1, "public"), (2, "public"), (1, "loginURL")],
    ids=["api", "public", "public-workers", "loginURL"],
    indirect=["place"],
)
def test_a_command_line_is_logged_in(place: Place, tab: Tab, tmp_path: Path, way: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    api = f"http://{place.edge.api}"
    more: list[str] = []
    environment = {"TUNNEL_API_URL": api}
    if way == "public":
        api = environment["TUNNEL_API_URL"] = f"https://localhost:{place.edge.https_port}"
        environment["SSL_CERT_FILE"] = str(place.edge.ca)
    elif way == "loginURL":
        environment, more = {}, [f"--loginURL={api}/login"]
    login = LoginProcess(home, environment, *more)
    assert login.page.startswith(f"{api}/login?aud=&callback=")

    tab.go(place.sign_in_link())
    if way != "public":
        # The link leads to the public name, whose cookies are others.
        public = f"https://localhost:{place.edge.https_port}"
        link = place.sign_in_link()
        assert link.startswith(public)
        tab.go(link.replace(public, api))
    tab.click("main button")
    tab.go(login.page)
    assert login.code in tab.text
    tab.fill("#name", "my laptop")
    tab.fill("#hostnames", "*.lab.example.test")
    tab.click("main form button")
    assert f"{login.code} is logged in" in tab.text
    login.check()
    assert tab.problems == []

    cert = home / ".underpass" / "cert.pem"
    assert stat.S_IMODE(cert.stat().st_mode) == 0o600
    said = certificate_of(cert)
    assert said["accountID"] == certificate_of(place.cert)["accountID"]
    place.tunnel("web")
    settings = {"HOME": str(home), "TUNNEL_API_URL": api, **environment}
    listed = run_command([*UNDERPASS, "tunnel", "list", "--output=json"], settings)
    assert listed.code == 0, listed.err
    assert [tunnel["name"] for tunnel in listed.json] == ["web"]
    for hostname, code in (("a.lab.example.test", 0), ("b.example.test", 1)):
        routed = run_command([*UNDERPASS, "tunnel", "route", "dns", "web", hostname], settings)
        assert routed.code == code, routed.err

    tokens = edge_command(place.edge.data_dir, "token", "list", "--json").json
    (made,) = [token for token in tokens if token["name"] == "my laptop"]
    assert said["apiToken"].split("_")[1] == made["id"]
    assert (made["scopes"], made["hostnames"]) == ("read tunnels routes", "*.lab.example.test")
    assert edge_command(place.edge.data_dir, "token", "revoke", made["id"]).code == 0
    listed = eventually(
        lambda: next(
            filter(
                lambda ran: ran.code,
                [run_command([*UNDERPASS, "tunnel", "list"], settings)],
            ),
            None,
        ),
        "the token is worth nothing",
    )
    assert "revoked" in listed.err


def test_a_stranger_s_login_cannot_be_taken_for_one_s_own(
    place: Place, tab: Tab, tmp_path: Path
) -> None:
    """Two command lines wait; each shows a code of its own, and gets its own certificate."""
    logins = []
    for name in ("mine", "stranger"):
        (tmp_path / name).mkdir()
        environment = {"TUNNEL_API_URL": f"http://{place.edge.api}"}
        logins.append(LoginProcess(tmp_path / name, environment))
    mine, stranger = logins
    assert mine.code != stranger.code
    public = f"https://localhost:{place.edge.https_port}"
    tab.go(place.sign_in_link().replace(public, f"http://{place.edge.api}"))
    tab.click("main button")
    tab.go(mine.page)
    assert stranger.code not in tab.text
    tab.click("main form button")
    mine.check()
    assert (tmp_path / "mine" / ".underpass" / "cert.pem").exists()
    assert not (tmp_path / "stranger" / ".underpass").exists()
    stranger.kill()
