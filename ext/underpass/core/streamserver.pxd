# A visitor who sends and reads raw bytes (TCP): a stream in WebSocket messages to whoever serves its hostname.

from libc.stdint cimport int64_t, uint8_t, uint64_t

from underpass.core.endpoint cimport Endpoint
from underpass.core.relay cimport Exchange, Side
from underpass.core.websocket cimport WebSocketReader


cdef class StreamVisitor(Side):
    cdef StreamServer connection
    cdef int64_t unreleased         # bytes delivered, framing included, that the link has not taken


cdef class StreamServer(Endpoint):
    cdef StreamVisitor current      # None before `open`, and once the exchange has ended
    cdef WebSocketReader reader
    cdef int64_t undrained          # bytes of the link's that are in `out`, framing included
    cdef bint joined                # the origin is there
    cdef bint close_sent            # by us: a close frame, which says that the visitor will send no more
    cdef bint close_seen            # by the connector: the origin will send no more
    cdef bint fin_seen              # the visitor will send no more
    cdef bint half_closes           # the connector passes the visitor's end on, and the origin may still answer
    cdef bint finishing             # the origin has said all: what is in `out`, then our end
    cdef bint ended                 # that has been said
    cdef int64_t thrown_away        # bytes that came after it
    cdef uint64_t moved             # bytes read and written, so far
    cdef uint64_t seen_moved        # that, at the last sweep that found it changed
    cdef double moved_at            # when that was

    cdef int deliver(self, StreamVisitor side, const unsigned char* data, Py_ssize_t size) except -1
    cdef int send_frame(self, StreamVisitor side, uint8_t opcode, const unsigned char* data, Py_ssize_t size) except -1
    cdef int say_end(self) except -1
    cdef int take_response(self, StreamVisitor side, const unsigned char* data, Py_ssize_t size) except -1
    cdef int give_up(self, str cause) except -1
    cdef Exchange let_go(self)
