# One HTTP/2 connection, either role (RFC 9113): streams, flow control, limits. Depends on frames, hpack, heads, relay.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from underpass.core.endpoint cimport Endpoint
from underpass.core.fields cimport Fields
from underpass.core.frames cimport FrameReader
from underpass.core.hpack cimport Decoder, Encoder
from underpass.core.output cimport Backlog, Output
from underpass.core.relay cimport Acceptor, Exchange, Side
from underpass.core.streams cimport StreamTable


cdef class Limits:
    cdef public uint32_t max_concurrent_streams     # the peer may open
    cdef public uint32_t stream_window              # unreleased content a stream may hold, bytes
    cdef public uint32_t largest_stream_window      # what it may grow to, bytes
    cdef public uint32_t connection_window          # the same, all streams together
    cdef public uint32_t max_frame_size             # advertised, bytes
    cdef public uint32_t max_header_list            # advertised and enforced, bytes as RFC 9113 §6.5.2 counts
    cdef public uint32_t allowance                  # burst of frames that cost us and carry nothing
    cdef public uint32_t allowance_per_second       # how fast that is earned back
    cdef public uint32_t linger                     # request bytes thrown away after a response; 0: reset at once
    cdef public bint extended_connect               # RFC 8441


cdef class H2Stream(Side):
    cdef H2Connection connection
    cdef readonly uint32_t id
    cdef int64_t send_window            # what the peer lets us send
    cdef int64_t receive_window         # what we still let the peer send
    cdef int64_t returned               # released bytes not yet given back by WINDOW_UPDATE
    cdef int64_t window                 # the most `receive_window` can be
    cdef double returned_at             # when the last WINDOW_UPDATE was sent, loop seconds; 0: none yet
    cdef int64_t unreleased             # delivered to the exchange, not released
    cdef int64_t expected               # content bytes still to come by Content-Length, or NO_LENGTH
    cdef Backlog pending                # content that has to wait
    cdef Fields trailers                # to be sent after it
    cdef H2Stream next_ready
    cdef H2Stream prev_ready
    cdef bint in_ready
    cdef bint ends                      # END_STREAM follows `pending`
    cdef bint local_closed
    cdef bint remote_closed
    cdef bint got_head
    cdef bint response_bodiless         # the request was HEAD
    cdef bint times_out                 # `sweep` may give it up
    cdef bint lingers                   # the response is complete, the request is not
    cdef int64_t thrown_away            # request content nobody wanted, bytes
    cdef double opened_at               # Turn.coarse, seconds; or of the last progress
    cdef uint64_t moved                 # client role: what progress is told by: content bytes, and the response head

    cdef int end_now(self) except -1
    cdef int local_end(self) except -1
    cdef int send_pending(self) except -1


cdef class H2Connection(Endpoint):
    cdef readonly bint client
    cdef readonly Limits limits
    cdef Acceptor acceptor              # server role
    cdef FrameReader reader
    cdef Decoder decoder
    cdef Encoder encoder
    cdef StreamTable streams
    cdef H2Stream recent                # the last stream looked up
    cdef H2Stream receiving             # whose DATA frame is being read, if it still lives
    cdef public uint32_t idle_at        # streams left at which `idle` is called
    cdef str lost_cause                 # client role: what an exchange is told when the connection is gone, ...
    cdef str reset_cause                # ... and when the peer has reset its stream
    cdef public bint drops_trailers     # client role: requests go without, because the peer may not stand them
    # Receiving.
    cdef uint32_t preface_left
    cdef bint got_settings
    cdef Output block                   # header block fragments until END_HEADERS
    cdef uint32_t block_stream          # 0: none in progress
    cdef uint8_t block_flags
    cdef uint32_t block_frames
    cdef uint32_t last_peer_stream
    cdef int64_t receive_window
    cdef int64_t returned
    cdef int64_t grown                  # what its streams' windows have grown by, now
    cdef int64_t owed                   # the same of streams that are gone: credit that is not given back
    cdef double asked_at                # when the SETTINGS or PING left whose answer tells the round trip; 0: none
    cdef double measured_at             # when `round_trip` was
    cdef readonly double round_trip     # seconds; 0: not known yet
    cdef double allowance
    cdef double allowance_time
    cdef readonly uint64_t bytes_received
    # Sending.
    cdef uint32_t next_stream           # client role
    cdef int64_t send_window
    cdef int64_t peer_stream_window
    cdef uint32_t peer_max_frame_size
    cdef readonly uint32_t peer_max_streams
    cdef readonly uint64_t peer_max_header_list
    cdef H2Stream ready_head
    cdef H2Stream ready_tail
    cdef uint32_t tail_stream           # the last frame in `out` is this stream's, ...
    cdef Py_ssize_t tail_start          # begins here ...
    cdef Py_ssize_t tail_end            # and ends here
    cdef bint goaway_sent
    cdef uint32_t goaway_last           # the last stream it named
    cdef bint goaway_received
    cdef readonly uint32_t settings_unacknowledged

    cdef int fail_connection(self, uint32_t code, str why) except -1
    cdef int spend(self, double cost) except -1
    cdef void earn(self, double now) noexcept
    # Receiving.
    cdef int on_frame(self) except -1
    cdef int on_data_head(self) except -1
    cdef int on_data_part(self) except -1
    cdef int stream_fault_and_credit(self, H2Stream stream, uint32_t code, int64_t length) except -1
    cdef int answer_bare(self, H2Stream stream, int status) except -1
    cdef int on_headers(self, const unsigned char* block, uint32_t size, uint32_t stream, uint8_t flags) except -1
    cdef int on_headers_frame(self) except -1
    cdef int on_continuation(self) except -1
    cdef int on_settings(self) except -1
    cdef int on_setting(self, uint32_t identifier, uint32_t value) except -1
    cdef int on_window_update(self) except -1
    cdef int on_rst_stream(self) except -1
    cdef int on_goaway(self) except -1
    cdef int new_request(self, uint32_t id, Fields fields, int verdict, bint end) except -1
    cdef int response_fields(self, H2Stream stream, Fields fields, int verdict, bint end) except -1
    cdef int trailer_fields(self, H2Stream stream, Fields fields, int verdict, bint end) except -1
    cdef int remote_end(self, H2Stream stream, Fields trailers) except -1
    cdef int return_credit(self, H2Stream stream, int64_t size) except -1
    cdef int grow_window(self, H2Stream stream) except -1
    cdef int measured(self) except -1
    # Streams.
    cdef H2Stream find(self, uint32_t id)
    cdef H2Stream add_stream(self, uint32_t id)
    cdef bint takes_streams(self) noexcept              # client role: whether `open_stream` may be called
    cdef int open_stream(self, Exchange exchange, Fields head) except -1
    cdef int stream_ended(self) except -1               # one has been forgotten
    cdef int forget(self, H2Stream stream) except -1
    cdef int settle(self, H2Stream stream) except -1
    cdef int reset_stream(self, H2Stream stream, uint32_t code) except -1
    cdef int stream_fault(self, H2Stream stream, uint32_t code) except -1
    # Sending.
    cdef int write_fields(self, H2Stream stream, Fields fields, bint end) except -1
    cdef int make_ready(self, H2Stream stream) except -1
    cdef H2Stream take_ready(self)
    cdef void unready(self, H2Stream stream) noexcept
    cdef int64_t may_send(self, H2Stream stream) noexcept
    cdef int write_some(self, H2Stream stream, const unsigned char* data, int64_t size) except -1
