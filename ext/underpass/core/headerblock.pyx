# cython: language_level=3, boundscheck=False, wraparound=False
# cython: initializedcheck=False, cdivision=True
"""The tunnel's serialized response headers (docs: wire protocol §2.5).

The connector sends an origin's header fields as one value: base64(name) ":" base64(value), pairs
joined by ";", in the standard alphabet without padding, names in Go's canonical case. What is
parsed here becomes the head of an HTTP/1.1 response, so a name that is no token and a value that
could end its line are refused.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcpy

from underpass.core.fields cimport HIDDEN, TOKEN_COUNT, T_OTHER, Field

cdef enum:
    # Pairs in one block: as many fields as a header section may have (hpack).
    PAIR_LIMIT = 1024
    # Octets of one block; the list limit of the section that carries it is lower. Decoded, it fits
    # a Fields.
    BLOCK_LIMIT = 1024 * 1024
    # Base64 of a well-known name in canonical case; the longest has 39 octets.
    CACHED_NAME = 55
    INVALID = 0x80000000

cdef const unsigned char* ALPHABET = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")

# Encoding takes 12 bits at once. Decoding ORs one word from each table; a sign that isn't in the
# alphabet sets INVALID.
cdef unsigned char pair_text[4096][2]
cdef uint32_t sextet[4][256]

cdef struct CachedName:
    uint8_t size
    unsigned char text[CACHED_NAME]

# By token; filled when a name is first written. Case is all that names of one token can differ in,
# so the text is the same whichever comes first.
cdef CachedName cached_names[TOKEN_COUNT]


class HeaderBlockError(ValueError):
    """A serialized header block is malformed, or would not be a sound HTTP/1.1 head."""


cdef void build_tables() noexcept:
    cdef uint32_t i, place
    for i in range(4096):
        pair_text[i][0] = ALPHABET[i >> 6]
        pair_text[i][1] = ALPHABET[i & 63]
    for place in range(4):
        for i in range(256):
            sextet[place][i] = INVALID
        for i in range(64):
            sextet[place][ALPHABET[i]] = i << (18 - 6 * place)


build_tables()


# Serializing.

cdef inline size_t coded_size(size_t size) noexcept:
    return size // 3 * 4 + (size % 3 * 4 + 2) // 3


cdef inline unsigned char* write_base64(
        unsigned char* to, const unsigned char* text, size_t size) noexcept:
    cdef uint32_t triple
    while size >= 3:
        triple = <uint32_t>text[0] << 16 | <uint32_t>text[1] << 8 | text[2]
        memcpy(to, pair_text[triple >> 12], 2)
        memcpy(to + 2, pair_text[triple & 0xFFF], 2)
        to += 4
        text += 3
        size -= 3
    if size == 2:
        triple = <uint32_t>text[0] << 10 | <uint32_t>text[1] << 2
        memcpy(to, pair_text[triple >> 6], 2)
        to[2] = ALPHABET[triple & 63]
        to += 3
    elif size == 1:
        memcpy(to, pair_text[<uint32_t>text[0] << 4], 2)
        to += 2
    return to


cdef inline bint starts_with(
        const unsigned char* name, size_t size,
        const unsigned char* prefix, size_t length) noexcept:
    # `prefix` is in lower case.
    cdef size_t i
    if size < length:
        return False
    for i in range(length):
        if (name[i] | 0x20 if 65 <= name[i] <= 90 else name[i]) != prefix[i]:
            return False
    return True


cdef inline bint is_control(const unsigned char* name, size_t size) noexcept:
    # Fields that belong to the tunnel, in any case, and pseudo-headers.
    if size == 0:
        return False
    if name[0] == 58:       # ":"
        return True
    if name[0] | 0x20 != 99:    # "c"
        return False
    return (starts_with(name, size, b"cf-int-", 7)
            or starts_with(name, size, b"cf-cloudflared-", 15)
            or starts_with(name, size, b"cf-proxy-", 9))


cdef Py_ssize_t serialized_size(Fields fields) noexcept:
    cdef uint32_t i
    cdef Field* field
    cdef size_t size = 0
    for i in range(fields.count):
        field = fields.items + i
        if not field.flags & HIDDEN and not is_control(fields.name(field), field.name_size):
            size += coded_size(field.name_size) + coded_size(field.value_size) + 2
    return <Py_ssize_t>size - 1 if size else 0


cdef unsigned char* write_name(
        unsigned char* to, Fields fields, Field* field, unsigned char* spare) noexcept:
    cdef CachedName* cached = &cached_names[field.token]
    cdef unsigned char* end
    if cached.size:
        memcpy(to, cached.text, cached.size)
        return to + cached.size
    if field.name_size:
        memcpy(spare, fields.name(field), field.name_size)
    canonical_name(spare, field.name_size)
    end = write_base64(to, spare, field.name_size)
    if field.token != T_OTHER and end - to <= CACHED_NAME:
        memcpy(cached.text, to, <size_t>(end - to))
        cached.size = <uint8_t>(end - to)
    return end


cdef int serialize(Fields fields, Output out) except -1:
    cdef Py_ssize_t size = serialized_size(fields)
    cdef uint32_t i, longest = 0
    cdef Field* field
    cdef unsigned char* to
    cdef unsigned char* spare
    if size == 0:
        return 0
    for i in range(fields.count):
        if fields.items[i].name_size > longest:
            longest = fields.items[i].name_size
    # Names are put in canonical case in the room behind the block.
    to = out.reserve(size + 1 + longest)
    spare = to + size + 1
    for i in range(fields.count):
        field = fields.items + i
        if field.flags & HIDDEN or is_control(fields.name(field), field.name_size):
            continue
        to = write_name(to, fields, field, spare)
        to[0] = 58      # ":"
        to = write_base64(to + 1, fields.value(field), field.value_size)
        to[0] = 59      # ";"
        to += 1
    out.advance(size)       # not the last ";"
    return 0


# Parsing.

cdef int malformed(str what) except -1:
    raise HeaderBlockError(f"malformed response header block: {what}")


cdef Py_ssize_t read_base64(unsigned char* to, const unsigned char* text, size_t size) noexcept:
    # Octets written, or -1. Unused bits must be 0: one text for each value.
    cdef unsigned char* start = to
    cdef uint32_t triple, wrong = 0
    while size >= 4:
        triple = sextet[0][text[0]] | sextet[1][text[1]] | sextet[2][text[2]] | sextet[3][text[3]]
        wrong |= triple
        to[0] = <unsigned char>(triple >> 16)
        to[1] = <unsigned char>(triple >> 8)
        to[2] = <unsigned char>triple
        to += 3
        text += 4
        size -= 4
    if size == 3:
        triple = sextet[0][text[0]] | sextet[1][text[1]] | sextet[2][text[2]]
        if triple & 0xFF:
            return -1
        wrong |= triple
        to[0] = <unsigned char>(triple >> 16)
        to[1] = <unsigned char>(triple >> 8)
        to += 2
    elif size == 2:
        triple = sextet[0][text[0]] | sextet[1][text[1]]
        if triple & 0xFFFF:
            return -1
        wrong |= triple
        to[0] = <unsigned char>(triple >> 16)
        to += 1
    elif size == 1:
        return -1
    return -1 if wrong & INVALID else to - start


cdef inline bint is_line_safe(const unsigned char* value, size_t size) noexcept:
    # No CR, LF or NUL. Eight octets at once are cleared if none of them is below 0x10 (the test may
    # fail falsely, not pass falsely); all three are.
    cdef uint64_t word
    cdef size_t i
    while size >= 8:
        memcpy(&word, value, 8)
        if (word - 0x1010101010101010ULL) & ~word & 0x8080808080808080ULL:
            for i in range(8):
                if value[i] == 13 or value[i] == 10 or value[i] == 0:
                    return False
        value += 8
        size -= 8
    for i in range(size):
        if value[i] == 13 or value[i] == 10 or value[i] == 0:
            return False
    return True


cdef int parse_pairs(const unsigned char* at, const unsigned char* end, Fields fields) except -1:
    cdef const unsigned char* stop
    cdef const unsigned char* colon
    cdef unsigned char* to
    cdef Py_ssize_t name_size, value_size, i
    cdef int pairs = 0
    while at < end:
        stop = <const unsigned char*>memchr(at, 59, <size_t>(end - at))       # ";"
        if stop is NULL:
            stop = end
        if stop == at:
            at += 1
            continue
        colon = <const unsigned char*>memchr(at, 58, <size_t>(stop - at))      # ":"
        if colon is NULL:
            malformed("a pair has no colon")
        pairs += 1
        if pairs > PAIR_LIMIT:
            malformed(f"it has more than {PAIR_LIMIT} pairs")
        to = fields.reserve(<size_t>(stop - at))
        name_size = read_base64(to, at, <size_t>(colon - at))
        if name_size < 0:
            malformed("a name is not unpadded base64")
        if name_size == 0:
            malformed("a name is empty")
        for i in range(name_size):
            if not is_token_byte(to[i]):
                malformed("a name is not a token")
        # A second colon is no base64 sign either.
        value_size = read_base64(to + name_size, colon + 1, <size_t>(stop - colon - 1))
        if value_size < 0:
            malformed("a value is not unpadded base64")
        if not is_line_safe(to + name_size, <size_t>value_size):
            malformed("a value holds CR, LF or NUL")
        fields.push(<uint32_t>name_size, <uint32_t>value_size, 0)
        at = stop if stop == end else stop + 1
    return 0


cdef int parse(const unsigned char* block, size_t size, Fields fields) except -1:
    cdef uint32_t used = fields.used, count = fields.count
    if size > BLOCK_LIMIT:
        malformed(f"it has more than {BLOCK_LIMIT} octets")
    try:
        return parse_pairs(block, block + size, fields)
    except BaseException:
        fields.used = used
        fields.count = count
        raise


# The Python face, for tests and rare callers.

def serialize_pairs(pairs):
    """The block for Fields or pairs of bytes, without those that belong to the tunnel."""
    out = Output()
    serialize(pairs if isinstance(pairs, Fields) else Fields(pairs), out)
    return out.take()


def parse_block(bytes block not None, Fields fields=None):
    """The pairs of bytes in a block, behind those in `fields`, which they are added to.

    HeaderBlockError if it is malformed; then nothing was added.
    """
    if fields is None:
        fields = Fields()
    parse(<const unsigned char*>PyBytes_AS_STRING(block), <size_t>PyBytes_GET_SIZE(block), fields)
    return list(fields)


def canonical(bytes name not None):
    """The name in Go's canonical case."""
    cdef bytearray copy = bytearray(name)
    cdef unsigned char* text = copy
    canonical_name(text, <size_t>len(copy))
    return bytes(copy)
