# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""How an exchange crosses a link (docs: wire protocol §2.2 to §2.10).

A request travels as an ordinary HTTP/2 request, an upgrade being a field of its own. A response travels with the
origin's fields serialized into one (`cf-cloudflared-response-headers`), beside a word on who made it
(`cf-cloudflared-response-meta`). The classes here are the two ends of that, and nothing else knows it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, strlen

from underpass.core.contentcoding cimport Gzip, describe_coded, may_code
from underpass.core.fields cimport (
    HIDDEN, T_AUTHORITY, T_CDN_LOOP, T_CF_RAY, T_CF_TRACE_ID, T_CF_WARP_TAG_ID, T_CONNECTION,
    T_CONTENT_LENGTH, T_COOKIE, T_EXPECT, T_HOST, T_HTTP2_SETTINGS, T_KEEP_ALIVE, T_LINK_PROXY_SOURCE,
    T_LINK_RESPONSE_HEADERS, T_LINK_RESPONSE_META, T_LINK_UPGRADE, T_METHOD, T_OTHER, T_PATH,
    T_PROTOCOL, T_PROXY_CONNECTION, T_SEC_WEBSOCKET_ACCEPT, T_SEC_WEBSOCKET_KEY,
    T_SEC_WEBSOCKET_VERSION, T_TE, T_TRAILER, T_TRANSFER_ENCODING, T_UNDERPASS_CAUSE, T_UNDERPASS_HOP,
    T_UPGRADE, T_X_FORWARDED_FOR, T_X_FORWARDED_HOST, Field, Fields,
)
from underpass.core.frames cimport CANCEL, PROTOCOL_ERROR
from underpass.core.headerblock cimport parse, serialize
from underpass.core.heads cimport parse_length, same_text
from underpass.core.histogram cimport underpass_seconds
from underpass.core.http1 cimport hide_nominated
from underpass.core.output cimport Output
from underpass.core.relay cimport HARDLY_SEEN, UNSEEN, Acceptor, Exchange, Side, continue_if_expected

import os

from underpass.core.contentcoding import accepts_gzip
from underpass.core.headerblock import HeaderBlockError

cdef bytes META_ORIGIN = b'{"src":"origin"}'
cdef bytes META_CONNECTOR = b'{"src":"cloudflared"}'
# Of a stream that is refused because of `warp-routing.maxActiveFlows`: cause `flow_rate_limited`.
cdef bytes META_LIMITED = b'{"src":"cloudflared","flow_rate_limited":true}'

# Bytes of a cause that a connector tells; ours have twenty.
cdef Py_ssize_t MAX_CAUSE = 40
# Between processes of one edge: the tunnel whose link a request wants. `edge_only` takes it from visitors.
cdef bytes VIA_TUNNEL = b"cf-int-underpass-tunnel"
# What edges of ours are called in CDN-Loop (RFC 8586).
cdef bytes LOOP_ID = b"underpass"
# Times a request may come to edges of ours; applications that call each other by their public names need some.
cdef int MAX_PASSES = 8
# Early hints that are passed on of one response, and bytes of each on the link. They are written whatever the visitor
# takes, so little of it may be wanted; browsers read the first.
cdef int MAX_HINTS = 4
cdef uint32_t MAX_HINT_SIZE = 8192
cdef bytes HSTS = b"strict-transport-security"


cdef class OriginExchange(Exchange):
    """An exchange on the connector.

    `kind` says what the edge asked for. Handlers answer with `respond` (as an origin would: `http_status:N`),
    `fail` (502 of our own) or carry it to an origin.
    """

    @property
    def authority(self):
        """The host the visitor asked for, with its port if it has one (RFC 9113 §8.3.1)."""
        return self._pseudo(T_AUTHORITY) or self._pseudo(T_HOST)

    cdef Fields outgoing_request(self):
        cdef Fields request = self.request
        cdef Field* field
        cdef uint32_t i
        if self.prepared:
            return request
        self.prepared = True
        continue_if_expected(self)
        join_cookies(request)
        for i in range(request.count):
            field = request.items + i
            if field.token in (T_LINK_UPGRADE, T_CF_TRACE_ID, T_EXPECT, T_CF_WARP_TAG_ID):
                field.flags |= HIDDEN
            elif self.kind == WEBSOCKET and field.token in (T_SEC_WEBSOCKET_VERSION, T_CONTENT_LENGTH):
                field.flags |= HIDDEN
        if self.host is not None:
            name = self.authority
            request.hide(T_AUTHORITY)
            request.hide(T_X_FORWARDED_HOST)
            if name:
                request.add_pair(b"x-forwarded-host", name)
            request.add_pair(b":authority", self.host)
        if self.acceptor.tag is not None:
            request.add_pair(b"cf-warp-tag-id", self.acceptor.tag)
        for name, text in self.acceptor.tags:
            request.add_pair(name, text)
        if self.kind == WEBSOCKET:
            request.add_pair(b"upgrade", b"websocket")
            request.add_pair(b"sec-websocket-version", b"13")
        return request

    cdef Fields link_response(self, Fields head, int status, bytes meta):
        cdef Fields link = Fields.__new__(Fields)
        cdef Output block = Output.__new__(Output)
        cdef Field* length
        # 101 has no place in HTTP/2 (RFC 9113 §8.6): the stream is simply open.
        link.add_pair(b":status", b"200" if status == 101 else b"%d" % status)
        length = head.find(T_CONTENT_LENGTH)
        if length is not NULL and status != 101:
            link.add(<const unsigned char*>b"content-length", 14, head.value(length), length.value_size, 0)
        serialize(head, block)
        link.add(<const unsigned char*>b"cf-cloudflared-response-headers", 31, block.base, <size_t>block.size, 0)
        link.add_pair(b"cf-cloudflared-response-meta", meta)
        if self.on_answer is not None:
            self.tell_answer(status, link)
        return link

    cdef int response_interim(self, Fields head, int status) except -1:
        cdef OriginExchange _alive = self
        cdef Fields link
        cdef Output block
        if status != 103 or not self.acceptor.passes_hints or self.inbound is None or self.over:
            return 0
        link = Fields.__new__(Fields)
        block = Output.__new__(Output)
        link.add_pair(b":status", b"103")
        serialize(head, block)
        link.add(<const unsigned char*>b"cf-cloudflared-response-headers", 31, block.base, <size_t>block.size, 0)
        return self.inbound.send_head(link, 103, False)

    cdef Fields incoming_response(self, Fields head, int status):
        if self.kind == CONTROL or self.kind == CONFIGURATION:
            # The tunnel's own streams carry no user fields.
            return head
        if status == 101:
            head.add_pair(b"connection", b"Upgrade")
        return self.link_response(head, status, META_ORIGIN)

    cdef Fields local_response(self, Fields head, int status):
        if self.kind == CONTROL or self.kind == CONFIGURATION:
            return head
        return self.link_response(head, status, META_ORIGIN)

    def fail(self, int status, str cause):
        """502 by the connector itself: no user fields, and the meta that says who speaks."""
        cdef Fields link = Fields.__new__(Fields)
        if self.over or self.status or self.inbound is None:
            return
        self.failed(cause)
        self.counters.by_status[status if 0 < status < 1000 else 0] += 1
        if self.acceptor.on_failure is not None:
            self.acceptor.on_failure(self, status, cause)
        link.add_pair(b":status", b"%d" % status)
        link.add_pair(b"content-length", b"0")
        # What is refused and not out of order is an answer as an application would give it.
        link.add_pair(b"cf-cloudflared-response-meta", META_LIMITED if cause == "flow_rate_limited"
                      else META_ORIGIN if status < 500 else META_CONNECTOR)
        link.add_pair(b"cf-cloudflared-cause", cause.encode())
        if self.on_answer is not None:
            self.tell_answer(status, link)
        self.let_go(CANCEL)
        if self.over:
            return
        self.answered = underpass_seconds()
        self.status = status
        self.request = None
        self.inbound.send_head(link, status, True)
        self.response_ended = True
        self.response_over()

    cdef int over_with(self) except -1:
        cdef OriginExchange _alive = self
        if (self.cause is not None and not self.response_ended and self.acceptor.on_failure is not None
                and self.kind <= STREAM):
            self.acceptor.on_failure(self, 0, self.cause)
        return Exchange.over_with(self)


cdef class OriginAcceptor(Acceptor):
    """Makes an `OriginExchange` of every request on a link.

    tag: the connector's UUID as text. tags: more (name, value) pairs for every origin request.
    on_failure(exchange, status, cause): told of every failure; status 0 is one that could not be answered any more,
    because the visitor has gone or the response had begun. conn_index: of the link, for logs. `passes_hints` may be
    set: early hints are passed on (RFC 8297), to an edge that says it stands interim responses.
    """

    def __init__(self, handler, counters=None, on_error=None, bytes tag=None, tags=(), on_failure=None,
                 int conn_index=-1):
        Acceptor.__init__(self, handler, counters, on_error)
        self.conn_index = conn_index
        self.tag = tag
        self.tags = list(tags)
        self.on_failure = on_failure
        self.own = Counters()

    cdef Exchange new_exchange(self):
        cdef OriginExchange exchange = OriginExchange.__new__(OriginExchange)
        exchange.counters = self.counters
        exchange.acceptor = self
        return exchange

    cdef int accept(self, Exchange exchange) except -1:
        cdef int kind = kind_of(exchange.request)
        (<OriginExchange>exchange).kind = kind
        exchange.wants_upgrade = kind == WEBSOCKET
        if kind == CONTROL or kind == CONFIGURATION:
            self.counters.opened -= 1
            self.counters.active -= 1
            self.own.opened += 1
            self.own.active += 1
            exchange.counters = self.own
        return Acceptor.accept(self, exchange)


cdef int kind_of(Fields request) noexcept:
    """What a stream is for, in cloudflared's order (docs: wire protocol §2.2)."""
    cdef Field* upgrade = request.find(T_LINK_UPGRADE)
    cdef Field* source
    if upgrade is not NULL:
        if value_is(request, upgrade, b"update-configuration", 20):
            return CONFIGURATION
        if value_is(request, upgrade, b"websocket", 9):
            return WEBSOCKET
    source = request.find(T_LINK_PROXY_SOURCE)
    if source is not NULL and source.value_size:
        return STREAM
    if upgrade is not NULL and value_is(request, upgrade, b"control-stream", 14):
        return CONTROL
    return HTTP


cdef bint value_is(Fields fields, Field* field, const char* text, uint32_t size) noexcept:
    cdef const unsigned char* value = fields.value(field)
    cdef uint32_t i
    if field.value_size != size:
        return False
    for i in range(size):
        if value[i] != <unsigned char>text[i]:
            return False
    return True


cdef int join_cookies(Fields fields) except -1:
    """RFC 9113 §8.2.3: several cookie fields become one before they leave HTTP/2."""
    cdef uint32_t i
    cdef int count = 0
    cdef uint8_t flags = 0
    for i in range(fields.count):
        if fields.items[i].token == T_COOKIE and not fields.items[i].flags & HIDDEN:
            count += 1
            flags |= fields.items[i].flags
    if count < 2:
        return 0
    crumbs = []
    for i in range(fields.count):
        if fields.items[i].token == T_COOKIE and not fields.items[i].flags & HIDDEN:
            crumbs.append(fields._value(i))
            fields.items[i].flags |= HIDDEN
    joined = b"; ".join(crumbs)
    return fields.add(<const unsigned char*>b"cookie", 6, <const unsigned char*>PyBytes_AS_STRING(joined),
                      <size_t>PyBytes_GET_SIZE(joined), flags)


# Rays: 64 bits that no two requests of a process share and nobody can guess the next of.
cdef uint64_t ray_state = 0


cdef uint64_t next_random(uint64_t* state) noexcept:
    """splitmix64 over a random start: unique in a process for 2^64 requests."""
    cdef uint64_t z
    state[0] += <uint64_t>0x9E3779B97F4A7C15
    z = state[0]
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


ray_state = <uint64_t>int.from_bytes(os.urandom(8), "little")


cdef bytes hex16(uint64_t value):
    cdef bytes text = PyBytes_FromStringAndSize(NULL, 16)
    cdef char* at = PyBytes_AS_STRING(text)
    cdef int i
    for i in range(16):
        at[15 - i] = b"0123456789abcdef"[value & 15]
        value >>= 4
    return text


cdef bint begins(Fields fields, Field* field, const char* text, bint whole) noexcept:
    """Whether the name begins with `text`, or is it. Case does not matter, and "_" counts as "-": many
    applications cannot tell these apart (RFC 3875 §4.1.18).
    """
    cdef const unsigned char* name = fields.name(field)
    cdef size_t size = strlen(text), i
    cdef unsigned char c
    if field.name_size < size or (whole and field.name_size != size):
        return False
    for i in range(size):
        c = name[i]
        if 65 <= c <= 90:
            c |= 0x20
        elif c == 95:
            c = 45
        if c != <unsigned char>text[i]:
            return False
    return True


cdef bint edge_only(Fields fields, Field* field) noexcept:
    """Whether this is a field that applications believe because an edge has made it.

    Of the names that a visitor's address goes by, X-Forwarded-For has its own rule (it is extended); the others, the
    standard one too, we do not send: whoever does claims an address.
    """
    cdef unsigned char first
    if field.name_size < 6:
        return False
    first = fields.name(field)[0] | 0x20
    if first == 99:     # "c"
        if begins(fields, field, b"client-ip", True):
            return True
        return begins(fields, field, b"cf-", False) and (
            begins(fields, field, b"cf-connecting-ip", False)
            or begins(fields, field, b"cf-ray", True)
            or begins(fields, field, b"cf-visitor", True)
            or begins(fields, field, b"cf-ipcountry", True)
            or begins(fields, field, b"cf-pseudo-ipv4", True)
            or begins(fields, field, b"cf-trace-id", True)
            or begins(fields, field, b"cf-warp-", False)
            or begins(fields, field, b"cf-int-", False)
            or begins(fields, field, b"cf-proxy-", False)
            or begins(fields, field, b"cf-cloudflared-", False)
            or begins(fields, field, b"cf-access-jwt-", False)
            or begins(fields, field, b"cf-access-authenticated-", False))
    if first == 120:    # "x"
        return claims_address(fields, field)
    if first == 102:    # "f"
        return (begins(fields, field, b"forwarded", True) or begins(fields, field, b"forwarded-for", True)
                or begins(fields, field, b"fastly-client-ip", True))
    return first == 116 and begins(fields, field, b"true-client-ip", True)


cdef bint claims_address(Fields fields, Field* field) noexcept:
    """The same for names that begin with X."""
    cdef unsigned char third = fields.name(field)[2] | 0x20
    if third == 102:    # "x-f"
        return (begins(fields, field, b"x-forwarded-proto", True)
                or (field.token == T_OTHER and begins(fields, field, b"x-forwarded-for", True))
                or begins(fields, field, b"x-forwarded", True))
    if third == 114:    # "x-r"
        return (begins(fields, field, b"x-real-ip", True) or begins(fields, field, b"x-remote-ip", True)
                or begins(fields, field, b"x-remote-addr", True))
    if third == 99:     # "x-c"
        return (begins(fields, field, b"x-client-ip", True)
                or begins(fields, field, b"x-cluster-client-ip", True))
    return third == 111 and (begins(fields, field, b"x-original-forwarded-for", True)
                             or begins(fields, field, b"x-originating-ip", True))


cdef inline bint is_hex(unsigned char c) noexcept:
    return 48 <= c <= 57 or 97 <= c | 0x20 <= 102


cdef bint has_broken_escape(const unsigned char* target, size_t size) noexcept:
    """Whether a "%" in the path is not followed by two hexadecimal digits (RFC 3986 §2.1). In the query it is common,
    and nobody minds."""
    cdef size_t i = 0
    if memchr(target, 37, size) is NULL:
        return False
    while i < size and target[i] != 63:
        if target[i] == 37 and not (i + 2 < size and is_hex(target[i + 1]) and is_hex(target[i + 2])):
            return True
        i += 1
    return False


cdef class VisitorExchange(Exchange):
    """An exchange on the edge: a visitor's request, carried to a connector.

    `ray` names it in logs, in the request to the origin and in the response. `set_cookie` may be set: the value of a
    Set-Cookie that is added to the application's response. `on_answer` is told of an application's response only.
    """

    @property
    def visitor(self):
        """The visitor's address as text, in bytes."""
        return self.client_address

    @property
    def authority(self):
        """The host asked for, with its port if it has one (RFC 9113 §8.3.1)."""
        return self._pseudo(T_AUTHORITY) or self._pseudo(T_HOST)

    cdef Fields outgoing_request(self):
        cdef Fields request = self.request
        cdef Fields link = Fields.__new__(Fields)
        cdef Field* field
        cdef uint32_t i
        cdef bint secure = self.acceptor.scheme == b"https"
        cdef bytes forwarded = None
        cdef bytes passed = None
        continue_if_expected(self)
        if request.find(T_AUTHORITY) is NULL and request.find(T_HOST) is not NULL:
            link.add_pair(b":authority", self.authority)
        for i in range(request.count):
            field = request.items + i
            if field.flags & HIDDEN:
                continue
            # What only an edge may say is not taken from a visitor; what belongs to a connection stays with it.
            if field.token in (T_UPGRADE, T_CONNECTION, T_KEEP_ALIVE, T_PROXY_CONNECTION,
                               T_TRANSFER_ENCODING, T_TRAILER, T_HTTP2_SETTINGS, T_HOST, T_EXPECT,
                               T_PROTOCOL):
                continue
            if self.extended and field.token in (T_METHOD, T_SEC_WEBSOCKET_KEY):
                # On a link it is the handshake of RFC 6455, as it reaches the application, with a key of ours.
                if field.token == T_METHOD:
                    link.add_pair(b":method", b"GET")
                continue
            if field.token == T_CDN_LOOP:
                passed = request._value(i) if passed is None else passed + b", " + request._value(i)
                continue
            if field.token == T_X_FORWARDED_FOR:
                if field.value_size:
                    if forwarded is None:
                        forwarded = request._value(i)
                    else:
                        forwarded = forwarded + b", " + request._value(i)
                continue
            if field.token == T_CONTENT_LENGTH and self.wants_upgrade:
                continue
            if edge_only(request, field):
                continue
            link.copy(request, field)
        link.add_pair(b"cf-connecting-ip", self.client_address)
        link.add_pair(b"cf-ray", self.ray)
        link.add_pair(b"x-forwarded-for", self.client_address if forwarded is None
                      else forwarded + b", " + self.client_address)
        link.add_pair(b"x-forwarded-proto", b"https" if secure else b"http")
        link.add_pair(b"cdn-loop", LOOP_ID if passed is None else passed + b", " + LOOP_ID)
        if self.wants_upgrade:
            link.add_pair(b"cf-cloudflared-proxy-connection-upgrade", b"websocket")
            if self.extended:
                self.websocket_key = new_websocket_key()
                link.add_pair(b"sec-websocket-key", self.websocket_key)
        if self.via_tunnel is not None:
            link.add_pair(VIA_TUNNEL, self.via_tunnel)
        return link

    cdef int retry_elsewhere(self) except -1:
        cdef VisitorExchange _alive = self
        if self.acceptor.again is None:
            self.acceptor.accept(self)
        else:
            self.acceptor.hand(self.acceptor.again, self)
        return 1

    cdef int request_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef VisitorExchange _alive = self
        cdef Side outbound
        if self.max_body >= 0:
            self.body += size
            if self.body > self.max_body and not self.status and not self.over:
                outbound, self.outbound = self.outbound, None
                if outbound is not None:
                    outbound.exchange = None
                    outbound.abandon(CANCEL)
                self.fail(413, "body_too_large")
        return Exchange.request_data(self, data, size)

    cdef int request_end(self, Fields trailers) except -1:
        cdef VisitorExchange _alive = self
        cdef uint32_t i
        if trailers is not None:
            # Some applications do not tell trailers from header fields.
            for i in range(trailers.count):
                if edge_only(trailers, trailers.items + i) or trailers.items[i].token == T_X_FORWARDED_FOR:
                    trailers.items[i].flags |= HIDDEN
        return Exchange.request_end(self, trailers)

    cdef int response_interim(self, Fields head, int status) except -1:
        """Early hints (RFC 8297) are passed on; what else is interim means something to the next hop only."""
        cdef VisitorExchange _alive = self
        cdef Field* block = head.find(T_LINK_RESPONSE_HEADERS)
        cdef Field* field
        cdef Fields hints
        cdef uint32_t i
        if (status != 103 or block is NULL or block.value_size > MAX_HINT_SIZE or self.hints >= MAX_HINTS
                or self.inbound is None or self.status):
            return 0
        self.hints += 1
        hints = Fields.__new__(Fields)
        hints.add_pair(b":status", b"103")
        try:
            parse(head.value(block), block.value_size, hints)
        except HeaderBlockError:
            return 0
        for i in range(1, hints.count):
            field = hints.items + i
            # What is about the connection or the content has no place here.
            if (T_HOST <= field.token <= T_CONTENT_LENGTH
                    or field.token in (T_CF_RAY, T_UNDERPASS_CAUSE, T_UNDERPASS_HOP)):
                field.flags |= HIDDEN
        return self.inbound.send_head(hints, 103, False)

    cdef int response_head(self, Fields head, int status, bint end) except -1:
        cdef VisitorExchange _alive = self
        cdef Field* meta
        if self.over or self.status:
            return 0
        if head.find(T_LINK_RESPONSE_HEADERS) is NULL:
            # No origin made this: the connector says what went wrong (or is no connector).
            meta = head.find(T_LINK_RESPONSE_META)
            cause = cause_told(head.get(b"cf-cloudflared-cause", b""))
            self.told = head.get(b"cf-cloudflared-cause-by", b"") != b"edge"
            if self.outbound is not None:
                self.outbound.exchange = None
                if not end:
                    self.outbound.abandon(0)
                self.outbound = None
            status = status if meta is not NULL and status >= 400 else 502
            if not self.refused(status, cause):
                self.fail(status, cause)
            return 0
        if end:
            self.compresses = False
        return Exchange.response_head(self, head, status, end)

    cdef bint refused(self, int status, str cause) except -1:
        """Whether another may carry the request on, and has been asked to, when one has said that it cannot."""
        cdef dict seen = self.acceptor.refusals
        if seen is None or cause not in seen:
            return False
        self.refusal, self.refusal_status = cause, status
        return self.sent_again(HARDLY_SEEN if seen[cause] else UNSEEN)

    cdef Fields incoming_response(self, Fields head, int status):
        return self.visitor_response(head, status)

    cdef Fields visitor_response(self, Fields head, int status):
        cdef Fields response = Fields.__new__(Fields)
        cdef Field* block = head.find(T_LINK_RESPONSE_HEADERS)
        cdef Field* outer = head.find(T_CONTENT_LENGTH)
        cdef Field* field
        cdef uint32_t i
        cdef bint upgraded
        cdef bint length_seen = False
        cdef Side outbound
        cdef set nominated = None
        response.add_pair(b":status", b"%d" % status)
        try:
            parse(head.value(block), block.value_size, response)
        except HeaderBlockError:
            # Nobody can tell what the rest of the response belongs to.
            outbound, self.outbound = self.outbound, None
            if outbound is not None:
                outbound.exchange = None
                outbound.abandon(PROTOCOL_ERROR)
            return None
        upgraded = (self.wants_upgrade and status == 200
                    and (response.find(T_UPGRADE) is not NULL or response.find(T_SEC_WEBSOCKET_ACCEPT) is not NULL))
        if self.extended:
            # 2xx means that the tunnel stands, so nothing else may be told with it.
            if upgraded:
                upgraded = response.value_bytes(T_SEC_WEBSOCKET_ACCEPT) == websocket_accept(self.websocket_key)
            if not upgraded and 200 <= status < 300:
                self.let_go(CANCEL)
                self.fail(502, "not_a_websocket")
                return None
            response.hide(T_SEC_WEBSOCKET_ACCEPT)
        for i in range(1, response.count):
            field = response.items + i
            if field.token in (T_TRANSFER_ENCODING, T_KEEP_ALIVE, T_PROXY_CONNECTION, T_TRAILER, T_CF_RAY,
                               T_CONNECTION, T_UPGRADE, T_TE, T_HTTP2_SETTINGS, T_UNDERPASS_CAUSE, T_UNDERPASS_HOP):
                # (Why there is no answer of an application is ours to say.)
                field.flags |= HIDDEN
                if field.token == T_CONNECTION:
                    if nominated is None:
                        nominated = set()
                    nominated.update(response._value(i).lower().split(b","))
            elif field.token == T_CONTENT_LENGTH:
                # The link has checked its own against the content; a serialized one must not say otherwise.
                if (upgraded or status == 204 or outer is NULL or length_seen
                        or not same_value(response, field, head, outer)):
                    field.flags |= HIDDEN
                length_seen = True
        if nominated is not None:
            hide_nominated(response, nominated)
        if upgraded:
            self.tunnel = True
        if upgraded and not self.extended:
            response.add_pair(b"Connection", b"Upgrade")
            response.add_pair(b"Upgrade", b"websocket")
        response.add_pair(b"CF-Ray", self.ray)
        if self.hsts is not None and not response.get(HSTS):
            response.add_pair(HSTS, self.hsts)
        if self.compresses and status == 200 and not upgraded and may_code(response):
            response.add_pair(b"Vary", b"Accept-Encoding")
            if (self.request.value_bytes(T_METHOD) != b"HEAD"
                    and accepts_gzip(self.request.get(b"accept-encoding", b""))):
                describe_coded(response)
                self.coding = Gzip()
        if self.set_cookie is not None:
            response.add_pair(b"Set-Cookie", self.set_cookie)
        if self.on_answer is not None:
            self.tell_answer(status, response)
        return response

    cdef int response_data(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef bytes coded
        if self.coding is None:
            return Exchange.response_data(self, data, size)
        coded = self.coding.code(data, size)
        return Exchange.response_data(self, <const unsigned char*>PyBytes_AS_STRING(coded), PyBytes_GET_SIZE(coded))

    cdef int response_end(self, Fields trailers) except -1:
        cdef VisitorExchange _alive = self
        cdef bytes rest
        if self.coding is not None and not self.response_ended:
            rest = self.coding.finish()
            Exchange.response_data(self, <const unsigned char*>PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
        return Exchange.response_end(self, trailers)

    cdef int drained(self, Side side, Py_ssize_t size) except -1:
        if self.coding is not None and side is not self.outbound:
            size = self.coding.released(size)
        return Exchange.drained(self, side, size)

    cdef int shown_status(self, int status) noexcept:
        return 101 if self.tunnel and not self.extended else status

    cdef Fields local_response(self, Fields head, int status):
        head.add_pair(b"CF-Ray", self.ray)
        if self.hsts is not None:
            head.add_pair(HSTS, self.hsts)
        return head

    cdef int over_with(self) except -1:
        cdef VisitorExchange _alive = self
        Exchange.over_with(self)
        if self.number and self.acceptor.recent is not None:
            self.acceptor.recent.ended(self, self.number, self.told)
        return 0

    def limit_body(self, int64_t size):
        """Allow the request `size` bytes of content, -1 for any number. False when it has said that it has more: then
        it has been answered with 413."""
        cdef Field* length = NULL
        if self.request is not None:
            length = self.request.find(T_CONTENT_LENGTH)
        self.max_body = size
        if (size >= 0 and length is not NULL
                and parse_length(self.request.value(length), length.value_size) > size):
            self.fail(413, "body_too_large")
            return False
        return True

    def fail(self, int status, str cause):
        """Answer with a page that says what went wrong."""
        if self.over or self.status or self.inbound is None:
            return
        self.failed(cause)
        if self.acceptor.on_failure is None:
            self.respond(status, ())
        else:
            self.acceptor.on_failure(self, status, cause)


cdef bytes new_websocket_key():
    """RFC 6455 §4.1."""
    return b64encode(os.urandom(16))


cdef bytes websocket_accept(bytes key):
    """What an application answers to it (§4.2.2)."""
    from hashlib import sha1

    # The protocol's choice, which protects nothing here.
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())


cdef bytes b64encode(bytes data):
    # A connector never comes here, and does not load it.
    from binascii import b2a_base64

    return b2a_base64(data, newline=False)


cdef int passes(Fields request) except -1:
    """How often an edge of ours is among those that a request has passed (RFC 8586 §2)."""
    cdef Field* field
    cdef uint32_t i
    cdef int count = 0
    for i in range(request.count):
        field = request.items + i
        if field.token == T_CDN_LOOP and not field.flags & HIDDEN:
            for member in request._value(i).lower().split(b","):
                if member.partition(b";")[0].strip(b" \t") == LOOP_ID:
                    count += 1
    return count


cdef str cause_told(bytes text):
    """A cause as a connector gave it, which may be anybody's text: it goes into logs and is counted."""
    cdef str cause = "connector"
    cdef unsigned char c
    if not 0 < len(text) <= MAX_CAUSE:
        return cause
    for c in text:
        if not (97 <= c <= 122 or 48 <= c <= 57 or c == 95):
            return cause
    return text.decode("ascii")


cdef bint same_value(Fields a, Field* x, Fields b, Field* y) noexcept:
    cdef const unsigned char* p = a.value(x)
    cdef const unsigned char* q = b.value(y)
    cdef uint32_t i
    if x.value_size != y.value_size:
        return False
    for i in range(x.value_size):
        if p[i] != q[i]:
            return False
    return True


cdef bint is_connect(Fields request) noexcept:
    cdef Field* method = request.find(T_METHOD)
    return method is not NULL and value_is(request, method, b"CONNECT", 7)


cdef bint asks_for_websocket(Fields request) noexcept:
    cdef Field* protocol = request.find(T_PROTOCOL)
    return same_text(request.value(protocol), protocol.value_size, b"websocket")


cdef class VisitorAcceptor(Acceptor):
    """Makes a `VisitorExchange` of every request of one visitor's connection.

    handler(exchange): route it. on_failure(exchange, status, cause): answer when no origin did. location: the
    edge's own short name, which ends every ray. `max_body` may be set: bytes of content a request may have, -1 for
    any number; more is answered with 413. So may `hsts`: a value of Strict-Transport-Security for responses that have
    none (RFC 6797); only where the scheme is https. And `compresses`: see `contentcoding`. And `again`: again(exchange)
    routes a request that is sent again, in the place of the handler; and `refusals`: causes by which it is sent again
    though a connector has answered, True for those that say it was hardly seen by an application, False for certainly
    not. `again` finds such a cause in `refusal`, and has to `fail` with it if there is nobody else.
    """

    def __init__(self, handler, counters, on_error, on_failure, bytes client_address, bytes scheme,
                 bytes location=b"LOCAL"):
        Acceptor.__init__(self, handler, counters, on_error)
        self.on_failure = on_failure
        self.client_address = client_address
        self.scheme = scheme
        self.location = location
        self.max_body = -1

    cdef int accept(self, Exchange exchange) except -1:
        cdef Field* path = exchange.request.find(T_PATH)
        cdef VisitorExchange visitors = <VisitorExchange>exchange
        # (One that is sent again comes here again.)
        if self.recent is not None and not visitors.number:
            visitors.number = self.recent.begun(visitors, visitors.ray, path)
        if path is not NULL and has_broken_escape(exchange.request.value(path), path.value_size):
            # As nginx, Apache and Go do: one application would see another path in it than the next.
            exchange.fail(400, "bad_path")
            return 0
        if exchange.request.find(T_CDN_LOOP) is not NULL and passes(exchange.request) >= MAX_PASSES:
            exchange.fail(508, "loop")
            return 0
        if not asks_for_websocket(exchange.request) if exchange.extended else is_connect(exchange.request):
            exchange.fail(501, "unsupported_connect")
            return 0
        if self.max_body >= 0 and not exchange.limit_body(self.max_body):
            return 0
        return Acceptor.accept(self, exchange)

    cdef Exchange new_exchange(self):
        cdef VisitorExchange exchange = VisitorExchange.__new__(VisitorExchange)
        exchange.counters = self.counters
        exchange.acceptor = self
        exchange.client_address = self.client_address
        exchange.max_body = -1
        exchange.hsts = self.hsts
        exchange.compresses = self.compresses
        exchange.ray = hex16(next_random(&ray_state)) + b"-" + self.location
        exchange.times_out = True
        return exchange


cdef class EdgeExchange(Exchange):
    """A request the edge itself makes of a connector, with a `PythonSide` as its inbound side."""

    def __init__(self, counters):
        self.counters = counters

    def fail(self, int status, str cause):
        """There is no visitor to answer: the asking side learns by `on_abandoned`."""
        self.drop(CANCEL)


cdef class PeerExchange(Exchange):
    """An exchange on the edge: another process of this edge has the visitor, a link here carries the request.

    Heads pass as they are, both ways. What goes wrong is told as a connector would.
    """

    def pass_on(self, bint again):
        """Whether the next side it is joined to is another process again, which has to be told the tunnel too."""
        cdef Field* field
        cdef uint32_t i
        if self.request is None:
            return
        for i in range(self.request.count):
            field = self.request.items + i
            if begins(self.request, field, VIA_TUNNEL, True):
                field.flags = field.flags & ~HIDDEN if again else field.flags | HIDDEN

    cdef int response_interim(self, Fields head, int status) except -1:
        cdef PeerExchange _alive = self
        if self.inbound is None or self.hints >= MAX_HINTS:
            return 0
        self.hints += 1
        return self.inbound.send_head(head, status, False)

    cdef int retry_elsewhere(self) except -1:
        cdef PeerExchange _alive = self
        self.acceptor.accept(self)
        return 1

    def fail(self, int status, str cause):
        """An answer without user fields, which the other process makes a page of."""
        if self.over or self.status or self.inbound is None:
            return
        self.failed(cause)
        self.respond(status, ((b"cf-cloudflared-response-meta", META_CONNECTOR),
                              (b"cf-cloudflared-cause", cause.encode()),
                              (b"cf-cloudflared-cause-by", b"edge")))


cdef class PeerAcceptor(Acceptor):
    """Makes a `PeerExchange` of every request from another process."""

    cdef Exchange new_exchange(self):
        cdef PeerExchange exchange = PeerExchange.__new__(PeerExchange)
        exchange.counters = self.counters
        exchange.acceptor = self
        exchange.tunnel = b""
        return exchange

    cdef int accept(self, Exchange exchange) except -1:
        cdef Fields request = exchange.request
        cdef Field* field
        cdef uint32_t i
        for i in range(request.count):
            field = request.items + i
            if not field.flags & HIDDEN and begins(request, field, VIA_TUNNEL, True):
                (<PeerExchange>exchange).tunnel = request._value(i)
                field.flags |= HIDDEN
        return Acceptor.accept(self, exchange)
