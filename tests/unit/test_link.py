"""What both ends of a link do alike."""

from __future__ import annotations

import asyncio
import socket

import pytest
from rig.transport import FakeTransport, ManualLoop

from underpass.core.endpoint import Endpoint
from underpass.wire.link import UNSENT, LinkConnection
from underpass.wire.turns import LoopTurn


class OnSocket(FakeTransport):
    """A transport that has a socket to show."""

    def __init__(self, loop: ManualLoop, endpoint: Endpoint, shown: socket.socket | None) -> None:
        super().__init__(loop, endpoint)
        self._shown = shown

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._shown if name == "socket" else super().get_extra_info(name, default)


def connected(shown: socket.socket | None) -> LinkConnection:
    """A link on a transport with this socket."""

    async def connect() -> LinkConnection:
        loop = ManualLoop()
        link = LinkConnection(LoopTurn(loop))  # type: ignore[arg-type]
        link.connection_made(OnSocket(loop, link, shown))  # type: ignore[arg-type]
        return link

    return asyncio.run(connect())


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system has no such thing")
def test_the_kernel_holds_little_that_it_has_not_sent() -> None:
    with socket.socket() as shown:
        connected(shown)
        assert shown.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT


def test_a_transport_without_a_socket_will_do() -> None:
    assert not connected(None).is_closed
