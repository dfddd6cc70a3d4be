# The Huffman code of HPACK strings (RFC 7541 §5.2, Appendix B).

# Octets that `text` takes when encoded, padding included.
cdef size_t huffman_size(const unsigned char* text, size_t size) noexcept
# Write exactly huffman_size() octets and return the place after them.
cdef unsigned char* huffman_encode(
    unsigned char* to, const unsigned char* text, size_t size) noexcept

# No code is shorter than five bits, so this is the most that `size` encoded octets can stand for.
cdef inline size_t huffman_bound(size_t size) noexcept:
    return size * 8 // 5

# Write the text that `code` stands for (huffman_bound() octets at most) and return its size; -1 if
# `code` holds EOS or ends in padding that is longer than seven bits or not all ones.
cdef Py_ssize_t huffman_decode(unsigned char* to, const unsigned char* code, size_t size) noexcept
