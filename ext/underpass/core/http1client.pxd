# An HTTP/1.1 connection to an origin, and the pool of those that wait for their next request.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from underpass.core.chunked cimport ChunkedReader
from underpass.core.endpoint cimport Endpoint
from underpass.core.fields cimport Fields
from underpass.core.http1 cimport HeadReader
from underpass.core.output cimport Backlog
from underpass.core.relay cimport Exchange, Side


cdef class Http1Request(Side):
    # The outbound side of one exchange on one connection.
    cdef Http1Client connection
    cdef Fields held                # a head that waits for the first content byte or the end
    cdef int64_t unreleased         # response bytes delivered and not released
    cdef int64_t expected           # request content bytes still to come, or NO_LENGTH
    cdef bint chunked               # how request content is delimited
    cdef Backlog early              # content for after an upgrade the origin has not agreed to yet
    cdef bint sent_end
    cdef bint upgrading             # the head asks for another protocol
    cdef bint tunnel

    cdef int write_head(self, bint content, bint ended) except -1


cdef class Http1Client(Endpoint):
    cdef HeadReader heads
    cdef ChunkedReader chunks
    cdef Http1Request current
    cdef OriginPool pool
    cdef readonly uint32_t uses         # exchanges carried
    cdef readonly double idle_since     # Turn.coarse, seconds
    cdef int framing
    cdef int64_t left                   # BY_LENGTH: response content still to come
    cdef bint in_content
    cdef bint got_bytes                 # of the current response
    cdef bint kept                      # it has waited in its pool: the origin may be closing it
    cdef int interim                    # responses before the final one
    cdef bint response_done
    cdef int64_t undrained              # request content in `out`, to be reported when written

    cdef int start(self, Exchange exchange) except -1
    cdef int read_head(self, const unsigned char** data, Py_ssize_t* size) except -1
    cdef int begin_tunnel(self, Http1Request request, Exchange exchange) except -1
    cdef int on_content(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int response_complete(self, Fields trailers) except -1
    cdef int broken_response(self, str cause) except -1
    cdef int maybe_idle(self) except -1


cdef class OriginPool:
    cdef object dial                    # dial(): make a connection, then call arrived or dial_failed
    cdef dict idle                      # connections as keys, most recently used last
    cdef object waiting                 # exchanges in order of arrival, with their number in it
    cdef object waiting_afresh          # those that need a connection without a past
    cdef public Py_ssize_t max_idle
    cdef public double idle_timeout     # seconds; 0: for ever
    cdef readonly Py_ssize_t max_dials
    cdef bytes absolute                 # for a proxy: scheme and authority before every path, else None
    cdef bytes proxy_authorization      # what the proxy wants to be told, or None
    cdef readonly Py_ssize_t dialling   # connections being made
    cdef readonly uint64_t arrivals     # exchanges that had to wait, so far
    cdef readonly uint64_t reused
    cdef readonly uint64_t dialled
    cdef bint closed

    cdef bint turns_away(self, Exchange exchange) except -1
    cdef int put(self, Http1Client connection) except -1
    cdef int wait(self, Exchange exchange, object queue) except -1
    cdef int dial_what_is_wanted(self) except -1
    cdef Py_ssize_t wanted(self)        # connections that would be of use to those who wait
    cdef Exchange longest_waiting(self, object queue)
    cdef int fail_longest_waiting(self, int status, str cause, object context) except -1
    cdef int fail_waiting(self, Exchange exchange, int status, str cause, object context) except -1
