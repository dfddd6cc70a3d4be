"""One edge, put together: data directory, store, registry, listeners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import Final
from uuid import UUID

from underpass.edge.api.application import create_application
from underpass.edge.api.server import ApiServer
from underpass.edge.certificates import CertificateAuthority
from underpass.edge.data_directory import DataDirectory
from underpass.edge.gateway import Gateway
from underpass.edge.listening import bound_address, listen
from underpass.edge.options import Address, EdgeOptions
from underpass.edge.registry import Registry
from underpass.edge.router import Router
from underpass.edge.store.sqlite import SqliteStore
from underpass.edge.tls import public_listener_context, tunnel_listener_context
from underpass.edge.tunnels import TunnelListeners
from underpass.wire.turns import LoopTurn

__all__ = ["Edge"]

log = logging.getLogger("underpass.edge")

FIRST_BYTE_SECONDS: Final = 100.0
"""How long an origin may take to begin its response, as at Cloudflare."""

STOP_SECONDS: Final = 10.0
"""How long requests under way may take after `stop`."""


class Edge:
    """Everything `underpass edge run` serves. `start` once, then `stop`.

    After `start`, `https`, `http`, `api` and `tunnels` say where it listens, `ca_certificate` what
    visitors and connectors have to trust.
    """

    def __init__(
        self, options: EdgeOptions, *, first_byte_seconds: float = FIRST_BYTE_SECONDS
    ) -> None:
        self._options = options
        self._first_byte_seconds = first_byte_seconds
        self._closing = contextlib.AsyncExitStack()
        self._patience = STOP_SECONDS
        self.https = options.https
        self.http = options.http
        self.api = options.api
        self.tunnels: tuple[Address, ...] = options.tunnels
        self.listeners: TunnelListeners
        self.gateway: Gateway
        self.registry: Registry
        self.authority: CertificateAuthority
        self.ca_certificate: Path

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
        options = self._options
        directory = DataDirectory.open(options.data_dir)
        self._closing.callback(directory.close)
        self.ca_certificate = directory.ca_certificate
        # First of all: a taken port must be told before anything is made.
        https, http, api = (
            self._listen(address) for address in (options.https, options.http, options.api)
        )
        tunnels = [self._listen(address) for address in options.tunnels]
        self.https, self.http, self.api = map(bound_address, (https, http, api))
        self.tunnels = tuple(map(bound_address, tunnels))

        self.authority = CertificateAuthority.open(directory)
        store = await SqliteStore.open(directory.database)
        self._closing.push_async_callback(store.close)
        router = Router()
        self.registry = await Registry.load(store, router, on_tunnel_deleted=self._close_links_of)
        turn = LoopTurn(asyncio.get_running_loop())
        turn.start()
        self._closing.callback(turn.stop)

        self.listeners = TunnelListeners(
            turn,
            tunnel_listener_context(self.authority, directory.scratch),
            self.registry,
            router,
            location=options.location,
            first_byte_seconds=self._first_byte_seconds,
        )
        await self.listeners.start(tunnels)
        self._closing.push_async_callback(self._stop_links)
        self.gateway = Gateway(turn, router, location=options.location, max_body=options.max_body)
        await self.gateway.start(
            http,
            https,
            public_listener_context(
                self.authority, directory.scratch, options.domain, router.knows
            ),
        )
        # Stopped before the links: what visitors still wait for comes through those.
        self._closing.push_async_callback(self._stop_gateway)
        server = ApiServer(
            create_application(self.registry, options.domain, public_port=self.https.port), api
        )
        await server.start()
        self._closing.push_async_callback(server.stop)
        housekeeping = asyncio.create_task(self.registry.keep_house(), name="housekeeping")
        self._closing.push_async_callback(_cancelled, housekeeping)

    def _listen(self, address: Address) -> socket.socket:
        listener = listen(address)
        self._closing.callback(listener.close)
        return listener

    def _close_links_of(self, tunnel_id: UUID) -> None:
        self.listeners.close_links_of(tunnel_id)

    async def stop(self) -> None:
        """Accept no more, let requests under way finish for STOP_SECONDS, close everything.

        Cancelled, it waits for no request any more, and still closes everything.
        """
        closing = asyncio.ensure_future(self._closing.aclose())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            self._patience = 0.0
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            raise

    async def _stop_gateway(self) -> None:
        try:
            await self.gateway.stop(self._patience)
        except asyncio.CancelledError:
            await self.gateway.stop(0.0)
            raise

    async def _stop_links(self) -> None:
        try:
            await self.listeners.stop(self._patience)
        except asyncio.CancelledError:
            await self.listeners.stop(0.0)
            raise


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
