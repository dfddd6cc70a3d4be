# Header compression for HTTP/2 (RFC 7541), one object for each direction of a connection.

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from underpass.core.fields cimport Fields
from underpass.core.hpacktable cimport DynamicTable
from underpass.core.output cimport Output

cdef enum DecodeResult:
    DECODED = 0
    # The block was valid and the tables are in step, but the section passed the list limit; the
    # fields hold what fitted.
    TOO_LARGE = 1

cdef enum:
    DEFAULT_TABLE_SIZE = 4096       # octets; RFC 9113 §6.5.2: what both sides begin with


@cython.final
cdef class Decoder:
    # Our SETTINGS_HEADER_TABLE_SIZE. Raise it when that is sent, lower it when the peer has
    # acknowledged it: the next block must then begin with a size update (RFC 7541 §4.2).
    cdef public uint32_t max_table_size
    # Octets a section may take, counted as RFC 9113 §6.5.2 does: name + value + 32 for each field.
    cdef public uint32_t max_list_size
    cdef DynamicTable table

    # Decode one whole header block, all fragments joined, to the end of `fields`. Returns a
    # DecodeResult. Raises CompressionError if it is malformed; the connection can't go on then (RFC
    # 9113 §4.3).
    cdef int decode(self, const unsigned char* block, size_t size, Fields fields) except -1


@cython.final
cdef class Encoder:
    cdef DynamicTable table
    cdef uint32_t* buckets          # owned; newest serial by hash of name and value
    cdef uint32_t* name_buckets     # in the same piece of memory; by hash of the name
    cdef uint32_t smallest_size     # smallest table size since the last block
    cdef bint resized               # a size update is due

    # Start a block: announces what the peer's settings changed.
    cdef int begin(self, Output out) except -1
    # The name may be in any case and is written in lower case. `token` is token_of(name); it may be
    # T_OTHER. `flags` are FieldFlags, of which NEVER_INDEXED is honoured.
    cdef int encode(
        self, Output out, const unsigned char* name, size_t name_size,
        const unsigned char* value, size_t value_size, int token, uint8_t flags) except -1
    cdef int encode_status(self, Output out, int status) except -1
    # All visible fields, in order.
    cdef int encode_fields(self, Output out, Fields fields) except -1
    # The peer's SETTINGS_HEADER_TABLE_SIZE; our own bound is DEFAULT_TABLE_SIZE.
    cdef int set_table_size(self, uint32_t size) except -1

    # The index of a field, or of some field of that name, in the dynamic table, or 0.
    cdef uint32_t find_pair(
        self, uint32_t hash, const unsigned char* name, uint32_t name_size,
        const unsigned char* value, uint32_t value_size) noexcept
    cdef uint32_t find_name(
        self, uint32_t hash, const unsigned char* name, uint32_t name_size) noexcept
    cdef int remember(
        self, const unsigned char* name, uint32_t name_size, const unsigned char* value,
        uint32_t value_size, uint32_t name_hash, uint32_t pair_hash) except -1
