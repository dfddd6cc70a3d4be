# A raw byte stream to an origin (TCP, unix socket): the content of both messages, and nothing else.

from libc.stdint cimport int64_t

from underpass.core.endpoint cimport Endpoint
from underpass.core.relay cimport Exchange, Side


# Bytes from one end that an exchange may hold before that end is not read any further.
cdef int64_t SOURCE_CREDIT


cdef class StreamSide(Side):
    cdef StreamClient connection
    cdef int64_t unreleased


cdef class StreamClient(Endpoint):
    cdef StreamSide current
    cdef int64_t undrained
    cdef object feed                # feed(bytes): what the visitor says while something is still agreed on, else None
    cdef object gone                # gone(): the visitor has left meanwhile

    cdef int hand_over(self) except -1
    cdef int leave(self) except -1
    cdef int finish(self) except -1
    cdef int take_request(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int give_response(self, Exchange exchange, const unsigned char* data, Py_ssize_t size) except -1
