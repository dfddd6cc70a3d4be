# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The C library's allocator, told what a relay does with memory.

A bulk transfer takes and frees a few hundred KiB every turn of the loop. Left alone, glibc gives such memory back to
the kernel at once and gets it anew, page by page and zeroed: an eighth of what an upload costs. Other allocators are
left alone.
"""

cdef extern from *:
    """
    #include <stddef.h>
    #if defined(__linux__)
    #include <features.h>
    #endif
    #if defined(__GLIBC__)
    #include <malloc.h>
    static int keep_what_is_freed(size_t largest, size_t most) {
        return mallopt(M_MMAP_THRESHOLD, (int) largest) && mallopt(M_TRIM_THRESHOLD, (int) most);
    }
    static int give_back_what_is_free(void) { return malloc_trim(0); }
    #else
    static int keep_what_is_freed(size_t largest, size_t most) { (void) largest; (void) most; return 0; }
    static int give_back_what_is_free(void) { return 0; }
    #endif
    """
    int keep_what_is_freed(size_t largest, size_t most) nogil
    int give_back_what_is_free() nogil

# Larger blocks are mapped and unmapped one by one, as they were: one turn of one connection needs less.
cdef size_t LARGEST_KEPT = 4 * 1024 * 1024
# Free bytes at the top of the heap that are kept; `give_back` undoes it when the transfers are over.
cdef size_t MOST_KEPT = 64 * 1024 * 1024


def keep_freed():
    """From now on keep freed memory for the next turn. False if this platform's allocator is not told such things."""
    return bool(keep_what_is_freed(LARGEST_KEPT, MOST_KEPT))


def give_back():
    """Give the kernel what is free. True if there was something to give; takes a millisecond or so for 64 MiB."""
    return bool(give_back_what_is_free())
