# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""HTTP/2 frames (RFC 9113 §4, §6): an in-place reader that streams DATA, and the writers."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from underpass.core.output cimport Octets, Output

cdef enum:
    AT_HEADER = 0
    AT_PAYLOAD = 1
    AT_PAD_LENGTH = 2
    AT_CONTENT = 3
    AT_PADDING = 4
    AT_BROKEN = 5


cdef class FrameReader:
    """Cuts a byte stream into frames without copying what arrives whole.

    DATA is handed out piece by piece as it comes, so a frame may be as large as `max_frame_size` while no more
    than the other frames' payload is ever held. A broken stream stays broken.
    """

    def __cinit__(self, uint32_t max_frame_size=SMALLEST_MAX_FRAME_SIZE):
        if not SMALLEST_MAX_FRAME_SIZE <= max_frame_size <= 0xFFFFFF:
            raise ValueError("max_frame_size outside RFC 9113 §6.5.2's range")
        self.max_frame_size = max_frame_size
        self.state = AT_HEADER
        self.stash = NULL
        self.stash_size = self.stash_capacity = 0

    def __dealloc__(self):
        free(self.stash)

    cdef int gather(self, const unsigned char** data, Py_ssize_t* size, uint32_t wanted) except -1:
        """Point `payload` at `wanted` contiguous bytes, in place if they are all here; 0 while they are not."""
        cdef uint32_t missing
        cdef unsigned char* grown
        if self.stash_size == 0 and size[0] >= <Py_ssize_t>wanted:
            self.payload = data[0]
            data[0] += wanted
            size[0] -= wanted
            return 1
        if wanted > self.stash_capacity:
            grown = <unsigned char*>realloc(self.stash, wanted)
            if grown is NULL:
                raise MemoryError()
            self.stash = grown
            self.stash_capacity = wanted
        missing = wanted - self.stash_size
        if size[0] < <Py_ssize_t>missing:
            if size[0] > 0:
                memcpy(self.stash + self.stash_size, data[0], <size_t>size[0])
                self.stash_size += <uint32_t>size[0]
                data[0] += size[0]
                size[0] = 0
            return 0
        memcpy(self.stash + self.stash_size, data[0], missing)
        data[0] += missing
        size[0] -= missing
        self.stash_size = 0
        self.payload = self.stash
        return 1

    cdef int next(self, const unsigned char** data, Py_ssize_t* size) except -1:
        cdef const unsigned char* head
        cdef uint32_t part
        while True:
            if self.state == AT_HEADER:
                if not self.gather(data, size, FRAME_HEADER_SIZE):
                    return NEED_MORE
                head = self.payload
                self.length = (<uint32_t>head[0] << 16) | (<uint32_t>head[1] << 8) | head[2]
                self.type = head[3]
                self.flags = head[4]
                self.stream = read_u32(head + 5) & 0x7FFFFFFF
                if self.length > self.max_frame_size:
                    self.error = FRAME_SIZE_ERROR
                    self.state = AT_BROKEN
                    return FRAME_BROKEN
                if self.type != DATA:
                    self.state = AT_PAYLOAD
                    continue
                self.content = self.length
                self.padding = 0
                if self.flags & PADDED:
                    if self.length == 0:
                        self.error = FRAME_SIZE_ERROR
                        self.state = AT_BROKEN
                        return FRAME_BROKEN
                    self.state = AT_PAD_LENGTH
                else:
                    self.state = AT_CONTENT
                return DATA_HEAD
            if self.state == AT_PAYLOAD:
                if not self.gather(data, size, self.length):
                    return NEED_MORE
                self.size = self.length
                self.last = True
                self.state = AT_HEADER
                return FRAME
            if self.state == AT_PAD_LENGTH:
                if size[0] == 0:
                    return NEED_MORE
                self.padding = data[0][0]
                data[0] += 1
                size[0] -= 1
                if self.padding > self.length - 1:
                    self.error = PROTOCOL_ERROR
                    self.state = AT_BROKEN
                    return FRAME_BROKEN
                self.content = self.length - 1 - self.padding
                self.state = AT_CONTENT
            if self.state == AT_CONTENT:
                if size[0] == 0 and self.content:
                    return NEED_MORE
                part = self.content
                if size[0] < <Py_ssize_t>part:
                    part = <uint32_t>size[0]
                self.payload = data[0]
                self.size = part
                data[0] += part
                size[0] -= part
                self.content -= part
                self.last = self.content == 0
                if self.last:
                    self.state = AT_PADDING if self.padding else AT_HEADER
                return DATA_PART
            if self.state == AT_PADDING:
                part = self.padding
                if size[0] < <Py_ssize_t>part:
                    part = <uint32_t>size[0]
                data[0] += part
                size[0] -= part
                self.padding -= part
                if self.padding:
                    return NEED_MORE
                self.state = AT_HEADER
                continue
            return FRAME_BROKEN

    def feed(self, data):
        """Read a contiguous buffer and return its events as tuples (for tests).

        `("frame", type, flags, stream, payload)`, `("data_head", flags, stream, length)`,
        `("data", stream, content, last)`, `("broken", error_code)`.
        """
        cdef Octets octets = Octets(data)
        cdef const unsigned char* at = octets.base
        cdef Py_ssize_t left = octets.size
        cdef int event
        events = []
        while True:
            event = self.next(&at, &left)
            if event == NEED_MORE:
                return events
            if event == FRAME_BROKEN:
                events.append(("broken", self.error))
                return events
            if event == FRAME:
                events.append(("frame", self.type, self.flags, self.stream,
                               PyBytes_FromStringAndSize(<const char*>self.payload, self.size)))
            elif event == DATA_HEAD:
                events.append(("data_head", self.flags, self.stream, self.length))
            else:
                events.append(("data", self.stream,
                               PyBytes_FromStringAndSize(<const char*>self.payload, self.size), bool(self.last)))


cdef int write_data(Output out, uint32_t stream, const unsigned char* data, uint32_t size, bint end) except -1:
    cdef unsigned char* place = out.reserve(FRAME_HEADER_SIZE + <Py_ssize_t>size)
    put_frame_header(place, size, DATA, END_STREAM if end else 0, stream)
    if size:
        memcpy(place + FRAME_HEADER_SIZE, data, size)
    out.advance(FRAME_HEADER_SIZE + <Py_ssize_t>size)
    return 0


cdef int write_window_update(Output out, uint32_t stream, uint32_t increment) except -1:
    cdef unsigned char* place = out.reserve(13)
    put_frame_header(place, 4, WINDOW_UPDATE, 0, stream)
    put_u32(place + 9, increment)
    out.advance(13)
    return 0


cdef int write_rst_stream(Output out, uint32_t stream, uint32_t code) except -1:
    cdef unsigned char* place = out.reserve(13)
    put_frame_header(place, 4, RST_STREAM, 0, stream)
    put_u32(place + 9, code)
    out.advance(13)
    return 0


cdef int write_ping(Output out, const unsigned char* opaque, bint ack) except -1:
    cdef unsigned char* place = out.reserve(17)
    put_frame_header(place, 8, PING, ACK if ack else 0, 0)
    memcpy(place + 9, opaque, 8)
    out.advance(17)
    return 0


cdef int write_goaway(Output out, uint32_t last_stream, uint32_t code, bytes debug) except -1:
    cdef Py_ssize_t extra = PyBytes_GET_SIZE(debug)
    cdef unsigned char* place
    if extra > 1024:
        extra = 1024
    place = out.reserve(17 + extra)
    put_frame_header(place, <uint32_t>(8 + extra), GOAWAY, 0, 0)
    put_u32(place + 9, last_stream)
    put_u32(place + 13, code)
    memcpy(place + 17, PyBytes_AS_STRING(debug), <size_t>extra)
    out.advance(17 + extra)
    return 0


cdef int write_settings_ack(Output out) except -1:
    put_frame_header(out.reserve(9), 0, SETTINGS, ACK, 0)
    out.advance(9)
    return 0


cdef int write_settings(Output out, list settings) except -1:
    """`settings` is a list of (identifier, value)."""
    cdef unsigned char* place = out.reserve(9 + 6 * <Py_ssize_t>len(settings))
    cdef uint16_t identifier
    put_frame_header(place, <uint32_t>(6 * len(settings)), SETTINGS, 0, 0)
    place += 9
    for key, value in settings:
        identifier = key
        place[0] = <unsigned char>(identifier >> 8)
        place[1] = <unsigned char>identifier
        put_u32(place + 2, value)
        place += 6
    out.advance(9 + 6 * <Py_ssize_t>len(settings))
    return 0
