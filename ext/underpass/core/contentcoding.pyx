# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Content coding of responses (RFC 9110 §8.4.1): gzip, where the operator asks for it.

The coder is zlib's, by Python's module: a call a chunk, which deflating it costs thirty times over. So nothing is
linked that Python has not brought along.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from underpass.core.fields cimport (
    HIDDEN,
    T_CONTENT_ENCODING,
    T_CONTENT_LENGTH,
    T_CONTENT_TYPE,
    T_ETAG,
    Field,
    Fields,
)

# nginx's 1 codes text twice as fast and a tenth worse.
LEVEL = 4

# zlib's Z_SYNC_FLUSH.
SYNC_FLUSH = 2

# zlib: a window of 32 KiB, and gzip's head and tail around the content.
GZIP_WINDOW = 31

# Digits of a Content-Length: what has less than 1,000 bytes fits into a packet anyway.
MIN_LENGTH_DIGITS = 4

# Bytes of Accept-Encoding that are looked at; browsers send about 25.
MAX_ACCEPT_LENGTH = 512

_TYPES = frozenset((
    b"application/javascript", b"application/json", b"application/manifest+json", b"application/wasm",
    b"application/x-javascript", b"application/xml", b"application/x-ndjson", b"image/svg+xml", b"font/ttf",
    b"font/otf", b"image/bmp", b"image/x-icon",
))


cdef class Gzip:
    """One response's content on its way through the coder."""

    def __cinit__(self):
        import zlib  # here: a connector, and most edges, code nothing

        self.coder = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WINDOW)

    cdef bytes code(self, const unsigned char* data, Py_ssize_t size):
        # Flushed: what an application has written now is for now.
        cdef bytes coded = self.coder.compress(<bytes>data[:size]) + self.coder.flush(SYNC_FLUSH)
        self.taken += size
        self.given += PyBytes_GET_SIZE(coded)
        return coded

    cdef bytes finish(self):
        cdef bytes coded = self.coder.flush()
        self.given += PyBytes_GET_SIZE(coded)
        return coded

    cdef Py_ssize_t released(self, Py_ssize_t size) noexcept:
        cdef Py_ssize_t share
        if size >= self.given:
            share = self.taken
            self.given = 0
        else:
            # Coded bytes are of the same worth; what is rounded off comes with the last of them.
            share = <Py_ssize_t>(<double>self.taken * size / self.given)
            self.given -= size
        self.taken -= share
        return share


def accepts_gzip(bytes accept_encoding not None):
    """Whether an Accept-Encoding field (RFC 9110 §12.5.3) allows gzip, by name or as one of any."""
    cdef bint any_other = False
    for item in accept_encoding[:MAX_ACCEPT_LENGTH].lower().split(b","):
        coding, _, weight = item.partition(b";")
        coding = coding.strip()
        if coding in (b"gzip", b"x-gzip"):
            return _is_wanted(weight)
        if coding == b"*":
            any_other = _is_wanted(weight)
    return any_other


def _is_wanted(bytes weight not None):
    name, _, value = weight.strip().partition(b"=")
    # RFC 9110 §12.4.2: at most three digits after the point.
    return name.strip() != b"q" or value.strip().rstrip(b"0") not in (b"", b"0.", b".")


cdef bint may_code(Fields response):
    """RFC 9110 §7.7: not what must not be transformed; nor what is coded, small, or gains nothing by it."""
    cdef bytes kind = response.value_bytes(T_CONTENT_TYPE)
    cdef Field* length = response.find(T_CONTENT_LENGTH)
    if kind is None or response.find(T_CONTENT_ENCODING) is not NULL:
        return False
    if length is not NULL and length.value_size < <uint32_t>MIN_LENGTH_DIGITS:
        return False
    kind = kind.partition(b";")[0].strip().lower()
    if not (kind.startswith(b"text/") or kind in _TYPES or kind.endswith((b"+json", b"+xml"))):
        return False
    for value in response.get_all(b"cache-control"):
        if b"no-transform" in value.lower():
            return False
    # RFC 9530: a digest of the content as it is sent, which would be another then.
    return response.get(b"content-digest") is None


cdef int describe_coded(Fields response) except -1:
    """Say what has been done to the content, and nothing that is not so any more."""
    cdef uint32_t i
    cdef Field* tag = response.find(T_ETAG)
    cdef bytes entity
    response.hide(T_CONTENT_LENGTH)
    response.add_pair(b"Content-Encoding", b"gzip")
    for i in range(response.count):
        if response._name(i).lower() == b"accept-ranges":
            response.items[i].flags |= HIDDEN
    if tag is not NULL:
        # RFC 9110 §8.8.3.3: the same to a person, not byte by byte.
        entity = response.value_bytes(T_ETAG)
        if not entity.startswith(b"W/"):
            response.hide(T_ETAG)
            response.add_pair(b"ETag", b"W/" + entity)
    return 0
