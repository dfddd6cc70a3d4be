# WebSocket framing (RFC 6455), and a raw byte stream to an origin behind it.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from underpass.core.relay cimport Exchange
from underpass.core.stream cimport StreamClient

cdef enum:
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10

cdef enum:
    NORMAL_CLOSURE = 1000

cdef enum WebSocketEvent:
    WS_MORE = 0         # all input is used up
    WS_DATA = 1         # payload of a data frame: `payload`, `size`, still masked from `mask_at` on
    WS_PING = 2         # a whole ping: `control`, `control_size`
    WS_CLOSE = 3        # a whole close, likewise
    WS_BROKEN = 4


cdef class WebSocketReader:
    cdef const unsigned char* payload
    cdef Py_ssize_t size
    cdef bint text                      # the payload belongs to a text message
    cdef unsigned char control[125]     # unmasked
    cdef uint8_t control_size
    cdef unsigned char mask[4]
    cdef uint64_t mask_at               # offset of `payload` in its frame
    cdef uint64_t left
    cdef uint64_t taken                 # payload bytes of the frame handed out
    cdef unsigned char head[14]
    cdef uint8_t head_size
    cdef uint8_t opcode
    cdef bint in_message                # a fragmented message is under way
    cdef bint message_is_text
    cdef bint in_payload
    cdef bint broken
    cdef bint from_server               # frames are not masked; else all are

    cdef int next(self, const unsigned char** data, Py_ssize_t* size) except -1
    cdef int start_frame(self) noexcept
    cdef void unmask(self, unsigned char* place) noexcept


cdef class WebSocketStream(StreamClient):
    cdef WebSocketReader reader
    cdef bint close_sent
    cdef public bint half_closes        # the visitor's close frame ends its own direction alone (HALF_CLOSE)
    cdef bint end_seen                  # it has come
    cdef bint end_said                  # and has been passed on to the origin

    cdef int send_frame(self, Exchange exchange, uint8_t opcode, const unsigned char* data, Py_ssize_t size) except -1
    cdef int end_messages(self, Exchange exchange, uint32_t code) except -1
