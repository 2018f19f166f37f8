"""How much memory the process may use, as its container says, and how much it uses."""

import os
import resource
import sys
from pathlib import Path
from typing import Final

__all__ = ["memory_limit_bytes", "resident_bytes"]

_CGROUP: Final = Path("/sys/fs/cgroup")
_FILES: Final = ("memory.max", "memory/memory.limit_in_bytes")
"""Of cgroup v2, and of v1."""
_UNLIMITED_BYTES: Final = 1 << 60
"""v1 says a number near 2^63 where there is no limit."""


def memory_limit_bytes(root: Path = _CGROUP) -> int:
    """Of the cgroup that a container sees as its root; 0 where none is set or can be read."""
    for name in _FILES:
        try:
            text = (root / name).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        limit = int(text) if text.isdecimal() else 0
        return limit if limit < _UNLIMITED_BYTES else 0
    return 0


def resident_bytes() -> int:
    """What this process takes of the machine's memory now, shared libraries included.

    The most that it ever took where there is no /proc, as on macOS.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * os.sysconf("SC_PAGE_SIZE")
