"""Our HTTP/2 against the `h2` package as an oracle, in both roles, and through the relay.

A chain: an `h2` client speaks to a server of ours, whose exchanges a client connection of ours
carries to an `h2` server. The oracles raise if anything is malformed or flow control is violated.
What is generated are the messages, the windows, and a seed for everything else: how bytes are cut,
when transports pause, whose turn it is.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.http2 import (
    DATA,
    GET,
    GOAWAY,
    OK,
    POST,
    PREFACE,
    Heard,
    RawClient,
    RawServer,
    Sender,
    frame,
    frames_of,
    goaway,
    ping,
    rst_stream,
    window_update,
)
from rig.http2 import settings as settings_frame
from rig.transport import FakeTransport, ManualLoop, connect

from underpass.core.h2 import H2Connection, Limits
from underpass.core.relay import Acceptor, Exchange

Pairs = list[tuple[bytes, bytes]]

PATTERN = bytes(range(251))
WINDOW = 65535
"""Of each stream toward us: the smallest there is, so that it is often exhausted."""


@dataclass
class Message:
    """One direction of an exchange, as it is to arrive."""

    fields: Pairs
    size: int
    trailers: Pairs
    padding: int | None
    piece: int

    @property
    def body(self) -> bytes:
        return (PATTERN * (self.size // len(PATTERN) + 1))[: self.size]


@dataclass
class Plan:
    """One exchange. A `reset` after so many bytes of its sender's body, or None."""

    method: bytes
    request: Message
    response: Message
    early: bool
    client_resets: int | None
    server_resets: int | None


@dataclass
class Stream:
    """One stream as an oracle sees it."""

    head: Pairs | None = None
    body: bytearray = field(default_factory=bytearray)
    trailers: Pairs = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    unacknowledged: int = 0
    # Sending.
    to_send: Message | None = None
    first: Pairs = field(default_factory=list)
    reset_at: int | None = None
    head_sent: bool = False
    sent: int = 0
    end_sent: bool = False

    @property
    def closed(self) -> bool:
        return self.reset is not None or (self.ended and self.end_sent)


class Oracle:
    """One end of the chain: an `h2` connection that sends what it is told, a piece at a time."""

    def __init__(self, *, client: bool, window: int, rng: random.Random) -> None:
        self.rng = rng
        self.client = client
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=client, header_encoding=None)
        )
        self.h2.local_settings = h2.settings.Settings(
            client=client,
            initial_values={
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 65536,
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
            },
        )
        self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.streams: dict[int, Stream] = {}
        self.on_request: Callable[[int, Stream], None] | None = None
        self.on_progress: Callable[[int, Stream], None] | None = None

    def output(self) -> bytes:
        return bytes(self.h2.data_to_send())

    def open(self, stream: Stream) -> int:
        identifier = self.h2.get_next_available_stream_id()
        self.streams[identifier] = stream
        self.h2.send_headers(identifier, stream.first, end_stream=self._whole(stream))
        stream.head_sent = True
        return identifier

    @staticmethod
    def _whole(stream: Stream) -> bool:
        message = stream.to_send
        assert message is not None
        if not message.body and not message.trailers and stream.reset_at is None:
            stream.end_sent = True
        return stream.end_sent

    def advance(self, identifier: int) -> bool:
        """Send the next piece of a stream, as far as it may. False if there is nothing to do."""
        stream = self.streams[identifier]
        message = stream.to_send
        if message is None or stream.end_sent or stream.reset is not None:
            return False
        if not stream.head_sent:
            stream.head_sent = True
            self.h2.send_headers(identifier, stream.first, end_stream=self._whole(stream))
            return True
        if stream.reset_at is not None and stream.sent >= min(stream.reset_at, len(message.body)):
            self.h2.reset_stream(identifier, h2.errors.ErrorCodes.CANCEL)
            stream.reset = int(h2.errors.ErrorCodes.CANCEL)
            return True
        left = len(message.body) - stream.sent
        if left:
            overhead = 0 if message.padding is None else message.padding + 1
            room = self.h2.local_flow_control_window(identifier) - overhead
            size = min(left, message.piece, room, self.h2.max_outbound_frame_size - overhead)
            if size <= 0:
                return False
            last = size == left and not message.trailers and stream.reset_at is None
            self.h2.send_data(
                identifier,
                message.body[stream.sent : stream.sent + size],
                end_stream=last,
                pad_length=message.padding,
            )
            stream.sent += size
            stream.end_sent = last
            return True
        if message.trailers:
            self.h2.send_headers(identifier, message.trailers, end_stream=True)
        else:
            self.h2.end_stream(identifier)
        stream.end_sent = True
        return True

    def acknowledge(self, identifier: int, share: float = 1.0) -> bool:
        """Give back (some of) the credit for what was received."""
        stream = self.streams[identifier]
        size = int(stream.unacknowledged * share)
        if not size:
            return False
        self.h2.acknowledge_received_data(size, identifier)
        stream.unacknowledged -= size
        return True

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._event(event)

    def _event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            stream = self.streams[event.stream_id] = Stream(head=list(event.headers))
            assert self.on_request is not None
            self.on_request(event.stream_id, stream)
            return
        identifier = getattr(event, "stream_id", None)
        if not identifier or identifier not in self.streams:
            assert not isinstance(event, h2.events.ConnectionTerminated), event
            return
        stream = self.streams[identifier]
        if isinstance(event, h2.events.ResponseReceived):
            assert stream.head is None
            stream.head = list(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
            stream.unacknowledged += event.flow_controlled_length
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = list(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code)
        if self.on_progress is not None:
            self.on_progress(identifier, stream)


class Wire:
    """Bytes on their way from an oracle to one of ours and back, cut anywhere."""

    def __init__(self, oracle: Oracle, connection: H2Connection, transport: FakeTransport) -> None:
        self.oracle = oracle
        self.connection = connection
        self.transport = transport
        self.inward = bytearray()
        self.outward = bytearray()
        self.unparsed = bytearray()
        self.left: dict[int, int] = defaultdict(int)

    def carry(self, rng: random.Random, *, whole: bool = False) -> bool:
        """Move some bytes (or all) in both directions. False if there were none."""
        self.inward += self.oracle.output()
        written = self.transport.collect()
        self._count(written)
        self.outward += written
        moved = False
        if self.inward and self.transport.reading:
            size = len(self.inward) if whole else self._size(rng, len(self.inward))
            part = bytes(self.inward[:size])
            del self.inward[:size]
            self.connection.data_received(part)
            moved = True
        if self.outward:
            size = len(self.outward) if whole else self._size(rng, len(self.outward))
            part = bytes(self.outward[:size])
            del self.outward[:size]
            self.oracle.receive(part)
            moved = True
        return moved

    @staticmethod
    def _size(rng: random.Random, most: int) -> int:
        return min(most, rng.choice((1, 8, 9, 10, 100, 5000, 16393, 100_000)))

    def _count(self, written: bytes) -> None:
        """How much content of each stream has left through our transport."""
        self.unparsed += written
        if self.unparsed.startswith(PREFACE):
            del self.unparsed[: len(PREFACE)]
        for each in frames_of(bytes(self.unparsed)):
            if each.kind == DATA:
                self.left[each.stream] += len(each.payload)
        self.unparsed.clear()


class Chain:
    """`h2` client - server of ours - relay - client of ours - `h2` server."""

    def __init__(self, plans: list[Plan], windows: tuple[int, int], seed: int) -> None:
        self.rng = random.Random(seed)
        self.plans = plans
        self.loop = ManualLoop()
        limits = Limits(stream_window=WINDOW, connection_window=WINDOW * 4, max_frame_size=16384)
        link = H2Connection(self.loop.turn, None, limits)
        acceptor = Acceptor(self._forward)
        server = H2Connection(self.loop.turn, acceptor, limits)
        self.counters = acceptor.counters
        self.link, self.server = link, server
        self.client = Oracle(client=True, window=windows[0], rng=self.rng)
        self.origin = Oracle(client=False, window=windows[1], rng=self.rng)
        self.front = Wire(self.client, server, connect(self.loop, server))
        self.back = Wire(self.origin, link, connect(self.loop, link))
        self.origin.on_request = self._requested
        self.origin.on_progress = self._progressed
        self.waiting = list(plans)
        self.by_client: dict[int, Plan] = {}
        self.by_origin: dict[int, Plan] = {}
        self.pairs: dict[int, int] = {}
        # The oracles' greetings first: limits before SETTINGS are another test's matter.
        for _ in range(4):
            self.loop.run()
            for wire in (self.front, self.back):
                wire.carry(self.rng, whole=True)

    def _forward(self, exchange: Exchange) -> None:
        assert self.link.forward(exchange)

    def _requested(self, identifier: int, stream: Stream) -> None:
        assert stream.head is not None
        number = int(dict(stream.head)[b"x-number"])
        plan = self.plans[number]
        self.by_origin[identifier] = plan
        self.pairs[next(k for k, v in self.by_client.items() if v is plan)] = identifier
        stream.first = [(b":status", b"200"), *plan.response.fields]
        stream.reset_at = plan.server_resets
        if plan.early:
            stream.to_send = plan.response

    def _progressed(self, identifier: int, stream: Stream) -> None:
        if stream.ended and stream.to_send is None:
            stream.to_send = self.by_origin[identifier].response

    def step(self) -> None:
        """One thing that may happen next."""
        rng = self.rng
        action = rng.randrange(12)
        if action == 0 and self.waiting:
            plan = self.waiting.pop(0)
            number = next(i for i, each in enumerate(self.plans) if each is plan)
            stream = Stream(to_send=plan.request, reset_at=plan.client_resets)
            stream.first = [
                (b":method", plan.method),
                (b":scheme", b"https"),
                (b":authority", b"app.example"),
                (b":path", b"/"),
                (b"x-number", b"%d" % number),
                *plan.request.fields,
            ]
            identifier = self.client.h2.get_next_available_stream_id()
            self.by_client[identifier] = plan
            self.client.open(stream)
        elif action <= 3:
            self._some(self.client, Oracle.advance)
        elif action <= 6:
            self._some(self.origin, Oracle.advance)
        elif action == 7:
            self._some(rng.choice((self.client, self.origin)), Oracle.acknowledge, rng.random())
        elif action == 8:
            connection = rng.choice((self.server, self.link))
            if connection.write_paused:
                connection.resume_writing()
            else:
                # Transports pause while they are written to, when nothing is gathered.
                self.loop.run()
                connection.pause_writing()
        elif action == 9:
            self.loop.run_once()
        else:
            rng.choice((self.front, self.back)).carry(rng)
        self.check_memory()

    def _some(self, oracle: Oracle, act: Callable[..., bool], *more: float) -> None:
        if oracle.streams:
            act(oracle, self.rng.choice(list(oracle.streams)), *more)

    def drain(self) -> None:
        """Everything goes on until nothing more happens."""
        while self.waiting:
            self.step()
        for connection in (self.server, self.link):
            if connection.write_paused:
                connection.resume_writing()
        for _ in range(20_000):
            moved = False
            self.loop.run()
            for wire in (self.front, self.back):
                moved |= wire.carry(self.rng, whole=True)
            for oracle in (self.client, self.origin):
                for identifier in list(oracle.streams):
                    moved |= oracle.acknowledge(identifier)
                    moved |= oracle.advance(identifier)
            self.check_memory()
            if not moved and self.loop.idle:
                return
        raise AssertionError("the chain never comes to rest")

    def check_memory(self) -> None:
        """What we hold of a stream never exceeds its window, but for what this turn will write."""
        if not self.loop.idle:
            return
        for client_id, origin_id in self.pairs.items():
            request, response = self.client.streams[client_id], self.origin.streams[origin_id]
            if response.end_sent or (request.reset, response.reset) != (None, None):
                continue  # what is left of the request is thrown away
            for sender, identifier, way_out in (
                (request, origin_id, self.back),
                (response, client_id, self.front),
            ):
                unread = sum(
                    len(each.payload)
                    for data in way_out.transport.writes
                    for each in frames_of(data.removeprefix(PREFACE))
                    if each.kind == DATA and each.stream == identifier
                )
                assert sender.sent - way_out.left[identifier] - unread <= WINDOW


names = st.from_regex(rb"\Ax-[a-z0-9!#$%&'*+.^_`|~-]{0,12}\Z").filter(
    lambda name: name != b"x-number"
)
values = st.binary(max_size=60).map(
    lambda value: bytes(octet for octet in value if octet == 9 or 32 <= octet != 127).strip(b" \t")
)
pairs = st.lists(st.tuples(names, values), max_size=4)
messages = st.builds(
    Message,
    fields=pairs,
    size=st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 100_000)),
    trailers=pairs,
    padding=st.one_of(st.none(), st.sampled_from([0, 1, 255])),
    piece=st.sampled_from([100, 5000, 16384]),
)
resets = st.one_of(st.none(), st.none(), st.integers(0, 100_000))
windows = st.tuples(
    st.sampled_from([1000, 65535, 1 << 20]), st.sampled_from([1000, 65535, 1 << 20])
)


def plans(*, with_resets: bool) -> st.SearchStrategy[list[Plan]]:
    return st.lists(
        st.builds(
            Plan,
            method=st.sampled_from([b"GET", b"POST", b"PUT"]),
            request=messages,
            response=messages,
            early=st.booleans() if with_resets else st.just(False),
            client_resets=resets if with_resets else st.none(),
            server_resets=resets if with_resets else st.none(),
        ),
        min_size=1,
        max_size=5,
    )


SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)


def without_pseudo(head: Pairs | None) -> Pairs:
    assert head is not None
    return [pair for pair in head if not pair[0].startswith(b":") and pair[0] != b"x-number"]


@SETTINGS
@given(plans(with_resets=False), windows, st.integers(0, 2**32), st.integers(0, 400))
def test_everything_arrives_intact(
    exchanges: list[Plan], sizes: tuple[int, int], seed: int, steps: int
) -> None:
    chain = Chain(exchanges, sizes, seed)
    for _ in range(steps):
        chain.step()
    chain.drain()
    for client_id, plan in chain.by_client.items():
        got = chain.client.streams[client_id]
        seen = chain.origin.streams[chain.pairs[client_id]]
        assert dict(seen.head or ())[b":method"] == plan.method
        assert without_pseudo(seen.head) == plan.request.fields
        assert seen.body == plan.request.body
        assert seen.trailers == plan.request.trailers
        assert without_pseudo(got.head) == plan.response.fields
        assert got.body == plan.response.body
        assert got.trailers == plan.response.trailers
        assert (seen.reset, got.reset) == (None, None)
        assert seen.ended
        assert got.ended
    assert (chain.server.active, chain.link.active) == (0, 0)
    assert (chain.counters.opened, chain.counters.active) == (len(exchanges), 0)
    assert chain.counters.failed == 0
    assert chain.counters.statuses() == {200: len(exchanges)}


@SETTINGS
@given(plans(with_resets=True), windows, st.integers(0, 2**32), st.integers(0, 400))
def test_resets_and_early_responses_concern_one_stream_each(
    exchanges: list[Plan], sizes: tuple[int, int], seed: int, steps: int
) -> None:
    chain = Chain(exchanges, sizes, seed)
    for _ in range(steps):
        chain.step()
    chain.drain()
    for client_id, plan in chain.by_client.items():
        got = chain.client.streams[client_id]
        assert plan.response.body.startswith(bytes(got.body)) or dict(got.head or ())[
            b":status"
        ] == (b"502")
        origin_id = chain.pairs.get(client_id)
        if origin_id is not None:
            seen = chain.origin.streams[origin_id]
            assert plan.request.body.startswith(bytes(seen.body))
            assert seen.closed
        assert got.closed
        if plan.client_resets is None and plan.server_resets is None:
            assert got.ended
            assert got.body == plan.response.body
            assert got.trailers == plan.response.trailers
    assert (chain.server.active, chain.link.active) == (0, 0)
    assert chain.counters.active == 0


# Hostile bytes: whatever comes, nothing is raised, and the peer learns why the connection ends.


def conversation(rng: random.Random, *, client: bool) -> bytes:
    """Valid bytes of a peer's, with a little of everything."""
    peer = Sender()
    wire = bytearray(settings_frame((4, 70_000), (5, 20_000)))
    for stream in range(1, 12, 2):
        wire += peer.headers(stream, OK if client else rng.choice((GET, POST)), flags=0)
        wire += peer.data(stream, bytes(rng.randrange(300)), padding=rng.choice((None, 0, 9)))
        wire += rng.choice((b"", ping(), window_update(0, 500), window_update(stream, 500)))
        wire += rng.choice(
            (
                peer.data(stream, b"end", end=True),
                peer.headers(stream, [(b"x-sum", b"1")], end=True),
                rst_stream(stream, 8),
            )
        )
    wire += rng.choice((b"", goaway(5, 0, b"bye")))
    return bytes(wire)


def mutated(rng: random.Random, wire: bytes) -> bytes:
    """`wire` with a few octets changed, taken out, doubled or put in."""
    damaged = bytearray(wire)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(damaged))
        way = rng.randrange(4)
        if way == 0:
            damaged[at] = rng.randrange(256)
        elif way == 1:
            damaged[at] ^= 1 << rng.randrange(8)
        elif way == 2:
            del damaged[at : at + rng.randint(1, 20)]
        else:
            damaged[at:at] = damaged[at : at + rng.randint(1, 20)]
        if not damaged:
            damaged = bytearray(b"\0")
    return bytes(damaged)


def check_end(raw: RawClient | RawServer) -> None:
    """Whatever has happened, it is either still in order or ended with a reason."""
    frames = raw.sent()
    if raw.transport.closed:
        assert not raw.transport.aborted
        assert any(each.kind == GOAWAY for each in frames) or raw.connection.active == 0
    else:
        raw.transport.lose(None)
    raw.loop.run()
    assert raw.connection.active == 0
    assert raw.counters.active == 0


def prepared(client: bool) -> RawClient | RawServer:
    """One of ours in the middle of things."""
    if not client:

        def answer(exchange: Exchange) -> None:
            heard = Heard(exchange)
            heard.answer([(b"server", b"x")], b"content")

        return RawClient(greet=False, handler=answer)
    server = RawServer(greet=False)
    for _ in range(4):
        server.request(POST, end=False).side.write(b"content")
    server.request()
    return server


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 4000))
def test_damaged_bytes_end_streams_or_the_connection(seed: int, client: bool, piece: int) -> None:
    rng = random.Random(seed)
    wire = mutated(rng, conversation(rng, client=client))
    raw = prepared(client)
    if not client:
        raw.feed(PREFACE)
    raw.feed(*(wire[at : at + piece] for at in range(0, len(wire), piece)))
    check_end(raw)


hostile_frames = st.builds(
    frame,
    kind=st.one_of(st.integers(0, 10), st.integers(0, 255)),
    flags=st.one_of(st.sampled_from([0, 1, 4, 5, 8, 9, 13, 0x20, 0x25, 0x2D]), st.integers(0, 255)),
    stream=st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    payload=st.one_of(
        st.binary(max_size=20),
        st.sampled_from([bytes(4), bytes(5), bytes(8), b"\0\0\0\1", b"\x7f\xff\xff\xff"]),
        st.sampled_from([Sender().block(GET), Sender().block(POST), Sender().block(OK)]),
        st.binary(max_size=16).map(lambda rest: b"\3" + rest + bytes(3)),
    ),
)


@settings(deadline=None, max_examples=400)
@given(st.lists(hostile_frames, max_size=25), st.booleans(), st.integers(1, 500))
def test_any_sequence_of_frames_is_survived(wires: list[bytes], client: bool, piece: int) -> None:
    raw = prepared(client)
    raw.feed((b"" if client else PREFACE) + settings_frame())
    wire = b"".join(wires)
    raw.feed(*(wire[at : at + piece] for at in range(0, len(wire), piece)))
    check_end(raw)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.booleans(), st.booleans())
def test_any_bytes_are_survived(data: bytes, client: bool, greeted: bool) -> None:
    raw = prepared(client)
    if greeted:
        raw.feed((b"" if client else PREFACE) + settings_frame())
    raw.feed(data)
    check_end(raw)
