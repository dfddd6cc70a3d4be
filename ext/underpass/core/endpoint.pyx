# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""The joint between a codec and a transport.

An `Endpoint` has the methods of `asyncio.BufferedProtocol` (and `asyncio.Protocol`, for transports that know no
better); a Python class joins the two: `class Link(H2Connection, asyncio.BufferedProtocol)`. It knows nothing of
sockets: any object with `write`, `close`, `abort`, `pause_reading` and `resume_reading` is a transport.

Everything the endpoints of one loop produce in a turn is written by `Turn.run` at the end of it, one write each:
a TLS record run and a system call are the dearest things a small request pays for.
"""

from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from underpass.core.output cimport Octets, Output

# Large enough for sixteen full TLS records, so that a bulk transfer crosses into Python once for 256 KiB.
cdef Py_ssize_t READ_BUFFER = 262144
# What receive windows of all connections of a loop may grow by, together: streams that are held up by their window
# rather than by their receiver share it. Memory is used only if such a receiver then stops.
cdef int64_t SPARE_WINDOW = 64 * 1024 * 1024
# For the rare read that happens while the shared buffer is being parsed.
cdef Py_ssize_t OWN_READ_BUFFER = 16384


cdef class Turn:
    """What happens once a turn of the loop: every endpoint that has something to say says it.

    One for each event loop. `on_error(endpoint, exception)` is told of errors that no codec expected; the connection
    is closed by then. `private_buffers` is for loops whose reads are outstanding while others complete
    (Windows' completion ports under winloop): a shared buffer would be written to by two reads at once.
    """

    def __init__(self, call_soon, clock, on_error=None, bint private_buffers=False):
        self.call_soon = call_soon
        self.clock = clock
        self.coarse = clock()
        self.spare_window = SPARE_WINDOW
        self.on_error = on_error
        self.waiting = []
        self.scheduled = False
        # Not zeroed, so that pages nobody has read into yet take no memory.
        self.buffer = PyByteArray_FromStringAndSize(NULL, READ_BUFFER)
        self.view = memoryview(self.buffer)
        self.base = <unsigned char*>self.buffer
        self.busy = False
        self.private_buffers = private_buffers

    cdef int add(self, Endpoint endpoint) except -1:
        self.waiting.append(endpoint)
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.run)
        return 0

    cdef double now(self) except? -1.0:
        return self.clock()

    def tick(self):
        """Note the time, for what needs it only roughly; the owner calls this every second or so."""
        self.coarse = self.clock()

    def run(self):
        """Flush the endpoints that asked for it; those that ask meanwhile are flushed in the next turn."""
        cdef Endpoint endpoint
        cdef list waiting = self.waiting
        self.waiting = []
        self.scheduled = False
        unreported = None
        for endpoint in waiting:
            endpoint.queued = False
            try:
                endpoint.flush()
            except Exception as error:
                try:
                    endpoint.failed(error)
                except Exception as raised:
                    unreported = raised
        if unreported is not None:
            raise unreported


cdef class Endpoint:
    """One connection: see the module's docstring. Subclasses are codecs."""

    def __cinit__(self, *args, **kwargs):
        self.out = Output()

    def __init__(self, Turn turn not None):
        self.turn = turn

    # What codecs call.

    cdef int wake(self) except -1:
        if not self.queued:
            self.queued = True
            self.turn.add(self)
        return 0

    cdef int stop_reading(self) except -1:
        if not self.reading_stopped and not self.closed and self.transport is not None:
            self.reading_stopped = True
            self.transport.pause_reading()
        return 0

    cdef int resume_reading(self) except -1:
        if self.reading_stopped:
            self.reading_stopped = False
            if not self.closed:
                self.transport.resume_reading()
        return 0

    cdef int close_after_flush(self) except -1:
        if not self.closing:
            self.closing = True
            self.wake()
        return 0

    cdef int close_at_once(self) except -1:
        self.closed = True
        self.out.discard()
        if self.transport is not None:
            # Even one that is being closed in good order: that may wait long for the peer.
            self.transport.abort()
        return 0

    cdef int flush(self) except -1:
        cdef bytes data
        if self.closed or self.transport is None:
            return 0
        if not self.paused:
            self.fill()
            if self.closed:
                return 0
            if self.out.size:
                data = self.out.take()
                self.write(data)
                self.written(PyBytes_GET_SIZE(data))
            if self.closed:
                return 0
            if not self.paused and self.has_more():
                self.wake()
        if self.closing and self.out.size == 0 and not self.has_more():
            # What the transport still holds is its own to write: close() waits for that.
            self.closed = True
            self.transport.close()
        return 0

    # What codecs are called with.

    cdef int received(self, const unsigned char* data, Py_ssize_t size) except -1:
        return 0

    cdef int input_ended(self) except -1:
        return self.close_after_flush()

    cdef int fill(self) except -1:
        return 0

    cdef int written(self, Py_ssize_t size) except -1:
        return 0

    cdef bint has_more(self) noexcept:
        return False

    cdef int lost(self, object reason) except -1:
        return 0

    def failed(self, Exception error):
        """An unexpected error while this connection was served: it is dropped, and the error reported."""
        self.close_at_once()
        if self.turn.on_error is None:
            raise error
        self.turn.on_error(self, error)

    # asyncio's protocol methods.

    def connection_made(self, transport):
        """Called by the transport once, before anything else."""
        self.transport = transport
        self.write = transport.write
        self.opened = True
        # TLS has no half-close: asyncio's TLS transports close whatever eof_received returns, and warn.
        self.half_close = transport.get_extra_info("sslcontext") is None
        if self.closed:
            # Given up before it began.
            transport.abort()
        elif self.out.size or self.closing:
            self.wake()

    def get_buffer(self, sizehint):
        """Where the transport shall put what it reads."""
        cdef Turn turn = self.turn
        if not turn.busy and not turn.private_buffers:
            self.own_buffer = None
            return turn.view
        if self.own_buffer is None:
            self.own_buffer = PyByteArray_FromStringAndSize(
                NULL, READ_BUFFER if turn.private_buffers else OWN_READ_BUFFER)
        # A view, because asyncio's TLS reads into slices of what it is given: those of a bytearray are copies.
        return memoryview(self.own_buffer)

    def buffer_updated(self, Py_ssize_t size):
        """`size` bytes have been put into the buffer that `get_buffer` returned last."""
        cdef Turn turn = self.turn
        cdef unsigned char* base
        cdef bytearray own = self.own_buffer
        if own is not None:
            if size > <Py_ssize_t>len(own):
                raise ValueError("more bytes than the buffer holds")
            base = own
            if not turn.private_buffers:
                self.own_buffer = None
            self._receive(base, size)
            return
        if size > READ_BUFFER:
            raise ValueError("more bytes than the buffer holds")
        turn.busy = True
        try:
            self._receive(turn.base, size)
        finally:
            turn.busy = False

    def data_received(self, data):
        """For transports that bring their own bytes, and for tests."""
        cdef Octets octets = Octets(data)
        self._receive(octets.base, octets.size)

    cdef int _receive(self, const unsigned char* data, Py_ssize_t size) except -1:
        if self.closed or size <= 0:
            return 0
        self.turn.received += <uint64_t>size
        try:
            self.received(data, size)
        except Exception as error:
            self.failed(error)
        return 0

    def eof_received(self):
        """The other end has sent its last byte. The codec decides what becomes of our direction."""
        if not self.closed:
            try:
                self.input_ended()
            except Exception as error:
                self.failed(error)
        return bool(self.half_close)

    def pause_writing(self):
        """The transport holds enough."""
        self.paused = True

    def resume_writing(self):
        """The transport can take more."""
        self.paused = False
        self.wake()

    def connection_lost(self, reason):
        """The transport is gone; `reason` is None after a close of ours or a clean end."""
        self.closed = True
        self.out.discard()
        transport, self.transport, self.write = self.transport, None, None
        if transport is not None:
            self.lost(reason)

    # For owners.

    def close(self):
        """Write what is gathered, then close."""
        self.close_after_flush()

    def abort(self):
        """Close without writing anything more."""
        self.close_at_once()

    @property
    def is_closed(self):
        """True once the transport is gone or on its way."""
        return bool(self.closed)

    @property
    def write_paused(self):
        """True while the transport holds enough."""
        return bool(self.paused)
