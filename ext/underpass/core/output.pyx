# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Byte holders: `Output` (gather, then hand over without a copy) and `Backlog` (wait in order)."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_XDECREF
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "Python.h":
    PyObject* _new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    int _PyBytes_Resize(PyObject** store, Py_ssize_t size) except -1
    char* _bytes_payload "PyBytes_AS_STRING"(PyObject*)

# The first store is small, because most turns write one head; it follows what recent turns needed up to a
# size that malloc still serves from its arena rather than by mapping fresh pages.
cdef Py_ssize_t SMALLEST_STORE = 512
cdef Py_ssize_t LARGEST_FIRST_STORE = 327680
cdef Py_ssize_t BULK_STORE = 32768
# A Backlog that grew beyond this gives its memory back when it runs empty.
cdef Py_ssize_t KEPT_BACKLOG = 16384


cdef class Octets:
    """A Python object's contiguous bytes. BufferError if they are not, ValueError if its items are larger, TypeError if
    it has none.

    Instead of typed memoryviews, whose runtime of 100 KiB each module would carry for itself.
    """

    def __cinit__(self, data):
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        if self.view.itemsize != 1:
            raise ValueError("a buffer of octets is wanted")
        self.base = <const unsigned char*>self.view.buf
        self.size = self.view.len

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef class Output:
    """Bytes gathered for one write.

    The bytes live in the `bytes` object that `take` returns, so a gathered megabyte is not copied again. All
    methods but the constructor and the test face (`add`, `collect`) are for compiled callers.
    """

    def __cinit__(self):
        self.store = NULL
        self.base = NULL
        self.size = 0
        self.capacity = 0
        self.expected = SMALLEST_STORE

    def __dealloc__(self):
        Py_XDECREF(self.store)

    cdef unsigned char* reserve(self, Py_ssize_t room) except NULL:
        cdef Py_ssize_t wanted
        if room <= self.capacity - self.size:
            return self.base + self.size
        if room > <Py_ssize_t>0x3FFFFFFFFFFFFFF - self.size:
            raise MemoryError()
        wanted = self.size + room
        if self.store is NULL:
            if wanted < self.expected:
                wanted = self.expected
            self.store = _new_bytes(NULL, wanted)
        else:
            if wanted < self.capacity * 2:
                wanted = self.capacity * 2
            if BULK_STORE < wanted < LARGEST_FIRST_STORE:
                # Where this much has come in a turn more will come, and growing again would copy it all.
                wanted = LARGEST_FIRST_STORE
            try:
                # On failure the old store is gone and self.store is NULL.
                _PyBytes_Resize(&self.store, wanted)
            except MemoryError:
                self.base = NULL
                self.size = self.capacity = 0
                raise
        self.base = <unsigned char*>_bytes_payload(self.store)
        self.capacity = wanted
        return self.base + self.size

    cdef int append(self, const unsigned char* data, Py_ssize_t size) except -1:
        if size > 0:
            memcpy(self.reserve(size), data, <size_t>size)
            self.size += size
        return 0

    cdef int append_bytes(self, bytes data) except -1:
        return self.append(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef bytes take(self):
        cdef PyObject* store = self.store
        cdef Py_ssize_t size = self.size
        if store is NULL or size == 0:
            return b""
        self.store = NULL
        self.base = NULL
        self.size = self.capacity = 0
        if size > self.expected:
            self.expected = size if size < LARGEST_FIRST_STORE else LARGEST_FIRST_STORE
        elif size < self.expected // 4 and self.expected > SMALLEST_STORE:
            self.expected = self.expected // 2
        _PyBytes_Resize(&store, size)
        taken = <bytes>store
        Py_XDECREF(store)
        return taken

    cdef void discard(self) noexcept:
        Py_XDECREF(self.store)
        self.store = NULL
        self.base = NULL
        self.size = self.capacity = 0

    def __len__(self):
        return self.size

    def add(self, data):
        """Append a contiguous buffer (for tests and rare Python callers)."""
        cdef Octets octets = Octets(data)
        self.append(octets.base, octets.size)

    def collect(self):
        """Return and forget everything gathered so far."""
        return self.take()


cdef class Backlog:
    """Bytes waiting in order; its owner bounds how many."""

    def __cinit__(self):
        self.base = NULL
        self.start = self.size = self.capacity = 0

    def __dealloc__(self):
        free(self.base)

    cdef int append(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t wanted
        cdef unsigned char* grown
        if size <= 0:
            return 0
        if size > self.capacity - self.start - self.size:
            if size <= self.capacity - self.size and self.start >= self.size:
                # At least half is spent: closing the gap costs less than it has saved.
                memcpy(self.base, self.base + self.start, <size_t>self.size)
                self.start = 0
            else:
                wanted = self.capacity * 2
                if wanted < self.size + size:
                    wanted = self.size + size
                if wanted < 1024:
                    wanted = 1024
                grown = <unsigned char*>malloc(<size_t>wanted)
                if grown is NULL:
                    raise MemoryError()
                if self.size:
                    memcpy(grown, self.base + self.start, <size_t>self.size)
                free(self.base)
                self.base = grown
                self.start = 0
                self.capacity = wanted
        memcpy(self.base + self.start + self.size, data, <size_t>size)
        self.size += size
        return 0

    cdef void consume(self, Py_ssize_t size) noexcept:
        if size >= self.size:
            self.clear()
        elif size > 0:
            self.start += size
            self.size -= size

    cdef void clear(self) noexcept:
        self.start = self.size = 0
        if self.capacity > KEPT_BACKLOG:
            free(self.base)
            self.base = NULL
            self.capacity = 0

    def __len__(self):
        return self.size

    def add(self, data):
        """Append a contiguous buffer (for tests)."""
        cdef Octets octets = Octets(data)
        self.append(octets.base, octets.size)

    def remove(self, Py_ssize_t size):
        """Return up to `size` of the oldest bytes and forget them (for tests)."""
        if size < 0:
            raise ValueError("size must not be negative")
        if size > self.size:
            size = self.size
        if size == 0:
            return b""
        data = PyBytes_FromStringAndSize(<const char*>self.front(), size)
        self.consume(size)
        return data
