# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A small open-addressing hash table from stream identifiers to streams."""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport calloc, free

import os

cdef uint32_t SMALLEST_TABLE = 16


# The peer chooses the identifiers. Were their places in the table known, it could choose 20,000 that share one, and
# every frame would search them all; so the places depend on a number it does not know.
cdef uint32_t secret = int.from_bytes(os.urandom(4), "little")


cdef inline uint32_t home(uint32_t key, uint32_t mask) noexcept:
    # The finalizer of MurmurHash3.
    key ^= secret
    key ^= key >> 16
    key *= <uint32_t>0x85EBCA6B
    key ^= key >> 13
    key *= <uint32_t>0xC2B2AE35
    key ^= key >> 16
    return key & mask


cdef class StreamTable:
    """Linear probing with backward-shift deletion, so that a long-lived table needs no tombstones."""

    def __cinit__(self):
        self.slots = NULL
        self.mask = 0
        self.count = 0

    def __dealloc__(self):
        cdef uint32_t i
        if self.slots is not NULL:
            for i in range(self.mask + 1):
                if self.slots[i].key:
                    Py_DECREF(<object>self.slots[i].value)
            free(self.slots)

    cdef PyObject* find(self, uint32_t key) noexcept:
        cdef uint32_t i
        if self.count == 0:
            return NULL
        i = home(key, self.mask)
        while self.slots[i].key:
            if self.slots[i].key == key:
                return self.slots[i].value
            i = (i + 1) & self.mask
        return NULL

    cdef int grow(self) except -1:
        cdef uint32_t wanted = (self.mask + 1) * 2 if self.slots is not NULL else SMALLEST_TABLE
        cdef Slot* old = self.slots
        cdef uint32_t old_size = self.mask + 1 if old is not NULL else 0
        cdef uint32_t i, j
        cdef Slot* fresh = <Slot*>calloc(wanted, sizeof(Slot))
        if fresh is NULL:
            raise MemoryError()
        for i in range(old_size):
            if old[i].key:
                j = home(old[i].key, wanted - 1)
                while fresh[j].key:
                    j = (j + 1) & (wanted - 1)
                fresh[j] = old[i]
        free(old)
        self.slots = fresh
        self.mask = wanted - 1
        return 0

    cdef int put(self, uint32_t key, object value) except -1:
        cdef uint32_t i
        if key == 0 or self.find(key) is not NULL:
            raise ValueError("stream identifier 0, or already in the table")
        if self.slots is NULL or self.count * 3 >= (self.mask + 1) * 2:
            self.grow()
        i = home(key, self.mask)
        while self.slots[i].key:
            i = (i + 1) & self.mask
        Py_INCREF(value)
        self.slots[i].key = key
        self.slots[i].value = <PyObject*>value
        self.count += 1
        return 0

    cdef int remove(self, uint32_t key) except -1:
        """Forget `key`; 0 if it was not there."""
        cdef uint32_t i, j, ideal
        cdef PyObject* value
        if self.count == 0:
            return 0
        i = home(key, self.mask)
        while self.slots[i].key != key:
            if self.slots[i].key == 0:
                return 0
            i = (i + 1) & self.mask
        value = self.slots[i].value
        j = i
        while True:
            j = (j + 1) & self.mask
            if self.slots[j].key == 0:
                break
            ideal = home(self.slots[j].key, self.mask)
            # Move slot j back to the gap unless its ideal place lies cyclically after the gap.
            if ((j - ideal) & self.mask) >= ((j - i) & self.mask):
                self.slots[i] = self.slots[j]
                i = j
        self.slots[i].key = 0
        self.slots[i].value = NULL
        self.count -= 1
        # Last: this may run the value's destructor.
        Py_DECREF(<object>value)
        return 1

    cdef list values(self):
        cdef uint32_t i
        found = []
        if self.slots is not NULL:
            for i in range(self.mask + 1):
                if self.slots[i].key:
                    found.append(<object>self.slots[i].value)
        return found

    # The face for tests. (Typed index arguments would be cut to 32 bits without a word.)

    def __getitem__(self, key):
        cdef uint32_t wanted = key
        cdef PyObject* value = self.find(wanted)
        if value is NULL:
            raise KeyError(key)
        return <object>value

    def __setitem__(self, key, value):
        cdef uint32_t wanted = key
        self.put(wanted, value)

    def __delitem__(self, key):
        cdef uint32_t wanted = key
        if not self.remove(wanted):
            raise KeyError(key)

    def __contains__(self, key):
        cdef uint32_t wanted = key
        return self.find(wanted) is not NULL

    def __len__(self):
        return self.count

    @property
    def longest_search(self):
        """The most slots a look-up of a key that is present looks at (for tests)."""
        cdef uint32_t i
        cdef uint32_t longest = 0
        if self.slots is not NULL:
            for i in range(self.mask + 1):
                if self.slots[i].key:
                    longest = max(longest, ((i - home(self.slots[i].key, self.mask)) & self.mask) + 1)
        return longest

    def all(self):
        """Every value, in no order."""
        return self.values()
