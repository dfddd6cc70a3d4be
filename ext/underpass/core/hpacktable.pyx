# cython: language_level=3, boundscheck=False, wraparound=False
# cython: initializedcheck=False, cdivision=True
"""The tables of HPACK (RFC 7541 §2.3, Appendix A)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from underpass.core.fields cimport TOKEN_COUNT, T_OTHER, token_of

cdef tuple STATIC_TABLE = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
assert len(STATIC_TABLE) == STATIC_ENTRIES

# Names whose values hardly ever come twice while they are still in a table of 4 KiB.
cdef tuple LITERAL_NAMES = (
    b":path", b"age", b"cf-cloudflared-response-headers", b"cf-ray", b"cf-trace-id",
    b"content-length", b"content-range", b"date", b"etag", b"expires", b"if-match",
    b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"last-modified",
    b"location", b"range", b"sec-websocket-accept", b"sec-websocket-key", b"set-cookie",
    b"traceparent", b"x-request-id",
)
cdef tuple NEVER_NAMES = (
    b"authorization", b"cf-access-jwt-assertion", b"cf-access-token", b"cf-access-client-secret",
    b"proxy-authorization",
)
# Known only so that they are found by token instead of by their text.
cdef tuple FREQUENT_NAMES = (
    b":protocol", b"cdn-loop", b"cf-access-jump-destination",
    b"cf-cloudflared-proxy-connection-upgrade", b"cf-cloudflared-proxy-src",
    b"cf-cloudflared-response-meta", b"cf-connecting-ip", b"cf-visitor", b"cf-warp-tag-id",
    b"connection", b"forwarded", b"http2-settings", b"keep-alive", b"origin", b"proxy-connection",
    b"sec-websocket-extensions", b"sec-websocket-protocol", b"sec-websocket-version", b"te",
    b"trailer", b"upgrade", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
)

cdef enum:
    KNOWN_ROOM = 128
    KNOWN_BUCKETS = 256             # a power of two

cdef StaticEntry static_table[STATIC_ENTRIES + 1]
cdef KnownName known[KNOWN_ROOM]
cdef uint8_t known_count = 1                    # 0 stands for "none"
cdef uint8_t known_bucket[KNOWN_BUCKETS]
cdef uint8_t known_next[KNOWN_ROOM]
cdef uint8_t known_token[TOKEN_COUNT]
cdef list kept_text = []                        # owns what the tables point to


cdef uint32_t hash_of(const unsigned char* text, size_t size) noexcept:
    # Eight octets at a time, multiply and fold. A collision costs a comparison, never a wrong
    # answer, and the tables are too small for a flood of them to matter.
    cdef uint64_t hash = <uint64_t>size * 0x9E3779B97F4A7C15ULL
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, text, 8)
        hash = (hash ^ word) * <uint64_t>0xFF51AFD7ED558CCDULL
        hash ^= hash >> 32
        text += 8
        size -= 8
    if size:
        word = 0
        memcpy(&word, text, size)
        hash = (hash ^ word) * <uint64_t>0xFF51AFD7ED558CCDULL
        hash ^= hash >> 32
    return <uint32_t>hash


cdef const StaticEntry* static_entry(uint32_t index) noexcept:
    return &static_table[index]


cdef const KnownName* known_by_token(int token) noexcept:
    return &known[known_token[token]] if known_token[token] else NULL


cdef const KnownName* known_by_name(
        const unsigned char* name, uint32_t size, uint32_t hash) noexcept:
    cdef uint8_t at = known_bucket[hash & (KNOWN_BUCKETS - 1)]
    while at:
        if (known[at].hash == hash and known[at].size == size
                and memcmp(known[at].text, name, size) == 0):
            return &known[at]
        at = known_next[at]
    return NULL


cdef const unsigned char* keep(bytes text):
    kept_text.append(text)
    return <const unsigned char*>PyBytes_AS_STRING(text)


cdef KnownName* learn(bytes name, int policy) except NULL:
    global known_count
    cdef const unsigned char* text = keep(name)
    cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(name)
    cdef uint32_t hash = hash_of(text, size)
    cdef KnownName* found = <KnownName*>known_by_name(text, size, hash)
    cdef int token
    if found is not NULL:
        found.policy = <uint8_t>policy
        return found
    if known_count == KNOWN_ROOM or size > NAME_LIMIT:
        raise AssertionError("the table of known names has no room")
    found = &known[known_count]
    found.text = text
    found.size = size
    found.hash = hash
    found.policy = <uint8_t>policy
    known_next[known_count] = known_bucket[hash & (KNOWN_BUCKETS - 1)]
    known_bucket[hash & (KNOWN_BUCKETS - 1)] = known_count
    token = token_of(text, size)
    if token != T_OTHER:
        known_token[token] = known_count
    known_count += 1
    return found


cdef int build_tables() except -1:
    cdef KnownName* entry
    cdef uint8_t index = 0
    for name, value in STATIC_TABLE:
        index += 1
        static_table[index].text = keep(name + value)
        static_table[index].name_size = <uint32_t>len(name)
        static_table[index].value_size = <uint32_t>len(value)
        static_table[index].token = <uint16_t>token_of(static_table[index].text, len(name))
        entry = learn(name, INDEXED)
        if entry.static_first == 0:
            entry.static_first = index
        entry.static_last = index
    for name in FREQUENT_NAMES:
        learn(name, INDEXED)
    for name in LITERAL_NAMES:
        learn(name, LITERAL)
    for name in NEVER_NAMES:
        learn(name, NEVER)
    learn(b"cookie", NEVER_WHEN_SHORT)
    return 0


build_tables()


# The dynamic table.

cdef void table_init(DynamicTable* table, uint32_t limit) noexcept:
    table.entries = NULL
    table.arena = NULL
    table.slots = table.arena_size = table.arena_used = 0
    table.count = table.size = 0
    table.next_serial = 1
    table.limit = limit


cdef void table_free(DynamicTable* table) noexcept:
    free(table.entries)
    free(table.arena)
    table.entries = NULL
    table.arena = NULL


cdef inline void evict(DynamicTable* table) noexcept:
    cdef TableEntry* oldest = table_entry(table, table.count - 1)
    table.size -= oldest.name_size + oldest.value_size + ENTRY_OVERHEAD
    table.count -= 1
    if table.count == 0:
        table.arena_used = 0


cdef void table_resize(DynamicTable* table, uint32_t limit) noexcept:
    table.limit = limit
    while table.size > limit:
        evict(table)


cdef int make_room(DynamicTable* table) except -1:
    # Build arena and ring for the limit, taking the entries over oldest first, packed.
    cdef uint32_t slots = 16, arena_size, age, used = 0, serial
    cdef TableEntry* entries
    cdef TableEntry* entry
    cdef unsigned char* arena
    while slots * ENTRY_OVERHEAD < table.limit:
        slots *= 2
    arena_size = 2 * table.limit
    entries = <TableEntry*>malloc(slots * sizeof(TableEntry))
    arena = <unsigned char*>malloc(arena_size)
    if entries is NULL or arena is NULL:
        free(entries)
        free(arena)
        raise MemoryError()
    age = table.count
    while age > 0:
        age -= 1
        serial = table.next_serial - 1 - age
        entry = entries + (serial & (slots - 1))
        entry[0] = table_entry(table, age)[0]
        memcpy(arena + used, table.arena + entry.at, entry.name_size + entry.value_size)
        entry.at = used
        used += entry.name_size + entry.value_size
    free(table.entries)
    free(table.arena)
    table.entries = entries
    table.arena = arena
    table.slots = slots
    table.arena_size = arena_size
    table.arena_used = used
    return 0


cdef TableEntry* table_insert(DynamicTable* table, const unsigned char* name, uint32_t name_size,
                              const unsigned char* value, uint32_t value_size) except? NULL:
    cdef uint64_t cost = <uint64_t>name_size + value_size + ENTRY_OVERHEAD
    cdef uint32_t size = name_size + value_size
    cdef TableEntry* entry
    if cost > table.limit:
        while table.count:
            evict(table)
        return NULL
    while table.size + cost > table.limit:
        evict(table)
    if table.arena_size < 2 * table.limit:
        make_room(table)
    # With the arena C >= 2 * limit and live + size <= limit there is always room: where the live
    # octets lie in one piece and the end is too short, used > C - size, so they begin at used -
    # live > C - limit >= size, and the start is free for this entry. Where they already wrap, the
    # upper piece ends above C - limit >= limit, so the gap between the pieces, that end less the
    # live octets, is no smaller than size.
    if size > table.arena_size - table.arena_used:
        table.arena_used = 0
    entry = table.entries + (table.next_serial & (table.slots - 1))
    entry.at = table.arena_used
    entry.name_size = name_size
    entry.value_size = value_size
    if name_size:
        memcpy(table.arena + entry.at, name, name_size)
    if value_size:
        memcpy(table.arena + entry.at + name_size, value, value_size)
    table.arena_used += size
    table.next_serial += 1
    table.count += 1
    table.size += <uint32_t>cost
    return entry
