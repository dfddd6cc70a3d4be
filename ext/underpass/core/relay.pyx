# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""Exchanges: the relay between the side that received a request and the side that carries it on.

An `Exchange` is joined to two `Side`s, each kept by a codec (an HTTP/2 stream, an HTTP/1.1 message pair, a byte
stream). Codecs tell it what they read; it tells the other side what to write. It knows what no codec can: whether
a response has begun, whether a request may be sent again, and who has to be told when one end goes away.

Backpressure: a side that could not yet write what it was given keeps it, and reports bytes by `drained` once they
have gone to its transport. The exchange passes that to the side which delivered them (`release`), and a codec
never delivers more than a fixed number of unreleased bytes (a window, or a pause of its transport). So what an
exchange can hold is bounded by the constants of the delivering codec.

Ownership: a call of ours may make a callee let go of the last reference to the very object that is being called
(an exchange that ends detaches both sides). Cython borrows `self` and attributes, so every method of an exchange or
a side that calls out begins with `cdef ... _alive = self`, which keeps it until it returns.

Decisions are Python's: an `Acceptor` calls its handler once a request, with the exchange; the handler joins it to
an outbound side, or answers it with `respond` or `fail`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from underpass.core.fields cimport (
    T_AUTHORITY, T_CF_TRACE_ID, T_CONTENT_LENGTH, T_EXPECT, T_METHOD, T_PATH, T_SCHEME, Field, Fields,
)
from underpass.core.frames cimport CANCEL, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR
from underpass.core.heads cimport same_text
from underpass.core.histogram cimport Histogram, underpass_seconds
from underpass.core.output cimport Backlog

# Times a request is sent again after its carrier was lost.
cdef int MAX_RETRIES = 2
# Request content that may be kept to be sent again, bytes an exchange.
cdef Py_ssize_t MAX_KEPT = 16384

# Different causes that are counted apart; ours are some forty.
cdef Py_ssize_t MAX_CAUSES = 128

# Seconds. A page is there in tens of milliseconds, and who waits for a report waits for a minute.
FIRST_BYTE_BOUNDS = (0.002, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
DURATION_BOUNDS = (0.002, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0)


cdef class Counters:
    """What exchanges have done, for metrics; plain numbers, read whenever somebody asks."""

    def __cinit__(self):
        self.failures = {}
        self.first_byte = Histogram(FIRST_BYTE_BOUNDS)
        self.duration = Histogram(DURATION_BOUNDS)

    cdef int count_failure(self, str cause) except -1:
        self.failed += 1
        if cause not in self.failures and len(self.failures) >= MAX_CAUSES:
            cause = "other"
        self.failures[cause] = self.failures.get(cause, 0) + 1
        return 0

    def causes(self):
        """{cause: how many failed for it}, no more than 129; "other" are those beyond."""
        return dict(self.failures)

    def classes(self):
        """How many final response heads there were with 1xx, 2xx, 3xx, 4xx, 5xx; 101 is the only 1xx."""
        cdef int status
        counts = [0] * 5
        for status in range(100, 600):
            if self.by_status[status]:
                counts[status // 100 - 1] += self.by_status[status]
        return counts

    def absorb(self, Counters other not None):
        """Add all that another has counted."""
        cdef int status
        self.opened += other.opened
        self.active += other.active
        self.failed += other.failed
        self.request_bytes += other.request_bytes
        self.response_bytes += other.response_bytes
        for status in range(1000):
            self.by_status[status] += other.by_status[status]
        for cause, count in other.failures.items():
            self.failures[cause] = self.failures.get(cause, 0) + count
        self.first_byte.absorb(other.first_byte)
        self.duration.absorb(other.duration)

    def statuses(self):
        """{status: how many final response heads}."""
        cdef int status
        return {status: self.by_status[status] for status in range(1000) if self.by_status[status]}


cdef class Route:
    """Where requests of one kind go, and where they are counted.

    forward(exchange) carries one on. make_counters() is asked for the counters at the first request: most of a
    thousand rules never see one. info: whatever the owner wants to know it by. observe(exchange), if set, is called
    before the exchange is carried on; trace(exchange) before that, if the edge asks for a trace (`cf-trace-id`).
    """

    def __init__(self, forward not None, make_counters not None, info=None, observe=None, trace=None):
        self.forward = forward
        self.make_counters = make_counters
        self.info = info
        self.observe = observe
        self.trace = trace

    def take(self, Exchange exchange not None):
        """Count the exchange here from now on, and carry it on."""
        cdef Counters before = exchange.counters
        if self.counters is None:
            self.counters = self.make_counters()
        if not exchange.over and before is not self.counters:
            before.opened -= 1
            before.active -= 1
            self.counters.opened += 1
            self.counters.active += 1
            exchange.counters = self.counters
        exchange.route = self
        if self.trace is not None and exchange.request is not None and exchange.request.find(T_CF_TRACE_ID) is not NULL:
            self.trace(exchange)
        if self.observe is not None:
            self.observe(exchange)
        self.forward(exchange)


cdef class Side:
    """One end of an exchange; subclasses are codecs."""

    cdef int send_head(self, Fields head, int status, bint end) except -1:
        return 0

    cdef int send_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        return 0

    cdef int send_end(self, Fields trailers) except -1:
        return 0

    cdef int abandon(self, uint32_t code) except -1:
        return 0

    cdef int release(self, Py_ssize_t size) except -1:
        return 0

    cdef int become_tunnel(self) except -1:
        return 0


cdef class Patience:
    """How long an exchange may take, in seconds: until its response begins, without content in either direction after
    that, and in all; for the last two 0 is for ever."""

    def __init__(self, double first_byte, double idle=0, double total=0):
        self.first_byte = first_byte
        self.idle = idle
        self.total = total


cdef class Exchange:
    """One request and its response.

    Handlers may read `method`, `authority`, `path`, `scheme` and `request`, and must call exactly one of
    `respond`, `fail`, `open_python_side` or a codec's `forward(exchange)`, now or later.
    """

    # From the inbound codec.

    cdef int begin(self, Side inbound, Fields request) except -1:
        self.inbound = inbound
        self.request = request
        inbound.exchange = self
        self.counters.opened += 1
        self.counters.active += 1
        self.began = underpass_seconds()
        return 0

    cdef int request_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Exchange _alive = self
        self.counters.request_bytes += <uint64_t>size
        self.request_bytes += <uint64_t>size
        if self.outbound is not None:
            if self.replayable:
                self.keep(data, size)
            return self.outbound.send_data(data, size)
        if self.over or self.response_ended:
            # Nobody wants it: the sender gets its credit back and learns of the end from the response.
            return self.inbound.release(size) if self.inbound is not None else 0
        if self.waiting is None:
            self.waiting = Backlog()
        self.waiting.append(data, size)
        if self.whole is not None and self.waiting.size > self.most_held:
            self.length_required()
        return 0

    cdef int request_end(self, Fields trailers) except -1:
        cdef Exchange _alive = self
        if self.request_ended:
            return 0
        self.request_ended = True
        if self.outbound is not None:
            if self.replayable:
                self.request_trailers = trailers
            self.outbound.send_end(trailers)
            if self.response_ended:
                self.finish()
        else:
            self.request_trailers = trailers
            if self.whole is not None:
                self.hand_on_whole()
        return 0

    cdef int inbound_lost(self, uint32_t code) except -1:
        cdef Exchange _alive = self
        cdef Side outbound = self.outbound
        self.inbound = None
        if self.over:
            return 0
        self.failed("reset_by_client")
        self.close_books()
        self.outbound = None
        if outbound is not None:
            outbound.exchange = None
            outbound.abandon(CANCEL if code == NO_ERROR else code)
        return self.over_with()

    # From the outbound codec.

    cdef int response_interim(self, Fields head, int status) except -1:
        return 0

    cdef int response_head(self, Fields head, int status, bint end) except -1:
        cdef Exchange _alive = self
        cdef Fields passed
        if self.over or self.status:
            return 0
        passed = self.incoming_response(head, status)
        if passed is None:
            self.let_go(PROTOCOL_ERROR)
            return self.outbound_lost(PROTOCOL_ERROR, SEEN, "protocol_error")
        self.counters.by_status[status if 0 < status < 1000 else 0] += 1
        self.answered = underpass_seconds()
        self.status = status
        self.request = None
        self.replayable = False
        self.kept = None
        self.inbound.send_head(passed, self.shown_status(status), end)
        if end:
            self.response_ended = True
            self.response_over()
        elif self.tunnel and self.inbound is not None:
            self.inbound.become_tunnel()
        return 0

    cdef int response_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Exchange _alive = self
        self.counters.response_bytes += <uint64_t>size
        self.response_bytes += <uint64_t>size
        if self.inbound is not None and not self.response_ended:
            return self.inbound.send_data(data, size)
        return 0

    cdef int response_end(self, Fields trailers) except -1:
        cdef Exchange _alive = self
        if self.response_ended or self.inbound is None:
            return 0
        self.response_ended = True
        self.inbound.send_end(trailers)
        return self.response_over()

    cdef int response_over(self) except -1:
        cdef Exchange _alive = self
        if self.over:
            return 0
        if not self.request_ended:
            # RFC 9113 §8.1: a complete response may come before the end of the request; the rest is of no use then.
            self.let_go(NO_ERROR)
        return self.finish()

    cdef int let_go(self, uint32_t code) except -1:
        cdef Side outbound = self.outbound
        if outbound is None:
            return 0
        self.outbound = None
        outbound.exchange = None
        return outbound.abandon(code)

    cdef int outbound_lost(self, uint32_t code, int seen, str cause) except -1:
        cdef Exchange _alive = self
        if self.over:
            return 0
        if self.outbound is not None:
            self.outbound.exchange = None
            self.outbound = None
        if self.status == 0:
            if not self.sent_again(seen):
                self.fail(502, cause)
            return 0
        self.failed(cause)
        return self.drop(INTERNAL_ERROR if code == NO_ERROR else code)

    cdef bint sent_again(self, int seen) except -1:
        """Have the request sent again, if it may be; whether somebody has taken that on."""
        cdef bint again = self.replayable and (seen == UNSEEN or (seen == HARDLY_SEEN and self.idempotent()))
        self.replayable = False
        if not again or self.attempts > MAX_RETRIES:
            return False
        # (Its sender may get credit for this a second time, which is as much more at most.)
        self.waiting, self.kept = self.kept, None
        return self.retry_elsewhere()

    cdef int keep(self, const unsigned char* data, Py_ssize_t size) except -1:
        """This is about to be sent."""
        if not self.keeps_content or size + (self.kept.size if self.kept is not None else 0) > MAX_KEPT:
            self.replayable = False
            self.kept = None
            return 0
        if self.kept is None:
            self.kept = Backlog()
        return self.kept.append(data, size)

    cdef int drained(self, Side side, Py_ssize_t size) except -1:
        cdef Exchange _alive = self
        if side is self.outbound:
            if self.inbound is not None:
                return self.inbound.release(size)
        elif self.outbound is not None:
            return self.outbound.release(size)
        return 0

    # For owners.

    cdef int join(self, Side outbound, Fields head) except -1:
        """Send the request on by `outbound`, with what has come of it so far."""
        cdef Exchange _alive = self
        cdef Backlog waiting = self.waiting
        cdef bint ended = self.request_ended
        if self.over or self.inbound is None:
            return 0
        self.outbound = outbound
        self.attempts += 1
        self.replayable = self.keeps_content or ended and (waiting is None or waiting.size == 0)
        outbound.exchange = self
        outbound.send_head(head, 0, ended and (waiting is None or waiting.size == 0)
                           and self.request_trailers is None)
        if self.outbound is not outbound:
            return 0
        if waiting is not None and waiting.size:
            self.waiting = None
            if self.replayable:
                self.keep(waiting.front(), waiting.size)
            outbound.send_data(waiting.front(), waiting.size)
            if self.outbound is not outbound:
                return 0
            if ended:
                outbound.send_end(self.request_trailers)
        elif ended and self.request_trailers is not None:
            outbound.send_end(self.request_trailers)
        return 0

    cdef bint idempotent(self) noexcept:
        """RFC 9110 §9.2.2: doing it twice has the effect of doing it once."""
        cdef Field* method = self.request.find(T_METHOD) if self.request is not None else NULL
        cdef const unsigned char* text
        if method is NULL:
            return False
        text = self.request.value(method)
        return (same_text(text, method.value_size, b"get") or same_text(text, method.value_size, b"head")
                or same_text(text, method.value_size, b"options"))

    cdef int retry_elsewhere(self) except -1:
        """Have the request sent again by whoever can; 0 if nobody can."""
        if self.carrier is None:
            return 0
        self.carrier.forward_afresh(self)
        return 1

    cdef int finish(self) except -1:
        """Both directions have ended well, or nobody wants the rest."""
        cdef Exchange _alive = self
        cdef Side inbound = self.inbound, outbound = self.outbound
        if self.over:
            return 0
        self.close_books()
        self.inbound = self.outbound = None
        if inbound is not None:
            inbound.exchange = None
        if outbound is not None:
            outbound.exchange = None
        return self.over_with()

    cdef int drop(self, uint32_t code) except -1:
        """End both sides at once: the response is broken off, or was never wanted."""
        cdef Exchange _alive = self
        cdef Side inbound = self.inbound, outbound = self.outbound
        if self.over:
            return 0
        self.failed("broken_off")
        self.close_books()
        self.inbound = self.outbound = None
        if inbound is not None:
            inbound.exchange = None
            inbound.abandon(code)
        if outbound is not None:
            outbound.exchange = None
            outbound.abandon(CANCEL)
        return self.over_with()

    cdef int failed(self, str cause) except -1:
        if self.cause is None:
            self.cause = cause
            self.counters.count_failure(cause)
        return 0

    cdef void close_books(self) noexcept:
        self.over = True
        self.counters.active -= 1
        self.waiting = self.kept = None
        self.whole = None
        if self.queue is not None:
            self.queue.pop(self, None)
            self.queue = None

    cdef int over_with(self) except -1:
        cdef Exchange _alive = self
        self.ended = underpass_seconds()
        if self.answered:
            self.counters.first_byte.note(self.answered - self.began)
        if not self.tunnel:
            self.counters.duration.note(self.ended - self.began)
        if self.on_over is not None:
            self.tell_over()
        return 0

    # Who looks on must not break what is looked at: sys.unraisablehook is told of what these raise.

    cdef void tell_answer(self, int status, Fields head) noexcept:
        observer, self.on_answer = self.on_answer, None
        observer(self, status, head)

    cdef void tell_over(self) noexcept:
        observer, self.on_over = self.on_over, None
        self.on_answer = None
        observer(self)

    cdef Fields outgoing_request(self):
        return self.request

    cdef Fields incoming_response(self, Fields head, int status):
        return head

    cdef Fields local_response(self, Fields head, int status):
        return head

    cdef int shown_status(self, int status) noexcept:
        return status

    # The Python face.

    @property
    def method(self):
        return self._pseudo(T_METHOD)

    @property
    def scheme(self):
        return self._pseudo(T_SCHEME)

    @property
    def authority(self):
        return self._pseudo(T_AUTHORITY)

    @property
    def path(self):
        """The request target as it came, query included."""
        return self._pseudo(T_PATH)

    cdef bytes _pseudo(self, int token):
        cdef Field* field
        if self.request is None:
            return b""
        field = self.request.find(token)
        if field is NULL:
            return b""
        return PyBytes_FromStringAndSize(<const char*>self.request.value(field), field.value_size)

    def header(self, int token):
        """The value of the first field with this `Token`, or None."""
        return self.request.value_bytes(token) if self.request is not None else None

    def when_whole(self, Py_ssize_t most, then):
        """Call `then(self)` when the length of the request's content is known: now, if the head says it or it is none,
        or when it has come; the head says it then. More than `most` bytes are answered with 411.

        `most` must be less than what the request's sender may send without seeing any of it taken.
        """
        if (self.over or self.request_ended or self.wants_upgrade
                or self.request.find(T_CONTENT_LENGTH) is not NULL):
            then(self)
            return
        self.most_held = most
        self.whole = then
        # Who waits to be told to go on would wait for us, and we for them.
        continue_if_expected(self)
        if self.waiting is not None and self.waiting.size > most:
            self.length_required()

    cdef int length_required(self) except -1:
        self.whole = None
        self.respond(411, ((b"content-type", b"text/plain"),),
                     b"Content of this size needs a Content-Length here.\n")
        return 0

    cdef int hand_on_whole(self) except -1:
        """What `when_whole` has waited for."""
        then, self.whole = self.whole, None
        # Where a length says where content ends, nothing may follow it.
        self.request_trailers = None
        if self.waiting is not None and self.waiting.size:
            self.request.add_pair(b"content-length", b"%d" % self.waiting.size)
        then(self)
        return 0

    def wait_in(self, dict queue not None):
        """Be a key of `queue` until all is over, or the owner takes it out with `waits_no_more`."""
        if not self.over:
            queue[self] = None
            self.queue = queue

    def waits_no_more(self):
        """Be no key of a queue any more."""
        if self.queue is not None:
            self.queue.pop(self, None)
            self.queue = None

    def headers(self, tuple tokens not None):
        """`header` of each `Token`, pseudo fields included, in one go."""
        cdef Fields request = self.request
        if request is None:
            return [None] * len(tokens)
        return [request.value_bytes(token) for token in tokens]

    @property
    def seconds(self):
        """From the request head until now, or until all was over."""
        return (self.ended if self.ended else underpass_seconds()) - self.began

    @property
    def first_byte_seconds(self):
        """From the request head to the final response head; None before."""
        return self.answered - self.began if self.answered else None

    @property
    def is_over(self):
        """True once nothing can be sent any more."""
        return bool(self.over)

    @property
    def has_body(self):
        """True if request content has come or may still come."""
        return not self.request_ended or (self.waiting is not None and self.waiting.size > 0)

    def respond(self, int status, pairs, bytes body=b""):
        """Answer with a complete response of our own. Ignored if the exchange is over or already answered."""
        cdef Fields head
        cdef bint bodiless
        if self.over or self.status or self.inbound is None:
            return
        if not 200 <= status <= 999:
            raise ValueError(f"not a final status: {status}")
        self.let_go(CANCEL)
        if self.over or self.status:
            return
        head = Fields()
        head.append(b":status", b"%d" % status)
        for name, value in pairs:
            head.append(name, value)
        # RFC 9110 §8.6: a HEAD response announces the length that GET would have.
        bodiless = status == 204 or status == 304 or self._pseudo(T_METHOD) == b"HEAD"
        if status != 204 and status != 304:
            head.append(b"content-length", b"%d" % len(body))
        head = self.local_response(head, status)
        self.counters.by_status[status] += 1
        self.answered = underpass_seconds()
        self.status = status
        self.request = None
        if bodiless or not body:
            self.inbound.send_head(head, status, True)
        else:
            self.response_bytes += <uint64_t>PyBytes_GET_SIZE(body)
            self.counters.response_bytes += <uint64_t>PyBytes_GET_SIZE(body)
            self.inbound.send_head(head, status, False)
            if self.inbound is not None:
                self.inbound.send_data(<const unsigned char*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
            if self.inbound is not None:
                self.inbound.send_end(None)
        self.response_ended = True
        self.response_over()

    def fail(self, int status, str cause):
        """Answer for an exchange that cannot be carried on. `cause` is a machine-readable word."""
        if self.over or self.status or self.inbound is None:
            return
        self.failed(cause)
        self.respond(status, ())

    def reset(self, int code=INTERNAL_ERROR):
        """Break the exchange off."""
        self.drop(<uint32_t>code)

    def open_python_side(self):
        """Join the exchange to Python callbacks; returns the `PythonSide`, detached if the exchange is over."""
        cdef PythonSide side = PythonSide()
        if self.over:
            return side
        self.outbound = side
        side.exchange = self
        return side

    def deliver_waiting(self):
        """Hand content that came before the outbound side to it (for `open_python_side`)."""
        cdef Backlog waiting = self.waiting
        cdef Side outbound = self.outbound
        if outbound is None:
            return
        self.waiting = None
        if waiting is not None and waiting.size:
            outbound.send_data(waiting.front(), waiting.size)
        if self.request_ended and self.outbound is outbound:
            outbound.send_end(self.request_trailers)


cdef int continue_if_expected(Exchange exchange) except -1:
    """RFC 9110 §10.1.1: somebody who waits to be told to go on is told so, once the request has somewhere to go.

    An Expect that is still there comes from HTTP/2: an HTTP/1.1 connection has answered its own.
    """
    cdef Field* expect = exchange.request.find(T_EXPECT)
    cdef Fields head
    if (expect is NULL or exchange.request_ended or exchange.attempts or exchange.inbound is None
            or exchange.waiting is not None
            or not same_text(exchange.request.value(expect), expect.value_size, b"100-continue")):
        return 0
    head = Fields.__new__(Fields)
    head.add_pair(b":status", b"100")
    return exchange.inbound.send_head(head, 100, False)


cdef class PythonSide(Side):
    """A side whose codec is Python: for streams that are few and small (control streams, built-in pages).

    As the outbound side of an exchange it gets the request by `on_data(bytes)`, `on_end()` and
    `on_abandoned(code)`, and answers with `send_response`, `write`, `end`. As the inbound side (`request`) it is
    the origin of the request, and gets the response by `on_head(status, fields)` and the same.

    Backpressure is asked for: with `keeps_credit` the sender may go on only when `take` says so, and `unreleased`
    and `on_released()` tell how much of what was written still waits.
    """

    cdef int send_head(self, Fields head, int status, bint end) except -1:
        cdef PythonSide _alive = self
        if self.on_head is not None:
            self.on_head(status, head)
        if end and self.on_end is not None:
            self.on_end()
        return 0

    cdef int send_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef PythonSide _alive = self
        cdef Exchange exchange = self.exchange
        if self.on_data is not None:
            self.on_data(PyBytes_FromStringAndSize(<const char*>data, size))
        if exchange is not None and not self.keeps_credit:
            exchange.drained(self, size)
        return 0

    cdef int send_end(self, Fields trailers) except -1:
        cdef PythonSide _alive = self
        if self.on_end is not None:
            self.on_end()
        return 0

    cdef int abandon(self, uint32_t code) except -1:
        cdef PythonSide _alive = self
        if self.on_abandoned is not None:
            self.on_abandoned(code)
        return 0

    cdef int release(self, Py_ssize_t size) except -1:
        cdef PythonSide _alive = self
        self.unreleased -= size
        if self.on_released is not None:
            self.on_released()
        return 0

    def take(self, Py_ssize_t size):
        """`size` bytes that `on_data` got are done with (for `keeps_credit`)."""
        if self.exchange is not None and size > 0:
            self.exchange.drained(self, size)

    def request(self, Exchange exchange not None, Fields head not None):
        """Become the inbound side of `exchange`, whose request head is `head`."""
        exchange.begin(self, head)

    def send_response(self, int status, pairs=(), bint end=False):
        """Outbound role: the response head."""
        cdef Fields head = Fields()
        if self.exchange is None:
            return
        head.append(b":status", b"%d" % status)
        for name, value in pairs:
            head.append(name, value)
        self.exchange.response_head(head, status, end)

    def write(self, bytes data not None):
        """Content in this side's direction."""
        cdef const unsigned char* start = <const unsigned char*>PyBytes_AS_STRING(data)
        cdef Exchange exchange = self.exchange
        if exchange is None or not data:
            return
        if exchange.inbound is not self and not exchange.status:
            raise ValueError("a response begins with its head: send_response comes first")
        self.unreleased += PyBytes_GET_SIZE(data)
        if exchange.inbound is self:
            exchange.request_data(start, PyBytes_GET_SIZE(data))
        else:
            exchange.response_data(start, PyBytes_GET_SIZE(data))

    def end(self):
        """No more content in this side's direction."""
        if self.exchange is None:
            return
        if self.exchange.inbound is self:
            self.exchange.request_end(None)
        elif not self.exchange.status:
            raise ValueError("a response begins with its head: send_response comes first")
        else:
            self.exchange.response_end(None)

    def reset(self, int code=CANCEL):
        """Break the exchange off."""
        cdef Exchange exchange = self.exchange
        if exchange is not None:
            exchange.drop(<uint32_t>code)

    @property
    def is_attached(self):
        """False once the exchange has ended."""
        return self.exchange is not None


cdef class Acceptor:
    """Makes the exchanges of a server-role codec and hands each to `handler` once its head is read."""

    def __init__(self, handler=None, Counters counters=None, on_error=None):
        self.handler = handler
        self.on_error = on_error
        self.counters = counters if counters is not None else Counters()

    cdef Exchange new_exchange(self):
        cdef Exchange exchange = Exchange.__new__(Exchange)
        exchange.counters = self.counters
        return exchange

    cdef int accept(self, Exchange exchange) except -1:
        if self.handler is None:
            exchange.fail(503, "no_handler")
            return 0
        return self.hand(self.handler, exchange)

    cdef int hand(self, object handler, Exchange exchange) except -1:
        try:
            handler(exchange)
        except Exception as error:
            # One request's fault must not take the connection with it.
            if self.on_error is None:
                raise
            self.on_error(exchange, error)
            if not exchange.over and exchange.outbound is None:
                exchange.fail(500, "internal_error")
        return 0
