"""What an edge's supervisor and its workers say to each other (see `ops.workers.channel`)."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from underpass.edge.dashboard.public import AskDashboard
from underpass.edge.data_path import Service
from underpass.edge.link_details import UNKNOWN_DETAILS, LinkDetails
from underpass.edge.moving import Way
from underpass.edge.tcp_routes import TcpRoute
from underpass.ops.workers.logs import LogLine, LogLinesLost

__all__ = [
    "Abort",
    "Alive",
    "Apply",
    "ApplyTcp",
    "CloseLinks",
    "Configure",
    "Done",
    "DrainVisitors",
    "GiveWay",
    "LinkCame",
    "LinkWent",
    "MoveLink",
    "PeerIsUp",
    "PeerLeaves",
    "PeerWent",
    "Probe",
    "ReadChanges",
    "ReadConfiguration",
    "ReadFigures",
    "ReadHealth",
    "ReadRecent",
    "ReadSnapshot",
    "Refresh",
    "SetAside",
    "StopLinks",
    "StopVisitors",
    "SupervisorNotice",
    "SupervisorRequest",
    "WorkerNotice",
    "WorkerRequest",
]

# Asked by the supervisor.


class Configure(Struct, frozen=True, tag=True):
    """Become worker `number`, and serve. -> Done

    `http`, `https` and `tunnels` are descriptors of listening sockets that the process was started
    with; `peers` is the directory of the workers' own sockets; by `descriptors` come the sockets of
    public ports (`ops.workers.descriptors`).
    """

    number: int
    log_level: int
    data_dir: str
    peers: str
    http: int
    https: int
    tunnels: tuple[int, ...]
    descriptors: int
    service: Service


class ApplyTcp(Struct, frozen=True, tag=True):
    """Have these public ports and no others; the sockets of new ones have been sent. -> Done"""

    routes: tuple[TcpRoute, ...]


class Refresh(Struct, frozen=True, tag=True):
    """Take over what has changed in the store. -> Done"""


class Apply(Struct, frozen=True, tag=True):
    """Do from now on as `service` says: see DataPath.apply. -> Done"""

    service: Service


class CloseLinks(Struct, frozen=True, tag=True):
    """Give up a tunnel's links, or those of one of its connectors. -> None, when they get nothing
    new"""

    tunnel_id: UUID
    connector_id: UUID | None = None


class SetAside(Struct, frozen=True, tag=True):
    """See Router.set_aside. -> None"""

    tunnel_id: UUID
    key: UUID
    aside: bool


class ReadHealth(Struct, frozen=True, tag=True):
    """The connectors of a route that are in trouble. -> list of ConnectorHealth"""

    hostname: str


class StopVisitors(Struct, frozen=True, tag=True):
    """Take no visitors; let requests under way finish for `seconds`. -> None"""

    seconds: float


class StopLinks(Struct, frozen=True, tag=True):
    """Take no links; let those there are drain for `seconds`. -> None"""

    seconds: float


class GiveWay(Struct, frozen=True, tag=True):
    """Take no more links: another process does, and those there are will move there. -> None"""


class DrainVisitors(Struct, frozen=True, tag=True):
    """Take no more visitors: another process does. -> None, when those there are have gone, of
    themselves or after `seconds`"""

    seconds: float


class ReadFigures(Struct, frozen=True, tag=True):
    """What has been carried. -> ops.workers.tally.Readings"""


class ReadRecent(Struct, frozen=True, tag=True):
    """The last requests. -> recent.Recent, or None: they are not remembered"""


class Alive(Struct, frozen=True, tag=True):
    """-> None"""


WorkerRequest = (
    Configure
    | Refresh
    | Apply
    | ApplyTcp
    | CloseLinks
    | SetAside
    | ReadHealth
    | GiveWay
    | DrainVisitors
    | StopVisitors
    | StopLinks
    | ReadFigures
    | ReadRecent
    | Alive
)


# Asked by a worker.


class ReadSnapshot(Struct, frozen=True, tag=True):
    """-> store.Snapshot"""


class ReadChanges(Struct, frozen=True, tag=True):
    """What changed after `revision`. -> store.Changes, or None for: take a snapshot"""

    revision: int


class ReadConfiguration(Struct, frozen=True, tag=True):
    """A tunnel's, with its document. -> store.Configuration, or None"""

    tunnel_id: UUID


SupervisorRequest = ReadSnapshot | ReadChanges | ReadConfiguration | AskDashboard


class Done(Struct, frozen=True):
    """`error` says what went wrong, "" that nothing did."""

    error: str = ""


# Told by either: a worker of itself, the supervisor of the others.


class LinkCame(Struct, array_like=True, frozen=True, tag=True):
    """Worker `worker` has registered a link, and calls it `number`."""

    worker: int
    number: int
    tunnel_id: UUID
    connector_id: UUID
    conn_index: int
    details: LinkDetails = UNKNOWN_DETAILS
    beyond: bool = False
    """That worker belongs to another edge's process: see Router.add_beyond."""


class LinkWent(Struct, array_like=True, frozen=True, tag=True):
    """That link takes no requests any more, and its index is free."""

    worker: int
    number: int


class Probe(Struct, array_like=True, frozen=True, tag=True):
    """Find out whether that link is still alive: somebody wants its index."""

    worker: int
    number: int


class PeerIsUp(Struct, array_like=True, frozen=True, tag=True):
    """That worker takes requests of others on its socket, whose path is `path`."""

    worker: int
    path: str
    beyond: bool = False


class PeerLeaves(Struct, array_like=True, frozen=True, tag=True):
    """That worker wants no requests any more: its links have gone elsewhere."""

    worker: int


class PeerWent(Struct, array_like=True, frozen=True, tag=True):
    """There will be no such worker any more."""

    worker: int


class MoveLink(Struct, array_like=True, frozen=True, tag=True):
    """Have that link's connector go elsewhere: see `moving.Way`."""

    number: int
    way: Way
    drain_seconds: float


WorkerNotice = LinkCame | LinkWent | Probe | PeerIsUp | LogLine | LogLinesLost


# Told by the supervisor alone.


class Abort(Struct, array_like=True, frozen=True, tag=True):
    """Close that link: another process has one with its index, or the tunnel has too many."""

    number: int


SupervisorNotice = LinkCame | LinkWent | Probe | PeerIsUp | PeerLeaves | PeerWent | Abort | MoveLink
