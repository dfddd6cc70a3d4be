"""An edge's configuration file, and what changes in it while visitors come."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.owner import Ran, run_command
from peers.patience import PATIENCE, eventually
from peers.processes import UNDERPASS, ConnectorProcess, EdgeProcess, new_tunnel, running

APP, OTHER, BELOW = "app.example.test", "other.example.test", "x.below.example.test"


class Configured:
    """An edge with a file, and a tunnel for three hostnames."""

    def __init__(self, data_dir: Path, origin: Origin, workers: int, text: str = "") -> None:
        self.file = data_dir.parent / "edge.yml"
        self.file.write_text(text)
        credentials = new_tunnel(data_dir, APP, OTHER, "*.below.example.test")
        self.edge = EdgeProcess(
            data_dir,
            more=[
                f"--config={self.file}",
                f"--workers={workers}",
                "--metrics=127.0.0.1:0",
                "--max-body=1kB",
            ],
        )
        self.connector = ConnectorProcess(
            [
                *self.edge.edge_arguments,
                *("run", f"--token={credentials.to_token()}", f"--url={origin.url}"),
            ]
        )
        self._applied = 0

    def curl(self, hostname: str = APP) -> Curl:
        return Curl(self.edge, hostname)

    def write(self, text: str) -> None:
        """Have it read, now."""
        self.file.write_text(text)
        self.edge.signal(signal.SIGHUP)
        self._applied += 1
        self.edge.wait_for("Configuration applied", count=self._applied)


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def configured(
    request: pytest.FixtureRequest, data_dir: Path
) -> Iterator[tuple[Configured, Origin]]:
    with Origin() as origin:
        place = Configured(data_dir, origin, request.param)
        with running(place.connector, place.edge):
            place.connector.ready()
            eventually(lambda: place.curl()("/hello").status == 200, "the tunnel answers")
            yield place, origin


Place = tuple[Configured, Origin]


def test_a_hostname_has_its_own_manners_at_once(configured: Place, tmp_path: Path) -> None:
    place, origin = configured
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "404.html").write_text("Nothing at {{host}}")
    (pages / "5xx.html").write_text("Sorry: {{cause}}")
    upload = tmp_path / "upload"
    upload.write_bytes(b"x" * 3000)
    sent = ("--data-binary", f"@{upload}")
    assert place.curl()("/echo", *sent).status == 413, "as the command line says"

    place.write(f"""
hsts: 60
hostnames:
  {APP}:
    max-body: 5kB
    hsts: 3600
    redirect: true
    timeouts: {{first-byte: 1s}}
    error-pages: {pages}
  "*.below.example.test":
    max-body: 2999
""")
    app, other, below = map(place.curl, (APP, OTHER, BELOW))
    assert app("/echo", *sent).status == 200
    assert [it("/echo", *sent).status for it in (other, below)] == [413, 413]
    assert below("/echo", "--data-binary", "x" * 2000).status == 200
    # Without a length it is counted as it comes.
    chunked = ("-H", "Transfer-Encoding: chunked", "--http1.1")
    assert below("/echo", *chunked, *sent).status == 413
    assert app("/echo", *chunked, *sent).status == 200

    assert app("/hello").header("strict-transport-security") == "max-age=3600"
    assert other("/hello").header("strict-transport-security") == "max-age=60"
    plain = app("/hello", scheme="http")
    assert plain.status == 308
    assert plain.header("strict-transport-security") is None
    assert other("/hello", scheme="http").status == 200

    late = app("/slow?key=never")
    assert (late.status, late.body) == (504, b"Sorry: timeout_first_byte")
    with other.begun("/slow?key=later") as patient:
        origin.wait_for_request("/slow", 2)
        assert app("/slow?key=never").status == 504, "and meanwhile the other has waited as long"
        origin.open_gate("later")
        patient.communicate(timeout=PATIENCE)
        assert patient.returncode == 0


def test_text_is_coded_for_hostnames_that_say_so(configured: Place) -> None:
    place, _ = configured
    place.write(f"max-body: 10kB\nhostnames: {{{APP}: {{compress: true}}}}\n")
    asked = ("--compressed", "--data-binary", "x" * 900)
    app, other = (place.curl(host)("/shown", *asked) for host in (APP, OTHER))
    assert app.header("content-encoding") == "gzip"
    assert other.header("content-encoding") is None
    assert app.json["content"] == other.json["content"] == "x" * 900


def test_not_a_request_is_lost_while_it_changes(configured: Place) -> None:
    place, _ = configured
    with asking(place.curl()) as asked:
        for number in range(1, 6):
            before = asked.count
            place.write(f"hsts: {number}\nhostnames: {{{OTHER}: {{max-body: {number}}}}}\n")
            eventually(lambda seen=before: asked.count >= seen + 3, "visitors come and go")  # type: ignore[misc]
            broken = f"hsts: {number}\nhostnmaes: {{}}\n"
            place.file.write_text(broken)
            place.edge.signal(signal.SIGHUP)
            place.edge.wait_for("Configuration refused", count=number)
            answer = place.curl()("/hello")
            assert answer.header("strict-transport-security") == f"max-age={number}"
    assert set(asked.statuses) == {200}
    refused = place.edge.metric("underpass_configuration_refused", 'source="file"')
    # The watch on the file may have come upon it as well, and must not have taken it for a new one.
    assert refused >= 5
    assert place.edge.metric("underpass_configuration_last_success_timestamp_seconds") > 1e9


def test_what_it_refuses_is_told_with_its_place(configured: Place) -> None:
    place, _ = configured
    place.file.write_text("redirect: true\nhostnames:\n  a.test:\n    timeouts: {idle: 5}\n")
    place.edge.signal(signal.SIGHUP)
    line = place.edge.wait_for("Configuration refused")
    assert f"{place.file}, line 4: hostnames.a.test.timeouts.idle: expected a duration" in str(
        line["error"]
    )
    assert place.curl()("/hello", scheme="http").status == 200, "nothing of it is in force"


def test_a_file_is_watched(configured: Place) -> None:
    place, _ = configured
    place.file.write_text("hsts: 77\n")
    place.edge.wait_for("Configuration applied")
    assert place.curl()("/hello").header("strict-transport-security") == "max-age=77"


def test_what_needs_a_start_is_named_and_the_rest_applied(configured: Place) -> None:
    place, _ = configured
    place.write("hsts: 5\nlocation: fra01\nlisten: {https: '127.0.0.1:1'}\n")
    line = place.edge.wait_for("Some changes take effect with the next start only")
    # The address is given as a flag as well, which goes before the file.
    assert line["settings"] == ["location"]
    answer = place.curl()("/hello")
    assert answer.header("strict-transport-security") == "max-age=5"
    assert str(answer.header("cf-ray")).endswith("-LOCAL01")


class TestValidate:
    def test_a_good_file(self, tmp_path: Path) -> None:
        (tmp_path / "edge.yml").write_text("redirect: true\n")
        ran = validate(tmp_path / "edge.yml")
        assert (ran.code, ran.out) == (0, f"{tmp_path}/edge.yml is good\n")

    def test_a_bad_one(self, tmp_path: Path) -> None:
        (tmp_path / "edge.yml").write_text("redirect: true\nwokers: 2\n")
        ran = validate(tmp_path / "edge.yml")
        assert ran.code == 1
        assert "line 2: wokers: unknown key; did you mean 'workers'?" in ran.err

    def test_a_certificate_that_cannot_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "site.pem").write_text("no certificate")
        (tmp_path / "edge.yml").write_text("certificates: [{chain: site.pem}]\n")
        ran = validate(tmp_path / "edge.yml")
        assert ran.code == 1
        assert str(tmp_path / "site.pem") in ran.err


def validate(path: Path) -> Ran:
    return run_command([*UNDERPASS, "edge", "config", "validate", f"--config={path}"])


class Asked:
    """What a visitor who asks all the time has been answered."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    @property
    def count(self) -> int:
        return len(self.statuses)


@contextmanager
def asking(curl: Curl) -> Iterator[Asked]:
    """Ask as fast as it goes, by new connections and by ones that stay."""
    asked, done, failed = Asked(), threading.Event(), []

    def ask() -> None:
        while not done.is_set():
            try:
                answers = curl.several(["/hello"] * 5)
            except (AssertionError, subprocess.SubprocessError) as error:
                failed.append(error)
                return
            asked.statuses.extend(answer.status for answer in answers)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        done.set()
        thread.join(PATIENCE)
    assert not failed, failed
