"""The dashboard of a running edge, asked by programs: processes, restarts, both protocols."""

from __future__ import annotations

import base64
import http.client
import os
import re
import ssl
import threading
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from peers.curl import Curl
from peers.owner import certificate_of, edge_command, set_up
from peers.patience import PATIENCE
from peers.place import Place
from peers.processes import EdgeProcess, running


class Person:
    """A browser, as far as it takes: one address, one cookie."""

    def __init__(self, address: str, ca: Path | None = None) -> None:
        url = urlsplit(address)
        self._host, self._secure = url.netloc, url.scheme == "https"
        self._context = ssl.create_default_context(cafile=ca) if self._secure else None
        self.cookie = ""

    def __call__(self, method: str, target: str, **fields: str) -> tuple[int, str, str]:
        """Status, Location and content."""
        headers = {"Cookie": self.cookie} if self.cookie else {}
        body = None
        if method == "POST":
            scheme = "https" if self._secure else "http"
            headers |= {
                "Origin": f"{scheme}://{self._host}",
                "Content-Type": "application/x-www-form-urlencoded",
            }
            body = urlencode(fields)
        if self._context is None:
            connection = http.client.HTTPConnection(self._host, timeout=PATIENCE)
        else:
            connection = http.client.HTTPSConnection(
                self._host, timeout=PATIENCE, context=self._context
            )
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            given = answer.headers.get("Set-Cookie")
            if given is not None:
                self.cookie = given.partition(";")[0]
                self.set_cookie = given
            text = answer.read().decode()
            return answer.status, answer.headers.get("Location", ""), text
        finally:
            connection.close()

    def sign_in(self, link: str) -> None:
        secret = link.partition("link=")[2]
        assert self("POST", "/dashboard/sign-in", link=secret)[:2] == (303, "/dashboard")


@pytest.fixture(params=[1, 2], ids=["one-process", "workers"])
def configured(request: pytest.FixtureRequest, tmp_path: Path) -> EdgeProcess:
    configuration = tmp_path / "edge.yml"
    configuration.write_text("dashboard: {hostname: localhost}\ndomain: tunnels.localhost\n")
    set_up(tmp_path / "data", tmp_path / "cert.pem")
    return EdgeProcess(
        tmp_path / "data", more=[f"--workers={request.param}", f"--config={configuration}"]
    )


def test_a_session_outlives_the_edge(tmp_path: Path) -> None:
    set_up(tmp_path / "data", tmp_path / "cert.pem")
    first = EdgeProcess(tmp_path / "data")
    with running(first):
        person = Person(f"http://{first.api}")
        person.sign_in(Place(first, tmp_path / "cert.pem").sign_in_link())
        assert person("GET", "/dashboard")[0] == 200
    second = EdgeProcess(tmp_path / "data", api=first.api)
    with running(second):
        assert person("GET", "/dashboard")[0] == 200
    late = edge_command(tmp_path / "data", "sign-in")
    assert late.code == 1
    assert "no edge runs" in late.err


def test_at_its_public_name_are_pages_and_api(configured: EdgeProcess, tmp_path: Path) -> None:
    edge = configured
    with running(edge):
        address = f"https://localhost:{edge.https_port}"
        status = edge_command(edge.data_dir, "status")
        assert f"Dashboard     {address}/dashboard" in status.out
        person = Person(address, edge.ca)
        link = Place(edge, tmp_path / "cert.pem").sign_in_link()
        assert link.startswith(f"{address}/dashboard/sign-in?link=")
        person.sign_in(link)
        assert person.set_cookie.startswith("__Host-underpass-session=")
        assert "secure" in person.set_cookie.lower()
        assert "Underpass" in person("GET", "/dashboard")[2]
        said = certificate_of(tmp_path / "cert.pem")
        curl = Curl(edge, "localhost")
        for protocol in ("--http1.1", "--http2"):
            tunnels = f"/accounts/{said['accountID']}/cfd_tunnel"
            bearer = ("-H", f"Authorization: Bearer {said['apiToken']}")
            assert curl(tunnels, protocol, *bearer).status == 200
            assert curl(tunnels, protocol).status == 401
            assert curl("/dashboard", protocol).status == 303
            assert curl("/tunnel", protocol, "-X", "POST").status == 404
            assert curl("/dashboard/static/style.css", protocol).status == 200
            large = ("-X", "POST", "--data-binary", "x" * 100_000, "-H", "Origin: " + address)
            assert curl("/dashboard/sign-in", protocol, *large).status == 413
        assert curl("/dashboard", scheme="http").status == 308
        Place(edge, tmp_path / "cert.pem").tunnel("web")
        page = person("GET", "/dashboard/hostnames")[2]
        token = re.findall(r'name="form_token" value="(\w+)"', page)[0]
        tunnel = re.findall(r'<option value="([\w-]+)"', page)[0]
        fields = {"form_token": token, "tunnel_id": tunnel}
        refused = person("POST", "/dashboard/hostnames", hostname="localhost", **fields)
        assert refused[0] == 400, "the edge answers for it"


def test_requests_of_all_processes_are_shown(configured: EdgeProcess, tmp_path: Path) -> None:
    edge = configured
    with running(edge):
        place = Place(edge, tmp_path / "cert.pem")
        place.tunnel("absent", "absent.example.test")
        curl = Curl(edge, "absent.example.test")
        for number in range(12):
            assert curl(f"/number-{number}").status == 503
        person = Person(f"https://localhost:{edge.https_port}", edge.ca)
        person.sign_in(place.sign_in_link())
        page = person("GET", "/dashboard/requests?failed=1")[2]
        assert {f"/number-{number}" in page for number in range(12)} == {True}


def test_a_login_that_waits_holds_no_stop_up(configured: EdgeProcess) -> None:
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    edge = configured
    with running(edge):
        trusting = ssl.create_default_context(cafile=edge.ca)
        waiting = [
            http.client.HTTPConnection(edge.api, timeout=PATIENCE),
            http.client.HTTPSConnection(
                f"localhost:{edge.https_port}", timeout=PATIENCE, context=trusting
            ),
        ]
        answers: list[int] = []
        for connection in waiting:
            connection.request("GET", f"/login/transfer/{key}")

        def read(connection: http.client.HTTPConnection) -> None:
            answers.append(connection.getresponse().status)
            connection.close()

        readers = [threading.Thread(target=read, args=(it,)) for it in waiting]
        for reader in readers:
            reader.start()
        for address in (f"http://{edge.api}", f"https://localhost:{edge.https_port}"):
            # What has come after those has been answered.
            assert Person(address, edge.ca)("GET", "/healthz")[0] == 200
    for reader in readers:
        reader.join(PATIENCE)
    assert answers == [202, 202]
