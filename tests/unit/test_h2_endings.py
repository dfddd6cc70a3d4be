"""How connections end: GOAWAY both ways, lost transports, drains (RFC 9113 §5.4, §6.8)."""

from __future__ import annotations

import pytest
from rig.http2 import (
    GET,
    GOAWAY,
    HEADERS,
    OK,
    POST,
    RST_STREAM,
    RawClient,
    RawServer,
    frame,
    goaway,
    settings,
)
from rig.transport import ManualLoop

from underpass.core.frames import ErrorCode
from underpass.core.h2 import H2Connection


class Noting(H2Connection):
    """Writes its hooks down."""

    def note(self, *what: object) -> None:
        self.notes.append(what)

    @property
    def notes(self) -> list[tuple[object, ...]]:
        return self.__dict__.setdefault("_notes", [])

    def going_away(self, code: int, debug: bytes) -> None:
        self.note("going away", code, debug)

    def disconnected(self, reason: Exception | None) -> None:
        self.note("disconnected", reason)

    def idle(self) -> None:
        self.note("idle", self.active)


# We go away.


def test_shut_down_lets_open_streams_end_and_takes_no_new_ones() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST))
    client.connection.shut_down()
    (said,) = client.sent()
    assert (said.kind, said.number, said.code) == (GOAWAY, 1, ErrorCode.NO_ERROR)
    client.feed(client.peer.headers(3, GET, end=True))
    client.feed(client.peer.data(1, b"content", end=True))
    assert len(client.exchanges) == 1
    assert client.exchanges[0].body == b"content"
    assert not client.transport.closed
    client.exchanges[0].answer(body=b"last words")
    frames = client.sent()
    assert frames[-1].payload == b"last words"
    assert client.transport.closed
    assert not client.transport.aborted


def test_content_of_a_stream_that_came_too_late_is_no_error() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST))
    client.connection.shut_down()
    client.feed(client.peer.headers(3, POST), client.peer.data(3, b"content", end=True))
    assert [each.kind for each in client.sent()] == [GOAWAY]
    assert not client.transport.closed


def test_an_end_that_is_announced_changes_nothing_yet() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST))
    client.connection.announce_end(b"soon")
    (said,) = client.sent()
    assert (said.kind, said.number, said.code) == (GOAWAY, 2**31 - 1, ErrorCode.NO_ERROR)
    assert said.payload[8:] == b"soon"
    # What was on its way is taken, and what is begun until the end itself.
    client.feed(client.peer.headers(3, GET, end=True))
    assert len(client.exchanges) == 2
    client.connection.shut_down()
    (said,) = client.sent()
    assert (said.kind, said.number) == (GOAWAY, 3)
    client.connection.announce_end()
    assert client.sent() == []


def test_a_client_goes_on_after_it_has_announced_its_end() -> None:
    server = RawServer()
    server.connection.announce_end()
    assert server.connection.accepts_requests


def test_shut_down_of_an_idle_connection_closes_it() -> None:
    client = RawClient()
    client.connection.shut_down(ErrorCode.INTERNAL_ERROR)
    client.connection.shut_down()
    assert [each.code for each in client.sent()] == [ErrorCode.INTERNAL_ERROR]
    assert client.transport.closed


def test_a_client_that_shuts_down_opens_no_more_streams() -> None:
    server = RawServer()
    asked = server.request()
    server.connection.shut_down()
    assert not server.connection.accepts_requests
    assert not server.request().accepted
    server.feed(server.peer.headers(1, OK, end=True))
    assert asked.ended
    assert server.transport.closed


def test_a_later_goaway_never_names_a_later_stream() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST))
    client.connection.shut_down()
    client.feed(client.peer.headers(3, GET, end=True), frame(6, 0, 1, bytes(8)))
    assert [(each.code, each.number) for each in client.sent()] == [
        (ErrorCode.NO_ERROR, 1),
        (ErrorCode.PROTOCOL_ERROR, 1),
    ]


# The peer goes away.


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.ENHANCE_YOUR_CALM])
def test_a_goaway_is_passed_on(code: ErrorCode) -> None:
    for role in (RawClient, RawServer):
        raw = role(connection=Noting)
        raw.feed(goaway(0, code, b"because"))
        assert isinstance(raw.connection, Noting)
        assert raw.connection.notes[0] == ("going away", code, b"because")
        assert raw.transport.closed


def test_streams_the_peer_will_not_look_at_are_given_back() -> None:
    server = RawServer()
    seen, unseen = server.request(), server.request()
    server.sent()
    server.feed(goaway(1, ErrorCode.NO_ERROR))
    assert unseen.abandoned is not None
    assert seen.abandoned is None
    assert not server.connection.accepts_requests
    assert server.connection.active == 1
    assert server.sent() == []
    server.feed(server.peer.headers(1, OK, end=True))
    assert seen.ended
    assert server.transport.closed


def test_a_goaway_may_be_repeated_with_an_earlier_stream() -> None:
    server = RawServer()
    first, second = server.request(), server.request()
    server.feed(goaway(2**31 - 1, ErrorCode.NO_ERROR))
    assert second.abandoned is None
    server.feed(goaway(1, ErrorCode.NO_ERROR))
    assert second.abandoned is not None
    assert first.abandoned is None


def test_a_server_answers_what_is_open_when_its_client_goes_away() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True), goaway(0, ErrorCode.NO_ERROR))
    client.exchanges[0].answer(body=b"content")
    assert client.sent()[-1].payload == b"content"
    assert client.transport.closed


# The transport goes away.


def test_a_lost_transport_ends_every_exchange() -> None:
    reason = ConnectionResetError("gone")
    client = RawClient(connection=Noting)
    for stream in (1, 3, 5):
        client.feed(client.peer.headers(stream, POST))
    client.transport.lose(reason)
    assert [heard.abandoned for heard in client.exchanges] == [ErrorCode.CANCEL] * 3
    assert client.counters.active == 0
    assert client.connection.active == 0
    assert isinstance(client.connection, Noting)
    assert client.connection.notes[-1] == ("disconnected", reason)
    server = RawServer()
    asked = [server.request() for _ in range(3)]
    server.transport.lose(reason)
    assert all(each.abandoned is not None for each in asked)
    assert server.counters.active == 0


def test_one_exchanges_fault_does_not_keep_the_others_from_learning_of_the_end() -> None:
    loop = ManualLoop(raises=False)
    client = RawClient(loop=loop, connection=Noting)
    for stream in (1, 3, 5):
        client.feed(client.peer.headers(stream, POST))

    def fault(code: int) -> None:
        raise RuntimeError("a fault of ours")

    for heard in client.exchanges[:2]:
        heard.side.on_abandoned = fault
    client.transport.lose(None)
    assert [str(error) for error in loop.errors] == ["a fault of ours"] * 2
    assert client.exchanges[2].abandoned == ErrorCode.CANCEL
    assert client.counters.active == 0
    assert isinstance(client.connection, Noting)
    assert client.connection.notes[-1] == ("disconnected", None)


def test_what_is_said_after_the_end_goes_nowhere() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST))
    client.transport.lose(None)
    client.exchanges[0].answer(body=b"late")
    client.connection.ping()
    client.connection.shut_down()
    client.connection.close()
    client.loop.run()
    assert client.transport.writes == []
    server = RawServer()
    server.transport.lose(None)
    assert not server.connection.accepts_requests
    assert not server.request().accepted


def test_idle_is_told_when_few_enough_streams_are_left() -> None:
    client = RawClient(connection=Noting)
    assert isinstance(client.connection, Noting)
    client.connection.idle_at = 1
    for stream in (1, 3, 5):
        client.feed(client.peer.headers(stream, GET, end=True))
    for heard in client.exchanges:
        heard.answer()
    assert client.connection.notes == [("idle", 1), ("idle", 0)]


def test_after_a_connection_error_open_exchanges_end_with_the_transport() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, POST), settings()[:3] + b"\4\0\0\0\0\1")
    assert client.goaway_code() == ErrorCode.PROTOCOL_ERROR
    assert client.exchanges[0].abandoned == ErrorCode.CANCEL
    assert client.connection.active == 0


def test_a_response_head_already_sent_is_followed_by_the_error_of_its_stream() -> None:
    client = RawClient()
    client.feed(client.peer.headers(1, GET, end=True))
    client.exchanges[0].answer(end=False)
    client.exchanges[0].exchange.reset()
    assert [each.kind for each in client.sent()] == [HEADERS, RST_STREAM]
