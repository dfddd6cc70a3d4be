# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""HTTP/1.1 heads (RFC 9112).

httptools (llhttp) parses; this module finds where a head ends, gives it exactly that, and then applies the rules
that keep two parties from disagreeing about where a message ends (RFC 9112 §6.3 and §11.2): one Host, one
Content-Length, never both length and chunks in a request, no transfer coding but `chunked`. It never lets the
parser decide about content.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memchr, memcpy, strlen

from underpass.core.fields cimport (
    HIDDEN, T_AUTHORITY, T_CONNECTION, T_CONTENT_LENGTH, T_EXPECT, T_HOST, T_HTTP2_SETTINGS, T_KEEP_ALIVE, T_METHOD,
    T_PATH, T_PROXY_CONNECTION, T_TE, T_TRAILER, T_TRANSFER_ENCODING, T_UPGRADE, Field, Fields,
)
from underpass.core.headerblock cimport canonical_name
from underpass.core.heads cimport (
    NO_LENGTH, is_authority, is_field_value, is_target, is_token, list_has, parse_length, same_text,
)
from underpass.core.output cimport Octets, Output

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

UNSUPPORTED_VERSION = "unsupported HTTP version"
UNSUPPORTED_METHOD = "unsupported method"
UNSUPPORTED_CODING = "unsupported Transfer-Encoding"

# RFC 9110 §15 and the registry it points to. (Python's own table is an enum, which costs more to make than the rest
# of this module.)
cdef dict REASONS = {
    100: b"Continue", 101: b"Switching Protocols", 102: b"Processing", 103: b"Early Hints", 200: b"OK",
    201: b"Created", 202: b"Accepted", 203: b"Non-Authoritative Information", 204: b"No Content",
    205: b"Reset Content", 206: b"Partial Content", 207: b"Multi-Status", 208: b"Already Reported", 226: b"IM Used",
    300: b"Multiple Choices", 301: b"Moved Permanently", 302: b"Found", 303: b"See Other", 304: b"Not Modified",
    305: b"Use Proxy", 307: b"Temporary Redirect", 308: b"Permanent Redirect", 400: b"Bad Request",
    401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    406: b"Not Acceptable", 407: b"Proxy Authentication Required", 408: b"Request Timeout", 409: b"Conflict",
    410: b"Gone", 411: b"Length Required", 412: b"Precondition Failed", 413: b"Content Too Large",
    414: b"URI Too Long", 415: b"Unsupported Media Type", 416: b"Range Not Satisfiable", 417: b"Expectation Failed",
    421: b"Misdirected Request", 422: b"Unprocessable Content", 423: b"Locked", 424: b"Failed Dependency",
    425: b"Too Early", 426: b"Upgrade Required", 428: b"Precondition Required", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 451: b"Unavailable For Legal Reasons", 500: b"Internal Server Error",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported", 506: b"Variant Also Negotiates", 507: b"Insufficient Storage",
    508: b"Loop Detected", 510: b"Not Extended", 511: b"Network Authentication Required",
}

# Fields of one head. HPACK and the header block (docs: wire protocol §2.5) carry 1,024 at most, and a link adds a few
# of its own: what got through here must not fail there.
cdef uint32_t MAX_FIELDS = 1000


cdef class HeadTarget:
    """Collects one head; see the .pxd."""

    def on_url(self, bytes url):
        self.url = url if self.url is None else self.url + url

    def on_header(self, bytes name, bytes value):
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(value)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
        if self.complete:
            self.overrun = True
        elif self.fields.count >= self.most:
            self.too_many = True
        else:
            # RFC 9112 §5.1: whitespace after a value is no part of it; llhttp leaves it.
            while size > 0 and (text[size - 1] == 32 or text[size - 1] == 9):
                size -= 1
            self.fields.add(<const unsigned char*>PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name),
                            text, <size_t>size, 0)

    def on_headers_complete(self):
        if self.complete:
            self.overrun = True
        self.complete = True

    def on_message_complete(self):
        self.message_complete = True


# What llhttp says, where it matters which status answers it.
cdef dict FAULTS = {
    "Invalid HTTP version": UNSUPPORTED_VERSION,
    "Invalid method encountered": UNSUPPORTED_METHOD,
    "Expected space after method": UNSUPPORTED_METHOD,
    "Request has invalid `Transfer-Encoding`": UNSUPPORTED_CODING,
}

# Named by Connection or not, these are read for what they say, and hidden where that is due.
cdef frozenset NOT_NOMINATED = frozenset(
    (b"close", b"keep-alive", b"upgrade", b"te", b"host", b"content-length", b"transfer-encoding"))


cdef int hide_nominated(Fields fields, set listed) except -1:
    """RFC 9110 §7.6.1: a field that Connection names is for this connection alone."""
    cdef uint32_t i
    names = {name.strip(b" \t") for name in listed} - NOT_NOMINATED
    if names:
        for i in range(fields.count):
            # Pseudo fields have a colon, which no list of names has a use for.
            if fields.items[i].token > T_HOST or fields.items[i].token == 0:
                if fields._name(i).lower() in names:
                    fields.items[i].flags |= HIDDEN
    return 0


cdef class HeadReader:
    """Reads the heads of one direction of a connection, one after another."""

    def __cinit__(self, bint request, Py_ssize_t max_head):
        self.request = request
        self.max_head = max_head
        self.stash = None
        self.parser = None
        self.scheme = b"http"

    cdef int broken(self, str fault) except -1:
        self.fault = fault
        self.parser = None
        return HEAD_BROKEN

    cdef int next(self, const unsigned char** data, Py_ssize_t* size) except -1:
        cdef const unsigned char* start = data[0]
        cdef Py_ssize_t held = self.stash.size if self.stash is not None else 0
        cdef Py_ssize_t total, end, used
        cdef int result
        if held == 0 and self.request:
            while size[0] > 0 and (data[0][0] == 13 or data[0][0] == 10):
                # RFC 9112 §2.2: empty lines before a request line are skipped; the head's timer bounds them.
                data[0] += 1
                size[0] -= 1
            start = data[0]
        if size[0] <= 0:
            return HEAD_MORE
        if held == 0:
            end = find_end(start, size[0], 0)
            if end < 0:
                if size[0] > self.max_head:
                    return HEAD_TOO_LARGE
                if not (is_token(start, 1) if self.request else start[0] == 72):
                    # TLS, say: what begins so becomes no head, however long one waits.
                    return self.broken("not HTTP")
                if self.stash is None:
                    self.stash = Output()
                self.stash.append(start, size[0])
                self.scanned = size[0]
                data[0] += size[0]
                size[0] = 0
                return HEAD_MORE
            if end > self.max_head:
                return HEAD_TOO_LARGE
            data[0] += end
            size[0] -= end
            return self.parse(start, end)
        used = size[0]
        if used > self.max_head + 1 - held:
            used = self.max_head + 1 - held
        self.stash.append(start, used)
        total = self.stash.size
        end = find_end(self.stash.base, total, self.scanned - 3 if self.scanned > 3 else 0)
        self.scanned = total
        if end < 0:
            if total > self.max_head:
                return HEAD_TOO_LARGE
            data[0] += used
            size[0] -= used
            return HEAD_MORE
        if end > self.max_head:
            return HEAD_TOO_LARGE
        data[0] += end - held
        size[0] -= end - held
        result = self.parse(self.stash.base, end)
        self.stash.discard()
        self.scanned = 0
        return result

    cdef int parse(self, const unsigned char* head, Py_ssize_t size) except -1:
        cdef HeadTarget target = self.target
        if self.parser is None:
            target = self.target = HeadTarget.__new__(HeadTarget)
            self.parser = (HttpRequestParser if self.request else HttpResponseParser)(target)
        target.fields = self.fields = Fields.__new__(Fields)
        target.url = None
        target.complete = target.message_complete = target.overrun = target.too_many = False
        self.fault = None
        if not self.request:
            # `:status` goes first, and its text stands at a fixed place (RFC 9112 §4).
            if size < 13 or not is_token(head + 9, 3):
                return self.broken("malformed status line")
            self.fields.add(<const unsigned char*>b":status", 7, head + 9, 3, 0)
        target.most = self.fields.count + MAX_FIELDS
        upgraded = False
        try:
            self.parser.feed_data(PyBytes_FromStringAndSize(<const char*>head, size))
        except HttpParserUpgrade:
            upgraded = True
        except HttpParserError as error:
            return self.broken(self.fault_of(str(error), head, size))
        if target.too_many:
            self.parser = None
            return HEAD_TOO_LARGE
        if not target.complete or target.overrun:
            return self.broken("malformed head")
        if upgraded:
            # It has stopped for good. One that waits for content may be kept by `pass_content`.
            self.parser = None
        return self.finish_request(head, size) if self.request else self.finish_response(head, size)

    cdef str fault_of(self, str said, const unsigned char* head, Py_ssize_t size):
        """What is wrong, in our words where it matters which status answers it."""
        cdef const unsigned char* space
        cdef str fault = FAULTS.get(said, said)
        if fault is UNSUPPORTED_METHOD:
            # llhttp knows methods by name; a name it does not know is not malformed (RFC 9110 §9.1).
            space = <const unsigned char*>memchr(head, 32, <size_t>size)
            if space is NULL or not is_token(head, <size_t>(space - head)):
                return "malformed request line"
        return fault or "malformed head"

    cdef int pass_content(self, const unsigned char* data, Py_ssize_t size) except -1:
        if self.parser is None:
            return 0
        if not self.target.message_complete and size > 0:
            try:
                self.parser.feed_data(PyBytes_FromStringAndSize(<const char*>data, size))
            except HttpParserError:
                self.parser = None
                return 0
        if not self.target.message_complete:
            self.parser = None
        return 0

    cdef int take_connection_fields(self) except -1:
        """Read Connection, Content-Length and Transfer-Encoding, and hide what belongs to this connection."""
        cdef Fields fields = self.fields
        cdef Field* field
        cdef const unsigned char* value
        cdef uint32_t i
        cdef int64_t length
        cdef bint close = False, keep = False, chunked = False, coded = False
        cdef bint has_upgrade = False
        cdef set nominated = None
        self.length = NO_LENGTH
        self.upgrade = self.expects_continue = False
        for i in range(fields.count):
            field = fields.items + i
            value = fields.value(field)
            if not is_field_value(value, field.value_size):
                return self.broken("invalid field value")
            if field.token < T_HOST:
                if fields.name(field)[0] == 58 and i > 0:
                    return self.broken("invalid field name")
                continue
            if field.token == T_CONNECTION:
                close |= list_has(value, field.value_size, b"close")
                keep |= list_has(value, field.value_size, b"keep-alive")
                self.upgrade |= list_has(value, field.value_size, b"upgrade")
                field.flags |= HIDDEN
                if not (same_text(value, field.value_size, b"keep-alive")
                        or same_text(value, field.value_size, b"close")
                        or same_text(value, field.value_size, b"upgrade")):
                    if nominated is None:
                        nominated = set()
                    nominated.update(fields._value(i).lower().split(b","))
            elif field.token == T_UPGRADE:
                # Of a request, only what a tunnel can carry on; the rest may be ignored (RFC 9110 §7.8).
                has_upgrade |= not self.request or list_has(value, field.value_size, b"websocket")
            elif field.token in (T_KEEP_ALIVE, T_PROXY_CONNECTION, T_TRAILER, T_HTTP2_SETTINGS):
                field.flags |= HIDDEN
            elif field.token == T_TE:
                if not same_text(value, field.value_size, b"trailers"):
                    field.flags |= HIDDEN
            elif field.token == T_CONTENT_LENGTH:
                length = parse_length(value, field.value_size)
                if length < 0 or (self.length != NO_LENGTH and self.length != length):
                    return self.broken("invalid Content-Length")
                if self.length == length:
                    field.flags |= HIDDEN
                self.length = length
            elif field.token == T_TRANSFER_ENCODING:
                # One coding, once: a list is how one party sees chunks where another does not.
                if coded:
                    return self.broken("repeated Transfer-Encoding")
                coded = True
                chunked = same_text(value, field.value_size, b"chunked")
                if not chunked:
                    # Nobody was asked for another (RFC 9110 §10.1.4), so nobody could undo it.
                    return self.broken(UNSUPPORTED_CODING)
                field.flags |= HIDDEN
            elif field.token == T_EXPECT:
                if same_text(value, field.value_size, b"100-continue"):
                    self.expects_continue = True
                    field.flags |= HIDDEN
        if nominated is not None:
            hide_nominated(fields, nominated)
        self.upgrade = self.upgrade and has_upgrade
        if not self.upgrade:
            fields.hide(T_UPGRADE)
        self.keep_alive = not close if self.minor else keep and not close
        if coded:
            if self.length != NO_LENGTH:
                # RFC 9112 §6.3: an attempt at smuggling or splitting, if it is not a mistake.
                return self.broken("both Content-Length and Transfer-Encoding")
            if self.minor == 0:
                return self.broken("Transfer-Encoding in HTTP/1.0")
            self.framing = BY_CHUNKS
        elif self.length > 0:
            self.framing = BY_LENGTH
        elif self.length == 0 or self.request:
            self.framing = NO_CONTENT
        else:
            self.framing = BY_CLOSE
        return HEAD_READY

    cdef int finish_request(self, const unsigned char* head, Py_ssize_t size) except -1:
        cdef Fields plain = self.fields
        cdef Fields fields = Fields.__new__(Fields)
        cdef const unsigned char* space = <const unsigned char*>memchr(head, 32, <size_t>size)
        cdef const unsigned char* line_end = <const unsigned char*>memchr(head, 13, <size_t>size)
        cdef const unsigned char* target
        cdef const unsigned char* authority = NULL
        cdef Py_ssize_t authority_size = 0
        cdef Py_ssize_t target_size, at
        cdef Field* host = NULL
        cdef uint32_t i
        if space is NULL or line_end is NULL or line_end - head < 14 or self.target.url is None:
            return self.broken("malformed request line")
        if ((line_end - 9)[0] != 32 or (line_end - 3)[0] != 49 or (line_end - 2)[0] != 46
                or not 48 <= (line_end - 1)[0] <= 49):
            return self.broken(UNSUPPORTED_VERSION)
        self.minor = (line_end - 1)[0] - 48
        target = <const unsigned char*>PyBytes_AS_STRING(self.target.url)
        target_size = PyBytes_GET_SIZE(self.target.url)
        # Exactly one space each side of the target: what llhttp skips, another parser may not.
        if (not is_token(head, <size_t>(space - head)) or not is_target(target, <size_t>target_size)
                or (space - head) + 1 + target_size + 9 != line_end - head):
            return self.broken("malformed request line")
        for i in range(plain.count):
            if plain.items[i].token == T_HOST:
                if host is not NULL:
                    return self.broken("repeated Host")
                host = plain.items + i
        if host is NULL and self.minor:
            return self.broken("missing Host")
        if host is not NULL:
            authority = plain.value(host)
            authority_size = host.value_size
            host.flags |= HIDDEN
        if target[0] != 47 and not (target_size == 1 and target[0] == 42):
            # Absolute form (RFC 9112 §3.2.2): its authority goes before Host.
            at = 0
            if target_size > 7 and same_text(target, 7, b"http://"):
                at = 7
            elif target_size > 8 and same_text(target, 8, b"https://"):
                at = 8
            else:
                return self.broken("unsupported request target")
            target += at
            target_size -= at
            at = 0
            while at < target_size and target[at] != 47 and target[at] != 63:
                at += 1
            authority = target
            authority_size = at
            target += at
            target_size -= at
            if authority_size == 0:
                # RFC 9110 §4.2.1: an http URI without a host is none.
                return self.broken("invalid Host")
        if not is_authority(authority, <size_t>authority_size):
            return self.broken("invalid Host")
        fields.add(<const unsigned char*>b":method", 7, head, <size_t>(space - head), 0)
        fields.add(<const unsigned char*>b":scheme", 7,
                   <const unsigned char*>PyBytes_AS_STRING(self.scheme), <size_t>PyBytes_GET_SIZE(self.scheme), 0)
        fields.add(<const unsigned char*>b":authority", 10, authority, <size_t>authority_size, 0)
        if target_size and target[0] == 63:
            # An absolute form without a path: "/" and the query.
            fields.reserve(<size_t>target_size + 6)
            memcpy(fields.arena + fields.used, <const char*>b":path/", 6)
            memcpy(fields.arena + fields.used + 6, target, <size_t>target_size)
            fields.push(5, <uint32_t>target_size + 1, 0)
        elif target_size:
            fields.add(<const unsigned char*>b":path", 5, target, <size_t>target_size, 0)
        else:
            fields.add(<const unsigned char*>b":path", 5, <const unsigned char*>b"/", 1, 0)
        self.fields = plain
        if self.take_connection_fields() != HEAD_READY:
            return HEAD_BROKEN
        if self.upgrade and (self.minor == 0 or self.framing != NO_CONTENT
                             or not same_text(head, <size_t>(space - head), b"get")):
            # RFC 6455 §4.1; RFC 9110 §7.8 about HTTP/1.0.
            self.upgrade = False
            plain.hide(T_UPGRADE)
        for i in range(plain.count):
            if not plain.items[i].flags & HIDDEN:
                fields.copy(plain, plain.items + i)
        self.fields = fields
        return HEAD_READY

    cdef int finish_response(self, const unsigned char* head, Py_ssize_t size) except -1:
        # llhttp has checked that this reads "HTTP/d.d ddd", and then nothing or a space.
        if head[5] != 49 or head[6] != 46 or not 48 <= head[7] <= 49 or head[8] != 32:
            return self.broken(UNSUPPORTED_VERSION)
        self.minor = head[7] - 48
        self.status = (head[9] - 48) * 100 + (head[10] - 48) * 10 + (head[11] - 48)
        if not 100 <= self.status <= 999:
            return self.broken("invalid status")
        if not is_field_value(head + 12, <size_t>(<const unsigned char*>memchr(head, 13, <size_t>size) - head - 12)):
            return self.broken("malformed status line")
        return self.take_connection_fields()


cdef Py_ssize_t find_end(const unsigned char* data, Py_ssize_t size, Py_ssize_t start) noexcept:
    """Offset just after the first CR LF CR LF at or after `start`, or -1."""
    cdef const unsigned char* at = data + start
    cdef const unsigned char* end = data + size
    while at < end:
        at = <const unsigned char*>memchr(at, 10, <size_t>(end - at))
        if at is NULL:
            return -1
        if at - data >= 3 and (at - 1)[0] == 13 and (at - 2)[0] == 10 and (at - 3)[0] == 13:
            return at + 1 - data
        at += 1
    return -1


cdef inline int write_line(Output out, const unsigned char* name, uint32_t name_size, const unsigned char* value,
                           uint32_t value_size, bint canonical) except -1:
    cdef unsigned char* place = out.reserve(<Py_ssize_t>name_size + value_size + 4)
    memcpy(place, name, name_size)
    if canonical:
        canonical_name(place, name_size)
    place += name_size
    place[0] = 58
    place[1] = 32
    memcpy(place + 2, value, value_size)
    place += 2 + value_size
    place[0] = 13
    place[1] = 10
    out.advance(<Py_ssize_t>name_size + value_size + 4)
    return 0


cdef int write_request_head(Output out, Fields fields, bytes before) except -1:
    # `before`: scheme and authority, if the target shall have the absolute form.
    cdef Field* method = fields.find(T_METHOD)
    cdef Field* path = fields.find(T_PATH)
    cdef Field* authority = fields.find(T_AUTHORITY)
    cdef Field* field
    cdef uint32_t i
    if method is NULL:
        raise ValueError("request head without a method")
    out.append(fields.value(method), method.value_size)
    out.append(<const unsigned char*>b" ", 1)
    if before is not None and path is not NULL:
        out.append_bytes(before)
        if fields.value(path)[0] != 42:
            # RFC 9112 §3.2.4: a proxy is asked for "*" by an address without a path.
            out.append(fields.value(path), path.value_size)
    elif path is not NULL:
        out.append(fields.value(path), path.value_size)
    elif authority is not NULL:
        # CONNECT: the authority form (RFC 9112 §3.2.3).
        out.append(fields.value(authority), authority.value_size)
    else:
        out.append(<const unsigned char*>b"*", 1)
    out.append(<const unsigned char*>b" HTTP/1.1\r\n", 11)
    if authority is not NULL:
        write_line(out, <const unsigned char*>b"Host", 4, fields.value(authority), authority.value_size, False)
    else:
        field = fields.find(T_HOST)
        if field is not NULL:
            write_line(out, <const unsigned char*>b"Host", 4, fields.value(field), field.value_size, False)
        else:
            out.append(<const unsigned char*>b"Host: \r\n", 8)
    for i in range(fields.count):
        field = fields.items + i
        if (field.flags & HIDDEN or 0 < field.token <= T_HOST
                or field.token in (T_CONTENT_LENGTH, T_TRANSFER_ENCODING)):
            continue
        write_line(out, fields.name(field), field.name_size, fields.value(field), field.value_size, True)
    return 0


cdef int write_response_head(Output out, Fields fields, int status, bint upgrade) except -1:
    cdef Field* field
    cdef uint32_t i
    cdef bytes reason = REASONS.get(status, b"")
    cdef unsigned char* place = out.reserve(15 + PyBytes_GET_SIZE(reason))
    memcpy(place, <const char*>b"HTTP/1.1 ", 9)
    place[9] = <unsigned char>(48 + status // 100)
    place[10] = <unsigned char>(48 + status // 10 % 10)
    place[11] = <unsigned char>(48 + status % 10)
    place[12] = 32
    memcpy(place + 13, PyBytes_AS_STRING(reason), <size_t>PyBytes_GET_SIZE(reason))
    place += 13 + PyBytes_GET_SIZE(reason)
    place[0] = 13
    place[1] = 10
    out.advance(15 + PyBytes_GET_SIZE(reason))
    for i in range(fields.count):
        field = fields.items + i
        if field.flags & HIDDEN or 0 < field.token < T_HOST or field.token == T_TRANSFER_ENCODING:
            continue
        if not upgrade and field.token in (T_CONNECTION, T_KEEP_ALIVE, T_PROXY_CONNECTION, T_UPGRADE):
            continue
        write_line(out, fields.name(field), field.name_size, fields.value(field), field.value_size, True)
    return 0


cdef int write_field(Output out, const char* name, const char* value) except -1:
    return write_line(out, <const unsigned char*>name, <uint32_t>strlen(name),
                      <const unsigned char*>value, <uint32_t>strlen(value), False)


cdef int write_length(Output out, int64_t length) except -1:
    cdef char digits[20]
    cdef int at = 19
    digits[19] = 0
    while True:
        at -= 1
        digits[at] = <char>(48 + length % 10)
        length //= 10
        if length == 0:
            return write_field(out, b"Content-Length", digits + at)


cdef int end_head(Output out) except -1:
    return out.append(<const unsigned char*>b"\r\n", 2)


def read_head(data, bint request, Py_ssize_t max_head=65536):
    """(pairs, facts, bytes left over) of the first head in `data`; None if it is not complete (for tests).

    Raises ValueError with the fault, or OverflowError if the head is over `max_head`.
    """
    cdef HeadReader reader = HeadReader(request, max_head)
    cdef Octets octets = Octets(data)
    cdef const unsigned char* at = octets.base
    cdef Py_ssize_t left = octets.size
    cdef int event
    event = reader.next(&at, &left)
    if event == HEAD_MORE:
        return None
    if event == HEAD_TOO_LARGE:
        raise OverflowError("head over its limit")
    if event == HEAD_BROKEN:
        raise ValueError(reader.fault)
    return list(reader.fields), {
        "status": reader.status, "minor": reader.minor, "keep_alive": bool(reader.keep_alive),
        "framing": ("none", "length", "chunks", "close")[reader.framing], "length": reader.length,
        "upgrade": bool(reader.upgrade), "expects_continue": bool(reader.expects_continue),
    }, left


def write_request(Fields fields not None, bytes before=None):
    """The bytes of a request head without framing fields (for tests)."""
    cdef Output out = Output()
    write_request_head(out, fields, before)
    end_head(out)
    return out.take()


def write_response(Fields fields not None, int status, bint upgrade=False):
    """The bytes of a response head (for tests)."""
    cdef Output out = Output()
    write_response_head(out, fields, status, upgrade)
    end_head(out)
    return out.take()
