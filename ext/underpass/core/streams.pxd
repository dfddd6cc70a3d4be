# The stream table of one HTTP/2 connection: stream identifier -> stream, without a Python integer.

from libc.stdint cimport uint32_t

from cpython.object cimport PyObject

cdef struct Slot:
    uint32_t key            # 0: empty (stream 0 is the connection itself and never stored)
    PyObject* value         # owned


cdef class StreamTable:
    cdef Slot* slots
    cdef uint32_t mask
    cdef readonly uint32_t count

    cdef PyObject* find(self, uint32_t key) noexcept        # borrowed, or NULL
    cdef int put(self, uint32_t key, object value) except -1
    cdef int remove(self, uint32_t key) except -1
    cdef list values(self)
    cdef int grow(self) except -1
