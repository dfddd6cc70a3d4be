"""Registration of a connection, both ends of it, without any I/O.

The connector calls the edge's RegistrationServer interface over the control stream: register,
perhaps report its local configuration, then nothing until it unregisters. Docs: wire protocol
§3.5 and §3.6. The values are in :mod:`underpass.wire.registration_messages`, also named here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from underpass.wire import registration_messages as layout
from underpass.wire.capnp import MAX_MESSAGE_BYTES, MalformedMessage, StructReader
from underpass.wire.registration_messages import (
    DUPLICATE_CONNECTION,
    REGISTER_CONNECTION,
    REGISTRATION_SERVER,
    UNREGISTER_CONNECTION,
    UPDATE_LOCAL_CONFIGURATION,
    ClientInfo,
    ConnectionDetails,
    ConnectionOptions,
    InvalidField,
    RegistrationRefused,
    RegistrationRequest,
    TunnelAuth,
)
from underpass.wire.rpc import UNIMPLEMENTED, RpcConnection, RpcException, RpcProtocolError
from underpass.wire.rpc_messages import EMPTY, Content


class RegistrationClient:
    """The connector's end of a control stream.

    `send` takes the bytes to write to the stream; pass what is read from it to :meth:`feed`.
    `on_end` is called with the reason if the edge ends the RPC connection. Calls are given up by
    cancelling them (asyncio.timeout, asyncio.wait_for), which the edge is told.

    `on_called(method, seconds, failed)` is called after every call, however it ended; the methods
    are named as cloudflared's metrics do.

    Every call raises RpcException if the edge answers with an exception, RpcEnded or
    RpcProtocolError if the connection ends before the answer; all are RpcError.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        *,
        on_end: Callable[[str], None] | None = None,
        on_called: Callable[[str, float, bool], None] | None = None,
    ) -> None:
        self._rpc = RpcConnection(send, on_end=on_end)
        self._on_called = on_called

    @contextlib.contextmanager
    def _timed(self, method: str) -> Iterator[None]:
        began, failed = time.monotonic(), True
        try:
            yield
            failed = False
        finally:
            if self._on_called is not None:
                self._on_called(method, time.monotonic() - began, failed)

    async def register_connection(
        self,
        auth: TunnelAuth,
        tunnel_id: uuid.UUID,
        conn_index: int,
        options: ConnectionOptions,
    ) -> ConnectionDetails:
        """Register connection `conn_index` (0 to 255) of the tunnel.

        Raises RegistrationRefused if the edge refuses. After any error the connection is of no
        more use: close it.
        """
        request = RegistrationRequest(auth, tunnel_id, conn_index, options)
        with self._timed("register_connection"):
            results = await self._call(REGISTER_CONNECTION, layout.registration_params(request))
            try:
                return layout.decode_registration_results(results)
            except (MalformedMessage, InvalidField) as error:
                raise RpcProtocolError(f"the edge's answer to the registration: {error}") from error

    async def unregister_connection(self) -> None:
        """Ask the edge to send no new requests. Those in flight go on."""
        with self._timed("unregister_connection"):
            await self._call(UNREGISTER_CONNECTION, EMPTY)

    async def update_local_configuration(self, config: bytes) -> None:
        """Report the configuration in force, a JSON document; for a tunnel managed locally."""
        with self._timed("update_local_configuration"):
            await self._call(UPDATE_LOCAL_CONFIGURATION, layout.local_configuration_params(config))

    def _call(self, method_id: int, params: Content) -> asyncio.Future[StructReader]:
        return self._rpc.call(REGISTRATION_SERVER, method_id, params)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take in bytes from the stream. Raises RpcProtocolError: reset the stream."""
        self._rpc.feed(data)

    def close(self) -> None:
        """Say goodbye as cloudflared does; then the owner ends the stream. Pending calls raise
        RpcEnded."""
        self._rpc.close()

    def closed(self, exc: BaseException | None) -> None:
        """Tell that the stream is gone. Pending calls raise RpcEnded."""
        self._rpc.closed(exc)


MAX_CONFIGURATION_BYTES: Final = 8 << 20
"""Longest local configuration that an edge takes from a connector that has registered: some
twenty thousand ingress rules. Before that a message has MAX_MESSAGE_BYTES at most."""


class RegistrationHandler(Protocol):
    """What an edge does with the calls on one control stream.

    Nothing here has been checked but the form: not the credentials, not whether `conn_index` is
    in use, not whether this stream has registered before or at all. A method may raise
    RpcException to answer with an exception.
    """

    def register_connection(self, request: RegistrationRequest) -> ConnectionDetails:
        """Register a connection, or raise RegistrationRefused."""
        ...

    def unregister_connection(self) -> None:
        """Send the connection no new requests."""
        ...

    def update_local_configuration(self, config: bytes) -> None:
        """Note the connector's configuration, a JSON document nobody has parsed yet."""
        ...


class RegistrationServer:
    """The edge's end of a control stream.

    `send` takes the bytes to write to the stream; pass what is read from it to :meth:`feed`. The
    handler is called, and its answers are sent, while feeding. `on_end` is called with the reason
    when the connector closes in good order.
    """

    def __init__(
        self,
        handler: RegistrationHandler,
        send: Callable[[bytes], None],
        *,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        self._handler = handler
        self._rpc = RpcConnection(send, dispatch=self._dispatch, on_end=on_end)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take in bytes from the stream.

        Raises RpcProtocolError if they are hostile or damaged: reset the stream. An unexpected
        exception of the handler passes through, after the connector got an answer without detail.
        """
        self._rpc.feed(data)

    def close(self) -> None:
        """End the RPC connection from this side; then the owner ends the stream."""
        self._rpc.close()

    def closed(self, exc: BaseException | None) -> None:
        """Tell that the stream is gone."""
        self._rpc.closed(exc)

    def _dispatch(self, interface_id: int, method_id: int, params: StructReader) -> Content:
        if interface_id == REGISTRATION_SERVER:
            if method_id == REGISTER_CONNECTION:
                return self._register(params)
            if method_id == UNREGISTER_CONNECTION:
                self._handler.unregister_connection()
                return EMPTY
            if method_id == UPDATE_LOCAL_CONFIGURATION:
                config = layout.decode_local_configuration_params(params)
                self._handler.update_local_configuration(config)
                return EMPTY
        raise RpcException(
            f"rpc: method {method_id} of interface {interface_id:#x} is not implemented",
            UNIMPLEMENTED,
        )

    def _register(self, params: StructReader) -> Content:
        try:
            request = layout.decode_registration_params(params)
        except InvalidField as error:
            raise RpcException(f"registerConnection: {error}") from error
        try:
            details = self._handler.register_connection(request)
        except RegistrationRefused as refused:
            return layout.refusal_results(refused)
        # What is left of a message is its frame: a few hundred bytes.
        self._rpc.allow(MAX_CONFIGURATION_BYTES + MAX_MESSAGE_BYTES)
        return layout.registration_results(details)


__all__ = [
    "DUPLICATE_CONNECTION",
    "MAX_CONFIGURATION_BYTES",
    "ClientInfo",
    "ConnectionDetails",
    "ConnectionOptions",
    "RegistrationClient",
    "RegistrationHandler",
    "RegistrationRefused",
    "RegistrationRequest",
    "RegistrationServer",
    "TunnelAuth",
]
