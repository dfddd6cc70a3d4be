"""A gRPC server and client of Google's, with messages that are plain bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Call", "GrpcServer", "channel"]

SERVICE = "test.Echo"


class GrpcServer:
    """Serves `test.Echo` on 127.0.0.1, or on a unix socket; with `pair` (key, chain) over TLS."""

    def __init__(
        self,
        *,
        pair: tuple[bytes, bytes] | None = None,
        path: Path | None = None,
        options: tuple[tuple[str, Any], ...] = (),
    ) -> None:
        self.gates: dict[bytes, threading.Event] = {}
        self.ended: list[bytes] = []
        self.metadata: list[tuple[str, str]] = []
        self._server = grpc.server(ThreadPoolExecutor(32), options=options)
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Down": grpc.unary_stream_rpc_method_handler(self._down),
            "Up": grpc.stream_unary_rpc_method_handler(self._up),
            "Both": grpc.stream_stream_rpc_method_handler(self._both),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Hang": grpc.unary_stream_rpc_method_handler(self._hang),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        address = f"unix:{path}" if path is not None else "127.0.0.1:0"
        if pair is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self.gates.values():
            gate.set()
        self._server.stop(None).wait()

    def gate(self, name: bytes) -> threading.Event:
        """What `Down` waits for between its two messages, and `Hang` for its end."""
        return self.gates.setdefault(name, threading.Event())

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.metadata = [(name, value) for name, value in context.invocation_metadata()]
        context.set_trailing_metadata((("x-size", str(len(request))),))
        return request

    def _down(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"first"
        self.gate(request).wait()
        yield b"second"

    def _up(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"+".join(requests)

    def _both(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield b"echo " + request

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nö: 100%")
        raise AssertionError

    def _hang(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        # (The iterator is not asked on once the call is over, so the end is noted apart from it.)
        gone = threading.Event()
        context.add_callback(gone.set)
        context.add_callback(lambda: self.ended.append(request))
        yield b"began"
        gone.wait()


class Call:
    """The methods of `test.Echo` on a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.unary = channel.unary_unary(f"/{SERVICE}/Unary")
        self.down = channel.unary_stream(f"/{SERVICE}/Down")
        self.up = channel.stream_unary(f"/{SERVICE}/Up")
        self.both = channel.stream_stream(f"/{SERVICE}/Both")
        self.fail = channel.unary_unary(f"/{SERVICE}/Fail")
        self.hang = channel.unary_stream(f"/{SERVICE}/Hang")
        self.missing = channel.unary_unary(f"/{SERVICE}/Missing")


def channel(port: int, hostname: str, roots: Path) -> grpc.Channel:
    """A visitor's channel to the edge."""
    return grpc.secure_channel(
        f"ipv4:127.0.0.1:{port}",
        grpc.ssl_channel_credentials(roots.read_bytes()),
        options=(
            ("grpc.ssl_target_name_override", hostname),
            ("grpc.default_authority", hostname),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ),
    )
