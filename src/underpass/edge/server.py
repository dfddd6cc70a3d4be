"""One edge, put together: data directory, store, registry, listeners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from underpass.edge.certificate_files import CertificateFiles
from underpass.edge.certificates import CertificateAuthority
from underpass.edge.control_plane import ControlPlane, cancelled
from underpass.edge.data_directory import DataDirectory
from underpass.edge.data_path import DataPath, LocalDataPath, Service
from underpass.edge.errors import EdgeError, HandoverError
from underpass.edge.figures import ApiCalls, edge_figures
from underpass.edge.gateway import Gateway
from underpass.edge.listening import TCP_PREFIX, Inherited, KeptSocket, Listeners, bound_address
from underpass.edge.moving import LinkMover
from underpass.edge.options import TLS_ALPN_01, Address, EdgeOptions
from underpass.edge.public_ports import PublicPorts
from underpass.edge.registry import Registry
from underpass.edge.router import Router
from underpass.edge.status import RunningEdge, reachable
from underpass.edge.store import Store
from underpass.edge.store.sqlite import SqliteStore
from underpass.edge.tcp_routes import TcpRoute
from underpass.edge.tunnels import TunnelListeners
from underpass.version import VERSION

if TYPE_CHECKING:
    from underpass.edge.handover.predecessor import Predecessor
    from underpass.edge.handover.successor import Successor
    from underpass.edge.operators import Operators

__all__ = ["Edge"]

log = logging.getLogger("underpass.edge")

APPLIED: Final = frozenset(
    {
        *("timeouts", "max_body", "redirect", "hsts_seconds", "error_pages", "compress", "sites"),
        *("certificates", "acme", "trusted_hops", "passthrough", "tcp", "handover"),
    }
)
"""Fields of `EdgeOptions` that a running edge takes over."""

STOP_SECONDS: Final = 10.0
"""How long requests under way may take after `stop`."""

MOVED_SECONDS: Final = 120.0
"""How long a hand-over waits for the links of the process before this one to have come."""


class Edge:
    """Everything `underpass edge run` serves. `start` once, then `stop`.

    Listening sockets that are `inherited` go before the addresses in `options`. With a
    `predecessor` it takes the place of another process; `hand_over` has another one take its own.

    After `start`, `https`, `http`, `api` and `tunnels` say where it listens, `ca_certificate` what
    visitors and connectors have to trust. `listeners` and `gateway` are there with one worker only.
    """

    def __init__(
        self,
        options: EdgeOptions,
        *,
        inherited: Inherited | None = None,
        predecessor: Predecessor | None = None,
    ) -> None:
        self.options = options
        self._predecessor = predecessor
        self._listeners = Listeners(
            inherited or {}, () if predecessor is None else predecessor.sockets
        )
        self._closing = contextlib.AsyncExitStack()
        self._patience = STOP_SECONDS
        self.https = options.https
        self.http = options.http
        self.api = options.api
        self.tunnels: tuple[Address, ...] = options.tunnels
        self._ports = PublicPorts(
            self._open_port, lambda _, listener: self._listeners.close_one(listener)
        )
        self.listeners: TunnelListeners
        self.gateway: Gateway
        self.registry: Registry
        self.authority: CertificateAuthority
        self.ca_certificate: Path
        self.metrics: str | None = None
        """Where operators ask, when the options have such a listener."""
        self._api_calls = ApiCalls()
        self._path: DataPath | None = None
        self.started_at = datetime.now(timezone.utc).replace(microsecond=0)
        self.configurations_refused = 0
        """By whoever reads them: see Reloader."""
        self._configured_at = 0.0
        self._operators: Operators | None = None
        self.directory: DataDirectory
        self._router: Router
        self._control: ControlPlane
        self._successor: Successor | None = None
        self._mover: LinkMover | None = None
        self._certificates: CertificateFiles

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
        options, predecessor = self.options, self._predecessor
        if predecessor is None:
            directory = DataDirectory.open(options.data_dir)
        else:
            directory = DataDirectory.handed_over(options.data_dir, predecessor.lock)
        self.directory = directory
        self._closing.callback(directory.close)
        self.ca_certificate = directory.ca_certificate
        # First of all: a taken port must be told before anything is made.
        self._closing.callback(self._listeners.close)
        (https,), (http,), (api,), tunnels, metrics = (
            self._listeners.listen(name, addresses)
            for name, addresses in (
                ("https", (options.https,)),
                ("http", (options.http,)),
                ("api", (options.api,)),
                ("tunnel", options.tunnels),
                ("metrics", () if options.metrics is None else (options.metrics,)),
            )
        )
        self.https, self.http, self.api = map(bound_address, (https, http, api))
        self.tunnels = tuple(map(bound_address, tunnels))
        self._ports.listen(options.tcp)
        # Others may want a public port later.
        self._listeners.close_spare(but=TCP_PREFIX)

        self.authority = CertificateAuthority.open(directory)
        self._certificates = CertificateFiles(options.certificates, directory.certificates)
        store = await SqliteStore.open(directory.database)
        self._closing.push_async_callback(store.close)
        router = self._router = Router()
        self.registry = await Registry.load(store, router, on_tunnel_deleted=self._close_links_of)
        self._control = ControlPlane(self, store, self._api_calls)
        if predecessor is None:
            # Before anything is served, and until all has ended.
            await self._serve_operators(metrics, store)
        service = self._service(options)
        path: DataPath
        if options.workers == 1:
            path = await self._serve_here(service, directory, router, http, https, tunnels)
        else:
            path = await self._serve_in_workers(
                service, directory, store, router, http, https, tunnels
            )
        self._path = path
        self._closing.push_async_callback(cancelled, asyncio.create_task(self.registry.follow()))
        if predecessor is not None:
            await predecessor.take_over()
            directory.sign()
            await self._serve_operators(metrics, store)
        self._closing.push_async_callback(self._control.end)
        await self._control.begin(path, api)
        running = RunningEdge(
            pid=os.getpid(),
            version=VERSION,
            started_at=self.started_at,
            workers=options.workers,
            https=str(self.https),
            http=str(self.http),
            tunnels=tuple(map(str, self.tunnels)),
            api=str(self.api),
            metrics=self.metrics,
            dashboard=self.dashboard,
        )
        running.write(directory)
        self._closing.callback(running.forget, directory)
        self._configured_at = time.time()
        if self._operators is not None:
            self._operators.state = "ready"
        if predecessor is not None:
            predecessor.taken()

    async def close_links(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        """Give up links, those of the process before this one too: see DataPath."""
        assert self._path is not None
        await self._path.close_links(tunnel_id, connector_id)
        if self._predecessor is not None and not self._predecessor.gone.is_set():
            await self._predecessor.close_links(tunnel_id, connector_id)

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
            await self._control.keep_certificates()
        return waiting

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
            service,
            self.registry,
            router,
            self.authority,
            directory,
            self._control.ask_pages,
            number=self._first_number,
        )
        self.listeners, self.gateway = path.listeners, path.gateway
        self._stop_with_us(path)
        if self._predecessor is not None:
            await self._predecessor.meet(path)
            await path.reach_those_beyond()
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
            ask_dashboard=self._control.ask_pages,
            first=self._first_number,
            tcp=self._ports.listeners,
        )
        self.registry.on_changed = workers.take_over
        self._stop_with_us(workers)
        if self._predecessor is not None:
            await self._predecessor.meet(workers)
        await workers.open()
        return workers

    @property
    def follows_another(self) -> bool:
        """Whether it has taken the place of another process."""
        return self._predecessor is not None

    @property
    def _first_number(self) -> int:
        """What the first of the processes that serve is called: as none is that it may meet."""
        return 0 if self._predecessor is None else self._predecessor.numbers.stop

    async def _serve_operators(self, listeners: list[socket.socket], store: Store) -> None:
        if not listeners:
            return
        from underpass.edge.operators import Operators  # most edges have none

        operators = Operators(
            [
                lambda: {} if self._path is None else self._path.figures(),
                lambda: edge_figures(
                    self.registry,
                    self._router,
                    self._api_calls,
                    self.expiries(),
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
        await operators.start(listeners[0].dup())
        self._closing.push_async_callback(operators.stop)
        self._operators, self.metrics = operators, operators.address

    def expiries(self) -> dict[str, datetime]:
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

    def _stop_with_us(self, path: DataPath) -> None:
        self._closing.push_async_callback(path.close)
        self._closing.push_async_callback(self._patiently, path.stop_links)
        # Stopped before the links: what visitors still wait for comes through those.
        self._closing.push_async_callback(self._patiently, path.stop_visitors)

    @property
    def tcp(self) -> tuple[TcpRoute, ...]:
        """Its public ports, with the addresses that they listen on."""
        return self._ports.routes

    async def apply_tcp(self, routes: tuple[TcpRoute, ...]) -> None:
        """Have these public ports and no others: see `PublicPorts.change`."""
        assert self._path is not None
        await self._ports.change(routes, self._path.apply_tcp)

    def _open_port(self, name: str, address: Address) -> socket.socket:
        (listener,) = self._listeners.listen(name, [address])
        return listener

    def _close_links_of(self, tunnel_id: UUID) -> None:
        if self.options.workers == 1:
            self.listeners.close_links_of(tunnel_id)

    async def stop(self) -> None:
        """Accept no more, let requests under way finish for STOP_SECONDS, close everything.

        Cancelled, it waits for no request any more, and still closes everything.
        """
        if self._operators is not None:
            self._operators.state = "draining"
        closing = asyncio.ensure_future(self._close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            self._patience = 0.0
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            raise

    # Making way for the next process.

    async def hand_over(self, command: Sequence[str]) -> int:
        """Have a new process of `command` take everything; its id. `retire` follows.

        Raises HandoverError, with the reason; and then all is as before.
        """
        if self._successor is not None:
            raise HandoverError("another process is about to take over already")
        if os.getpid() == 1:
            raise HandoverError(
                "this process is the first one of its container, which would end with it: start "
                "another container beside this one"
            )
        from underpass.edge.handover.successor import Successor  # most edges have none

        assert self._path is not None
        successor = self._successor = Successor(
            command, self, self.directory.lock, self._path.numbers
        )
        try:
            await self._until_the_one_before_has_moved()
            await successor.start()
        except HandoverError:
            self._part()
            (api,) = self._listeners.named("api")
            await self._control.begin_again(self._path, api)
            raise
        except BaseException:
            # Nothing begins anew in an edge that ends.
            self._part()
            raise
        return successor.pid

    async def _until_the_one_before_has_moved(self) -> None:
        """The next process will know of our links, and not of those before ours."""
        if self._predecessor is None:
            return
        try:
            await asyncio.wait_for(self._predecessor.moved.wait(), MOVED_SECONDS)
        except asyncio.TimeoutError:
            raise HandoverError(
                "connectors are still on their way from the process before this one; try again "
                "in a minute"
            ) from None

    async def retire(self) -> None:
        """After `hand_over`: accept no more, have links moved, and return when all that was under
        way has ended, or the time for it is over, or the process that took over is gone."""
        assert self._successor is not None
        gone = asyncio.ensure_future(self._successor.gone.wait())
        work = asyncio.ensure_future(self._retire(self.options.handover.drain_seconds))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.gather(gone, work, return_exceptions=True)

    async def _retire(self, seconds: float) -> None:
        assert self._path is not None
        assert self._successor is not None
        assert self._mover is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self._operators is not None:
            await self._operators.drain()
        # Connectors that dial from now on come to the other process alone.
        await self._path.give_way()
        visitors = asyncio.ensure_future(self._path.drain_visitors(seconds))
        try:
            await asyncio.sleep(0)  # their listeners are let go of now
            # A socket that is left open here would keep its port, should that process end.
            self._listeners.close()
            await asyncio.wait_for(self._mover.run(), seconds)
            self._successor.links_have_moved()
            log.info("All links have moved")
            await visitors
        except asyncio.TimeoutError:
            log.warning("Connectors have not moved in time, and are cut off")
        finally:
            visitors.cancel()
            await asyncio.gather(visitors, return_exceptions=True)
        if loop.time() >= end:
            # They have had their time.
            self._patience = 0.0
            return
        await self._path.stop_links(end - loop.time())
        if self._predecessor is not None:
            # Its visitors' requests come here, and go on to where the links are.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._predecessor.gone.wait(), max(end - loop.time(), 0.0))

    def estate(self) -> Sequence[KeptSocket]:
        """See handover.successor.Heir, as the following."""
        return self._listeners.every

    def kept_aside(self) -> Sequence[tuple[UUID, UUID]]:
        """What gets nothing new."""
        return tuple(self._router.kept_aside())

    async def introduce(self, successor: Successor) -> None:
        """Have it told of the links here, and of all changes of them."""
        assert self._path is not None
        self._mover = LinkMover(self._router, self._path.move, self.options.handover.drain_seconds)
        await self._path.introduce(self._tell_successor)

    def _tell_successor(self, notice: Any) -> None:
        assert self._successor is not None
        assert self._mover is not None
        self._successor.tell(notice)
        self._mover.changed()

    def notice(self, notice: Any) -> None:
        """It has told something of its links."""
        assert self._path is not None
        assert self._mover is not None
        self._path.notice(notice)
        self._mover.changed()

    async def let_go_of_control(self) -> None:
        """Change nothing any more."""
        log.info("Handing over: API calls under way may finish")
        await self._control.end()

    def _part(self) -> None:
        """The process that was to take over is gone."""
        if self._mover is not None and self._path is not None and self._successor is not None:
            self._path.part(self._tell_successor, self._successor.workers)
        self._mover = self._successor = None

    async def _close(self) -> None:
        await self._closing.aclose()
        for other in (self._predecessor, self._successor):
            if other is not None:
                await other.close()

    async def _patiently(self, stop: Callable[[float], Awaitable[None]]) -> None:
        try:
            await stop(self._patience)
        except asyncio.CancelledError:
            await stop(0.0)
            raise
