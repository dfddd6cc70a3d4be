"""One edge, put together: data directory, store, registry, listeners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from underpass.edge.api.application import create_application
from underpass.edge.api.control import Control
from underpass.edge.api.server import ApiServer
from underpass.edge.certificate_files import CertificateFiles
from underpass.edge.certificate_keeper import CertificateKeeper
from underpass.edge.certificates import CertificateAuthority
from underpass.edge.challenges import Challenges
from underpass.edge.dashboard.parts import Parts
from underpass.edge.dashboard.public import AskDashboard, DashboardAnswer, ask_application
from underpass.edge.dashboard.transfers import Transfers
from underpass.edge.data_directory import DataDirectory
from underpass.edge.data_path import DataPath, LocalDataPath, Service
from underpass.edge.errors import EdgeError
from underpass.edge.figures import ApiCalls, edge_figures
from underpass.edge.gateway import Gateway
from underpass.edge.listening import TCP_PREFIX, Inherited, bound_address, listen
from underpass.edge.options import TLS_ALPN_01, AcmeOptions, Address, EdgeOptions
from underpass.edge.public_ports import PublicPorts
from underpass.edge.registry import Registry
from underpass.edge.router import Router
from underpass.edge.status import RunningEdge, reachable
from underpass.edge.store import Store
from underpass.edge.store.sqlite import SqliteStore
from underpass.edge.tcp_routes import TcpRoute
from underpass.edge.tls_alpn import TlsAlpnProofs
from underpass.edge.tunnels import TunnelListeners
from underpass.ops.metrics import Snapshot
from underpass.version import VERSION

if TYPE_CHECKING:
    from underpass.edge.operators import Operators

__all__ = ["Edge"]

log = logging.getLogger("underpass.edge")

APPLIED: Final = frozenset(
    {
        *("timeouts", "max_body", "redirect", "hsts_seconds", "error_pages", "compress", "sites"),
        *("certificates", "acme", "trusted_hops", "passthrough", "tcp"),
    }
)
"""Fields of `EdgeOptions` that a running edge takes over."""

STOP_SECONDS: Final = 10.0
"""How long requests under way may take after `stop`."""


class Edge:
    """Everything `underpass edge run` serves. `start` once, then `stop`.

    Listening sockets that are `inherited` go before the addresses in `options`.

    After `start`, `https`, `http`, `api` and `tunnels` say where it listens, `ca_certificate` what
    visitors and connectors have to trust. `listeners` and `gateway` are there with one worker only.
    """

    def __init__(self, options: EdgeOptions, *, inherited: Inherited | None = None) -> None:
        self.options = options
        self._inherited = inherited or {}
        self._closing = contextlib.AsyncExitStack()
        self._patience = STOP_SECONDS
        self.https = options.https
        self.http = options.http
        self.api = options.api
        self.tunnels: tuple[Address, ...] = options.tunnels
        self._ports = PublicPorts(self._open_port, lambda _name, listener: listener.close())
        self.listeners: TunnelListeners
        self.gateway: Gateway
        self.registry: Registry
        self.authority: CertificateAuthority
        self.ca_certificate: Path
        self.metrics: str | None = None
        """Where operators ask, when the options have such a listener."""
        self._api_calls = ApiCalls()
        self._path: DataPath | None = None
        self._application: Any = None
        self._transfers = Transfers()
        self.configurations_refused = 0
        """By whoever reads them: see Reloader."""
        self._configured_at = 0.0
        self._operators: Operators | None = None
        self._directory: DataDirectory | None = None
        self._certificates: CertificateFiles
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the data directory and listen. Raises EdgeError with what is wrong.

        Nothing is left open after a failure.
        """
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise

    async def _start(self) -> None:
        options = self.options
        directory = self._directory = DataDirectory.open(options.data_dir)
        self._closing.callback(directory.close)
        self.ca_certificate = directory.ca_certificate
        # First of all: a taken port must be told before anything is made.
        (https,), (http,), (api,), tunnels = (
            self._listen(name, addresses)
            for name, addresses in (
                ("https", (options.https,)),
                ("http", (options.http,)),
                ("api", (options.api,)),
                ("tunnel", options.tunnels),
            )
        )
        self.https, self.http, self.api = map(bound_address, (https, http, api))
        self.tunnels = tuple(map(bound_address, tunnels))
        self._closing.callback(self._close_ports)
        self._ports.listen(options.tcp)

        self.authority = CertificateAuthority.open(directory)
        self._certificates = CertificateFiles(options.certificates, directory.certificates)
        store = await SqliteStore.open(directory.database)
        self._closing.push_async_callback(store.close)
        router = Router()
        self.registry = await Registry.load(store, router, on_tunnel_deleted=self._close_links_of)
        if options.metrics is not None:
            await self._serve_operators(options.metrics, directory, store, router)
        service = self._service(options)
        path: DataPath
        if options.workers == 1:
            path = await self._serve_here(service, directory, router, http, https, tunnels)
        else:
            path = await self._serve_in_workers(
                service, directory, store, router, http, https, tunnels
            )
        self._path = path
        control = Control(
            self.registry,
            options.domain,
            public_port=self.https.port,
            management_hostname=options.management,
            location=options.location,
            management_key_path=directory.management_key,
            close_links=path.close_links,
            dashboard_hostname=options.dashboard.hostname,
            set_aside=path.set_aside,
            health=path.health,
        )
        started_at = datetime.now(timezone.utc).replace(microsecond=0)
        application = create_application(
            control, dashboard=self._dashboard(directory, store, path, started_at)
        )
        self._application = self._api_calls.counting(application)
        server = ApiServer(self._application, api)
        await server.start()
        self._closing.push_async_callback(server.stop)
        # Command lines that wait for a login must not hold the stop up.
        self._closing.push_async_callback(self._transfers.close)
        for work in (self.registry.keep_house(), self.registry.follow()):
            self._closing.push_async_callback(_cancelled, asyncio.create_task(work))
        self._closing.push_async_callback(self._keep_no_certificates)
        self._keep_certificates(directory)
        self._closing.callback(directory.running.unlink, missing_ok=True)
        RunningEdge(
            pid=os.getpid(),
            version=VERSION,
            started_at=started_at,
            workers=options.workers,
            https=str(self.https),
            http=str(self.http),
            tunnels=tuple(map(str, self.tunnels)),
            api=str(self.api),
            metrics=self.metrics,
            dashboard=self.dashboard,
        ).write(directory)
        self._configured_at = time.time()
        if self._operators is not None:
            self._operators.state = "ready"

    def _service(self, options: EdgeOptions) -> Service:
        """What of the options is for those who carry requests."""
        return Service(
            options.location,
            options.domain,
            secure_port=self.https.port,
            common=options.common,
            sites=options.sites,
            certificates=tuple((str(chain), str(key)) for chain, key in options.certificates),
            access_log=options.access_log,
            management_hostname=options.management,
            dashboard=options.dashboard,
            trusted_hops=options.trusted_hops,
            passthrough=options.passthrough,
            tls_alpn=options.acme is not None and options.acme.way == TLS_ALPN_01,
            tcp=self.tcp,
        )

    async def reload(self, options: EdgeOptions) -> tuple[str, ...]:
        """Do from now on as `options` say, without a connection or a request less; one at a time.

        Returns the fields that have changed and take effect with the next start only. Raises
        EdgeError, and then nothing has changed.
        """
        old = self.options
        waiting = tuple(
            each.name
            for each in fields(EdgeOptions)
            if each.name not in APPLIED and getattr(old, each.name) != getattr(options, each.name)
        )
        wanted = replace(options, **{name: getattr(old, name) for name in waiting})
        assert self._path is not None
        assert self._directory is not None
        self._certificates.replace(wanted.certificates)
        # The one thing that a system may refuse, so it comes first.
        await self.apply_tcp(wanted.tcp)
        try:
            await self._path.apply(self._service(wanted))
        except EdgeError:
            await self.apply_tcp(old.tcp)
            raise
        self.options = wanted
        self._configured_at = time.time()
        if any(
            getattr(old, name) != getattr(wanted, name)
            for name in ("acme", "certificates", "passthrough")
        ):
            await self._keep_no_certificates()
            self._keep_certificates(self._directory)
        return waiting

    def _keep_certificates(self, directory: DataDirectory) -> None:
        if self.options.acme is not None:
            keeper = self._keeper(self.options.acme, directory)
            self._keeping = asyncio.create_task(keeper.run(), name="certificates")

    async def _keep_no_certificates(self) -> None:
        if self._keeping is not None:
            keeping, self._keeping = self._keeping, None
            await _cancelled(keeping)

    async def _serve_here(
        self,
        service: Service,
        directory: DataDirectory,
        router: Router,
        http: socket.socket,
        https: socket.socket,
        tunnels: list[socket.socket],
    ) -> DataPath:
        path = LocalDataPath(
            service, self.registry, router, self.authority, directory, self._ask_dashboard
        )
        self.listeners, self.gateway = path.listeners, path.gateway
        self._stop_with_us(path)
        await path.start_links(tunnels)
        await path.start_visitors(http, https, self._ports.listeners)
        return path

    async def _serve_in_workers(
        self,
        service: Service,
        directory: DataDirectory,
        store: Store,
        router: Router,
        http: socket.socket,
        https: socket.socket,
        tunnels: list[socket.socket],
    ) -> DataPath:
        from underpass.edge.workers import EdgeWorkers  # one process needs nothing of it

        workers = EdgeWorkers(
            self.options.workers,
            service,
            directory.path,
            store,
            router,
            http=http,
            https=https,
            tunnels=tunnels,
            ask_dashboard=self._ask_dashboard,
            tcp=self._ports.listeners,
        )
        self.registry.on_changed = workers.take_over
        self._stop_with_us(workers)
        await workers.open()
        return workers

    async def _serve_operators(
        self, address: Address, directory: DataDirectory, store: Store, router: Router
    ) -> None:
        """Before anything is served, and until all has ended."""
        from underpass.edge.operators import Operators  # most edges have none

        operators = Operators(
            [
                lambda: {} if self._path is None else self._path.figures(),
                lambda: edge_figures(
                    self.registry,
                    router,
                    self._api_calls,
                    self._expiries(),
                ),
                lambda: {
                    "underpass_configuration_refused": {("file",): self.configurations_refused},
                    "underpass_configuration_last_success_timestamp_seconds": self._configured_at,
                },
            ],
            refresh=self._refresh_figures,
            workers=lambda: () if self._path is None else self._path.processes(),
            read_store=lambda: store.changes_since(self.registry.revision),
        )
        await operators.start(str(address))
        self._closing.push_async_callback(operators.stop)
        self._operators, self.metrics = operators, operators.address

    def _expiries(self) -> dict[str, datetime]:
        """When the certificates end that are there."""
        return {**self._certificates.expiries(), "ca": self.authority.not_after}

    async def _refresh_figures(self) -> None:
        if self._path is not None:
            await self._path.refresh()

    @property
    def dashboard(self) -> str:
        """The address of the dashboard: the public one, if it has such."""
        hostname = self.options.dashboard.hostname
        if not hostname:
            return f"http://{reachable(str(self.api))}/dashboard"
        port = "" if self.https.port == 443 else f":{self.https.port}"
        return f"https://{hostname}{port}/dashboard"

    async def _ask_dashboard(self, request: AskDashboard) -> DashboardAnswer:
        """What a visitor of its public hostname asks."""
        if self._application is None:
            return DashboardAnswer(503, [(b"retry-after", b"1")], b"")
        return await ask_application(self._application, request)

    def _dashboard(
        self, directory: DataDirectory, store: Store, path: DataPath, started_at: datetime
    ) -> Parts:
        """What the dashboard shows."""

        async def figures() -> Snapshot:
            await path.refresh()
            return path.figures()

        return Parts(
            sessions=directory.sessions,
            sign_in_links=directory.sign_in_links,
            transfers=self._transfers,
            audit=store.audit,
            recent=path.recent,
            figures=figures,
            certificates=self._expiries,
            addresses=lambda: {
                "https": f"https://{self.https}",
                "http": f"http://{self.http}",
                "tunnel": ", ".join(map(str, self.tunnels)),
                "api": f"http://{self.api}",
            },
            ca_certificate=self.ca_certificate,
            hostname=self.options.dashboard.hostname,
            version=VERSION,
            started_at=started_at,
            workers=self.options.workers,
        )

    def _keeper(self, acme: AcmeOptions, directory: DataDirectory) -> CertificateKeeper:
        """Who obtains certificates from a public authority."""
        from underpass.edge.acme import AcmeAuthority  # brings a hundred modules

        options = self.options

        def wanted() -> Iterable[str]:
            yield options.domain
            yield f"*.{options.domain}"
            own = filter(None, (options.management, options.dashboard.hostname))
            for hostname in (*self.registry.hostnames, *own):
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

    def _stop_with_us(self, path: DataPath) -> None:
        self._closing.push_async_callback(path.close)
        self._closing.push_async_callback(self._patiently, path.stop_links)
        # Stopped before the links: what visitors still wait for comes through those.
        self._closing.push_async_callback(self._patiently, path.stop_visitors)

    def _listen(self, name: str, addresses: Iterable[Address]) -> list[socket.socket]:
        listeners = list(self._inherited.get(name, ()))
        for listener in listeners:
            self._closing.callback(listener.close)
        if not listeners:
            for address in addresses:
                listeners.append(listen(address))
                self._closing.callback(listeners[-1].close)
        return listeners

    @property
    def tcp(self) -> tuple[TcpRoute, ...]:
        """Its public ports, with the addresses that they listen on."""
        return self._ports.routes

    async def apply_tcp(self, routes: tuple[TcpRoute, ...]) -> None:
        """Have these public ports and no others: see `PublicPorts.change`."""
        assert self._path is not None
        await self._ports.change(routes, self._path.apply_tcp)

    def _open_port(self, name: str, address: Address) -> socket.socket:
        handed_over = self._inherited.get(name)
        return handed_over.pop() if handed_over else listen(address)

    def _close_ports(self) -> None:
        self._ports.close()
        for name, listeners in self._inherited.items():
            if name.startswith(TCP_PREFIX):
                for listener in listeners:  # no route has wanted it
                    listener.close()

    def _close_links_of(self, tunnel_id: UUID) -> None:
        if self.options.workers == 1:
            self.listeners.close_links_of(tunnel_id)

    async def stop(self) -> None:
        """Accept no more, let requests under way finish for STOP_SECONDS, close everything.

        Cancelled, it waits for no request any more, and still closes everything.
        """
        if self._operators is not None:
            self._operators.state = "draining"
        closing = asyncio.ensure_future(self._closing.aclose())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            self._patience = 0.0
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            raise

    async def _patiently(self, stop: Callable[[float], Awaitable[None]]) -> None:
        try:
            await stop(self._patience)
        except asyncio.CancelledError:
            await stop(0.0)
            raise


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
