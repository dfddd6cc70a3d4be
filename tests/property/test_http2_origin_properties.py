"""The pool of HTTP/2 connections to an origin, before servers made with the `h2` package.

The oracle raises if anything it is sent is malformed, exceeds a window, or opens a stream too many.
What is generated are the requests, each server's limits, and when it refuses, resets or goes away.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rig.http2 import goaway
from rig.http2origin import Ask, Origins
from rig.transport import FakeTransport, ManualLoop, connect

from underpass.core.http2client import Http2Client

Pairs = list[tuple[bytes, bytes]]

MAX_STEPS = 2000


@dataclass
class Request:
    """What the origin got of one."""

    fields: Pairs
    body: bytearray = field(default_factory=bytearray)
    trailers: Pairs = field(default_factory=list)
    ended: bool = False


class Server:
    """An origin's end of one connection; `behave` decides what to do with a complete request."""

    def __init__(self, loop: ManualLoop, client: Http2Client, limits: dict[int, int]) -> None:
        self.client = client
        self.transport: FakeTransport = connect(loop, client)
        self.requests: dict[int, Request] = {}
        self.last_answered = 0
        self.gone_away = False
        self.oracle = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self.oracle.local_settings = h2.settings.Settings(client=False, initial_values=limits)
        self.oracle.initiate_connection()

    def exchange(self) -> list[int]:
        """Pass bytes both ways once; the streams that are complete now."""
        complete = []
        if self.transport.closed:
            return []
        for event in self.oracle.receive_data(self.transport.collect()):
            if isinstance(event, h2.events.RequestReceived):
                fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                self.requests[event.stream_id] = Request(fields)
            elif isinstance(event, h2.events.DataReceived):
                self.requests[event.stream_id].body += event.data
                self.oracle.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                self.requests[event.stream_id].trailers = list(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                self.requests[event.stream_id].ended = True
                complete.append(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                assert event.error_code == 0, event
        data = self.oracle.data_to_send()
        if data:
            self.client.data_received(data)
        return [stream for stream in complete if not self.gone_away or stream < self.last_answered]

    def go_away(self) -> None:
        """Process nothing that has not been answered. (The oracle would hear nothing either.)"""
        self.gone_away = True
        self.client.data_received(goaway(self.last_answered, 0))

    def answer(self, stream: int, body: bytes) -> None:
        """The whole response, as far as the window lets it go at once."""
        self.last_answered = max(stream, self.last_answered)
        self.oracle.send_headers(stream, [(b":status", b"200")])
        window = min(
            self.oracle.local_flow_control_window(stream), self.oracle.max_outbound_frame_size
        )
        self.oracle.send_data(stream, body[:window])
        self.oracle.send_headers(stream, [(b"x-sum", b"1")], end_stream=True)


def content_of(size: int | None) -> bytes | None:
    return None if size is None else random.Random(size).randbytes(size)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(
        st.sampled_from([None, 0, 1, 1000, 16384, 16385, 70000]), min_size=1, max_size=12
    ),
    most=st.integers(1, 6),
    window=st.sampled_from([65535, 1000, 0x7FFFFFFF]),
    sessions=st.integers(1, 4),
    trouble=st.floats(0, 0.4),
    seed=st.integers(0, 1 << 32),
)
@example(  # two need a new connection, and there may be but one more
    sizes=[None] * 3, most=1, window=65535, sessions=3, trouble=0.125, seed=398474561
)
def test_every_request_arrives_whole_once_or_is_told_to_have_failed(
    sizes: list[int | None],
    most: int,
    window: int,
    sessions: int,
    trouble: float,
    seed: int,
) -> None:
    dice = random.Random(seed)
    contents = [content_of(size) for size in sizes]
    origins = Origins(max_sessions=sessions)
    limits = {
        h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: most,
        h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
    }
    servers: list[Server] = []
    asks = [
        origins.request(b"POST" if body is not None else b"GET", [(b"x-n", b"%d" % n)], body=body)
        for n, body in enumerate(contents)
    ]
    answered: dict[bytes, Request] = {}
    refused = gone = 0
    for _ in range(MAX_STEPS):
        if all(over(ask) for ask in asks):
            break
        while origins.asked:
            origins.asked -= 1
            client = Http2Client(origins.loop.turn, origins.pool, b"https")
            server = Server(origins.loop, client, limits)
            server.exchange()
            origins.loop.run()
            origins.pool.arrived(client)
            servers.append(server)
        for server in servers:
            assert len([s for s in servers if not s.transport.closed]) <= sessions + gone
            for stream in server.exchange():
                if server.gone_away and stream > server.last_answered:
                    continue  # which it has just said it will not process
                request = server.requests[stream]
                fate = dice.random()
                if fate < trouble / 2:
                    refused += 1
                    server.oracle.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
                elif fate < trouble and stream > server.last_answered and not server.gone_away:
                    refused += 1
                    gone += 1
                    server.go_away()
                else:
                    number = dict(request.fields)[b"x-n"]
                    assert number not in answered, "processed twice"
                    answered[number] = request
                    server.answer(stream, b"body of " + number)
        origins.loop.run()
    else:
        raise AssertionError("it does not come to an end")
    for number, (ask, content) in enumerate(zip(asks, contents, strict=True)):
        request = answered.get(b"%d" % number)
        if ask.statuses == [200]:
            assert request is not None
            assert bytes(request.body) == (content or b"")
            assert bytes(ask.body) == b"body of %d" % number
            assert ask.ended
        else:
            assert ask.statuses == [502]
            assert refused, "failed without a reason"


def over(ask: Ask) -> bool:
    return ask.ended or ask.abandoned is not None
