"""A process's memory: the C library gives back what is free, Python looks for garbage where there is some.

A worker's memory is bounded, and seen to be. By itself glibc keeps a heap for each thread, and raises the
size from which on memory goes straight back to the system each time that a larger block is freed: after
some giants megabytes lie free among what is in use.
"""

import ctypes
import gc
from typing import Final

__all__ = ["collect_rarely", "keep_little"]

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_BLOCK_BYTES: Final = 128 * 1024
"""Larger blocks go straight back when they are freed: glibc's own first value, and now its last."""
_HEAPS: Final = 2
"""The interpreter's lock lets one thread allocate at a time."""

_NEW_OBJECTS: Final = 20_000
"""So many more containers than were freed, and the collector looks at them: a batch's rows are gone by
then, without it. Python's own number, 700, is a few traces."""
_GENERATION_COLLECTIONS: Final = 20


def keep_little() -> bool:
    """For this process, before it has threads; False where the C library is another one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES) and mallopt(_M_ARENA_MAX, _HEAPS))


def collect_rarely() -> None:
    """Keep what this process has loaded by now out of the garbage collector, and call that less often.

    A full collection looks at half a million objects of MLflow's for 0.15 s, in which neither the event
    loop nor a writer runs; together they took a quarter of the time in which rows are made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _GENERATION_COLLECTIONS, _GENERATION_COLLECTIONS)
