"""What a run of `benchmarks.rolling` has measured, and how it is read from what Kafka said."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.machine import Conditions

__all__ = [
    "RESULTS",
    "SPANS",
    "WORKERS",
    "Figures",
    "Look",
    "Report",
    "Restart",
    "Stored",
    "longest_stand_s",
    "recovery_s",
]

RESULTS = Path(__file__).parent / "results" / "rolling.json"
WORKERS = 3
SPANS = 5
"""A trace."""
SETTLED_LOOKS = 4
"""Lag has recovered when so many looks in a row say so: between two commits it is less for a moment."""


class Restart(msgspec.Struct, kw_only=True):
    """One worker's, in seconds."""

    stop_s: float
    """From SIGTERM to the end of its process: what is decided is written and committed."""
    boot_s: float
    """Until the next one serves its pages: Python and its own imports."""
    store_s: float
    """From then until the store is open: MLflow's imports, the database and a look at its tables."""
    join_s: float
    """From then until it is ready: its other topics are open, its partitions dealt out."""
    lag_peak: int
    """Until lag was what it was."""
    recovery_s: float | None
    """From its readiness until lag was no more than before the first restart; None: not within a minute."""


class Stored(msgspec.Struct, kw_only=True):
    """Rows in the database, counted three seconds after the last was there."""

    traces: int
    spans: int
    assessments: int
    uneven: int
    """Traces that have another number of spans than were sent."""


class Figures(msgspec.Struct, kw_only=True):
    """One run: seconds, and records that were sent and not committed."""

    membership: str
    rate: float
    lag_before: int
    """The most in twenty seconds before the first restart."""
    stand_before_s: float
    """The longest that a partition stood then."""
    stand_s: float
    """The longest that a partition stood from the first restart until all was as before."""
    restarts: list[Restart]
    traces: int
    """Sent."""
    judged: int
    """Assessments sent."""
    stored: Stored

    @property
    def lost(self) -> int:
        """Traces, spans and assessments that were sent and are not stored."""
        wanted = (self.traces, self.traces * SPANS, self.judged)
        return sum(max(0, sent - rows) for sent, rows in zip(wanted, self._rows, strict=True))

    @property
    def doubled(self) -> int:
        """Those that are stored and were not sent, or twice."""
        wanted = (self.traces, self.traces * SPANS, self.judged)
        more = sum(max(0, rows - sent) for sent, rows in zip(wanted, self._rows, strict=True))
        return more + self.stored.uneven

    @property
    def _rows(self) -> tuple[int, int, int]:
        return self.stored.traces, self.stored.spans, self.stored.assessments


class Report(msgspec.Struct):
    """What the results' file holds."""

    conditions: Conditions
    figures: list[Figures]


class Look(NamedTuple):
    """What Kafka said, at a time."""

    at: float
    ends: Sequence[int]
    """Of each partition."""
    committed: Sequence[int]

    @property
    def lag(self) -> int:
        """Records that are not committed."""
        return sum(self.ends) - sum(self.committed)


def recovery_s(looks: Sequence[Look], ready: float, lag_max: int) -> float | None:
    """From `ready` until lag was at most `lag_max`, and was so for some looks on; None where it never was."""
    since = [look for look in looks if look.at >= ready]
    for number, look in enumerate(since):
        few = since[number : number + SETTLED_LOOKS]
        if len(few) == SETTLED_LOOKS and all(each.lag <= lag_max for each in few):
            return look.at - ready
    return None


def longest_stand_s(looks: Sequence[Look], begin: float, end: float) -> float:
    """The longest between these times that the committed offset of any one partition did not move."""
    longest = 0.0
    seen = [look for look in looks if begin <= look.at <= end]
    for partition in range(len(seen[0].committed) if seen else 0):
        since, last = seen[0].at, seen[0].committed[partition]
        for look in seen:
            longest = max(longest, look.at - since)
            if look.committed[partition] != last:
                since, last = look.at, look.committed[partition]
    return longest
