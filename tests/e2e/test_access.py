"""Rules behind Access: our connector and a stock cloudflared, and their team's keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from peers.access_team import AUDIENCE, HOST, Team
from peers.edge_stand_in import EdgeStandIn, Link
from peers.http2_client import head
from peers.origin import Origin
from peers.patience import PATIENCE
from peers.processes import ConnectorProcess, Process, running

from underpass.wire.credentials import Credentials, write_credentials_file

HOSTNAME = "closed.example.test"
WEBSOCKET = (b"cf-cloudflared-proxy-connection-upgrade", b"websocket")

T = TypeVar("T")


class Loop:
    """An event loop on a thread of its own, for tests that are not on one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


@dataclass(frozen=True)
class Stage:
    """An edge that passes on what a visitor cannot send, a connector, and the team."""

    team: Team
    connector: Process
    is_ours: bool
    loop: Loop
    link: Link

    def get(
        self, *tokens: str, path: bytes = b"/hello", more: tuple[tuple[bytes, bytes], ...] = ()
    ) -> tuple[int, bytes]:
        """Status and content of the answer."""
        fields = [(b"cf-access-jwt-assertion", token.encode()) for token in tokens]

        async def ask() -> tuple[int, bytes]:
            request = head(b"GET", HOSTNAME.encode(), path, *more, *fields)
            stream = await (await self.link.request(request)).finished()
            return stream.status, bytes(stream.data)

        return self.loop.run(ask())


def begin(name: str, files: Path, edge: EdgeStandIn, team: Team) -> Process:
    arguments = [f"--config={files / 'config.yml'}", *edge.arguments]
    if name == "underpass":
        return ConnectorProcess(
            [*arguments, "--ha-connections=1", "run"], environment=team.environment
        )
    return Process(
        [
            *(os.environ["UNDERPASS_CLOUDFLARED"], "tunnel", "--output=json"),
            *("--no-autoupdate", "--no-prechecks", "--protocol=http2", "--metrics=127.0.0.1:0"),
            *(*arguments, "--grace-period=1s", "run"),
        ],
        team.environment,
    )


def configuration(files: Path, origin: Origin) -> str:
    credentials = Credentials("account", os.urandom(32), uuid.uuid4())
    write_credentials_file(files / "credentials.json", credentials)
    access = {"required": True, "teamName": "team", "audTag": ["other", AUDIENCE]}
    return yaml.safe_dump(
        {
            "tunnel": str(credentials.tunnel_id),
            "credentials-file": str(files / "credentials.json"),
            "ingress": [
                {"path": "^/open$", "service": "http_status:204"},
                {
                    "hostname": HOSTNAME,
                    "service": origin.url,
                    "originRequest": {"access": access},
                },
                {"service": "http_status:404"},
            ],
        }
    )


@pytest.fixture(
    scope="module",
    params=["underpass", pytest.param("cloudflared", marks=pytest.mark.interop)],
)
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    is_ours = request.param == "underpass"
    if not is_ours and not os.environ.get("UNDERPASS_CLOUDFLARED"):
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    files = tmp_path_factory.mktemp("access")
    edge = EdgeStandIn(files)
    listening = edge.listening()
    with contextlib.ExitStack() as stack:
        loop = Loop()
        stack.callback(loop.close)
        loop.run(listening.__aenter__())
        stack.callback(lambda: loop.run(listening.__aexit__(None, None, None)))
        origin = stack.enter_context(Origin())
        team = stack.enter_context(Team(files).serving())
        (files / "config.yml").write_text(configuration(files, origin))
        connector = begin(request.param, files, edge, team)
        stack.enter_context(running(connector))
        link = loop.run(edge.registered_link())
        yield Stage(team, connector, is_ours, loop, link)


def test_a_good_token_opens(stage: Stage) -> None:
    token = stage.team.sign()
    assert stage.get(token) == (200, b"hello\n")
    # The application gets it too, to know who comes.
    assert token.encode() in stage.get(token, path=b"/shown")[1]


def test_a_request_without_a_token_is_refused(stage: Stage) -> None:
    status, body = stage.get()
    assert status == 403
    assert body != b"hello\n"


def test_a_rule_without_access_is_open(stage: Stage) -> None:
    assert stage.get(path=b"/open")[0] == 204


@pytest.mark.parametrize(
    ("claims", "theirs"),
    [
        pytest.param({"aud": ["elsewhere"]}, 403, id="audience"),
        pytest.param({"aud": None}, 403, id="no audience"),
        pytest.param({"exp": 1}, 502, id="expired"),
        pytest.param({"exp": None}, 502, id="never expires"),
        pytest.param({"iss": f"https://{HOST}.evil.example"}, 502, id="issuer"),
        pytest.param({"nbf": 1 << 40}, 502, id="not yet"),
    ],
)
def test_claims_that_do_not_hold(stage: Stage, claims: dict[str, object], theirs: int) -> None:
    # A token that proves nothing is no trouble with the application: wilfully different.
    assert stage.get(stage.team.sign(**claims))[0] == (403 if stage.is_ours else theirs)


def test_an_audience_may_be_a_single_text(stage: Stage) -> None:
    assert stage.get(stage.team.sign(aud=AUDIENCE))[0] == 200


def test_a_clock_that_is_ahead_a_little_is_forgiven(stage: Stage) -> None:
    assert stage.get(stage.team.sign(nbf=int(time.time()) + 200))[0] == 200


@pytest.mark.parametrize("text", ["nonsense", "a.b.c", "e30.e30.", "eyJhbGciOiJub25lIn0.e30."])
def test_what_is_no_token(stage: Stage, text: str) -> None:
    assert stage.get(text)[0] == (403 if stage.is_ours else 502)


def test_a_signature_of_another_payload(stage: Stage) -> None:
    start, _, signature = stage.team.sign().split(".")
    _, payload, _ = stage.team.sign(email="root@example.com").split(".")
    assert stage.get(f"{start}.{payload}.{signature}")[0] == (403 if stage.is_ours else 502)


def test_two_tokens_are_one_too_many(stage: Stage) -> None:
    # Stock connectors look at the first, and an application may look at the other.
    assert stage.get(stage.team.sign(), "nonsense")[0] == (403 if stage.is_ours else 200)


def test_a_websocket_is_asked_too(stage: Stage) -> None:
    assert stage.get(more=(WEBSOCKET, (b"sec-websocket-key", b"A" * 22 + b"==")))[0] == 403


def test_keys_are_fetched_once_for_many_requests(stage: Stage) -> None:
    assert stage.get(stage.team.sign())[0] == 200
    fetched = stage.team.fetches
    assert [stage.get(stage.team.sign(n=number))[0] for number in range(5)] == [200] * 5
    assert stage.team.fetches == fetched


def test_reasons_are_logged_and_tokens_are_not(stage: Stage) -> None:
    if not stage.is_ours:
        pytest.skip("what another program logs is its own affair")
    token = stage.team.sign(exp=1)
    stage.get(token)
    line = stage.connector.wait_for(
        "Request refused", error="the Access token is refused: it has expired"
    )
    assert (line["cause"], line["status"], line["host"]) == ("access_denied", 403, HOSTNAME)
    assert token not in stage.connector.log


# What changes the team's keys comes last.


def test_new_keys_are_found_when_a_token_names_one(stage: Stage) -> None:
    before = stage.team.sign()
    assert stage.get(before)[0] == 200
    if stage.is_ours:
        pytest.skip("asked again only after a while: see the unit tests")
    stage.team.rotate()
    assert stage.get(stage.team.sign())[0] == 200
