# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""HTTP/2 toward an origin (RFC 9113): exchanges share connections, as many as the origin lets each one have.

A request takes a stream on the first connection that has one to give. Where none has, it waits: for a stream that
ends, or for one more connection, of which there are at most `max_sessions`. An origin that picks HTTP/1.1 when it is
asked which it speaks has its connections kept by the same pool, in the way of `OriginPool`.
"""

from libc.stdint cimport uint32_t, uint64_t

from underpass.core.endpoint cimport Endpoint
from underpass.core.fields cimport (
    HIDDEN, T_AUTHORITY, T_CONNECTION, T_HOST, T_HTTP2_SETTINGS, T_KEEP_ALIVE, T_METHOD, T_PATH, T_PROXY_CONNECTION,
    T_TRANSFER_ENCODING, T_UPGRADE, Field, Fields,
)
from underpass.core.h2 cimport H2Connection
from underpass.core.http1client cimport OriginPool
from underpass.core.relay cimport Exchange

# Without a byte from an origin for so long, while something is asked of it, it is asked for a sign of life, and given
# up when none comes in as long again: else everything new would go to a machine that has vanished.
cdef double QUIET_SECONDS = 15.0
# Signs of life asked for while nothing else comes. gRPC servers take a third for abuse, and hang up.
cdef int MAX_PROBES = 2
# The size of an answer to a PING.
cdef uint64_t ANSWER_SIZE = 17
# How long more idle connections than a pool keeps may stay.
cdef double SURPLUS_SECONDS = 1.0


cdef Fields request_head(Fields request, bytes scheme):
    """The head as HTTP/2 has it: pseudo fields first, the origin's own scheme, and nothing about connections."""
    cdef Fields head = Fields.__new__(Fields)
    cdef Field* method = request.find(T_METHOD)
    cdef Field* authority = request.find(T_AUTHORITY)
    cdef Field* path = request.find(T_PATH)
    cdef Field* field
    cdef uint32_t i
    head.copy(request, method)
    head.add_pair(b":scheme", scheme)
    if authority is NULL:
        authority = request.find(T_HOST)
    if authority is not NULL and authority.value_size:
        head.add(<const unsigned char*>b":authority", 10, request.value(authority), authority.value_size, 0)
    head.copy(request, path)
    for i in range(request.count):
        field = request.items + i
        if (field.flags & HIDDEN or 0 < field.token <= T_HOST
                or field.token in (T_CONNECTION, T_PROXY_CONNECTION, T_KEEP_ALIVE, T_TRANSFER_ENCODING, T_UPGRADE,
                                   T_HTTP2_SETTINGS)):
            continue
        head.copy(request, field)
    return head


cdef class Http2Client(H2Connection):
    """One HTTP/2 connection to an origin; it serves those who wait in `pool` whenever it has a stream to give."""

    def __init__(self, turn, Http2Pool pool not None, bytes scheme not None, limits=None):
        H2Connection.__init__(self, turn, None, limits)
        self.pool = pool
        self.scheme = scheme
        self.lost_cause = self.reset_cause = "reset_by_origin"
        self.heard_at = self.idle_since = self.turn.coarse

    cdef int start(self, Exchange exchange) except -1:
        self.uses += 1
        if self.streams.count == 0:
            self.heard_at = self.turn.coarse
        if self.probes >= MAX_PROBES:
            # This one is news to the origin, so it may be asked once more.
            self.probes = MAX_PROBES - 1
        # A connection that is going away refuses what was on its way, content or not.
        exchange.keeps_content = True
        return self.open_stream(exchange, request_head(exchange.outgoing_request(), self.scheme))

    cdef int stream_ended(self) except -1:
        if self.streams.count == 0:
            self.idle_since = self.turn.coarse
        if self.serving and self.pool.waiting and not self.closed:
            # At the end of the turn: whoever waits must not begin in the middle of what is being done.
            self.wake()
        return H2Connection.stream_ended(self)

    cdef int fill(self) except -1:
        if self.serving and self.pool.waiting:
            self.pool.serve(self)
        return H2Connection.fill(self)

    cdef int lost(self, object reason) except -1:
        # First of all: requests that may be asked again must not find this connection.
        self.pool.drop(self)
        return H2Connection.lost(self, reason)

    cdef int on_goaway(self) except -1:
        self.pool.drop(self)
        return H2Connection.on_goaway(self)

    cdef int look_after(self, double now) except -1:
        """Once a tick: does the origin still live?"""
        cdef uint64_t more = self.bytes_received - self.heard
        if more or self.streams.count == 0:
            if more > ANSWER_SIZE or not self.asked:
                self.probes = 0
            self.heard = self.bytes_received
            self.heard_at = now
            self.asked = False
        elif self.asked:
            if now - self.heard_at >= 2 * QUIET_SECONDS:
                return self.close_at_once()
        elif now - self.heard_at >= QUIET_SECONDS and self.probes < MAX_PROBES:
            self.asked = True
            self.probes += 1
            # An answer is due in as long as this has lasted, whatever its length was.
            self.heard_at = now - QUIET_SECONDS
            self.ping()
        return 0


cdef class Http2Pool(OriginPool):
    """Connections to one origin that speaks HTTP/2, or is asked whether it does.

    `dial()` answers with an `Http2Client` or an `Http1Client`, as the origin chose. upgrades: another pool, for
    requests that only HTTP/1.1 can make (WebSocket). max_sessions: HTTP/2 connections at once.
    """

    def __init__(self, dial, OriginPool upgrades not None, Py_ssize_t max_idle=100, double idle_timeout=90.0,
                 Py_ssize_t max_dials=512, Py_ssize_t max_sessions=64):
        OriginPool.__init__(self, dial, max_idle, idle_timeout, max_dials)
        self.sessions = []
        self.upgrades = upgrades
        self.max_sessions = max_sessions
        self.multiplexed = True

    def forward(self, Exchange exchange not None):
        """Carry `exchange` on a stream, or an idle HTTP/1.1 connection, or the first that comes."""
        cdef Http2Client session
        if exchange.wants_upgrade:
            self.upgrades.forward(exchange)
            return
        if not self.waiting and not self.turns_away(exchange):
            session = self.free_session()
            if session is not None:
                exchange.carrier = self
                self.reused += 1
                session.start(exchange)
                return
        OriginPool.forward(self, exchange)

    def forward_afresh(self, Exchange exchange not None):
        """Carry `exchange` on a connection that has never been used; on any, if there may be no more."""
        if <Py_ssize_t>len(self.sessions) >= self.max_sessions:
            self.forward(exchange)
        else:
            OriginPool.forward_afresh(self, exchange)

    cdef Http2Client free_session(self):
        cdef Http2Client session
        for session in self.sessions:
            if session.takes_streams():
                return session
        return None

    cdef Py_ssize_t wanted(self):
        cdef Py_ssize_t waiting = <Py_ssize_t>(len(self.waiting) + len(self.waiting_afresh))
        cdef Py_ssize_t room = self.max_sessions - <Py_ssize_t>len(self.sessions)
        if self.multiplexed and waiting:
            waiting = 1 if self.streams_each == 0 else (waiting - 1) // <Py_ssize_t>self.streams_each + 1
            if waiting > room:
                return room
        return waiting

    def arrived(self, Endpoint connection not None):
        """A connection asked for by `dial` has been made; an HTTP/2 one has the origin's SETTINGS."""
        cdef Http2Client session
        if not isinstance(connection, Http2Client):
            self.multiplexed = False
            OriginPool.arrived(self, connection)
            return
        session = <Http2Client>connection
        self.multiplexed = True
        self.dialling -= 1
        if self.closed:
            session.close_after_flush()
        elif session.takes_streams():
            self.streams_each = session.peer_max_streams
            self.sessions.append(session)
            session.serving = True
            while self.waiting_afresh and session.takes_streams():
                session.start(self.longest_waiting(self.waiting_afresh))
            self.serve(session)
            while self.waiting_afresh and <Py_ssize_t>len(self.sessions) >= self.max_sessions:
                # There will be no other new one, so what there is has to do.
                self.forward(self.longest_waiting(self.waiting_afresh))
        else:
            session.shut_down()
            self.fail_longest_waiting(502, "dial", "the origin accepts a connection, but no request on it")
        self.dial_what_is_wanted()

    cdef int serve(self, Http2Client session) except -1:
        while self.waiting and session.takes_streams():
            session.start(self.longest_waiting(self.waiting))
        return 0

    cdef int drop(self, Http2Client session) except -1:
        """This connection takes no more."""
        if session.serving:
            session.serving = False
            self.sessions.remove(session)
            if self.waiting:
                # They waited for one of its streams.
                self.dial_what_is_wanted()
        return 0

    @property
    def session_count(self):
        """HTTP/2 connections that take requests."""
        return len(self.sessions)

    def sweep(self, double now):
        """As `OriginPool.sweep`; and a connection on which nothing is heard from the origin any more is given up."""
        cdef Http2Client session
        cdef Py_ssize_t surplus = <Py_ssize_t>len(self) - self.max_idle
        OriginPool.sweep(self, now)
        # New requests take the first that has room, so the last are those used least.
        for session in reversed(list(self.sessions)):
            session.look_after(now)
            if session.closed:
                continue
            if session.streams.count == 0 and (
                    surplus > 0 and now - session.idle_since >= SURPLUS_SECONDS
                    or 0 < self.idle_timeout <= now - session.idle_since
                    or not session.takes_streams()):
                surplus -= 1
                self.drop(session)
                session.shut_down()
            elif self.waiting:
                # The origin may have raised its limit.
                self.serve(session)

    def close(self):
        """As `OriginPool.close`, for both kinds."""
        cdef Http2Client session
        OriginPool.close(self)
        self.upgrades.close()
        for session in list(self.sessions):
            self.drop(session)
            if session.streams.count:
                session.shut_down()
            else:
                session.close_at_once()

    def __len__(self):
        cdef Http2Client session
        cdef Py_ssize_t idle = len(self.idle)
        for session in self.sessions:
            if session.streams.count == 0:
                idle += 1
        return idle
