# A list of header or trailer fields in one flat arena: what every codec reads into and writes from.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

# Well-known field names (any case). T_OTHER is every other name.
cpdef enum Token:
    T_OTHER = 0
    T_METHOD, T_SCHEME, T_AUTHORITY, T_PATH, T_STATUS, T_PROTOCOL
    T_HOST, T_CONNECTION, T_PROXY_CONNECTION, T_KEEP_ALIVE, T_TRANSFER_ENCODING, T_UPGRADE, T_TE, T_TRAILER
    T_HTTP2_SETTINGS, T_EXPECT, T_CONTENT_LENGTH, T_COOKIE, T_CONTENT_TYPE, T_CONTENT_ENCODING, T_DATE
    T_USER_AGENT, T_ACCEPT, T_ACCEPT_ENCODING, T_ACCEPT_LANGUAGE, T_AUTHORIZATION, T_PROXY_AUTHORIZATION
    T_SET_COOKIE, T_LOCATION, T_ETAG, T_LAST_MODIFIED, T_IF_MODIFIED_SINCE, T_IF_NONE_MATCH, T_RANGE
    T_CACHE_CONTROL, T_SERVER, T_VARY, T_REFERER, T_ORIGIN
    T_SEC_WEBSOCKET_KEY, T_SEC_WEBSOCKET_ACCEPT, T_SEC_WEBSOCKET_VERSION, T_SEC_WEBSOCKET_PROTOCOL
    T_SEC_WEBSOCKET_EXTENSIONS
    T_LINK_UPGRADE, T_LINK_PROXY_SOURCE, T_LINK_RESPONSE_HEADERS, T_LINK_RESPONSE_META
    T_CF_TRACE_ID, T_CF_RAY, T_CF_CONNECTING_IP, T_CF_WARP_TAG_ID, T_CF_ACCESS_JUMP_DESTINATION
    T_CF_ACCESS_JWT_ASSERTION, T_CF_VISITOR, T_CDN_LOOP
    T_X_FORWARDED_FOR, T_X_FORWARDED_PROTO, T_X_FORWARDED_HOST, T_FORWARDED
    T_UNDERPASS_CAUSE, T_UNDERPASS_HOP
    TOKEN_COUNT

cdef enum FieldFlag:
    NEVER_INDEXED = 1       # RFC 7541 §6.2.3: keep out of every compression table on the way
    HIDDEN = 2              # removed, but its place in the arena stays

cdef struct Field:
    uint32_t at             # offset of the name in the arena; the value follows it directly
    uint32_t name_size
    uint32_t value_size
    uint16_t token
    uint8_t flags


cdef int token_of(const unsigned char* name, size_t size) noexcept


cdef class Fields:
    cdef unsigned char* arena       # owned
    cdef uint32_t used              # arena bytes in use
    cdef uint32_t room              # arena bytes allocated
    cdef Field* items               # owned
    cdef uint32_t count             # hidden ones included
    cdef uint32_t capacity

    # Room for `size` bytes at the end of the arena; valid until the next call on this object. Raises
    # MemoryError past ARENA_LIMIT.
    cdef unsigned char* reserve(self, size_t size) except NULL
    # Make the `name_size + value_size` bytes just written at the reserved place a field. They must have been
    # reserved, the name first.
    cdef int push(self, uint32_t name_size, uint32_t value_size, uint8_t flags) except -1
    # The same where the name's token is known.
    cdef int push_known(self, uint32_t name_size, uint32_t value_size, uint8_t flags, uint16_t token) except -1
    # A field of another list, flags and all.
    cdef int copy(self, Fields other, Field* field) except -1
    cdef int add(self, const unsigned char* name, size_t name_size,
                 const unsigned char* value, size_t value_size, uint8_t flags) except -1
    cdef int add_pair(self, bytes name, bytes value) except -1
    # The first visible field with this token, or NULL; valid until the next add.
    cdef Field* find(self, int token) noexcept
    cdef inline const unsigned char* name(self, Field* field) noexcept:
        return self.arena + field.at
    cdef inline const unsigned char* value(self, Field* field) noexcept:
        return self.arena + field.at + field.name_size
    cdef bytes value_bytes(self, int token)
    cdef void hide(self, int token) noexcept
    cdef void reset(self) noexcept
    cdef bytes _name(self, uint32_t i)
    cdef bytes _value(self, uint32_t i)
