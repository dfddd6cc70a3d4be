# The chunked transfer coding (RFC 9112 §7.1): an in-place pull reader and the writer's pieces.

from libc.stdint cimport uint32_t, uint64_t

from underpass.core.fields cimport Fields
from underpass.core.output cimport Output

cdef enum ChunkEvent:
    CHUNK_MORE = 0          # all input is used up
    CHUNK_DATA = 1          # payload, size: borrowed from the input
    CHUNK_END = 2           # the body is complete; `trailers` holds the trailer section, or None
    CHUNK_BROKEN = 3


cdef class ChunkedReader:
    cdef const unsigned char* payload
    cdef Py_ssize_t size
    cdef Fields trailers
    cdef int state
    cdef uint64_t left              # bytes of the current chunk still to come
    cdef uint32_t digits            # hex digits of its size so far
    cdef uint32_t overhead          # extension and trailer bytes so far
    cdef Output line                # the trailer line being read

    cdef int next(self, const unsigned char** data, Py_ssize_t* size) except -1
    cdef int trailer_line(self) except -1


cdef int write_chunk(Output out, const unsigned char* data, Py_ssize_t size) except -1
cdef int write_last_chunk(Output out, Fields trailers) except -1
