# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""A raw byte stream to an origin: request content goes out as it is, what comes back is response content."""

from cython cimport final
from libc.stdint cimport int64_t, uint32_t

from underpass.core.fields cimport Fields
from underpass.core.frames cimport CONNECT_ERROR, INTERNAL_ERROR
from underpass.core.relay cimport SEEN, Exchange

cdef int64_t SOURCE_CREDIT = 262144


@final
cdef class StreamSide(Side):
    """The outbound side of a tunnelled stream."""

    cdef int send_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef StreamSide _alive = self
        cdef StreamClient connection = self.connection
        if connection is None:
            return 0
        connection.undrained += size
        connection.take_request(data, size)
        if connection.feed is not None:
            return connection.hand_over()
        if connection.out.size == 0:
            return connection.written(0)  # nothing in it was for the origin
        return connection.wake()

    cdef int send_end(self, Fields trailers) except -1:
        cdef StreamSide _alive = self
        # The tunnel's streams end as a whole: there is no half-close.
        return self.connection.close_after_flush() if self.connection is not None else 0

    cdef int abandon(self, uint32_t code) except -1:
        cdef StreamSide _alive = self
        if self.connection is not None:
            self.connection.current = None
            self.connection.close_at_once()
            self.connection.leave()
            self.connection = None
        return 0

    cdef int release(self, Py_ssize_t size) except -1:
        cdef StreamSide _alive = self
        # Framing adds bytes that were never counted as delivered.
        self.unreleased = self.unreleased - size if self.unreleased > size else 0
        if self.connection is not None and self.unreleased * 2 <= SOURCE_CREDIT:
            self.connection.resume_reading()
        return 0


cdef class StreamClient(Endpoint):
    """One connection to a stream origin, for one exchange.

    Both may first have something to agree on in Python (SOCKS): between `listen` and `go_on` the visitor's bytes go
    to a callback. They stay charged to the visitor, so that no more can come than its window holds.
    """

    def attach(self, Exchange exchange not None, pairs=(), int status=200):
        """Acknowledge the exchange with `status` (200 or 101) and `pairs`, then join both directions."""
        cdef StreamSide side = StreamSide.__new__(StreamSide)
        cdef Fields head = Fields()
        if exchange.over or self.closed:
            self.close_at_once()
            if not exchange.over:
                exchange.fail(502, "dial")
            return
        side.connection = self
        self.current = side
        head.append(b":status", b"%d" % status)
        for name, value in pairs:
            head.append(name, value)
        exchange.tunnel = True
        exchange.outbound = side
        side.exchange = exchange
        exchange.response_head(head, status, False)
        exchange.deliver_waiting()

    def listen(self, feed not None, gone not None):
        """Until `go_on`, have the visitor's bytes by `feed(bytes)`, and learn by `gone()` that it has left."""
        self.feed = feed
        self.gone = gone

    def say(self, bytes data not None):
        """Something to the visitor, besides what the origin sends."""
        if self.current is not None and self.current.exchange is not None and data:
            self.give_response(self.current.exchange, data, len(data))

    def introduce(self, bytes data not None):
        """Something to the origin, before whatever the visitor sends from now on."""
        if not self.closed:
            self.out.append_bytes(data)
            self.wake()

    def go_on(self, bytes rest not None=b""):
        """The visitor's bytes are the origin's from now on, `rest` first: what came and was not for us."""
        self.feed = self.gone = None
        if rest and not self.closed:
            self.out.append_bytes(rest)
        if self.out.size == 0:
            self.written(0)
        else:
            self.wake()

    def hang_up(self):
        """End the exchange, after what was said, and the connection."""
        cdef StreamClient _alive = self
        self.feed = self.gone = None
        self.finish()
        if self.transport is None:
            self.close_at_once()
        else:
            self.close_after_flush()

    cdef int hand_over(self) except -1:
        cdef StreamClient _alive = self
        cdef Exchange exchange
        if self.out.size == 0:
            return 0
        try:
            self.feed(self.out.take())
        except Exception as error:
            # The link this came from is not to suffer.
            exchange = self.current.exchange if self.current is not None else None
            if exchange is not None:
                exchange.drop(INTERNAL_ERROR)
            self.failed(error)
        return 0

    cdef int leave(self) except -1:
        gone = self.gone
        self.feed = self.gone = None
        if gone is not None:
            gone()
        return 0

    cdef int close_after_flush(self) except -1:
        if self.feed is not None:
            return self.leave()
        return Endpoint.close_after_flush(self)

    cdef int received(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef StreamSide side = self.current
        if side is None or side.exchange is None:
            return self.close_at_once()
        side.unreleased += size
        self.give_response(side.exchange, data, size)
        if side.unreleased >= SOURCE_CREDIT and self.current is side:
            self.stop_reading()
        return 0

    cdef int take_request(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Request content on its way to the origin."""
        return self.out.append(data, size)

    cdef int give_response(self, Exchange exchange, const unsigned char* data, Py_ssize_t size) except -1:
        """Bytes of the origin's on their way to the visitor."""
        return exchange.response_data(data, size)

    cdef int input_ended(self) except -1:
        self.finish()
        return self.close_after_flush()

    cdef int lost(self, object reason) except -1:
        cdef StreamSide side = self.current
        if side is not None and side.exchange is not None and reason is not None:
            self.current = None
            side.connection = None
            return side.exchange.outbound_lost(CONNECT_ERROR, SEEN, "reset_by_origin")
        return self.finish()

    cdef int finish(self) except -1:
        cdef StreamSide side = self.current
        cdef Exchange exchange
        if side is None:
            return 0
        self.current = None
        side.connection = None
        exchange = side.exchange
        return exchange.response_end(None) if exchange is not None else 0

    cdef int written(self, Py_ssize_t size) except -1:
        cdef StreamSide side = self.current
        cdef int64_t drained = self.undrained
        self.undrained = 0
        if drained and side is not None and side.exchange is not None:
            return side.exchange.drained(side, <Py_ssize_t>drained)
        return 0
