# cython: language_level=3, boundscheck=False, wraparound=False
# cython: initializedcheck=False, cdivision=True
"""The Huffman code of HPACK strings (RFC 7541 §5.2, Appendix B).

The code is canonical: shorter codes come first, and codes of one length are consecutive in the
order of their symbols. So Appendix B is kept as its column of lengths; the rest is derived from it
at import.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    SYMBOLS = 257
    EOS = 256
    LONGEST = 30            # bits in the longest code
    # Bits looked up at once: any letter, digit or usual sign fits, and most pairs of frequent ones.
    # One bit more would find a fifth more pairs, but the table of 8 KiB would be one of 16.
    PEEK = 11

cdef tuple CODE_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
)
assert len(CODE_LENGTHS) == SYMBOLS

cdef uint8_t code_length[SYMBOLS]
cdef uint32_t code_bits[SYMBOLS]            # right-aligned
# Decoding: what the next PEEK bits begin with, or no symbols where one code is longer than that.
cdef struct Step:
    uint8_t text[2]
    uint8_t symbols             # 0, 1 or 2
    uint8_t bits                # that they take together

cdef Step steps[1 << PEEK]
# Any code: symbols in code order, and for each length its first code, the code after its last
# one (both aligned to the left of 32 bits, the latter in 64 because it may be 2**32) and the rank
# of its first symbol.
cdef uint16_t ranked[SYMBOLS]
cdef uint32_t first_code[LONGEST + 1]
cdef uint64_t code_end[LONGEST + 1]
cdef uint32_t first_rank[LONGEST + 1]


cdef int build_tables() except -1:
    cdef uint32_t code = 0, rank = 0, low, high
    cdef int length, symbol
    for length in range(1, LONGEST + 1):
        code <<= 1
        first_code[length] = code << (32 - length)
        first_rank[length] = rank
        for symbol in range(SYMBOLS):
            if <int>CODE_LENGTHS[symbol] != length:
                continue
            code_length[symbol] = <uint8_t>length
            code_bits[symbol] = code
            ranked[rank] = <uint16_t>symbol
            if length <= PEEK:
                low = code << (PEEK - length)
                high = (code + 1) << (PEEK - length)
                while low < high:
                    steps[low].text[0] = <uint8_t>symbol
                    steps[low].symbols = 1
                    steps[low].bits = <uint8_t>length
                    low += 1
            code += 1
            rank += 1
        code_end[length] = <uint64_t>code << (32 - length)
    # A complete code uses up the whole space; a slip in the table above would not.
    assert code_end[LONGEST] == <uint64_t>1 << 32
    for low in range(1 << PEEK):
        # Where the bits left over by one code hold a second one whole. Entries looked up for that
        # may be pairs already; their first symbol is what it was.
        if steps[low].symbols:
            length = steps[low].bits
            high = low << length & ((1 << PEEK) - 1)
            symbol = steps[high].text[0]
            if steps[high].symbols and code_length[symbol] <= PEEK - length:
                steps[low].text[1] = <uint8_t>symbol
                steps[low].symbols = 2
                steps[low].bits = <uint8_t>(length + code_length[symbol])
    return 0


build_tables()


cdef size_t huffman_size(const unsigned char* text, size_t size) noexcept:
    cdef size_t i, bits = 0
    for i in range(size):
        bits += code_length[text[i]]
    return (bits + 7) >> 3


cdef unsigned char* huffman_encode(
        unsigned char* to, const unsigned char* text, size_t size) noexcept:
    cdef uint64_t pending = 0   # its lowest `bits` are still to be written: 31 + LONGEST at most
    cdef int bits = 0
    cdef size_t i
    for i in range(size):
        pending = pending << code_length[text[i]] | code_bits[text[i]]
        bits += code_length[text[i]]
        if bits >= 32:
            bits -= 32
            to[0] = <unsigned char>(pending >> (bits + 24))
            to[1] = <unsigned char>(pending >> (bits + 16))
            to[2] = <unsigned char>(pending >> (bits + 8))
            to[3] = <unsigned char>(pending >> bits)
            to += 4
    while bits >= 8:
        bits -= 8
        to[0] = <unsigned char>(pending >> bits)
        to += 1
    if bits:
        to[0] = <unsigned char>(pending << (8 - bits) | <uint64_t>0xFF >> bits)
        to += 1
    return to


cdef inline uint64_t load_big_endian(const unsigned char* at) noexcept:
    return (<uint64_t>at[0] << 56 | <uint64_t>at[1] << 48 | <uint64_t>at[2] << 40
            | <uint64_t>at[3] << 32 | <uint64_t>at[4] << 24 | <uint64_t>at[5] << 16
            | <uint64_t>at[6] << 8 | at[7])


cdef Py_ssize_t huffman_decode(unsigned char* to, const unsigned char* code, size_t size) noexcept:
    # `window` holds the next `bits` bits of input at its left. What is behind them is either right
    # or zero: a refill ORs the same again, and nothing reads past `bits`.
    cdef unsigned char* start = to
    cdef const unsigned char* end = code + size
    cdef uint64_t window = 0
    cdef uint32_t ahead, rank
    cdef int bits = 0, length
    cdef Step step
    while True:
        if end - code >= 8:
            window |= load_big_endian(code) >> bits
            length = (63 - bits) >> 3
            code += length
            bits += length * 8
        else:
            while bits <= 56 and code < end:
                window |= <uint64_t>code[0] << (56 - bits)
                bits += 8
                code += 1
        # Frequent symbols, while they are certainly whole.
        while bits >= PEEK:
            step = steps[window >> (64 - PEEK)]
            if step.symbols == 0:
                break
            to[0] = step.text[0]
            to[1] = step.text[1]
            to += step.symbols
            window <<= step.bits
            bits -= step.bits
        if bits < LONGEST and code < end:
            continue
        if bits == 0:
            return to - start
        # A rare symbol, or what is left at the end. Ones are put behind the input there: being a
        # prefix of EOS they complete no code by themselves.
        ahead = <uint32_t>(window >> 32)
        if bits < 32:
            ahead |= <uint32_t>0xFFFFFFFF >> bits
        if bits <= 7 and ahead == 0xFFFFFFFF:
            return to - start       # padding
        step = steps[ahead >> (32 - PEEK)]
        if step.symbols and step.bits <= bits:
            to[0] = step.text[0]
            to[1] = step.text[1]
            to += step.symbols
            length = step.bits
        elif step.symbols:
            to[0] = step.text[0]
            to += 1
            length = code_length[step.text[0]]
        else:
            length = PEEK + 1
            while ahead >= code_end[length] and length < LONGEST:
                length += 1
            rank = first_rank[length] + ((ahead - first_code[length]) >> (32 - length))
            if ranked[rank] == EOS:
                return -1
            to[0] = <unsigned char>ranked[rank]
            to += 1
        if length > bits:
            return -1               # no whole code, and no padding
        window <<= length
        bits -= length


# The Python face, for tests.

def encode(bytes text not None):
    """Huffman-encode `text`."""
    cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(text)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(text)
    encoded = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>huffman_size(data, size))
    huffman_encode(<unsigned char*>PyBytes_AS_STRING(encoded), data, size)
    return encoded


def decode(bytes code not None):
    """The text that `code` stands for. ValueError if it holds EOS or wrong padding."""
    cdef size_t size = <size_t>PyBytes_GET_SIZE(code)
    room = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>huffman_bound(size))
    cdef unsigned char* to = <unsigned char*>PyBytes_AS_STRING(room)
    cdef Py_ssize_t written = huffman_decode(
        to, <const unsigned char*>PyBytes_AS_STRING(code), size)
    if written < 0:
        raise ValueError("not a Huffman string: EOS inside it, or wrong padding at its end")
    return room[:written]
