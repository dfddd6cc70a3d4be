# How often something took how long.

from libc.stdint cimport uint64_t

cdef enum:
    MAX_BOUNDS = 14

# Seconds of a clock that only goes forward. Fine enough to tell how long a request took.
cdef extern from *:
    """
    #ifndef UNDERPASS_SECONDS
    #define UNDERPASS_SECONDS
    #ifdef _WIN32
    #define WIN32_LEAN_AND_MEAN
    #include <windows.h>
    static double underpass_seconds(void) {
        LARGE_INTEGER frequency, count;
        QueryPerformanceFrequency(&frequency);
        QueryPerformanceCounter(&count);
        return (double)count.QuadPart / (double)frequency.QuadPart;
    }
    #else
    #include <time.h>
    static double underpass_seconds(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    #endif
    #endif
    """
    double underpass_seconds() noexcept nogil


cdef class Histogram:
    cdef readonly tuple bounds              # ascending
    cdef double limits[MAX_BOUNDS]
    cdef int size
    cdef uint64_t counts[MAX_BOUNDS + 1]    # not cumulative; the last is what exceeds all bounds
    cdef readonly double sum

    cdef void note(self, double value) noexcept
