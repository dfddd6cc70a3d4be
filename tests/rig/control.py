"""An edge's API with everything around it that a test looks at, without sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from rig.asgi import Answer, ask
from underpass.edge.accounts import Accounts
from underpass.edge.api.application import create_application
from underpass.edge.api.authorization import Guesses
from underpass.edge.api.control import Control
from underpass.edge.dashboard.parts import Parts
from underpass.edge.dashboard.transfers import Transfers
from underpass.edge.link_details import LinkDetails
from underpass.edge.origin_health import ConnectorHealth
from underpass.edge.recent import Recent
from underpass.edge.registry import Author, Registry
from underpass.edge.router import Router
from underpass.edge.store import Account, AuditRecord
from underpass.edge.store.sqlite import SqliteStore

BY = Author("test")


class Clock:
    """The time, which the test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 27, 2, 30, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)


@dataclass
class FakeLink:
    """A link as the router sees it."""

    tunnel_id: UUID
    connector_id: UUID
    conn_index: int
    details: LinkDetails
    draining: bool = False
    load: int = 0


@dataclass
class Tenant:
    """An account with a token."""

    edge: ControlledEdge
    account: Account
    token: str

    async def __call__(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask below the account: `("GET", "cfd_tunnel")`."""
        return await self.edge.ask(
            method, f"/accounts/{self.account.id}/{path}", body, token=self.token
        )

    async def zone(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask below the zone."""
        return await self.edge.ask(
            method, f"/zones/{self.account.zone_id}/{path}", body, token=self.token
        )

    async def tunnel(self, name: str) -> str:
        """The id of a new tunnel."""
        return str((await self("POST", "cfd_tunnel", {"name": name})).result["id"])

    async def bind(self, tunnel: str, hostname: str, *, overwrite: bool = False) -> Answer:
        """Lead a hostname to a tunnel."""
        body = {"type": "dns", "user_hostname": hostname, "overwrite_existing": overwrite}
        return await self.zone("PUT", f"tunnels/{tunnel}/routes", body)


@dataclass
class ControlledEdge:
    """One edge."""

    store: SqliteStore
    router: Router
    registry: Registry
    control: Control
    clock: Clock
    application: Any
    parts: Parts
    closed: list[tuple[UUID, UUID | None]] = field(default_factory=list)
    """Whose links were to be closed."""
    recent: Recent | None = None
    """What is remembered of requests."""

    async def ask(self, method: str, target: str, body: Any = None, **more: Any) -> Answer:
        return await ask(self.application, method, target, body, **more)

    async def tenant(self, name: str, domain: str = "", **token: Any) -> Tenant:
        """A new account and a token for it."""
        account = await self.control.accounts.create_account(name, domain, BY)
        _, text = await self.control.accounts.create_token(account, "token", BY, **token)
        return Tenant(self, account, text)

    def link(self, tunnel: str, connector: UUID | None = None, index: int = 0) -> FakeLink:
        """A connector's link, there from now on."""
        details = LinkDetails(
            uuid4(), self.clock.now, "192.0.2.7", "2026.8.2", "linux_amd64", ("a", "b")
        )
        link = FakeLink(UUID(tunnel), connector or uuid4(), index, details)
        self.router.add_link(link.tunnel_id, link)
        return link

    async def remembered(self) -> Recent | None:
        return self.recent

    async def actions(self) -> list[str]:
        """What the audit log says was done, the oldest first."""
        return [record.entry.action for record in reversed(await self.audit())]

    async def audit(self) -> Sequence[AuditRecord]:
        return await self.store.audit(limit=1000)


async def _no_figures() -> dict[str, Any]:
    return {}


@contextlib.asynccontextmanager
async def controlled_edge(directory: Path, guesses: Guesses | None = None) -> AsyncIterator[Any]:
    """One on a store in `directory`."""
    store = await SqliteStore.open(directory / "edge.db")
    try:
        router, clock = Router(), Clock()
        registry = await Registry.load(store, router)
        closed: list[tuple[UUID, UUID | None]] = []

        async def close_links(tunnel_id: UUID, connector_id: UUID | None) -> None:
            closed.append((tunnel_id, connector_id))

        async def set_aside(tunnel_id: UUID, key: UUID, aside: bool) -> int:
            return router.set_aside(tunnel_id, key, aside=aside)

        async def health(hostname: str) -> list[ConnectorHealth]:
            return router.health(hostname)

        control = Control(
            registry,
            "localhost",
            management_key_path=directory / "management-key.pem",
            close_links=close_links,
            set_aside=set_aside,
            health=health,
        )
        control.accounts = Accounts(registry, clock=clock)
        transfers = Transfers()
        parts = Parts(
            sessions=directory / "sessions",
            sign_in_links=directory / "sign-in-links",
            transfers=transfers,
            audit=store.audit,
            recent=lambda: edge.remembered(),
            figures=_no_figures,
            certificates=lambda: {"ca": clock.now + timedelta(days=3650)},
            addresses=lambda: {"api": "http://127.0.0.1:8081", "tunnel": "127.0.0.1:7844"},
            ca_certificate=directory / "ca.pem",
            hostname="",
            version="0.0",
            started_at=clock.now,
            workers=1,
        )
        application = create_application(control, guesses, parts)
        edge = ControlledEdge(store, router, registry, control, clock, application, parts, closed)
        yield edge
        await transfers.close()
    finally:
        await store.close()


Scenario = Callable[[ControlledEdge], Awaitable[None]]


def with_edge(directory: Path, scenario: Scenario, guesses: Guesses | None = None) -> None:
    """Run a scenario."""

    async def main() -> None:
        async with controlled_edge(directory, guesses) as edge:
            await scenario(edge)

    asyncio.run(main())


async def refuses(edge: ControlledEdge, asked: Any, status: int) -> str:
    """The reason of a refusal that leaves the store as it was."""
    before = await edge.store.snapshot()
    answer = await asked
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert await edge.store.snapshot() == before
    return str(answer.reason)
