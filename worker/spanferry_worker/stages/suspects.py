"""suspects: whether a span is to blame for what looks like a server's illness, or the server is ill.

A database may hang up on a statement that it finds too large, and MLflow's server says then what it says
while its database is away. So nobody is blamed before the server has taken something else, by the same way
and right after, again and again over some minutes.
"""

import math
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["Suspects"]

_ENTRIES_MAX: Final = 10_000


class Suspects:
    """What failed, by trace id. `now_s` is one clock that never goes back; sizes are in characters."""

    HALVE_TRIES = 3
    """A load fails so often before it is sent in halves."""
    STRIKES = 5
    """A span fails so often by itself, each time while the server is proven well, ..."""
    OVER_S = 180.0
    """... and for so long, before it is to blame."""
    KNOWN_STRIKES = 2
    """... or so often only, where it is as large as one that was to blame ..."""
    KNOWN_S = 3600.0
    """... so long ago at most, ..."""
    KNOWN_LEAST = 500_000
    """... and large: what else was wrong with a small one says nothing about others."""

    def __init__(self) -> None:
        self._failed: dict[str, int] = {}
        self._struck: dict[str, tuple[int, float]] = {}
        """How often, and when first."""
        self._known = (math.inf, -math.inf)
        """The smallest span that was to blame, and when the last one was."""

    def failed(self, trace_ids: Iterable[str], size: int, now_s: float) -> bool:
        """A load of several spans failed while the server was well. Whether to send it in halves.

        `size`: of its largest span.
        """
        tries = [self._count(trace_id) for trace_id in trace_ids]
        return self._is_known(size, now_s) or min(tries) >= self.HALVE_TRIES

    def struck(self, trace_id: str, size: int, now_s: float) -> bool:
        """A span failed by itself, and the server took another one right after. Whether it is to blame.

        Who is, stays so until something of the trace is taken.
        """
        strikes, since_s = self._struck.pop(trace_id, (0, now_s))
        strikes += 1
        self._struck[trace_id] = (
            strikes,
            since_s,
        )  # kept after the verdict: it may be asked for again
        _trim(self._struck)
        known = self._is_known(size, now_s) and strikes >= self.KNOWN_STRIKES
        if known or (strikes >= self.STRIKES and now_s - since_s >= self.OVER_S):
            if size >= self.KNOWN_LEAST:
                smallest = min(size, self._known[0]) if self._is_fresh(now_s) else size
                self._known = (smallest, now_s)
            return True
        return False

    def taken(self, trace_ids: Iterable[str]) -> None:
        """All that came of them was stored."""
        for trace_id in trace_ids:
            self._failed.pop(trace_id, None)
            self._struck.pop(trace_id, None)

    def absolve(self) -> None:
        """The server is ill: nothing that has failed says anything about a span."""
        self._failed.clear()
        self._struck.clear()

    def _count(self, trace_id: str) -> int:
        tries = self._failed[trace_id] = self._failed.pop(trace_id, 0) + 1
        _trim(self._failed)
        return tries

    def _is_known(self, size: int, now_s: float) -> bool:
        return self._is_fresh(now_s) and size >= self._known[0]

    def _is_fresh(self, now_s: float) -> bool:
        return now_s - self._known[1] <= self.KNOWN_S


def _trim(entries: dict[str, Any]) -> None:
    """Forget the oldest."""
    while len(entries) > _ENTRIES_MAX:
        entries.pop(next(iter(entries)), None)
