# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""A visitor who sends and reads raw bytes: the mirror of `websocket.WebSocketStream` at the edge.

On the link it is what a client for TCP over WebSocket would have asked for (RFC 8441 inside the edge, RFC 6455 on the
link; docs: wire protocol §2.7), so that any connector serves it: what the visitor sends goes in masked binary messages,
what comes back in messages of any size is written to the visitor as it comes.

Ends. The framing has no half-close of its own: a stock connector ends both directions with either. So a visitor's
end (FIN) is kept until the origin has been silent for a while. A connector that agrees to `HALF_CLOSE` has the origin's
direction stay open after our close frame, and is told at once. The origin's end is passed on as one when all of
its bytes have been written; what the visitor sends after that is read and thrown away for a while, because closing
before it has come would make the system take back what the visitor has not read yet. Everything else that ends a
stream is a reset: a stream that broke must not look like one that is complete.
"""

from cython cimport final
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from underpass.core.fields cimport T_SEC_WEBSOCKET_PROTOCOL, Fields
from underpass.core.frames cimport CANCEL
from underpass.core.relay cimport Exchange
from underpass.core.stream cimport SOURCE_CREDIT
from underpass.core.tunnel cimport VisitorAcceptor, VisitorExchange, next_random
from underpass.core.websocket cimport (
    BINARY, CLOSE, NORMAL_CLOSURE, PONG, WS_CLOSE, WS_DATA, WS_MORE, WS_PING, WebSocketReader,
)

import os

from underpass.core.websocket import HALF_CLOSE

# Bytes of one message: connectors of a kind cut off what is beyond.
cdef enum:
    MAX_MESSAGE = 16384
    MAX_HEAD = 8
# Bytes that are read and thrown away after the origin's end...
cdef int64_t LINGER_BYTES = 1048576
# ...for at most so many seconds.
cdef double LINGER_SECONDS = 30.0
# A visitor who has sent all: seconds without a byte from the origin until the stream ends, where a connector cannot
# tell the origin; and until a connector that was told has ended it.
cdef double HALF_CLOSED_SECONDS = 5.0

cdef unsigned char message[MAX_HEAD + MAX_MESSAGE]

cdef uint64_t mask_state = <uint64_t>int.from_bytes(os.urandom(8), "little")


@final
cdef class StreamVisitor(Side):
    """The inbound side of the stream's exchange."""

    cdef int send_head(self, Fields head, int status, bint end) except -1:
        cdef StreamVisitor _alive = self
        cdef StreamServer connection = self.connection
        cdef Exchange exchange = self.exchange
        if status < 200 or connection is None or exchange is None:
            return 0
        if not exchange.tunnel:
            # A page, or an application's answer, for somebody who speaks no HTTP.
            exchange.failed("not_a_websocket")
            return exchange.drop(CANCEL)
        connection.joined = True
        connection.half_closes = head.value_bytes(T_SEC_WEBSOCKET_PROTOCOL) == HALF_CLOSE
        connection.moved += 1
        if connection.fin_seen and connection.half_closes:
            connection.say_end()
        return 0

    cdef int send_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef StreamVisitor _alive = self
        cdef StreamServer connection = self.connection
        if connection is None:
            return 0
        connection.undrained += size
        connection.take_response(self, data, size)
        if self.connection is None:
            return 0
        if connection.out.size == 0:
            return connection.written(0)  # nothing in it was for the visitor
        return connection.wake()

    cdef int send_end(self, Fields trailers) except -1:
        cdef StreamVisitor _alive = self
        cdef StreamServer connection = self.connection
        if connection is None:
            return 0
        self.connection = connection.current = None
        connection.finishing = True
        # What the visitor sends is of no use any more, but its end is.
        connection.resume_reading()
        return connection.wake()

    cdef int abandon(self, uint32_t code) except -1:
        cdef StreamVisitor _alive = self
        cdef StreamServer connection = self.connection
        if connection is not None:
            self.connection = connection.current = None
            connection.break_off()
        return 0

    cdef int release(self, Py_ssize_t size) except -1:
        cdef StreamVisitor _alive = self
        self.unreleased = self.unreleased - size if self.unreleased > size else 0
        if self.connection is not None and self.unreleased * 2 <= SOURCE_CREDIT:
            self.connection.resume_reading()
        return 0


cdef class StreamServer(Endpoint):
    """One visitor's connection. `open` asks for the stream; whoever owns it calls `sweep` once a tick.

    Python subclasses may override `break_off`.
    """

    def open(self, VisitorAcceptor acceptor not None, bytes hostname not None, bytes first not None=b""):
        """Ask for a stream to whoever serves `hostname`; returns its exchange, which may be over.

        `first` has come from the visitor already. Once, after `connection_made`.
        """
        cdef StreamServer _alive = self
        cdef VisitorExchange exchange = <VisitorExchange>acceptor.new_exchange()
        cdef StreamVisitor side = StreamVisitor.__new__(StreamVisitor)
        cdef Fields head = Fields()
        self.reader = WebSocketReader(True)
        self.moved_at = self.turn.coarse
        for name, value in (
            (b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", acceptor.scheme),
            (b":authority", hostname), (b":path", b"/"), (b"sec-websocket-version", b"13"),
            (b"sec-websocket-protocol", HALF_CLOSE),
        ):
            head.append(name, value)
        exchange.extended = exchange.wants_upgrade = True
        # Its time limits are those of `sweep`.
        exchange.times_out = False
        # Nothing that a link has certainly not seen is lost with it.
        exchange.keeps_content = True
        side.connection = self
        self.current = side
        exchange.begin(side, head)
        if self.closed:
            # Gone before it was heard.
            self.lost(None)
            return exchange
        if first:
            self.received(<const unsigned char*>first, len(first))
        if not exchange.over:
            acceptor.accept(exchange)
        return exchange

    def break_off(self):
        """Close so that nobody takes it for a good end."""
        self.close_at_once()

    def sweep(self, double connect_seconds, double idle_seconds):
        """Give up what takes too long; for idle_seconds 0 is for ever. Measured by `Turn.tick`.

        connect_seconds: until the origin is there. idle_seconds: without a byte in either direction, after it.
        """
        cdef StreamServer _alive = self
        cdef double now = self.turn.coarse
        cdef double quiet
        if self.closed:
            return
        if self.moved != self.seen_moved:
            self.seen_moved = self.moved
            self.moved_at = now
        quiet = now - self.moved_at
        if self.current is None:
            if self.ended and quiet >= LINGER_SECONDS:
                self.close_at_once()
        elif not self.joined:
            if quiet >= connect_seconds:
                self.give_up("timeout_first_byte")
        elif self.close_seen or (self.close_sent and not self.half_closes):
            if quiet >= HALF_CLOSED_SECONDS:
                # It has said that it is done, and may be taken at its word.
                self.current.exchange.response_end(None)
        elif self.fin_seen and not self.half_closes:
            if quiet >= HALF_CLOSED_SECONDS:
                self.say_end()
        elif idle_seconds > 0 and quiet >= idle_seconds:
            self.give_up("timeout_idle")

    @property
    def waits_for_visitor(self):
        """True while the origin has said all, and the visitor has not yet."""
        return bool(self.finishing and not self.closed)

    cdef int give_up(self, str cause) except -1:
        cdef Exchange exchange = self.current.exchange
        if not exchange.status:
            exchange.fail(504, cause)
            return 0
        exchange.failed(cause)
        return exchange.drop(CANCEL)

    cdef int received(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef StreamServer _alive = self
        cdef StreamVisitor side = self.current
        if side is None or self.close_sent:
            self.thrown_away += size
            if self.thrown_away > LINGER_BYTES:
                self.break_off()
            return 0
        self.moved += <uint64_t>size
        return self.deliver(side, data, size)

    cdef int deliver(self, StreamVisitor side, const unsigned char* data, Py_ssize_t size) except -1:
        """What the visitor sent, in messages."""
        cdef Py_ssize_t part
        while size > 0 and self.current is side:
            part = size if size < MAX_MESSAGE else MAX_MESSAGE
            self.send_frame(side, BINARY, data, part)
            data += part
            size -= part
        if side.unreleased >= SOURCE_CREDIT and self.current is side:
            self.stop_reading()
        return 0

    cdef int send_frame(self, StreamVisitor side, uint8_t opcode, const unsigned char* data,
                        Py_ssize_t size) except -1:
        cdef Exchange exchange = side.exchange
        cdef uint64_t mask, word
        cdef unsigned char* at = message
        cdef Py_ssize_t i = 0
        cdef int framing
        cdef int k
        if exchange is None or exchange.over:
            return 0
        mask = next_random(&mask_state) >> 32
        mask |= mask << 32
        at[0] = 0x80 | opcode
        if size < 126:
            at[1] = 0x80 | <unsigned char>size
            at += 2
        else:
            at[1] = 0x80 | 126
            at[2] = <unsigned char>(size >> 8)
            at[3] = <unsigned char>size
            at += 4
        memcpy(at, &mask, 4)
        at += 4
        framing = <int>(at - message)
        while i + 8 <= size:
            memcpy(&word, data + i, 8)
            word ^= mask
            memcpy(at + i, &word, 8)
            i += 8
        if i < size:
            word = 0
            for k in range(<int>(size - i)):
                (<unsigned char*>&word)[k] = data[i + k]
            word ^= mask
            memcpy(at + i, &word, <size_t>(size - i))
        side.unreleased += framing + size
        # What is counted is what the visitor sent.
        if opcode != BINARY:
            framing += <int>size
            size = 0
        exchange.request_bytes -= <uint64_t>framing
        exchange.counters.request_bytes -= <uint64_t>framing
        return exchange.request_data(message, framing + size)

    cdef int say_end(self) except -1:
        """The visitor will send no more."""
        cdef StreamVisitor side = self.current
        if self.close_sent or side is None:
            return 0
        self.close_sent = True
        self.moved += 1
        return self.send_frame(side, CLOSE, <const unsigned char*>b"\x03\xe8", 2)

    cdef int take_response(self, StreamVisitor side, const unsigned char* data, Py_ssize_t size) except -1:
        """Messages of the origin's on their way to the visitor."""
        cdef WebSocketReader reader = self.reader
        cdef Exchange exchange = side.exchange
        cdef Py_ssize_t content = 0, total = size
        cdef int event
        while True:
            event = reader.next(&data, &size)
            if event == WS_DATA:
                if self.close_seen:
                    continue
                reader.unmask(self.out.reserve(reader.size))
                self.out.advance(reader.size)
                content += reader.size
            elif event == WS_PING:
                # One that takes no answers gets none.
                if side.unreleased < SOURCE_CREDIT and not self.close_sent:
                    self.send_frame(side, PONG, reader.control, reader.control_size)
            elif event == WS_CLOSE:
                if reader.control_size >= 2 and (reader.control[0] << 8 | reader.control[1]) != NORMAL_CLOSURE:
                    exchange.failed("protocol_error")
                    return exchange.drop(CANCEL)
                self.close_seen = True
                self.moved += 1
            elif event == WS_MORE:
                break
            else:
                exchange.failed("protocol_error")
                return exchange.drop(CANCEL)
            if self.current is not side:
                return 0
        exchange.response_bytes -= <uint64_t>(total - content)
        exchange.counters.response_bytes -= <uint64_t>(total - content)
        return 0

    cdef int input_ended(self) except -1:
        cdef StreamServer _alive = self
        self.fin_seen = True
        self.moved += 1
        if self.current is None:
            # Both have said all.
            return self.close_after_flush()
        if self.joined and self.half_closes:
            return self.say_end()
        return 0

    cdef int flush(self) except -1:
        cdef StreamServer _alive = self
        Endpoint.flush(self)
        if not self.finishing or self.ended or self.closed or self.transport is None or self.out.size:
            return 0
        self.ended = True
        self.moved += 1
        if self.fin_seen or not self.half_close:
            self.closed = True
            self.transport.close()
        else:
            self.transport.write_eof()
        return 0

    cdef int written(self, Py_ssize_t size) except -1:
        cdef StreamVisitor side = self.current
        cdef int64_t drained = self.undrained
        self.undrained = 0
        self.moved += <uint64_t>size
        if drained and side is not None and side.exchange is not None:
            return side.exchange.drained(side, <Py_ssize_t>drained)
        return 0

    cdef int lost(self, object reason) except -1:
        cdef StreamServer _alive = self
        cdef Exchange exchange = self.let_go()
        return exchange.inbound_lost(CANCEL) if exchange is not None else 0

    cdef Exchange let_go(self):
        cdef StreamVisitor side = self.current
        if side is None:
            return None
        self.current = None
        side.connection = None
        return side.exchange
