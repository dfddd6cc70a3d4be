"""Hostnames of several tunnels and draining, by the API: what is done, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from rig.control import BY, ControlledEdge, Tenant, refuses, with_edge

from underpass.edge.origin_health import FAILURES_TO_SPARE, FIRST_SPELL_SECONDS
from underpass.edge.pools import MAX_TARGETS, MAX_WEIGHT, Pool
from underpass.edge.router import UNKNOWN_HOST, NoLink

Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return partial(with_edge, tmp_path)


class TestPools:
    @staticmethod
    def body(*targets: tuple[str, int], **more: Any) -> dict[str, Any]:
        shown = [{"tunnel_id": tunnel, "weight": weight} for tunnel, weight in targets]
        return {"targets": shown, **more}

    def test_a_hostname_is_led_to_several_tunnels_shown_and_deleted(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            one, two = await tenant.tunnel("one"), await tenant.tunnel("two")
            edge.link(one)
            body = self.body((one, 3), (two, 0), sticky="cookie", pool="blue")
            put = (await tenant.zone("PUT", "hostnames/APP.test.", body)).result
            shown = (await tenant.zone("GET", "hostnames/app.test")).result
            assert put == shown
            assert shown["targets"] == [
                {
                    "tunnel_id": one,
                    "tunnel_name": "one",
                    "weight": 3,
                    "connections": 1,
                    "draining": 0,
                },
                {
                    "tunnel_id": two,
                    "tunnel_name": "two",
                    "weight": 0,
                    "connections": 0,
                    "draining": 0,
                },
            ]
            assert (shown["hostname"], shown["sticky"], shown["pool"], shown["trouble"]) == (
                "app.test",
                "cookie",
                "blue",
                [],
            )
            assert isinstance(edge.router.route(b"app.test"), Pool)
            for tunnel, weight in ((one, 3), (two, 0)):
                (listed,) = (await tenant.zone("GET", f"tunnels/{tunnel}/routes")).result
                assert (listed["hostname"], listed["weight"]) == ("app.test", weight)
            (listed,) = (await tenant.zone("GET", "hostnames")).result
            assert listed == {key: shown[key] for key in shown if key != "trouble"}
            assert (await tenant.zone("DELETE", "hostnames/app.test")).status == 200
            assert edge.router.route(b"app.test") is UNKNOWN_HOST
            assert (await edge.actions())[-2:] == ["hostname.put", "hostname.delete"]
            assert f"{one} (3), {two} (0), sticky by cookie" in (await edge.audit())[1].entry.detail

        run(scenario)

    def test_what_is_set_already_is_no_change(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            body = self.body((await tenant.tunnel("one"), 1))
            first = (await tenant.zone("PUT", "hostnames/app.test", body)).result
            before = await edge.audit()
            assert (await tenant.zone("PUT", "hostnames/app.test", body)).result == first
            assert await edge.audit() == before

        run(scenario)

    def test_two_who_change_it_at_once_do_not_undo_each_other(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            one, two = await tenant.tunnel("one"), await tenant.tunnel("two")
            body = self.body((one, 1), revision=0)
            seen = (await tenant.zone("PUT", "hostnames/app.test", body)).result["revision"]
            again = tenant.zone("PUT", "hostnames/app.test", self.body((two, 1), revision=0))
            assert "somebody else" in await refuses(edge, again, 409)
            body = self.body((one, 2), revision=seen)
            assert (await tenant.zone("PUT", "hostnames/app.test", body)).status == 200
            stale = tenant.zone("PUT", "hostnames/app.test", self.body((two, 1), revision=seen))
            assert "somebody else" in await refuses(edge, stale, 409)

        run(scenario)

    @pytest.mark.parametrize(
        ("change", "status", "reason"),
        [
            ({"targets": []}, 400, "length >= 1"),
            ({"targets": None}, 400, "targets"),
            ({"targets": [{}]}, 400, "tunnel_id"),
            ({"targets": [{"tunnel_id": "x"}]}, 400, "UUID"),
            ({"targets": [{"tunnel_id": "MINE", "weight": -1}]}, 400, ">= 0"),
            ({"targets": [{"tunnel_id": "MINE", "weight": MAX_WEIGHT + 1}]}, 400, "<= 1000"),
            ({"targets": [{"tunnel_id": "MINE", "weight": 1.5}]}, 400, "int"),
            ({"targets": [{"tunnel_id": "MINE", "weight": "1"}]}, 400, "int"),
            ({"targets": [{"tunnel_id": "MINE"}] * 2}, 400, "twice"),
            ({"targets": [{"tunnel_id": "MINE"}] * (MAX_TARGETS + 1)}, 400, "length <= 16"),
            ({"targets": [{"tunnel_id": "THEIRS"}]}, 404, "there is no tunnel"),
            ({"targets": [{"tunnel_id": "MINE"}, {"tunnel_id": "THEIRS"}]}, 404, "no tunnel"),
            ({"targets": [{"tunnel_id": "QUICK"}]}, 404, "there is no tunnel"),
            ({"targets": [{"tunnel_id": "GONE"}]}, 404, "there is no tunnel"),
            ({"targets": [{"tunnel_id": str(uuid4())}]}, 404, "there is no tunnel"),
            ({"sticky": "always"}, 400, "sticky"),
            ({"sticky": None}, 400, "sticky"),
            ({"pool": "a\nb"}, 400, "control characters"),
            ({"pool": "x" * 101}, 400, "length <= 100"),
            ({"revision": -1}, 400, ">= 0"),
            ({"revision": 2**80}, 400, "revision"),
        ],
    )
    def test_what_is_no_pool(
        self, run: Run, change: dict[str, Any], status: int, reason: str
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            mine, other = await edge.tenant("mine"), await edge.tenant("other")
            tunnels = {
                "MINE": await mine.tunnel("web"),
                "THEIRS": await other.tunnel("web"),
                "GONE": await mine.tunnel("gone"),
                "QUICK": str(
                    (await edge.registry.create_quick_tunnel("localhost")).credentials.tunnel_id
                ),
            }
            await mine("DELETE", f"cfd_tunnel/{tunnels['GONE']}")
            text = json.dumps({"targets": [{"tunnel_id": "MINE"}], **change})
            for name, tunnel in tunnels.items():
                text = text.replace(f'"{name}"', f'"{tunnel}"')
            asked = mine.zone("PUT", "hostnames/app.test", json.loads(text))
            assert reason in await refuses(edge, asked, status)

        run(scenario)

    @pytest.mark.parametrize(
        ("hostname", "status", "reason"),
        [
            ("taken.test", 409, "another account"),
            ("TAKEN.test.", 409, "another account"),
            ("a.wild.test", 409, "another account"),
            ("xn--bcher-kva.test", 200, ""),
            ("xn--.test", 400, "label"),
            ("b%C3%BCcher.test", 200, ""),
            ("a..test", 400, "label"),
            ("-a.test", 400, "label"),
            ("a%20b.test", 400, "label"),
            ("management.argotunnel.com", 400, "reserved"),
            ("h2.cftunnel.com", 400, "reserved"),
            ("management.localhost", 400, "reserved"),
            ("tail.example.test", 400, "answers for it itself"),
            ("TAIL.example.test.", 400, "answers for it itself"),
            ("*.localhost", 400, "quick tunnels"),
            ("*.example.test", 200, ""),
        ],
    )
    def test_names_are_claimed_as_by_any_route(
        self, run: Run, hostname: str, status: int, reason: str
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            edge.control.management_hostname = "tail.example.test"
            mine, other = await edge.tenant("mine"), await edge.tenant("other")
            theirs = await other.tunnel("web")
            for name in ("taken.test", "*.wild.test"):
                assert (await other.bind(theirs, name)).status == 200
            body = self.body((await mine.tunnel("web"), 1))
            asked = mine.zone("PUT", f"hostnames/{hostname}", body)
            if status == 200:
                assert (await asked).status == 200
            else:
                assert reason in await refuses(edge, asked, status)

        run(scenario)

    def test_the_name_that_the_edge_answers_for_is_refused_to_every_kind_of_route(
        self, run: Run
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            edge.control.management_hostname = "tail.example.test"
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            asked = tenant.bind(tunnel, "Tail.Example.Test.", overwrite=True)
            assert "answers for it itself" in await refuses(edge, asked, 400)
            body = {"type": "lb", "lb_name": "tail.example.test", "lb_pool": "pool"}
            asked = tenant.zone("PUT", f"tunnels/{tunnel}/routes", body)
            assert "answers for it itself" in await refuses(edge, asked, 400)
            assert (await tenant.bind(tunnel, "*.example.test")).status == 200

        run(scenario)

    def test_nobody_sees_or_deletes_what_is_not_theirs(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            mine, other = await edge.tenant("mine"), await edge.tenant("other")
            await mine.bind(await mine.tunnel("web"), "app.test")
            await other.bind(await other.tunnel("web"), "other.test")
            for method in ("GET", "DELETE"):
                asked = other.zone(method, "hostnames/app.test")
                assert "no hostname app.test" in await refuses(edge, asked, 404)
                await refuses(edge, mine.zone(method, "hostnames/nobody.test"), 404)
            listed = (await other.zone("GET", "hostnames")).result
            assert [each["hostname"] for each in listed] == ["other.test"]
            assert (await other.zone("GET", "hostnames?per_page=1&page=2")).result == []

        run(scenario)

    def test_a_confined_token_changes_its_names_alone(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            account = tenant.account
            _, text = await edge.control.accounts.create_token(
                account, "confined", BY, hostnames=("*.a.test",)
            )
            confined = Tenant(edge, account, text)
            tunnel = await tenant.tunnel("web")
            body = self.body((tunnel, 1))
            for name in ("b.test", "x.a.test"):
                assert (await tenant.zone("PUT", f"hostnames/{name}", body)).status == 200
            for method, sent in (("PUT", body), ("DELETE", None)):
                asked = confined.zone(method, "hostnames/b.test", sent)
                assert "confined to" in await refuses(edge, asked, 400)
                assert (await confined.zone(method, "hostnames/x.a.test", sent)).status == 200

        run(scenario)

    def test_a_dns_route_is_one_tunnel_and_takes_the_place_of_a_pool_if_told_to(
        self, run: Run
    ) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            one, two = await tenant.tunnel("one"), await tenant.tunnel("two")
            await tenant.zone("PUT", "hostnames/app.test", self.body((one, 1), (two, 1)))
            asked = tenant.bind(one, "app.test")
            assert "leads to tunnel two" in await refuses(edge, asked, 409)
            assert (await tenant.bind(one, "app.test", overwrite=True)).result["cname"] == "updated"
            assert edge.router.route(b"app.test") == NoLink(UUID(one))

        run(scenario)

    def test_a_tunnel_is_taken_out_the_last_one_with_the_hostname(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            one, two = await tenant.tunnel("one"), await tenant.tunnel("two")
            await tenant.zone("PUT", "hostnames/app.test", self.body((one, 1), (two, 5)))
            taken = await tenant.zone("DELETE", f"tunnels/{one}/routes/app.test")
            assert taken.result["weight"] == 1
            shown = (await tenant.zone("GET", "hostnames/app.test")).result
            assert [each["tunnel_id"] for each in shown["targets"]] == [two]
            asked = tenant.zone("DELETE", f"tunnels/{one}/routes/app.test")
            await refuses(edge, asked, 404)
            assert (await tenant.zone("DELETE", f"tunnels/{two}/routes/app.test")).status == 200
            assert (await tenant.zone("GET", "hostnames/app.test")).status == 404

        run(scenario)

    def test_the_end_of_a_tunnel_leaves_the_others(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            one, two = await tenant.tunnel("one"), await tenant.tunnel("two")
            await tenant.zone("PUT", "hostnames/app.test", self.body((one, 1), (two, 0)))
            assert (await tenant("DELETE", f"cfd_tunnel/{one}")).status == 200
            link = edge.link(two)
            assert edge.router.route(b"app.test") is link
            assert (await tenant("DELETE", f"cfd_tunnel/{two}?cascade=true")).status == 200
            assert edge.router.route(b"app.test") is UNKNOWN_HOST

        run(scenario)

    def test_a_balancer_is_full_at_some_size(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            for number in range(MAX_TARGETS + 1):
                tunnel = await tenant.tunnel(f"t{number}")
                body = {"type": "lb", "lb_name": "lb.test", "lb_pool": "pool"}
                asked = tenant.zone("PUT", f"tunnels/{tunnel}/routes", body)
                if number < MAX_TARGETS:
                    assert (await asked).status == 200
                else:
                    assert "as many as it may" in await refuses(edge, asked, 400)

        run(scenario)

    def test_a_route_of_another_kind_is_no_pool(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            one, two = await tenant.tunnel("one"), await tenant.tunnel("two")
            await tenant.bind(one, "app.test")
            body = {"type": "lb", "lb_name": "app.test", "lb_pool": "pool"}
            asked = tenant.zone("PUT", f"tunnels/{two}/routes", body)
            assert "no load balancer's" in await refuses(edge, asked, 409)
            done = await tenant.zone("PUT", f"tunnels/{one}/routes", body)
            assert done.result == {"load_balancer": "updated", "pool": "new"}

        run(scenario)

    def test_trouble_is_shown(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            await tenant.bind(tunnel, "app.test")
            bad, _ = edge.link(tunnel), edge.link(tunnel)
            for _ in range(FAILURES_TO_SPARE):
                edge.router.unreachable(b"app.test", bad, is_certain=True)
            (shown,) = (await tenant.zone("GET", "hostnames/app.test")).result["trouble"]
            assert 0 < shown.pop("next_trial_seconds") <= FIRST_SPELL_SECONDS
            assert shown == {
                "client_id": str(bad.connector_id),
                "failures": FAILURES_TO_SPARE,
                "is_spared": True,
            }

        run(scenario)


class TestDraining:
    def test_a_connector_is_drained_and_let_back_in(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel = await tenant.tunnel("web")
            await tenant.bind(tunnel, "app.test")
            link = edge.link(tunnel)
            path = f"cfd_tunnel/{tunnel}/connections/{link.connector_id}/drain"
            shown = (await tenant("POST", path)).result
            assert shown == {
                "id": str(link.connector_id),
                "is_draining": True,
                "connections": 1,
            }
            assert edge.router.route(b"app.test") == NoLink(UUID(tunnel))
            (client,) = (await tenant("GET", f"cfd_tunnel/{tunnel}/connections")).result
            assert [each["is_draining"] for each in client["conns"]] == [True]
            (target,) = (await tenant.zone("GET", "hostnames/app.test")).result["targets"]
            assert (target["connections"], target["draining"]) == (1, 1)
            assert (await tenant("DELETE", path)).result["is_draining"] is False
            assert edge.router.route(b"app.test") is link
            assert (await edge.actions())[-2:] == ["tunnel.drain", "tunnel.undrain"]

        run(scenario)

    def test_one_connection(self, run: Run) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            tenant = await edge.tenant("mine")
            tunnel, connector = await tenant.tunnel("web"), uuid4()
            drained, _ = (edge.link(tunnel, connector, index) for index in range(2))
            path = f"cfd_tunnel/{tunnel}/connections/{drained.details.connection_id}/drain"
            assert (await tenant("POST", path)).result["connections"] == 1
            (client,) = (await tenant("GET", f"cfd_tunnel/{tunnel}/connections")).result
            states = {each["id"]: each["is_draining"] for each in client["conns"]}
            assert sorted(states.values()) == [False, True]
            assert states[str(drained.details.connection_id)]

        run(scenario)

    @pytest.mark.parametrize("what", ["nothing", "theirs", "no uuid"])
    def test_what_is_not_there_is_not_drained(self, run: Run, what: str) -> None:
        async def scenario(edge: ControlledEdge) -> None:
            mine, other = await edge.tenant("mine"), await edge.tenant("other")
            tunnel, theirs = await mine.tunnel("web"), await other.tunnel("web")
            key = {
                "nothing": str(uuid4()),
                "theirs": str(edge.link(theirs).connector_id),
                "no uuid": "x",
            }[what]
            asked = mine("POST", f"cfd_tunnel/{tunnel}/connections/{key}/drain")
            await refuses(edge, asked, 400 if what == "no uuid" else 404)
            asked = mine("POST", f"cfd_tunnel/{theirs}/connections/{key}/drain")
            await refuses(edge, asked, 404)
            assert not any("drain" in action for action in await edge.actions())

        run(scenario)
