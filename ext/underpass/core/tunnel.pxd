# How an exchange crosses a link: what the connector makes of requests and responses, and what the edge does.

from libc.stdint cimport int64_t, uint64_t

from underpass.core.contentcoding cimport Gzip
from underpass.core.fields cimport Fields
from underpass.core.recent cimport RecentRequests
from underpass.core.relay cimport Acceptor, Counters, Exchange, Side

cpdef enum Kind:
    HTTP = 0
    WEBSOCKET = 1
    STREAM = 2          # raw bytes to an address (private networks)
    CONTROL = 3         # the registration RPC
    CONFIGURATION = 4


# The next of a row of numbers that do not repeat; `state` begins at random.
cdef uint64_t next_random(uint64_t* state) noexcept


cdef class OriginExchange(Exchange):
    # On the connector: inbound is a stream of a link, outbound an origin.
    cdef readonly int kind
    cdef readonly OriginAcceptor acceptor
    cdef public bytes host              # goes to the origin instead of the visitor's, if not None
    cdef bint prepared                  # `request` has been made ready for the origin

    cdef Fields link_response(self, Fields head, int status, bytes meta)


cdef class OriginAcceptor(Acceptor):
    cdef bytes tag                      # the connector's identity, for Cf-Warp-Tag-Id
    cdef list tags                      # (name, value) pairs
    cdef object on_failure              # on_failure(exchange, status, cause)
    cdef public int conn_index          # of the link; -1: it has none
    cdef public bint passes_hints       # early hints (103) go to the edge
    cdef Counters own                   # of the tunnel's own streams, which are no requests


cdef class VisitorExchange(Exchange):
    # On the edge: inbound is a visitor, outbound a stream of a link.
    cdef readonly VisitorAcceptor acceptor
    cdef readonly bytes ray
    cdef public bytes via_tunnel        # set while another process of this edge is to carry it, else None
    cdef bytes client_address
    cdef readonly bint told             # the cause of its failure is the connector's word
    cdef int64_t body                   # request content so far, bytes
    cdef int64_t max_body               # of it; -1: no limit
    cdef public bytes hsts              # as the acceptor's
    cdef public bint compresses         # as the acceptor's
    cdef Gzip coding                    # what the response's content goes through; None: it goes as it is
    cdef int hints                      # early hints that have been passed on
    cdef bytes websocket_key            # ours, for an application, of a WebSocket over HTTP/2
    cdef uint64_t number                # by which `acceptor.recent` knows it; 0: it does not
    cdef public str refusal             # why it is sent again though there was an answer; None: there was none
    cdef readonly int refusal_status
    cdef public bytes set_cookie        # a Set-Cookie of the edge's own for the response; None: there is none

    cdef Fields visitor_response(self, Fields head, int status)
    cdef bint refused(self, int status, str cause) except -1


cdef class VisitorAcceptor(Acceptor):
    cdef object on_failure              # on_failure(exchange, status, cause): answer with a page
    cdef public bytes client_address    # of the connection's peer, as text
    cdef public int64_t max_body        # bytes of request content; -1: no limit
    cdef public bytes scheme            # b"http" or b"https"
    cdef public bint compresses         # responses are coded for who accepts that, where it is of use
    cdef public bytes hsts              # Strict-Transport-Security for responses that have none; None: leave it
    cdef public object again            # again(exchange): route one that is sent again; None: the handler does
    cdef public dict refusals           # {cause of a connector: whether an application may have seen the request}
    cdef bytes location                 # the edge's own name, the tail of every ray
    cdef public RecentRequests recent   # remembers requests; None: nobody does


cdef class EdgeExchange(Exchange):
    # On the edge: a request of its own to a connector (the control stream, a configuration update).
    pass


cdef class PeerExchange(Exchange):
    # On the edge: inbound is another process of it, outbound a stream of a link.
    cdef readonly PeerAcceptor acceptor
    cdef readonly bytes tunnel          # the id of the tunnel, as text
    cdef int hints                      # interim responses that have been passed on


cdef class PeerAcceptor(Acceptor):
    pass
