# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""WebSocket framing in front of a byte stream (RFC 6455; docs: wire protocol §2.7).

A visitor's client reaches `tcp://`, `ssh://` and their kin by WebSocket: what its binary messages hold goes to the
origin, what the origin sends becomes binary messages. Payload is unmasked on its way into the output buffer and
handed on as it comes, so that a message may have any size while nothing of it is held.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from underpass.core.output cimport Octets
from underpass.core.relay cimport Exchange
from underpass.core.stream cimport SOURCE_CREDIT, StreamClient

cdef enum:
    PROTOCOL_ERROR = 1002

# The subprotocol of a client that means by its close frame that it will send no more, and goes on to read: what
# RFC 6455 has no word for, and TCP has. Who agrees to it says so in the answer to the handshake.
HALF_CLOSE = b"half-close.underpass"


cdef class WebSocketReader:
    """Takes a client's frames, or a server's, apart where they were read. A broken stream stays broken."""

    def __init__(self, bint from_server=False):
        self.from_server = from_server

    cdef int next(self, const unsigned char** data, Py_ssize_t* size) except -1:
        cdef Py_ssize_t part
        cdef int verdict, i
        if self.broken:
            return WS_BROKEN
        while True:
            if not self.in_payload:
                if size[0] == 0:
                    return WS_MORE
                self.head[self.head_size] = data[0][0]
                self.head_size += 1
                data[0] += 1
                size[0] -= 1
                verdict = self.start_frame()
                if verdict < 0:
                    self.broken = True
                    return WS_BROKEN
                if verdict == 0:
                    continue
                self.in_payload = True
                self.head_size = 0
                self.control_size = 0
                self.taken = 0
            if self.left and size[0] == 0:
                return WS_MORE
            part = size[0]
            if <uint64_t>part > self.left:
                part = <Py_ssize_t>self.left
            self.payload = data[0]
            self.size = part
            self.mask_at = self.taken
            data[0] += part
            size[0] -= part
            self.taken += <uint64_t>part
            self.left -= <uint64_t>part
            if self.left == 0:
                self.in_payload = False
            if self.opcode < CLOSE:
                self.text = self.message_is_text
                if part:
                    return WS_DATA
                continue
            for i in range(<int>part):
                self.control[self.control_size] = self.payload[i] ^ self.mask[(self.mask_at + <uint64_t>i) & 3]
                self.control_size += 1
            if self.left == 0:
                if self.opcode == PING:
                    return WS_PING
                if self.opcode == CLOSE:
                    return WS_CLOSE

    cdef int start_frame(self) noexcept:
        """1 if the frame head is complete, 0 if not yet, -1 if it is against RFC 6455 §5.2."""
        cdef uint8_t opcode
        cdef uint64_t length
        cdef int wanted, i
        if self.head_size < 2:
            return 0
        opcode = self.head[0] & 15
        length = self.head[1] & 127
        if self.head_size == 2:
            # No extension was negotiated; a client's frames are masked, a server's are not (§5.1).
            if self.head[0] & 0x70 or (self.head[1] & 0x80 != 0) == self.from_server:
                return -1
            if opcode >= CLOSE:
                if opcode > PONG or length > 125 or not self.head[0] & 0x80:
                    return -1
            elif opcode > BINARY or (opcode == CONTINUATION) != self.in_message:
                return -1
        wanted = 2 + (0 if self.from_server else 4) + (2 if length == 126 else 8 if length == 127 else 0)
        if self.head_size < wanted:
            return 0
        if length >= 126:
            wanted = 2 if length == 126 else 8
            length = 0
            for i in range(wanted):
                length = (length << 8) | self.head[2 + i]
            if length >> 63:
                return -1
        if not self.from_server:
            memcpy(self.mask, self.head + self.head_size - 4, 4)
        self.opcode = opcode
        self.left = length
        if opcode < CLOSE:
            if opcode != CONTINUATION:
                self.message_is_text = opcode == TEXT
            self.in_message = not self.head[0] & 0x80
        return 1

    cdef void unmask(self, unsigned char* place) noexcept:
        """Write the current payload to `place`, unmasked: `size` bytes."""
        cdef const unsigned char* data = self.payload
        cdef Py_ssize_t size = self.size, i = 0
        cdef unsigned char turned[8]
        cdef uint64_t mask, word
        cdef int k
        if self.from_server:
            memcpy(place, data, <size_t>size)
            return
        for k in range(8):
            turned[k] = self.mask[(self.mask_at + <uint64_t>k) & 3]
        memcpy(&mask, turned, 8)
        while i + 8 <= size:
            memcpy(&word, data + i, 8)
            word ^= mask
            memcpy(place + i, &word, 8)
            i += 8
        while i < size:
            place[i] = data[i] ^ turned[i & 7]
            i += 1

    def feed(self, data):
        """Events of a contiguous buffer: `("data", bytes, is_text)`, `("ping", bytes)`, `("close", bytes)`,
        `("broken",)` (for tests)."""
        cdef Octets octets = Octets(data)
        cdef const unsigned char* at = octets.base
        cdef Py_ssize_t left = octets.size
        cdef int event
        events = []
        while True:
            event = self.next(&at, &left)
            if event == WS_MORE:
                return events
            if event == WS_BROKEN:
                events.append(("broken",))
                return events
            if event == WS_DATA:
                plain = PyBytes_FromStringAndSize(NULL, self.size)
                self.unmask(<unsigned char*><char*>plain)
                events.append(("data", plain, bool(self.text)))
            else:
                events.append(("ping" if event == WS_PING else "close",
                               PyBytes_FromStringAndSize(<const char*>self.control, self.control_size)))


cdef class WebSocketStream(StreamClient):
    """A byte stream whose visitor speaks WebSocket. Text messages are thrown away, as cloudflared does."""

    def __init__(self, turn):
        StreamClient.__init__(self, turn)
        self.reader = WebSocketReader()

    def ping(self):
        """Send the visitor an empty ping: what stands between would forget an idle connection."""
        if self.current is not None and self.current.exchange is not None and not self.close_sent:
            self.send_frame(self.current.exchange, PING, NULL, 0)

    cdef int take_request(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef WebSocketReader reader = self.reader
        cdef Exchange exchange = self.current.exchange if self.current is not None else None
        cdef int event
        while exchange is not None and not self.close_sent and not self.end_seen:
            event = reader.next(&data, &size)
            if event == WS_MORE:
                return 0
            if event == WS_DATA:
                if not reader.text:
                    reader.unmask(self.out.reserve(reader.size))
                    self.out.advance(reader.size)
            elif event == WS_PING:
                # Who takes no answers gets none: they would all have to wait here.
                if self.current is not None and self.current.unreleased < SOURCE_CREDIT:
                    self.current.unreleased += 2 + reader.control_size
                    self.send_frame(exchange, PONG, reader.control, reader.control_size)
            elif event == WS_CLOSE:
                if self.half_closes and self.feed is None:
                    self.end_seen = True
                    self.wake()
                    return 0
                return self.end_messages(exchange, NORMAL_CLOSURE)
            else:
                return self.end_messages(exchange, PROTOCOL_ERROR)
        return 0

    cdef int flush(self) except -1:
        cdef WebSocketStream _alive = self
        StreamClient.flush(self)
        if (self.end_seen and not self.end_said and not self.closed and self.transport is not None
                and self.out.size == 0):
            self.end_said = True
            if self.half_close:
                self.transport.write_eof()
            else:
                self.close_after_flush()
        return 0

    cdef int give_response(self, Exchange exchange, const unsigned char* data, Py_ssize_t size) except -1:
        if self.close_sent:
            return 0
        return self.send_frame(exchange, BINARY, data, size)

    cdef int send_frame(self, Exchange exchange, uint8_t opcode, const unsigned char* data, Py_ssize_t size) except -1:
        cdef unsigned char head[10]
        cdef int head_size = 2, i
        head[0] = 0x80 | opcode
        if size < 126:
            head[1] = <unsigned char>size
        elif size < 65536:
            head[1] = 126
            head[2] = <unsigned char>(size >> 8)
            head[3] = <unsigned char>size
            head_size = 4
        else:
            head[1] = 127
            for i in range(8):
                head[2 + i] = <unsigned char>(<uint64_t>size >> (56 - 8 * i))
            head_size = 10
        exchange.response_data(head, head_size)
        return exchange.response_data(data, size) if size else 0

    cdef int end_messages(self, Exchange exchange, uint32_t code) except -1:
        """Answer with a close frame and end the stream once the origin has what came before."""
        cdef unsigned char reason[2]
        self.close_sent = True
        reason[0] = <unsigned char>(code >> 8)
        reason[1] = <unsigned char>code
        self.send_frame(exchange, CLOSE, reason, 2)
        return self.close_after_flush()

    cdef int finish(self) except -1:
        cdef Exchange exchange = self.current.exchange if self.current is not None else None
        if exchange is not None and not self.close_sent:
            self.close_sent = True
            self.send_frame(exchange, CLOSE, <const unsigned char*>b"\x03\xe8", 2)
        return StreamClient.finish(self)
