# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""The last requests that an edge has carried, and the last that failed, in rings of records of one size.

What a record says of a request's head is copied when the request comes, because the head is let go of when the
response begins; the rest when it is over. No Python object is made for a request. Queries are not kept: they have
secrets in them. Failures have a ring of their own, so that what goes well does not wash them out.
"""

import time

from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcpy

from underpass.core.fields cimport T_AUTHORITY, T_HOST, T_METHOD, T_PATH, Field, Fields
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
        self.rays = [None] * size
        self.contexts = [None] * size
        self.causes = [None] * size
        self.exchanges = [None] * size

    def __dealloc__(self):
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
        cdef Exchange exchange = self.exchanges[i]
        cdef tuple head = (
            wall - (now - slot.began),
            text(slot.method, slot.method_size, METHOD_KEPT),
            text(slot.host, slot.host_size, HOST_KEPT),
            text(slot.path, slot.path_size, PATH_KEPT),
        )
        if exchange is not None:
            return (*head, exchange.status, None, exchange.request_bytes, exchange.response_bytes,
                    self.rays[i], exchange.attempts, exchange.cause, False, exchange.context)
        return (*head, slot.status, slot.ended - slot.began, slot.request_bytes, slot.response_bytes,
                self.rays[i], slot.attempts, self.causes[i], bool(slot.told), self.contexts[i])


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

    cdef uint64_t begun(self, Exchange exchange, bytes ray) noexcept:
        cdef Ring ring = self.every
        cdef Slot* slot = ring.slots + <int>(ring.count % ring.size)
        cdef int i = <int>(ring.count % ring.size)
        cdef Fields request = exchange.request
        cdef Field* host = request.find(T_AUTHORITY)
        ring.count += 1
        if host is NULL:
            host = request.find(T_HOST)
        slot.number = ring.count
        slot.began = exchange.began
        slot.method_size = keep(request, request.find(T_METHOD), slot.method, METHOD_KEPT)
        slot.host_size = keep(request, host, slot.host, HOST_KEPT)
        slot.path_size = keep(request, request.find(T_PATH), slot.path, PATH_KEPT)
        ring.rays[i] = ray
        ring.exchanges[i] = exchange
        return slot.number

    cdef int ended(self, Exchange exchange, uint64_t number, bint told) except -1:
        cdef Ring ring = self.every
        cdef int i = <int>((number - 1) % ring.size)
        cdef Slot* slot = ring.slots + i
        # (A request that took longer than all the others in the ring has been forgotten.)
        if slot.number == number:
            fill(slot, exchange, told)
            ring.causes[i] = exchange.cause
            ring.contexts[i] = exchange.context
            ring.exchanges[i] = None
            if exchange.cause is not None or exchange.status >= 500:
                self.note_failure(ring, i, exchange)
        return 0

    cdef int note_failure(self, Ring ring, int i, Exchange exchange) except -1:
        cdef Ring failed = self.failed
        cdef int at = <int>(failed.count % failed.size)
        # Strangers' requests to nowhere, and visitors who close a page, would wash the others out.
        if exchange.context is None or exchange.cause == "reset_by_client":
            return 0
        failed.count += 1
        failed.slots[at] = ring.slots[i]
        failed.rays[at] = ring.rays[i]
        failed.causes[at] = ring.causes[i]
        failed.contexts[at] = ring.contexts[i]
        return 0


cdef void fill(Slot* slot, Exchange exchange, bint told) noexcept:
    slot.ended = exchange.ended
    slot.status = exchange.status
    slot.request_bytes = exchange.request_bytes
    slot.response_bytes = exchange.response_bytes
    slot.attempts = exchange.attempts
    slot.told = told


cdef uint16_t keep(Fields fields, Field* field, unsigned char* to, size_t room) noexcept:
    """Copy what is before the query, as far as there is room; how much that was, of 65535."""
    cdef size_t size
    cdef const unsigned char* value
    cdef const void* query
    if field is NULL:
        return 0
    value, size = fields.value(field), field.value_size
    query = memchr(value, 63, size)
    if query is not NULL:
        size = <size_t>(<const unsigned char*>query - value)
    memcpy(to, value, size if size < room else room)
    return <uint16_t>(size if size < 65535 else 65535)


cdef bytes text(const unsigned char* kept, uint16_t size, uint16_t room):
    return kept[:size] if size <= room else kept[:room] + b"\xe2\x80\xa6"
