# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What makes a head acceptable: RFC 9110 §5 (names and values), RFC 9113 §8 (HTTP/2 heads), RFC 3986 §3.2."""

from libc.string cimport memcmp, strlen

from underpass.core.fields cimport (
    HIDDEN, T_AUTHORITY, T_CONNECTION, T_CONTENT_LENGTH, T_HOST, T_KEEP_ALIVE, T_METHOD, T_PATH, T_PROTOCOL,
    T_PROXY_CONNECTION, T_SCHEME, T_STATUS, T_TE, T_TRANSFER_ENCODING, T_UPGRADE, Field, Fields,
)

cdef enum Reason:
    FINE = 0
    BAD_NAME
    BAD_VALUE
    BAD_PSEUDO
    MISSING_PSEUDO
    BAD_TARGET
    BAD_AUTHORITY
    CONNECTION_FIELD
    BAD_LENGTH
    BAD_STATUS

cdef tuple REASONS = (
    "fine", "invalid field name", "invalid field value", "misplaced, repeated or unknown pseudo field",
    "missing pseudo field", "invalid request target", "invalid authority", "connection-specific field",
    "invalid Content-Length", "invalid status",
)

cdef enum:
    IS_TOKEN = 1        # RFC 9110 §5.6.2
    IS_LOWER = 2        # token, and no upper-case letter
    IS_VALUE = 4        # RFC 9110 §5.5: visible, space, tab, obs-text
    IS_TARGET = 8       # what may stand in a request line without ending it
    IS_AUTHORITY = 16   # RFC 3986 §3.2 without user information

cdef unsigned char classes[256]


cdef void build_classes() noexcept:
    cdef int c
    cdef bint letter, upper, digit
    for c in range(256):
        upper = 65 <= c <= 90
        letter = upper or 97 <= c <= 122
        digit = 48 <= c <= 57
        classes[c] = 0
        if letter or digit or c in b"!#$%&'*+-.^_`|~":
            classes[c] |= IS_TOKEN
            if not upper:
                classes[c] |= IS_LOWER
        if c == 9 or (c >= 32 and c != 127):
            classes[c] |= IS_VALUE
        if c > 32 and c != 127:
            classes[c] |= IS_TARGET
        if letter or digit or c in b"-._~!$&'()*+,;=:[]%":
            classes[c] |= IS_AUTHORITY


build_classes()


cdef inline bint all_in(const unsigned char* text, size_t size, unsigned char wanted) noexcept:
    cdef size_t i
    for i in range(size):
        if not classes[text[i]] & wanted:
            return False
    return True


cdef bint is_token(const unsigned char* text, size_t size) noexcept:
    return size > 0 and all_in(text, size, IS_TOKEN)


cdef bint is_field_value(const unsigned char* text, size_t size) noexcept:
    return all_in(text, size, IS_VALUE)


cdef bint is_target(const unsigned char* text, size_t size) noexcept:
    return size > 0 and all_in(text, size, IS_TARGET)


cdef bint is_authority(const unsigned char* text, size_t size) noexcept:
    return all_in(text, size, IS_AUTHORITY)


cdef int64_t parse_length(const unsigned char* text, size_t size) noexcept:
    cdef int64_t value = 0
    cdef size_t i
    # 18 digits stay below 2^63; no honest length needs more.
    if size == 0 or size > 18:
        return NO_LENGTH - 1
    for i in range(size):
        if not 48 <= text[i] <= 57:
            return NO_LENGTH - 1
        value = value * 10 + (text[i] - 48)
    return value


cdef inline unsigned char lower(unsigned char c) noexcept:
    return c | 0x20 if 65 <= c <= 90 else c


cdef bint same_text(const unsigned char* text, size_t size, const char* lower_case) noexcept:
    cdef size_t i
    if size != strlen(lower_case):
        return False
    for i in range(size):
        if lower(text[i]) != <unsigned char>lower_case[i]:
            return False
    return True


cdef bint list_has(const unsigned char* text, size_t size, const char* lower_case) noexcept:
    cdef size_t start = 0, end, stop
    while start <= size:
        end = start
        while end < size and text[end] != 44:
            end += 1
        stop = end
        while start < stop and (text[start] == 32 or text[start] == 9):
            start += 1
        while stop > start and (text[stop - 1] == 32 or text[stop - 1] == 9):
            stop -= 1
        if same_text(text + start, stop - start, lower_case):
            return True
        start = end + 1
    return False


cdef inline bint is_blank(unsigned char c) noexcept:
    return c == 32 or c == 9


cdef inline int check_field(Fields fields, Field* field, Head* head) noexcept:
    """One regular field of an HTTP/2 section."""
    cdef const unsigned char* value = fields.value(field)
    cdef int64_t length
    if field.name_size == 0 or not all_in(fields.name(field), field.name_size, IS_LOWER):
        return BAD_NAME
    if not all_in(value, field.value_size, IS_VALUE):
        return BAD_VALUE
    # RFC 9113 §8.2.1: HTTP/1.1 trims its values, and what one hop trims another must not see.
    if field.value_size and (is_blank(value[0]) or is_blank(value[field.value_size - 1])):
        return BAD_VALUE
    if field.token in (T_CONNECTION, T_PROXY_CONNECTION, T_KEEP_ALIVE, T_TRANSFER_ENCODING, T_UPGRADE):
        return CONNECTION_FIELD
    if field.token == T_TE and not same_text(value, field.value_size, b"trailers"):
        return CONNECTION_FIELD
    if field.token == T_CONTENT_LENGTH and head is not NULL:
        length = parse_length(value, field.value_size)
        if length < 0 or (head.content_length != NO_LENGTH and head.content_length != length):
            return BAD_LENGTH
        if head.content_length == length:
            field.flags |= HIDDEN       # an identical repetition: once is enough (RFC 9110 §8.6)
        head.content_length = length
    return FINE


cdef int check_request(Fields fields, Head* head) noexcept:
    cdef uint32_t i = 0
    cdef uint32_t seen = 0
    cdef Field* field
    cdef Field* authority = NULL
    cdef Field* host = NULL
    cdef const unsigned char* value
    cdef size_t size
    cdef int reason
    cdef bint connect = False
    head.content_length = NO_LENGTH
    head.status = 0
    head.extended = False
    while i < fields.count:
        field = fields.items + i
        if field.name_size == 0 or fields.name(field)[0] != 58:
            break
        value = fields.value(field)
        size = field.value_size
        if not T_METHOD <= field.token <= T_PROTOCOL or field.token == T_STATUS:
            return BAD_PSEUDO
        # The token look-up ignores case; pseudo fields do not.
        if seen & (<uint32_t>1 << field.token) or not all_in(fields.name(field) + 1, field.name_size - 1, IS_LOWER):
            return BAD_PSEUDO
        seen |= <uint32_t>1 << field.token
        if field.token == T_METHOD:
            if not is_token(value, size):
                return BAD_VALUE
            # Methods are case-sensitive (RFC 9110 §9.1).
            connect = size == 7 and memcmp(value, b"CONNECT", 7) == 0
        elif field.token == T_PATH:
            if not is_target(value, size) or (value[0] != 47 and not (size == 1 and value[0] == 42)):
                return BAD_TARGET
        elif field.token == T_AUTHORITY:
            if not all_in(value, size, IS_AUTHORITY):
                return BAD_AUTHORITY
            authority = field
        elif not is_token(value, size):
            return BAD_VALUE
        i += 1
    while i < fields.count:
        field = fields.items + i
        reason = check_field(fields, field, head)
        if reason:
            # A pseudo field after a regular one has a name no token has, so it ends here too.
            return BAD_PSEUDO if field.name_size and fields.name(field)[0] == 58 else reason
        if field.token == T_HOST:
            if host is not NULL or not all_in(fields.value(field), field.value_size, IS_AUTHORITY):
                return BAD_AUTHORITY
            host = field
        i += 1
    if not seen & (<uint32_t>1 << T_METHOD):
        return MISSING_PSEUDO
    if seen & (<uint32_t>1 << T_PROTOCOL):
        if not connect:
            return BAD_PSEUDO       # RFC 8441 §4
        if head.content_length != NO_LENGTH:
            return BAD_LENGTH       # what follows is no content (RFC 9110 §9.3.6)
        head.extended = True
    if connect and not seen & (<uint32_t>1 << T_PROTOCOL):
        # RFC 9113 §8.5. A tunnel's edge may send a path all the same; it has no meaning.
        if authority is NULL:
            return MISSING_PSEUDO
    elif not (seen & (<uint32_t>1 << T_SCHEME) and seen & (<uint32_t>1 << T_PATH)):
        return MISSING_PSEUDO
    if host is not NULL:
        if authority is not NULL:
            # Two names for one request are how a cache or a filter is fooled: they must agree.
            if not same_authority(fields, authority, host):
                return BAD_AUTHORITY
            host.flags |= HIDDEN
    return FINE


cdef bint same_authority(Fields fields, Field* a, Field* b) noexcept:
    cdef uint32_t i
    cdef const unsigned char* x = fields.value(a)
    cdef const unsigned char* y = fields.value(b)
    if a.value_size != b.value_size:
        return False
    for i in range(a.value_size):
        if lower(x[i]) != lower(y[i]):
            return False
    return True


cdef int check_response(Fields fields, Head* head) noexcept:
    cdef uint32_t i
    cdef Field* field
    cdef const unsigned char* value
    cdef int reason
    head.content_length = NO_LENGTH
    head.status = 0
    if fields.count == 0 or fields.items[0].token != T_STATUS:
        return MISSING_PSEUDO
    value = fields.value(fields.items)
    if (fields.items[0].value_size != 3
            or not all_in(fields.name(fields.items) + 1, fields.items[0].name_size - 1, IS_LOWER)
            or not 49 <= value[0] <= 57 or not 48 <= value[1] <= 57 or not 48 <= value[2] <= 57):
        return BAD_STATUS
    head.status = (value[0] - 48) * 100 + (value[1] - 48) * 10 + (value[2] - 48)
    for i in range(1, fields.count):
        field = fields.items + i
        reason = check_field(fields, field, head)
        if reason:
            return BAD_PSEUDO if field.name_size and fields.name(field)[0] == 58 else reason
    return FINE


cdef int check_trailers(Fields fields) noexcept:
    cdef uint32_t i
    cdef int reason
    for i in range(fields.count):
        reason = check_field(fields, fields.items + i, NULL)
        if reason:
            return reason
        # RFC 9110 §6.5.1: fields that frame or route a message mean nothing once it has been framed and routed.
        if fields.items[i].token in (T_CONTENT_LENGTH, T_HOST):
            fields.items[i].flags |= HIDDEN
    return FINE


cdef str reason_text(int reason):
    return REASONS[reason]


def request_fault(Fields fields not None):
    """None if `fields` is a well-formed HTTP/2 request head, else what is wrong with it (for tests)."""
    cdef Head head
    cdef int reason = check_request(fields, &head)
    return None if reason == FINE else reason_text(reason)


def response_fault(Fields fields not None):
    """None if `fields` is a well-formed HTTP/2 response head, else what is wrong with it (for tests)."""
    cdef Head head
    cdef int reason = check_response(fields, &head)
    return None if reason == FINE else reason_text(reason)


def trailers_fault(Fields fields not None):
    """None if `fields` is a well-formed trailer section, else what is wrong with it (for tests)."""
    cdef int reason = check_trailers(fields)
    return None if reason == FINE else reason_text(reason)
