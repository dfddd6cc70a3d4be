"""The dashboard's pages: who sees what, what forms do, and what they refuse."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from rig.control import BY as _BY
from rig.control import ControlledEdge, Tenant, with_edge
from rig.person import HOST, Person, forms_of, tags_of, text_of

from underpass.edge.accounts import SCOPES
from underpass.edge.api.authorization import GUESSES_AT_ONCE
from underpass.edge.dashboard import sessions as sessions_module
from underpass.edge.dashboard import transfers as transfers_module
from underpass.edge.dashboard.application import PAGES
from underpass.edge.dashboard.sessions import Sessions, SignInLinks
from underpass.edge.dashboard.visits import MAX_FORM_BYTES, MAX_FORM_FIELDS
from underpass.edge.recent import Recent, RequestRecord
from underpass.wire.login_transfer import confirmation_code, is_login_key

Run = Callable[..., None]
COOKIE = "underpass-session"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return partial(with_edge, tmp_path)


def key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def callback(of: str) -> str:
    return f"http://{HOST}/login/transfer/{of}"


async def administrator(edge: ControlledEdge, tenant: Tenant) -> Person:
    """Signed in by a link."""
    person = Person(edge)
    answer = await person.come_by_link(tenant.account)
    assert (answer.status, answer.headers["location"]) == (303, "/dashboard")
    return person


def record(tunnel: str | None = None, **more: Any) -> RequestRecord:
    given: dict[str, Any] = {
        "at": 1_800_000_000.0,
        "method": "GET",
        "host": "app.example.test",
        "path": "/path",
        "status": 200,
        "seconds": 0.0123,
        "request_bytes": 0,
        "response_bytes": 1234,
        "ray": "0123456789abcdef-LOCAL01",
        "attempts": 1,
        "cause": "",
        "hop": "",
        "tunnel_id": None if tunnel is None else UUID(tunnel),
        "connector_id": None,
        "conn_index": 0,
    }
    return RequestRecord(**{**given, **more})


class TestSigningIn:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: " ".join(page[:2]))
    def test_every_page_wants_somebody_who_is_signed_in(self, run: Run, page: Any) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            method, path, _ = page
            path = re.sub(r"\{\w+\}", "x", path)
            for cookies in ({}, {COOKIE: "0" * 64}, {COOKIE: "../../etc/passwd"}):
                answer = await Person(edge, cookies).ask(method, path)
                assert answer.status == 303
                assert answer.headers["location"].startswith("/dashboard/sign-in")

        run(scenario)

    def test_a_live_part_sends_the_whole_browser_there(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            answer = await Person(edge).ask("GET", "/dashboard", headers={"hx-request": "true"})
            assert (answer.status, answer.headers["hx-redirect"]) == (401, "/dashboard/sign-in")

        run(scenario)

    def test_a_token_opens_a_session_with_what_the_token_may(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            person = Person(edge)
            answer = await person.sign_in(tenant.token)
            assert (answer.status, answer.headers["location"]) == (303, "/dashboard")
            cookie = answer.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert "path=/" in cookie
            assert "domain" not in cookie
            assert "secure" not in cookie, "it did not come over TLS"
            assert "ada" in text_of(await person("/dashboard"))
            page = await person("/dashboard/tokens")
            assert "Make a token" not in text_of(page)
            refused = await person.ask(
                "POST", "/dashboard/tokens", [*_token_of(page), ("name", "more")]
            )
            assert refused.status == 403
            assert "without the scope 'tokens'" in text_of(refused)
            assert (await edge.actions())[-1] == "session.open"

        run(scenario)

    def test_a_session_knows_nothing_of_a_wrong_token(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            wrong = tenant.token[:-1] + ("0" if tenant.token[-1] != "0" else "1")
            person = Person(edge)
            for token in (wrong, "", "up_", "x" * 5000):
                answer = await person.sign_in(token)
                assert answer.status == 401
                assert "set-cookie" not in answer.headers
            for _ in range(GUESSES_AT_ONCE - 4):
                assert (await person.sign_in(wrong)).status == 401
            answer = await person.sign_in(wrong)
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) > 0
            assert (await person.sign_in(tenant.token)).status == 303, "whoever has one comes in"

        run(scenario)

    def test_a_session_ends_with_its_token(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            for end in ("revoke", "rotate", "expire"):
                more = {}
                if end == "expire":
                    more["expires_at"] = datetime.now(timezone.utc) + timedelta(hours=1)
                tenant = await edge.tenant(end, **more)
                person = Person(edge)
                await person.sign_in(tenant.token)
                assert (await person.ask("GET", "/dashboard")).status == 200
                token_id = tenant.token.split("_")[1]
                accounts = edge.control.accounts
                if end == "revoke":
                    await accounts.revoke_token(token_id, _BY)
                elif end == "rotate":
                    await accounts.rotate_token(token_id, _BY, hours=0)
                else:
                    late = Sessions(
                        edge.parts.sessions,
                        edge.registry,
                        clock=lambda: datetime.now(timezone.utc) + timedelta(hours=2),
                    )
                    assert late.find(person.cookies[COOKIE]) is None
                    continue
                assert (await person.ask("GET", "/dashboard")).status == 303, end

        run(scenario)

    def test_a_link_works_once_and_for_whoever_sends_its_form(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            secret = SignInLinks(edge.parts.sign_in_links).make(tenant.account)
            address = f"/dashboard/sign-in?link={secret}"
            for _ in range(3):
                page = await Person(edge)(address)
                assert "It works once" in text_of(page), "looking at it does not use it up"
            person = Person(edge)
            page = await person(address)
            assert (await person.send(page, "/dashboard/sign-in")).status == 303
            again = await Person(edge).send(page, "/dashboard/sign-in")
            assert again.status == 403
            assert (await Person(edge)(address)).status == 403
            assert not list(edge.parts.sign_in_links.iterdir())

        run(scenario)

    def test_a_link_does_not_wait_for_ever(self, tmp_path: Path, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            links = SignInLinks(tmp_path / "links", clock=edge.clock)
            secret = links.make(tenant.account)
            edge.clock.pass_(minutes=sessions_module.LINK_MINUTES - 0.1)
            assert links.find(secret) is not None
            edge.clock.pass_(minutes=0.2)
            assert links.use(secret) is None

        run(scenario)

    def test_guessing_links_is_slowed_down(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            statuses = [
                (await Person(edge).ask("GET", f"/dashboard/sign-in?link={'0' * 64}")).status
                for _ in range(GUESSES_AT_ONCE + 1)
            ]
            assert statuses == [403] * GUESSES_AT_ONCE + [429]

        run(scenario)

    def test_signing_in_leads_back_to_pages_here_and_nowhere_else(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            for wanted, led in (
                ("/dashboard/tunnels", "/dashboard/tunnels"),
                ("/login?callback=x", "/login?callback=x"),
                ("https://evil.example/", "/dashboard"),
                ("//evil.example/dashboard", "/dashboard"),
                ("/dashboard\\@evil.example", "/dashboard"),
                ("/\\evil.example", "/dashboard"),
                ("/dashboard/\r\nset-cookie: a=b", "/dashboard"),
                ("javascript:alert(1)", "/dashboard"),
            ):
                person = Person(edge)
                page = await person(f"/dashboard/sign-in?next={quote(wanted)}")
                answer = await person.send(page, "/dashboard/sign-in", ("token", tenant.token))
                assert answer.headers["location"] == led
                sent = await Person(edge).sign_in(tenant.token, next=wanted)
                assert sent.headers["location"] == led

        run(scenario)

    def test_a_session_that_somebody_else_has_set_is_none(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            fixed = "ab" * 32
            person = Person(edge, {COOKIE: fixed})
            await person.sign_in(tenant.token)
            assert person.cookies[COOKIE] != fixed
            assert (await Person(edge, {COOKIE: fixed}).ask("GET", "/dashboard")).status == 303
            first = person.cookies[COOKIE]
            await person.sign_in(tenant.token)
            assert person.cookies[COOKIE] != first, "another one with every signing in"
            assert (await Person(edge, {COOKIE: first}).ask("GET", "/dashboard")).status == 303

        run(scenario)

    def test_signing_out_ends_it_for_the_edge_too(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            copied = Person(edge, dict(person.cookies))
            page = await person("/dashboard")
            await person.send(page, "/dashboard/sign-out")
            assert person.cookies == {}
            assert (await copied.ask("GET", "/dashboard")).status == 303
            assert (await edge.actions())[-1] == "session.close"

        run(scenario)

    def test_sessions_survive_a_restart_and_are_bounded(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 3)
            tenant = await edge.tenant("ada")
            sessions = Sessions(edge.parts.sessions, edge.registry)
            secrets = [sessions.open(tenant.account, None) for _ in range(5)]
            afresh = Sessions(edge.parts.sessions, edge.registry)
            known = [afresh.find(secret) is not None for secret in secrets]
            assert known == [False, False, True, True, True]
            names = [path.name for path in edge.parts.sessions.iterdir()]
            assert len(names) == 3
            assert not any(secret in " ".join(names) for secret in secrets)
            if os.name == "posix":
                assert all(
                    path.stat().st_mode & 0o077 == 0 for path in edge.parts.sessions.iterdir()
                )

        run(scenario)


class TestForms:
    def test_a_form_of_another_site_is_refused(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            page = await person("/dashboard/tunnels")
            fields = [*_token_of(page), ("name", "web")]
            for headers in (
                {"origin": "https://evil.example"},
                {"origin": "null"},
                {"origin": ""},
                {"origin": f"http://{HOST}.evil.example"},
                {"sec-fetch-site": "cross-site"},
                {"sec-fetch-site": "same-site"},
                {"sec-fetch-site": "none"},
            ):
                answer = await person.ask("POST", "/dashboard/tunnels", fields, headers=headers)
                assert answer.status == 403, headers
            assert not list(edge.registry.tunnels_of((await _account(edge)).id))
            good = {"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"}
            answer = await person.ask("POST", "/dashboard/tunnels", fields, headers=good)
            assert answer.status == 303

        run(scenario)

    @pytest.mark.parametrize("given", [[], [("form_token", "")], [("form_token", "é" * 64)]])
    def test_a_form_without_the_session_s_token_is_refused(self, run: Run, given: Any) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            stranger = await administrator(edge, await edge.tenant("eve"))
            other = _token_of(await stranger("/dashboard"))
            for fields in (given, other, [*other, *_token_of(await person("/dashboard"))]):
                answer = await person.ask("POST", "/dashboard/tunnels", [*fields, ("name", "web")])
                assert answer.status == 403

        run(scenario)

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            (b"a=" + b"b" * MAX_FORM_BYTES, "application/x-www-form-urlencoded", 413),
            (b"a=b&" * (MAX_FORM_FIELDS + 1), "application/x-www-form-urlencoded", 400),
            (b"name=%ff%fe", "application/x-www-form-urlencoded", 400),
            (b"name=\xff", "application/x-www-form-urlencoded", 400),
            (b'{"name": "web"}', "application/json", 415),
            (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x", 415),
            (b"", "", 415),
        ],
        ids=["large", "fields", "encoding", "bytes", "json", "multipart", "none"],
    )
    def test_a_form_that_is_none_changes_nothing(
        self, run: Run, body: bytes, kind: str, status: int
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            before = await edge.store.snapshot()
            for target in ("/dashboard/tunnels", "/dashboard/sign-in", "/login"):
                answer = await person.ask("POST", target, body, kind=kind)
                assert answer.status == status
                assert "Nothing was changed" in text_of(answer)
            assert await edge.store.snapshot() == before

        run(scenario)

    def test_every_answer_is_protected(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            for target in (
                *("/dashboard", "/dashboard/tunnels", "/dashboard/tokens", "/dashboard/nothing"),
                *("/dashboard/sign-in", "/login", "/login/transfer/x"),
                *("/dashboard/requests", "/dashboard/audit", "/dashboard/certificates"),
                f"/dashboard/tunnels/{uuid4()}",
            ):
                answer = await person.ask("GET", target)
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'none'; ")
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["x-frame-options"] == "DENY"

        run(scenario)

    def test_pages_have_no_script_of_their_own_and_name_their_fields(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada", "example.test")
            tunnel = await tenant.tunnel("web")
            edge.link(tunnel)
            person = await administrator(edge, tenant)
            for target in (
                *("/dashboard", "/dashboard/tunnels", f"/dashboard/tunnels/{tunnel}"),
                *("/dashboard/hostnames", "/dashboard/requests", "/dashboard/tokens"),
                *("/dashboard/certificates", "/dashboard/audit"),
                f"/login?callback={quote(callback(key()))}",
            ):
                page = await person(target)
                assert page.status == 200
                html = page.body.decode()
                assert tags_of(page).count("script") == 1
                assert not re.search(r"<[^>]*\s(on\w+|style)=", html)
                assert "javascript:" not in html
                named = set(re.findall(r'<label for="(\w+)"', html))
                for field in re.findall(r"<(?:input|select) ([^>]*)>", html):
                    if "hidden" in field or "checkbox" in field:
                        continue
                    found = re.search(r'id="(\w+)"', field)
                    assert found is not None, field
                    assert found[1] in named, field
                for form in forms_of(page):
                    assert "form_token" in dict(form.fields), form

        run(scenario)

    def test_files_are_those_that_there_are(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = Person(edge)
            for name, kind in (
                ("style.css", "text/css"),
                ("htmx-2.0.11.min.js", "text/javascript"),
            ):
                answer = await person.ask("GET", f"/dashboard/static/{name}")
                assert answer.status == 200
                assert answer.headers["content-type"].startswith(kind)
            for name in ("..%2fparts.py", "nothing", "style.css%00"):
                assert (await person.ask("GET", f"/dashboard/static/{name}")).status == 404

        run(scenario)


class TestTunnels:
    def test_made_shown_run_and_ended(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada", "example.test")
            person = await administrator(edge, tenant)
            page = await person("/dashboard/tunnels")
            made = await person.send(page, "/dashboard/tunnels", ("name", "web"))
            address = made.headers["location"]
            tunnel = address.rpartition("/")[2]
            page = await person(address)
            assert "No connector is connected" in text_of(page)

            answer = await person.send(page, "/dashboard/hostnames", ("hostname", "App"))
            assert answer.headers["location"] == address
            assert "app.example.test" in text_of(await person("/dashboard/hostnames"))

            run_page = await person.send(page, f"{address}/token")
            token = (await tenant("GET", f"cfd_tunnel/{tunnel}/token")).result
            assert run_page.headers["cache-control"] == "no-store"
            assert f"--token {token}" in text_of(run_page)
            assert "--cacert ca.pem" in text_of(run_page)

            link = edge.link(tunnel)
            page = await person(address)
            assert "2026.8.2 linux_amd64" in text_of(page)
            assert "192.0.2.7" in text_of(page)
            answer = await person.send(
                page, f"{address}/connections", ("client_id", str(link.connector_id))
            )
            assert answer.status == 303
            assert edge.closed == [(UUID(tunnel), link.connector_id)]

            refused = await person.send(page, f"{address}/delete")
            assert refused.status == 400
            assert "has 1 connections" in text_of(refused)
            answer = await person.send(page, f"{address}/delete", ("cascade", "yes"))
            assert answer.headers["location"] == "/dashboard/tunnels"
            assert edge.registry.tunnel(UUID(tunnel)) is None
            assert (await person(address)).status == 404

            by = {
                record.entry.actor
                for record in await edge.audit()
                if "tunnel" in record.entry.action
            }
            (author,) = by - {f"token {tenant.token.split('_')[1]}"}
            assert re.fullmatch(r"session [0-9a-f]{8} by link", author)

        run(scenario)

    def test_a_hostname_of_several_tunnels_shows_all(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada", "example.test")
            first, second = await tenant.tunnel("first"), await tenant.tunnel("second")
            targets = [{"tunnel_id": first, "weight": 3}, {"tunnel_id": second, "weight": 1}]
            assert (
                await tenant.zone("PUT", "hostnames/app.example.test", {"targets": targets})
            ).result
            person = await administrator(edge, tenant)
            text = text_of(await person("/dashboard/hostnames"))
            assert "first weight 3" in text
            assert "second weight 1" in text
            page = await person(f"/dashboard/tunnels/{second}")
            assert "among 2 tunnels" in text_of(page)
            await person.send(page, "/dashboard/hostnames/delete")
            route = edge.registry.route("app.example.test")
            assert route is not None
            assert [str(target.tunnel_id) for target in route.targets] == [first]
            page = await person("/dashboard/hostnames")
            await person.send(page, "/dashboard/hostnames/delete")
            assert edge.registry.route("app.example.test") is None

        run(scenario)

    def test_a_connector_is_drained_and_let_back_in(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            tunnel = await tenant.tunnel("web")
            link = edge.link(tunnel)
            person = await administrator(edge, tenant)
            at = f"/dashboard/tunnels/{tunnel}"
            page = await person(at)
            assert "Send it nothing new" in text_of(page)
            assert (await person.send(page, f"{at}/drain")).headers["location"] == at
            page = await person(at)
            assert "Drained : it gets nothing new" in text_of(page)
            assert (await person.send(page, f"{at}/drain")).status == 303
            assert "Drained" not in text_of(await person(at))
            assert (await edge.actions())[-2:] == ["tunnel.drain", "tunnel.undrain"]
            unknown = [*_token_of(page), ("client_id", "x")]
            assert (await person.ask("POST", f"{at}/drain", unknown)).status == 400
            assert link.connector_id

        run(scenario)

    def test_a_hostname_is_led_elsewhere_only_if_that_is_meant(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada", "example.test")
            first, second = await tenant.tunnel("first"), await tenant.tunnel("second")
            await tenant.bind(first, "app")
            person = await administrator(edge, tenant)
            page = await person("/dashboard/hostnames")
            wanted = ("hostname", "app"), ("tunnel_id", second)
            refused = await person.send(page, "/dashboard/hostnames", *wanted)
            assert refused.status == 409
            assert "leads to tunnel first" in text_of(refused)
            answer = await person.send(page, "/dashboard/hostnames", *wanted, ("overwrite", "yes"))
            assert answer.status == 303
            route = edge.registry.route("app.example.test")
            assert route is not None
            assert str(route.tunnel_id) == second
            page = await person("/dashboard/hostnames")
            await person.send(page, "/dashboard/hostnames/delete")
            assert edge.registry.route("app.example.test") is None

        run(scenario)

    @pytest.mark.parametrize("scope", ["read", "tunnels", "routes"])
    def test_forms_are_offered_and_obeyed_as_the_token_may(self, run: Run, scope: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            owner = await edge.tenant("owner")
            tunnel = await owner.tunnel("web")
            await owner.bind(tunnel, "app.example.test")
            document = {"config": {"ingress": [{"service": "http://10.9.8.7"}]}}
            assert (await owner("PUT", f"cfd_tunnel/{tunnel}/configurations", document)).result
            _, token = await edge.control.accounts.create_token(
                owner.account, "some", _BY, scopes=(scope,)
            )
            person = Person(edge)
            await person.sign_in(token)
            page = await person(f"/dashboard/tunnels/{tunnel}")
            offered = {form.action.rpartition("/")[2] for form in forms_of(page)}
            expected = {
                "read": set(),
                "tunnels": {"token", "delete"},
                "routes": {"hostnames", "delete"},
            }[scope]
            assert offered == {"sign-out"} | expected
            assert ("10.9.8.7" in text_of(page)) == (scope == "tunnels")
            mine = _token_of(page)
            at = f"/dashboard/tunnels/{tunnel}"
            for target, fields, needs in (
                ("/dashboard/tunnels", [("name", "x")], "tunnels"),
                (f"{at}/token", [], "tunnels"),
                (f"{at}/connections", [], "tunnels"),
                (
                    "/dashboard/hostnames",
                    [("hostname", "b.example.test"), ("tunnel_id", tunnel)],
                    "routes",
                ),
                (f"{at}/delete", [("cascade", "yes")], "tunnels"),
            ):
                answer = await person.ask("POST", target, [*mine, *fields])
                assert (answer.status == 403) == (scope != needs), target

        run(scenario)

    def test_nothing_of_another_account_is_shown_or_changed(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            mine, other = await edge.tenant("mine"), await edge.tenant("other")
            tunnel = await other.tunnel("secretive")
            await other.bind(tunnel, "hidden.example.test")
            edge.link(tunnel)
            edge.recent = Recent([record(tunnel)], [record(tunnel, status=502, cause="dial")])
            person = await administrator(edge, mine)
            own = _token_of(await person("/dashboard"))
            for target in (
                *("/dashboard", "/dashboard/tunnels", "/dashboard/hostnames"),
                *("/dashboard/requests", "/dashboard/requests?failed=1", "/dashboard/tokens"),
                *("/dashboard/certificates", "/dashboard/audit"),
                f"/dashboard/requests?tunnel={tunnel}",
            ):
                text = text_of(await person(target))
                for secret in ("secretive", "hidden", "/path", "other"):
                    assert secret not in text, target
            assert (await person("/dashboard/requests/0123456789abcdef-LOCAL01")).status == 404
            at = f"/dashboard/tunnels/{tunnel}"
            before = await edge.store.snapshot()
            token_id = other.token.split("_")[1]
            assert (await person(at)).status == 404
            for target in (
                *(f"{at}/token", f"{at}/delete", f"{at}/connections"),
                *(f"/dashboard/tokens/{token_id}/revoke", f"/dashboard/tokens/{token_id}/rotate"),
            ):
                answer = await person.ask("POST", target, [*own, ("cascade", "yes")])
                assert answer.status == 404, target
            for target in ("/dashboard/hostnames", "/dashboard/hostnames/delete"):
                fields = [*own, ("hostname", "hidden.example.test"), ("tunnel_id", tunnel)]
                assert (await person.ask("POST", target, fields)).status == 404
            assert await edge.store.snapshot() == before
            assert edge.closed == []

        run(scenario)

    @pytest.mark.parametrize(
        "given",
        [
            {"name": "x" * 101},
            {"name": "\x1b[2J"},
            {"name": ""},
            {"name": str(uuid4())},
            {"name": "web\r\nx"},
        ],
        ids=["long", "escape", "empty", "uuid", "lines"],
    )
    def test_a_name_that_cannot_be_says_why(self, run: Run, given: dict[str, str]) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            page = await person("/dashboard/tunnels")
            answer = await person.send(page, "/dashboard/tunnels", *given.items())
            assert answer.status == 400
            assert "name" in text_of(answer)

        run(scenario)


class TestRequests:
    def test_failures_say_why_and_what_to_do(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada", "example.test")
            tunnel = await tenant.tunnel("web")
            failed = record(tunnel, status=502, cause="dial", hop="origin", ray="aaaa-LOCAL01")
            lost = record(None, status=404, cause="unknown_host", hop="edge", ray="bbbb-LOCAL01")
            foreign = record(None, host="elsewhere.test", ray="cccc-LOCAL01")
            edge.recent = Recent([lost, record(tunnel), foreign], [failed])
            person = await administrator(edge, tenant)
            for target in ("/dashboard", "/dashboard/requests?failed=1"):
                text = text_of(await person(target))
                assert "dial at the application" in text
                assert "could not connect to the origin" in text
                assert "Is it running, and listening" in text
            text = text_of(await person("/dashboard/requests"))
            assert "unknown_host" in text
            assert "elsewhere.test" not in text, "nobody's name"
            one = text_of(await person("/dashboard/requests/aaaa-LOCAL01"))
            assert "underpass explain dial" in one
            assert (await person("/dashboard/requests/cccc-LOCAL01")).status == 404

        run(scenario)

    def test_an_edge_that_remembers_none_says_so(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            assert "told not to remember" in text_of(await person("/dashboard/requests"))

        run(scenario)

    def test_whatever_was_sent_stays_text(self, run: Run) -> None:
        payload = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>&{{7*7}}"

        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant(payload)
            tunnel = await tenant.tunnel(payload)
            edge.link(tunnel)
            hostile = record(
                tunnel, method=payload, host=payload, path=payload, cause=payload, status=502
            )
            # (A cause of a newer connector is a word; a hop is ours.)
            hostile = RequestRecord(
                **{name: getattr(hostile, name) for name in hostile.__struct_fields__}
                | {"hop": "connector"}
            )
            edge.recent = Recent([hostile], [hostile])
            await edge.control.accounts.create_token(tenant.account, payload, _BY)
            person = await administrator(edge, tenant)
            for target in (
                *("/dashboard", "/dashboard/tunnels", f"/dashboard/tunnels/{tunnel}"),
                *("/dashboard/requests", "/dashboard/requests?failed=1", "/dashboard/tokens"),
                *("/dashboard/audit", f"/dashboard/requests?tunnel={quote(payload)}"),
                f"/dashboard/requests/{hostile.ray}",
            ):
                page = await person(target)
                assert page.status == 200, target
                assert tags_of(page).count("script") == 1, target
                assert "img" not in tags_of(page), target
            assert "{{7*7}}" in text_of(await person("/dashboard/audit"))

        run(scenario)


class TestTokens:
    def test_made_once_shown_rotated_and_ended(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            person = await administrator(edge, tenant)
            page = await person("/dashboard/tokens")
            shown = await person.send(
                page, "/dashboard/tokens", ("name", "deploy"), ("hostnames", "*.a.test b.test")
            )
            (text,) = re.findall(r"up_[0-9a-f]{12}_[0-9a-f]{64}", shown.body.decode())
            token = edge.control.accounts.authenticate(text)
            assert token.scopes == ("read", "tunnels", "routes")
            assert token.hostnames == ("*.a.test", "b.test")
            page = await person("/dashboard/tokens")
            assert text not in page.body.decode()
            assert "deploy" in text_of(page)
            rotated = await person.send(page, f"/dashboard/tokens/{token.id}/rotate")
            (second,) = re.findall(r"up_[0-9a-f]{12}_[0-9a-f]{64}", rotated.body.decode())
            assert edge.control.accounts.authenticate(text).id == token.id, "for a day"
            assert edge.control.accounts.authenticate(second).id == token.id
            await person.send(page, f"/dashboard/tokens/{token.id}/revoke")
            assert token.id not in edge.registry.tokens

        run(scenario)

    def test_a_cert_pem_is_downloaded(self, run: Run) -> None:
        from underpass.account.certificate import OriginCertificate

        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            person = await administrator(edge, tenant)
            page = await person("/dashboard/tokens")
            answer = await person.send(
                page, "/dashboard/tokens", ("name", "laptop"), ("as", "cert")
            )
            assert answer.headers["content-disposition"] == 'attachment; filename="cert.pem"'
            certificate = OriginCertificate.from_pem(answer.body, "the answer")
            assert certificate.account_id == tenant.account.id
            text = certificate.api_token.decode()
            assert edge.control.accounts.authenticate(text).name == "laptop"

        run(scenario)

    def test_nobody_makes_a_token_that_may_more_than_he_may(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            owner = await edge.tenant("ada")
            ends = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=2)
            _, text = await edge.control.accounts.create_token(
                owner.account,
                "lead",
                _BY,
                scopes=("routes", "tokens"),
                hostnames=("*.a.test",),
                expires_at=ends,
            )
            person = Person(edge)
            await person.sign_in(text)
            own = [*_token_of(await person("/dashboard")), ("name", "more")]

            async def asks(*fields: tuple[str, str]) -> int:
                return (await person.ask("POST", "/dashboard/tokens", [*own, *fields])).status

            assert await asks(("scope", "tunnels")) == 403
            assert await asks(("scope", "tokens")) == 403, "that is decided on the machine"
            assert await asks(("scope", "routes"), ("hostnames", "b.test")) == 403
            assert await asks(("scope", "nonsense")) == 400
            assert await asks(("scope", "routes"), ("days", "0")) == 400
            assert await asks(("scope", "routes"), ("days", "nan")) == 400
            assert await asks(("scope", "routes"), ("days", "1000")) == 200
            made = [token for token in edge.registry.tokens.values() if token.name == "more"]
            assert [(token.hostnames, token.expires_at) for token in made] == [
                (("*.a.test",), ends)
            ]
            strong = owner.token.split("_")[1]
            answer = await person.ask("POST", f"/dashboard/tokens/{strong}/rotate", own)
            assert answer.status == 403, "its secret would be worth more"

        run(scenario)

    def test_by_a_link_one_may_make_whoever_makes_tokens(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            page = await person("/dashboard/tokens")
            scopes = [("scope", scope) for scope in SCOPES]
            answer = await person.send(page, "/dashboard/tokens", ("name", "lead"), *scopes)
            assert answer.status == 200
            (made,) = [token for token in edge.registry.tokens.values() if token.name == "lead"]
            assert made.scopes == SCOPES

        run(scenario)


class TestLoggingIn:
    def test_a_command_line_gets_its_certificate_once(self, run: Run) -> None:
        from underpass.account.certificate import OriginCertificate

        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada", "example.test")
            person = await administrator(edge, tenant)
            mine = key()
            poll = asyncio.ensure_future(edge.ask("GET", f"/login/transfer/{mine}"))
            page = await person(f"/login?callback={quote(callback(mine))}&aud=")
            assert confirmation_code(mine) in text_of(page)
            assert "account ada" in text_of(page)
            done = await person.send(page, "/login", ("hostnames", "*.lab.example.test"))
            assert f"{confirmation_code(mine)} is logged in" in text_of(done)
            answer = await poll
            assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
            certificate = OriginCertificate.from_pem(answer.body, "the answer")
            token = edge.control.accounts.authenticate(certificate.api_token.decode())
            assert token.name == f"login {confirmation_code(mine)}"
            assert token.scopes == ("read", "tunnels", "routes")
            assert token.hostnames == ("*.lab.example.test",)
            assert (certificate.account_id, certificate.zone_id) == (
                tenant.account.id,
                tenant.account.zone_id,
            )
            assert await edge.parts.transfers.fetch(mine, 0.0) is None
            again = await person.send(page, "/login")
            assert again.status == 409, "a key is for one login"

        run(scenario)

    def test_what_nobody_fetches_is_revoked(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            mine = key()
            before = set(edge.registry.tokens)
            page = await person(f"/login?callback={quote(callback(mine))}")
            await person.send(page, "/login")
            (made,) = set(edge.registry.tokens) - before
            await edge.parts.transfers.take_back(mine)
            assert made not in edge.registry.tokens
            assert await edge.parts.transfers.fetch(mine, 0.0) is None
            revoked = (await edge.audit())[0].entry
            assert (revoked.actor, revoked.action, revoked.target) == ("edge", "token.revoke", made)

        run(scenario)

    def test_keys_are_guessed_by_nobody_and_cost_nothing(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            monkeypatch.setattr(transfers_module, "HOLD_SECONDS", 0.0)
            assert (await edge.ask("GET", "/login/transfer/x")).status == 404
            assert (await edge.ask("GET", f"/login/transfer/{'A' * 43}=")).status == 202
            transfers = edge.parts.transfers
            held = [asyncio.ensure_future(transfers.fetch(key(), 60.0)) for _ in range(64)]
            await asyncio.sleep(0)
            assert await transfers.fetch(key(), 60.0) is None, "more are not held"
            await transfers.close()
            assert await asyncio.gather(*held) == [None] * 64, "nobody holds a stop up"

        run(scenario)

    def test_there_is_room_for_so_many(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            async def nothing() -> None:
                pass

            transfers = edge.parts.transfers
            keys = [key() for _ in range(transfers_module.MAX_DEPOSITS)]
            for each in keys:
                transfers.deposit(each, b"x", nothing)
            with pytest.raises(transfers_module.TransferRefused, match="too many"):
                transfers.deposit(key(), b"x", nothing)
            with pytest.raises(transfers_module.TransferRefused, match="used already"):
                transfers.deposit(keys[0], b"y", nothing)
            assert await transfers.fetch(keys[0], 0.0) == b"x"

        run(scenario)

    @pytest.mark.parametrize(
        "elsewhere",
        [
            "",
            "javascript:alert(1)",
            "https://login.cloudflareaccess.org/KEY",
            f"http://evil.example/login/transfer/KEY?x=http://{HOST}/",
            f"http://{HOST}@evil.example/login/transfer/KEY",
            f"http://{HOST}.evil.example/login/transfer/KEY",
            f"http://{HOST}/login/transfer/../../accounts",
            f"http://{HOST}/login/transfer/KEY?x",
            f"http://{HOST}/login/transfer/KEYKEY",
            f"http://{HOST}/login/transfer/" + "A" * 600,
            "http://[/login/transfer/KEY",
        ],
    )
    def test_a_callback_elsewhere_is_refused_and_never_followed(
        self, run: Run, elsewhere: str
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            person = await administrator(edge, await edge.tenant("ada"))
            address = elsewhere.replace("KEY", key())
            page = await person.ask("GET", f"/login?callback={quote(address)}")
            assert page.status == 400
            assert "location" not in page.headers
            before = await edge.store.snapshot()
            fields = [*_token_of(page), ("callback", address), ("scope", "read")]
            answer = await person.ask("POST", "/login", fields)
            assert answer.status == 400
            assert "location" not in answer.headers
            assert await edge.store.snapshot() == before

        run(scenario)

    def test_only_who_makes_tokens_logs_command_lines_in(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("ada")
            person = Person(edge)
            target = f"/login?callback={quote(callback(key()))}"
            answer = await person.ask("GET", target)
            assert answer.status == 303, "signing in comes first, and leads back"
            page = await person(answer.headers["location"])
            answer = await person.send(page, "/dashboard/sign-in", ("token", tenant.token))
            page = await person(answer.headers["location"])
            assert "without the scope “tokens”" in text_of(page)
            fields = [*_token_of(page), ("callback", callback(key())), ("scope", "read")]
            assert (await person.ask("POST", "/login", fields)).status == 403
            boss = await administrator(edge, tenant)
            fields = [*_token_of(await boss("/dashboard")), ("callback", callback(key()))]
            answer = await boss.ask("POST", "/login", [*fields, ("scope", "tokens")])
            assert answer.status == 403

        run(scenario)

    @pytest.mark.parametrize(
        ("text", "good"),
        [
            ("A" * 43 + "=", True),
            ("B" * 43 + "=", False),
            ("A" * 44, False),
            ("A" * 42 + "==", False),
        ],
    )
    def test_what_a_key_is(self, text: str, good: bool) -> None:
        assert is_login_key(text) is good


async def _account(edge: ControlledEdge) -> Any:
    return next(iter(edge.registry.accounts.values()))


def _token_of(page: Any) -> list[tuple[str, str]]:
    """The field that shows that a form comes from the session's own pages."""
    (field,) = {
        field for form in forms_of(page) for field in form.fields if field[0] == "form_token"
    }
    return [field]
