# Byte holders. Output gathers what is to be written next and hands it over without a copy;
# Backlog is a first-in-first-out store for what must still wait; Octets reads what Python brings.

from cpython.object cimport PyObject


cdef class Octets:
    # A Python object's contiguous bytes, held in place while this lives.
    cdef Py_buffer view
    cdef const unsigned char* base
    cdef Py_ssize_t size


cdef class Output:
    cdef PyObject* store            # owned bytes object with spare room, or NULL; never shared before take()
    cdef unsigned char* base        # first byte of the store's payload
    cdef Py_ssize_t size            # bytes in use
    cdef Py_ssize_t capacity        # bytes the store has room for
    cdef Py_ssize_t expected        # first capacity of the next store: what the last ones needed

    # Room for at least `room` more bytes at the end; valid until the next call on this object.
    cdef unsigned char* reserve(self, Py_ssize_t room) except NULL
    cdef inline void advance(self, Py_ssize_t written) noexcept:
        self.size += written
    cdef int append(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int append_bytes(self, bytes data) except -1
    # Everything gathered so far; the object is empty afterwards.
    cdef bytes take(self)
    cdef void discard(self) noexcept


cdef class Backlog:
    cdef unsigned char* base        # owned, malloc
    cdef Py_ssize_t start           # offset of the oldest byte
    cdef Py_ssize_t size            # bytes waiting
    cdef Py_ssize_t capacity

    cdef int append(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef inline const unsigned char* front(self) noexcept:
        return self.base + self.start
    cdef void consume(self, Py_ssize_t size) noexcept
    cdef void clear(self) noexcept
