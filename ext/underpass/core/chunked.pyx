# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The chunked transfer coding (RFC 9112 §7.1).

The reader is strict where leniency has been used to smuggle requests: sizes are hexadecimal digits and nothing
else, lines end in CR LF, and what follows a chunk's data is CR LF.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy

from underpass.core.fields cimport (
    HIDDEN, T_AUTHORIZATION, T_CACHE_CONTROL, T_CONNECTION, T_CONTENT_ENCODING, T_CONTENT_LENGTH,
    T_CONTENT_TYPE, T_COOKIE, T_EXPECT, T_HOST, T_HTTP2_SETTINGS, T_KEEP_ALIVE,
    T_PROXY_AUTHORIZATION, T_PROXY_CONNECTION, T_RANGE, T_SET_COOKIE, T_TE, T_TRAILER,
    T_TRANSFER_ENCODING, T_UPGRADE, Field, Fields,
)
from underpass.core.headerblock cimport canonical_name
from underpass.core.heads cimport is_field_value, is_token
from underpass.core.output cimport Octets, Output

# Bytes of chunk extensions and trailer lines in one body; extensions are ignored, so an honest peer sends few.
cdef uint32_t MAX_OVERHEAD = 16384
# Trailer fields of one body; a link carries 1,024 in any section.
cdef uint32_t MAX_TRAILERS = 100
# 15 hex digits are far more than any body and cannot overflow.
cdef uint32_t MAX_DIGITS = 15

cdef enum:
    AT_SIZE = 0
    AT_EXTENSION = 1
    AT_SIZE_LF = 2
    AT_DATA = 3
    AT_DATA_CR = 4
    AT_DATA_LF = 5
    AT_TRAILER = 6
    AT_TRAILER_LF = 7
    AT_END = 8
    AT_BROKEN = 9
    AT_SPACE = 10


cdef class ChunkedReader:
    """Takes chunks apart where they were read. After the end it leaves what follows alone."""

    def __cinit__(self):
        self.state = AT_SIZE
        self.line = None
        self.trailers = None

    cdef int next(self, const unsigned char** data, Py_ssize_t* size) except -1:
        cdef unsigned char c
        cdef Py_ssize_t part
        while size[0] > 0:
            if self.state == AT_DATA:
                part = size[0]
                if <uint64_t>part > self.left:
                    part = <Py_ssize_t>self.left
                self.payload = data[0]
                self.size = part
                data[0] += part
                size[0] -= part
                self.left -= <uint64_t>part
                if self.left == 0:
                    self.state = AT_DATA_CR
                return CHUNK_DATA
            if self.state == AT_END or self.state == AT_BROKEN:
                break
            c = data[0][0]
            data[0] += 1
            size[0] -= 1
            if self.state == AT_SIZE:
                if 48 <= c <= 57 or 97 <= c <= 102 or 65 <= c <= 70:
                    self.digits += 1
                    if self.digits > MAX_DIGITS:
                        self.state = AT_BROKEN
                        break
                    self.left = self.left * 16 + (c - 48 if c <= 57 else (c | 0x20) - 87)
                elif self.digits == 0:
                    self.state = AT_BROKEN
                elif c == 13:
                    self.state = AT_SIZE_LF
                elif c == 59:
                    self.state = AT_EXTENSION
                    self.overhead += 1
                elif c == 32 or c == 9:
                    self.state = AT_SPACE
                    self.overhead += 1
                else:
                    self.state = AT_BROKEN
            elif self.state == AT_SPACE:
                # Whitespace before an extension or the line's end, and nothing else (RFC 9112 §7.1.1).
                if c == 13:
                    self.state = AT_SIZE_LF
                    continue
                self.overhead += 1
                if c == 59:
                    self.state = AT_EXTENSION
                elif (c != 32 and c != 9) or self.overhead > MAX_OVERHEAD:
                    self.state = AT_BROKEN
            elif self.state == AT_EXTENSION:
                if c == 13:
                    self.state = AT_SIZE_LF
                    continue
                self.overhead += 1
                if c == 10 or (c < 32 and c != 9) or c == 127 or self.overhead > MAX_OVERHEAD:
                    self.state = AT_BROKEN
            elif self.state == AT_SIZE_LF:
                if c != 10:
                    self.state = AT_BROKEN
                elif self.left:
                    self.state = AT_DATA
                else:
                    self.state = AT_TRAILER
            elif self.state == AT_DATA_CR:
                self.state = AT_DATA_LF if c == 13 else AT_BROKEN
            elif self.state == AT_DATA_LF:
                self.digits = 0
                self.state = AT_SIZE if c == 10 else AT_BROKEN
            elif self.state == AT_TRAILER:
                if c == 13:
                    self.state = AT_TRAILER_LF
                else:
                    self.overhead += 1
                    if c == 10 or self.overhead > MAX_OVERHEAD:
                        self.state = AT_BROKEN
                    else:
                        if self.line is None:
                            self.line = Output()
                        self.line.append(&c, 1)
            elif self.state == AT_TRAILER_LF:
                if c != 10:
                    self.state = AT_BROKEN
                elif self.line is None or self.line.size == 0:
                    self.state = AT_END
                    return CHUNK_END
                else:
                    self.state = AT_TRAILER
                    self.trailer_line()
        return CHUNK_BROKEN if self.state == AT_BROKEN else CHUNK_MORE

    cdef int trailer_line(self) except -1:
        cdef const unsigned char* line = self.line.base
        cdef Py_ssize_t size = self.line.size
        cdef Py_ssize_t colon = 0, start
        cdef Field* last
        while colon < size and line[colon] != 58:
            colon += 1
        if colon == size or not is_token(line, <size_t>colon):
            self.state = AT_BROKEN
            return 0
        start = colon + 1
        while start < size and (line[start] == 32 or line[start] == 9):
            start += 1
        while size > start and (line[size - 1] == 32 or line[size - 1] == 9):
            size -= 1
        if not is_field_value(line + start, <size_t>(size - start)):
            self.state = AT_BROKEN
            return 0
        if self.trailers is None:
            self.trailers = Fields()
        if self.trailers.count == MAX_TRAILERS:
            self.state = AT_BROKEN
            return 0
        self.trailers.add(line, <size_t>colon, line + start, <size_t>(size - start), 0)
        last = self.trailers.items + self.trailers.count - 1
        # RFC 9110 §6.5.1: what frames, routes, authenticates or decodes a message comes too late here.
        if last.token in (
                T_TRANSFER_ENCODING, T_CONTENT_LENGTH, T_HOST, T_CONNECTION, T_PROXY_CONNECTION,
                T_KEEP_ALIVE, T_UPGRADE, T_TE, T_TRAILER, T_HTTP2_SETTINGS, T_EXPECT,
                T_AUTHORIZATION, T_PROXY_AUTHORIZATION, T_COOKIE, T_SET_COOKIE, T_CONTENT_TYPE,
                T_CONTENT_ENCODING, T_RANGE, T_CACHE_CONTROL):
            last.flags |= HIDDEN
        self.line.discard()
        return 0

    def feed(self, data):
        """(content, state, bytes left over): state is "more", "end" or "broken" (for tests)."""
        cdef Octets octets = Octets(data)
        cdef const unsigned char* at = octets.base
        cdef Py_ssize_t left = octets.size
        cdef int event
        content = []
        while True:
            event = self.next(&at, &left)
            if event == CHUNK_DATA:
                content.append(PyBytes_FromStringAndSize(<const char*>self.payload, self.size))
            else:
                return b"".join(content), ("more", "", "end", "broken")[event], left

    @property
    def trailer_pairs(self):
        """The trailer section read so far, as a list of pairs (for tests)."""
        return list(self.trailers) if self.trailers is not None else []


cdef int write_chunk(Output out, const unsigned char* data, Py_ssize_t size) except -1:
    cdef unsigned char* place
    cdef unsigned char* at
    cdef Py_ssize_t rest = size
    cdef int digits = 0
    cdef int i
    if size <= 0:
        return 0        # a chunk of size 0 would end the body
    while rest:
        digits += 1
        rest >>= 4
    place = out.reserve(digits + 4 + size)
    rest = size
    for i in range(digits):
        place[digits - 1 - i] = b"0123456789abcdef"[rest & 15]
        rest >>= 4
    at = place + digits
    at[0] = 13
    at[1] = 10
    memcpy(at + 2, data, <size_t>size)
    at += 2 + size
    at[0] = 13
    at[1] = 10
    out.advance(digits + 4 + size)
    return 0


cdef int write_last_chunk(Output out, Fields trailers) except -1:
    cdef uint32_t i
    out.append(<const unsigned char*>b"0\r\n", 3)
    if trailers is not None:
        for i in range(trailers.count):
            if not trailers.items[i].flags & HIDDEN:
                out.append(trailers.name(trailers.items + i), trailers.items[i].name_size)
                canonical_name(out.base + out.size - trailers.items[i].name_size,
                               trailers.items[i].name_size)
                out.append(<const unsigned char*>b": ", 2)
                out.append(trailers.value(trailers.items + i), trailers.items[i].value_size)
                out.append(<const unsigned char*>b"\r\n", 2)
    return out.append(<const unsigned char*>b"\r\n", 2)


def encode_chunks(list pieces not None, list trailers=None):
    """`pieces` of content as one chunked body (for tests)."""
    cdef Output out = Output()
    cdef Octets octets
    for piece in pieces:
        if piece:
            octets = Octets(piece)
            write_chunk(out, octets.base, octets.size)
    write_last_chunk(out, Fields(trailers) if trailers else None)
    return out.take()
