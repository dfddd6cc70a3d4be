# What makes a request or response head acceptable, whichever codec read it.

from libc.stdint cimport int64_t, uint32_t

from underpass.core.fields cimport Fields

cdef enum:
    NO_LENGTH = -1

cdef struct Head:
    int64_t content_length      # NO_LENGTH if there is none
    int status                  # responses
    bint extended               # CONNECT for another protocol (RFC 8441)

# 0 if `fields` is a well-formed HTTP/2 head, else a reason (see `reason_text`).
cdef int check_request(Fields fields, Head* head) noexcept
cdef int check_response(Fields fields, Head* head) noexcept
cdef int check_trailers(Fields fields) noexcept
cdef str reason_text(int reason)

cdef bint is_token(const unsigned char* text, size_t size) noexcept
cdef bint is_field_value(const unsigned char* text, size_t size) noexcept
cdef bint is_target(const unsigned char* text, size_t size) noexcept
cdef bint is_authority(const unsigned char* text, size_t size) noexcept
# The value of a Content-Length, or NO_LENGTH - 1 if it is not one.
cdef int64_t parse_length(const unsigned char* text, size_t size) noexcept
cdef bint same_text(const unsigned char* text, size_t size, const char* lower_case) noexcept
# Whether a comma-separated list has this member (any case).
cdef bint list_has(const unsigned char* text, size_t size, const char* lower_case) noexcept
