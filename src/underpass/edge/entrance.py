"""A public listener: the event loop's own server on it, or a door where a setting needs one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from underpass.edge.front_door import Arrival, FrontDoor
from underpass.edge.handshakes import Handshakes
from underpass.edge.listening import BACKLOG
from underpass.edge.passthrough import NO_PASSTHROUGH, Passthrough
from underpass.edge.tls_alpn import TlsAlpnProofs
from underpass.edge.trusted_hops import NO_HOPS, TrustedHops

__all__ = ["ORDINARY", "Beginnings", "Entrance"]

log = logging.getLogger("underpass.edge.door")

SHORTEST_HANDSHAKE: Final = 1.0
"""Seconds that are left for TLS, however late its first words came."""


@dataclass(frozen=True, slots=True)
class Beginnings:
    """What the beginning of a connection may decide."""

    trusted_hops: TrustedHops = NO_HOPS
    """Say whose connection it is."""
    proofs: TlsAlpnProofs | None = None
    """Shown to an authority that comes for them."""
    passthrough: Passthrough = NO_PASSTHROUGH
    """Whose TLS is not ended here."""
    carry: Callable[[str, str], asyncio.BaseProtocol] | None = None
    """What takes a connection for such a hostname, from an address; needed with `passthrough`."""


ORDINARY: Final = Beginnings()
"""Nothing: nobody looks."""


class Entrance:
    """One listener, from `open` to `close`.

    Args:
        listener: bound and listening; the entrance's from here on.
        doorman: makes a protocol for a connection: of a visitor's address where it is not the
            socket's, and of what `handshakes` said where it has been told already.
        context: for TLS; None for a listener without.
        handshakes: counts those of a listener with TLS.
        seconds: for TLS, from the first byte.
    """

    def __init__(
        self,
        listener: socket.socket,
        doorman: Callable[[str | None, int | None], asyncio.BaseProtocol],
        *,
        context: ssl.SSLContext | None,
        handshakes: Handshakes | None,
        seconds: float,
        beginnings: Beginnings,
    ) -> None:
        self._listener = listener
        self._doorman = doorman
        self._context = context
        self._handshakes = handshakes
        self._seconds = seconds
        self._beginnings = beginnings
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.AbstractServer | None = None
        self._door: FrontDoor | None = None
        # Doors before that one, which still have to do with who has come to them.
        self._old_doors: list[FrontDoor] = []
        self._shaking: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def is_expecting(self) -> bool:
        """Whether somebody who has just come may be about to say something."""
        return bool(self._shaking) or any(door.is_expecting for door in self._doors)

    @property
    def _doors(self) -> tuple[FrontDoor, ...]:
        return (*self._old_doors, *(() if self._door is None else (self._door,)))

    async def open(self) -> None:
        """Begin to accept."""
        reads_hello = self._context is not None and (
            self._beginnings.proofs is not None or bool(self._beginnings.passthrough)
        )
        # The listener itself stays, so that what waits to be accepted does, whoever accepts.
        if reads_hello or self._beginnings.trusted_hops:
            self._door = FrontDoor(
                self._listener.dup(),
                self._arrived,
                seconds=self._seconds,
                trusted=self._beginnings.trusted_hops,
                reads_hello=reads_hello,
                begin=self._begin,
            )
            return
        self._server = await self._loop.create_server(
            lambda: self._doorman(None, None),
            sock=self._listener.dup(),
            backlog=BACKLOG,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else self._seconds,
        )

    async def change(self, beginnings: Beginnings) -> None:
        """Look at who comes from now on in this way. Nobody is turned away meanwhile."""
        if self._is_closed or beginnings == self._beginnings:
            return
        server, door, before = self._server, self._door, self._beginnings
        self._server, self._door, self._beginnings = None, None, beginnings
        try:
            await self.open()
        except OSError:
            self._server, self._door, self._beginnings = server, door, before
            raise
        if server is not None:
            server.close()
        if door is not None:
            door.close()
            self._old_doors.append(door)
        if self._is_closed:  # meanwhile
            self.close()

    def look(self) -> None:
        """Once a tick."""
        for door in self._doors:
            door.look()
        if self._old_doors:
            self._old_doors = [door for door in self._old_doors if door.waiting]

    def close(self) -> None:
        """Accept no more."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        if self._door is not None:
            self._door.close()
        self._listener.close()

    def abort(self) -> None:
        """Give up what has not become a visitor."""
        for door in self._doors:
            door.abort()
        for task in self._shaking:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until that is done."""
        if self._shaking:
            await asyncio.wait(self._shaking)
        if self._server is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 1.0)

    def _begin(self) -> int:
        return 0 if self._handshakes is None else self._handshakes.begin()

    def _arrived(self, arrival: Arrival) -> None:
        context = self._context
        hello = arrival.hello
        if hello is not None:
            beginnings = self._beginnings
            if beginnings.proofs is not None:
                proof = beginnings.proofs.context_for(hello)
                if proof is not None:
                    self._serve(arrival, proof, lambda: Prover(self._handshakes, arrival.began))
                    return
            name = hello.server_name
            if beginnings.carry is not None and name and beginnings.passthrough.covers(name):
                if self._handshakes is not None:  # it is somebody else's
                    self._handshakes.completed(arrival.began)
                carrier = beginnings.carry(name, arrival.address)
                self._serve(arrival, None, lambda: carrier)
                return
        self._serve(arrival, context, lambda: self._doorman(arrival.address, arrival.began))

    def _serve(
        self,
        arrival: Arrival,
        context: ssl.SSLContext | None,
        protocol: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        task = self._loop.create_task(self._connect(arrival, context, protocol))
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    async def _connect(
        self,
        arrival: Arrival,
        context: ssl.SSLContext | None,
        protocol: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        seconds = None if context is None else max(arrival.seconds, SHORTEST_HANDSHAKE)
        try:
            await self._loop.connect_accepted_socket(
                protocol, arrival.sock, ssl=context, ssl_handshake_timeout=seconds
            )
        except OSError as error:
            # As the loop's own server has it: `handshakes` counts those that come to nothing.
            log.debug("a connection came to nothing", extra={"error": str(error)})
        except asyncio.CancelledError:
            arrival.sock.close()
            raise


class Prover(asyncio.Protocol):
    """Has shown an authority its proof by the handshake, and has nothing else to say."""

    def __init__(self, handshakes: Handshakes | None, began: int) -> None:
        self._handshakes = handshakes
        self._began = began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._handshakes is not None:
            self._handshakes.completed(self._began)
        # uvloop's transports are not registered as asyncio's.
        cast("asyncio.Transport", transport).close()
