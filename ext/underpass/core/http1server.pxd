# An HTTP/1.1 connection from a visitor.

from libc.stdint cimport int64_t

from underpass.core.chunked cimport ChunkedReader
from underpass.core.endpoint cimport Endpoint
from underpass.core.fields cimport Fields
from underpass.core.http1 cimport HeadReader
from underpass.core.output cimport Backlog
from underpass.core.relay cimport Acceptor, Exchange, Side


cdef class Http1Response(Side):
    # The inbound side of one exchange.
    cdef Http1Server connection
    cdef int framing                # of the response
    cdef int64_t left               # BY_LENGTH: response content still to be written
    cdef int64_t unreleased         # request content delivered and not released
    cdef bint head_request
    cdef bint head_sent
    cdef bint tunnel


cdef class Http1Server(Endpoint):
    cdef Acceptor acceptor
    cdef readonly bytes scheme
    cdef HeadReader heads
    cdef ChunkedReader chunks
    cdef Http1Response current
    cdef Backlog held               # input that came while an exchange was under way
    cdef double waiting_since       # coarse seconds: since when the visitor has not done what comes next
    cdef bint ended                 # the visitor will send no more
    cdef int framing                # of the request
    cdef int64_t left
    cdef int64_t thrown_away        # request content nobody wanted
    cdef bint in_content
    cdef bint request_done
    cdef bint keep_alive
    cdef int64_t undrained

    cdef bint must_wait(self) noexcept
    cdef int hold(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int consume(self, const unsigned char** data, Py_ssize_t* size) except -1
    cdef int begin_request(self, int event) except -1
    cdef int on_content(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int on_request_end(self, Fields trailers) except -1
    cdef int response_written(self) except -1
    cdef int next_request(self) except -1
    cdef int refuse(self, int status) except -1
