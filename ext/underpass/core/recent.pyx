# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""The last requests that an edge has carried, and the last that failed, in rings of records of one size.

What a record says of a request's head is copied when the request comes, because the head is let go of when the
response begins; the rest when it is over. No Python object is made for a request. Queries are not kept: they have
secrets in them. Failures have a ring of their own, so that what goes well does not wash them out.
"""

import time

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcpy

from underpass.core.fields cimport T_AUTHORITY, T_HOST, T_METHOD, Field, Fields
from underpass.core.histogram cimport underpass_seconds
from underpass.core.relay cimport Exchange

# Bytes that are kept of a request's method, host and path.
KEPT = (METHOD_KEPT, HOST_KEPT, PATH_KEPT)


cdef class Ring:
    """The last `size` records of one kind."""

    def __cinit__(self, int size):
        if not 1 <= size <= 65536:
            raise ValueError(f"a ring has 1 to 65536 places, not {size}")
        self.slots = <Slot*>calloc(size, sizeof(Slot))
        if self.slots is NULL:
            raise MemoryError()
        self.size = size

    def __dealloc__(self):
        cdef int i
        if self.slots is NULL:
            return
        for i in range(self.size):
            Py_XDECREF(self.slots[i].ray)
            Py_XDECREF(self.slots[i].exchange)
            Py_XDECREF(self.slots[i].context)
            Py_XDECREF(self.slots[i].cause)
        free(self.slots)

    def read(self):
        """Its records, the newest first."""
        cdef double now = underpass_seconds()
        cdef double wall = time.time()
        cdef uint64_t number = self.count
        cdef list records = []
        while number and self.count - number < <uint64_t>self.size:
            records.append(self.record(<int>((number - 1) % self.size), now, wall))
            number -= 1
        return records

    cdef object record(self, int i, double now, double wall):
        cdef Slot* slot = self.slots + i
        cdef Exchange exchange = None
        cdef tuple head = (
            wall - (now - slot.began),
            text(slot.method, slot.method_size, METHOD_KEPT),
            text(slot.host, slot.host_size, HOST_KEPT),
            text(slot.path, slot.path_size, PATH_KEPT),
        )
        if slot.exchange is not NULL:
            exchange = <Exchange>slot.exchange
            return (*head, exchange.status, None, exchange.request_bytes, exchange.response_bytes,
                    <object>slot.ray, exchange.attempts, exchange.cause, False, exchange.context)
        return (*head, slot.status, slot.ended - slot.began, slot.request_bytes, slot.response_bytes,
                <object>slot.ray, slot.attempts, owned(slot.cause), bool(slot.told), owned(slot.context))


cdef class RecentRequests:
    """Keeps the last `size` requests, and the last `failures` of those that failed and had somewhere to go: their
    exchange's `context` is not None."""

    def __init__(self, int size=512, int failures=256):
        self.every = Ring(size)
        self.failed = Ring(failures)

    def requests(self):
        """The last requests, the newest first, also those that are under way: (unix time, method, host, path, status,
        seconds or None, request bytes, response bytes, ray, attempts, cause or None, told, context)."""
        return self.every.read()

    def failures(self):
        """Likewise those that failed, or were answered with 500 or more."""
        return self.failed.read()

    def forget(self, context not None, place not None):
        """Keep `place` wherever `context` is kept, which then goes: what stands for it, and is small."""
        for ring in (self.every, self.failed):
            forget_in(ring, context, place)

    cdef uint64_t begun(self, Exchange exchange, bytes ray, Field* path) noexcept:
        cdef Slot* slot = next_of(self.every)
        cdef Fields request = exchange.request
        cdef Field* field = request.find(T_AUTHORITY)
        cdef const unsigned char* value
        cdef const void* query
        slot.number = self.every.count
        slot.began = exchange.began
        slot.host_size = keep(request, request.find(T_HOST) if field is NULL else field, slot.host, HOST_KEPT)
        slot.method_size = keep(request, request.find(T_METHOD), slot.method, METHOD_KEPT)
        slot.path_size = 0
        if path is not NULL:
            value = request.value(path)
            query = memchr(value, 63, min_size(path.value_size, PATH_KEPT + 1))
            if query is NULL:
                slot.path_size = keep(request, path, slot.path, PATH_KEPT)
            else:
                slot.path_size = <uint16_t>(<const unsigned char*>query - value)
                memcpy(slot.path, value, slot.path_size)
        put(&slot.ray, ray)
        put(&slot.exchange, exchange)
        return slot.number

    cdef int ended(self, Exchange exchange, uint64_t number, bint told) except -1:
        cdef Slot* slot = self.every.slots + <int>((number - 1) % <uint64_t>self.every.size)
        # (A request that took longer than all the others in the ring has been forgotten.)
        if slot.number != number:
            return 0
        slot.ended = exchange.ended
        slot.status = exchange.status
        slot.request_bytes = exchange.request_bytes
        slot.response_bytes = exchange.response_bytes
        slot.attempts = exchange.attempts
        slot.told = told
        put(&slot.context, exchange.context)
        put(&slot.cause, exchange.cause)
        if exchange.cause is not None or exchange.status >= 500:
            self.note_failure(slot, exchange)
        # (Whoever calls holds it.)
        Py_XDECREF(slot.exchange)
        slot.exchange = NULL
        return 0

    cdef int note_failure(self, Slot* slot, Exchange exchange) except -1:
        cdef Slot* place
        # Strangers' requests to nowhere, and visitors who close a page, would wash the others out.
        if exchange.context is None or exchange.cause == "reset_by_client":
            return 0
        place = next_of(self.failed)
        Py_XDECREF(place.ray)
        Py_XDECREF(place.context)
        Py_XDECREF(place.cause)
        place[0] = slot[0]
        place.exchange = NULL
        Py_XINCREF(place.ray)
        Py_XINCREF(place.context)
        Py_XINCREF(place.cause)
        return 0


cdef void forget_in(Ring ring, object context, object place) noexcept:
    cdef int i
    for i in range(ring.size):
        if ring.slots[i].context is <PyObject*>context:
            put(&ring.slots[i].context, place)


cdef inline Slot* next_of(Ring ring) noexcept:
    """The place of the oldest record, for another one."""
    cdef Slot* slot = ring.slots + ring.count % <uint64_t>ring.size
    ring.count += 1
    return slot


cdef inline void put(PyObject** place, object owned) noexcept:
    """Own this instead of what was there."""
    cdef PyObject* before = place[0]
    Py_INCREF(owned)
    place[0] = <PyObject*>owned
    Py_XDECREF(before)


cdef object owned(PyObject* kept):
    return None if kept is NULL else <object>kept


cdef inline size_t min_size(size_t size, size_t room) noexcept:
    return size if size < room else room


cdef inline uint16_t keep(Fields fields, Field* field, unsigned char* to, size_t room) noexcept:
    """Copy a value as far as there is room; how long it was, of 65535."""
    if field is NULL:
        return 0
    memcpy(to, fields.value(field), min_size(field.value_size, room))
    return <uint16_t>min_size(field.value_size, 65535)


cdef bytes text(const unsigned char* kept, uint16_t size, uint16_t room):
    return kept[:size] if size <= room else kept[:room] + b"\xe2\x80\xa6"
