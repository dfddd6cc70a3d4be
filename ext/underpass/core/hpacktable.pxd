# The tables of HPACK (RFC 7541 §2.3, Appendix A): the static one, what we know about field names,
# and the dynamic table that both directions keep.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    STATIC_ENTRIES = 61
    ENTRY_OVERHEAD = 32             # RFC 7541 §4.1: counted for each entry on top of its octets
    NAME_LIMIT = 255                # octets; a longer name is always written out

# How fields of a name are sent.
cdef enum Policy:
    INDEXED = 0                     # put in the dynamic table
    LITERAL = 1                     # too various to be worth a place there
    NEVER = 2                       # a credential: RFC 7541 §7.1.3
    NEVER_WHEN_SHORT = 3            # a credential that can be guessed if it is short

cdef struct StaticEntry:
    const unsigned char* text       # the name, the value right behind it
    uint32_t name_size
    uint32_t value_size
    uint16_t token

cdef struct KnownName:
    const unsigned char* text       # lower-case
    uint32_t size
    uint32_t hash                   # hash_of(text)
    uint8_t static_first            # index of its first entry in the static table, or 0
    uint8_t static_last
    uint8_t policy

cdef struct TableEntry:
    uint32_t at                     # of the name in the table's arena; the value follows it
    uint32_t name_size
    uint32_t value_size
    uint32_t hash                   # the writer's: of name and value
    uint32_t name_hash
    uint32_t older                  # the writer's: serial of the next older one in the same bucket
    uint32_t older_name
    uint16_t token

# Entries have serial numbers, counted up without end (modulo 2**32); the newest one is `next_serial
# - 1`. The arena is a ring in which each entry lies in one piece: twice the limit is always room
# enough.
cdef struct DynamicTable:
    TableEntry* entries             # owned; a ring of `slots` (a power of two), by serial
    unsigned char* arena            # owned; NULL until the first insertion
    uint32_t slots
    uint32_t arena_size
    uint32_t arena_used             # offset at which the newest entry ends
    uint32_t count
    uint32_t next_serial
    uint32_t size                   # RFC 7541 §4.1
    uint32_t limit                  # never less than size

# 1 <= index <= STATIC_ENTRIES
cdef const StaticEntry* static_entry(uint32_t index) noexcept
# NULL: not known.
cdef const KnownName* known_by_token(int token) noexcept
cdef const KnownName* known_by_name(
    const unsigned char* name, uint32_t size, uint32_t hash) noexcept
cdef uint32_t hash_of(const unsigned char* text, size_t size) noexcept

cdef void table_init(DynamicTable* table, uint32_t limit) noexcept
cdef void table_free(DynamicTable* table) noexcept
cdef void table_resize(DynamicTable* table, uint32_t limit) noexcept
# Evict what must go and add the pair, neither part of which may lie in the table's own arena. The
# caller fills in token or hashes. NULL if it doesn't fit even alone, which empties the table and is
# no error (RFC 7541 §4.4).
cdef TableEntry* table_insert(DynamicTable* table, const unsigned char* name, uint32_t name_size,
                              const unsigned char* value, uint32_t value_size) except? NULL

# The entry `age` places behind the newest one; age < count.
cdef inline TableEntry* table_entry(DynamicTable* table, uint32_t age) noexcept:
    return table.entries + ((table.next_serial - 1 - age) & (table.slots - 1))
