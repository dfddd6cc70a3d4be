"""Several homes: how they are written, whose credentials they have, and how they run together."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from rig.supervision import FakeLink

from underpass.connector.config import Config, read_config
from underpass.connector.edges import EdgePool, EdgeSlot, static_regions
from underpass.connector.homes import MAX_HOMES, Home
from underpass.connector.identity import (
    IdentityError,
    find_credentials,
    find_home_credentials,
)
from underpass.connector.links import (
    AddressesFound,
    AddressesNotFound,
    DialError,
    DialErrorKind,
    HomeEvent,
    HomeRefused,
    Link,
    LinkConnected,
    LinkDisconnected,
    LinkEvent,
    LinkFailed,
    LinkUnregistered,
)
from underpass.connector.options import build_homes, build_options
from underpass.connector.report import LinkReport
from underpass.connector.settings import SettingError, resolve
from underpass.connector.settings_table import Value
from underpass.connector.status import ConnectorStatus
from underpass.connector.supervisor import Supervisor, TunnelRefusedError
from underpass.connector.supervisors import Supervisors
from underpass.ops.document import ConfigError, parse_yaml
from underpass.wire.credentials import Credentials, CredentialsError
from underpass.wire.registration import ConnectionDetails, RegistrationRefused

CREDENTIALS = Credentials("account", b"s" * 32, uuid.UUID(int=1))
OTHER = Credentials("account", b"t" * 32, uuid.UUID(int=2), "us")


def config_of(text: str) -> Config:
    return read_config(parse_yaml(text, "config.yml"))


def homes_of(
    text: str, credentials: Credentials = CREDENTIALS, /, **flags: Value
) -> tuple[Home, ...]:
    config = config_of(text)
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    settings = resolve([given], {}, config.settings)
    return build_homes(config.homes, build_options(settings, config), lambda _: credentials)


class TestWriting:
    def test_a_home_has_addresses_and_trust_of_its_own(self) -> None:
        cloud, own = homes_of(
            """
            homes:
              - name: cloudflare
              - name: own
                edge: [edge1.example.com:7844, "[::1]:7844"]
                cacert: /etc/own/ca.pem
                ha-connections: 2
                edge-ip-version: "6"
                edge-bind-address: ::1
                edge-proxy: http://proxy:3128
            """
        )
        assert cloud == Home(name="cloudflare", credentials=CREDENTIALS)
        assert own == Home(
            name="own",
            credentials=CREDENTIALS,
            edges=(("edge1.example.com", 7844), ("::1", 7844)),
            cacert=Path("/etc/own/ca.pem"),
            ha_connections=2,
            edge_ip_version="6",
            edge_bind_address="::1",
            edge_proxy="http://proxy:3128",
        )

    def test_what_a_home_does_not_say_is_as_outside_of_it(self) -> None:
        (home,) = homes_of(
            "{homes: [{name: a}], ha-connections: 3}",
            edge_bind_address="127.0.0.1",
            edge_ip_version="4",
        )
        assert home.ha_connections == 3
        assert home.edge_bind_address == "127.0.0.1"
        assert home.edge_ip_version == "4"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("homes: [{}]", r"line 1: homes\[0\].name: a home needs a name"),
            ("homes: [{name: a b}]", r"homes\[0\].name: a home needs a name"),
            ("homes: [{name: a}, {name: a}]", r"homes\[1\].name: two homes are named 'a'"),
            ("homes: [{name: a, edges: []}]", r"edges: unknown key; did you mean 'edge'"),
            ("homes: [{name: a, edge: x:1}]", r"edge: expected a list of strings"),
            ("homes: [{name: a, edge: [x]}]", r"homes\[0\].edge: --edge 'x' is not host:port"),
            ("homes: [{name: a, tunnel: x}]", r"tunnel: 'x' is no UUID"),
            ("homes: [{name: a, protocol: quic}]", r"homes\[0\].protocol: .*not supported"),
            ("homes: [{name: a, edge-ip-version: '5'}]", r"edge-ip-version: .*not auto, 4 or 6"),
            ("homes: [{name: a, edge-bind-address: x}]", r"edge-bind-address: .*not an IP"),
            ("homes: [{name: a, ha-connections: 0}]", r"ha-connections: 0 is not between 1 and"),
            ("homes: [{name: a, token-file: x, credentials-file: y}]", r"token-file: cannot be"),
            ("homes: [" + ",".join(f"{{name: h{n}}}" for n in range(MAX_HOMES + 1)) + "]", "more"),
        ],
    )
    def test_mistakes_are_errors_with_their_place(self, text: str, why: str) -> None:
        with pytest.raises(ConfigError, match=why):
            homes_of(text)

    @pytest.mark.parametrize("flags", [{"edge": ("x:1",)}, {"cacert": "/ca.pem"}, {"region": "us"}])
    def test_an_edge_beside_the_homes_is_refused(self, flags: dict[str, Value]) -> None:
        with pytest.raises(SettingError, match="is given beside `homes`"):
            homes_of("homes: [{name: a}]", **flags)

    def test_all_homes_together_have_no_more_links_than_one_may_have(self) -> None:
        with pytest.raises(SettingError, match="128 connections, more than 64"):
            homes_of("homes: [{name: a, ha-connections: 64}, {name: b, ha-connections: 64}]")

    def test_a_region_contradicts_credentials_that_name_one(self) -> None:
        with pytest.raises(ConfigError, match=r"homes\[0\].region: cannot be used with"):
            homes_of("homes: [{name: a, region: us}]", OTHER)


def _nobody(name: str) -> uuid.UUID:
    raise AssertionError(f"{name!r} is looked up")


class TestCredentials:
    def find(self, entry: str, **flags: Value) -> Credentials:
        config = config_of(f"homes: [{{name: own, {entry}}}]")
        settings = resolve([{k.replace("_", "-"): v for k, v in flags.items()}], {}, {})
        return find_home_credentials(
            config.homes[0], settings, lambda: find_credentials(settings, "", (), _nobody), ()
        )

    def test_a_home_may_have_a_token_or_a_credentials_file(self, tmp_path: Path) -> None:
        token, file = tmp_path / "token", tmp_path / "file.json"
        token.write_text(OTHER.to_token())
        file.write_text(
            json.dumps(
                {
                    "AccountTag": "account",
                    "TunnelSecret": "c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M=",
                    "TunnelID": str(CREDENTIALS.tunnel_id),
                }
            )
        )
        assert self.find(f"token-file: {token}") == OTHER
        found = self.find(f"credentials-file: {file}", token=OTHER.to_token())
        assert found.tunnel_id == CREDENTIALS.tunnel_id

    def test_else_it_has_those_of_the_whole(self) -> None:
        assert self.find("", token=OTHER.to_token()) == OTHER

    def test_without_any_the_error_names_the_home(self) -> None:
        with pytest.raises(IdentityError, match="home 'own' has no credentials of its own"):
            self.find("")

    def test_a_tunnel_is_looked_for_where_credentials_are(self, tmp_path: Path) -> None:
        with pytest.raises(IdentityError, match=f"{uuid.UUID(int=7)}.json is in none of"):
            self.find(f"tunnel: {uuid.UUID(int=7)}")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CredentialsError, match="cannot read the token file"):
            self.find(f"token-file: {tmp_path}/absent")


class Houses:
    """Two homes with a supervisor each, and one dialer."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Exception] = {}
        self.links: list[tuple[int, int, FakeLink]] = []
        self.events: list[LinkEvent | HomeEvent] = []
        self._changed = asyncio.Event()
        self.whole = Supervisors([self._member(0), self._member(1)], self._observe)

    def _member(self, home: int) -> Supervisor:
        return Supervisor(
            self,
            EdgePool(static_regions([("edge", 7844)] * 2, home)),
            ha_connections=2,
            retries=5,
            grace_period=30.0,
            observe=self._observe,
            home=home,
            linger=0.0,
            sleep=lambda _: asyncio.sleep(0),
            clock=lambda: 0.0,
            uniform=lambda _, high: high,
        )

    async def dial(
        self,
        slot: EdgeSlot,
        conn_index: int,
        previous_attempts: int,
        replacing: Link | None = None,
    ) -> FakeLink:
        if slot.home in self.outcomes:
            raise self.outcomes[slot.home]
        link = FakeLink()
        self.links.append((slot.home, conn_index, link))
        return link

    def _observe(self, event: LinkEvent | HomeEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, kind: type, count: int = 1) -> None:
        while sum(isinstance(event, kind) for event in self.events) < count:
            self._changed.clear()
            await self._changed.wait()


def scenario(
    body: Callable[[Houses], Awaitable[None]], outcomes: dict[int, Exception] | None = None
) -> Houses:
    async def both() -> Houses:
        houses = Houses()
        houses.outcomes |= outcomes or {}
        running = asyncio.create_task(houses.whole.run())
        try:
            await asyncio.wait_for(body(houses), 10)
        finally:
            houses.whole.stop()
        await asyncio.wait_for(running, 10)
        return houses

    return asyncio.run(both())


REFUSED = RegistrationRefused("tunnel deleted")


class TestTogether:
    def test_each_home_counts_its_links_from_zero(self) -> None:
        async def body(houses: Houses) -> None:
            await houses.until(LinkConnected, 4)
            assert houses.whole.running == 4

        houses = scenario(body)
        assert sorted((home, index) for home, index, _ in houses.links) == [
            (0, 0),
            (0, 1),
            (1, 0),
            (1, 1),
        ]

    def test_a_drain_covers_all(self) -> None:
        async def body(houses: Houses) -> None:
            await houses.until(LinkConnected, 4)

        houses = scenario(body)
        assert all(link.unregistered for _, _, link in houses.links)
        assert sum(isinstance(event, LinkUnregistered) for event in houses.events) == 4

    def test_an_unreachable_home_is_no_business_of_the_other(self) -> None:
        async def body(houses: Houses) -> None:
            await houses.until(LinkConnected, 2)

        unreachable = DialError(DialErrorKind.CONNECT, "refused")
        houses = scenario(body, {0: unreachable})
        assert {home for home, _, _ in houses.links} == {1}

    def test_a_refused_home_leaves_the_other(self) -> None:
        async def body(houses: Houses) -> None:
            await houses.until(HomeRefused)
            await houses.until(LinkConnected, 2)
            assert houses.whole.running == 2

        scenario(body, {0: REFUSED})

    def test_it_ends_when_every_home_has_refused(self) -> None:
        async def body(houses: Houses) -> None:
            await houses.until(LinkFailed, 2)

        with pytest.raises(TunnelRefusedError, match="tunnel deleted"):
            scenario(body, {0: REFUSED, 1: REFUSED})

    def test_what_was_not_foreseen_ends_all(self) -> None:
        async def body(houses: Houses) -> None:
            await houses.until(LinkConnected)

        with pytest.raises(ZeroDivisionError):
            scenario(body, {0: ZeroDivisionError()})

    def test_all_links_are_probed(self) -> None:
        async def body(houses: Houses) -> None:
            await houses.until(LinkConnected, 4)
            houses.whole.probe()

        assert [link.probed for _, _, link in scenario(body).links] == [1] * 4

    def test_a_link_can_be_replaced_in_one_home_or_in_all(self) -> None:
        async def body(houses: Houses) -> None:
            await houses.until(LinkConnected, 4)
            houses.whole.reconnect(1, home=1)
            await houses.until(LinkConnected, 5)
            assert houses.links[-1][:2] == (1, 1)
            houses.whole.reconnect()
            await houses.until(LinkConnected, 9)
            with pytest.raises(ValueError, match="there is no connection 2"):
                houses.whole.reconnect(2)

        scenario(body)


DETAILS = ConnectionDetails(uuid.UUID(int=3), "loc01", False)


class TestWhatIsSaidOfThem:
    def test_metrics_call_a_link_by_its_home(self) -> None:
        status = ConnectorStatus(uuid.UUID(int=1), home_names=("cloudflare", "own"))
        for home in (0, 1):
            status.observe(LinkConnected(0, EdgeSlot("edge", 7844, 0, home), DETAILS))
        assert status.ready_connections == 2
        assert status.snapshot()["cloudflared_tunnel_server_locations"] == {
            ("cloudflare/0", "loc01"): 1,
            ("own/0", "loc01"): 1,
        }
        gone = LinkDisconnected(0, EdgeSlot("edge", 7844, 0, 1), None, expected=False)
        status.observe(gone)
        assert status.ready_connections == 1

    def test_a_replaced_link_that_ends_is_not_missed(self) -> None:
        status = ConnectorStatus(uuid.UUID(int=1))
        slot = EdgeSlot("edge", 7844, 0)
        status.observe(LinkConnected(0, slot, DETAILS))
        status.observe(LinkDisconnected(0, slot, None, expected=True, replaced=True))
        assert status.ready_connections == 1

    @pytest.mark.parametrize(("homes", "field"), [(("a", "b"), "b"), (("",), None)])
    def test_log_lines_name_the_home_when_there_are_several(
        self, homes: tuple[str, ...], field: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        report = LinkReport([Home(name=name) for name in homes], lambda: 0)
        home = len(homes) - 1
        with caplog.at_level(logging.INFO):
            report.observe(LinkConnected(0, EdgeSlot("edge", 7844, 0, home), DETAILS))
            report.observe_home(AddressesNotFound(home, OSError("no DNS"), 2.0))
            report.observe_home(AddressesFound(home, 1, 4))
        named = [record for record in caplog.records if "Looking again" not in record.message]
        assert [getattr(record, "home", None) for record in named] == [field] * 3

    def test_a_home_that_is_given_up(self, caplog: pytest.LogCaptureFixture) -> None:
        report = LinkReport([Home(name="a"), Home(name="b")], lambda: 1)
        report.observe_home(HomeRefused(1, TunnelRefusedError("tunnel deleted")))
        report.observe_home(AddressesNotFound(0, OSError("no DNS"), None))
        refused, again = caplog.records
        assert (refused.levelname, refused.__dict__["home"]) == ("ERROR", "b")
        assert (again.levelname, again.__dict__["error"]) == ("WARNING", "no DNS")
