# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""One HTTP/2 connection (RFC 9113), client or server.

Frames are parsed where they were read; content goes straight to the exchange of its stream. What is to be sent is
gathered in `out`: heads and control frames at once, content as far as both windows and a budget for one turn allow.
Content that must wait stays with its stream, and streams that have some take turns, one `QUANTUM` each, so that a
bulk transfer delays nobody by more than one turn.

A peer can make us hold: one header block of `MAX_BLOCK`, `limits.stream_window` of content a stream and
`limits.connection_window` of it in all (credit returns only as the exchange releases bytes), and control frames
that we answer as long as it spends less than its allowance (`Limits.allowance`).

A stream's window grows while it is what holds the stream up: where more than half of it is used up in a round trip,
the other half is not enough to keep the peer sending until credit arrives. All growth of a loop's connections comes
out of `Turn.spare_window`.
"""

from cpython.object cimport PyObject
from cython cimport final
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from underpass.core.fields cimport T_METHOD, Field, Fields
from underpass.core.frames cimport (
    ACK, CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, DATA_HEAD, DATA_PART, ENABLE_CONNECT_PROTOCOL, ENABLE_PUSH,
    END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME, FRAME_HEADER_SIZE,
    FRAME_SIZE_ERROR, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, NEED_MORE, NO_ERROR, NO_RFC7540_PRIORITIES, PADDED, PING, PRIORITY,
    PRIORITY_FLAG, PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS, SMALLEST_MAX_FRAME_SIZE,
    STREAM_CLOSED, WINDOW_UPDATE, FrameReader, HEADER_TABLE_SIZE, put_frame_header, read_u16, read_u32, write_data,
    write_goaway, write_ping, write_rst_stream, write_settings, write_settings_ack, write_window_update,
)
from underpass.core.histogram cimport underpass_seconds
from underpass.core.heads cimport NO_LENGTH, Head, check_request, check_response, check_trailers
from underpass.core.hpack cimport TOO_LARGE, Decoder, Encoder
from underpass.core.output cimport Backlog, Output
from underpass.core.relay cimport HARDLY_SEEN, SEEN, UNSEEN, Acceptor, Exchange, Patience

from underpass.core.hpack import CompressionError

# What our own PINGs carry: `ping` asks for a sign of life, `grow_window` for the round trip.
cdef const unsigned char* SIGN_OF_LIFE = b"underpas"
cdef const unsigned char* ROUND_TRIP = b"roundtri"

cdef bytes PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
cdef const unsigned char* preface = PREFACE

# The most one turn gathers: large enough for a full run of TLS records, small enough that a control frame or a
# small response waits for little.
cdef Py_ssize_t OUT_BUDGET = 262144
# How much of one stream is sent before the next has its turn.
cdef int64_t QUANTUM = 16384
# A header block in pieces may grow to this; Huffman coding and base64 are both inside it.
cdef Py_ssize_t MAX_BLOCK = 524288
# CONTINUATION frames of one block (CVE-2024-27316): honest peers fill their frames.
cdef uint32_t MAX_CONTINUATIONS = 64
# Bytes gathered for a peer that takes none. Past it a client opens no more streams, and a peer that has us answer
# more is dropped: Go queues 10,000 control frames (CVE-2019-9512, -9515, -9517), nghttp2 1,000.
cdef Py_ssize_t MAX_UNWRITTEN = 4 * 1024 * 1024
# WINDOW_UPDATEs this large are paid for by the content they acknowledge, or soon overflow the window; smaller ones
# make us send crumbs (CVE-2019-9511). Go gives back 4 KiB at a time, most others half a window.
cdef uint32_t SMALL_INCREMENT = 1024
cdef int64_t MAX_WINDOW = 0x7FFFFFFF
# How old a measured round trip may be when a window's growth depends on it, seconds.
cdef double ROUND_TRIP_AGE = 10.0
cdef int64_t FIRST_WINDOW = 65535
cdef uint32_t LAST_STREAM = 0x7FFFFFFF


cdef class Limits:
    """What we let a peer do; every field has a default that suits a tunnel connection.

    max_concurrent_streams: streams the peer may have open. stream_window, connection_window: bytes of content held
    for it at first; a stream's may grow to `largest_stream_window`, and the connection's with it. max_frame_size:
    bytes, as advertised. max_header_list: bytes. allowance: how many frames that carry nothing useful (resets, pings,
    settings, empty frames) may come in a burst, and how many more each second. linger: bytes of a request that are
    read on and thrown away after its response; 0 resets the stream at once. extended_connect: whether it may ask for
    another protocol on a stream (RFC 8441).
    """

    def __init__(self, *, uint32_t max_concurrent_streams=20000, uint32_t stream_window=1048576,
                 uint32_t largest_stream_window=16777216, uint32_t connection_window=16777216,
                 uint32_t max_frame_size=65536, uint32_t max_header_list=262144,
                 uint32_t allowance=20000, uint32_t allowance_per_second=10000, uint32_t linger=0,
                 bint extended_connect=False):
        if not 65535 <= stream_window <= 0x7FFFFFFF or not 65535 <= connection_window <= 0x7FFFFFFF:
            raise ValueError("a window must be between 65,535 and 2^31-1 bytes")
        self.max_concurrent_streams = max_concurrent_streams
        self.stream_window = stream_window
        self.largest_stream_window = largest_stream_window
        self.connection_window = connection_window
        self.max_frame_size = max_frame_size
        self.max_header_list = max_header_list
        self.allowance = allowance
        self.allowance_per_second = allowance_per_second
        self.linger = linger
        self.extended_connect = extended_connect


@final
cdef class H2Stream(Side):
    """One stream, as a side of its exchange."""

    cdef int send_head(self, Fields head, int status, bint end) except -1:
        cdef H2Stream _alive = self
        if self.local_closed:
            return 0
        self.connection.write_fields(self, head, end)
        return self.local_end() if end else 0

    cdef int send_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef H2Stream _alive = self
        cdef H2Connection connection = self.connection
        cdef int64_t sent = 0
        cdef int64_t part
        if self.local_closed or self.ends:
            return 0
        if (self.pending is None or self.pending.size == 0) and not connection.paused:
            while sent < size and connection.out.size < OUT_BUDGET:
                part = connection.may_send(self)
                if part <= 0:
                    break
                if part > size - sent:
                    part = size - sent
                connection.write_some(self, data + sent, part)
                sent += part
        if sent < size:
            if self.pending is None:
                self.pending = Backlog()
            if self.pending.size == 0 and not connection.client:
                self.opened_at = connection.turn.coarse
            self.pending.append(data + sent, size - <Py_ssize_t>sent)
            connection.make_ready(self)
        if sent and self.exchange is not None:
            self.exchange.drained(self, <Py_ssize_t>sent)
        return 0

    cdef int send_end(self, Fields trailers) except -1:
        cdef H2Stream _alive = self
        cdef H2Connection connection = self.connection
        if self.local_closed or self.ends:
            return 0
        self.trailers = trailers if not connection.drops_trailers else None
        self.ends = True
        if self.pending is None or self.pending.size == 0:
            return self.end_now()
        return 0

    cdef int end_now(self) except -1:
        cdef H2Stream _alive = self
        cdef H2Connection connection = self.connection
        if self.trailers is not None and self.trailers.count:
            connection.write_fields(self, self.trailers, True)
        elif connection.tail_stream == self.id and connection.tail_end == connection.out.size:
            # The stream's last frame is still ours to change: no empty DATA frame is needed.
            connection.out.base[connection.tail_start + 4] |= END_STREAM
        else:
            write_data(connection.out, self.id, NULL, 0, True)
            connection.wake()
        self.trailers = None
        return self.local_end()

    cdef int local_end(self) except -1:
        cdef H2Stream _alive = self
        self.local_closed = True
        if self.remote_closed or self.connection.client:
            return self.connection.settle(self)
        if self.connection.limits.linger:
            # Some clients lose the response if the reset comes before they have read it.
            self.lingers = True
            self.opened_at = self.connection.turn.coarse
            return 0
        # RFC 9113 §8.1: the response is complete, the rest of the request is not wanted.
        return self.connection.reset_stream(self, NO_ERROR)

    cdef int send_pending(self) except -1:
        """One quantum of what waits; the connection calls this in turn."""
        cdef H2Stream _alive = self
        cdef H2Connection connection = self.connection
        cdef int64_t part
        if self.local_closed or self.pending is None or self.pending.size == 0:
            return 0
        part = connection.may_send(self)
        if part <= 0:
            return 0
        if part > QUANTUM:
            part = QUANTUM
        if part > self.pending.size:
            part = self.pending.size
        connection.write_some(self, self.pending.front(), part)
        self.pending.consume(<Py_ssize_t>part)
        if self.pending.size:
            connection.make_ready(self)
        elif self.ends:
            self.end_now()
        if self.exchange is not None:
            self.exchange.drained(self, <Py_ssize_t>part)
        return 0

    cdef int abandon(self, uint32_t code) except -1:
        cdef H2Stream _alive = self
        cdef H2Connection connection = self.connection
        if connection is None:
            return 0
        if self.local_closed and self.remote_closed:
            return 0
        return connection.reset_stream(self, CANCEL if code == NO_ERROR and connection.client else code)

    cdef int release(self, Py_ssize_t size) except -1:
        cdef H2Stream _alive = self
        if self.unreleased < size:
            size = <Py_ssize_t>self.unreleased
        self.unreleased -= size
        if self.connection is not None:
            self.connection.return_credit(self, size)
        return 0


cdef bint is_head(Fields request) noexcept:
    cdef Field* method = request.find(T_METHOD) if request is not None else NULL
    return (method is not NULL and method.value_size == 4
            and memcmp(request.value(method), b"HEAD", 4) == 0)


cdef class H2Connection(Endpoint):
    """One HTTP/2 connection. `acceptor` makes it a server; without one it is a client.

    Hooks for Python subclasses, each called rarely: `connected()` after the peer's first SETTINGS, `going_away(code,
    debug)` for a GOAWAY, `disconnected(reason)` once at the end, `idle()` when a stream has ended and no more than
    `idle_at` are left. `drops_trailers` may be set on a client: requests end without theirs.
    """

    def __init__(self, turn, Acceptor acceptor=None, Limits limits=None):
        Endpoint.__init__(self, turn)
        self.acceptor = acceptor
        self.client = acceptor is None
        self.limits = limits if limits is not None else Limits()
        self.reader = FrameReader(self.limits.max_frame_size)
        self.decoder = Decoder(4096, self.limits.max_header_list)
        self.encoder = Encoder()
        self.streams = StreamTable()
        self.block = Output()
        self.preface_left = 0 if self.client else 24
        self.receive_window = FIRST_WINDOW
        self.send_window = FIRST_WINDOW
        self.peer_stream_window = FIRST_WINDOW
        self.peer_max_frame_size = SMALLEST_MAX_FRAME_SIZE
        # Until its SETTINGS say otherwise (RFC 9113 §6.5.2 leaves it unlimited; 100 is what it recommends).
        self.peer_max_streams = 100
        self.peer_max_header_list = 0xFFFFFFFF
        self.next_stream = 1
        self.lost_cause = "link_lost"
        self.reset_cause = "reset_by_peer"
        self.allowance = self.limits.allowance
        self.allowance_time = self.turn.coarse
        self._start()

    def _start(self):
        settings = [
            (<int>MAX_FRAME_SIZE, self.limits.max_frame_size),
            (<int>MAX_HEADER_LIST_SIZE, self.limits.max_header_list),
            (<int>INITIAL_WINDOW_SIZE, self.limits.stream_window),
            (<int>NO_RFC7540_PRIORITIES, 1),
        ]
        if self.client:
            self.out.append_bytes(PREFACE)
            settings.append((<int>ENABLE_PUSH, 0))
        else:
            settings.append((<int>MAX_CONCURRENT_STREAMS, self.limits.max_concurrent_streams))
            if self.limits.extended_connect:
                settings.append((<int>ENABLE_CONNECT_PROTOCOL, 1))
        write_settings(self.out, settings)
        self.settings_unacknowledged = 1
        if self.limits.connection_window > FIRST_WINDOW:
            write_window_update(self.out, 0, <uint32_t>(self.limits.connection_window - FIRST_WINDOW))
            self.receive_window = self.limits.connection_window

    # Hooks.

    def connected(self):
        """The peer's first SETTINGS have come."""

    def going_away(self, code, debug):
        """The peer sent GOAWAY."""

    def disconnected(self, reason):
        """The connection has ended; `reason` is an exception or None."""

    def idle(self):
        """A stream has ended and no more than `idle_at` are left."""

    # Owners.

    @property
    def active(self):
        """Streams open now."""
        return self.streams.count

    @property
    def accepts_requests(self):
        """Client role: whether `forward` would open a stream."""
        return self.takes_streams()

    cdef bint takes_streams(self) noexcept:
        return (self.client and not self.closed and not self.closing and not self.goaway_received
                and not self.goaway_sent and self.streams.count < self.peer_max_streams
                and self.next_stream <= LAST_STREAM and self.out.size < MAX_UNWRITTEN)

    def forward(self, Exchange exchange not None):
        """Client role: carry `exchange` on a new stream. False if this connection can take no more."""
        if not self.takes_streams():
            return False
        if not exchange.over:
            self.open_stream(exchange, exchange.outgoing_request())
        return True

    cdef int open_stream(self, Exchange exchange, Fields head) except -1:
        cdef H2Stream stream = self.add_stream(self.next_stream)
        self.next_stream += 2
        stream.response_bodiless = is_head(exchange.request)
        stream.opened_at = self.turn.coarse
        stream.times_out = exchange.times_out
        return exchange.join(stream, head)

    def sweep(self, double first_byte_timeout, double idle_timeout=0, double total_timeout=0):
        """Client role: give up streams that take too long, in seconds; for the last two 0 is for ever.

        first_byte_timeout: until the response head, from the request's last progress. idle_timeout: without content in
        either direction, after it. total_timeout: from the request head; tunnels do not count. The `patience` of an
        exchange goes before them. Measured by `Turn.tick`, so within a tick. Returns how many were given up.
        """
        cdef Patience patience = Patience(first_byte_timeout, idle_timeout, total_timeout)
        cdef Patience allowed
        cdef H2Stream stream
        cdef Exchange exchange
        cdef int given_up = 0
        cdef uint64_t moved
        cdef double idle
        cdef double now = underpass_seconds()
        cdef str cause
        for stream in self.streams.values():
            exchange = stream.exchange
            if not stream.times_out or exchange is None:
                continue
            moved = exchange.request_bytes + exchange.response_bytes + stream.got_head
            if moved != stream.moved:
                stream.moved = moved
                stream.opened_at = self.turn.coarse
            idle = self.turn.coarse - stream.opened_at
            allowed = patience if exchange.patience is None else exchange.patience
            if allowed.total > 0 and not exchange.tunnel and now - exchange.began >= allowed.total:
                cause = "timeout_total"
            elif not stream.got_head and idle >= allowed.first_byte:
                cause = "timeout_first_byte"
            elif stream.got_head and allowed.idle > 0 and idle >= allowed.idle:
                cause = "timeout_idle"
            else:
                continue
            given_up += 1
            stream.exchange = None
            self.reset_stream(stream, CANCEL)
            exchange.outbound = None
            if exchange.status:
                exchange.failed(cause)
                exchange.drop(INTERNAL_ERROR)
            else:
                exchange.fail(504, cause)
        return given_up

    def sweep_streams(self, double linger_seconds, double stall_seconds):
        """Server role: reset streams whose response has been complete for `linger_seconds` while the request goes on,
        and those of whose waiting content the peer has taken nothing for `stall_seconds` (CVE-2019-9517)."""
        cdef H2Stream stream
        for stream in self.streams.values():
            if stream.lingers:
                if self.turn.coarse - stream.opened_at >= linger_seconds:
                    self.reset_stream(stream, NO_ERROR)
            elif stream.pending is not None and stream.pending.size:
                if self.turn.coarse - stream.opened_at >= stall_seconds:
                    self.stream_fault(stream, CANCEL)

    def ping(self):
        """Send a PING; the answer counts in `bytes_received`."""
        if not self.closed:
            write_ping(self.out, SIGN_OF_LIFE, False)
            self.wake()

    def shut_down(self, int code=NO_ERROR):
        """Send GOAWAY: streams that are open may end, no new ones are taken; closes when the last has ended."""
        if not self.goaway_sent and not self.closed:
            self.goaway_sent = True
            self.goaway_last = self.last_peer_stream
            write_goaway(self.out, self.goaway_last, <uint32_t>code, b"")
            self.wake()
            if self.streams.count == 0:
                self.close_after_flush()

    def announce_end(self, bytes debug=b""):
        """Send GOAWAY that names no last stream (RFC 9113 §6.8): the peer had better go elsewhere; what it begins until
        it does is taken as ever, and so are, in the client role, requests that are forwarded here."""
        if not self.goaway_sent and not self.closed:
            write_goaway(self.out, LAST_STREAM, NO_ERROR, debug)
            self.wake()

    # Receiving.

    cdef int received(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef int event
        self.bytes_received += <uint64_t>size
        while self.preface_left and size > 0:
            if data[0] != preface[24 - self.preface_left]:
                return self.fail_connection(PROTOCOL_ERROR, "not an HTTP/2 client")
            data += 1
            size -= 1
            self.preface_left -= 1
        while not self.closed and not self.closing:
            event = self.reader.next(&data, &size)
            if event == DATA_PART:
                self.on_data_part()
            elif event == NEED_MORE:
                break
            elif event == DATA_HEAD:
                self.on_data_head()
            elif event == FRAME:
                self.on_frame()
            else:
                return self.fail_connection(self.reader.error, "malformed frame")
        if self.paused and not self.client and self.out.size >= OUT_BUDGET:
            # It asks more than it takes. (A client reads on: what it must answer is bounded by `spend`, and two peers
            # that both wait for the other to read would wait forever.)
            self.stop_reading()
        return 0

    cdef int on_frame(self) except -1:
        cdef uint8_t kind = self.reader.type
        if self.block_stream and kind != CONTINUATION:
            return self.fail_connection(PROTOCOL_ERROR, "header block interrupted")
        if not self.got_settings and (kind != SETTINGS or self.reader.flags & ACK):
            return self.fail_connection(PROTOCOL_ERROR, "first frame is not SETTINGS")
        if kind == HEADERS:
            return self.on_headers_frame()
        if kind == WINDOW_UPDATE:
            return self.on_window_update()
        if kind == RST_STREAM:
            return self.on_rst_stream()
        if kind == SETTINGS:
            return self.on_settings()
        if kind == CONTINUATION:
            return self.on_continuation()
        if kind == PING:
            if self.reader.stream != 0:
                return self.fail_connection(PROTOCOL_ERROR, "PING on a stream")
            if self.reader.size != 8:
                return self.fail_connection(FRAME_SIZE_ERROR, "PING of a wrong size")
            self.spend(1)
            if self.reader.flags & ACK:
                if self.asked_at and memcmp(self.reader.payload, ROUND_TRIP, 8) == 0:
                    self.measured()
            else:
                write_ping(self.out, self.reader.payload, True)
                self.wake()
            return 0
        if kind == GOAWAY:
            return self.on_goaway()
        if kind == PRIORITY:
            if self.reader.stream == 0:
                return self.fail_connection(PROTOCOL_ERROR, "PRIORITY on stream 0")
            if self.reader.size != 5:
                return self.fail_connection(FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
            return self.spend(1)
        if kind == PUSH_PROMISE:
            return self.fail_connection(PROTOCOL_ERROR, "PUSH_PROMISE, though push is disabled")
        # RFC 9113 §4.1: unknown types are ignored; §5.5.
        return self.spend(1)

    cdef int on_data_head(self) except -1:
        cdef uint32_t id = self.reader.stream
        cdef int64_t length = self.reader.length
        cdef H2Stream stream
        self.receiving = None
        if self.block_stream or not self.got_settings:
            return self.fail_connection(PROTOCOL_ERROR, "DATA in the wrong place")
        if id == 0:
            return self.fail_connection(PROTOCOL_ERROR, "DATA on stream 0")
        if length > self.receive_window:
            return self.fail_connection(FLOW_CONTROL_ERROR, "connection window exceeded")
        self.receive_window -= length
        stream = self.find(id)
        if stream is None or stream.remote_closed:
            if stream is None and (id >= self.next_stream if self.client and id & 1 else id > self.last_peer_stream):
                return self.fail_connection(PROTOCOL_ERROR, "DATA on an idle stream")
            # Sent before the peer learned of our reset: counted, credited, thrown away (RFC 9113 §5.1).
            self.spend(0.1)
            if stream is not None:
                return self.stream_fault_and_credit(stream, STREAM_CLOSED, length)
            return self.return_credit(None, length)
        if not stream.got_head and self.client:
            return self.stream_fault_and_credit(stream, PROTOCOL_ERROR, length)
        if length > stream.receive_window:
            return self.stream_fault_and_credit(stream, FLOW_CONTROL_ERROR, length)
        stream.receive_window -= length
        self.receiving = stream
        return 0

    cdef int stream_fault_and_credit(self, H2Stream stream, uint32_t code, int64_t length) except -1:
        self.return_credit(None, length)
        return self.stream_fault(stream, code)

    cdef int on_data_part(self) except -1:
        cdef H2Stream stream = self.receiving
        cdef Exchange exchange
        cdef uint32_t size = self.reader.size
        cdef const unsigned char* content = self.reader.payload
        if size == 0 and not self.reader.flags & END_STREAM:
            # CVE-2019-9518: frames that carry nothing, or nothing but padding.
            self.spend(1)
        if stream is None or stream.connection is None:
            # Its credit went back when the stream was given up, or with the frame's head.
            if stream is not None:
                self.return_credit(None, size + (self.reader.padding + 1 if self.reader.last and
                                                 self.reader.flags & PADDED else 0))
            return 0
        if self.reader.last and self.reader.flags & PADDED:
            self.return_credit(stream, <int64_t>self.reader.padding + 1)
        if size:
            if stream.expected != NO_LENGTH:
                if size > stream.expected:
                    self.return_credit(stream, size)
                    return self.stream_fault(stream, PROTOCOL_ERROR)
                stream.expected -= size
            stream.unreleased += size
            exchange = stream.exchange
            if exchange is None:
                stream.thrown_away += size
                stream.release(size)
                if stream.thrown_away > self.limits.linger and stream.local_closed:
                    return self.reset_stream(stream, NO_ERROR)
            elif self.client:
                exchange.response_data(content, size)
            else:
                exchange.request_data(content, size)
        if self.reader.last and self.reader.flags & END_STREAM and stream.connection is not None:
            self.receiving = None
            return self.remote_end(stream, None)
        return 0

    cdef int on_headers_frame(self) except -1:
        cdef const unsigned char* block = self.reader.payload
        cdef uint32_t size = self.reader.size
        cdef uint8_t flags = self.reader.flags
        cdef uint32_t padding = 0
        if self.reader.stream == 0:
            return self.fail_connection(PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & PADDED:
            if size < 1:
                return self.fail_connection(FRAME_SIZE_ERROR, "HEADERS without its padding length")
            padding = block[0]
            block += 1
            size -= 1
        if flags & PRIORITY_FLAG:
            if size < 5:
                return self.fail_connection(FRAME_SIZE_ERROR, "HEADERS without its priority")
            block += 5
            size -= 5
        if padding > size:
            return self.fail_connection(PROTOCOL_ERROR, "HEADERS with more padding than payload")
        size -= padding
        if flags & END_HEADERS:
            return self.on_headers(block, size, self.reader.stream, flags)
        self.block_stream = self.reader.stream
        self.block_flags = flags
        self.block_frames = 0
        self.block.discard()
        return self.block.append(block, size)

    cdef int on_continuation(self) except -1:
        cdef uint32_t stream = self.block_stream
        if stream == 0 or self.reader.stream != stream:
            return self.fail_connection(PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        self.block_frames += 1
        if (self.block_frames > MAX_CONTINUATIONS or self.block.size + <Py_ssize_t>self.reader.size > MAX_BLOCK):
            return self.fail_connection(ENHANCE_YOUR_CALM, "header block over its limit")
        self.block.append(self.reader.payload, self.reader.size)
        if not self.reader.flags & END_HEADERS:
            return 0
        self.block_stream = 0
        self.on_headers(self.block.base, <uint32_t>self.block.size, stream, self.block_flags)
        self.block.discard()
        return 0

    cdef int on_headers(self, const unsigned char* block, uint32_t size, uint32_t id, uint8_t flags) except -1:
        cdef Fields fields = Fields.__new__(Fields)
        cdef H2Stream stream
        cdef int verdict
        cdef bint end = flags & END_STREAM != 0
        try:
            verdict = self.decoder.decode(block, size, fields)
        except CompressionError as error:
            return self.fail_connection(COMPRESSION_ERROR, str(error))
        stream = self.find(id)
        if stream is None:
            if not self.client:
                return self.new_request(id, fields, verdict, end)
            if not id & 1 or id >= self.next_stream:
                return self.fail_connection(PROTOCOL_ERROR, "HEADERS on an idle stream")
            # For a stream we have given up; the table is in step, which is all that matters.
            return self.spend(0.1)
        if stream.remote_closed:
            self.spend(1)
            return self.stream_fault(stream, STREAM_CLOSED)
        if self.client and not stream.got_head:
            return self.response_fields(stream, fields, verdict, end)
        return self.trailer_fields(stream, fields, verdict, end)

    cdef int new_request(self, uint32_t id, Fields fields, int verdict, bint end) except -1:
        cdef H2Stream stream
        cdef Exchange exchange
        cdef Head head
        cdef int reason
        if not id & 1:
            return self.fail_connection(PROTOCOL_ERROR, "a client opened an even-numbered stream")
        if id <= self.last_peer_stream:
            if fields.count and fields.name(fields.items)[0] == 58:
                return self.fail_connection(PROTOCOL_ERROR, "a stream identifier used twice or out of order")
            # Trailers of a stream that is gone: sent before the peer learned of it.
            return self.spend(1)
        self.last_peer_stream = id
        if self.goaway_sent:
            return self.spend(1)
        if self.streams.count >= self.limits.max_concurrent_streams:
            self.spend(1)
            write_rst_stream(self.out, id, REFUSED_STREAM)
            return self.wake()
        stream = self.add_stream(id)
        stream.remote_closed = end
        stream.got_head = True
        if verdict == TOO_LARGE:
            self.spend(1)
            return self.answer_bare(stream, 431)
        reason = check_request(fields, &head)
        if (reason or (end and head.content_length > 0)
                or (head.extended and (end or not self.limits.extended_connect))):
            self.spend(1)
            return self.reset_stream(stream, PROTOCOL_ERROR)
        stream.expected = head.content_length
        exchange = self.acceptor.new_exchange()
        exchange.wants_upgrade = exchange.extended = head.extended
        exchange.begin(stream, fields)
        if end:
            exchange.request_ended = True
        return self.acceptor.accept(exchange)

    cdef int answer_bare(self, H2Stream stream, int status) except -1:
        cdef Fields head = Fields()
        head.append(b":status", b"%d" % status)
        head.append(b"content-length", b"0")
        stream.send_head(head, status, True)
        return 0

    cdef int response_fields(self, H2Stream stream, Fields fields, int verdict, bint end) except -1:
        cdef Head head
        cdef Exchange exchange = stream.exchange
        cdef int reason
        if verdict == TOO_LARGE:
            return self.stream_fault(stream, PROTOCOL_ERROR)
        reason = check_response(fields, &head)
        if reason or (head.status < 200 and end):
            return self.stream_fault(stream, PROTOCOL_ERROR)
        if head.status < 200:
            self.spend(1)
            if head.status == 101:
                return self.stream_fault(stream, PROTOCOL_ERROR)
            return exchange.response_interim(fields, head.status) if exchange is not None else 0
        stream.got_head = True
        if stream.response_bodiless or head.status == 304 or head.status == 204:
            stream.expected = 0 if not end else NO_LENGTH
        else:
            if end and head.content_length > 0:
                return self.stream_fault(stream, PROTOCOL_ERROR)
            stream.expected = head.content_length
        if end:
            stream.remote_closed = True
        if exchange is not None:
            exchange.response_head(fields, head.status, end)
        return self.settle(stream)

    cdef int trailer_fields(self, H2Stream stream, Fields fields, int verdict, bint end) except -1:
        if not end or verdict == TOO_LARGE or check_trailers(fields):
            return self.stream_fault(stream, PROTOCOL_ERROR)
        return self.remote_end(stream, fields)

    cdef int remote_end(self, H2Stream stream, Fields trailers) except -1:
        cdef Exchange exchange = stream.exchange
        if stream.expected > 0:
            return self.stream_fault(stream, PROTOCOL_ERROR)
        stream.remote_closed = True
        if exchange is not None:
            if self.client:
                exchange.response_end(trailers)
            else:
                exchange.request_end(trailers)
        return self.settle(stream)

    cdef int return_credit(self, H2Stream stream, int64_t size) except -1:
        """`size` received bytes are used up: let the peer send as many more, in large steps."""
        cdef int64_t kept = size if size < self.owed else self.owed
        self.owed -= kept
        self.turn.spare_window += kept
        self.returned += size - kept
        # Streams that stand still may keep most of the window; the rest of it must not wait for them.
        if self.returned and self.returned >= self.receive_window and not self.closed:
            write_window_update(self.out, 0, <uint32_t>self.returned)
            self.receive_window += self.returned
            self.returned = 0
            self.wake()
        if stream is not None and not stream.remote_closed and stream.connection is not None:
            stream.returned += size
            if stream.returned * 2 >= stream.window and not self.closed:
                self.grow_window(stream)
                write_window_update(self.out, stream.id, <uint32_t>stream.returned)
                stream.receive_window += stream.returned
                stream.returned = 0
                self.wake()
        return 0

    cdef int grow_window(self, H2Stream stream) except -1:
        """Half the window or more is about to be returned. If at that pace more than half of it passes in a round
        trip, the peer has to wait for credit before it arrives: return more."""
        cdef double now = self.turn.now()
        cdef double took = now - stream.returned_at
        cdef int64_t growth
        if stream.returned_at and 2 * stream.returned * self.round_trip > stream.window * took:
            growth = stream.window
            if growth > self.limits.largest_stream_window - stream.window:
                growth = self.limits.largest_stream_window - stream.window
            if growth > self.turn.spare_window:
                growth = self.turn.spare_window
            if growth > MAX_WINDOW - self.receive_window - self.returned:
                growth = MAX_WINDOW - self.receive_window - self.returned
            if growth > 0:
                self.turn.spare_window -= growth
                self.grown += growth
                stream.window += growth
                stream.returned += growth
                # What the stream may hold beyond its share must not come out of the others'.
                self.receive_window += growth
                write_window_update(self.out, 0, <uint32_t>growth)
        stream.returned_at = now
        if not self.asked_at and now - self.measured_at > ROUND_TRIP_AGE:
            self.asked_at = now
            write_ping(self.out, ROUND_TRIP, False)
        return 0

    cdef int measured(self) except -1:
        """The answer has come that tells the round trip."""
        self.measured_at = self.turn.now()
        self.round_trip = self.measured_at - self.asked_at
        self.asked_at = 0
        return 0

    cdef int on_settings(self) except -1:
        cdef uint32_t i = 0
        cdef const unsigned char* payload = self.reader.payload
        if self.reader.stream != 0:
            return self.fail_connection(PROTOCOL_ERROR, "SETTINGS on a stream")
        if self.reader.flags & ACK:
            if self.reader.size:
                return self.fail_connection(FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            if self.settings_unacknowledged:
                self.settings_unacknowledged -= 1
                return self.measured() if self.asked_at else 0
            return self.spend(1)
        if self.reader.size % 6:
            return self.fail_connection(FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        # Each setting may touch every stream.
        self.spend(1 + <double>self.reader.size / 6)
        first = not self.got_settings
        if first:
            self.got_settings = True
            self.peer_max_streams = 0xFFFFFFFF
        while i < self.reader.size:
            self.on_setting(read_u16(payload + i), read_u32(payload + i + 2))
            if self.closing or self.closed:
                return 0
            i += 6
        write_settings_ack(self.out)
        self.wake()
        if first:
            self.connected()
        return 0

    cdef int on_setting(self, uint32_t identifier, uint32_t value) except -1:
        cdef H2Stream stream
        cdef int64_t change
        if identifier == INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                return self.fail_connection(FLOW_CONTROL_ERROR, "initial window too large")
            change = <int64_t>value - self.peer_stream_window
            self.peer_stream_window = value
            if change:
                self.spend(0.01 * self.streams.count)
                for stream in self.streams.values():
                    stream.send_window += change
                    if stream.send_window > MAX_WINDOW:
                        return self.fail_connection(FLOW_CONTROL_ERROR, "stream window too large")
                    if stream.pending is not None and stream.pending.size:
                        self.make_ready(stream)
        elif identifier == MAX_FRAME_SIZE:
            if not SMALLEST_MAX_FRAME_SIZE <= value <= 0xFFFFFF:
                return self.fail_connection(PROTOCOL_ERROR, "maximum frame size out of range")
            self.peer_max_frame_size = value
        elif identifier == HEADER_TABLE_SIZE:
            self.encoder.set_table_size(value)
        elif identifier == MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
        elif identifier == MAX_HEADER_LIST_SIZE:
            self.peer_max_header_list = value
        elif identifier == ENABLE_PUSH:
            if value > 1 or (value == 1 and self.client):
                return self.fail_connection(PROTOCOL_ERROR, "invalid ENABLE_PUSH")
        elif identifier == NO_RFC7540_PRIORITIES and value > 1:
            # RFC 9218 §2.1.1.
            return self.fail_connection(PROTOCOL_ERROR, "invalid NO_RFC7540_PRIORITIES")
        return 0

    cdef int on_window_update(self) except -1:
        cdef uint32_t increment
        cdef H2Stream stream
        cdef uint32_t id = self.reader.stream
        if self.reader.size != 4:
            return self.fail_connection(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = read_u32(self.reader.payload) & 0x7FFFFFFF
        if increment < SMALL_INCREMENT:
            self.spend(0.1)
        if id == 0:
            if increment == 0:
                return self.fail_connection(PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self.send_window += increment
            if self.send_window > MAX_WINDOW:
                return self.fail_connection(FLOW_CONTROL_ERROR, "connection window too large")
            if self.ready_head is not None:
                self.wake()
            return 0
        stream = self.find(id)
        if stream is None:
            if id >= self.next_stream if self.client else id > self.last_peer_stream:
                return self.fail_connection(PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return self.spend(0.1)
        if increment == 0:
            return self.stream_fault(stream, PROTOCOL_ERROR)
        stream.send_window += increment
        if stream.send_window > MAX_WINDOW:
            return self.stream_fault(stream, FLOW_CONTROL_ERROR)
        if stream.pending is not None and stream.pending.size:
            self.make_ready(stream)
        return 0

    cdef int on_rst_stream(self) except -1:
        cdef H2Stream stream
        cdef Exchange exchange
        cdef uint32_t code
        cdef uint32_t id = self.reader.stream
        if self.reader.size != 4:
            return self.fail_connection(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        code = read_u32(self.reader.payload)
        if id == 0 or (id >= self.next_stream if self.client else id > self.last_peer_stream):
            return self.fail_connection(PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        # CVE-2023-44487: opening and resetting costs the peer nothing and us a request.
        self.spend(1)
        stream = self.find(id)
        if stream is None:
            return 0
        exchange = stream.exchange
        stream.remote_closed = stream.local_closed = True
        self.forget(stream)
        if exchange is not None:
            stream.exchange = None
            if self.client:
                exchange.outbound_lost(code, UNSEEN if code == REFUSED_STREAM else SEEN, self.reset_cause)
            else:
                exchange.inbound_lost(code)
        return 0

    cdef int on_goaway(self) except -1:
        cdef uint32_t last, code
        cdef H2Stream stream
        cdef Exchange exchange
        if self.reader.stream != 0:
            return self.fail_connection(PROTOCOL_ERROR, "GOAWAY on a stream")
        if self.reader.size < 8:
            return self.fail_connection(FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        self.spend(1)
        last = read_u32(self.reader.payload) & 0x7FFFFFFF
        code = read_u32(self.reader.payload + 4)
        debug = (<const char*>self.reader.payload)[8:self.reader.size]
        self.goaway_received = True
        if self.client:
            for stream in self.streams.values():
                if stream.id > last:
                    exchange = stream.exchange
                    stream.remote_closed = stream.local_closed = True
                    self.forget(stream)
                    if exchange is not None:
                        stream.exchange = None
                        exchange.outbound_lost(REFUSED_STREAM, UNSEEN, "refused")
        self.going_away(code, debug)
        if self.streams.count == 0 and not self.closing:
            self.close_after_flush()
        return 0

    cdef int input_ended(self) except -1:
        # Half a connection is of no use to HTTP/2.
        return self.close_after_flush()

    cdef int lost(self, object reason) except -1:
        cdef H2Stream stream
        cdef Exchange exchange
        self.receiving = self.recent = None
        self.turn.spare_window += self.grown + self.owed
        self.grown = self.owed = 0
        for stream in self.streams.values():
            stream.window = self.limits.stream_window
            exchange = stream.exchange
            stream.remote_closed = stream.local_closed = True
            stream.exchange = None
            try:
                self.forget(stream)
                if exchange is not None:
                    if self.client:
                        exchange.outbound_lost(INTERNAL_ERROR, HARDLY_SEEN, self.lost_cause)
                    else:
                        exchange.inbound_lost(CANCEL)
            except Exception as error:
                # The other exchanges must learn of the end all the same.
                self.failed(error)
        self.disconnected(reason)
        return 0

    # Limits.

    cdef int spend(self, double cost) except -1:
        """Charge the peer for a frame that costs us and carries nothing."""
        if self.out.size > MAX_UNWRITTEN and self.paused:
            # Nor would it read a GOAWAY.
            self.protocol_failure(<int>ENHANCE_YOUR_CALM, "does not read what it asks for")
            return self.close_at_once()
        if self.turn.coarse > self.allowance_time:
            self.earn(self.turn.coarse)
        self.allowance -= cost
        if self.allowance >= 0:
            return 0
        self.earn(self.turn.now())
        if self.allowance < 0:
            return self.fail_connection(ENHANCE_YOUR_CALM, "too many frames that carry nothing")
        return 0

    cdef void earn(self, double now) noexcept:
        self.allowance += (now - self.allowance_time) * self.limits.allowance_per_second
        self.allowance_time = now
        if self.allowance > self.limits.allowance:
            self.allowance = self.limits.allowance

    cdef int fail_connection(self, uint32_t code, str why) except -1:
        """A connection error (RFC 9113 §5.4.1): say so, and close."""
        if self.closing or self.closed:
            return 0
        if not self.goaway_sent:
            self.goaway_sent = True
            self.goaway_last = self.last_peer_stream
        if not self.preface_left:
            # RFC 9113 §6.8: never a later stream than the last GOAWAY named.
            write_goaway(self.out, self.goaway_last, code, why.encode())
        self.protocol_failure(code, why)
        return self.close_after_flush()

    def protocol_failure(self, code, why):
        """The peer broke the protocol and is being told so: override to log it."""

    # Streams.

    cdef H2Stream find(self, uint32_t id):
        cdef PyObject* found
        if self.recent is not None and self.recent.id == id:
            return self.recent
        found = self.streams.find(id)
        if found is NULL:
            return None
        self.recent = <H2Stream>found
        return self.recent

    cdef H2Stream add_stream(self, uint32_t id):
        cdef H2Stream stream = H2Stream.__new__(H2Stream)
        stream.connection = self
        stream.id = id
        stream.send_window = self.peer_stream_window
        stream.receive_window = stream.window = self.limits.stream_window
        stream.expected = NO_LENGTH
        self.streams.put(id, stream)
        self.recent = stream
        return stream

    cdef int forget(self, H2Stream stream) except -1:
        if stream.connection is None:
            return 0
        stream.connection = None
        if stream.in_ready:
            self.unready(stream)
        self.owed += stream.window - self.limits.stream_window
        self.grown -= stream.window - self.limits.stream_window
        if stream.unreleased:
            # Nobody will release these any more.
            self.return_credit(None, stream.unreleased)
            stream.unreleased = 0
        stream.pending = None
        stream.trailers = None
        if self.recent is stream:
            self.recent = None
        self.streams.remove(stream.id)
        if self.streams.count == 0 and (self.goaway_sent or self.goaway_received) and not self.closed:
            self.close_after_flush()
        return self.stream_ended()

    cdef int stream_ended(self) except -1:
        if self.streams.count <= self.idle_at:
            self.idle()
        return 0

    cdef int settle(self, H2Stream stream) except -1:
        """Forget the stream once nothing more is wanted of it."""
        if stream.remote_closed:
            if stream.local_closed:
                return self.forget(stream)
            if self.client:
                # RFC 9113 §8.1: the response is complete, what is left of the request is of no use.
                return self.reset_stream(stream, CANCEL)
        return 0

    cdef int reset_stream(self, H2Stream stream, uint32_t code) except -1:
        if stream.connection is None:
            return 0
        if not self.closed:
            write_rst_stream(self.out, stream.id, code)
            self.wake()
        stream.local_closed = stream.remote_closed = True
        return self.forget(stream)

    cdef int stream_fault(self, H2Stream stream, uint32_t code) except -1:
        """A stream error of the peer's (RFC 9113 §5.4.2); CVE-2025-8671: it may not have these for nothing."""
        cdef Exchange exchange = stream.exchange
        self.spend(1)
        stream.exchange = None
        self.reset_stream(stream, code)
        if exchange is not None:
            if self.client:
                exchange.outbound_lost(code, SEEN, "protocol_error")
            else:
                exchange.inbound_lost(code)
        return 0

    # Sending.

    cdef int write_fields(self, H2Stream stream, Fields fields, bint end) except -1:
        cdef Output out = self.out
        cdef Py_ssize_t start = out.size
        cdef Py_ssize_t size, at, part
        cdef bytes block
        cdef const unsigned char* rest
        out.reserve(FRAME_HEADER_SIZE)
        out.advance(FRAME_HEADER_SIZE)
        self.encoder.begin(out)
        self.encoder.encode_fields(out, fields)
        size = out.size - start - FRAME_HEADER_SIZE
        if size <= <Py_ssize_t>self.peer_max_frame_size:
            put_frame_header(out.base + start, <uint32_t>size, HEADERS,
                             END_HEADERS | (END_STREAM if end else 0), stream.id)
            self.tail_stream = stream.id
            self.tail_start = start
            self.tail_end = out.size
            return self.wake()
        # A block that needs CONTINUATION is rare enough to be copied.
        block = (<const char*>out.base + start + FRAME_HEADER_SIZE)[:size]
        out.size = start
        rest = block
        at = 0
        while at < size:
            part = size - at
            if part > <Py_ssize_t>self.peer_max_frame_size:
                part = self.peer_max_frame_size
            out.reserve(FRAME_HEADER_SIZE + part)
            put_frame_header(out.base + out.size, <uint32_t>part, HEADERS if at == 0 else CONTINUATION,
                             (END_HEADERS if at + part == size else 0) | (END_STREAM if end and at == 0 else 0),
                             stream.id)
            out.advance(FRAME_HEADER_SIZE)
            out.append(rest + at, part)
            at += part
        return self.wake()

    cdef int64_t may_send(self, H2Stream stream) noexcept:
        """How much content one frame of this stream may carry now."""
        cdef int64_t part = self.send_window
        if stream.send_window < part:
            part = stream.send_window
        if part > self.peer_max_frame_size:
            part = self.peer_max_frame_size
        return part

    cdef int write_some(self, H2Stream stream, const unsigned char* data, int64_t size) except -1:
        cdef Output out = self.out
        cdef int64_t length = QUANTUM + 1
        if self.tail_stream == stream.id and self.tail_end == out.size and out.base[self.tail_start + 3] == DATA:
            length = self.tail_end - self.tail_start - FRAME_HEADER_SIZE + size
        if length <= QUANTUM:
            # What comes in crumbs, such as the head and the payload of a message, goes in one frame.
            out.append(data, <Py_ssize_t>size)
            put_frame_header(out.base + self.tail_start, <uint32_t>length, DATA, 0, stream.id)
        else:
            self.tail_start = out.size
            write_data(out, stream.id, data, <uint32_t>size, False)
            self.tail_stream = stream.id
        self.tail_end = out.size
        self.send_window -= size
        stream.send_window -= size
        if not self.client:
            stream.opened_at = self.turn.coarse
        return self.wake()

    cdef int make_ready(self, H2Stream stream) except -1:
        if stream.in_ready or stream.send_window <= 0:
            return 0
        stream.in_ready = True
        stream.next_ready = None
        stream.prev_ready = self.ready_tail
        if self.ready_tail is None:
            self.ready_head = stream
        else:
            self.ready_tail.next_ready = stream
        self.ready_tail = stream
        if self.send_window > 0:
            self.wake()
        return 0

    cdef H2Stream take_ready(self):
        cdef H2Stream stream = self.ready_head
        if stream is not None:
            self.unready(stream)
        return stream

    cdef void unready(self, H2Stream stream) noexcept:
        if stream.prev_ready is None:
            self.ready_head = stream.next_ready
        else:
            stream.prev_ready.next_ready = stream.next_ready
        if stream.next_ready is None:
            self.ready_tail = stream.prev_ready
        else:
            stream.next_ready.prev_ready = stream.prev_ready
        stream.next_ready = stream.prev_ready = None
        stream.in_ready = False

    cdef int fill(self) except -1:
        cdef H2Stream stream
        while self.send_window > 0 and self.out.size < OUT_BUDGET:
            stream = self.take_ready()
            if stream is None:
                return 0
            stream.send_pending()
        return 0

    cdef int written(self, Py_ssize_t size) except -1:
        self.tail_stream = 0
        if not self.asked_at and not self.measured_at:
            # The first thing written is our SETTINGS.
            self.asked_at = self.turn.now()
        return self.resume_reading()

    cdef bint has_more(self) noexcept:
        return self.ready_head is not None and self.send_window > 0
