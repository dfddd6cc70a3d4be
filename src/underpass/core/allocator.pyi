# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""The C library's allocator, told what a relay does with memory. Without effect but with glibc."""

def keep_freed() -> bool:
    """From now on keep freed memory, up to 64 MiB, for the next turn of the loop.

    False if this platform's allocator is not told such things.
    """

def give_back() -> bool:
    """Give the kernel what is free. True if there was something to give."""
