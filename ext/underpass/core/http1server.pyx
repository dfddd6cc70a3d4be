# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""HTTP/1.1 toward a visitor (RFC 9112): persistent connections, pipelined requests taken one at a time.

What comes while a request is being answered waits in `held`; once more than `MAX_HELD` wait, the transport is not
read. Nor is the next request looked at while the visitor does not read its answers. Request content is held back the
same way once `SOURCE_CREDIT` bytes are unreleased.
"""

from cython cimport final
from libc.stdint cimport int64_t, uint32_t

from underpass.core.chunked cimport CHUNK_BROKEN, CHUNK_DATA, CHUNK_END, ChunkedReader, write_chunk, write_last_chunk
from underpass.core.fields cimport T_CONTENT_LENGTH, T_METHOD, Field, Fields
from underpass.core.frames cimport CANCEL, PROTOCOL_ERROR
from underpass.core.heads cimport parse_length
from underpass.core.http1 cimport (
    BY_CHUNKS, BY_CLOSE, BY_LENGTH, HEAD_BROKEN, HEAD_MORE, HEAD_TOO_LARGE, NO_CONTENT, OPAQUE, HeadReader,
    end_head, write_field, write_length, write_response_head,
)
from underpass.core.output cimport Backlog
from underpass.core.relay cimport Acceptor, Exchange

from http import HTTPStatus

from underpass.core.http1 import UNSUPPORTED_CODING, UNSUPPORTED_METHOD, UNSUPPORTED_VERSION

cdef int64_t SOURCE_CREDIT = 262144
# Pipelined input that waits before the transport is paused; one read more may come.
cdef Py_ssize_t MAX_HELD = 16384
# Answers gathered and not written before the next pipelined request is looked at: requests are short and answers may
# be long, so one read of them could be worth many megabytes.
cdef Py_ssize_t MAX_UNSENT = 65536
# Request content read on and thrown away after an early response, so that the visitor sees it (RFC 9112 §9.6).
cdef int64_t MAX_THROWN_AWAY = 1048576


@final
cdef class Http1Response(Side):
    """One response on a visitor's connection."""

    cdef int send_head(self, Fields head, int status, bint end) except -1:
        cdef Http1Response _alive = self
        cdef Http1Server connection = self.connection
        cdef Field* length
        if connection is None or self.head_sent:
            return 0
        if status < 200 and status != 101:
            if connection.heads.minor:
                # HTTP/1.0 knows none (RFC 9110 §15.2).
                write_response_head(connection.out, head, status, False)
                end_head(connection.out)
                connection.wake()
            return 0
        self.head_sent = True
        if status == 101:
            self.framing = OPAQUE
            write_response_head(connection.out, head, status, True)
            end_head(connection.out)
            if end:
                self.connection = None
                connection.current = None
                return connection.close_after_flush()
            return connection.wake()
        if status == 204:
            # RFC 9110 §8.6: it has no content, and an announced length would be waited for.
            head.hide(T_CONTENT_LENGTH)
        length = head.find(T_CONTENT_LENGTH)
        write_response_head(connection.out, head, status, False)
        if self.head_request or status == 204 or status == 304:
            self.framing = NO_CONTENT
        elif length is not NULL:
            self.left = parse_length(head.value(length), length.value_size)
            if self.left < 0:
                return connection.close_at_once()
            self.framing = BY_LENGTH
        elif end:
            self.framing = NO_CONTENT
            write_length(connection.out, 0)
        elif connection.heads.minor:
            self.framing = BY_CHUNKS
            write_field(connection.out, b"Transfer-Encoding", b"chunked")
        else:
            self.framing = BY_CLOSE
            connection.keep_alive = False
        if not connection.keep_alive:
            write_field(connection.out, b"Connection", b"close")
        elif connection.heads.minor == 0:
            write_field(connection.out, b"Connection", b"keep-alive")
        end_head(connection.out)
        connection.wake()
        return self.send_end(None) if end else 0

    cdef int send_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Http1Response _alive = self
        cdef Http1Server connection = self.connection
        if connection is None:
            return 0
        if self.framing == NO_CONTENT:
            return self.exchange.drained(self, size) if self.exchange is not None else 0
        if self.framing == BY_CHUNKS:
            write_chunk(connection.out, data, size)
        else:
            if self.framing == BY_LENGTH:
                if size > self.left:
                    # More than was announced would be read as the next response.
                    connection.keep_alive = False
                    return connection.close_at_once()
                self.left -= size
            connection.out.append(data, size)
        connection.undrained += size
        return connection.wake()

    cdef int send_end(self, Fields trailers) except -1:
        cdef Http1Response _alive = self
        cdef Http1Server connection = self.connection
        if connection is None:
            return 0
        if self.framing == BY_CHUNKS:
            write_last_chunk(connection.out, trailers)
            connection.wake()
        elif self.framing == BY_LENGTH and self.left:
            # Too short: only an aborted connection tells the visitor so.
            self.connection = None
            connection.current = None
            return connection.close_at_once()
        self.connection = None
        return connection.response_written()

    cdef int abandon(self, uint32_t code) except -1:
        cdef Http1Response _alive = self
        cdef Http1Server connection = self.connection
        if connection is not None:
            self.connection = None
            connection.current = None
            connection.close_at_once()
        return 0

    cdef int release(self, Py_ssize_t size) except -1:
        cdef Http1Response _alive = self
        self.unreleased -= size
        if self.connection is not None and self.unreleased * 2 <= SOURCE_CREDIT and self.connection.held is None:
            self.connection.resume_reading()
        return 0

    cdef int become_tunnel(self) except -1:
        cdef Http1Response _alive = self
        cdef Http1Server connection = self.connection
        cdef Backlog held
        self.tunnel = True
        if connection is None:
            return 0
        connection.framing = OPAQUE
        connection.in_content = True
        held, connection.held = connection.held, None
        connection.resume_reading()
        if held is not None and held.size:
            connection.on_content(held.front(), held.size)
        if connection.ended and self.exchange is not None:
            self.exchange.request_end(None)
        return 0


cdef class Http1Server(Endpoint):
    """One connection from a visitor; `scheme` is b"http" or b"https"; `max_head` bounds a request head in bytes."""

    def __init__(self, turn, Acceptor acceptor not None, bytes scheme=b"http", Py_ssize_t max_head=32768):
        Endpoint.__init__(self, turn)
        self.acceptor = acceptor
        self.scheme = scheme
        self.heads = HeadReader(True, max_head)
        self.heads.scheme = scheme
        self.keep_alive = True
        self.waiting_since = self.turn.coarse

    def sweep(self, double head_timeout, double idle_timeout):
        """Time out what waits too long, in seconds by `Turn.tick`.

        head_timeout: for a request head that has begun, and for the rest of a request already answered.
        idle_timeout: for the next request, and for the next content of one nothing has answered yet. A visitor that
        does not read its answers is for the owner to notice.
        """
        cdef Http1Response response = self.current
        cdef double waited = self.turn.coarse - self.waiting_since
        if self.closed or self.closing or self.held is not None:
            return
        if response is None:
            if self.heads.stash is not None and self.heads.stash.size:
                if waited >= head_timeout:
                    self.refuse(408)
            elif waited >= idle_timeout:
                self.close_after_flush()
        elif response.connection is None:
            if waited >= head_timeout:
                self.close_after_flush()
        elif (self.in_content and self.framing != OPAQUE and not response.head_sent
                and not self.reading_stopped and waited >= idle_timeout):
            self.refuse(408)

    @property
    def active(self):
        """1 while a request is being answered."""
        return 1 if self.current is not None else 0

    def shut_down(self):
        """Close as soon as no request is being answered."""
        self.keep_alive = False
        if self.current is None:
            self.close_after_flush()

    def announce_end(self):
        """Close after the next response that can still say so; an idle connection stays for it. Ask again while a
        response is under way whose head is out: its visitor takes it that another request may follow."""
        if self.current is None or not self.current.head_sent:
            self.keep_alive = False

    cdef bint must_wait(self) noexcept:
        """Whether the next request may not be looked at yet."""
        if self.current is not None:
            return not self.in_content
        return self.paused or self.out.size >= MAX_UNSENT

    cdef int hold(self, const unsigned char* data, Py_ssize_t size) except -1:
        if self.held is None:
            self.held = Backlog()
            if self.current is None:
                self.wake()
        self.held.append(data, size)
        return self.stop_reading() if self.held.size > MAX_HELD else 0

    cdef int received(self, const unsigned char* data, Py_ssize_t size) except -1:
        while size > 0 and not self.closed and not self.closing:
            if self.held is not None or self.must_wait():
                return self.hold(data, size)
            self.consume(&data, &size)
        return 0

    cdef int consume(self, const unsigned char** data, Py_ssize_t* size) except -1:
        """Take one head, or some content."""
        cdef int event
        cdef Py_ssize_t part
        cdef bint begun
        if not self.in_content:
            begun = self.heads.stash is not None and self.heads.stash.size > 0
            event = self.heads.next(data, size)
            if event != HEAD_MORE:
                return self.begin_request(event)
            if not begun and self.heads.stash is not None and self.heads.stash.size:
                self.waiting_since = self.turn.coarse
            return 0
        if self.framing == BY_LENGTH:
            part = size[0] if <int64_t>size[0] < self.left else <Py_ssize_t>self.left
            self.left -= part
            self.on_content(data[0], part)
            data[0] += part
            size[0] -= part
            return self.on_request_end(None) if self.left == 0 else 0
        if self.framing == BY_CHUNKS:
            event = self.chunks.next(data, size)
            if event == CHUNK_DATA:
                return self.on_content(self.chunks.payload, self.chunks.size)
            if event == CHUNK_END:
                return self.on_request_end(self.chunks.trailers)
            if event == CHUNK_BROKEN:
                return self.refuse(400)
            return 0
        part = size[0]
        size[0] = 0
        return self.on_content(data[0], part)

    cdef int begin_request(self, int event) except -1:
        cdef HeadReader heads = self.heads
        cdef Http1Response response
        cdef Exchange exchange
        if event == HEAD_TOO_LARGE:
            return self.refuse(431)
        if event == HEAD_BROKEN:
            return self.refuse(505 if heads.fault == UNSUPPORTED_VERSION else
                               501 if heads.fault in (UNSUPPORTED_METHOD, UNSUPPORTED_CODING) else 400)
        response = Http1Response.__new__(Http1Response)
        response.connection = self
        response.head_request = heads.fields.value_bytes(T_METHOD) == b"HEAD"
        self.current = response
        self.framing = heads.framing
        self.left = heads.length
        self.thrown_away = 0
        self.keep_alive = self.keep_alive and heads.keep_alive
        self.waiting_since = self.turn.coarse
        self.in_content = heads.framing != NO_CONTENT
        self.request_done = not self.in_content
        if heads.framing == BY_CHUNKS:
            self.chunks = ChunkedReader()
            heads.pass_content(<const unsigned char*>b"0\r\n\r\n", 5)
        elif heads.framing == BY_LENGTH:
            heads.parser = None
        exchange = self.acceptor.new_exchange()
        exchange.wants_upgrade = heads.upgrade and not self.in_content
        exchange.begin(response, heads.fields)
        exchange.request_ended = self.request_done and not exchange.wants_upgrade
        if heads.expects_continue and heads.minor and self.in_content:
            self.out.append(<const unsigned char*>b"HTTP/1.1 100 Continue\r\n\r\n", 25)
            self.wake()
        return self.acceptor.accept(exchange)

    cdef int on_content(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Http1Response response = self.current
        if response is None or response.exchange is None:
            self.thrown_away += size
            if self.thrown_away > MAX_THROWN_AWAY:
                self.keep_alive = False
                return self.close_after_flush()
            return 0
        self.waiting_since = self.turn.coarse
        response.unreleased += size
        response.exchange.request_data(data, size)
        if response.unreleased >= SOURCE_CREDIT and self.current is response:
            self.stop_reading()
        return 0

    cdef int on_request_end(self, Fields trailers) except -1:
        cdef Http1Response response = self.current
        self.in_content = False
        self.request_done = True
        self.chunks = None
        if response is None:
            return self.next_request()
        if response.exchange is not None:
            response.exchange.request_end(trailers)
        if response.connection is None and self.current is response:
            return self.next_request()
        return 0

    cdef int response_written(self) except -1:
        """The response is in `out`, whole."""
        if self.framing == OPAQUE and self.in_content:
            return self.close_after_flush()
        if not self.request_done:
            if self.current is not None and self.current.framing == BY_CLOSE:
                return self.close_after_flush()
            # Go on reading, so that the visitor is not reset before it has seen the answer (RFC 9112 §9.6).
            self.waiting_since = self.turn.coarse
            return self.resume_reading()
        return self.next_request()

    cdef int next_request(self) except -1:
        self.current = None
        self.in_content = False
        self.waiting_since = self.turn.coarse
        if not self.keep_alive:
            return self.close_after_flush()
        if self.held is None:
            return self.resume_reading() if not self.ended else self.close_after_flush()
        # One request at a time, from the next turn on: a deep pipeline must not become deep recursion.
        return self.wake()

    cdef int fill(self) except -1:
        cdef Backlog held = self.held
        cdef const unsigned char* data
        cdef Py_ssize_t size
        if held is None or self.closing or self.must_wait():
            return 0
        self.held = None
        data = held.front()
        size = held.size
        while size > 0 and not self.closed and not self.closing and not self.must_wait():
            self.consume(&data, &size)
        if self.closed or self.closing:
            return 0
        if size > 0:
            held.consume(held.size - size)
            self.held = held
            return 0
        if self.ended and self.current is None:
            return self.close_after_flush()
        if self.current is None or self.current.unreleased * 2 <= SOURCE_CREDIT:
            return self.resume_reading()
        return 0

    cdef bint has_more(self) noexcept:
        return self.held is not None and self.current is None and not self.closing and not self.closed

    cdef int refuse(self, int status) except -1:
        """Answer a request that could not be read; the connection cannot be trusted with another."""
        cdef Http1Response response = self.current
        cdef Exchange exchange
        cdef bint answered
        self.keep_alive = False
        self.in_content = False
        self.request_done = True
        if response is not None:
            exchange = response.exchange
            answered = response.connection is None
            response.connection = None
            self.current = None
            if exchange is not None:
                exchange.inbound_lost(PROTOCOL_ERROR)
            if answered:
                return self.close_after_flush()
            if response.head_sent:
                # Half an answer must not look like a whole one.
                return self.close_at_once()
        self.out.append_bytes(self.error_response(status))
        return self.close_after_flush()

    def error_response(self, int status):
        """The whole response for a request that could not be read; override for a nicer page."""
        return b"HTTP/1.1 %d %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % (
            status, HTTPStatus(status).phrase.encode())

    cdef int input_ended(self) except -1:
        cdef Http1Response response = self.current
        self.ended = True
        if response is None:
            return self.close_after_flush() if self.held is None else 0
        if self.framing == OPAQUE and self.in_content:
            if response.exchange is not None:
                response.exchange.request_end(None)
            return 0
        if not self.request_done:
            # The request will never be complete.
            return self.refuse(400)
        # A visitor may end its direction once it has asked; the answers still go out.
        return 0

    cdef int lost(self, object reason) except -1:
        cdef Http1Response response = self.current
        self.current = None
        self.held = None
        self.chunks = None
        if response is not None:
            response.connection = None
            if response.exchange is not None:
                response.exchange.inbound_lost(CANCEL)
        self.disconnected(reason)
        return 0

    def disconnected(self, reason):
        """The connection has ended; `reason` is an exception or None."""

    cdef int written(self, Py_ssize_t size) except -1:
        cdef Http1Response response = self.current
        cdef int64_t drained = self.undrained
        self.undrained = 0
        if drained and response is not None and response.exchange is not None:
            return response.exchange.drained(response, <Py_ssize_t>drained)
        return 0
