"""The API's endpoints: what they do, what they refuse, and that a refusal changes nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from rig.control import BY, ControlledEdge, Tenant, refuses, with_edge

from underpass.edge.api import endpoint as endpoint_module
from underpass.edge.api import networks as networks_module
from underpass.edge.api import tunnels as tunnels_module
from underpass.edge.api.application import ENDPOINTS
from underpass.edge.api.authorization import GUESSES_AT_ONCE, Guesses
from underpass.edge.api.token_bucket import TokenBucket
from underpass.edge.errors import Unauthorized
from underpass.edge.router import UNKNOWN_HOST, NoLink
from underpass.wire.credentials import Credentials
from underpass.wire.remote_config import MAX_UPDATE_BYTES

Run = Callable[..., None]

SECRET = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return partial(with_edge, tmp_path)


class TestWhoMayAsk:
    @pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: e.summary)
    @pytest.mark.parametrize(
        "authorization",
        [[], ["Basic dXA6dXA="], ["Bearer"], ["Bearer up_x"], ["Bearer a", "Bearer b"]],
    )
    def test_nobody_without_a_token(
        self, run: Run, endpoint: Any, authorization: list[str]
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            path = endpoint.path.replace("{", "").replace("}", "")
            headers = [("authorization", value) for value in authorization]
            answer = await edge.ask(endpoint.method, path, headers=headers)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json["success"] is False

        run(scenario)

    @pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: e.summary)
    def test_nobody_of_another_account_or_without_the_scope(self, run: Run, endpoint: Any) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            mine, other = await edge.tenant("mine"), await edge.tenant("other")
            reader = await edge.tenant("reader", scopes=("read",))

            def path(tenant: Tenant) -> str:
                parts = {
                    "account_id": tenant.account.id,
                    "zone_id": tenant.account.zone_id,
                    "tunnel_id": uuid4(),
                    "connection_id": uuid4(),
                    "route_id": uuid4(),
                    "network_id": uuid4(),
                    "resource": "logs",
                    "ip": "10.0.0.1",
                    "hostname": "a.test",
                }
                return str(endpoint.path.format(**parts))

            foreign = edge.ask(endpoint.method, path(other), {}, token=mine.token)
            assert "not of this account" in await refuses(edge, foreign, 403)
            if endpoint.scope != "read":
                weak = edge.ask(endpoint.method, path(reader), {}, token=reader.token)
                assert f"the scope '{endpoint.scope}'" in await refuses(edge, weak, 403)

        run(scenario)

    def test_a_token_that_has_expired_was_revoked_or_replaced(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            accounts = edge.control.accounts
            (token,) = edge.registry.tokens.values()
            _, newer = await accounts.rotate_token(token.id, BY, hours=2)
            assert (await tenant("GET", "cfd_tunnel")).result == []
            assert (await Tenant(edge, tenant.account, newer)("GET", "cfd_tunnel")).result == []
            edge.clock.pass_(hours=2)
            assert "replaced" in (await tenant("GET", "cfd_tunnel")).reason
            current = Tenant(edge, tenant.account, newer)
            assert (await current("GET", "cfd_tunnel")).result == []
            await accounts.revoke_token(token.id, BY)
            assert "revoked" in (await current("GET", "cfd_tunnel")).reason
            made, text = await accounts.create_token(
                tenant.account, "short", BY, expires_at=edge.clock.now
            )
            assert made.expires_at is not None
            expired = await Tenant(edge, tenant.account, text)("GET", "cfd_tunnel")
            assert "expired" in expired.reason

        run(scenario)

    def test_guessing_is_told_to_wait_but_locks_nobody_out(self, run: Run, tmp_path: Path) -> None:
        guesses = Guesses(lambda: TokenBucket(3, 0.001))

        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            wrong = tenant.token[:-1] + ("0" if tenant.token[-1] != "0" else "1")
            path = f"/accounts/{tenant.account.id}/cfd_tunnel"
            statuses = [(await edge.ask("GET", path, token=wrong)).status for _ in range(5)]
            assert statuses == [401, 401, 401, 429, 429]
            waiting = await edge.ask("GET", path, token=wrong)
            assert int(waiting.headers["retry-after"]) > 1
            assert (await edge.ask("GET", path, token=wrong, source="192.0.2.2")).status == 401
            assert (await tenant("GET", "cfd_tunnel")).status == 200

        run(scenario, guesses)

    def test_addresses_of_one_ipv6_site_count_together_and_are_bounded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        guesses = Guesses(lambda: TokenBucket(1, 0.001))
        assert guesses.count("2001:db8::1") == 0
        assert guesses.count("2001:db8::2") > 0
        assert guesses.count("2001:db8:0:1::2") == 0
        monkeypatch.setattr("underpass.edge.api.authorization.MAX_SOURCES", 2)
        assert guesses.count("192.0.2.1") == 0
        assert len(guesses._buckets) <= 2
        assert GUESSES_AT_ONCE >= 1

    def test_a_token_made_by_a_command_is_good_at_once(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            from underpass.edge.accounts import Accounts
            from underpass.edge.registry import Registry
            from underpass.edge.router import Router

            tenant = await edge.tenant("mine")
            elsewhere = await Registry.load(edge.store, Router())
            _, text = await Accounts(elsewhere).create_token(tenant.account, "new", BY)
            assert (await Tenant(edge, tenant.account, text)("GET", "cfd_tunnel")).status == 200

        run(scenario)


class TestTunnels:
    def test_one_is_made_with_the_secret_that_was_given(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            body = {"name": "web", "tunnel_secret": SECRET, "something": "else"}
            made = (await tenant("POST", "cfd_tunnel", body)).result
            assert made["name"] == "web"
            assert made["deleted_at"] is None
            assert made["connections"] == []
            assert made["created_at"].endswith("Z")
            credentials = Credentials.from_token(made["token"])
            assert credentials.account_tag == tenant.account.id
            assert str(credentials.tunnel_id) == made["id"]
            assert credentials.tunnel_secret == bytes(range(32))
            served = edge.registry.authenticate(
                tenant.account.id, bytes(range(32)), UUID(made["id"])
            )
            assert served.name == "web"
            token = (await tenant("GET", f"cfd_tunnel/{made['id']}/token")).result
            assert token == made["token"]
            got = (await tenant("GET", f"cfd_tunnel/{made['id']}")).result
            assert got == {name: value for name, value in made.items() if name != "token"}

        run(scenario)

    def test_a_secret_is_made_when_none_is_given(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tokens = {
                (await tenant("POST", "cfd_tunnel", {"name": name})).result["token"]
                for name in "ab"
            }
            secrets = {bytes(Credentials.from_token(token).tunnel_secret) for token in tokens}
            assert [len(secret) for secret in secrets] == [32, 32]

        run(scenario)

    @pytest.mark.parametrize(
        ("body", "status", "reason"),
        [
            ({}, 400, "missing required field `name`"),
            ([], 400, "Expected `object`"),
            (b"{", 400, "truncated"),
            (b"\xff", 400, "the request's body"),
            (b'{"name": "\\ud800"}', 400, "the request's body"),
            (b"[" * 5000, 400, "the request's body"),
            ({"name": ""}, 400, "length >= 1"),
            ({"name": "x" * 101}, 400, "length <= 100"),
            ({"name": 5}, 400, "Expected `str`"),
            ({"name": "a\nb"}, 400, "control characters"),
            ({"name": "a\u202eb"}, 400, "control characters"),
            ({"name": "a\0"}, 400, "control characters"),
            ({"name": " a"}, 400, "control characters, or space"),
            ({"name": "0e6a9d6e-7b9c-4c8e-8f9e-2f3c6c1b1a11"}, 400, "cannot be a UUID"),
            ({"name": "a", "tunnel_secret": "????"}, 400, "not base64"),
            ({"name": "a", "tunnel_secret": "QUJD"}, 400, "3 bytes; it needs 32"),
            ({"name": "a", "tunnel_secret": "QUJD" * 100}, 400, "300 bytes"),
            ({"name": "a", "tunnel_secret": "QUJD" * 1000}, 400, "length <= 512"),
            ({"name": "taken"}, 409, "a tunnel named 'taken' exists already"),
            (b'{"name": "' + b"x" * 20_000 + b'"}', 413, "larger than 16384"),
        ],
    )
    def test_what_is_no_tunnel(self, run: Run, body: Any, status: int, reason: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            await tenant.tunnel("taken")
            assert reason in await refuses(edge, tenant("POST", "cfd_tunnel", body), status)

        run(scenario)

    def test_a_name_has_one_spelling(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant, other = await edge.tenant("mine"), await edge.tenant("other")
            await tenant.tunnel("cafe\u0301")
            again = tenant("POST", "cfd_tunnel", {"name": "caf\u00e9"})
            assert "exists already" in await refuses(edge, again, 409)
            await other.tunnel("caf\u00e9")

        run(scenario)

    def test_their_number_is_bounded(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tunnels_module, "MAX_TUNNELS", 1)

        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            await edge.registry.create_quick_tunnel("localhost")
            await tenant.tunnel("one")
            more = tenant("POST", "cfd_tunnel", {"name": "two"})
            assert "as many as it may" in await refuses(edge, more, 409)

        run(scenario)

    def test_lists_are_filtered(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant, other = await edge.tenant("mine"), await edge.tenant("other")
            ids = {name: await tenant.tunnel(name) for name in ("web", "web-2", "api", "null")}
            await other.tunnel("web")
            await tenant("DELETE", f"cfd_tunnel/{ids['web-2']}")

            async def names(query: str) -> list[str]:
                listed = (await tenant("GET", f"cfd_tunnel?{query}")).result
                return [tunnel["name"] for tunnel in listed]

            assert await names("") == ["web", "web-2", "api", "null"]
            assert await names("is_deleted=false") == ["web", "api", "null"]
            assert await names("is_deleted=true") == ["web-2"]
            assert await names("name=web") == ["web"]
            assert await names("name=null") == ["null"]
            assert await names("name_prefix=web") == ["web", "web-2"]
            assert await names("exclude_prefix=web&is_deleted=false") == ["api", "null"]
            assert await names(f"uuid={ids['api']}") == ["api"]
            assert await names(f"uuid={uuid4()}") == []
            assert await names("existed_at=whenever&tun_types=cfd_tunnel") != []

        run(scenario)

    @pytest.mark.parametrize(
        "query",
        [
            "is_deleted=maybe",
            "is_deleted=null",
            "uuid=web",
            "uuid=null",
            "uuid=",
            "page=0",
            "page=x",
            "per_page=0",
            "page=99999999999999999999",
            "page=1&page=2",
            "name=" + "x" * 101,
        ],
    )
    def test_a_query_that_makes_no_sense(self, run: Run, query: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            reason = await refuses(edge, tenant("GET", f"cfd_tunnel?{query}"), 400)
            assert reason.startswith("the query")

        run(scenario)

    def test_lists_come_in_pages(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(endpoint_module, "MAX_PER_PAGE", 3)

        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            for number in range(5):
                await tenant.tunnel(f"t{number}")

            async def page(query: str) -> tuple[list[str], tuple[int, ...]]:
                answer = await tenant("GET", f"cfd_tunnel?{query}")
                info = answer.json["result_info"]
                assert list(info) == ["count", "page", "per_page", "total_count"]
                return [tunnel["name"] for tunnel in answer.result], tuple(info.values())

            assert await page("per_page=2") == (["t0", "t1"], (2, 1, 2, 5))
            assert await page("per_page=2&page=3") == (["t4"], (1, 3, 2, 5))
            assert await page("per_page=2&page=4") == ([], (0, 4, 2, 5))
            assert await page("per_page=1000") == (["t0", "t1", "t2"], (3, 1, 3, 5))

        run(scenario)

    def test_connections_are_told_by_connector(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            connector = uuid4()
            first = edge.link(tunnel, connector, 0)
            edge.clock.pass_(seconds=5)
            second, other = edge.link(tunnel, connector, 1), edge.link(tunnel)
            leaving = edge.link(tunnel, connector, 2)
            edge.router.drain(leaving)
            clients = (await tenant("GET", f"cfd_tunnel/{tunnel}/connections")).result
            assert [client["id"] for client in clients] == [str(connector), str(other.connector_id)]
            client = clients[0]
            assert client["version"] == "2026.8.2"
            assert client["arch"] == "linux_amd64"
            assert client["features"] == ["a", "b"]
            assert client["run_at"] == "2026-11-27T02:30:00Z"
            assert [connection["id"] for connection in client["conns"]] == [
                str(first.details.connection_id),
                str(second.details.connection_id),
            ]
            assert {
                (connection["colo_name"], connection["origin_ip"]) for connection in client["conns"]
            } == {("local01", "192.0.2.7")}
            (listed,) = (await tenant("GET", "cfd_tunnel")).result
            assert len(listed["connections"]) == 3
            assert listed["status"] == "healthy"

        run(scenario)

    def test_connections_are_closed(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel, connector = await tenant.tunnel("web"), uuid4()
            path = f"cfd_tunnel/{tunnel}/connections"
            assert (await tenant("DELETE", path)).result is None
            assert (await tenant("DELETE", f"{path}?client_id={connector}")).result is None
            for wrong in ("null", "", "web"):
                await refuses(edge, tenant("DELETE", f"{path}?client_id={wrong}"), 400)
            assert edge.closed == [(UUID(tunnel), None), (UUID(tunnel), connector)]
            assert (await edge.actions())[-2:] == ["tunnel.cleanup", "tunnel.cleanup"]

        run(scenario)

    def test_one_with_connections_is_deleted_by_force_only(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            await tenant.bind(tunnel, "app.test")
            credentials = edge.registry.tunnel(UUID(tunnel))
            assert credentials is not None
            edge.link(tunnel)
            answer = await tenant("DELETE", f"cfd_tunnel/{tunnel}")
            assert answer.json["errors"][0]["code"] == 1022
            assert "1 connections" in await refuses(
                edge, tenant("DELETE", f"cfd_tunnel/{tunnel}?cascade=false"), 400
            )
            gone = (await tenant("DELETE", f"cfd_tunnel/{tunnel}?cascade=true")).result
            assert gone["deleted_at"] is not None
            assert edge.router.route(b"app.test") is UNKNOWN_HOST
            with pytest.raises(Unauthorized):
                edge.registry.authenticate(tenant.account.id, credentials.secret, credentials.id)
            assert (await tenant("GET", f"cfd_tunnel/{tunnel}")).result["deleted_at"]
            for path in ("token", "connections", "configurations"):
                await refuses(edge, tenant("GET", f"cfd_tunnel/{tunnel}/{path}"), 404)
            await refuses(edge, tenant("DELETE", f"cfd_tunnel/{tunnel}"), 404)
            await tenant.tunnel("web")

        run(scenario)

    def test_a_tunnel_of_another_account_is_not_there(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant, other = await edge.tenant("mine"), await edge.tenant("other")
            foreign = await other.tunnel("web")
            await other("DELETE", f"cfd_tunnel/{(deleted := await other.tunnel('old'))}")
            for tunnel in (foreign, deleted, str(uuid4())):
                for method, path in [
                    ("GET", ""),
                    ("DELETE", "?cascade=true"),
                    ("GET", "/token"),
                    ("GET", "/connections"),
                    ("DELETE", "/connections"),
                    ("POST", "/management/logs"),
                    ("GET", "/configurations"),
                    ("PUT", "/configurations"),
                ]:
                    asked = tenant(method, f"cfd_tunnel/{tunnel}{path}", {"config": {}})
                    assert f"there is no tunnel {tunnel}" in await refuses(edge, asked, 404)
                assert "there is no tunnel" in await refuses(
                    edge, tenant.bind(tunnel, "a.test"), 404
                )
                route = {"network": "10.0.0.0/8", "tunnel_id": tunnel}
                await refuses(edge, tenant("POST", "teamnet/routes", route), 404)
            assert edge.closed == []

        run(scenario)

    @pytest.mark.parametrize(
        "written", ["web", "%7B0e6a9d6e-7b9c-4c8e-8f9e-2f3c6c1b1a11%7D", "0" * 32, "%00", "x" * 300]
    )
    def test_what_is_no_id(self, run: Run, written: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            reason = await refuses(edge, tenant("GET", f"cfd_tunnel/{written}"), 400)
            assert reason == "tunnel_id: this is no UUID"

        run(scenario)

    @pytest.mark.parametrize("resource", ["logs", "admin", "host_details"])
    def test_a_management_token_is_signed_by_the_edge(self, run: Run, resource: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            path = f"cfd_tunnel/{tunnel}/management/{resource}"
            token = (await tenant("POST", path)).result
            head, claims, signature = (_decoded(part) for part in token.split("."))
            assert json.loads(head) == {"alg": "ES256", "typ": "JWT"}
            said = json.loads(claims)
            assert said["tun"] == {"id": tunnel, "account_tag": tenant.account.id}
            assert said["actor"]["id"] in edge.registry.tokens
            assert said["actor"]["support"] is False
            assert said["res"] == [resource]
            assert said["iss"] != "fed-tunnelstore"
            assert said["exp"] - said["iat"] == 3600
            numbers = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
            edge.control.management_key.public_key.verify(
                encode_dss_signature(*numbers),
                token.rpartition(".")[0].encode(),
                ec.ECDSA(hashes.SHA256()),
            )
            await refuses(edge, tenant("POST", f"cfd_tunnel/{tunnel}/management/all"), 404)

        run(scenario)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


class TestHostnames:
    def test_a_hostname_is_new_then_unchanged_then_moved(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            one, two = await tenant.tunnel("one"), await tenant.tunnel("two")
            assert (await tenant.bind(one, "App.Test.")).result == {
                "cname": "new",
                "name": "app.test",
            }
            assert edge.router.route(b"app.test") == NoLink(UUID(one))
            assert (await tenant.bind(one, "app.test")).result["cname"] == "unchanged"
            answer = await tenant.bind(two, "app.test")
            assert answer.json["errors"][0]["code"] == 1003
            assert f"leads to tunnel one ({one})" in await refuses(
                edge, tenant.bind(two, "app.test"), 409
            )
            moved = (await tenant.bind(two, "APP.test", overwrite=True)).result
            assert moved["cname"] == "updated"
            assert edge.router.route(b"app.test") == NoLink(UUID(two))
            (listed,) = (await tenant.zone("GET", f"tunnels/{two}/routes")).result
            assert listed["hostname"] == "app.test"
            gone = (await tenant.zone("DELETE", f"tunnels/{two}/routes/App.test")).result
            assert gone["hostname"] == "app.test"
            assert edge.router.route(b"app.test") is UNKNOWN_HOST
            await refuses(edge, tenant.zone("DELETE", f"tunnels/{two}/routes/app.test"), 404)

        run(scenario)

    def test_other_scripts_are_spelt_as_browsers_do(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            said = (await tenant.bind(tunnel, "BÜCHER.example")).result
            assert said["name"] == "xn--bcher-kva.example"
            same = (await tenant.bind(tunnel, "xn--bcher-kva.example.")).result
            assert same["cname"] == "unchanged"
            wild = (await tenant.bind(tunnel, "*.bücher.example")).result
            assert wild["name"] == "*.xn--bcher-kva.example"

        run(scenario)

    @pytest.mark.parametrize(
        "hostname",
        [
            ".",
            "a..b",
            "a b.test",
            "a\n.test",
            "-a.test",
            "x" * 64 + ".test",
            ".".join(["abcdefgh"] * 28) + "xyz",
            "a.*.test",
            "*",
            "http://a.test",
            "a.test:80",
            "a\u202e.test",
            "\u00ad.test",
            "*.localhost",
            "management.argotunnel.com",
            "h2.cftunnel.com",
        ],
    )
    def test_what_is_no_hostname(self, run: Run, hostname: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            await refuses(edge, tenant.bind(await tenant.tunnel("web"), hostname), 400)

        run(scenario)

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({}, "missing required field `type`"),
            ({"type": "mx", "user_hostname": "a.test"}, "Invalid value 'mx'"),
            ({"type": "dns"}, "missing required field `user_hostname`"),
            ({"type": "dns", "user_hostname": ""}, "length >= 1"),
            ({"type": "dns", "user_hostname": "x" * 300}, "length <= 254"),
            ({"type": "dns", "user_hostname": "a.test", "overwrite_existing": 1}, "`bool`"),
            ({"type": "lb", "lb_name": "a.test"}, "missing required field `lb_pool`"),
            ({"type": "lb", "lb_name": "a.test", "lb_pool": "a\nb"}, "control characters"),
        ],
    )
    def test_what_is_no_route(self, run: Run, body: Any, reason: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            asked = tenant.zone("PUT", f"tunnels/{tunnel}/routes", body)
            assert reason in await refuses(edge, asked, 400)

        run(scenario)

    def test_a_load_balancer_has_a_pool_of_tunnels(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            one, two = await tenant.tunnel("one"), await tenant.tunnel("two")
            body = {"type": "lb", "lb_name": "LB.test", "lb_pool": "pool"}
            said = [
                (await tenant.zone("PUT", f"tunnels/{one}/routes", body)).result for _ in range(2)
            ]
            assert said == [
                {"load_balancer": "new", "pool": "new"},
                {"load_balancer": "unchanged", "pool": "unchanged"},
            ]
            assert edge.router.route(b"lb.test") == NoLink(UUID(one))
            (listed,) = (await tenant.zone("GET", f"tunnels/{one}/routes")).result
            assert listed["pool"] == "pool"
            said = [
                (await tenant.zone("PUT", f"tunnels/{two}/routes", body)).result for _ in range(2)
            ]
            assert said == [
                {"load_balancer": "unchanged", "pool": "updated"},
                {"load_balancer": "unchanged", "pool": "unchanged"},
            ]
            (kept,) = edge.registry.routes
            assert [str(target.tunnel_id) for target in kept.targets] == [one, two]
            asked = tenant.zone("PUT", f"tunnels/{two}/routes", {**body, "lb_pool": "other"})
            assert "the pool pool" in await refuses(edge, asked, 409)

        run(scenario)

    def test_nobody_gets_what_belongs_to_another(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            one, two = await edge.tenant("one"), await edge.tenant("two")
            mine, other = await one.tunnel("web"), await two.tunnel("web")
            quick = await edge.registry.create_quick_tunnel("localhost")
            for hostname in ("app.test", "*.wild.test"):
                assert (await one.bind(mine, hostname)).status == 200
            for hostname in (
                "app.test",
                "APP.TEST.",
                "*.wild.test",
                "a.wild.test",
                "a.b.wild.test",
                "*.a.wild.test",
                quick.hostname,
            ):
                asked = two.bind(other, hostname, overwrite=True)
                assert "another account" in await refuses(edge, asked, 409)
            assert (await two.bind(other, "wild.test")).status == 200
            assert (await two.bind(other, "*.test")).status == 200
            assert edge.router.route(b"a.wild.test") == NoLink(UUID(mine))

        run(scenario)

    def test_a_domain_is_its_accounts_alone(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            owner = await edge.tenant("owner", "Example.Test")
            other = await edge.tenant("other")
            mine, theirs = await owner.tunnel("web"), await other.tunnel("web")
            assert (await owner.bind(mine, "www")).result["name"] == "www.example.test"
            for hostname in ("example.test", "*.example.test", "a.b.example.test"):
                assert (await owner.bind(mine, hostname)).status == 200
            for hostname in ("other.test", "badexample.test", "*.test"):
                asked = owner.bind(mine, hostname)
                assert "is not in example.test" in await refuses(edge, asked, 400)
            for hostname in ("example.test", "new.example.test", "*.example.test", "*.test"):
                asked = other.bind(theirs, hostname, overwrite=True)
                assert "another account" in await refuses(edge, asked, 400)
            assert (await other.bind(theirs, "badexample.test")).status == 200

        run(scenario)

    def test_a_token_may_be_confined_to_hostnames(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine", hostnames=("*.a.test", "b.test"))
            tunnel = await tenant.tunnel("web")
            for hostname in ("x.a.test", "y.x.a.test", "*.a.test", "b.test"):
                assert (await tenant.bind(tunnel, hostname)).status == 200
            for hostname in ("a.test", "xa.test", "x.b.test", "*.b.test", "c.test"):
                asked = tenant.bind(tunnel, hostname)
                assert "confined to" in await refuses(edge, asked, 400)

        run(scenario)


class TestNetworks:
    def test_routes_are_found_by_address(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            vnet = (await tenant("POST", "teamnet/virtual_networks", {"name": "staging"})).result[
                "id"
            ]

            async def add(network: str, **more: Any) -> Any:
                body = {"network": network, "tunnel_id": tunnel, **more}
                return (await tenant("POST", "teamnet/routes", body)).result

            wide = await add("10.1.255.3/16", comment="office")
            assert wide["network"] == "10.1.0.0/16"
            assert wide["tunnel_name"] == "web"
            assert wide["comment"] == "office"
            narrow, six = await add("10.1.2.0/24"), await add("FD00:0::/8")
            staged = await add("10.0.0.0/8", virtual_network_id=vnet)

            async def found(address: str, query: str = "") -> Any:
                path = f"teamnet/routes/ip/{address}{query}"
                route = (await tenant("GET", path)).result
                return None if route is None else route["id"]

            assert await found("10.1.2.3") == narrow["id"]
            assert await found("::ffff:10.1.2.3") == narrow["id"]
            assert await found("10.1.3.3") == wide["id"]
            assert await found("fd12::1") == six["id"]
            assert await found("10.2.0.1") is None
            assert await found("10.1.2.3", f"?virtual_network_id={vnet}") == staged["id"]
            deleted = await tenant("DELETE", f"teamnet/routes/{narrow['id']}")
            assert deleted.result["deleted_at"] is not None
            assert await found("10.1.2.3") == wide["id"]
            await refuses(edge, tenant("DELETE", f"teamnet/routes/{narrow['id']}"), 404)

            async def listed(query: str) -> list[str]:
                answer = await tenant("GET", f"teamnet/routes?tun_types=cfd_tunnel&{query}")
                return [route["network"] for route in answer.result]

            assert await listed("is_deleted=false") == ["10.1.0.0/16", "fd00::/8", "10.0.0.0/8"]
            assert await listed("is_deleted=true") == ["10.1.2.0/24"]
            assert await listed("network_subset=10.1.0.0/16") == ["10.1.0.0/16", "10.1.2.0/24"]
            assert await listed("network_superset=10.1.2.0/24&is_deleted=false") == [
                "10.1.0.0/16",
                "10.0.0.0/8",
            ]
            exact = "network_subset=10.1.0.0/16&network_superset=10.1.0.0/16&is_deleted=false"
            assert await listed(exact) == ["10.1.0.0/16"]
            assert await listed("comment=office") == ["10.1.0.0/16"]
            assert await listed(f"virtual_network_id={vnet}") == ["10.0.0.0/8"]
            assert await listed(f"tunnel_id={uuid4()}") == []

        run(scenario)

    @pytest.mark.parametrize(
        ("network", "status"),
        [
            ("10.0.0.0", 400),
            ("10.0.0.0/33", 400),
            ("300.0.0.0/8", 400),
            ("fe80::%eth0/64", 400),
            ("::ffff:10.0.0.0/104", 400),
            ("", 400),
            ("x" * 100, 400),
            ("\u0661\u0660.0.0.0/8", 400),
            ("10.0.0.0/8", 409),
        ],
    )
    def test_what_is_no_route(self, run: Run, network: str, status: int) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            body = {"network": "10.0.0.0/8", "tunnel_id": await tenant.tunnel("web")}
            assert (await tenant("POST", "teamnet/routes", body)).status == 200
            asked = tenant("POST", "teamnet/routes", {**body, "network": network})
            await refuses(edge, asked, status)

        run(scenario)

    @pytest.mark.parametrize(
        "address", ["web", "10.0.0", "10.0.0.1%2F8", "fe80::1%25eth0", "x" * 99]
    )
    def test_what_is_no_address(self, run: Run, address: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            answer = await tenant("GET", f"teamnet/routes/ip/{address}")
            assert answer.status in (400, 404)
            assert answer.reason

        run(scenario)

    def test_one_virtual_network_is_the_default(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            path = "teamnet/virtual_networks"

            async def listed(query: str = "is_deleted=false") -> dict[str, bool]:
                rows = (await tenant("GET", f"{path}?{query}")).result
                return {row["name"]: row["is_default_network"] for row in rows}

            (first,) = (await tenant("GET", path)).result
            assert await listed() == {"default": True}
            body = {"name": "two", "comment": "c", "is_default_network": True}
            two = (await tenant("POST", path, body)).result
            assert await listed() == {"default": False, "two": True}
            assert await listed("is_default=true") == {"two": True}
            assert await listed(f"id={first['id']}") == {"default": False}
            assert await listed("name=two") == {"two": True}
            taken = tenant("POST", path, {"name": "two"})
            assert "exists already" in await refuses(edge, taken, 409)
            given_up = tenant("PATCH", f"{path}/{two['id']}", {"is_default_network": False})
            assert "there has to be one" in await refuses(edge, given_up, 400)
            deleted = tenant("DELETE", f"{path}/{two['id']}?force=true")
            assert "the default virtual network" in await refuses(edge, deleted, 409)
            changed = {"name": "one", "is_default_network": True}
            await tenant("PATCH", f"{path}/{first['id']}", changed)
            assert await listed() == {"one": True, "two": False}
            (kept,) = (await tenant("GET", f"{path}?name=two")).result
            assert kept["comment"] == "c"
            route = {
                "network": "10.0.0.0/8",
                "tunnel_id": await tenant.tunnel("web"),
                "virtual_network_id": two["id"],
            }
            await tenant("POST", "teamnet/routes", route)
            in_use = tenant("DELETE", f"{path}/{two['id']}")
            assert "has 1 routes" in await refuses(edge, in_use, 409)
            assert (await tenant("DELETE", f"{path}/{two['id']}?force=true")).status == 200
            assert (await tenant("GET", "teamnet/routes?is_deleted=false")).result == []
            assert await listed("is_deleted=true") == {"two": False}
            for method in ("PATCH", "DELETE"):
                await refuses(edge, tenant(method, f"{path}/{two['id']}", {}), 404)

        run(scenario)

    def test_networks_of_another_account_are_not_there(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant, other = await edge.tenant("mine"), await edge.tenant("other")
            (foreign,) = (await other("GET", "teamnet/virtual_networks")).result
            body = {
                "network": "10.0.0.0/8",
                "tunnel_id": await tenant.tunnel("web"),
                "virtual_network_id": foreign["id"],
            }
            await refuses(edge, tenant("POST", "teamnet/routes", body), 404)
            path = f"teamnet/virtual_networks/{foreign['id']}"
            for method in ("PATCH", "DELETE"):
                await refuses(edge, tenant(method, path, {"name": "mine"}), 404)
            theirs = {"network": "10.0.0.0/8", "tunnel_id": await other.tunnel("web")}
            route = (await other("POST", "teamnet/routes", theirs)).result
            await refuses(edge, tenant("DELETE", f"teamnet/routes/{route['id']}"), 404)
            assert (await tenant("GET", "teamnet/routes/ip/10.0.0.1")).result is None

        run(scenario)

    def test_their_numbers_are_bounded(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("underpass.edge.networks.MAX_VIRTUAL_NETWORKS", 1)
        monkeypatch.setattr("underpass.edge.networks.MAX_NETWORK_ROUTES", 0)

        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            more = tenant("POST", "teamnet/virtual_networks", {"name": "two"})
            assert "at most 1" in await refuses(edge, more, 400)
            body = {"network": "10.0.0.0/8", "tunnel_id": await tenant.tunnel("web")}
            assert "at most 0" in await refuses(edge, tenant("POST", "teamnet/routes", body), 400)
            assert networks_module.MAX_COMMENT == 256

        run(scenario)


class TestConfigurations:
    def test_each_one_put_is_the_next_version(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            path = f"cfd_tunnel/{tunnel}/configurations"
            none = (await tenant("GET", path)).result
            assert (none["version"], none["config"]) == (0, None)
            config = {"ingress": [{"service": "http_status:404"}], "extra": {"kept": [1, "ü"]}}
            for version in (1, 2):
                put = (await tenant("PUT", path, {"config": config})).result
                assert (put["version"], put["config"]) == (version, config)
            assert (await tenant("GET", path)).result == put
            assert edge.registry.configurations[UUID(tunnel)].version == 2
            kept = await edge.registry.configuration(UUID(tunnel))
            assert kept is not None
            assert json.loads(kept.document) == config
            await tenant("DELETE", f"cfd_tunnel/{tunnel}")
            assert edge.registry.configurations == {}
            assert await edge.registry.configuration(UUID(tunnel)) is None

        run(scenario)

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({}, 400),
            ({"config": None}, 400),
            ({"config": []}, 400),
            (b'{"config": {"a": }}', 400),
            (b'{"config": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", 400),
            (b'{"config": {"a": "' + b"x" * MAX_UPDATE_BYTES + b'"}}', 413),
            (b'{"config":{"a":"' + b"x" * (MAX_UPDATE_BYTES - 100) + b'"}}', 413),
        ],
        ids=range(7),
    )
    def test_what_is_no_configuration(self, run: Run, body: Any, status: int) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            await refuses(edge, tenant("PUT", f"cfd_tunnel/{tunnel}/configurations", body), status)

        run(scenario)


def test_what_is_changed_is_written_down_with_who_did_it(tmp_path: Path) -> None:
    async def scenario(edge: ControlledEdge) -> None:
        tenant = await edge.tenant("mine")
        tunnel = await tenant.tunnel("web")
        await tenant.bind(tunnel, "app.test")
        await tenant("GET", f"cfd_tunnel/{tunnel}/token")
        await tenant("GET", "cfd_tunnel")
        await tenant("POST", "cfd_tunnel", {"name": "web"})
        await edge.ask("POST", "/tunnel")
        await tenant("DELETE", f"cfd_tunnel/{tunnel}")
        assert await edge.actions() == [
            "account.create",
            "token.create",
            "tunnel.create",
            "hostname.put",
            "tunnel.token",
            "quick_tunnel.create",
            "tunnel.delete",
        ]
        made = (await edge.audit())[4]
        (token,) = edge.registry.tokens.values()
        assert made.entry.actor == f"token {token.id}"
        assert made.entry.source == "192.0.2.1"
        assert made.entry.account_id == tenant.account.id
        assert made.entry.target == tunnel
        assert made.revision == edge.registry.revision - 3
        text = repr(await edge.audit())
        assert tenant.token.rpartition("_")[2] not in text

    with_edge(tmp_path, scenario)


def test_a_store_that_is_gone_changes_nothing_and_says_no_paths(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(edge: ControlledEdge) -> None:
        tenant = await edge.tenant("mine")
        tunnel = await tenant.tunnel("web")
        await edge.store.close()
        for answer in (
            await tenant("POST", "cfd_tunnel", {"name": "more"}),
            await tenant("GET", f"cfd_tunnel/{tunnel}/token"),
            await tenant.bind(tunnel, "app.test"),
        ):
            assert answer.status == 503
            assert "edge.db" not in answer.reason
        assert "edge.db" in caplog.text
        assert (await tenant("GET", "cfd_tunnel?is_deleted=false")).status == 200
        assert edge.router.route(b"app.test") is UNKNOWN_HOST

    run(scenario)


def test_of_two_that_change_the_same_one_is_told_to_look_again(run: Run) -> None:
    async def scenario(edge: ControlledEdge) -> None:
        tenant = await edge.tenant("mine")
        tunnel = UUID(await tenant.tunnel("web"))
        known = edge.registry.tunnel(tunnel)
        assert known is not None
        # Somebody else's change, of which this edge has not heard.
        from rig.stored import put_route

        await put_route(edge.store, "app.test", tunnel, 0)
        answer = await tenant.bind(str(tunnel), "app.test")
        assert answer.status == 409
        assert "meanwhile" in answer.reason

    run(scenario)
