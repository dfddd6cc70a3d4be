# One connection as a codec sees it: bytes come in, gathered bytes go out once a turn of the loop.

from libc.stdint cimport int64_t, uint64_t

from underpass.core.output cimport Output


cdef class Turn:
    cdef object call_soon           # the loop's
    cdef object clock               # the loop's time(), seconds
    cdef object on_error            # on_error(endpoint, exception), or None: raise
    cdef list waiting               # endpoints with something to write
    cdef bint scheduled
    cdef readonly double coarse     # the clock at the last tick
    cdef readonly uint64_t received     # bytes read by all endpoints
    cdef public int64_t spare_window    # bytes of receive windows beyond the first ones that may yet be granted
    cdef bytearray buffer           # read buffer shared by every endpoint of the loop
    cdef object view
    cdef unsigned char* base
    cdef bint busy                  # the buffer holds bytes that are being parsed
    cdef bint private_buffers       # reads may overlap: every endpoint needs a buffer of its own

    cdef int add(self, Endpoint endpoint) except -1
    cdef double now(self) except? -1.0


cdef class Endpoint:
    cdef readonly Turn turn
    cdef readonly object transport
    cdef object write               # transport.write
    cdef Output out
    cdef bint queued                # in turn.waiting
    cdef bint paused                # the transport asked us to stop writing
    cdef bint reading_stopped       # we asked the transport to stop reading
    cdef bint closing               # close the transport once `out` is written
    cdef bint closed                # the transport is gone, or on its way
    cdef bint opened
    cdef bint half_close             # the transport can end one direction alone
    cdef bytearray own_buffer       # only when the shared one is busy

    # For codecs.
    cdef int wake(self) except -1                       # have `flush` called at the end of this turn
    cdef int stop_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int close_after_flush(self) except -1
    cdef int close_at_once(self) except -1
    cdef int flush(self) except -1
    # By codecs.
    cdef int received(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int input_ended(self) except -1                # the other end will send no more
    cdef int fill(self) except -1                       # move what may be sent now into `out`
    cdef int written(self, Py_ssize_t size) except -1   # `size` bytes have gone to the transport
    cdef bint has_more(self) noexcept                   # `fill` could move more right away
    cdef int _receive(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int lost(self, object reason) except -1        # no byte will go or come any more
