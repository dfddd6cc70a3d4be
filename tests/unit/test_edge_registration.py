"""Registration of a link, called directly and over the wire's own RPC in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import pytest

from underpass.edge import router as router_module
from underpass.edge.registration import LinkRegistration
from underpass.edge.registry import Registry
from underpass.edge.router import Link, NoLink, Router
from underpass.edge.store import Tunnel
from underpass.edge.store.sqlite import SqliteStore
from underpass.wire.registration import (
    ClientInfo,
    ConnectionOptions,
    RegistrationClient,
    RegistrationHandler,
    RegistrationRefused,
    RegistrationRequest,
    RegistrationServer,
    TunnelAuth,
)

TUNNEL = UUID(int=1)
SECRET = bytes(range(32))
CLIENT = ClientInfo(UUID(int=7), ("ha-origin",), "2026.8.2", "linux_amd64")
HOST = b"app.localhost"


class FakeLink:
    def __init__(self) -> None:
        self.tunnel_id = UUID(int=0)
        self.connector_id = UUID(int=0)
        self.connection_id = UUID(int=0)
        self.conn_index = -1
        self.load = 0
        self.draining = False

    def identify(
        self, tunnel_id: UUID, connection_id: UUID, conn_index: int, client: ClientInfo
    ) -> None:
        self.tunnel_id = tunnel_id
        self.connection_id = connection_id
        self.connector_id = client.client_id
        self.conn_index = conn_index


@dataclass
class Edge:
    registry: Registry
    router: Router
    duplicates: list[Link] = field(default_factory=list)
    configurations: list[bytes] = field(default_factory=list)

    def registration(self, link: FakeLink) -> LinkRegistration:
        return LinkRegistration(
            self.registry,
            self.router,
            link,
            location="local01",
            on_duplicate=self.duplicates.append,
            on_local_configuration=self.configurations.append,
        )


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    """The store is closed: all that a registration needs is in memory."""

    async def load() -> Edge:
        store = await SqliteStore.open(tmp_path / "edge.db")
        router = Router()
        registry = await Registry.load(store, router)
        made = Tunnel(TUNNEL, "account", "web", SECRET, datetime.now(timezone.utc))
        await registry.create_tunnel(made, (HOST.decode(),))
        await store.close()
        return Edge(registry, router)

    return asyncio.run(load())


def request(
    *,
    account_tag: str = "account",
    secret: bytes = SECRET,
    tunnel_id: UUID = TUNNEL,
    conn_index: int = 0,
    client: ClientInfo = CLIENT,
) -> RegistrationRequest:
    return RegistrationRequest(
        TunnelAuth(account_tag, secret), tunnel_id, conn_index, ConnectionOptions(client)
    )


def test_a_link_with_the_right_credentials_takes_requests(edge: Edge) -> None:
    link = FakeLink()
    registration = edge.registration(link)
    assert not registration.registered
    details = registration.register_connection(request(conn_index=3))
    assert details.location_name == "local01"
    assert details.connection_id == link.connection_id
    assert details.connection_id.version == 4
    assert not details.tunnel_is_remotely_managed
    assert registration.registered
    assert (link.tunnel_id, link.connector_id, link.conn_index) == (TUNNEL, CLIENT.client_id, 3)
    assert edge.router.route(HOST) is link


@pytest.mark.parametrize(
    "wrong", [{"account_tag": "x"}, {"secret": b"x" * 32}, {"tunnel_id": UUID(int=9)}]
)
def test_wrong_credentials_are_unauthorized_and_leave_no_trace(
    edge: Edge, wrong: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    link = FakeLink()
    registration = edge.registration(link)
    with pytest.raises(RegistrationRefused, match="Unauthorized: ") as refused:
        registration.register_connection(request(**wrong))  # type: ignore[arg-type]
    assert refused.value.is_unauthorized
    assert not refused.value.should_retry
    assert registration.refused
    assert edge.router.links_of(TUNNEL) == ()
    assert link.conn_index == -1
    assert "x" * 32 not in caplog.text


def test_the_same_connection_twice_is_edupconn_and_its_holder_is_named(edge: Edge) -> None:
    holder, double = FakeLink(), FakeLink()
    edge.registration(holder).register_connection(request())
    with pytest.raises(RegistrationRefused) as refused:
        edge.registration(double).register_connection(request())
    assert refused.value.cause == "EDUPCONN"
    assert refused.value.is_duplicate
    assert edge.duplicates == [holder]
    edge.router.remove_link(double)
    assert edge.router.links_of(TUNNEL) == (holder,)


def test_another_index_or_connector_is_no_duplicate(edge: Edge) -> None:
    other = ClientInfo(uuid4(), (), "", "")
    for number, client in ((0, CLIENT), (1, CLIENT), (0, other)):
        edge.registration(FakeLink()).register_connection(request(conn_index=number, client=client))
    assert len(edge.router.links_of(TUNNEL)) == 3


def test_too_many_connections_are_refused(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "MAX_LINKS_PER_TUNNEL", 1)
    edge.registration(FakeLink()).register_connection(request())
    with pytest.raises(RegistrationRefused, match="as many as it may") as refused:
        edge.registration(FakeLink()).register_connection(request(conn_index=1))
    assert refused.value.should_retry


def test_one_stream_registers_once(edge: Edge) -> None:
    link = FakeLink()
    registration = edge.registration(link)
    registration.register_connection(request())
    with pytest.raises(RegistrationRefused, match="registered already"):
        registration.register_connection(request(conn_index=1))
    assert registration.registered
    assert edge.router.route(HOST) is link


def test_a_refused_stream_cannot_try_again(edge: Edge) -> None:
    registration = edge.registration(FakeLink())
    with pytest.raises(RegistrationRefused):
        registration.register_connection(request(secret=b"wrong"))
    with pytest.raises(RegistrationRefused, match="registered already"):
        registration.register_connection(request())
    assert edge.router.links_of(TUNNEL) == ()


def test_unregistering_drains(edge: Edge) -> None:
    link = FakeLink()
    registration = edge.registration(link)
    registration.unregister_connection()
    assert not link.draining, "nothing was registered"
    registration.register_connection(request())
    registration.unregister_connection()
    assert registration.unregistered
    assert link.draining
    assert edge.router.route(HOST) == NoLink(TUNNEL)
    registration.unregister_connection()


def test_the_local_configuration_is_handed_on_from_registered_links_only(edge: Edge) -> None:
    registration = edge.registration(FakeLink())
    registration.update_local_configuration(b"{}")
    registration.register_connection(request())
    registration.update_local_configuration(b'{"ingress":[]}')
    assert edge.configurations == [b'{"ingress":[]}']


Result = TypeVar("Result")


def test_it_is_what_the_rpc_calls(edge: Edge) -> None:
    async def scenario() -> None:
        link = FakeLink()
        handler: RegistrationHandler = edge.registration(link)
        to_client: list[bytes] = []
        server = RegistrationServer(handler, to_client.append)
        client = RegistrationClient(server.feed)

        async def answered(call: asyncio.Task[Result]) -> Result:
            while not call.done():
                await asyncio.sleep(0)
                while to_client:
                    client.feed(to_client.pop(0))
            return call.result()

        details = await answered(
            asyncio.create_task(
                client.register_connection(
                    TunnelAuth("account", SECRET), TUNNEL, 2, ConnectionOptions(CLIENT)
                )
            )
        )
        assert details.location_name == "local01"
        assert details.connection_id == link.connection_id
        assert link.conn_index == 2
        await answered(asyncio.create_task(client.unregister_connection()))
        assert link.draining

    asyncio.run(scenario())


def test_a_refusal_reaches_the_connector(edge: Edge) -> None:
    async def scenario() -> None:
        to_client: list[bytes] = []
        server = RegistrationServer(edge.registration(FakeLink()), to_client.append)
        client = RegistrationClient(server.feed)
        call = asyncio.create_task(
            client.register_connection(
                TunnelAuth("account", b"wrong"), TUNNEL, 0, ConnectionOptions(CLIENT)
            )
        )
        while not call.done():
            await asyncio.sleep(0)
            while to_client:
                client.feed(to_client.pop(0))
        with pytest.raises(RegistrationRefused) as refused:
            call.result()
        assert refused.value.is_unauthorized

    asyncio.run(scenario())
