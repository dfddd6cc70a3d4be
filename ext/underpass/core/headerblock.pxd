# The tunnel's serialized response headers (docs: wire protocol §2.5): base64(name) ":"
# base64(value), pairs joined by ";", in the standard alphabet without padding.

from libc.stdint cimport uint64_t

from underpass.core.fields cimport Fields
from underpass.core.output cimport Output

# RFC 9110 §5.6.2: tchar.
cdef inline bint is_token_byte(unsigned char c) noexcept:
    if c & 0x80:
        return False
    return (0x57FFFFFFC7FFFFFEULL if c & 0x40 else 0x03FF6CFA00000000ULL) >> (c & 0x3F) & 1


# Go's canonical case, in place: the first letter and each one after "-" upper case, the rest lower;
# a name that isn't a token stays as it is.
cdef inline void canonical_name(unsigned char* name, size_t size) noexcept:
    cdef size_t i
    cdef unsigned char c
    cdef bint upper = True
    for i in range(size):
        if not is_token_byte(name[i]):
            return
    for i in range(size):
        c = name[i]
        if upper and 97 <= c <= 122:
            name[i] = c & 0xDF
        elif not upper and 65 <= c <= 90:
            name[i] = c | 0x20
        upper = c == 45     # "-"


# Octets that serialize() will append.
cdef Py_ssize_t serialized_size(Fields fields) noexcept
# Append the visible fields in order, but those named cf-int-*, cf-cloudflared-*, cf-proxy-* or :*.
cdef int serialize(Fields fields, Output out) except -1
# Append the pairs of a block to `fields`. Raises HeaderBlockError, and then has added nothing.
cdef int parse(const unsigned char* block, size_t size, Fields fields) except -1
