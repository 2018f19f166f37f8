"""Whether ends are over in time, by what `programs/timing.py` has said."""

import re
from collections import Counter

__all__ = ["SENDER_S", "ends_in", "in_time"]

SENDER_S = 0.5
"""What an end may take beyond `exit_timeout_s`."""
BUSY_S = 1.9
"""A busy machine may be late by that; the shortest deadline of the tests, which is 2 s, twice is not."""


def ends_in(output: str) -> Counter[int]:
    """What spanferry's part of the end has taken each process, in ms: a server's shutdown and the exit
    together."""
    found: Counter[int] = Counter()
    for pid, seconds in re.findall(r"^ended (\d+) by \w+ in ([\d.]+) s$", output, re.MULTILINE):
        found[int(pid)] += round(float(seconds) * 1000)
    return found


def in_time(output: str, timeout_s: float) -> bool:
    """Whether some process has said so, and each that has was in time."""
    ends = ends_in(output)
    return bool(ends) and max(ends.values()) < (timeout_s + SENDER_S + BUSY_S) * 1000
