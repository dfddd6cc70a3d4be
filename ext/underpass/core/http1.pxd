# HTTP/1.1 heads (RFC 9112): reading through httptools, writing, and how a message's content is delimited (§6).

from libc.stdint cimport int64_t, uint32_t

from underpass.core.fields cimport Fields
from underpass.core.output cimport Backlog, Output

cdef enum HeadEvent:
    HEAD_MORE = 0
    HEAD_READY = 1
    HEAD_TOO_LARGE = 2
    HEAD_BROKEN = 3

cdef enum Framing:
    NO_CONTENT = 0
    BY_LENGTH = 1
    BY_CHUNKS = 2
    BY_CLOSE = 3        # responses only
    OPAQUE = 4          # no message any more: a tunnel


cdef class HeadTarget:
    # What httptools calls; its callbacks turn every exception into a parse error, so these raise none.
    cdef Fields fields
    cdef bytes url
    cdef bint complete          # on_headers_complete was called
    cdef bint message_complete
    cdef bint overrun           # something came after the head's end
    cdef uint32_t most          # fields there may be
    cdef bint too_many


cdef class HeadReader:
    cdef bint request
    cdef Py_ssize_t max_head
    cdef bytes scheme           # requests: what `:scheme` shall say
    cdef HeadTarget target
    cdef object parser
    cdef Output stash           # a head that came in pieces
    cdef Py_ssize_t scanned     # of the stash

    # The head that was read last.
    cdef Fields fields          # requests: pseudo fields first; responses: `:status` first
    cdef int status
    cdef int minor              # HTTP/1.x
    cdef bint keep_alive        # the peer will go on with this connection
    cdef int framing
    cdef int64_t length         # BY_LENGTH
    cdef bint upgrade           # Connection: upgrade, with an Upgrade field
    cdef bint expects_continue
    cdef str fault

    # Read on from *data, *size (both advanced). After HEAD_READY the next bytes are content or another head.
    cdef int next(self, const unsigned char** data, Py_ssize_t* size) except -1
    # `size` content bytes that complete the message: lets the parser be used again.
    cdef int pass_content(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int parse(self, const unsigned char* head, Py_ssize_t size) except -1
    cdef str fault_of(self, str said, const unsigned char* head, Py_ssize_t size)
    cdef int finish_request(self, const unsigned char* head, Py_ssize_t size) except -1
    cdef int finish_response(self, const unsigned char* head, Py_ssize_t size) except -1
    cdef int take_connection_fields(self) except -1
    cdef int broken(self, str fault) except -1


# Hide the fields that Connection fields name; `listed` has the members of their lists, in lower case.
cdef int hide_nominated(Fields fields, set listed) except -1
# Request line, Host and the other visible fields in canonical case, without the framing fields and the empty line.
cdef int write_request_head(Output out, Fields fields, bytes before) except -1
# Status line and the visible fields, likewise. Fields that belong to one connection are left out, unless `upgrade`.
cdef int write_response_head(Output out, Fields fields, int status, bint upgrade) except -1
cdef int write_field(Output out, const char* name, const char* value) except -1
cdef int write_length(Output out, int64_t length) except -1
cdef int end_head(Output out) except -1
