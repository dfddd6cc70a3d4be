# The Huffman code of HPACK strings (RFC 7541 §5.2, Appendix B).

# Octets that `text` takes when encoded, padding included.
cdef size_t huffman_size(const unsigned char* text, size_t size) noexcept
# Write exactly huffman_size() octets and return the place after them.
cdef unsigned char* huffman_encode(
    unsigned char* to, const unsigned char* text, size_t size) noexcept

# Room to decode `size` encoded octets: no code is shorter than five bits, and one octet more may be
# written than counts.
cdef inline size_t huffman_bound(size_t size) noexcept:
    return size * 8 // 5 + 1

# Write the text that `code` stands for (room for huffman_bound() octets) and return its size; -1 if
# `code` holds EOS or ends in padding that is longer than seven bits or not all ones.
cdef Py_ssize_t huffman_decode(unsigned char* to, const unsigned char* code, size_t size) noexcept
