"""The C library's allocator, told to give back what is free: a worker's memory is bounded, and seen to be.

By itself glibc keeps a heap for each thread, and raises the size from which on memory goes straight back
to the system each time that a larger block is freed: after some giants megabytes lie free among what is in
use.
"""

import ctypes
from typing import Final

__all__ = ["keep_little"]

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_BLOCK_BYTES: Final = 128 * 1024
"""Larger blocks go straight back when they are freed: glibc's own first value, and now its last."""
_HEAPS: Final = 2
"""The interpreter's lock lets one thread allocate at a time."""


def keep_little() -> bool:
    """For this process, before it has threads; False where the C library is another one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES) and mallopt(_M_ARENA_MAX, _HEAPS))
