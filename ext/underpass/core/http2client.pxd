# An HTTP/2 connection to an origin, and the pool of such connections, or of HTTP/1.1 ones where an origin wants these.

from libc.stdint cimport uint32_t, uint64_t

from underpass.core.h2 cimport H2Connection
from underpass.core.http1client cimport OriginPool
from underpass.core.relay cimport Exchange


cdef class Http2Client(H2Connection):
    cdef Http2Pool pool
    cdef bytes scheme                   # b"http" or b"https": what the origin is told it was asked by
    cdef bint serving                   # it is among the pool's sessions
    cdef readonly uint64_t uses         # exchanges carried
    cdef readonly double idle_since     # Turn.coarse, seconds: when its last stream ended
    cdef uint64_t heard                 # `bytes_received` when it was last looked at
    cdef double heard_at                # when it had changed, seconds
    cdef bint asked                     # for a sign of life, which has not come
    cdef int probes                     # asked for without anything but answers having come

    cdef int start(self, Exchange exchange) except -1
    cdef int look_after(self, double now) except -1


cdef class Http2Pool(OriginPool):
    cdef list sessions                  # open HTTP/2 connections, those in use first
    cdef OriginPool upgrades            # carries requests for another protocol
    cdef readonly Py_ssize_t max_sessions
    cdef bint multiplexed               # the last connection made speaks HTTP/2, or none was made yet
    cdef uint32_t streams_each          # how many streams a connection takes; 0: not known yet

    cdef Http2Client free_session(self)
    cdef int serve(self, Http2Client session) except -1
    cdef int drop(self, Http2Client session) except -1
