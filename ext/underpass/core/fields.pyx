# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Fields: an ordered list of (name, value) byte pairs in one flat arena (RFC 9110 §5)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

# No section may hold more than this, whatever a caller's own limit is: offsets stay far inside 32 bits.
cdef size_t ARENA_LIMIT = 4 * 1024 * 1024
# What a section keeps between uses, so that a recycled one costs no allocation for a usual head.
cdef uint32_t KEPT_ARENA = 4096
cdef uint32_t KEPT_ITEMS = 64

cdef tuple TOKEN_NAMES = (
    b"", b":method", b":scheme", b":authority", b":path", b":status", b":protocol",
    b"host", b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te",
    b"trailer", b"http2-settings", b"expect", b"content-length", b"cookie", b"content-type",
    b"content-encoding", b"date", b"user-agent", b"accept", b"accept-encoding", b"accept-language",
    b"authorization", b"proxy-authorization", b"set-cookie", b"location", b"etag", b"last-modified",
    b"if-modified-since", b"if-none-match", b"range", b"cache-control", b"server", b"vary", b"referer",
    b"origin", b"sec-websocket-key", b"sec-websocket-accept", b"sec-websocket-version",
    b"sec-websocket-protocol", b"sec-websocket-extensions", b"cf-cloudflared-proxy-connection-upgrade",
    b"cf-cloudflared-proxy-src", b"cf-cloudflared-response-headers", b"cf-cloudflared-response-meta",
    b"cf-trace-id", b"cf-ray", b"cf-connecting-ip", b"cf-warp-tag-id", b"cf-access-jump-destination",
    b"cf-access-jwt-assertion", b"cf-visitor", b"cdn-loop", b"x-forwarded-for", b"x-forwarded-proto",
    b"x-forwarded-host", b"forwarded", b"underpass-cause", b"underpass-hop",
)
assert len(TOKEN_NAMES) == TOKEN_COUNT

# Chained hash over (size, first, last byte), built once: chain[t] is the next token in t's bucket.
cdef const unsigned char* token_text[TOKEN_COUNT]
cdef size_t token_size[TOKEN_COUNT]
cdef uint8_t bucket_head[256]
cdef uint8_t bucket_next[TOKEN_COUNT]


cdef inline unsigned char lower(unsigned char c) noexcept:
    return c | 0x20 if 65 <= c <= 90 else c


cdef inline uint8_t bucket_of(const unsigned char* name, size_t size) noexcept:
    return <uint8_t>(size * 7 + lower(name[0]) * 31 + lower(name[size - 1]) * 5 + lower(name[size >> 1]) * 3)


cdef int token_of(const unsigned char* name, size_t size) noexcept:
    cdef uint8_t token
    cdef const unsigned char* text
    cdef size_t i
    if size == 0:
        return T_OTHER
    token = bucket_head[bucket_of(name, size)]
    while token:
        if token_size[token] == size:
            text = token_text[token]
            i = 0
            while i < size and (name[i] == text[i] or (name[i] ^ text[i] == 0x20 and 97 <= text[i] <= 122)):
                i += 1
            if i == size:
                return token
        token = bucket_next[token]
    return T_OTHER


cdef void build_buckets() noexcept:
    cdef int token
    cdef uint8_t bucket
    for token in range(1, TOKEN_COUNT):
        name = <bytes>TOKEN_NAMES[token]
        token_text[token] = <const unsigned char*>PyBytes_AS_STRING(name)
        token_size[token] = <size_t>PyBytes_GET_SIZE(name)
        bucket = bucket_of(token_text[token], token_size[token])
        bucket_next[token] = bucket_head[bucket]
        bucket_head[bucket] = <uint8_t>token


build_buckets()


cdef class Fields:
    """An ordered list of fields.

    Names keep the case they were added in; look-ups ignore case. Python sees it as a sequence of pairs of bytes;
    compiled callers read the arena.
    """

    def __cinit__(self):
        self.arena = NULL
        self.items = NULL
        self.used = self.room = self.count = self.capacity = 0

    def __init__(self, pairs=()):
        for name, value in pairs:
            self.append(name, value)

    def __dealloc__(self):
        free(self.arena)
        free(self.items)

    cdef unsigned char* reserve(self, size_t size) except NULL:
        cdef size_t wanted
        cdef unsigned char* grown
        if self.arena is not NULL and size <= <size_t>(self.room - self.used):
            return self.arena + self.used
        if size > ARENA_LIMIT - self.used:
            raise MemoryError("field section over its limit")
        wanted = self.used + size
        if wanted < self.room * <size_t>2:
            wanted = self.room * <size_t>2
        if wanted > ARENA_LIMIT:
            wanted = ARENA_LIMIT
        if wanted < 1024:
            wanted = 1024
        grown = <unsigned char*>realloc(self.arena, wanted)
        if grown is NULL:
            raise MemoryError()
        self.arena = grown
        self.room = <uint32_t>wanted
        return self.arena + self.used

    cdef int push(self, uint32_t name_size, uint32_t value_size, uint8_t flags) except -1:
        return self.push_known(name_size, value_size, flags,
                               <uint16_t>token_of(self.arena + self.used, name_size))

    cdef int push_known(self, uint32_t name_size, uint32_t value_size, uint8_t flags, uint16_t token) except -1:
        cdef Field* grown
        cdef uint32_t wanted
        cdef Field* field
        if self.count == self.capacity:
            wanted = self.capacity * 2 if self.capacity else 16
            grown = <Field*>realloc(self.items, wanted * sizeof(Field))
            if grown is NULL:
                raise MemoryError()
            self.items = grown
            self.capacity = wanted
        field = self.items + self.count
        field.at = self.used
        field.name_size = name_size
        field.value_size = value_size
        field.flags = flags
        field.token = token
        self.used += name_size + value_size
        self.count += 1
        return 0

    cdef int copy(self, Fields other, Field* field) except -1:
        memcpy(self.reserve(<size_t>field.name_size + field.value_size), other.name(field),
               <size_t>field.name_size + field.value_size)
        return self.push_known(field.name_size, field.value_size, field.flags, field.token)

    cdef int add(self, const unsigned char* name, size_t name_size,
                 const unsigned char* value, size_t value_size, uint8_t flags) except -1:
        cdef unsigned char* place
        if name_size > ARENA_LIMIT or value_size > ARENA_LIMIT:
            raise MemoryError("field section over its limit")
        place = self.reserve(name_size + value_size + 1)
        memcpy(place, name, name_size)
        if value_size:
            memcpy(place + name_size, value, value_size)
        return self.push(<uint32_t>name_size, <uint32_t>value_size, flags)

    cdef int add_pair(self, bytes name, bytes value) except -1:
        return self.add(
            <const unsigned char*>PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name),
            <const unsigned char*>PyBytes_AS_STRING(value), <size_t>PyBytes_GET_SIZE(value), 0)

    cdef Field* find(self, int token) noexcept:
        cdef uint32_t i
        for i in range(self.count):
            if self.items[i].token == token and not self.items[i].flags & HIDDEN:
                return self.items + i
        return NULL

    cdef bytes value_bytes(self, int token):
        cdef Field* field = self.find(token)
        if field is NULL:
            return None
        return PyBytes_FromStringAndSize(<const char*>self.value(field), field.value_size)

    cdef void hide(self, int token) noexcept:
        cdef uint32_t i
        for i in range(self.count):
            if self.items[i].token == token:
                self.items[i].flags |= HIDDEN

    cdef void reset(self) noexcept:
        self.used = self.count = 0
        if self.room > KEPT_ARENA:
            free(self.arena)
            self.arena = NULL
            self.room = 0
        if self.capacity > KEPT_ITEMS:
            free(self.items)
            self.items = NULL
            self.capacity = 0

    # The Python face.

    def append(self, bytes name not None, bytes value not None):
        """Add a field at the end. MemoryError past the arena's limit (4 MiB)."""
        self.add_pair(name, value)

    def get(self, bytes name not None, default=None):
        """The value of the first field of that name, ignoring case, or `default`."""
        cdef uint32_t i
        wanted = name.lower()
        for i in range(self.count):
            if not self.items[i].flags & HIDDEN and self._name(i).lower() == wanted:
                return self._value(i)
        return default

    def get_all(self, bytes name not None):
        """The values of all fields of that name, in order."""
        wanted = name.lower()
        return [value for found, value in self if found.lower() == wanted]

    def remove(self, bytes name not None):
        """Remove every field of that name."""
        cdef uint32_t i
        wanted = name.lower()
        for i in range(self.count):
            if self._name(i).lower() == wanted:
                self.items[i].flags |= HIDDEN

    def clear(self):
        """Forget every field."""
        self.reset()

    cdef bytes _name(self, uint32_t i):
        return PyBytes_FromStringAndSize(<const char*>self.arena + self.items[i].at, self.items[i].name_size)

    cdef bytes _value(self, uint32_t i):
        return PyBytes_FromStringAndSize(
            <const char*>self.arena + self.items[i].at + self.items[i].name_size, self.items[i].value_size)

    def __iter__(self):
        # The list may change between two steps.
        cdef uint32_t i = 0
        while i < self.count:
            if not self.items[i].flags & HIDDEN:
                yield self._name(i), self._value(i)
            i += 1

    def __len__(self):
        cdef uint32_t i
        cdef Py_ssize_t visible = 0
        for i in range(self.count):
            visible += not self.items[i].flags & HIDDEN
        return visible

    def __repr__(self):
        # Values may be secrets (cookies, tokens): names only.
        return f"Fields({[name for name, _ in self]!r})"
