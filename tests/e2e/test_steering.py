"""Several connectors and tunnels behind one hostname, as visitors and operators see it."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from peers.cloudflared import Cloudflared, binary
from peers.curl import Curl
from peers.origin import Origin
from peers.owner import ApiClient, Owner, certificate_of, set_up
from peers.patience import PATIENCE, eventually
from peers.processes import UNDERPASS, ConnectorProcess, EdgeProcess, Process, running

from underpass.edge.pools import COOKIE

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["binary"]

HOSTNAME = "app.example.test"
NAME = COOKIE.decode()


@dataclass
class Deployment:
    """An edge with an account, and whatever a test connects to it."""

    edge: EdgeProcess
    cert: Path
    stack: contextlib.ExitStack
    binary: str = ""
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        said = certificate_of(self.cert)
        self._ask = ApiClient(self.edge.api, said["apiToken"])
        self._account = f"/accounts/{said['accountID']}"
        self._zone = f"/zones/{said['zoneID']}"
        self.curl = Curl(self.edge, HOSTNAME)

    def try_to(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer of a call below the zone (`hostnames…`) or the account."""
        base = self._zone if path.startswith(("hostnames", "tunnels")) else self._account
        return self._ask(method, f"{base}/{path}", body)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The result of one that succeeds."""
        status, answer = self.try_to(method, path, body)
        assert status == 200, answer
        return answer["result"]

    def tunnel(self, name: str) -> str:
        """The id of a new tunnel."""
        made = self.ask("POST", "cfd_tunnel", {"name": name})
        self.tokens[made["id"]] = made["token"]
        return str(made["id"])

    def lead(self, weights: dict[str, int], sticky: str = "none") -> None:
        """Lead the hostname to tunnels."""
        targets = [{"tunnel_id": key, "weight": weight} for key, weight in weights.items()]
        self.ask("PUT", f"hostnames/{HOSTNAME}", {"targets": targets, "sticky": sticky})

    @property
    def shown(self) -> Any:
        return self.ask("GET", f"hostnames/{HOSTNAME}")

    def origin(self) -> Origin:
        return self.stack.enter_context(Origin())

    def connector(self, tunnel: str, url: str, links: int = 2) -> Process:
        """Run a tunnel, by whichever program the test is for; its links are known everywhere."""
        before = len(self.connections(tunnel))
        made: Process
        if self.binary:
            links = 4
            made = Cloudflared(
                self.binary, self.edge, ["run", f"--url={url}", f"--token={self.tokens[tunnel]}"]
            )
        else:
            made = ConnectorProcess(
                [
                    *(self.edge.edge_arguments * links),
                    *(f"--ha-connections={links}", f"--url={url}", "run"),
                ],
                environment={"TUNNEL_TOKEN": self.tokens[tunnel]},
            )
        self.stack.callback(lambda: made.alive.discard(made) or made.kill())
        eventually(
            lambda: len(self.connections(tunnel)) == before + links, "its links are registered"
        )
        return made

    def connections(self, tunnel: str) -> list[dict[str, Any]]:
        clients = self.ask("GET", f"cfd_tunnel/{tunnel}/connections")
        return [each for client in clients for each in client["conns"]]

    def connectors(self, tunnel: str) -> list[str]:
        """Ids, the oldest last."""
        clients = self.ask("GET", f"cfd_tunnel/{tunnel}/connections")
        clients.sort(key=lambda client: client["run_at"])
        return [client["id"] for client in reversed(clients)]


@pytest.fixture(params=[1, 2], ids=["one-process", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def deployment(tmp_path: Path, workers: int) -> Iterator[Deployment]:
    set_up(tmp_path / "data", tmp_path / "cert.pem")
    edge = EdgeProcess(tmp_path / "data", more=[f"--workers={workers}", "--metrics=127.0.0.1:0"])
    with running(edge), contextlib.ExitStack() as stack:
        yield Deployment(edge, tmp_path / "cert.pem", stack)


@pytest.fixture
def stock(deployment: Deployment, binary: str) -> Deployment:
    """The same with stock connectors."""
    deployment.binary = binary
    return deployment


def taken(origins: list[Origin], path: str = "/hello") -> list[int]:
    """How many requests each origin has had."""
    return [len(origin.requests(path)) for origin in origins]


def refusing_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Load:
    """Visitors who ask again and again, each on a connection of its own."""

    def __init__(self, edge: EdgeProcess, count: int = 8) -> None:
        self.answers: Counter[str] = Counter()
        self._edge = edge
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._visit) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads)

    def go_on(self, count: int) -> None:
        """Wait until so many more were answered."""
        with self._changed:
            wanted = self.answers.total() + count
            assert self._changed.wait_for(lambda: self.answers.total() >= wanted, PATIENCE)

    def _visit(self) -> None:
        visitor = http.client.HTTPConnection("127.0.0.1", self._edge.http_port, timeout=PATIENCE)
        with contextlib.closing(visitor):
            while not self._over.is_set():
                try:
                    visitor.request("GET", "/hello", headers={"Host": HOSTNAME})
                    response = visitor.getresponse()
                    response.read()
                    cause = response.headers.get("underpass-cause", "")
                    outcome = f"{response.status} {cause}".strip()
                except (OSError, http.client.HTTPException) as error:
                    outcome = type(error).__name__
                    visitor.close()
                with self._changed:
                    self.answers[outcome] += 1
                    self._changed.notify_all()


class TestWeights:
    def test_each_tunnel_gets_its_share(self, deployment: Deployment, workers: int) -> None:
        origins = [deployment.origin(), deployment.origin()]
        tunnels = [deployment.tunnel(name) for name in ("one", "two")]
        for tunnel, origin in zip(tunnels, origins, strict=True):
            deployment.connector(tunnel, origin.url)
        deployment.lead(dict(zip(tunnels, (3, 1), strict=True)))
        # On one connection, so by one worker.
        answers = deployment.curl.several(["/hello"] * 40)
        assert {answer.status for answer in answers} == {200}
        assert taken(origins) == [30, 10]
        deployment.lead(dict(zip(tunnels, (0, 1), strict=True)))
        deployment.curl.several(["/hello"] * 10)
        assert taken(origins) == [30, 20]

    def test_a_standby_serves_while_the_other_is_away(self, deployment: Deployment) -> None:
        origins = [deployment.origin(), deployment.origin()]
        tunnels = [deployment.tunnel(name) for name in ("one", "standby")]
        first, _ = (
            deployment.connector(tunnel, origin.url)
            for tunnel, origin in zip(tunnels, origins, strict=True)
        )
        deployment.lead(dict(zip(tunnels, (1, 0), strict=True)))
        deployment.curl.several(["/hello"] * 5)
        assert taken(origins) == [5, 0]
        first.stop()
        eventually(lambda: not deployment.connections(tunnels[0]), "its links are gone")
        assert {answer.status for answer in deployment.curl.several(["/hello"] * 5)} == {200}
        assert taken(origins) == [5, 5]

    def test_a_load_balancer_of_cloudflareds_command_line(self, deployment: Deployment) -> None:
        origins = [deployment.origin(), deployment.origin()]
        for name, origin in zip(("one", "two"), origins, strict=True):
            tunnel = deployment.tunnel(name)
            body = {"type": "lb", "lb_name": HOSTNAME, "lb_pool": "pool"}
            deployment.ask("PUT", f"tunnels/{tunnel}/routes", body)
            deployment.connector(tunnel, origin.url)
        deployment.curl.several(["/hello"] * 10)
        assert taken(origins) == [5, 5]


def test_no_route_is_made_from_the_name_that_the_edge_answers_for(tmp_path: Path) -> None:
    set_up(tmp_path / "data", tmp_path / "cert.pem")
    edge = EdgeProcess(tmp_path / "data", more=["--management-hostname=Tail.Example.Test"])
    with running(edge), contextlib.ExitStack() as stack:
        deployment = Deployment(edge, tmp_path / "cert.pem", stack)
        tunnel = deployment.tunnel("web")
        for path, body in (
            ("hostnames/tail.example.test", {"targets": [{"tunnel_id": tunnel}]}),
            (
                f"tunnels/{tunnel}/routes",
                {"type": "dns", "user_hostname": "TAIL.example.test.", "overwrite_existing": True},
            ),
        ):
            status, answer = deployment.try_to("PUT", path, body)
            assert status == 400
            assert "answers for it itself" in answer["errors"][0]["message"]
        assert deployment.ask("GET", "hostnames") == []


class TestStickiness:
    @pytest.fixture
    def origins(self, deployment: Deployment) -> list[Origin]:
        return [deployment.origin(), deployment.origin()]

    @pytest.fixture
    def tunnels(self, deployment: Deployment, origins: list[Origin]) -> list[str]:
        tunnels = [deployment.tunnel(name) for name in ("one", "two")]
        self.running = [
            deployment.connector(tunnel, origin.url)
            for tunnel, origin in zip(tunnels, origins, strict=True)
        ]
        return tunnels

    @pytest.mark.parametrize("scheme", ["https", "http"])
    def test_by_a_cookie(
        self,
        deployment: Deployment,
        origins: list[Origin],
        tunnels: list[str],
        tmp_path: Path,
        scheme: str,
    ) -> None:
        deployment.lead(dict.fromkeys(tunnels, 1), "cookie")
        jar = str(tmp_path / "jar")
        first = deployment.curl("/hello", "-c", jar, scheme=scheme)
        (cookie,) = first.all("set-cookie")
        name, _, rest = cookie.partition("=")
        attributes = rest.split("; ")[1:]
        assert name == NAME
        assert attributes == ["Path=/", "HttpOnly", "SameSite=Lax"] + ["Secure"] * (
            scheme == "https"
        )
        chosen = taken(origins).index(1)
        # A connection each: so by any worker.
        for _ in range(8):
            again = deployment.curl("/hello", "-b", jar, "-c", jar, scheme=scheme)
            assert again.status == 200
            assert again.all("set-cookie") == [], "it has it"
        assert taken(origins)[chosen] == 9
        for forged in (rest.split(";")[0][::-1], "x", "%00", "a" * 4000):
            answer = deployment.curl("/hello", "-b", f"{NAME}={forged}", scheme=scheme)
            assert answer.status == 200
            assert len(answer.all("set-cookie")) == 1
        self.running[chosen].stop()
        eventually(lambda: not deployment.connections(tunnels[chosen]), "its links are gone")
        moved = deployment.curl("/hello", "-b", jar, "-c", jar, scheme=scheme)
        assert (moved.status, len(moved.all("set-cookie"))) == (200, 1)
        assert deployment.curl("/hello", "-b", jar, scheme=scheme).all("set-cookie") == []

    def test_by_the_address(
        self, deployment: Deployment, origins: list[Origin], tunnels: list[str]
    ) -> None:
        deployment.lead(dict.fromkeys(tunnels, 1), "address")
        for _ in range(8):
            answer = deployment.curl("/hello")
            assert (answer.status, answer.all("set-cookie")) == (200, [])
        assert sorted(taken(origins)) == [0, 8]

    def test_nobody_is_told_anything_by_a_hostname_where_nobody_sticks(
        self, deployment: Deployment, tunnels: list[str]
    ) -> None:
        deployment.lead(dict.fromkeys(tunnels, 1))
        assert deployment.curl("/hello").all("set-cookie") == []


class TestDraining:
    def test_what_is_under_way_ends_and_nothing_new_comes(self, deployment: Deployment) -> None:
        origins = [deployment.origin(), deployment.origin()]
        tunnel = deployment.tunnel("web")
        deployment.lead({tunnel: 1})
        deployment.connector(tunnel, origins[0].url)
        (drained,) = deployment.connectors(tunnel)
        waiting = subprocess.Popen(
            [*deployment.curl.arguments(), deployment.curl.url("/slow?key=drain")],
            stdout=subprocess.PIPE,
        )
        origins[0].wait_for_request("/slow")
        deployment.connector(tunnel, origins[1].url)
        path = f"cfd_tunnel/{tunnel}/connections/{drained}/drain"
        assert deployment.ask("POST", path) == {
            "id": drained,
            "is_draining": True,
            "connections": 2,
        }
        states = {each["client_id"]: each["is_draining"] for each in deployment.connections(tunnel)}
        assert sorted(states.values()) == [False, True]
        assert states[drained]
        assert deployment.shown["targets"][0]["draining"] == 2
        assert deployment.edge.metric("underpass_edge_draining_links") == 2
        for _ in range(6):
            assert deployment.curl("/hello").status == 200
        assert taken(origins) == [0, 6]
        origins[0].open_gate("drain")
        out, _ = waiting.communicate(timeout=PATIENCE)
        assert (waiting.returncode, out) == (0, b"at last\n")
        assert deployment.ask("DELETE", path)["is_draining"] is False
        eventually(
            lambda: deployment.curl("/hello").status == 200 and taken(origins)[0],
            "it gets requests again",
        )

    def test_one_link_of_a_connector(self, deployment: Deployment) -> None:
        origin = deployment.origin()
        tunnel = deployment.tunnel("web")
        deployment.lead({tunnel: 1})
        deployment.connector(tunnel, origin.url)
        first, second = (each["id"] for each in deployment.connections(tunnel))
        for each in (first, second):
            deployment.ask("POST", f"cfd_tunnel/{tunnel}/connections/{each}/drain")
            left = [each for each in deployment.connections(tunnel) if not each["is_draining"]]
            answer = deployment.curl("/hello")
            assert answer.status == (200 if left else 503)
        assert answer.header("underpass-cause") == "no_link"
        deployment.ask("DELETE", f"cfd_tunnel/{tunnel}/connections/{second}/drain")
        assert deployment.curl("/hello").status == 200

    def test_a_worker_that_is_replaced_knows_it_too(
        self, deployment: Deployment, workers: int
    ) -> None:
        if workers == 1:
            pytest.skip("there is one process")
        origins = [deployment.origin(), deployment.origin()]
        tunnel = deployment.tunnel("web")
        deployment.lead({tunnel: 1})
        deployment.connector(tunnel, origins[0].url)
        (drained,) = deployment.connectors(tunnel)
        deployment.connector(tunnel, origins[1].url)
        deployment.ask("POST", f"cfd_tunnel/{tunnel}/connections/{drained}/drain")
        pids = deployment.edge.wait_for("Running 2 worker processes")["pids"]
        subprocess.run(["kill", "-9", str(pids[0])], check=True)
        eventually(
            lambda: (
                len(deployment.connections(tunnel)) == 4
                and sum(each["is_draining"] for each in deployment.connections(tunnel)) == 2
            ),
            "all links are back",
        )
        before = taken(origins)[0]
        for _ in range(10):
            deployment.curl("/hello")
        assert taken(origins)[0] == before


@pytest.mark.parametrize("workers", [1])
class TestCommands:
    @pytest.fixture
    def owner(self, deployment: Deployment, tmp_path: Path) -> Owner:
        return Owner(UNDERPASS, deployment.edge, tmp_path, deployment.cert)

    def test_a_pool_is_made_changed_shown_and_taken_apart(
        self, deployment: Deployment, owner: Owner
    ) -> None:
        one, two = deployment.tunnel("one"), deployment.tunnel("two")

        def targets() -> dict[str, int]:
            shown = owner("tunnel", "route", "pool", "show", HOSTNAME, "--output=json").json
            assert shown["hostname"] == HOSTNAME
            return {each["tunnel_id"]: each["weight"] for each in shown["targets"]}

        owner("tunnel", "route", "pool", "add", "one", HOSTNAME)
        said = owner("tunnel", "route", "pool", "add", "two", HOSTNAME, "--weight=0").out
        assert targets() == {one: 1, two: 0}
        assert re.search(rf"{two} +two +0 +0 +0", said)
        owner("tunnel", "route", "pool", "add", two, HOSTNAME, "-w", "7", "--sticky", "cookie")
        assert targets() == {one: 1, two: 7}
        assert "STICKY:   cookie" in owner("tunnel", "route", "pool", "show", HOSTNAME).out
        owner("tunnel", "route", "pool", "remove", "one", HOSTNAME)
        assert targets() == {two: 7}
        assert "no tunnel" not in owner("tunnel", "route", "pool", "remove", "two", HOSTNAME).out
        assert (
            "leads to no tunnel"
            in owner("tunnel", "route", "pool", "show", HOSTNAME, fails=True).err
        )

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["add", "one", "a b"], "not a valid hostname"),
            (["add", "one", HOSTNAME, "--weight=-1"], "whole number"),
            (["add", "one", HOSTNAME, "--weight=1001"], "1000"),
            (["add", "one", HOSTNAME, "--sticky=no"], "none of none, cookie, address"),
            (["add", "nobody", HOSTNAME], "nobody"),
            (["remove", "one", HOSTNAME], "leads to no tunnel"),
        ],
    )
    def test_what_cannot_be(
        self, deployment: Deployment, owner: Owner, arguments: list[str], reason: str
    ) -> None:
        deployment.tunnel("one")
        assert reason in owner("tunnel", "route", "pool", *arguments, fails=True).err
        assert deployment.ask("GET", "hostnames") == []

    def test_a_connector_is_drained(self, deployment: Deployment, owner: Owner) -> None:
        tunnel = deployment.tunnel("web")
        deployment.connector(tunnel, deployment.origin().url)
        (connector,) = deployment.connectors(tunnel)
        assert "draining" not in owner("tunnel", "info", "web", "--output=json").out
        owner("tunnel", "drain", "web", connector)
        shown = owner("tunnel", "info", "web", "--output=json").json
        (connection, *_) = shown["conns"][0]["conns"]
        assert connection["is_draining"] is True
        assert "(2 draining)" in owner("tunnel", "info", "web").out
        owner("tunnel", "drain", "--undo", "web", connector)
        assert "draining" not in owner("tunnel", "info", "web").out
        nobody = "00000000-0000-4000-8000-000000000000"
        assert "has no connector" in owner("tunnel", "drain", "web", nobody, fails=True).err
        assert "UUID" in owner("tunnel", "drain", "web", "x", fails=True).err


class TestApplicationsOutOfReach:
    def test_visitors_are_spared_those_behind_one_of_two_connectors(
        self, deployment: Deployment
    ) -> None:
        self.spared(deployment)

    @pytest.mark.interop
    def test_and_those_of_a_stock_connector(self, stock: Deployment) -> None:
        self.spared(stock)

    @staticmethod
    def spared(deployment: Deployment) -> None:
        origin, port = deployment.origin(), refusing_port()
        tunnel = deployment.tunnel("web")
        deployment.lead({tunnel: 1})
        deployment.connector(tunnel, f"http://127.0.0.1:{port}")
        (bad,) = deployment.connectors(tunnel)
        assert deployment.curl("/hello").status == 502, "there is no other"
        assert deployment.shown["trouble"] == []
        deployment.connector(tunnel, origin.url)

        def is_spared() -> bool:
            answers = deployment.curl.several(["/hello"] * 8)
            assert {answer.status for answer in answers} == {200}, "another one was asked"
            trouble = deployment.shown["trouble"]
            assert {each["client_id"] for each in trouble} <= {bad}
            return any(each["is_spared"] for each in trouble)

        eventually(is_spared, "the connector is spared")
        assert deployment.edge.metric("underpass_edge_spared_connectors") >= 1
        assert deployment.edge.metric("underpass_edge_connector_spells_total") >= 1
        with Fixed(port) as repaired:
            eventually(
                lambda: deployment.curl("/hello").status == 200 and repaired.asked,
                "it is tried again",
            )
            eventually(
                lambda: deployment.curl.several(["/hello"] * 8) and not deployment.shown["trouble"],
                "it is as good as any",
            )

    def test_all_are_asked_when_none_reaches_it(self, deployment: Deployment) -> None:
        tunnel = deployment.tunnel("web")
        deployment.lead({tunnel: 1})
        for _ in range(2):
            deployment.connector(tunnel, f"http://127.0.0.1:{refusing_port()}")
        causes = [
            answer.header("underpass-cause") for answer in deployment.curl.several(["/hello"] * 30)
        ]
        assert set(causes) == {"dial"}


class Fixed:
    """An application on a port that is given."""

    def __init__(self, port: int) -> None:
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                self.asked += 1
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
                )


class TestConnectorsThatAreKilled:
    @staticmethod
    def kill_one_of(deployment: Deployment, start: Callable[[int], Process]) -> None:
        """Under load; and no visitor hears of it."""
        running_ones = [start(number) for number in range(3)]
        with Load(deployment.edge) as load:
            load.go_on(400)
            running_ones[0].kill()
            load.go_on(800)
            running_ones[2].kill()
            load.go_on(800)
        assert load.answers["200"] >= 2000
        if deployment.binary:
            # A stock connector sends head and content of a response apart. What had its head when
            # the connector was killed can only be broken off.
            load.answers.pop("IncompleteRead", None)
        assert set(load.answers) == {"200"}, load.answers

    def test_one_of_a_tunnels(self, deployment: Deployment) -> None:
        origin = deployment.origin()
        tunnel = deployment.tunnel("web")
        deployment.lead({tunnel: 1})
        self.kill_one_of(deployment, lambda _: deployment.connector(tunnel, origin.url))

    @pytest.mark.interop
    def test_stock_ones(self, stock: Deployment) -> None:
        self.test_one_of_a_tunnels(stock)

    def test_one_of_a_pool_of_tunnels(self, deployment: Deployment) -> None:
        origin = deployment.origin()
        tunnels = [deployment.tunnel(name) for name in ("one", "two", "three")]
        deployment.lead(dict(zip(tunnels, (3, 1, 2), strict=True)))
        self.kill_one_of(
            deployment, lambda number: deployment.connector(tunnels[number], origin.url)
        )

    def test_where_visitors_stick(self, deployment: Deployment) -> None:
        origin = deployment.origin()
        tunnels = [deployment.tunnel(name) for name in ("one", "two", "three")]
        deployment.lead(dict.fromkeys(tunnels, 1), "address")
        self.kill_one_of(
            deployment, lambda number: deployment.connector(tunnels[number], origin.url)
        )

    @pytest.mark.interop
    def test_ours_and_stock_ones_in_one_pool(self, deployment: Deployment, binary: str) -> None:
        origin = deployment.origin()
        tunnels = [deployment.tunnel(name) for name in ("one", "two", "three")]
        deployment.lead(dict.fromkeys(tunnels, 1))

        def start(number: int) -> Process:
            deployment.binary = binary if number else ""
            return deployment.connector(tunnels[number], origin.url)

        self.kill_one_of(deployment, start)

    def test_in_the_middle_of_a_response_that_one_alone_is_broken_off(
        self, deployment: Deployment
    ) -> None:
        origins = [deployment.origin(), deployment.origin()]
        tunnels = [deployment.tunnel(name) for name in ("one", "two")]
        killed = deployment.connector(tunnels[0], origins[0].url)
        deployment.lead({tunnels[0]: 1, tunnels[1]: 0})
        broken = self.download(deployment)
        origins[0].wait_for_request("/trickle")
        deployment.connector(tunnels[1], origins[1].url)
        deployment.lead({tunnels[0]: 0, tunnels[1]: 1})
        whole = self.download(deployment)
        origins[1].wait_for_request("/trickle")
        killed.kill()
        out, _ = broken.communicate(timeout=PATIENCE)
        assert out == b"half"
        assert broken.returncode in (18, 56, 92), "not taken for a complete one"
        origins[1].open_gate("rest")
        out, _ = whole.communicate(timeout=PATIENCE)
        assert (whole.returncode, out) == (0, b"halfhalf")

    @staticmethod
    def download(deployment: Deployment) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*deployment.curl.arguments(), "-N", deployment.curl.url("/trickle?key=rest")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
