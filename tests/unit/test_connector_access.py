"""Access tokens: what proves something, when keys are asked for, and what waits for them."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey
from rig.http2 import RawClient
from rig.transport import ManualLoop

from underpass.connector import access_keys
from underpass.connector.access_keys import (
    MAX_DOCUMENT,
    MIN_REFRESH_SECONDS,
    REFRESH_SECONDS,
    AccessKeys,
    KeysError,
    fetch_keys,
)
from underpass.connector.origin_request import AccessRequirement
from underpass.connector.services import protected
from underpass.connector.services.protected import (
    MAX_REMEMBERED,
    AccessVerifier,
    ProtectedService,
    issuer_of,
)
from underpass.core.relay import Counters
from underpass.core.tunnel import OriginAcceptor, OriginExchange
from underpass.wire.access_token import (
    MAX_KEYS,
    MAX_TOKEN,
    TokenError,
    UnknownKeyError,
    parse_keys,
    read_token,
)

ISSUER = "https://team.cloudflareaccess.com"
NOW = 1_800_000_000.0
GOOD = {"iss": ISSUER, "aud": ["tag"], "exp": NOW + 60}

KEY = RSAKey.generate_key(2048)
OTHER = RSAKey.generate_key(2048)


def sign(claims: object = GOOD, key: Any = KEY, key_id: str = "one", **header: Any) -> bytes:
    registry = jws.JWSRegistry(algorithms=["RS256", "ES256", "HS256"], strict_check_header=False)
    head = {"alg": "RS256", "kid": key_id, **header}
    return jws.serialize_compact(head, json.dumps(claims).encode(), key, registry=registry).encode()


def document(**keys: Any) -> bytes:
    return json.dumps(
        {"keys": [{**key.as_dict(private=False), "kid": name} for name, key in keys.items()]}
    ).encode()


class TestTokens:
    def test_a_good_one(self) -> None:
        claims = read_token(sign()).verified([("one", KEY)], ISSUER, NOW)
        assert claims.audiences == {"tag"}

    def test_without_a_key_id_every_key_is_tried(self) -> None:
        text = jws.serialize_compact({"alg": "RS256"}, json.dumps(GOOD).encode(), KEY).encode()
        assert read_token(text).verified([("two", OTHER), ("one", KEY)], ISSUER, NOW)

    @pytest.mark.parametrize("keys", [[], [("one", OTHER)], [("two", KEY)]])
    def test_no_key_vouches_for_it(self, keys: list[tuple[str, RSAKey]]) -> None:
        with pytest.raises(UnknownKeyError):
            read_token(sign()).verified(keys, ISSUER, NOW)

    @pytest.mark.parametrize(
        ("claims", "why"),
        [
            ({**GOOD, "exp": NOW}, "expired"),
            ({**GOOD, "iss": "https://other.cloudflareaccess.com"}, "not from"),
            ({**GOOD, "nbf": NOW + 301}, "not valid yet"),
            ({"iss": ISSUER, "aud": "tag"}, "cannot be read"),
            ({**GOOD, "exp": "soon"}, "cannot be read"),
            ([], "cannot be read"),
        ],
    )
    def test_claims_that_do_not_hold(self, claims: object, why: str) -> None:
        with pytest.raises(TokenError, match=why):
            read_token(sign(claims)).verified([("one", KEY)], ISSUER, NOW)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"...",
            b"a.b.c",
            b"\xff.\xfe.\xfd",
            b"bnVsbA.e30.e30",
            b"W10.e30.e30",
            sign(key=ECKey.generate_key("P-256"), alg="ES256"),
            sign(crit=["b64"], b64=True),
            sign()[:60],
        ],
    )
    def test_what_is_no_token(self, text: bytes) -> None:
        with pytest.raises(TokenError):
            read_token(text)

    def test_no_algorithm_is_the_senders_choice(self) -> None:
        """Neither none, nor a MAC with the public key as its secret."""
        with pytest.raises(TokenError, match="RS256"):
            read_token(b"eyJhbGciOiJub25lIn0.e30.")
        with pytest.raises(TokenError, match="RS256"):
            read_token(b"eyJhbGciOiJIUzI1NiJ9.e30.AAAA")

    def test_the_bound_on_its_length(self) -> None:
        with pytest.raises(TokenError, match=str(MAX_TOKEN)):
            read_token(b"a" * (MAX_TOKEN + 1))


class TestKeySets:
    def test_keys_that_can_sign_are_taken(self) -> None:
        keys = parse_keys(document(one=KEY, two=ECKey.generate_key("P-256"), three=OTHER))
        assert [name for name, _ in keys] == ["one", "three"]

    def test_an_entry_that_cannot_be_read_is_left_out(self) -> None:
        found = json.loads(document(one=KEY))
        found["keys"][:0] = [{"kty": "RSA", "n": "!", "e": "!"}, {"kty": "RSA"}, {}]
        assert [name for name, _ in parse_keys(json.dumps(found).encode())] == ["one"]

    def test_a_private_key_is_no_reason_to_stop(self) -> None:
        found = {"keys": [{**KEY.as_dict(private=False), "kid": "one", "use": "enc"}]}
        with pytest.raises(ValueError, match="no RSA key"):
            parse_keys(json.dumps(found).encode())

    @pytest.mark.parametrize(
        "text", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [1]}', b"<html>"]
    )
    def test_what_is_no_key_set(self, text: bytes) -> None:
        with pytest.raises(ValueError, match=r"\S"):
            parse_keys(text)

    def test_the_bound_on_keys(self) -> None:
        entry = json.loads(document(one=KEY))["keys"]
        assert len(parse_keys(json.dumps({"keys": entry * (MAX_KEYS + 1)}).encode())) == MAX_KEYS


@contextmanager
def serving(status: int, body: bytes, *fields: tuple[str, str]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/certs"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class TestFetching:
    def test_a_key_set(self) -> None:
        with serving(200, document(one=KEY)) as url:
            assert [name for name, _ in fetch_keys(url)] == ["one"]

    @pytest.mark.parametrize(
        ("status", "body", "fields", "why"),
        [
            (404, b"", (), "answers 404; is teamName right"),
            (200, b"<html>", (), "does not answer with a key set"),
            (302, b"", (("Location", "http://127.0.0.1:1/"),), "answers 302"),
            (200, b" " * (MAX_DOCUMENT + 1), (), "longer than"),
        ],
    )
    def test_what_can_go_wrong(
        self, status: int, body: bytes, fields: tuple[tuple[str, str], ...], why: str
    ) -> None:
        with serving(status, body, *fields) as url, pytest.raises(KeysError, match=why):
            fetch_keys(url)

    def test_nobody_is_there(self) -> None:
        with pytest.raises(KeysError, match="cannot be asked"):
            fetch_keys("http://127.0.0.1:1/")


class Bench:
    """Keys that a test hands out, on a clock of the test's, and requests to a protected service."""

    def __init__(self) -> None:
        self.now = 0.0
        self.fetches = 0
        self.found: list[tuple[str, RSAKey]] | KeysError = [("one", KEY)]
        self.gate = threading.Event()
        self.gate.set()
        self.keys = AccessKeys(ISSUER, fetch=self._fetch, clock=lambda: self.now)
        self.verifier = AccessVerifier(self.keys, clock=lambda: NOW)
        self.service = ProtectedService(
            self, AccessRequirement("team", ("tag", "other"), ""), self.verifier
        )
        self.counters = Counters()
        self.failures: list[str] = []
        acceptor = OriginAcceptor(
            self.service.forward,
            self.counters,
            None,
            b"connector",
            on_failure=lambda exchange, status, cause: self.failures.append(cause),
        )
        self._client = RawClient.over(ManualLoop(), acceptor)
        self._stream = -1

    # The service behind.

    is_busy = False

    def forward(self, exchange: OriginExchange) -> None:
        exchange.respond(200, ())

    def close(self) -> None:
        """There is nothing to close."""

    def ask(self, *tokens: bytes) -> None:
        self._stream += 2
        fields = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"app.example.test"),
            (b":path", b"/"),
            *((b"cf-access-jwt-assertion", token) for token in tokens),
        ]
        self._client.feed(self._client.peer.headers(self._stream, fields, end=True))

    @property
    def answered(self) -> dict[int, int]:
        """{status: count} so far."""
        return self.counters.statuses()

    async def settled(self) -> None:
        """Nobody waits for keys any more."""
        while self.verifier.waiting:
            await asyncio.gather(*self.verifier._waiting)

    def _fetch(self, url: str) -> list[tuple[str, RSAKey]]:
        assert url == f"{ISSUER}/cdn-cgi/access/certs"
        assert self.gate.wait(20)
        self.fetches += 1
        if isinstance(self.found, KeysError):
            raise self.found
        return self.found


def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(Bench()), 30)

    asyncio.run(main())


class TestProtection:
    def test_keys_are_fetched_when_first_needed_and_kept(self) -> None:
        async def scenario(bench: Bench) -> None:
            bench.ask()
            assert (bench.answered, bench.fetches) == ({403: 1}, 0)
            bench.ask(sign())
            await bench.settled()
            bench.ask(sign({**GOOD, "n": 2}))
            assert (bench.answered, bench.fetches) == ({200: 2, 403: 1}, 1)

        run(scenario)

    def test_all_who_come_meanwhile_wait_for_the_same_fetch(self) -> None:
        async def scenario(bench: Bench) -> None:
            bench.gate.clear()
            for number in range(5):
                bench.ask(sign({**GOOD, "n": number}))
            assert (bench.answered, bench.verifier.waiting) == ({}, 5)
            assert bench.service.is_busy
            bench.gate.set()
            await bench.settled()
            assert (bench.answered, bench.fetches) == ({200: 5}, 1)

        run(scenario)

    @pytest.mark.parametrize(
        "token", [sign({**GOOD, "aud": ["elsewhere"]}), sign({**GOOD, "exp": 1}), b"nonsense"]
    )
    def test_what_proves_nothing_is_refused(self, token: bytes) -> None:
        async def scenario(bench: Bench) -> None:
            bench.ask(token)
            await bench.settled()
            assert (bench.answered, bench.failures) == ({403: 1}, ["access_denied"])

        run(scenario)

    def test_more_than_one_token_is_refused(self) -> None:
        async def scenario(bench: Bench) -> None:
            bench.ask(sign(), sign())
            assert (bench.answered, bench.fetches) == ({403: 1}, 0)

        run(scenario)

    def test_new_keys_are_found_but_not_asked_for_all_the_time(self) -> None:
        async def scenario(bench: Bench) -> None:
            bench.ask(sign())
            await bench.settled()
            bench.found = [("two", OTHER)]
            new = sign(key=OTHER, key_id="two")
            bench.ask(new)
            assert (bench.answered, bench.fetches) == ({200: 1, 403: 1}, 1)
            bench.now += MIN_REFRESH_SECONDS
            bench.ask(new)
            await bench.settled()
            assert (bench.answered, bench.fetches) == ({200: 2, 403: 1}, 2)
            # The old key is not to be had any more, so what it signed proves nothing.
            bench.ask(sign())
            assert bench.answered == {200: 2, 403: 2}

        run(scenario)

    def test_keys_grow_old_and_serve_while_new_ones_are_fetched(self) -> None:
        async def scenario(bench: Bench) -> None:
            bench.ask(sign())
            await bench.settled()
            bench.now += REFRESH_SECONDS
            bench.gate.clear()
            bench.ask(sign({**GOOD, "n": 2}))
            assert bench.answered == {200: 2}
            bench.gate.set()
            await bench.settled()
            assert bench.fetches == 2

        run(scenario)

    def test_keys_that_cannot_be_fetched_again_are_kept(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario(bench: Bench) -> None:
            bench.ask(sign())
            await bench.settled()
            bench.now += REFRESH_SECONDS
            bench.found = KeysError("nobody is there")
            bench.ask(sign({**GOOD, "n": 2}))
            await bench.settled()
            bench.ask(sign({**GOOD, "n": 3}))
            assert (bench.answered, bench.fetches) == ({200: 3}, 2)

        run(scenario)
        assert caplog.records[-1].error == "nobody is there"  # type: ignore[attr-defined]

    def test_without_keys_nothing_is_served(self) -> None:
        async def scenario(bench: Bench) -> None:
            bench.found = KeysError("nobody is there")
            bench.ask(sign())
            await bench.settled()
            # Not asked again at once, but not refused for that either.
            bench.ask(sign())
            await bench.settled()
            assert (bench.answered, bench.fetches) == ({502: 2}, 1)
            assert bench.failures == ["access_keys", "access_keys"]

        run(scenario)

    def test_a_token_seen_before_is_not_verified_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(bench: Bench) -> None:
            bench.ask(sign())
            await bench.settled()
            token = sign()
            bench.ask(token)
            monkeypatch.setattr(protected, "read_token", None)
            bench.ask(token)
            assert bench.answered == {200: 3}

        run(scenario)

    def test_what_is_remembered_ends_with_the_token_and_with_the_keys(self) -> None:
        async def scenario(bench: Bench) -> None:
            bench.ask(token := sign())
            await bench.settled()
            assert bench.verifier.recall(token) is not None
            bench.verifier._clock = lambda: NOW + 60
            assert bench.verifier.recall(token) is None
            bench.verifier._clock = lambda: NOW
            bench.now += MIN_REFRESH_SECONDS
            bench.found = [("two", OTHER)]
            await bench.keys.refresh()
            assert bench.verifier.recall(token) is None

        run(scenario)

    def test_the_bounds_on_what_is_remembered_and_on_who_waits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(bench: Bench) -> None:
            bench.gate.clear()
            monkeypatch.setattr(protected, "MAX_WAITING", 2)
            monkeypatch.setattr(protected, "MAX_REMEMBERED", 2)
            for number in range(3):
                bench.ask(sign({**GOOD, "n": number}))
            assert bench.failures == ["access_keys"]
            bench.gate.set()
            await bench.settled()
            bench.ask(sign({**GOOD, "n": 4}))
            assert (bench.answered, len(bench.verifier._remembered)) == ({200: 3, 502: 1}, 1)

        assert MAX_REMEMBERED > 2
        run(scenario)

    def test_who_waits_at_the_end_is_answered(self) -> None:
        async def scenario(bench: Bench) -> None:
            bench.gate.clear()
            bench.ask(sign())
            waiting = tuple(bench.verifier._waiting)
            await asyncio.sleep(0)
            bench.verifier.close()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert (bench.answered, bench.failures) == ({502: 1}, ["access_keys"])
            bench.gate.set()

        run(scenario)

    def test_a_fetch_that_hangs_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            monkeypatch.setattr(access_keys, "FETCH_TIMEOUT", -1.0)
            bench.gate.clear()
            bench.ask(sign())
            await bench.settled()
            assert bench.failures == ["access_keys"]
            bench.gate.set()

        run(scenario)


@pytest.mark.parametrize(
    ("environment", "issuer"),
    [("", ISSUER), ("fed", "https://team.fed.cloudflareaccess.com")],
)
def test_who_issues_a_teams_tokens(environment: str, issuer: str) -> None:
    assert issuer_of(AccessRequirement("team", (), environment)) == issuer
