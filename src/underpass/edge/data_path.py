"""What carries requests: the listeners that connectors dial, the gateway for visitors, and between
them the router. In the edge's own process, or in each of its workers."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from underpass.core.recent import RecentRequests
from underpass.edge.certificate_files import CertificateFiles
from underpass.edge.certificates import CertificateAuthority
from underpass.edge.challenges import Challenges
from underpass.edge.dashboard.options import DEFAULT_DASHBOARD, DashboardOptions
from underpass.edge.dashboard.public import Ask, PublicDashboard
from underpass.edge.data_directory import DataDirectory
from underpass.edge.entrance import Beginnings
from underpass.edge.figures import traffic_figures
from underpass.edge.gateway import HANDSHAKE_SECONDS, MAX_CONNECTIONS, Gateway
from underpass.edge.link_details import CarriedBy
from underpass.edge.links import EdgeLink
from underpass.edge.management import Management
from underpass.edge.manners import Manners, site_table
from underpass.edge.moving import Way
from underpass.edge.origin_health import ConnectorHealth
from underpass.edge.passthrough import NO_PASSTHROUGH, Passthrough
from underpass.edge.recent import Recent, read_recent
from underpass.edge.registry import Registry
from underpass.edge.router import Link, Router
from underpass.edge.sites import COMMON, Site
from underpass.edge.tcp_listeners import TcpListeners
from underpass.edge.tcp_routes import StreamLimits, TcpRoute
from underpass.edge.tcp_streams import TcpStreams
from underpass.edge.timeouts import Timeouts
from underpass.edge.tls import public_listener_context, tunnel_listener_context
from underpass.edge.tls_alpn import TlsAlpnProofs
from underpass.edge.trusted_hops import NO_HOPS, TrustedHops
from underpass.edge.tunnels import TunnelListeners
from underpass.edge.waiting import WaitingRoom
from underpass.ops.access_log_options import AccessLogOptions
from underpass.ops.metrics import Snapshot
from underpass.wire.turns import LoopTurn

if TYPE_CHECKING:
    from underpass.edge.neighbours import Neighbours

__all__ = ["DataPath", "LocalDataPath", "Service"]

PASSTHROUGH_GROUP: Final = "passthrough"
"""What logs and metrics call streams of TLS that ends elsewhere."""

PASSTHROUGH_LIMITS: Final = StreamLimits(connections=MAX_CONNECTIONS, per_client=256)
"""As many visitors as there may be otherwise; browsers need a few connections each."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a data path has to know of the options."""

    location: str
    domain: str
    secure_port: int = 443
    """Of the public listener with TLS."""
    common: Site = COMMON
    """How requests are dealt with."""
    sites: tuple[Site, ...] = ()
    """Hostnames whose requests are dealt with otherwise."""
    certificates: tuple[tuple[str, str], ...] = ()
    """The operator's certificate files: paths of chain and key."""

    access_log: AccessLogOptions | None = None
    management_hostname: str = ""
    """By which connectors' management services are asked; empty: by none."""
    dashboard: DashboardOptions = DEFAULT_DASHBOARD
    """Pages for people: at which name, and whether the last requests are remembered for them."""
    trusted_hops: TrustedHops = NO_HOPS
    passthrough: Passthrough = NO_PASSTHROUGH
    tls_alpn: bool = False
    """Names are proved to an ACME authority in TLS handshakes."""
    tcp: tuple[TcpRoute, ...] = ()
    """Public ports, with the addresses that they have come to listen on."""

    @property
    def certificate_paths(self) -> list[tuple[Path, Path]]:
        """The same, as paths."""
        return [(Path(chain), Path(key)) for chain, key in self.certificates]


class DataPath(Protocol):
    """Ends in this order: visitors are waited for before the links go that they wait for.

    Or it gives way to another edge's process: the two are introduced to each other, then each tells
    the other of its links, and sends on requests for tunnels whose links the other one has.
    """

    numbers: range
    """What its processes are called by others."""

    async def introduce(self, tell: Callable[[Any], object]) -> None:
        """Have another edge's process told of what there is, and of all changes from now on, in
        `worker_messages`: LinkCame, LinkWent, PeerIsUp. Raises OSError."""
        ...

    def notice(self, notice: Any) -> None:
        """What that process has told."""
        ...

    def leave(self, workers: Iterable[int]) -> None:
        """Its processes of these numbers have no links any more: send them nothing."""
        ...

    def part(self, tell: Callable[[Any], object], workers: Iterable[int]) -> None:
        """It is gone, with the processes of these numbers."""
        ...

    def move(self, link: Link, way: Way, drain_seconds: float) -> None:
        """Bring a link's connector to have it elsewhere; what is under way may take so long."""
        ...

    async def apply(self, service: Service) -> None:
        """Do from now on as `service` says, where that can be changed: see `server.APPLIED`.

        Raises EdgeError, and then nothing has changed.
        """
        ...

    async def close_links(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        """Give up a tunnel's links, or those of one of its connectors; returns when they get no
        new requests."""
        ...

    async def set_aside(self, tunnel_id: UUID, key: UUID, aside: bool) -> int:
        """Send a connector's links, or one connection, nothing new, or again as others; `key` is
        the id of either. Returns when that is so, with the number of links.

        Raises:
            TooManyLinks: so many are kept aside already.
        """
        ...

    async def health(self, hostname: str) -> list[ConnectorHealth]:
        """The connectors of a route that are in trouble."""
        ...

    async def apply_tcp(
        self, routes: Sequence[TcpRoute], sockets: Mapping[str, socket.socket]
    ) -> None:
        """Have these public ports and no others: see `TcpListeners.apply`."""
        ...

    async def refresh(self) -> None:
        """Bring `figures` up to date."""
        ...

    def figures(self) -> Snapshot:
        """What it has carried: see `figures.traffic_figures`."""
        ...

    async def recent(self) -> Recent | None:
        """The last requests; None if they are not remembered."""
        ...

    def processes(self) -> Sequence[int]:
        """The ids of the processes that serve, beside this one."""
        ...

    async def give_way(self) -> None:
        """Take no more links: another process does, on the same sockets. Those that go from now on
        are expected there."""
        ...

    async def drain_visitors(self, seconds: float) -> None:
        """Take no more visitors: another process does. Return when those there are have gone, of
        themselves or after `seconds`; nobody is turned away before that."""
        ...

    async def stop_visitors(self, seconds: float) -> None:
        """Accept no visitors; let requests under way finish for so long. 0: at once."""
        ...

    async def stop_links(self, seconds: float) -> None:
        """Accept no links; let those there are drain for so long, and close them."""
        ...

    async def close(self) -> None:
        """Let go of the rest."""
        ...


class LocalDataPath:
    """The data path of one process; belongs to the running loop."""

    def __init__(
        self,
        service: Service,
        registry: Registry,
        router: Router,
        authority: CertificateAuthority,
        directory: DataDirectory,
        ask_dashboard: Ask | None = None,
        room: WaitingRoom | None = None,
        number: int = 0,
    ) -> None:
        self.numbers = range(number, number + 1)
        self._neighbours: Neighbours | None = None
        self._others: list[Callable[[Any], object]] = []
        self._sockets: Path | None = None
        self._service = service
        self.router = router
        self._room = room if room is not None else WaitingRoom(router)
        if router.on_link_added is None:
            router.on_link_added = self._link_came
        self._room.expect_all(registry.tunnel_ids)
        self._authority = authority
        self._scratch = scratch = directory.scratch
        self._challenges = directory.challenges
        self.certificates = CertificateFiles(
            service.certificate_paths,
            directory.certificates,
        )
        access_log = None
        if service.access_log is not None:
            from underpass.edge.access_log import AccessLog  # most edges have none

            access_log = AccessLog(service.access_log)
        self._recent = RecentRequests() if service.dashboard.recent_requests else None
        self.turn = LoopTurn(asyncio.get_running_loop())
        self.turn.start()
        self.turn.on_tick.add(self._room.tick)
        manners = Manners.of(service.common)
        self.listeners = TunnelListeners(
            self.turn,
            tunnel_listener_context(authority, scratch),
            registry,
            router,
            location=service.location,
            timeouts=service.common.timeouts,
        )
        self.gateway = Gateway(
            self.turn,
            router,
            location=service.location,
            manners=manners,
            secure_port=service.secure_port,
            challenges=Challenges(directory.challenges),
            access_log=access_log,
            recent=self._recent,
            room=self._room,
        )
        if self._recent is not None:
            self.listeners.on_link_gone = self._forget
        self.gateway.behave(manners, site_table(service.sites, manners))
        if service.management_hostname:
            router.reserve(service.management_hostname)
            self.gateway.management = Management(
                service.management_hostname, directory.management_key, registry, router
            )
        if service.dashboard.hostname and ask_dashboard is not None:
            router.reserve(service.dashboard.hostname)
            self.gateway.dashboard = PublicDashboard(
                service.dashboard.hostname, service.secure_port, ask_dashboard
            )

        self.streams = TcpStreams(self.turn, self.gateway, location=service.location)
        self._tcp_listeners = TcpListeners(
            self.turn,
            self.streams,
            Beginnings(service.trusted_hops),
            seconds=HANDSHAKE_SECONDS,
        )

    def _link_came(self, link: Link) -> None:
        self._room.came(link.tunnel_id)

    async def start_links(self, tunnels: list[socket.socket]) -> None:
        """Take links on bound sockets."""
        await self.listeners.start(tunnels)

    async def start_visitors(
        self,
        http: socket.socket,
        https: socket.socket,
        tcp: Mapping[str, socket.socket],
    ) -> None:
        """Take visitors on bound sockets; `tcp` has those of the public ports by name."""
        context = public_listener_context(
            self._authority,
            self._scratch,
            self._service.domain,
            self._is_served,
            self.certificates.find,
        )
        await self.gateway.start(http, https, context, self._beginnings(self._service))
        await self.apply_tcp(self._service.tcp, tcp)

    async def apply_tcp(
        self, routes: Sequence[TcpRoute], sockets: Mapping[str, socket.socket]
    ) -> None:
        """See DataPath."""
        await self._tcp_listeners.apply(routes, sockets)

    def _beginnings(self, service: Service) -> Beginnings:
        return Beginnings(
            service.trusted_hops,
            TlsAlpnProofs(self._challenges) if service.tls_alpn else None,
            service.passthrough,
            self._pass_through,
        )

    def _pass_through(self, hostname: str, address: str) -> asyncio.BaseProtocol:
        group = self.streams.group(PASSTHROUGH_GROUP, PASSTHROUGH_LIMITS)
        return self.streams.accepting(hostname, group, client=address)

    def _is_served(self, hostname: str) -> bool:
        own = (self._service.management_hostname, self._service.dashboard.hostname)
        return hostname in own or self.router.knows(hostname)

    async def apply(self, service: Service) -> None:
        """See DataPath."""
        manners = Manners.of(service.common)
        sites = site_table(service.sites, manners)
        self.certificates.replace(service.certificate_paths)
        self.gateway.behave(manners, sites)
        self.listeners.allow(service.common.timeouts)
        if self._neighbours is not None:
            self._neighbours.allow(service.common.timeouts)
        self._service = service
        await self.gateway.begin_with(self._beginnings(service))
        await self._tcp_listeners.begin_with(Beginnings(service.trusted_hops))
        if not service.passthrough:
            self.streams.drop_group(PASSTHROUGH_GROUP)

    def close_links_of(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        """See TunnelListeners."""
        self.listeners.close_links_of(tunnel_id, connector_id)

    async def close_links(self, tunnel_id: UUID, connector_id: UUID | None = None) -> None:
        """See DataPath."""
        self.close_links_of(tunnel_id, connector_id)

    async def set_aside(self, tunnel_id: UUID, key: UUID, aside: bool) -> int:
        """See DataPath."""
        return self.router.set_aside(tunnel_id, key, aside=aside)

    async def health(self, hostname: str) -> list[ConnectorHealth]:
        """See DataPath."""
        return self.router.health(hostname)

    async def refresh(self) -> None:
        """See DataPath."""

    def figures(self) -> Snapshot:
        """See DataPath."""
        return traffic_figures(self)

    async def recent(self) -> Recent | None:
        """See DataPath."""
        return self.recent_here()

    def _forget(self, link: EdgeLink) -> None:
        """Of a link that is gone, what is remembered keeps the name alone."""
        assert self._recent is not None
        place = CarriedBy(link.tunnel_id, link.connector_id, link.conn_index)
        self._recent.forget(link, place)

    def recent_here(self) -> Recent | None:
        """The last requests to this process."""
        return None if self._recent is None else read_recent(self._recent)

    def processes(self) -> Sequence[int]:
        """See DataPath."""
        return ()

    @property
    def timeouts(self) -> Timeouts:
        """How long requests may take."""
        return self._service.common.timeouts

    async def introduce(self, tell: Callable[[Any], object]) -> None:
        """See DataPath."""
        if self._neighbours is None:
            from underpass.edge.neighbours import Neighbours  # most edges have none

            # Not in the data directory: a path of more than about 100 bytes is none to a socket.
            self._sockets = Path(tempfile.mkdtemp(prefix="underpass-"))
            self._neighbours = Neighbours(
                self.router, self._room, self._tell_others, self.numbers[0]
            )
            await self._neighbours.open(self, self._sockets)
        for notice in self._neighbours.introduction():
            tell(notice)
        self._others.append(tell)

    def _tell_others(self, notice: Any) -> None:
        for tell in self._others:
            tell(notice)

    def notice(self, notice: Any) -> None:
        """See DataPath."""
        assert self._neighbours is not None
        self._neighbours.notice_from_beyond(notice)

    def leave(self, workers: Iterable[int]) -> None:
        """See DataPath."""
        assert self._neighbours is not None
        for worker in workers:
            self._neighbours.peer_leaves(worker)

    def part(self, tell: Callable[[Any], object], workers: Iterable[int]) -> None:
        """See DataPath."""
        assert self._neighbours is not None
        self._others.remove(tell)
        for worker in workers:
            self._neighbours.peer_went(worker)

    async def reach_those_beyond(self) -> None:
        """Return when the processes that this one has been introduced to can be sent requests."""
        if self._neighbours is not None:
            await self._neighbours.reach_those_beyond()

    def move(self, link: Link, way: Way, drain_seconds: float) -> None:
        """See DataPath."""
        if isinstance(link, EdgeLink):
            link.move(way, drain_seconds)

    async def give_way(self) -> None:
        """See DataPath."""
        if self._neighbours is not None:
            self._neighbours.hands_over = True
        self.listeners.give_way()

    async def drain_visitors(self, seconds: float) -> None:
        """See DataPath."""
        self._tcp_listeners.leave()
        await asyncio.gather(self.gateway.drain(seconds), self.streams.drain(seconds))

    async def stop_visitors(self, seconds: float) -> None:
        """See DataPath."""
        self._tcp_listeners.close()
        await asyncio.gather(self.gateway.stop(seconds), self.streams.stop(seconds))

    async def stop_links(self, seconds: float) -> None:
        """See DataPath."""
        await self.listeners.stop(seconds)
        if self._neighbours is not None:
            await self._neighbours.drain(seconds)

    async def close(self) -> None:
        """See DataPath."""
        if self._neighbours is not None:
            self._neighbours.close_listener()
            await self._neighbours.close()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
        self.turn.stop()
        self.close_access_log()

    def close_access_log(self) -> None:
        """Write its last lines. Closing twice is harmless."""
        access_log, self.gateway.access_log = self.gateway.access_log, None
        if access_log is not None:
            access_log.close()
