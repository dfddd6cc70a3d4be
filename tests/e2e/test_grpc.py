"""gRPC through the tunnel: `http2Origin` before Google's own server, over TLS and in cleartext."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from peers.curl import Curl
from peers.patience import PATIENCE, eventually
from peers.processes import EdgeProcess, QuickTunnelProcess, running

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")

from peers.grpc_server import Call, GrpcServer, channel  # noqa: E402


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, path


@contextlib.contextmanager
def published(edge: EdgeProcess, *arguments: str) -> Iterator[QuickTunnelProcess]:
    connector = QuickTunnelProcess(edge, *arguments)
    with running(connector):
        connector.ready()
        yield connector


@contextlib.contextmanager
def calling(edge: EdgeProcess, connector: QuickTunnelProcess) -> Iterator[Call]:
    with channel(edge.https_port, connector.hostname, edge.ca) as open_channel:
        yield Call(open_channel)


@pytest.fixture(params=["tls", "h2c", "unix"], scope="module")
def scene_of(
    request: pytest.FixtureRequest,
    scene: object,
    authority: tuple[trustme.CA, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[GrpcServer, Call]]:
    edge: EdgeProcess = scene.edge  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:
        if request.param == "tls":
            leaf = authority[0].issue_cert("127.0.0.1")
            chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
            server = GrpcServer(pair=(leaf.private_key_pem.bytes(), chain))
            arguments = [
                f"--url=https://127.0.0.1:{server.port}",
                f"--origin-ca-pool={authority[1]}",
            ]
        elif request.param == "h2c":
            server = GrpcServer()
            arguments = [f"--url=http://127.0.0.1:{server.port}"]
        else:
            path = tmp_path_factory.mktemp("grpc") / "s"
            server = GrpcServer(path=path)
            arguments = [f"--unix-socket={path}"]
        stack.enter_context(server)
        connector = stack.enter_context(published(edge, "--http2-origin", *arguments))
        yield server, stack.enter_context(calling(edge, connector))


@pytest.fixture
def server(scene_of: tuple[GrpcServer, Call]) -> GrpcServer:
    return scene_of[0]


@pytest.fixture
def call(scene_of: tuple[GrpcServer, Call]) -> Call:
    return scene_of[1]


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_a_unary_call(call: Call, server: GrpcServer, size: int) -> None:
    reply, how = call.unary.with_call(bytes(size), metadata=(("x-mine", "1"),), timeout=PATIENCE)
    assert reply == bytes(size)
    assert how.code() is grpc.StatusCode.OK
    assert ("x-size", str(size)) in [tuple(pair) for pair in how.trailing_metadata()]
    names = {name for name, _ in server.metadata}
    assert {"x-mine", "cf-ray", "cf-connecting-ip", "cf-warp-tag-id", "x-forwarded-for"} <= names


def test_messages_come_as_they_are_sent(call: Call, server: GrpcServer) -> None:
    """The second is not sent before the first has been seen."""
    key = b"down"
    replies = call.down(key, timeout=PATIENCE)
    assert next(replies) == b"first"
    server.gate(key).set()
    assert list(replies) == [b"second"]


def test_a_client_that_streams(call: Call) -> None:
    parts = [b"%d" % number for number in range(1000)]
    assert call.up(iter(parts), timeout=PATIENCE) == b"+".join(parts)


def test_a_conversation(call: Call) -> None:
    """Each message is answered before the next is sent."""
    turns = threading.Semaphore(1)

    def questions() -> Iterator[bytes]:
        for number in range(50):
            turns.acquire(timeout=PATIENCE)
            yield b"%d" % number

    heard = []
    for reply in call.both(questions(), timeout=PATIENCE):
        heard.append(reply)
        turns.release()
    assert heard == [b"echo %d" % number for number in range(50)]


def test_a_status_and_its_text(call: Call) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call.fail(b"", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "nö: 100%"


def test_a_method_that_does_not_exist(call: Call) -> None:
    """A response that is nothing but trailers."""
    with pytest.raises(grpc.RpcError) as caught:
        call.missing(b"", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_call_that_is_cancelled_ends_at_the_server(call: Call, server: GrpcServer) -> None:
    replies = call.hang(b"cancelled", timeout=PATIENCE)
    assert next(replies) == b"began"
    replies.cancel()
    eventually(lambda: b"cancelled" in server.ended, "the server learns of it")


def test_a_deadline_ends_the_call_at_both_ends(call: Call, server: GrpcServer) -> None:
    replies = call.hang(b"deadline", timeout=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        list(replies)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: b"deadline" in server.ended, "the server learns of it")


def test_many_at_once(call: Call) -> None:
    with ThreadPoolExecutor(32) as pool:
        replies = pool.map(lambda n: call.unary(b"%d" % n, timeout=PATIENCE), range(500))
        assert list(replies) == [b"%d" % number for number in range(500)]


def test_a_server_that_goes_away_and_comes_back(edge: EdgeProcess) -> None:
    """It says GOAWAY after so many milliseconds; no call may notice."""
    options = (("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 5000))
    with (
        GrpcServer(options=options) as server,
        published(edge, "--http2-origin", f"--url=http://127.0.0.1:{server.port}") as connector,
        calling(edge, connector) as call,
        ThreadPoolExecutor(8) as pool,
    ):
        replies = pool.map(lambda n: call.unary(b"%d" % n, timeout=PATIENCE), range(3000))
        assert list(replies) == [b"%d" % number for number in range(3000)]


def test_a_limit_on_streams_is_kept(edge: EdgeProcess) -> None:
    with (
        GrpcServer(options=(("grpc.max_concurrent_streams", 2),)) as server,
        published(edge, "--http2-origin", f"--url=http://127.0.0.1:{server.port}") as connector,
        calling(edge, connector) as call,
        ThreadPoolExecutor(20) as pool,
    ):
        replies = pool.map(lambda n: call.unary(b"%d" % n, timeout=PATIENCE), range(200))
        assert list(replies) == [b"%d" % number for number in range(200)]


def test_an_origin_that_speaks_no_http2_is_served_all_the_same(
    edge: EdgeProcess, scene: object
) -> None:
    """cloudflared's `http2Origin` does nothing to `http://`, so files have it there."""
    origin = scene.origin  # type: ignore[attr-defined]
    with published(edge, "--http2-origin", f"--url={origin.url}") as connector:
        curl = Curl(edge, connector.hostname)
        assert curl("/hello").body == b"hello\n"
        assert [answer.status for answer in curl.several(["/hello"] * 5)] == [200] * 5
        connector.wait_for("does not speak HTTP/2")
