"""What one process of an edge does alone: take changes by the API and the pages, keep house, have
certificates signed. It goes from one process to the next as a whole."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from underpass.edge.api.application import create_application
from underpass.edge.api.control import Control
from underpass.edge.api.server import ApiServer
from underpass.edge.certificate_files import CertificateFiles
from underpass.edge.certificate_keeper import CertificateKeeper
from underpass.edge.challenges import Challenges
from underpass.edge.dashboard.parts import Parts
from underpass.edge.dashboard.public import AskDashboard, DashboardAnswer, ask_application
from underpass.edge.dashboard.transfers import Transfers
from underpass.edge.data_path import DataPath
from underpass.edge.figures import ApiCalls
from underpass.edge.options import AcmeOptions
from underpass.edge.store import Store
from underpass.edge.tls_alpn import TlsAlpnProofs
from underpass.ops.metrics import Snapshot
from underpass.version import VERSION

if TYPE_CHECKING:
    from underpass.edge.server import Edge

__all__ = ["ControlPlane", "cancelled"]


class ControlPlane:
    """Of one edge, whose `options` and addresses are read when they are needed."""

    def __init__(self, edge: Edge, store: Store, api_calls: ApiCalls) -> None:
        self._edge = edge
        self._store = store
        self._api_calls = api_calls
        self._ends: list[Callable[[], Awaitable[None]]] = []
        """What ends it, in this order."""
        self._ending: asyncio.Future[None] | None = None
        self._application: Any = None
        self._keeping: asyncio.Task[None] | None = None

    async def begin(self, path: DataPath, api: socket.socket) -> None:
        """Take changes by the API, on a listening socket, and make those that are due."""
        edge = self._edge
        control = Control(
            edge.registry,
            edge.options.domain,
            public_port=edge.https.port,
            management_hostname=edge.options.management,
            location=edge.options.location,
            management_key_path=edge.directory.management_key,
            close_links=edge.close_links,
            dashboard_hostname=edge.options.dashboard.hostname,
            set_aside=path.set_aside,
            health=path.health,
        )
        transfers = Transfers()
        application = create_application(control, dashboard=self._pages(path, transfers))
        self._application = self._api_calls.counting(application)
        # A copy: it is closed in the end, and may have to be served again.
        server = ApiServer(self._application, api.dup())
        # Command lines that wait for a login must not hold the end up.
        self._ends += [transfers.close, self._answer_no_pages, server.stop]
        await server.start()
        house = asyncio.create_task(edge.registry.keep_house())
        self._ends += [partial(cancelled, house), self._keep_no_certificates]
        await self.keep_certificates()

    async def end(self) -> None:
        """Take no changes any more; those under way are made."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def begin_again(self, path: DataPath, api: socket.socket) -> None:
        """After an end, if there has been one, that was for nothing."""
        if self._ending is not None:
            await self._ending
            self._ending = None
            await self.begin(path, api)

    async def _end(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            await end()

    # Pages.

    async def ask_pages(self, request: AskDashboard) -> DashboardAnswer:
        """What a visitor of the dashboard's public hostname asks."""
        if self._application is None:
            return DashboardAnswer(503, [(b"retry-after", b"1")], b"")
        return await ask_application(self._application, request)

    async def _answer_no_pages(self) -> None:
        """What comes to that hostname now is told to try again."""
        self._application = None

    def _pages(self, path: DataPath, transfers: Transfers) -> Parts:
        """What the dashboard shows."""
        edge = self._edge

        async def figures() -> Snapshot:
            await path.refresh()
            return path.figures()

        return Parts(
            sessions=edge.directory.sessions,
            sign_in_links=edge.directory.sign_in_links,
            transfers=transfers,
            audit=self._store.audit,
            recent=path.recent,
            figures=figures,
            certificates=edge.expiries,
            addresses=lambda: {
                "https": f"https://{edge.https}",
                "http": f"http://{edge.http}",
                "tunnel": ", ".join(map(str, edge.tunnels)),
                "api": f"http://{edge.api}",
            },
            ca_certificate=edge.ca_certificate,
            hostname=edge.options.dashboard.hostname,
            version=VERSION,
            started_at=edge.started_at,
            workers=edge.options.workers,
        )

    # Certificates.

    async def keep_certificates(self) -> None:
        """Have those signed from now on that the options ask for."""
        await self._keep_no_certificates()
        acme = self._edge.options.acme
        if acme is not None and self._ending is None:
            self._keeping = asyncio.create_task(self._keeper(acme).run(), name="certificates")

    async def _keep_no_certificates(self) -> None:
        if self._keeping is not None:
            keeping, self._keeping = self._keeping, None
            await cancelled(keeping)

    def _keeper(self, acme: AcmeOptions) -> CertificateKeeper:
        """Who obtains certificates from a public authority."""
        from underpass.edge.acme import AcmeAuthority  # brings a hundred modules

        edge, options, directory = self._edge, self._edge.options, self._edge.directory

        def wanted() -> Iterable[str]:
            yield options.domain
            yield f"*.{options.domain}"
            own = filter(None, (options.management, options.dashboard.hostname))
            for hostname in (*edge.registry.hostnames, *own):
                # A certificate for the wildcard serves these, as soon as there is one.
                below = hostname.endswith(f".{options.domain}") and hostname.count(".") == (
                    options.domain.count(".") + 1
                )
                # What is passed through has its application's.
                if not (below and acme.dns_hook) and not options.passthrough.covers(hostname):
                    yield hostname

        return CertificateKeeper(
            AcmeAuthority(
                acme,
                directory.acme_account_key,
                Challenges(directory.challenges),
                TlsAlpnProofs(directory.challenges),
            ),
            CertificateFiles(options.certificates, directory.certificates),
            wanted,
            wildcards=bool(acme.dns_hook),
        )


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
