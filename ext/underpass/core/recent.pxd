# The last requests, for whoever looks at them: written where they are carried, read when somebody asks.

from cpython.object cimport PyObject
from libc.stdint cimport uint16_t, uint64_t

from underpass.core.fields cimport Field
from underpass.core.relay cimport Exchange

cdef enum:
    METHOD_KEPT = 16
    HOST_KEPT = 96
    PATH_KEPT = 160


cdef struct Slot:
    uint64_t number         # of the request, from 1; 0: nothing is here
    double began
    double ended            # 0: under way
    uint64_t request_bytes
    uint64_t response_bytes
    PyObject* ray           # all four are owned
    PyObject* exchange      # while it is under way
    PyObject* context
    PyObject* cause
    int status
    int attempts
    bint told
    uint16_t method_size    # what it had; kept is no more than there is room for
    uint16_t host_size
    uint16_t path_size
    unsigned char method[METHOD_KEPT]
    unsigned char host[HOST_KEPT]
    unsigned char path[PATH_KEPT]


cdef class Ring:
    cdef Slot* slots
    cdef readonly int size
    cdef uint64_t count             # put into it so far

    cdef object record(self, int i, double now, double wall)


cdef class RecentRequests:
    cdef Ring every
    cdef Ring failed

    # A request has come, for `path`; the number by which `ended` knows it.
    cdef uint64_t begun(self, Exchange exchange, bytes ray, Field* path) noexcept
    # It is over.
    cdef int ended(self, Exchange exchange, uint64_t number, bint told) except -1
    cdef int note_failure(self, Slot* slot, Exchange exchange) except -1
