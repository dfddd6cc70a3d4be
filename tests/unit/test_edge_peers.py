"""Requests between the workers of one edge: the way to each other, and what goes wrong there."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from underpass.core.fields import Fields
from underpass.core.relay import Counters, PythonSide
from underpass.core.tunnel import EdgeExchange
from underpass.edge import peers as peers_module
from underpass.edge.peers import Peer, PeerListener, socket_path
from underpass.edge.remote import Presence, RemoteLink
from underpass.edge.router import Router
from underpass.edge.timeouts import Timeouts
from underpass.wire.turns import LoopTurn

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="workers need sockets in the file system"
)

TUNNEL = UUID(int=1)


class Asker:
    """A request to another worker, and what came of it."""

    def __init__(self, tunnel: bytes) -> None:
        self.exchange = EdgeExchange(Counters())
        self.answer: asyncio.Future[tuple[int, Fields] | None] = (
            asyncio.get_running_loop().create_future()
        )
        side = self._side = PythonSide()
        side.on_head = lambda status, fields: self.answer.set_result((status, fields))
        side.on_abandoned = lambda code: self.answer.set_result(None)
        head = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"app.localhost"),
            (b":path", b"/"),
            (b"cf-int-underpass-tunnel", tunnel),
        ]
        side.request(self.exchange, Fields(head))
        side.end()


async def answered(peer: Peer, tunnel: bytes) -> tuple[int, Fields]:
    """The answer, once there is a connection that brings one."""
    while True:
        asker = Asker(tunnel)
        if peer.carry(asker.exchange):  # type: ignore[arg-type]
            answer = await asker.answer
            if answer is not None:
                return answer
        await asyncio.sleep(0)


def test_a_worker_without_a_link_says_so_as_a_connector_would(tmp_path: Path) -> None:
    async def main() -> None:
        turn = LoopTurn(asyncio.get_running_loop())
        listener = PeerListener(turn, Router())
        path = socket_path(tmp_path / "peers", 1)
        await listener.start(path)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        peer = Peer(turn, path, Timeouts())
        for tunnel, status, cause in (
            (str(TUNNEL).encode(), 503, b"no_link"),
            (b"no tunnel at all", 500, b"internal_error"),
        ):
            found, fields = await answered(peer, tunnel)
            assert found == status
            assert fields.get(b"cf-cloudflared-response-meta") == b'{"src":"cloudflared"}'
            assert fields.get(b"cf-cloudflared-cause") == cause
            assert fields.get(b"cf-cloudflared-response-headers") is None
        await peer.close()
        listener.close()
        assert not path.parent.exists()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_worker_that_comes_later_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only its word can make the other one try again in time.
    monkeypatch.setattr(peers_module, "REDIAL_SECONDS", 3600.0)

    async def main() -> None:
        turn = LoopTurn(asyncio.get_running_loop())
        path = socket_path(tmp_path / "peers", 0)
        peer = Peer(turn, path, Timeouts())
        assert not peer.carry(Asker(b"").exchange)  # type: ignore[arg-type]
        for _ in range(2):
            listener = PeerListener(turn, Router())
            await listener.start(path)
            peer.is_up()
            status, _ = await answered(peer, str(TUNNEL).encode())
            assert status == 503
            listener.close()
        await peer.close()

    asyncio.run(asyncio.wait_for(main(), 20))


class Beyond:
    """Where a process sends on what has come for links that have moved."""

    def __init__(self, router: Router, worker: int, *, takes: bool = True) -> None:
        self.takes = takes
        self.heads: list[Fields | None] = []
        router.add_beyond(
            RemoteLink(worker, 1, TUNNEL, UUID(int=2), 0, carry=self._carry, beyond=True)
        )

    def _carry(self, exchange: Any) -> bool:
        self.heads.append(exchange.request)
        if self.takes:
            exchange.respond(204, ())
        return self.takes


@pytest.mark.parametrize(
    ("worker", "takes", "status"), [(8, True, 204), (8, False, 503), (6, True, 503)]
)
def test_what_has_moved_is_sent_on_to_the_process_that_follows_alone(
    tmp_path: Path, worker: int, takes: bool, status: int
) -> None:
    async def main() -> None:
        turn = LoopTurn(asyncio.get_running_loop())
        router = Router()
        beyond = Beyond(router, worker, takes=takes)
        listener = PeerListener(turn, router, number=7)
        path = socket_path(tmp_path / "peers", 7)
        await listener.start(path)
        peer = Peer(turn, path, Timeouts())
        found, _ = await answered(peer, str(TUNNEL).encode())
        assert found == status
        assert len(beyond.heads) == (worker > 7)
        await listener.drain(10)
        await peer.close()
        listener.close()

    asyncio.run(asyncio.wait_for(main(), 20))


class TestRemoteLinks:
    def test_the_tunnel_is_named_only_while_it_is_handed_over(self) -> None:
        class Visitor:
            via_tunnel: bytes | None = None

        visitor: Any = Visitor()
        seen: list[bytes | None] = []

        def carry(result: bool) -> Callable[[Any], bool]:
            def carried(exchange: Any) -> bool:
                seen.append(exchange.via_tunnel)
                return result

            return carried

        for result in (True, False):
            link = RemoteLink(1, 7, TUNNEL, UUID(int=2), 0, carry=carry(result))
            assert link.forward(visitor) is result
            assert visitor.via_tunnel is None
        assert seen == [str(TUNNEL).encode()] * 2

    def test_what_a_process_held_goes_with_it(self) -> None:
        presence = Presence()
        links = [RemoteLink(worker, 1, TUNNEL, UUID(int=2), worker) for worker in (0, 1)]
        for link in links:
            presence.add(link)
        assert presence.pop_all(0) == [links[0]]
        assert list(presence) == [links[1]]
        assert presence.pop(0, 1) is None
        assert presence.pop(1, 1) is links[1]
