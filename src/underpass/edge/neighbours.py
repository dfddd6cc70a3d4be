"""The other processes that carry requests beside a data path, as it knows them: the links that they
have, the ways to them, and what it tells them of itself.

They are the other workers of its edge, and while one process of an edge hands over to the next,
those of the other one (`beyond`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from underpass.edge import worker_messages as messages
from underpass.edge.links import EdgeLink
from underpass.edge.peers import Peer, PeerListener, path_from_beyond, socket_path
from underpass.edge.remote import Presence, RemoteLink
from underpass.edge.router import Link, Router
from underpass.edge.timeouts import Timeouts
from underpass.edge.waiting import WaitingRoom

if TYPE_CHECKING:
    from underpass.edge.data_path import LocalDataPath

__all__ = ["REACH_SECONDS", "Neighbours"]

REACH_SECONDS: Final = 5.0
"""For the ways to the processes of the edge that is followed to be there."""

_log = logging.getLogger(__name__)


class Neighbours:
    """Of the data path behind `router`. `tell` has them told."""

    def __init__(
        self, router: Router, room: WaitingRoom, tell: Callable[[Any], object], number: int = -1
    ) -> None:
        self.number = number
        self.hands_over = False
        """Links that go are on their way to the process that follows."""
        self._router = router
        self._room = room
        self._tell = tell
        self._presence = Presence()
        self._ways: dict[int, tuple[str, bool]] = {}
        self._peers: dict[int, Peer] = {}
        self._data_path: LocalDataPath | None = None
        self._path: Path | None = None
        self._listener: PeerListener | None = None
        self._numbers = itertools.count(1)
        self._links: dict[Link, int] = {}
        router.on_link_added = self._link_came
        router.on_link_removed = self._link_went

    async def open(self, data_path: LocalDataPath, directory: Path) -> None:
        """Take requests of the others on a socket in `directory`, and send them theirs. Raises
        OSError."""
        self._data_path = data_path
        path = self._path = socket_path(directory, self.number)
        listener = PeerListener(data_path.turn, self._router, self._room, self.number)
        self._listener = listener
        await listener.start(path)
        # Before there can be a link that others would want.
        self._tell(messages.PeerIsUp(self.number, str(path)))
        for worker in self._ways:
            self._open_way(worker)
        for link in self._router.own_links():
            if link not in self._links:
                self._link_came(link)

    def introduction(self) -> Iterator[Any]:
        """What somebody has to be told who has not heard of this process before."""
        if self._path is not None:
            yield messages.PeerIsUp(self.number, str(self._path))
        for link, number in self._links.items():
            yield self._came(link, number)

    async def reach_those_beyond(self) -> None:
        """Return when their processes can be sent requests, or REACH_SECONDS have passed."""
        waiting = [
            asyncio.ensure_future(self._peers[worker].reached())
            for worker, (_, beyond) in self._ways.items()
            if beyond and worker in self._peers
        ]
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=REACH_SECONDS)
        for each in late:
            each.cancel()
        if late:
            _log.warning("%d processes of the edge before this one are not reached", len(late))

    def notice(self, notice: Any) -> bool:
        """Take in what another process has told; False if it is about something else."""
        if isinstance(notice, messages.LinkCame):
            self._remote_came(notice)
        elif isinstance(notice, messages.LinkWent):
            self._remote_went(notice.worker, notice.number)
        elif isinstance(notice, messages.PeerIsUp):
            self._peer_is_up(notice)
        elif isinstance(notice, messages.PeerLeaves):
            self.peer_leaves(notice.worker)
        elif isinstance(notice, messages.PeerWent):
            self.peer_went(notice.worker)
        else:
            return False
        return True

    def notice_from_beyond(self, notice: Any) -> None:
        """The same of what another edge's process has told."""
        if isinstance(notice, messages.PeerIsUp):
            path = path_from_beyond(notice.path)
            notice = messages.PeerIsUp(notice.worker, path, beyond=True)
        elif isinstance(notice, messages.LinkCame):
            notice = msgspec.structs.replace(notice, beyond=True)
        self.notice(notice)

    def own(self, number: int) -> EdgeLink | None:
        """The link here that the others know by this number."""
        found = next((own for own in self._links if self._links[own] == number), None)
        return found if isinstance(found, EdgeLink) else None

    def allow(self, timeouts: Timeouts) -> None:
        """Let requests that are sent there take so long from now on."""
        for peer in self._peers.values():
            peer.allow(timeouts)

    async def drain(self, seconds: float) -> None:
        """Return when what they have sent here is answered, or after `seconds`."""
        if self._listener is not None:
            await self._listener.drain(seconds, until_gone=self.hands_over)

    def close_listener(self) -> None:
        """Take no more requests of the others."""
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """Send them none any more."""
        await asyncio.gather(*(peer.close() for peer in self._peers.values()))

    # What they tell.

    def _remote_came(self, notice: messages.LinkCame) -> None:
        link = RemoteLink(
            notice.worker,
            notice.number,
            notice.tunnel_id,
            notice.connector_id,
            notice.conn_index,
            details=notice.details,
            carry=lambda exchange: self._carry(notice.worker, exchange),
            ask=self._ask,
            beyond=notice.beyond,
        )
        self._presence.add(link)
        if notice.beyond:
            self._router.add_beyond(link)
        else:
            self._router.add_remote(link)
        self._room.came(link.tunnel_id)

    def _remote_went(self, worker: int, number: int) -> None:
        gone = self._presence.pop(worker, number)
        if gone is not None:
            self._forget(gone)

    def _forget(self, gone: RemoteLink) -> None:
        self._router.remove_link(gone)
        if gone.beyond or self.hands_over:
            self._room.expect(gone.tunnel_id)

    def _peer_is_up(self, notice: messages.PeerIsUp) -> None:
        if notice.worker == self.number:
            return
        self._ways[notice.worker] = notice.path, notice.beyond
        peer = self._peers.get(notice.worker)
        if peer is not None:
            peer.is_up()
        elif self._data_path is not None:
            self._open_way(notice.worker)

    def peer_leaves(self, worker: int) -> None:
        """It wants no requests any more."""
        self._ways.pop(worker, None)
        peer = self._peers.get(worker)
        if peer is not None:
            peer.leave()

    def peer_went(self, worker: int) -> None:
        """There will be no such process any more."""
        self._ways.pop(worker, None)
        peer = self._peers.pop(worker, None)
        if peer is not None:
            peer.end()
        for link in self._presence.pop_all(worker):
            self._forget(link)

    def _open_way(self, worker: int) -> None:
        assert self._data_path is not None
        path, _ = self._ways[worker]
        self._peers[worker] = Peer(self._data_path.turn, Path(path), self._data_path.timeouts)

    def _carry(self, worker: int, exchange: Any) -> bool:
        peer = self._peers.get(worker)
        return peer is not None and peer.carry(exchange)

    def _ask(self, link: RemoteLink) -> None:
        self._tell(messages.Probe(link.worker, link.number))

    # What they are told.

    def _link_came(self, link: Link) -> None:
        number = self._links[link] = next(self._numbers)
        self._tell(self._came(link, number))
        self._room.came(link.tunnel_id)

    def _came(self, link: Link, number: int) -> messages.LinkCame:
        return messages.LinkCame(
            self.number, number, link.tunnel_id, link.connector_id, link.conn_index, link.details
        )

    def _link_went(self, link: Link) -> None:
        if self.hands_over:
            self._room.expect(link.tunnel_id)
        number = self._links.pop(link, None)
        if number is not None:
            self._tell(messages.LinkWent(self.number, number))
