"""Origins that break the rules: the visitor is told, the log says why, the link serves on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from itertools import count

import pytest
from peers.bad_answers import RAW
from peers.curl import Answer, Curl
from peers.origin import Origin
from peers.patience import eventually
from peers.processes import EdgeProcess, QuickTunnelProcess, running
from peers.stage import Stage

VISITS = [
    pytest.param("http", "--http1.1", id="http-1.1"),
    pytest.param("https", "--http1.1", id="https-1.1"),
    pytest.param("https", "--http2", id="https-2"),
]

NO_ANSWER = [
    "garbage",
    "ssh",
    "http2",
    "nothing",
    "half-a-head",
    "two-lengths",
    "no-number",
    "negative",
    "bare-nul",
    "name-with-space",
    "huge-head",
    "endless-interim",
    "switches-unasked",
    "length-and-chunked",
    "unknown-coding",
]
"""Nothing of these can be passed on."""

BROKEN_OFF = ["too-little", "bad-chunk", "unfinished-chunks", "huge-trailers"]
"""These begin well."""

FINE = {
    "too-much": b"hello",
    "second-answer": b"hello",
    "until-the-end": b"until the connection ends",
}
"""What can be made out of these."""

_numbers = count()


@pytest.fixture(autouse=True)
def _others_on_the_link_go_on(scene: Stage) -> Iterator[None]:
    """A download that began before ends after."""
    key = f"bystander-{next(_numbers)}"
    with scene.curl.begun(f"/trickle?key={key}") as visit:
        assert visit.stdout is not None
        assert visit.stdout.read(4) == b"half"
        yield
        scene.origin.open_gate(key)
        assert visit.stdout.read() == b"half"
        assert visit.wait() == 0
    assert not scene.connector.has_logged("Lost connection")


def test_every_answer_is_looked_at() -> None:
    assert {*NO_ANSWER, *BROKEN_OFF, *FINE} == set(RAW)


def ray_of(answer: Answer) -> str:
    return answer.header("cf-ray") or ""


@pytest.mark.parametrize(("scheme", "version"), VISITS)
@pytest.mark.parametrize("what", NO_ANSWER)
def test_no_answer_at_all(scene: Stage, what: str, scheme: str, version: str) -> None:
    answer = scene.curl(f"/raw/{what}", version, "-H", "Accept: application/json", scheme=scheme)
    assert answer.status == 502
    assert answer.json["type"] == "urn:underpass:error:origin-unreachable"
    causes = (
        ("response_too_large",) if what == "huge-head" else ("protocol_error", "reset_by_origin")
    )
    assert answer.header("underpass-cause") in causes
    assert answer.header("underpass-hop") == "origin"
    line = scene.connector.wait_for("Unable to reach the origin service", cfRay=ray_of(answer))
    assert " " in line["error"]  # words, not only the cause
    assert line["host"].startswith(scene.hostname)


@pytest.mark.parametrize(("scheme", "version"), VISITS)
@pytest.mark.parametrize("what", BROKEN_OFF)
def test_an_answer_that_breaks_off_is_seen_to_break_off(
    scene: Stage, what: str, scheme: str, version: str
) -> None:
    """Never a short content that looks complete."""
    answer = scene.curl(f"/raw/{what}", version, scheme=scheme)
    assert answer.status in (0, 200)
    assert answer.exit_code != 0


@pytest.mark.parametrize(("scheme", "version"), VISITS)
@pytest.mark.parametrize("what", FINE)
def test_what_can_be_made_out_is_passed_on(
    scene: Stage, what: str, scheme: str, version: str
) -> None:
    answer = scene.curl(f"/raw/{what}", version, scheme=scheme)
    assert (answer.status, answer.exit_code, answer.body) == (200, 0, FINE[what])
    # What came behind it is nobody's answer.
    for after in scene.curl.several(["/hello"] * 3, version, scheme=scheme):
        assert after.body == b"hello\n"


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_a_reset_before_the_answer(scene: Stage, scheme: str, version: str) -> None:
    answer = scene.curl("/reset", version, scheme=scheme)
    assert answer.status == 502
    assert answer.header("underpass-cause") == "reset_by_origin"


@pytest.mark.parametrize(("scheme", "version"), VISITS)
def test_a_reset_amid_the_answer(scene: Stage, scheme: str, version: str) -> None:
    key = f"reset-{scheme}{version}"
    with scene.curl.begun(f"/reset?after=head&key={key}", version, scheme=scheme) as visit:
        assert visit.stdout is not None
        assert visit.stdout.read(4) == b"some"
        scene.origin.open_gate(key)
        assert visit.stdout.read() == b""
        assert visit.wait() != 0


def test_a_flood_of_which_nobody_reads_is_held_back(scene: Stage) -> None:
    """An origin may not make the tunnel hold what the visitor does not take."""
    with scene.curl.begun("/flood", "--http1.1", scheme="http") as visit:
        assert visit.stdout is not None
        visit.stdout.read(1_000_000)
        before = memory(scene)
        # The pipe is full, curl is stuck, and so is everybody before it.
        with scene.curl.begun("/flood", "--http2") as other:
            assert other.stdout is not None
            other.stdout.read(100_000)
            for answer in scene.curl.several(["/bytes/1000000"] * 20):
                assert answer.size == 1_000_000
        assert memory(scene) - before < 64 * 1024 * 1024


def memory(scene: Stage) -> int:
    """Resident bytes of edge and connector."""
    total = 0
    for process in (scene.edge, scene.connector):
        with open(f"/proc/{process.pid}/statm") as file:
            total += int(file.read().split()[1]) * 4096
    return total


@contextlib.contextmanager
def published(edge: EdgeProcess, *arguments: str) -> Iterator[tuple[Curl, QuickTunnelProcess]]:
    connector = QuickTunnelProcess(edge, *arguments)
    with running(connector):
        connector.ready()
        yield Curl(edge, connector.hostname), connector


def test_nobody_listens(edge: EdgeProcess) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with published(edge, f"--url=http://{address}") as (curl, connector):
            answer = curl("/", "-d", "content")
            assert answer.status == 502
            line = connector.wait_for("Unable to reach the origin service", status=502)
            assert address in line["error"]
            assert "refused" in line["error"].lower()


def test_a_name_that_does_not_exist(edge: EdgeProcess) -> None:
    with published(edge, "--url=http://no-such-host.invalid:80") as (curl, connector):
        assert curl("/").status == 502
        line = connector.wait_for("Unable to reach the origin service", status=502)
        assert "no-such-host.invalid" in line["error"]


def test_an_origin_that_lets_nobody_in(edge: EdgeProcess) -> None:
    """A full backlog: connecting takes for ever."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        waiting = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        curl, connector = stack.enter_context(
            published(edge, f"--url={url}", "--proxy-connect-timeout=300ms")
        )
        answer = curl("/")
        assert answer.status == 502
        assert answer.header("underpass-cause") == "dial_timeout"
        line = connector.wait_for("Unable to reach the origin service", status=502)
        assert "did not answer within 0.3 s" in line["error"]


def test_a_kept_connection_that_died_meanwhile_is_no_reason_to_fail(edge: EdgeProcess) -> None:
    """Origins close idle connections as they please; requests that may be repeated are."""
    origin = Origin()
    with origin, published(edge, f"--url={origin.url}") as (curl, _):
        assert curl("/hello").status == 200
        for _ in range(10):
            # The origin says keep-alive, answers, and closes.
            assert curl("/closes").status == 200
        eventually(lambda: origin.open_connections <= 2, "most are closed")
        assert curl("/hello").status == 200


def test_an_answer_before_the_question_is_over(scene: Stage) -> None:
    answer = scene.curl("/early", "--http1.1", "-d", "x" * 1000)
    assert (answer.status, answer.body) == (403, b"no\n")
