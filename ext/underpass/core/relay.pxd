# An exchange (one request and its response) and the two sides it joins.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from underpass.core.fields cimport Fields
from underpass.core.histogram cimport Histogram
from underpass.core.output cimport Backlog


cdef enum Seen:         # what a lost peer did with the request
    SEEN = 0            # it may have acted on it
    HARDLY_SEEN = 1     # most likely it did not: an idempotent request may be sent again
    UNSEEN = 2          # certainly not: any request may


cdef class Counters:
    cdef public uint64_t opened             # exchanges begun
    cdef public uint64_t active             # begun and not ended
    cdef public uint64_t failed             # ended by `fail` or a reset
    cdef public uint64_t request_bytes      # content, both kinds
    cdef public uint64_t response_bytes
    cdef uint64_t by_status[1000]
    cdef dict failures                      # {cause: how many failed for it}
    cdef readonly Histogram first_byte      # seconds until the response began
    cdef readonly Histogram duration        # seconds until all was over; tunnels do not count

    cdef int count_failure(self, str cause) except -1


cdef class Route:
    # Where requests of one kind go, and where they are counted.
    cdef readonly object forward            # forward(exchange): carries it on
    cdef readonly object info               # what the owner knows it by
    cdef Counters counters                  # None until the first request
    cdef object make_counters               # make_counters(): the counters, asked for once
    cdef object trace                       # trace(exchange), where the edge asks for one; None: nobody does
    cdef public object observe              # observe(exchange), before it is carried on; None: nobody does


cdef class Side:
    # One end of an exchange, as its codec keeps it. The inbound side received the request; the outbound side
    # carries it on. A side whose `exchange` is None is detached and ignores what it is told.
    cdef Exchange exchange

    # Toward the wire. Inbound: a response head (`:status` first); outbound: a request head (pseudo fields first).
    cdef int send_head(self, Fields head, int status, bint end) except -1
    cdef int send_data(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int send_end(self, Fields trailers) except -1
    # Give the exchange up: nothing more goes out, nothing more is wanted. `code` is an HTTP/2 error code.
    cdef int abandon(self, uint32_t code) except -1
    # `size` bytes this side delivered have left by the other: it may deliver as many more.
    cdef int release(self, Py_ssize_t size) except -1
    # From now on both directions are opaque bytes (after 101 or an acknowledged stream).
    cdef int become_tunnel(self) except -1


cdef class Patience:
    # How long an exchange may take, in seconds.
    cdef readonly double first_byte     # until the response begins
    cdef readonly double idle           # without content in either direction once it has; 0: for ever
    cdef readonly double total          # from the request head to the end, tunnels excepted; 0: for ever


cdef class Exchange:
    cdef readonly Counters counters
    cdef Side inbound
    cdef Side outbound
    cdef readonly Fields request            # pseudo fields included; None once the response head has come
    cdef Backlog waiting                    # content that came before there was an outbound side
    cdef Fields request_trailers
    cdef readonly int status                # of the final response head passed on; 0 before
    cdef bint request_ended
    cdef bint response_ended
    cdef bint over
    cdef readonly bint wants_upgrade        # the request asks for another protocol (Upgrade)
    cdef readonly bint extended             # it does so by CONNECT (RFC 8441): 200 says yes, and there is no handshake
    cdef bint tunnel                        # both directions are opaque bytes
    cdef bint replayable                    # nothing has been sent that we do not have any more
    cdef bint keeps_content                 # what is sent is kept, as far as that is little
    cdef Backlog kept                       # that, while it is all
    cdef readonly int attempts              # outbound sides tried
    cdef public bint times_out              # the carrier's sweep gives it up when it takes too long
    cdef public Patience patience           # what is too long; None: the carrier knows
    cdef object carrier                     # what can send it again: has forward_afresh(exchange)
    cdef object queue                       # where it waits for an outbound side, a dict; left when it is over
    cdef object whole                       # whole(exchange): called when the request's content has come
    cdef Py_ssize_t most_held               # how many bytes of it may come before that
    cdef public object context              # whatever the owner wants to keep with it
    # For whoever observes it.
    cdef readonly Route route               # that it was sent on by; None: by none
    cdef readonly str cause                 # why it failed; None: it did not, or not yet
    cdef readonly uint64_t request_bytes    # content, so far
    cdef readonly uint64_t response_bytes
    cdef double began                       # when the request head had come
    cdef double answered                    # when the final response head had come; 0: it has not
    cdef double ended                       # when all was over; 0: it is not
    cdef public object on_answer            # on_answer(exchange, status, fields), once there is a final response head
    cdef public object on_over              # on_over(exchange), once at the end

    # From the inbound codec.
    cdef int begin(self, Side inbound, Fields request) except -1
    cdef int request_data(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int request_end(self, Fields trailers) except -1
    cdef int inbound_lost(self, uint32_t code) except -1
    # From the outbound codec.
    cdef int response_interim(self, Fields head, int status) except -1
    cdef int response_head(self, Fields head, int status, bint end) except -1
    cdef int response_data(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int response_end(self, Fields trailers) except -1
    # `seen` is a Seen; `cause` a machine-readable word.
    cdef int outbound_lost(self, uint32_t code, int seen, str cause) except -1
    # From either: `size` bytes taken by send_data have gone.
    cdef int drained(self, Side side, Py_ssize_t size) except -1

    # For owners.
    cdef int join(self, Side outbound, Fields head) except -1
    cdef int hand_on_whole(self) except -1
    cdef int length_required(self) except -1
    cdef bint sent_again(self, int seen) except -1
    cdef int keep(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef bint idempotent(self) noexcept
    cdef int retry_elsewhere(self) except -1
    cdef int response_over(self) except -1
    cdef int let_go(self, uint32_t code) except -1          # of the outbound side
    cdef int failed(self, str cause) except -1              # note why, the first time
    cdef void close_books(self) noexcept
    cdef void tell_answer(self, int status, Fields head) noexcept
    cdef void tell_over(self) noexcept
    cdef int over_with(self) except -1                      # both sides have been let go of
    cdef bytes _pseudo(self, int token)
    cdef int finish(self) except -1
    cdef int drop(self, uint32_t code) except -1
    # What subclasses change on the way: the request head for the outbound side, the response head for the inbound.
    cdef Fields outgoing_request(self)
    cdef Fields incoming_response(self, Fields head, int status)
    cdef Fields local_response(self, Fields head, int status)
    # The status the inbound side is told: an upgrade is 200 on a link and 101 outside.
    cdef int shown_status(self, int status) noexcept


# Who waits to be told to go on is told so (RFC 9110 §10.1.1).
cdef int continue_if_expected(Exchange exchange) except -1


cdef class PythonSide(Side):
    # An outbound (or, with `open`, an inbound) side served by Python callbacks: control streams, built-in pages.
    cdef public object on_head
    cdef public object on_data
    cdef public object on_end
    cdef public object on_abandoned
    cdef public object on_released          # on_released(): something written here has left by the other side
    cdef public bint keeps_credit           # what `on_data` got stays charged to its sender until `take`
    cdef readonly int64_t unreleased        # bytes written here that have not left yet


cdef class Acceptor:
    # What a server-role codec asks for each request it has read.
    cdef readonly Counters counters
    cdef object handler                     # handler(exchange), once a request; None: answer 503
    cdef object on_error                    # on_error(exchange, exception): log it; None: let it through
    cdef Exchange new_exchange(self)
    cdef int accept(self, Exchange exchange) except -1
    # Have a handler decide. What it raises is told to `on_error`, and answered with 500.
    cdef int hand(self, object handler, Exchange exchange) except -1
