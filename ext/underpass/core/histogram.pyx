# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=True
"""A histogram of fixed buckets, filled where the counting is done and read when somebody asks."""


cdef class Histogram:
    """How many values were at most each bound. `bounds` ascend, and are no more than 14."""

    def __init__(self, bounds not None):
        cdef int i
        self.bounds = tuple(float(bound) for bound in bounds)
        if not self.bounds or len(self.bounds) > MAX_BOUNDS:
            raise ValueError(f"a histogram has one to {MAX_BOUNDS} bounds")
        if sorted(set(self.bounds)) != list(self.bounds):
            raise ValueError("the bounds of a histogram ascend")
        self.size = <int>len(self.bounds)
        for i in range(self.size):
            self.limits[i] = self.bounds[i]

    cdef void note(self, double value) noexcept:
        cdef int i = 0
        while i < self.size and value > self.limits[i]:
            i += 1
        self.counts[i] += 1
        self.sum += value

    def add(self, double value):
        """Count one value."""
        self.note(value)

    def absorb(self, Histogram other not None):
        """Add what another with the same bounds has counted."""
        cdef int i
        if other.bounds != self.bounds:
            raise ValueError("histograms with other bounds cannot be added")
        for i in range(self.size + 1):
            self.counts[i] += other.counts[i]
        self.sum += other.sum

    @property
    def count(self):
        """Values so far."""
        cdef int i
        cdef uint64_t total = 0
        for i in range(self.size + 1):
            total += self.counts[i]
        return total

    def cumulative(self):
        """[values that were at most the first bound, the second, ...; and all]"""
        cdef int i
        cdef uint64_t total = 0
        counts = []
        for i in range(self.size + 1):
            total += self.counts[i]
            counts.append(total)
        return counts
