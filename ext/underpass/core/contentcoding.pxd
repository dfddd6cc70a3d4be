# Content coding of responses: gzip, and when it may be used.

from underpass.core.fields cimport Fields


cdef class Gzip:
    # One response's content on its way through the coder, and whose bytes wait where.
    cdef object coder
    cdef Py_ssize_t taken           # bytes of content that the deliverer has no credit for yet
    cdef Py_ssize_t given           # coded bytes that have not gone to a transport yet

    # Coded bytes for `size` bytes of content, all of them: nothing is held back for a better ratio.
    cdef bytes code(self, const unsigned char* data, Py_ssize_t size)
    # The last coded bytes.
    cdef bytes finish(self)
    # `size` coded bytes have gone: for how many bytes of content there is credit again.
    cdef Py_ssize_t released(self, Py_ssize_t size) noexcept


# Whether a response may be coded, for who accepts that.
cdef bint may_code(Fields response)
# Make the head of one that is.
cdef int describe_coded(Fields response) except -1
