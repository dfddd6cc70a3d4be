# cython: language_level=3, boundscheck=False, wraparound=False
# cython: initializedcheck=False, cdivision=True
"""Header compression for HTTP/2 (RFC 7541).

`Decoder` writes fields straight into the arena of a `Fields`; `Encoder` writes into an `Output`.
Neither makes a Python object for a field. Block boundaries, pseudo-header rules and field validity
are the caller's.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from underpass.core.fields cimport (
    HIDDEN, NEVER_INDEXED, T_LINK_RESPONSE_HEADERS, T_STATUS, Field, token_of,
)
from underpass.core.huffman cimport huffman_bound, huffman_decode, huffman_encode, huffman_size
from underpass.core.hpacktable cimport (
    ENTRY_OVERHEAD, INDEXED, LITERAL, NAME_LIMIT, NEVER, NEVER_WHEN_SHORT, STATIC_ENTRIES,
    KnownName, StaticEntry, TableEntry, hash_of, known_by_name, known_by_token, static_entry,
    table_entry, table_free, table_init, table_insert, table_resize,
)

cdef enum:
    # Octets of one header block. The frame layer's bound is lower; this one keeps the sums below in
    # 32 bits and inside the arena of a Fields.
    BLOCK_LIMIT = 1024 * 1024
    # Highest max_list_size that is honoured, for the same reason.
    LIST_SIZE_LIMIT = 1024 * 1024
    # Octets; without one, a section may take this much: what nginx gives
    # (large_client_header_buffers), doubled.
    DEFAULT_LIST_SIZE = 64 * 1024
    # Fields in one section. nginx stops at 1,000; a header that needs more is an attack.
    FIELD_LIMIT = 1024
    # Largest dynamic table a decoder keeps (octets; it takes up to 4.5 times that in memory).
    TABLE_SIZE_LIMIT = 64 * 1024
    # RFC 7541 §5.1: octets after the prefix of an integer. Five say 35 bits; no valid number needs
    # more.
    INTEGER_OCTETS = 5

    # Values longer than this (octets) are not put in the encoder's table: one would push out a
    # dozen others.
    INDEXED_VALUE_LIMIT = 512
    # Values longer than this are sent as they are: Huffman saves a fifth of the octets at a
    # nanosecond for each.
    HUFFMAN_VALUE_LIMIT = 512
    # A cookie shorter than this might be guessed octet by octet (RFC 7541 §7.1.3); Firefox and
    # nghttp2 use 20 too.
    SHORT_COOKIE = 20
    # What one value or name may take in the encoder: 28 bits, as far as any peer could count.
    STRING_LIMIT = 0x0FFFFFFF
    # Hash heads of the encoder's table of at most 128 entries; a power of two.
    BUCKETS = 256


class CompressionError(ValueError):
    """A header block is malformed; the connection's tables are lost with it (COMPRESSION_ERROR)."""


class HeaderListTooLarge(ValueError):
    """A section is over `max_list_size` or has too many fields; the tables are still in step."""


# Decoding.

cdef struct Cursor:
    const unsigned char* at
    const unsigned char* end


cdef int malformed(str what) except -1:
    raise CompressionError(f"malformed header block: {what}")


cdef inline int read_integer(Cursor* cursor, uint32_t mask, uint32_t* number) except -1:
    # The prefix is in the low bits (`mask`) of the octet under the cursor, which the caller has
    # seen to be there.
    cdef uint32_t prefix = cursor.at[0] & mask
    cursor.at += 1
    number[0] = prefix
    if prefix < mask:
        return 0
    return read_long_integer(cursor, number)


cdef int read_long_integer(Cursor* cursor, uint32_t* number) except -1:
    cdef uint64_t sum = number[0]
    cdef unsigned char octet
    cdef int octets
    for octets in range(INTEGER_OCTETS):
        if cursor.at == cursor.end:
            malformed("it ends inside an integer")
        octet = cursor.at[0]
        cursor.at += 1
        sum += <uint64_t>(octet & 0x7F) << (7 * octets)
        if not octet & 0x80:
            if sum > 0xFFFFFFFF:
                malformed("an integer is over 32 bits")
            number[0] = <uint32_t>sum
            return 0
    return malformed("an integer has too many octets")


cdef struct String:
    const unsigned char* at         # in the block
    uint32_t size                   # octets in the block
    uint32_t bound                  # octets it may take when decoded
    bint coded


cdef inline int read_string(Cursor* cursor, String* string) except -1:
    if cursor.at == cursor.end:
        malformed("it ends before a string")
    string.coded = cursor.at[0] & 0x80
    read_integer(cursor, 0x7F, &string.size)
    if string.size > <size_t>(cursor.end - cursor.at):
        malformed("it ends inside a string")
    string.at = cursor.at
    string.bound = <uint32_t>huffman_bound(string.size) if string.coded else string.size
    cursor.at += string.size
    return 0


cdef inline int write_string(unsigned char* to, String* string, uint32_t* size) except -1:
    cdef Py_ssize_t written
    if string.coded:
        written = huffman_decode(to, string.at, string.size)
        if written < 0:
            malformed("a Huffman string holds EOS or has wrong padding")
        size[0] = <uint32_t>written
    else:
        if string.size:
            memcpy(to, string.at, string.size)
        size[0] = string.size
    return 0


cdef inline int push(Fields fields, uint32_t name_size, uint32_t value_size, uint8_t flags,
                     uint16_t token) except -1:
    # Fields.push for a name whose token is known.
    cdef Field* field
    if fields.count == fields.capacity:
        return fields.push(name_size, value_size, flags)
    field = fields.items + fields.count
    field.at = fields.used
    field.name_size = name_size
    field.value_size = value_size
    field.token = token
    field.flags = flags
    fields.used += name_size + value_size
    fields.count += 1
    return 0


cdef inline unsigned char* room_in(Fields fields, uint32_t size) except NULL:
    if fields.arena is not NULL and size <= fields.room - fields.used:
        return fields.arena + fields.used
    return fields.reserve(size)


@cython.final
cdef class Decoder:
    """Decodes header blocks of one direction of a connection.

    After a CompressionError, or any other exception, the object must not be used again.
    """

    def __cinit__(self, uint32_t max_table_size=DEFAULT_TABLE_SIZE,
                  uint32_t max_list_size=DEFAULT_LIST_SIZE):
        table_init(&self.table, DEFAULT_TABLE_SIZE)
        self.max_table_size = max_table_size
        self.max_list_size = max_list_size
        if max_table_size > TABLE_SIZE_LIMIT:
            raise ValueError(f"max_table_size must be at most {TABLE_SIZE_LIMIT}")
        if max_list_size > LIST_SIZE_LIMIT:
            raise ValueError(f"max_list_size must be at most {LIST_SIZE_LIMIT}")

    def __dealloc__(self):
        table_free(&self.table)

    cdef int decode(self, const unsigned char* block, size_t size, Fields fields) except -1:
        cdef Cursor cursor
        cdef String name, value
        cdef DynamicTable* table = &self.table
        cdef const StaticEntry* fixed
        cdef TableEntry* entry
        cdef const unsigned char* text = NULL
        cdef unsigned char* to
        cdef uint32_t index = 0, name_size = 0, value_size = 0, mask
        cdef uint32_t left = min(self.max_list_size, <uint32_t>LIST_SIZE_LIMIT)
        cdef uint32_t fields_left = FIELD_LIMIT
        cdef uint32_t allowed = min(self.max_table_size, <uint32_t>TABLE_SIZE_LIMIT)
        cdef uint16_t token = 0
        cdef unsigned char first
        cdef bint fits = True

        if size > BLOCK_LIMIT:
            malformed(f"it has more than {BLOCK_LIMIT} octets")
        cursor.at = block
        cursor.end = block + size

        # Size updates may only come first (RFC 7541 §4.2).
        while cursor.at < cursor.end and cursor.at[0] & 0xE0 == 0x20:
            read_integer(&cursor, 0x1F, &index)
            if index > allowed:
                malformed(f"it asks for a table of {index} octets; {allowed} are allowed")
            table_resize(table, index)
        if table.limit > allowed:
            malformed(f"it doesn't begin by shrinking the table to {allowed} octets")

        while cursor.at < cursor.end:
            first = cursor.at[0]
            if first & 0xE0 == 0x20:
                malformed("a table size update comes after a field")

            # Which representation, and what its index stands for.
            mask = 0x7F if first & 0x80 else 0x3F if first & 0x40 else 0x0F
            read_integer(&cursor, mask, &index)
            if index == 0:
                if first & 0x80:
                    malformed("index 0")
                text = NULL
                name_size = value_size = token = 0
            elif index <= STATIC_ENTRIES:
                fixed = static_entry(index)
                text = fixed.text
                name_size = fixed.name_size
                value_size = fixed.value_size
                token = fixed.token
            elif index - STATIC_ENTRIES <= table.count:
                entry = table_entry(table, index - STATIC_ENTRIES - 1)
                text = table.arena + entry.at
                name_size = entry.name_size
                value_size = entry.value_size
                token = entry.token
            else:
                malformed(f"index {index} is past the end of the tables")

            # Its octets, to the end of the arena. They count only when pushed, so that a field
            # which must not be kept can still go into the table from there.
            if first & 0x80:
                if fits and fields_left and name_size + value_size + ENTRY_OVERHEAD <= left:
                    to = room_in(fields, name_size + value_size)
                    memcpy(to, text, name_size + value_size)
                    push(fields, name_size, value_size, 0, token)
                    fields_left -= 1
                    left -= name_size + value_size + ENTRY_OVERHEAD
                else:
                    fits = False
                continue
            if text is NULL:
                read_string(&cursor, &name)
                read_string(&cursor, &value)
                to = room_in(fields, name.bound + value.bound)
                write_string(to, &name, &name_size)
                token = <uint16_t>token_of(to, name_size)
            else:
                read_string(&cursor, &value)
                to = room_in(fields, name_size + value.bound)
                memcpy(to, text, name_size)
            write_string(to + name_size, &value, &value_size)
            if fits and fields_left and name_size + value_size + ENTRY_OVERHEAD <= left:
                push(fields, name_size, value_size,
                     NEVER_INDEXED if first & 0x50 == 0x10 else 0, token)
                fields_left -= 1
                left -= name_size + value_size + ENTRY_OVERHEAD
            else:
                fits = False
            if first & 0x40:
                entry = table_insert(table, to, name_size, to + name_size, value_size)
                if entry is not NULL:
                    entry.token = token
        return DECODED if fits else TOO_LARGE

    # The Python face, for tests.

    def decode_block(self, bytes block not None):
        """Decode one whole header block into new Fields.

        Raises CompressionError or HeaderListTooLarge.
        """
        fields = Fields()
        cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(block)
        if self.decode(data, <size_t>PyBytes_GET_SIZE(block), fields) == TOO_LARGE:
            raise HeaderListTooLarge(
                f"a section has more than {self.max_list_size} octets or {FIELD_LIMIT} fields")
        return fields

    def table_entries(self):
        """The dynamic table, newest entry first, as pairs of bytes."""
        return entries_of(&self.table)

    @property
    def table_size(self):
        """Octets in the dynamic table, counted as RFC 7541 §4.1 does."""
        return self.table.size


cdef list entries_of(DynamicTable* table):
    cdef uint32_t age
    cdef TableEntry* entry
    cdef const unsigned char* text
    entries = []
    for age in range(table.count):
        entry = table_entry(table, age)
        text = table.arena + entry.at
        value = text[entry.name_size:entry.name_size + entry.value_size]
        entries.append((text[:entry.name_size], value))
    return entries


# Encoding.

cdef inline unsigned char* write_integer(
        unsigned char* to, uint32_t number, uint32_t mask, uint32_t pattern) noexcept:
    if number < mask:
        to[0] = <unsigned char>(pattern | number)
        return to + 1
    to[0] = <unsigned char>(pattern | mask)
    to += 1
    number -= mask
    while number >= 0x80:
        to[0] = <unsigned char>(number | 0x80)
        to += 1
        number >>= 7
    to[0] = <unsigned char>number
    return to + 1


cdef inline unsigned char* write_text(
        unsigned char* to, const unsigned char* text, uint32_t size) noexcept:
    # A string literal, Huffman-coded if that is shorter.
    cdef uint32_t coded = <uint32_t>huffman_size(text, size)
    if coded < size:
        return huffman_encode(write_integer(to, coded, 0x7F, 0x80), text, size)
    return write_plain(to, text, size)


cdef inline unsigned char* write_plain(
        unsigned char* to, const unsigned char* text, uint32_t size) noexcept:
    to = write_integer(to, size, 0x7F, 0)
    if size:
        memcpy(to, text, size)
    return to + size


cdef inline uint64_t lower_word(uint64_t word) noexcept:
    # Eight octets at once: the high bit of each octet of `upper` says that it is in A-Z.
    cdef uint64_t low = word & 0x7F7F7F7F7F7F7F7FULL
    cdef uint64_t upper = (low + 0x3F3F3F3F3F3F3F3FULL) & ~(low + 0x2525252525252525ULL)
    upper &= ~word & 0x8080808080808080ULL
    return word | upper >> 2


cdef inline void lower_into(unsigned char* to, const unsigned char* text, size_t size) noexcept:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, text, 8)
        word = lower_word(word)
        memcpy(to, &word, 8)
        to += 8
        text += 8
        size -= 8
    if size:
        word = 0
        memcpy(&word, text, size)
        word = lower_word(word)
        memcpy(to, &word, size)


cdef inline unsigned char* room_at_end(Output out, Py_ssize_t room) except NULL:
    if room <= out.capacity - out.size:
        return out.base + out.size
    return out.reserve(room)


@cython.final
cdef class Encoder:
    """Encodes header blocks of one direction of a connection."""

    def __cinit__(self):
        table_init(&self.table, DEFAULT_TABLE_SIZE)
        self.resized = False
        self.smallest_size = DEFAULT_TABLE_SIZE
        self.buckets = <uint32_t*>calloc(2 * BUCKETS, sizeof(uint32_t))
        if self.buckets is NULL:
            raise MemoryError()
        self.name_buckets = self.buckets + BUCKETS

    def __dealloc__(self):
        table_free(&self.table)
        free(self.buckets)

    cdef int set_table_size(self, uint32_t size) except -1:
        if size > DEFAULT_TABLE_SIZE:
            size = DEFAULT_TABLE_SIZE
        if size != self.table.limit:
            if not self.resized or size < self.smallest_size:
                self.smallest_size = size
            self.resized = True
            table_resize(&self.table, size)
        return 0

    cdef int begin(self, Output out) except -1:
        cdef unsigned char* to
        if self.resized:
            # RFC 7541 §4.2: the smallest size there was between two blocks, then the present one.
            to = room_at_end(out, 2 * (INTEGER_OCTETS + 1))
            if self.smallest_size < self.table.limit:
                to = write_integer(to, self.smallest_size, 0x1F, 0x20)
            to = write_integer(to, self.table.limit, 0x1F, 0x20)
            out.size = to - out.base
            self.resized = False
        return 0

    cdef uint32_t find_pair(
            self, uint32_t hash, const unsigned char* name, uint32_t name_size,
            const unsigned char* value, uint32_t value_size) noexcept:
        # Links are not cleared on eviction: one that isn't among the `count` newest any more is the
        # end of the chain; so is, after 2**32 insertions, one that leads to no older entry.
        cdef DynamicTable* table = &self.table
        cdef TableEntry* entry
        cdef const unsigned char* text
        cdef uint32_t age = table.next_serial - 1 - self.buckets[hash & (BUCKETS - 1)]
        cdef uint32_t last
        while age < table.count:
            entry = table_entry(table, age)
            if (entry.hash == hash and entry.name_size == name_size
                    and entry.value_size == value_size):
                text = table.arena + entry.at
                if (memcmp(text, name, name_size) == 0
                        and memcmp(text + name_size, value, value_size) == 0):
                    return STATIC_ENTRIES + 1 + age
            last = age
            age = table.next_serial - 1 - entry.older
            if age <= last:
                break
        return 0

    cdef uint32_t find_name(
            self, uint32_t hash, const unsigned char* name, uint32_t name_size) noexcept:
        cdef DynamicTable* table = &self.table
        cdef TableEntry* entry
        cdef uint32_t age = table.next_serial - 1 - self.name_buckets[hash & (BUCKETS - 1)]
        cdef uint32_t last
        while age < table.count:
            entry = table_entry(table, age)
            if entry.name_hash == hash and entry.name_size == name_size:
                if memcmp(table.arena + entry.at, name, name_size) == 0:
                    return STATIC_ENTRIES + 1 + age
            last = age
            age = table.next_serial - 1 - entry.older_name
            if age <= last:
                break
        return 0

    cdef int remember(
            self, const unsigned char* name, uint32_t name_size, const unsigned char* value,
            uint32_t value_size, uint32_t name_hash, uint32_t pair_hash) except -1:
        cdef uint32_t serial = self.table.next_serial
        cdef TableEntry* entry = table_insert(&self.table, name, name_size, value, value_size)
        if entry is not NULL:
            entry.hash = pair_hash
            entry.name_hash = name_hash
            entry.older = self.buckets[pair_hash & (BUCKETS - 1)]
            entry.older_name = self.name_buckets[name_hash & (BUCKETS - 1)]
            self.buckets[pair_hash & (BUCKETS - 1)] = serial
            self.name_buckets[name_hash & (BUCKETS - 1)] = serial
        return 0

    cdef int encode(
            self, Output out, const unsigned char* name, size_t name_size,
            const unsigned char* value, size_t value_size, int token, uint8_t flags) except -1:
        cdef unsigned char scratch[NAME_LIMIT]
        cdef const KnownName* known = known_by_token(token)
        cdef const StaticEntry* fixed
        cdef uint32_t index, name_hash = 0, pair_hash = 0
        cdef uint32_t pattern = 0, mask = 0x0F
        cdef int policy = INDEXED
        cdef unsigned char* to

        if name_size > STRING_LIMIT or value_size > STRING_LIMIT:
            raise ValueError("a field is too large for a header block")
        # An octet for the representation, and index and lengths of five more each at most.
        to = room_at_end(out, <Py_ssize_t>(name_size + value_size + 3 * (INTEGER_OCTETS + 1)))

        if known is not NULL:
            name = known.text
            name_hash = known.hash
        elif name_size <= NAME_LIMIT:
            lower_into(scratch, name, name_size)
            name = scratch
            name_hash = hash_of(name, name_size)
            known = known_by_name(name, <uint32_t>name_size, name_hash)
        else:
            policy = LITERAL
        if known is not NULL:
            policy = known.policy
        if (flags & NEVER_INDEXED or policy == NEVER
                or policy == NEVER_WHEN_SHORT and value_size < SHORT_COOKIE):
            pattern = 0x10
        else:
            if known is not NULL and known.static_first:
                for index in range(known.static_first, known.static_last + 1):
                    fixed = static_entry(index)
                    if (fixed.value_size == value_size
                            and memcmp(fixed.text + fixed.name_size, value, value_size) == 0):
                        to[0] = <unsigned char>(0x80 | index)
                        out.size += 1
                        return 0
            if (policy != LITERAL and value_size <= INDEXED_VALUE_LIMIT
                    and name_size + value_size + ENTRY_OVERHEAD <= self.table.limit):
                pair_hash = hash_of(value, value_size) ^ (name_hash * <uint32_t>0x9E3779B1U)
                index = self.find_pair(
                    pair_hash, name, <uint32_t>name_size, value, <uint32_t>value_size)
                if index:
                    out.size = write_integer(to, index, 0x7F, 0x80) - out.base
                    return 0
                pattern = 0x40
                mask = 0x3F

        # A literal: name by index or written out, then the value.
        index = 0
        if known is not NULL and known.static_first:
            index = known.static_first
        elif policy == INDEXED:
            index = self.find_name(name_hash, name, <uint32_t>name_size)
        to = write_integer(to, index, mask, pattern)
        if index == 0:
            if known is not NULL:
                # As it is: most of these are sent anew each time, and the peer would spend more on
                # decoding them than the octets cost.
                to = write_plain(to, name, known.size)
            elif name_size <= NAME_LIMIT:
                to = write_text(to, name, <uint32_t>name_size)
            else:
                to = write_integer(to, <uint32_t>name_size, 0x7F, 0)
                lower_into(to, name, name_size)
                to += name_size
        if value_size > HUFFMAN_VALUE_LIMIT or token == T_LINK_RESPONSE_HEADERS:
            # The latter is base64, which Huffman hardly shortens.
            to = write_plain(to, value, <uint32_t>value_size)
        else:
            to = write_text(to, value, <uint32_t>value_size)
        out.size = to - out.base
        if pattern == 0x40:
            self.remember(name, <uint32_t>name_size, value, <uint32_t>value_size,
                          name_hash, pair_hash)
        return 0

    cdef int encode_status(self, Output out, int status) except -1:
        cdef unsigned char digits[3]
        if not 100 <= status <= 999:
            raise ValueError(f"{status} is not a status code")
        digits[0] = <unsigned char>(48 + status // 100)
        digits[1] = <unsigned char>(48 + status // 10 % 10)
        digits[2] = <unsigned char>(48 + status % 10)
        return self.encode(out, b":status", 7, digits, 3, T_STATUS, 0)

    cdef int encode_fields(self, Output out, Fields fields) except -1:
        cdef uint32_t i
        cdef Field* field
        for i in range(fields.count):
            field = fields.items + i
            if not field.flags & HIDDEN:
                self.encode(out, fields.name(field), field.name_size, fields.value(field),
                            field.value_size, field.token, field.flags)
        return 0

    # The Python face, for tests.

    def encode_block(self, fields):
        """Encode one header block: Fields, or pairs of bytes."""
        out = Output()
        section = fields if isinstance(fields, Fields) else Fields(fields)
        self.begin(out)
        self.encode_fields(out, section)
        return out.take()

    def table_entries(self):
        """The dynamic table, newest entry first, as pairs of bytes."""
        return entries_of(&self.table)

    @property
    def table_size(self):
        """Octets in the dynamic table, counted as RFC 7541 §4.1 does."""
        return self.table.size

    @property
    def max_table_size(self):
        """Octets the dynamic table may take: the peer's setting, but at most 4,096."""
        return self.table.limit

    @max_table_size.setter
    def max_table_size(self, uint32_t size):
        self.set_table_size(size)
