# HTTP/2 frames (RFC 9113 §4, §6): an in-place pull reader and the writers.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from underpass.core.output cimport Output

cdef enum:
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9

cdef enum:
    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY_FLAG = 0x20

cpdef enum ErrorCode:
    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD

cpdef enum Setting:
    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6
    ENABLE_CONNECT_PROTOCOL = 0x8
    NO_RFC7540_PRIORITIES = 0x9

cdef enum FrameEvent:
    NEED_MORE = 0       # all input is used up
    FRAME = 1           # a whole frame other than DATA: payload, size
    DATA_HEAD = 2       # a DATA frame begins: length counts against the windows, padding included
    DATA_PART = 3       # some of its content: payload, size (may be 0); `last` ends the frame
    FRAME_BROKEN = 4    # `error` says how; the connection is beyond use

cdef enum:
    FRAME_HEADER_SIZE = 9
    SMALLEST_MAX_FRAME_SIZE = 16384


cdef class FrameReader:
    cdef uint32_t max_frame_size        # what we advertised
    # The frame being read.
    cdef uint32_t length                # as its header says
    cdef uint8_t type
    cdef uint8_t flags
    cdef uint32_t stream
    # What `next` hands out: borrowed from the input or from the stash, until the next call.
    cdef const unsigned char* payload
    cdef uint32_t size
    cdef bint last
    cdef uint32_t error
    # Between calls.
    cdef int state
    cdef uint32_t content               # content bytes of a DATA frame still to come
    cdef uint32_t padding               # padding bytes still to skip
    cdef unsigned char* stash           # a frame header or payload that came in pieces; at most max_frame_size
    cdef uint32_t stash_size
    cdef uint32_t stash_capacity

    # Read on from *data, *size (both advanced). MemoryError if the stash cannot grow.
    cdef int next(self, const unsigned char** data, Py_ssize_t* size) except -1
    cdef int gather(self, const unsigned char** data, Py_ssize_t* size, uint32_t wanted) except -1


cdef inline uint32_t read_u32(const unsigned char* p) noexcept:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]

cdef inline uint16_t read_u16(const unsigned char* p) noexcept:
    return <uint16_t>((p[0] << 8) | p[1])

cdef inline void put_u32(unsigned char* p, uint32_t value) noexcept:
    p[0] = <unsigned char>(value >> 24)
    p[1] = <unsigned char>(value >> 16)
    p[2] = <unsigned char>(value >> 8)
    p[3] = <unsigned char>value

cdef inline void put_frame_header(unsigned char* p, uint32_t length, uint8_t kind, uint8_t flags,
                                  uint32_t stream) noexcept:
    p[0] = <unsigned char>(length >> 16)
    p[1] = <unsigned char>(length >> 8)
    p[2] = <unsigned char>length
    p[3] = kind
    p[4] = flags
    put_u32(p + 5, stream)

cdef int write_data(Output out, uint32_t stream, const unsigned char* data, uint32_t size, bint end) except -1
cdef int write_window_update(Output out, uint32_t stream, uint32_t increment) except -1
cdef int write_rst_stream(Output out, uint32_t stream, uint32_t code) except -1
cdef int write_ping(Output out, const unsigned char* opaque, bint ack) except -1
cdef int write_goaway(Output out, uint32_t last_stream, uint32_t code, bytes debug) except -1
cdef int write_settings_ack(Output out) except -1
cdef int write_settings(Output out, list settings) except -1
