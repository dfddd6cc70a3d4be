# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""HTTP/1.1 toward an origin (RFC 9112): one exchange at a time, connections kept for the next.

A connection goes back to its pool only when both messages are complete, the origin agrees, and nothing is left in
the air; any doubt closes it. Response content is held back by pausing the transport once `SOURCE_CREDIT` bytes are
unreleased.
"""

from cython cimport final
from libc.stdint cimport int64_t, uint32_t

from underpass.core.chunked cimport CHUNK_BROKEN, CHUNK_DATA, CHUNK_END, ChunkedReader, write_chunk, write_last_chunk
from underpass.core.fields cimport (
    T_CONTENT_LENGTH, T_METHOD, T_PROXY_AUTHORIZATION, T_UPGRADE, Field, Fields,
)
from underpass.core.frames cimport INTERNAL_ERROR
from underpass.core.heads cimport NO_LENGTH, parse_length, same_text
from underpass.core.http1 cimport (
    BY_CHUNKS, BY_CLOSE, BY_LENGTH, HEAD_BROKEN, HEAD_MORE, HEAD_TOO_LARGE, NO_CONTENT, OPAQUE, HeadReader,
    end_head, write_field, write_length, write_request_head,
)
from underpass.core.output cimport Backlog
from underpass.core.relay cimport HARDLY_SEEN, SEEN, Exchange

from collections import OrderedDict

# Response bytes an exchange may hold before the origin is not read any further.
cdef int64_t SOURCE_CREDIT = 262144
# A response head; what common servers allow is 8 to 64 KiB.
cdef Py_ssize_t MAX_RESPONSE_HEAD = 131072
# Interim responses before a final one: an honest origin sends one or two.
cdef int MAX_INTERIM = 16
# How long more connections than a pool keeps may be idle: requests come in bursts.
cdef double SURPLUS_SECONDS = 1.0


cdef bint usually_bodiless(Fields fields) noexcept:
    """Methods whose content has no defined meaning (RFC 9110 §9.3): no content, unless some comes."""
    cdef Field* method = fields.find(T_METHOD)
    cdef const unsigned char* text
    cdef uint32_t size
    if method is NULL:
        return False
    text = fields.value(method)
    size = method.value_size
    return (same_text(text, size, b"get") or same_text(text, size, b"head") or same_text(text, size, b"delete")
            or same_text(text, size, b"options") or same_text(text, size, b"propfind")
            or same_text(text, size, b"search") or same_text(text, size, b"trace"))


@final
cdef class Http1Request(Side):
    """One request on an origin connection."""

    cdef int send_head(self, Fields head, int status, bint end) except -1:
        cdef Http1Request _alive = self
        cdef Field* length = head.find(T_CONTENT_LENGTH)
        self.expected = NO_LENGTH
        self.upgrading = head.find(T_UPGRADE) is not NULL
        if length is not NULL:
            self.expected = parse_length(head.value(length), length.value_size)
        self.held = head
        if end or self.upgrading:
            return self.write_head(False, True)
        if self.expected == NO_LENGTH and usually_bodiless(head):
            # Such a request with an open stream almost always ends without content; its framing is not known
            # before the first byte or the end has come.
            return 0
        return self.write_head(True, False)

    cdef int write_head(self, bint content, bint ended) except -1:
        cdef Http1Request _alive = self
        cdef Http1Client connection = self.connection
        cdef Fields head = self.held
        self.held = None
        if connection.pool is None or connection.pool.absolute is None:
            write_request_head(connection.out, head, None)
        else:
            # What a visitor says to a proxy is not meant for this one.
            head.hide(T_PROXY_AUTHORIZATION)
            write_request_head(connection.out, head, connection.pool.absolute)
            if connection.pool.proxy_authorization is not None:
                write_field(connection.out, b"Proxy-Authorization", connection.pool.proxy_authorization)
        if self.upgrading:
            write_field(connection.out, b"Connection", b"Upgrade")
        elif content:
            if self.expected == NO_LENGTH:
                self.chunked = True
                write_field(connection.out, b"Transfer-Encoding", b"chunked")
            else:
                write_length(connection.out, self.expected)
        elif self.expected == 0 or not usually_bodiless(head):
            write_length(connection.out, 0)
        if not self.upgrading:
            write_field(connection.out, b"Connection", b"keep-alive")
        end_head(connection.out)
        self.sent_end = ended and not self.upgrading
        return connection.wake()

    cdef int send_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Http1Request _alive = self
        cdef Http1Client connection = self.connection
        if connection is None or self.sent_end:
            return self.exchange.drained(self, size) if self.exchange is not None else 0
        if self.upgrading and not self.tunnel:
            # It means something only if the origin agrees. Its sender's credit bounds it.
            if self.early is None:
                self.early = Backlog()
            return self.early.append(data, size)
        if self.held is not None:
            self.write_head(True, False)
        if self.chunked:
            write_chunk(connection.out, data, size)
        else:
            if not self.tunnel:
                if size > self.expected:
                    # More than was announced would be read as the next request.
                    return connection.broken_response("protocol_error")
                self.expected -= size
            connection.out.append(data, size)
        connection.undrained += size
        return connection.wake()

    cdef int send_end(self, Fields trailers) except -1:
        cdef Http1Request _alive = self
        cdef Http1Client connection = self.connection
        if connection is None or self.sent_end:
            return 0
        if self.tunnel:
            # An upgraded stream ends as a whole (there is no half-close in the tunnel's protocol).
            self.sent_end = True
            return connection.close_after_flush()
        if self.upgrading:
            return 0
        if self.held is not None:
            return self.write_head(False, True)
        if self.chunked:
            write_last_chunk(connection.out, trailers)
            connection.wake()
        elif self.expected > 0:
            return connection.broken_response("protocol_error")
        self.sent_end = True
        return connection.maybe_idle()

    cdef int abandon(self, uint32_t code) except -1:
        cdef Http1Request _alive = self
        # Whatever the reason, this connection is in the middle of something.
        if self.connection is not None:
            self.connection.current = None
            self.connection.close_at_once()
            self.connection = None
        return 0

    cdef int release(self, Py_ssize_t size) except -1:
        cdef Http1Request _alive = self
        self.unreleased -= size
        if self.connection is not None and self.unreleased * 2 <= SOURCE_CREDIT:
            self.connection.resume_reading()
        return 0

    cdef int become_tunnel(self) except -1:
        self.tunnel = True
        self.chunked = False
        return 0


cdef class Http1Client(Endpoint):
    """One connection to an origin."""

    def __init__(self, turn, OriginPool pool=None):
        Endpoint.__init__(self, turn)
        self.pool = pool
        self.heads = HeadReader(False, MAX_RESPONSE_HEAD)

    cdef int start(self, Exchange exchange) except -1:
        cdef Http1Request request = Http1Request.__new__(Http1Request)
        request.connection = self
        self.current = request
        self.uses += 1
        self.in_content = self.got_bytes = self.response_done = False
        self.interim = 0
        self.undrained = 0
        return exchange.join(request, exchange.outgoing_request())

    cdef int received(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef int event
        cdef Py_ssize_t part
        while size > 0 and not self.closed:
            if self.current is None:
                # Bytes nobody asked for: the origin and we disagree about where messages end.
                return self.close_at_once()
            self.got_bytes = True
            if not self.in_content:
                if self.response_done:
                    return self.close_at_once()
                if self.read_head(&data, &size) != 1:
                    return 0
                continue
            if self.framing == BY_LENGTH:
                part = size if <int64_t>size < self.left else <Py_ssize_t>self.left
                self.left -= part
                self.on_content(data, part)
                data += part
                size -= part
                if self.left == 0 and self.current is not None:
                    self.response_complete(None)
            elif self.framing == BY_CHUNKS:
                event = self.chunks.next(&data, &size)
                if event == CHUNK_DATA:
                    self.on_content(self.chunks.payload, self.chunks.size)
                elif event == CHUNK_END:
                    self.response_complete(self.chunks.trailers)
                elif event == CHUNK_BROKEN:
                    return self.broken_response("protocol_error")
            else:
                self.on_content(data, size)
                return 0
        return 0

    cdef int read_head(self, const unsigned char** data, Py_ssize_t* size) except -1:
        """1 after a head has been dealt with, 0 if more bytes are needed or the connection is done for."""
        cdef HeadReader heads = self.heads
        cdef Http1Request request = self.current
        cdef Exchange exchange = request.exchange
        cdef int event = heads.next(data, size)
        cdef bint end
        if event == HEAD_MORE:
            return 0
        if event == HEAD_BROKEN:
            self.broken_response("protocol_error")
            return 0
        if event == HEAD_TOO_LARGE:
            self.broken_response("response_too_large")
            return 0
        if exchange is None:
            self.close_at_once()
            return 0
        if heads.status < 200:
            if heads.status == 101:
                if not request.upgrading:
                    self.broken_response("protocol_error")
                    return 0
                self.framing = OPAQUE
                self.in_content = True
                heads.keep_alive = False
                request.become_tunnel()
                exchange.tunnel = True
                exchange.response_head(heads.fields, 101, False)
                if self.current is request:
                    self.begin_tunnel(request, exchange)
                return 1
            self.interim += 1
            if self.interim > MAX_INTERIM:
                self.broken_response("protocol_error")
                return 0
            heads.pass_content(NULL, 0)
            exchange.response_interim(heads.fields, heads.status)
            return 1
        if heads.status == 204 or heads.status == 304 or exchange._pseudo(T_METHOD) == b"HEAD":
            self.framing = NO_CONTENT
            heads.parser = None
            if heads.status == 204:
                # RFC 9110 §8.6: it has none, and somebody might wait for what it announces.
                heads.fields.hide(T_CONTENT_LENGTH)
        else:
            self.framing = heads.framing
            if self.framing == BY_LENGTH:
                self.left = heads.length
                heads.pass_content(data[0], <Py_ssize_t>self.left if self.left <= size[0] and self.left <= 16384 else 0)
            elif self.framing == BY_CHUNKS:
                self.chunks = ChunkedReader()
                heads.pass_content(<const unsigned char*>b"0\r\n\r\n", 5)
            elif self.framing == BY_CLOSE:
                heads.keep_alive = False
                heads.parser = None
        end = self.framing == NO_CONTENT
        self.in_content = not end
        if request.upgrading:
            # The origin declined; what the peer sends on is of no use to it.
            heads.keep_alive = False
            request.sent_end = True
            if request.early is not None:
                exchange.drained(request, request.early.size)
                request.early = None
        if end:
            self.response_done = True
        exchange.response_head(heads.fields, heads.status, end)
        if end:
            self.maybe_idle()
        return 1

    cdef int begin_tunnel(self, Http1Request request, Exchange exchange) except -1:
        """The origin has agreed: what was sent before it did goes out, the end included."""
        cdef Backlog early = request.early
        request.early = None
        if early is not None:
            request.send_data(early.front(), early.size)
        if exchange.request_ended:
            request.send_end(None)
        return 0

    cdef int on_content(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Http1Request request = self.current
        if request is None or request.exchange is None:
            return 0
        request.unreleased += size
        request.exchange.response_data(data, size)
        if request.unreleased >= SOURCE_CREDIT and self.current is request:
            self.stop_reading()
        return 0

    cdef int response_complete(self, Fields trailers) except -1:
        cdef Http1Request request = self.current
        cdef Exchange exchange = request.exchange
        self.in_content = False
        self.response_done = True
        self.chunks = None
        if exchange is not None:
            exchange.response_end(trailers)
        return self.maybe_idle()

    cdef int maybe_idle(self) except -1:
        """Both messages complete: back to the pool, or away."""
        cdef Http1Request request = self.current
        if request is None or not self.response_done:
            return 0
        if not request.sent_end:
            if request.exchange is None:
                # Nobody is left who could finish the request.
                self.current = None
                request.connection = None
                self.close_at_once()
            return 0
        self.current = None
        request.connection = None
        if not self.heads.keep_alive or self.pool is None or self.closed or self.closing:
            return self.close_after_flush()
        self.resume_reading()
        return self.pool.put(self)

    cdef int broken_response(self, str cause) except -1:
        cdef Http1Request request = self.current
        cdef Exchange exchange = request.exchange if request is not None else None
        self.current = None
        if request is not None:
            request.connection = None
        self.close_at_once()
        if exchange is not None:
            exchange.outbound_lost(INTERNAL_ERROR, SEEN, cause)
        return 0

    cdef int input_ended(self) except -1:
        cdef Http1Request request = self.current
        if request is not None and self.in_content and (self.framing == BY_CLOSE or self.framing == OPAQUE):
            request.sent_end = True
            self.response_complete(None)
        else:
            self.lost(None)
        return self.close_after_flush()

    cdef int lost(self, object reason) except -1:
        cdef Http1Request request = self.current
        cdef Exchange exchange
        if self.pool is not None and request is None:
            self.pool.remove(self)
        if request is None:
            return 0
        exchange = request.exchange
        self.current = None
        request.connection = None
        if exchange is None:
            return 0
        if self.in_content and self.framing == OPAQUE and reason is None:
            return exchange.response_end(None)
        # BY_CLOSE too: only the origin's own end (`input_ended`) completes such a response.
        # A kept connection that dies before the first byte was most likely closed while we were writing.
        return exchange.outbound_lost(
            INTERNAL_ERROR, HARDLY_SEEN if self.kept and not self.got_bytes else SEEN, "reset_by_origin")

    cdef int written(self, Py_ssize_t size) except -1:
        cdef Http1Request request = self.current
        cdef int64_t drained = self.undrained
        self.undrained = 0
        if drained and request is not None and request.exchange is not None:
            return request.exchange.drained(request, <Py_ssize_t>drained)
        return 0


cdef class OriginPool:
    """Connections to one origin.

    `dial()` is called when one more connection is wanted, and answers, now or later, with `arrived` or
    `dial_failed`; no more than `max_dials` are being made at once. A request that finds no connection waits for the
    first that comes free, be it new or one that another request is done with.

    max_idle: connections kept for longer than a moment. idle_timeout: seconds after which a waiting one is closed by
    `sweep`. absolute: scheme and authority to write before every path, for an origin that is asked through a proxy.
    proxy_authorization: the credentials for that proxy.
    """

    def __init__(self, dial, Py_ssize_t max_idle=100, double idle_timeout=90.0, Py_ssize_t max_dials=512, *,
                 bytes absolute=None, bytes proxy_authorization=None):
        self.dial = dial
        self.idle = {}
        self.waiting = OrderedDict()
        self.waiting_afresh = OrderedDict()
        self.max_idle = max_idle
        self.idle_timeout = idle_timeout
        self.max_dials = max_dials
        self.absolute = absolute
        self.proxy_authorization = proxy_authorization

    def forward(self, Exchange exchange not None):
        """Carry `exchange` on a connection that is idle, or the first that comes. CONNECT is answered with 501."""
        cdef Http1Client connection
        if self.turns_away(exchange):
            return
        exchange.carrier = self
        while self.idle:
            connection = <Http1Client>self.idle.popitem()[0]
            if not connection.closed and not connection.closing:
                self.reused += 1
                connection.start(exchange)
                return
        self.wait(exchange, self.waiting)

    cdef bint turns_away(self, Exchange exchange) except -1:
        """Whether there is nothing to carry."""
        cdef Field* method = exchange.request.find(T_METHOD) if exchange.request is not None else NULL
        if method is not NULL and same_text(exchange.request.value(method), method.value_size, b"connect"):
            # What would follow is no HTTP, and nobody here asked for a proxy (RFC 9110 §9.3.6).
            exchange.respond(501, ())
            return True
        return exchange.over

    def forward_afresh(self, Exchange exchange not None):
        """Carry `exchange` on a connection that has never been used."""
        self.wait(exchange, self.waiting_afresh)

    cdef int wait(self, Exchange exchange, object queue) except -1:
        if self.closed:
            exchange.fail(502, "shutdown")
            return 0
        self.arrivals += 1
        exchange.queue = queue
        queue[exchange] = self.arrivals
        return self.dial_what_is_wanted()

    cdef int dial_what_is_wanted(self) except -1:
        while self.dialling < self.max_dials and not self.closed and self.dialling < self.wanted():
            self.dialling += 1
            self.dialled += 1
            self.dial()
        return 0

    cdef Py_ssize_t wanted(self):
        return <Py_ssize_t>(len(self.waiting) + len(self.waiting_afresh))

    def arrived(self, Endpoint connection not None):
        """A connection asked for by `dial` has been made."""
        self.dialling -= 1
        if connection.closed:
            self.fail_longest_waiting(502, "dial", None)
        else:
            self.put(<Http1Client?>connection)
        self.dial_what_is_wanted()

    def dial_failed(self, int status, str cause, str context=None, waited_since=None):
        """A connection asked for by `dial` could not be made: who has waited longest is told.

        waited_since: what `arrivals` was when that attempt began, if it took all the time there was: who had been
        waiting then has waited as long.
        """
        cdef Exchange exchange
        self.dialling -= 1
        if waited_since is None:
            self.fail_longest_waiting(status, cause, context)
        else:
            for queue in (self.waiting_afresh, self.waiting):
                for exchange in [waiter for waiter, number in queue.items() if number <= waited_since]:
                    self.fail_waiting(exchange, status, cause, context)
        self.dial_what_is_wanted()

    cdef int fail_longest_waiting(self, int status, str cause, object context) except -1:
        if <Py_ssize_t>(len(self.waiting) + len(self.waiting_afresh)) <= self.dialling:
            # There is an attempt for each that waits: this one's has been served by another's connection.
            return 0
        return self.fail_waiting(self.longest_waiting(self.waiting_afresh or self.waiting), status, cause, context)

    cdef Exchange longest_waiting(self, object queue):
        cdef Exchange exchange = <Exchange>queue.popitem(last=False)[0]
        exchange.queue = None
        return exchange

    cdef int fail_waiting(self, Exchange exchange, int status, str cause, object context) except -1:
        if context is not None:
            exchange.context = context
        exchange.fail(status, cause)
        return 0

    cdef int put(self, Http1Client connection) except -1:
        """A connection that can carry an exchange: to who has waited longest, or to wait itself."""
        if self.waiting_afresh and connection.uses == 0:
            return connection.start(self.longest_waiting(self.waiting_afresh))
        if self.waiting:
            return connection.start(self.longest_waiting(self.waiting))
        if self.closed or self.max_idle <= 0:
            return connection.close_after_flush()
        connection.idle_since = connection.turn.coarse
        connection.kept = True
        self.idle[connection] = None
        return 0

    def remove(self, Http1Client connection not None):
        """Forget an idle connection that has closed."""
        self.idle.pop(connection, None)

    def sweep(self, double now):
        """Close what has been idle for `idle_timeout`, and what is more than `max_idle` and was not wanted for a
        second: closing those at once would make a busy origin's every burst dial anew. `now` is the loop's time.
        """
        cdef Http1Client connection
        cdef Py_ssize_t surplus = <Py_ssize_t>len(self.idle) - self.max_idle
        # Those used least recently come first.
        for connection in list(self.idle):
            if surplus > 0 and now - connection.idle_since >= SURPLUS_SECONDS:
                surplus -= 1
            elif self.idle_timeout <= 0 or now - connection.idle_since < self.idle_timeout:
                break
            del self.idle[connection]
            connection.close_after_flush()

    def close(self):
        """Close idle connections at once (the loop may end next) and fail what waits for one. Those in use close
        when their exchange ends."""
        cdef Http1Client connection
        self.closed = True
        idle, self.idle = self.idle, {}
        for connection in idle:
            connection.close_at_once()
        for queue in (self.waiting_afresh, self.waiting):
            while queue:
                self.fail_waiting(self.longest_waiting(queue), 502, "shutdown", None)

    def __len__(self):
        return len(self.idle)
