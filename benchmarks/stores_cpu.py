"""CPU time of services with all of their processes, those that have ended too."""

import os
from pathlib import Path

__all__ = ["tree_cpu_s"]

_TICKS = os.sysconf("SC_CLK_TCK")


def tree_cpu_s(pid: int) -> float:
    """User and system time so far of a process, of its children that live and of those it has waited for.

    What the kernel counts in: hundredths of a second. A child that ends between two looks moves from
    one kind to the other, so differences add up. 0 where there is no such process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = sum(int(field) for field in fields[11:15]) / _TICKS
    return own + sum(map(tree_cpu_s, children))
