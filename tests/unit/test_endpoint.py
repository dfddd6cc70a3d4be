"""Turn and Endpoint: one write a turn, shared read buffers, backpressure, and how connections end.

The codec under test is an HTTP/2 client, because an Endpoint by itself has nothing to say.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import weakref

import pytest
from rig.http2 import GOAWAY, PING, PREFACE, frames_of, ping, settings
from rig.transport import FakeTransport, ManualLoop, connect

from underpass.core.endpoint import Endpoint, Turn
from underpass.core.h2 import H2Connection


class Recorder(H2Connection):
    """Remembers how it ended."""

    ended: list[Exception | None]

    def disconnected(self, reason: Exception | None) -> None:
        self.__dict__.setdefault("ended", []).append(reason)


def open_client(loop: ManualLoop, *, tls: bool = False) -> tuple[Recorder, FakeTransport]:
    connection = Recorder(loop.turn)
    transport = connect(loop, connection, tls=tls)
    loop.run()
    transport.collect()
    return connection, transport


def feed_buffer(endpoint: Endpoint, data: bytes) -> None:
    """Feed as `asyncio.BufferedProtocol` is fed."""
    buffer = memoryview(endpoint.get_buffer(-1))
    buffer[: len(data)] = data
    endpoint.buffer_updated(len(data))


def test_nothing_is_written_before_the_turn_ends() -> None:
    loop = ManualLoop()
    connection = H2Connection(loop.turn)
    transport = connect(loop, connection)
    assert transport.writes == []
    loop.run()
    assert len(transport.writes) == 1
    assert transport.writes[0].startswith(PREFACE)


def test_what_one_turn_produces_is_written_once() -> None:
    loop = ManualLoop()
    connection, transport = open_client(loop)
    for _ in range(5):
        connection.ping()
    loop.run()
    assert len(transport.writes) == 1
    assert [each.kind for each in frames_of(transport.writes[0])] == [PING] * 5


def test_one_run_serves_every_endpoint_of_the_loop() -> None:
    loop = ManualLoop()
    pairs = [open_client(loop) for _ in range(3)]
    for connection, _ in pairs:
        connection.ping()
    loop.run_once()
    assert loop.idle
    assert [len(transport.writes) for _, transport in pairs] == [1, 1, 1]


def test_what_is_asked_for_while_flushing_is_written_in_the_next_turn() -> None:
    loop = ManualLoop()
    connection = Recorder(loop.turn)

    class Transport(FakeTransport):
        def write(self, data: bytes) -> None:
            if not self.writes:
                connection.ping()
            super().write(data)

    transport = Transport(loop, connection)
    connection.connection_made(transport)  # type: ignore[arg-type]
    loop.run_once()
    assert len(transport.writes) == 1
    loop.run_once()
    assert [each.kind for each in frames_of(transport.writes[1])] == [PING]


def test_the_coarse_clock_moves_with_ticks_only() -> None:
    loop = ManualLoop()
    assert loop.turn.coarse == loop.now
    loop.now += 5
    assert loop.turn.coarse == loop.now - 5
    loop.turn.tick()
    assert loop.turn.coarse == loop.now


def test_every_way_of_reading_brings_the_same() -> None:
    wire = settings() + ping()
    answers = []
    for feed in (Endpoint.data_received, feed_buffer):
        loop = ManualLoop()
        connection, transport = open_client(loop)
        feed(connection, wire)
        loop.run()
        answers.append(transport.collect())
        assert connection.bytes_received == len(wire)
    assert answers[0] == answers[1]
    assert frames_of(answers[0])[-1].kind == PING


def test_endpoints_share_one_read_buffer() -> None:
    loop = ManualLoop()
    one, _ = open_client(loop)
    other, _ = open_client(loop)
    assert one.get_buffer(-1) is other.get_buffer(65536)


def test_a_read_while_the_shared_buffer_is_parsed_gets_a_buffer_of_its_own() -> None:
    loop = ManualLoop()
    other, other_transport = open_client(loop)

    class Nested(Recorder):
        def connected(self) -> None:
            feed_buffer(other, settings() + ping(b"other---"))

    connection = Nested(loop.turn)
    transport = connect(loop, connection)
    loop.run()
    transport.collect()
    feed_buffer(connection, settings() + ping(b"outer---"))
    loop.run()
    assert frames_of(transport.collect())[-1].payload == b"outer---"
    assert frames_of(other_transport.collect())[-1].payload == b"other---"
    assert other.get_buffer(-1) is connection.get_buffer(-1)


def test_overlapping_reads_get_private_buffers() -> None:
    loop = ManualLoop(private_buffers=True)
    one, transport = open_client(loop)
    other, other_transport = open_client(loop)
    first, second = memoryview(one.get_buffer(-1)), memoryview(other.get_buffer(-1))
    wires = settings() + ping(b"first---"), settings() + ping(b"second--")
    first[: len(wires[0])], second[: len(wires[1])] = wires
    one.buffer_updated(len(wires[0]))
    other.buffer_updated(len(wires[1]))
    loop.run()
    assert frames_of(transport.collect())[-1].payload == b"first---"
    assert frames_of(other_transport.collect())[-1].payload == b"second--"


@pytest.mark.parametrize("private", [False, True])
def test_slices_of_the_read_buffer_are_views(private: bool) -> None:
    """asyncio's TLS transport reads into `buffer[offset:]`, which must not be a copy."""
    loop = ManualLoop(private_buffers=private)
    connection, transport = open_client(loop)
    buffer = connection.get_buffer(-1)
    wire = settings() + ping()
    for offset, octet in enumerate(wire):
        part = buffer[offset:]  # type: ignore[index]
        part[0] = octet
    connection.buffer_updated(len(wire))
    loop.run()
    assert frames_of(transport.collect())[-1].kind == PING


@pytest.mark.parametrize("private", [False, True])
def test_more_bytes_than_the_buffer_holds_are_refused(private: bool) -> None:
    loop = ManualLoop(private_buffers=private)
    connection, _ = open_client(loop)
    room = len(memoryview(connection.get_buffer(-1)))
    with pytest.raises(ValueError, match="more bytes"):
        connection.buffer_updated(room + 1)


def test_a_paused_transport_is_not_written_to() -> None:
    loop = ManualLoop()
    connection, transport = open_client(loop)
    connection.pause_writing()
    assert connection.write_paused
    connection.ping()
    loop.run()
    assert transport.writes == []
    connection.resume_writing()
    assert not connection.write_paused
    loop.run()
    assert len(transport.writes) == 1


def test_close_writes_what_is_gathered_first() -> None:
    loop = ManualLoop()
    connection, transport = open_client(loop)
    connection.shut_down()
    connection.close()
    loop.run()
    assert [each.kind for each in frames_of(transport.collect())] == [GOAWAY]
    assert transport.closed
    assert not transport.aborted
    assert connection.is_closed
    assert connection.transport is None
    assert connection.ended == [None]


def test_close_waits_for_a_paused_transport() -> None:
    loop = ManualLoop()
    connection, transport = open_client(loop)
    connection.pause_writing()
    connection.ping()
    connection.close()
    loop.run()
    assert not transport.closed
    connection.resume_writing()
    loop.run()
    assert transport.closed
    assert [each.kind for each in frames_of(transport.collect())] == [PING]


def test_abort_writes_nothing_more() -> None:
    loop = ManualLoop()
    connection, transport = open_client(loop)
    connection.ping()
    connection.abort()
    connection.ping()
    loop.run()
    assert transport.aborted
    assert transport.writes == []
    assert connection.ended == [None]


def test_an_endpoint_aborted_before_its_transport_is_made_aborts_it() -> None:
    loop = ManualLoop()
    connection = Recorder(loop.turn)
    connection.abort()
    transport = connect(loop, connection)
    loop.run()
    assert transport.aborted
    assert transport.writes == []
    assert connection.ended == [None]


def test_an_endpoint_closed_before_its_transport_is_made_closes_it() -> None:
    loop = ManualLoop()
    connection = Recorder(loop.turn)
    connection.close()
    transport = connect(loop, connection)
    loop.run()
    assert transport.closed
    assert not transport.aborted


def test_nothing_is_read_after_the_end() -> None:
    loop = ManualLoop()
    connection, transport = open_client(loop)
    connection.abort()
    connection.data_received(settings())
    assert connection.bytes_received == 0
    loop.run()
    connection.data_received(settings())
    assert connection.bytes_received == 0
    assert transport.writes == []


def test_the_reason_of_a_lost_connection_is_passed_on_once() -> None:
    loop = ManualLoop()
    connection, transport = open_client(loop)
    reason = ConnectionResetError("reset")
    transport.lose(reason)
    connection.connection_lost(reason)
    loop.run()
    assert connection.ended == [reason]


@pytest.mark.parametrize("tls", [False, True])
def test_the_end_of_the_peers_bytes_closes_the_connection(tls: bool) -> None:
    """Half-open HTTP/2 is of no use. TLS transports close whatever is answered."""
    loop = ManualLoop()
    connection, transport = open_client(loop, tls=tls)
    assert connection.eof_received() is not tls
    loop.run()
    assert transport.closed


class Broken(Recorder):
    """A codec with a fault of our own."""

    def connected(self) -> None:
        raise RuntimeError("a fault of ours")


@pytest.mark.parametrize("feed", [Endpoint.data_received, feed_buffer])
def test_an_unexpected_error_closes_the_connection_and_is_reported(feed) -> None:  # type: ignore[no-untyped-def]
    loop = ManualLoop(raises=False)
    connection = Broken(loop.turn)
    transport = connect(loop, connection)
    feed(connection, settings())
    loop.run()
    assert transport.aborted
    assert [str(error) for error in loop.errors] == ["a fault of ours"]


def test_without_anyone_to_report_to_an_unexpected_error_is_raised() -> None:
    loop = ManualLoop()
    connection = Broken(loop.turn)
    transport = connect(loop, connection)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        connection.data_received(settings())
    assert transport.aborted
    feed_again, _ = open_client(loop)
    assert memoryview(feed_again.get_buffer(-1)).nbytes > 16384


def test_the_shared_buffer_is_free_again_after_an_error() -> None:
    loop = ManualLoop()
    healthy, _ = open_client(loop)
    shared = healthy.get_buffer(-1)
    connection = Broken(loop.turn)
    connect(loop, connection)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        feed_buffer(connection, settings())
    assert healthy.get_buffer(-1) is shared


def test_one_endpoints_error_while_writing_does_not_stop_the_others() -> None:
    loop = ManualLoop(raises=False)
    pairs = [open_client(loop) for _ in range(3)]

    def refuse(data: bytes) -> None:
        raise OSError("no")

    broken = Recorder(loop.turn)
    transport = FakeTransport(loop, broken)
    transport.write = refuse  # type: ignore[method-assign]
    broken.connection_made(transport)  # type: ignore[arg-type]
    for connection, _ in pairs:
        connection.ping()
    loop.run()
    assert [str(error) for error in loop.errors] == ["no"]
    assert transport.aborted
    assert all(len(each.writes) == 1 for _, each in pairs)


def test_an_endpoint_that_has_ended_is_free_without_the_collector() -> None:
    loop = ManualLoop()
    gc.collect()
    gc.disable()
    try:
        connection = Recorder(loop.turn)
        seen = weakref.ref(connection)
        transport = connect(loop, connection)
        connection.data_received(settings())
        loop.run()
        connection.close()
        loop.run()
        del connection, transport
        assert seen() is None
    finally:
        gc.enable()


def test_it_is_a_protocol_of_asyncio() -> None:
    """Real transports, plain asyncio, TLS: a ping there and back through slices of the buffer."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    async def scenario() -> bytes:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()
        turn = Turn(loop.call_soon, loop.time, None, True)

        class Link(H2Connection, asyncio.BufferedProtocol):
            def disconnected(self, reason: Exception | None) -> None:
                if not answered.done():
                    answered.set_exception(reason or ConnectionError("closed"))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(PREFACE))
            # Many frames in one TLS record run, so that one read does not bring them all.
            writer.write(settings() + b"".join(ping(b"%08d" % i) for i in range(3000)))
            await writer.drain()
            received = b""
            while part := await reader.read(65536):
                received += part
                if received.endswith(ping(b"00002999", ack=True)):
                    answered.set_result(received)
                    break
            writer.close()

        server = await asyncio.start_server(serve, "localhost", 0, ssl=server_context)
        host, port = server.sockets[0].getsockname()[:2]
        transport, _ = await loop.create_connection(
            lambda: Link(turn), host, port, ssl=client_context, server_hostname="localhost"
        )
        try:
            return await asyncio.wait_for(answered, 30)
        finally:
            transport.abort()
            server.close()
            await server.wait_closed()

    received = asyncio.run(scenario())
    for i in (0, 1500, 2999):
        assert ping(b"%08d" % i, ack=True) in received
